"""Rate and distortion of an autoencoder that was trained here, beside classical codecs.

Continuous latents are rounded to several steps, and coded by the ideal length of an adaptive
arithmetic coder; codes are also counted without one (measures/code_length.py). All codecs see the
same clips of the main split.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from videojax.evaluate import on_host
from videojax.evaluate_codec import CodecEvaluator
from videojax.io.media import to_uint8
from videojax.measures import rate_distortion as rd
from videojax.measures.code_length import fixed_length_bits, index_bits, latent_bits, quantize
from videojax.measures.distortion import position_error
from videojax.models.quantize import FSQ, digits_of
from videojax.report import rate_distortion as report

STEPS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of latents, in deviations of their channel


def evaluate(evaluator: CodecEvaluator, params: dict, workdir: Path, step: int) -> dict[str, Any]:
  """What evaluation.json holds; also writes rate_distortion.csv, .png and .svg to the workdir."""
  measured = evaluator.record(params, params, float("nan"))
  for line in evaluator.lines(measured):
    print(line)
  by_chroma, floors = report.measure(
    evaluator.tasks[evaluator.first].source, evaluator.config.clips
  )
  own = curves(evaluator, params)
  classical = [curve for group in by_chroma.values() for curve in group]
  report.write([*own, *classical], floors, workdir)
  print(rd.to_text([*own, *classical]))
  print(report.compared([next(iter(by_chroma.values()))[0], *own]))
  return {
    "step": step,
    "reconstruction": dataclasses.asdict(measured["reconstruction"]),
    "coherence": measured["coherence"], "coherence_stderr": measured["coherence_stderr"],
    "rate_distortion": rd.rows([*own, *classical]),
  }  # fmt: skip


def curves(evaluator: CodecEvaluator, params: dict) -> list[rd.Curve]:
  """The autoencoder's curve, or of discrete codes one without and one with an entropy model."""
  task = evaluator.train_task
  network = jax.jit(lambda p, x: task.model.network(p).bottleneck(x))
  decode = jax.jit(lambda p, z: task.model.network(p).decode(z))
  truth, latents, codes, states, fps = [], [], [], [], 1.0
  for example, n in evaluator.examples(evaluator.first, evaluator.config.clips, "encoding"):
    mean, _, _, indices = network(params, example["video"])
    truth.append(to_uint8(on_host(example["video"])[:n]))
    latents.append(on_host(mean)[:n])
    codes += [] if indices is None else [on_host(indices)[:n]]
    states.append(jax.tree.map(lambda x, n=n: on_host(x)[:n], example.get("state")))
    fps = float(on_host(example["fps"])[0])
  clips, errors = np.concatenate(truth), {}
  if evaluator.world is not None:
    state = jax.tree.map(lambda *parts: np.concatenate(parts), *states)
    errors[report.POSITION] = rd.motion(position_error(evaluator.world.extent, fps), state)

  def point(setting: str, bits: np.ndarray, latent: np.ndarray) -> rd.Point:
    size = evaluator.batch
    parts = [latent[i : i + size] for i in range(0, len(latent), size)]
    decoded = np.concatenate([on_host(decode(params, jnp.asarray(part))) for part in parts])
    return rd.point(setting, bits, clips, to_uint8(decoded), errors=errors)

  latent, name = np.concatenate(latents), task.model.name
  shape, detail = clips.shape[:4], f"{name} of {task.model.config}"
  if codes:
    indices, quantizer = np.concatenate(codes), task.model.config.quantizer
    levels = quantizer.levels if isinstance(quantizer, FSQ) else (2,) * quantizer.bits
    digits = np.asarray(digits_of(jnp.asarray(indices), levels))
    fixed = np.full(len(clips), fixed_length_bits(levels, indices[0].size))
    plain = rd.Curve(f"{name} indices", detail, shape, [point("log2", fixed, latent)])
    coded = point("adaptive", index_bits(digits, levels), latent)
    return [plain, rd.Curve(f"{name} coded", detail, shape, [coded])]
  mean, deviation = _statistics(evaluator, params, network)
  points = []
  for size in STEPS:
    symbols, rounded = quantize(latent, step=size, mean=mean, deviation=deviation)
    points.append(point(f"step {size:g}", latent_bits(symbols, size), rounded))
  return [rd.Curve(name, detail, shape, points)]


def _statistics(
  evaluator: CodecEvaluator, params: dict, network: Any
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation of each latent channel over training clips: all that a decoder knows."""
  batches = evaluator.examples(None, evaluator.config.reference_clips, "statistics of latents")
  latents = [on_host(network(params, x["video"])[0])[:n] for x, n in batches]
  flat = np.concatenate([x.reshape(-1, x.shape[-1]) for x in latents])
  return flat.mean(0), flat.std(0)
