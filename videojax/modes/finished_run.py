"""Measures, samples or exports the newest sound checkpoint of a run."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax

from videojax.config import Experiment, to_json
from videojax.evaluate import Evaluator
from videojax.evaluate_codec import CodecEvaluator
from videojax.io import files
from videojax.io.log import phase
from videojax.modes import codec_rates
from videojax.runs import rundir, weights
from videojax.runs.run_state import (
  restore_weights,
)
from videojax.sample import write_samples
from videojax.sharding import by_path, make_mesh
from videojax.task import check_cached, without_codec


@contextlib.contextmanager
def opened(experiment: Experiment, workdir: Path) -> Iterator[tuple[Evaluator, dict, int]]:
  """Yields (evaluator, EMA weights, their step) of a run, with its mesh set.

  Raises:
    ConfigError: `workdir` holds no run, or one of a different experiment.
  """
  rundir.check_same(workdir, rundir.read_config(workdir), to_json(experiment))
  mesh = make_mesh(experiment.mesh)
  with jax.set_mesh(mesh):
    with phase("reading the weights"):
      params, step = restore_weights(experiment, workdir, mesh)
    kind = CodecEvaluator if experiment.learns_codec else Evaluator
    evaluator = kind(experiment, mesh)
    check_cached([evaluator.train_task, *evaluator.tasks.values()], params)
    yield evaluator, params, step


def evaluate(experiment: Experiment, workdir: Path) -> None:
  """Writes evaluation.json: frozen loss, coherence and, if configured, FVD of the EMA weights.

  Of an autoencoder: what its reconstructions lose, and its rate and distortion.
  """
  with opened(experiment, workdir) as (evaluator, params, step):
    if isinstance(evaluator, CodecEvaluator):
      files.write_json(
        workdir / "evaluation.json", codec_rates.evaluate(evaluator, params, workdir, step)
      )
      print(f"{workdir}/evaluation.json, {workdir}/rate_distortion.png")
      return
    loss = evaluator.frozen_loss(params)
    coherence = evaluator.coherence(params)
    distance = evaluator.fvd(params)
    written = {
      "step": step,
      "frozen_loss": loss._asdict() | evaluator.ignorance(params),
      "coherence": coherence.mean,
      "coherence_stderr": coherence.stderr,
      "fvd": None if distance is None else dataclasses.asdict(distance),
      "evaluate": to_json(experiment.evaluate),
    }
  if jax.process_index() > 0:
    return
  files.write_json(workdir / "evaluation.json", written)
  print(f"step {step}: frozen loss {loss.mean:.4f} +- {loss.stderr:.4f}")
  for name, row in coherence.mean.items():
    print(f"  {name:28s}" + "  ".join(f"{k} {v:.4g}" for k, v in row.items()))
  for text in (*([] if distance is None else [distance]), *evaluator.left_out):
    print(text)
  print(f"{workdir}/evaluation.json")


def sample(experiment: Experiment, workdir: Path) -> None:
  """Writes sampled clips of every evaluation split to samples/SPLIT/."""
  with opened(experiment, workdir) as (evaluator, params, step):
    for split in evaluator.tasks:
      video, example = evaluator.samples(split, params, 8)
      given = evaluator.train_task.given
      directory = workdir / "samples" / split
      if jax.process_index() > 0:
        continue
      for path in write_samples(
        directory, video, example, given=given, step=step, made=evaluator.made
      ):
        print(path)


def export(experiment: Experiment, workdir: Path) -> None:
  """Writes the EMA weights in their model's published layout to published/.

  Raises:
    ConfigError: the model has none, which is checked first; see `opened`.
  """
  weights.published_names(experiment.model.module, experiment.model.config)
  with opened(experiment, workdir) as (_, params, step):
    model = experiment.model
    with phase("exporting"):
      written = weights.save(
        workdir / "published", model.module, model.config, model.info,
        by_path(without_codec(params)),
      )  # fmt: skip
  for path in written:
    print(f"step {step}: {path}")
