"""--mode=generate: clips from prompts, pictures and films, with what each one cost."""

import functools
import hashlib
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from videojax import sample
from videojax.config import Experiment, to_json
from videojax.cost.tables import price_per_hour
from videojax.errors import ConfigError
from videojax.evaluate import check_finite, on_host
from videojax.host import agreement
from videojax.io import media
from videojax.io.integrity import params_sha256
from videojax.io.log import phase
from videojax.modes.clip_manifest import Manifest
from videojax.modes.other_size import at_size
from videojax.modes.prompt_examples import Examples, Given, texts_of
from videojax.modes.prompts import Row
from videojax.runs import rundir, text_encoder
from videojax.runs.resume import initial_weights
from videojax.runs.run_state import restore_weights
from videojax.sharding import local_rows, make_mesh, put_batch, whole_batch
from videojax.task import Task

SHOWN = 16  # clips in the grid: the first ones


class Clip(NamedTuple):
  """A clip to make: its row, its known frames, its settings and its file's name."""

  row: Row
  given: Given
  settings: dict[str, Any]
  file: str


def generate(
  experiment: Experiment,
  workdir: Path,
  rows: Sequence[Row],
  out: Path,
  frames: int | None = None,
  size: str | None = None,
) -> None:
  """Writes an mp4 of each row, manifest.jsonl, and a grid of the first ones.

  Clips whose file and line exist, made with the same settings and weights, are not made again.

  Args:
    experiment, workdir: of a run; or, where `workdir` holds none, an experiment with init_from.
    rows: what is asked for.
    out: directory of the files.
    frames, size: of the clips; see `at_size`.
  Raises:
    ConfigError: the model does not take what a row gives, which is checked before anything else.
  """
  media.check_writer()
  fresh = bool(experiment.init_from) and not (workdir / "config.json").exists()
  if not fresh:
    rundir.check_same(workdir, rundir.read_config(workdir), to_json(experiment))
  if any(row.negative for row in rows) and not experiment.guidance.acts:
    raise ConfigError("a negative prompt acts through guidance: add --config.guidance.scale=3")
  task = at_size(experiment.task(next(iter(experiment.data))), frames, size)
  examples = Examples(task)
  examples.check(rows)
  given = [examples.given(row) for row in rows]
  examples.embedded, encoder = _embedded(experiment, examples.task, rows)
  mesh = make_mesh(experiment.mesh)
  with jax.set_mesh(mesh):
    with phase("reading the weights"):
      start_of = functools.partial(restore_weights, experiment, workdir)
      params, step = (initial_weights(experiment, mesh), 0) if fresh else start_of(mesh)
      shared = _shared(experiment, examples) | {"weights": params_sha256(params)}
      shared |= {"text_encoder": encoder} if encoder else {}
    clips = {clip.file: clip for clip in map(functools.partial(_clip, shared), rows, given)}
    manifest = Manifest(out / "manifest.jsonl") if jax.process_index() == 0 else None
    done = lambda clip: manifest is not None and manifest.has(clip.file, clip.settings)
    todo = [clip for clip in clips.values() if not agreement.first(done(clip))]
    made = sample.clip_flops(examples.task, experiment.sampler, experiment.guidance)
    cost = {"flops": sum(made.values()), "step": step}
    for clip, video, seconds in _made(experiment, examples, params, mesh, todo):
      if manifest is not None:
        _write(manifest, clip, video, {**cost, **_price(seconds)})
  if manifest is not None:
    _show(list(clips.values()), manifest, new=[clip.file for clip in todo])


def _embedded(
  e: Experiment, task: Task, rows: Sequence[Row]
) -> tuple[Mapping[str, text_encoder.Embedded], str | None]:
  """Embeddings of all texts, and the hash of their encoder; ({}, None) if the model reads none.

  To be called before the model's weights are read: the encoder is large, and freed again. Every
  process embeds all texts.
  """
  width = task.model.config.text
  if width is None or width == "bytes":
    return {}, None
  trained, texts = getattr(task.source, "text", None), sorted(texts_of(rows))
  with phase("reading the prompts"):
    embedded, card = text_encoder.embed(e.text, texts, width, trained)
  return embedded, card["params_sha256"]


def _shared(e: Experiment, examples: Examples) -> dict[str, Any]:
  """The settings that all clips of a command have in common."""
  return {
    "size": list(examples.task.source.shape[:3]),
    "fps": examples.fps,
    "steps": e.sampler.steps,
    "sampler": to_json(e.sampler),
    "guidance": to_json(e.guidance),
  }


def _clip(shared: dict[str, Any], row: Row, given: Given) -> Clip:
  """A clip, whose file is named after the prompt, the seed and all settings together."""
  known = hashlib.sha256(given.mask.tobytes() + given.frames.tobytes()).hexdigest()
  settings = {
    "prompt": row.prompt,
    "negative": row.negative,
    "seed": row.seed,
    "known_sha256": known if given.mask.any() else None,
    **shared,
  }
  digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
  words = re.sub(r"[^a-z0-9]+", "-", row.prompt.lower()).strip("-")[:40].strip("-")
  return Clip(row, given, settings, f"{words or 'clip'}_seed{row.seed}_{digest[:8]}.mp4")


def _price(seconds: float) -> dict[str, Any]:
  """What these seconds of all devices cost; null where the chip has no price."""
  kind, devices = jax.devices()[0].device_kind, jax.device_count()
  price = price_per_hour(kind, devices)
  dollars = None if price is None else price * seconds / 3600
  return {"seconds": seconds, "dollars": dollars, "device": kind, "devices": devices}


def _made(
  e: Experiment, examples: Examples, params: dict, mesh: Mesh, clips: Sequence[Clip]
) -> Iterator[tuple[Clip, Float[np.ndarray, "T H W C"], float]]:
  """Yields (clip, its video in [-1,1], its share of its batch's seconds), in order.

  A batch is sharded over all devices; the last one is padded by repeating its last clip.
  """
  if not clips:
    return
  rows = whole_batch(min(e.evaluate.batch_size, len(clips)), mesh)
  mine, negative = local_rows(rows, mesh), any(clip.row.negative for clip in clips)

  def batch(part: Sequence[Clip]) -> dict[str, Any]:
    padded = [part[min(i, len(part) - 1)] for i in mine]
    example = examples.of([c.row for c in padded], [c.given for c in padded], negative)
    return put_batch(example, mesh, rows)

  make = jax.jit(functools.partial(sample.generate, examples.task, e.sampler, e.guidance))
  compiled = _compiled(make, params, batch(clips[:rows]))
  with phase("generating, clips", len(clips)) as advance:
    for start in range(0, len(clips), rows):
      part = clips[start : start + rows]
      example, begun = batch(part), time.perf_counter()
      video = jax.block_until_ready(compiled(params, example))
      seconds = (time.perf_counter() - begun) / len(part)
      check_finite(video)
      yield from zip(part, on_host(video), itertools.repeat(seconds))
      advance(len(part))


def _compiled(make: Any, params: dict, example: dict[str, Any]) -> jax.stages.Compiled:
  """The compiled sampling of one batch.

  Raises:
    ConfigError: the sampler or guidance does not fit the clips.
  """
  try:
    with phase("compiling"):
      return make.lower(params, example).compile()
  except (TypeError, ValueError) as error:  # shapes that do not fit raise either
    raise ConfigError(f"sampling: {error}") from error


def _write(manifest: Manifest, clip: Clip, video: np.ndarray, cost: dict[str, Any]) -> None:
  """Writes a clip's file, then its line."""
  pixels = media.to_uint8(video[..., :3])  # of latents without a decoder, the first three channels
  media.write_mp4(manifest.path.parent / clip.file, pixels, fps=clip.settings["fps"])
  named = {name: getattr(clip.row, name) for name in ("image", "video", "last")}
  paths = {name: None if path is None else str(path) for name, path in named.items()}
  manifest.add({"file": clip.file, **clip.settings, **paths, **cost})


def _show(clips: Sequence[Clip], manifest: Manifest, new: Sequence[str]) -> None:
  """Writes the grid, read from the files, and prints what was made and what it cost."""
  shown, out = clips[:SHOWN], manifest.path.parent
  video = np.stack([media.read_mp4(out / clip.file) for clip in shown])
  grid = out / "grid.webp"
  media.write_grid(
    grid, video, None, [_caption(clip.row) for clip in shown],
    fps=clips[0].settings["fps"], given=np.stack([clip.given.mask for clip in shown]),
  )  # fmt: skip
  lines = [manifest.lines[name] for name in new]
  there = f", {len(clips) - len(new)} were there already" if len(new) < len(clips) else ""
  print(f"{len(new)} clips{there}" + (f": {_cost_text(lines)}" if lines else ""))
  print(f"{manifest.path}\n{grid}")


def _caption(row: Row) -> str:
  """What the grid says about a clip."""
  avoided = f"not: {row.negative}" if row.negative else ""
  return " / ".join(filter(None, (row.prompt, avoided, f"seed {row.seed}")))


def _cost_text(lines: Sequence[dict[str, Any]]) -> str:
  """'0.21 s and 0.4 TFLOP each, $0.0002 in all'."""
  seconds = sum(line["seconds"] for line in lines) / len(lines)
  text = f"{seconds:.3g} s and {lines[0]['flops'] / 1e12:.3g} TFLOP each"
  dollars = [line["dollars"] for line in lines]
  return text if None in dollars else f"{text}, ${sum(dollars):.2g} in all"
