"""The frozen loss and, on worlds, the coherence of sampled clips: what a run is worth."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from videojax.data import Carried, stack_examples
from videojax.measures import frozen, physics
from videojax.sample import generate
from videojax.sharding import put_batch
from videojax.task import Task

if TYPE_CHECKING:
  from videojax.config import Experiment


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """What is measured, and on what.

  Attributes:
    splits: name -> settings of the first data source that make it that split; the first one gets
      the frozen loss, all get coherence (on worlds).
    clips: for the frozen loss.
    coherence_clips: sampled per split; 0: none.
    reference_clips: training clips for the data's variance and the Wiener value.
    batch_size: clips at a time; need not divide the numbers above.
  """

  splits: Mapping[str, Mapping[str, Any]]
  clips: int = 256
  coherence_clips: int = 64
  reference_clips: int = 1024
  batch_size: int = 32

  def __post_init__(self):
    if not self.splits:
      raise ValueError("evaluate.splits is empty: name at least one")
    for name in ("clips", "reference_clips", "batch_size"):
      if getattr(self, name) < 1:
        raise ValueError(f"evaluate.{name}={getattr(self, name)} must be >= 1")


class Evaluator:
  """Compiled measures of one experiment; weights are their argument.

  Args:
    experiment: resolved.
    mesh: of the run.
  """

  def __init__(self, experiment: "Experiment", mesh: Mesh):
    self.experiment, self.config, self.mesh = experiment, experiment.evaluate, mesh
    self.name = next(iter(experiment.data))
    self.tasks = {
      split: experiment.task(self.name, settings) for split, settings in self.config.splits.items()
    }
    self.first = next(iter(self.tasks))
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    self.batch = -(-self.config.batch_size // ways) * ways  # up to a multiple of the devices

  def batches(self, task: Task, clips: int) -> Iterator[tuple[Carried, int]]:
    """(global batch, number of real rows): the last one is padded by repeating its last row."""
    clips = min(clips, len(task.source))
    for start in range(0, clips, self.batch):
      rows = range(start, min(start + self.batch, clips))
      padded = [*rows, *[rows[-1]] * (self.batch - len(rows))]
      yield put_batch(stack_examples(task.source, padded), self.mesh, self.batch), len(rows)

  @functools.cached_property
  def unknown(self) -> np.ndarray:
    """[T,1,1,1]: 1 on frames that are not given."""
    task = self.tasks[self.first]
    frame = np.arange(task.latent_shape[0]).reshape(-1, 1, 1, 1)
    return (frame * task.codec.strides[0] >= task.condition.known_frames).astype(np.float64)

  @functools.cached_property
  def reference(self) -> frozen.Reference:
    """Statistics of training clips."""
    task = self.experiment.task(self.name)
    latents = jax.jit(lambda carried: task.prepare(carried)[0])
    clips = self.batches(task, self.config.reference_clips)
    return frozen.fit_reference((_host(latents(c))[:n] for c, n in clips), self.unknown)

  @functools.cached_property
  def _errors(self) -> Callable[[dict, Carried], tuple[jax.Array, jax.Array]]:
    task = self.tasks[self.first]
    unknown = jnp.asarray(self.unknown, jnp.float32)[None]

    def errors(params: dict, carried: Carried) -> tuple[jax.Array, jax.Array]:
      x, cond, example = task.prepare(carried)
      denoise = lambda x_t, t: task.denoise(params, x_t, t, cond).x0
      process = task.denoiser.process
      return frozen.level_errors(denoise, process, x, example["id"], unknown), x

    return jax.jit(errors)

  def frozen_loss(self, params: dict) -> frozen.FrozenLoss:
    """The frozen loss of these weights on the first split."""
    batches = self.batches(self.tasks[self.first], self.config.clips)
    errors = [_host(self._errors(params, c)[0])[:n] for c, n in batches]
    return frozen.summarize(np.concatenate(errors), self.reference.total)

  def ignorance(self) -> dict[str, float]:
    """The frozen loss of the zero model and of the best per-pixel affine denoiser."""
    task = self.tasks[self.first]
    latents = jax.jit(lambda carried: task.prepare(carried)[0])
    zero, wiener = [], []
    for carried, n in self.batches(task, self.config.clips):
      x = _host(latents(carried))[:n]
      zero.append(frozen.zero_errors(x, self.unknown))
      wiener.append(frozen.wiener_errors(x, self.reference, self.unknown))
    value = lambda rows: frozen.summarize(np.concatenate(rows), self.reference.total).mean
    return {"zero_model": value(zero), "wiener": value(wiener)}

  def generator(self, split: str) -> Callable[[dict, Carried], tuple[jax.Array, dict]]:
    """Jitted (params, carried) -> sampled clips, decoded examples."""
    task, e = self.tasks[split], self.experiment
    return jax.jit(lambda params, carried: generate(task, e.sampler, e.guidance, params, carried))

  def coherence(self, params: dict) -> tuple[dict, dict]:
    """Means and standard errors: measure -> {split, 'floor', 'copy_last', 'extrapolate'} -> value.

    Floor and baselines are those of the first split. Empty without a simulator behind the data.
    """
    means: dict[str, dict[str, float]] = {}
    errors: dict[str, dict[str, float]] = {}
    for split, task in self.tasks.items():
      if not self.config.coherence_clips or not hasattr(task.source, "config"):
        continue
      if not hasattr(task.source.config, "extent"):
        continue
      for row, per_clip in self._coherence_of(split, params).items():
        for measure, cell in physics.coherence_table(per_clip).items():
          means.setdefault(measure, {})[row] = cell["mean"]
          errors.setdefault(measure, {})[row] = cell["stderr"]
    return means, errors

  def _coherence_of(self, split: str, params: dict) -> dict[str, dict[str, np.ndarray]]:
    """Row of the table -> measure -> value per clip."""
    task, known = self.tasks[split], self.experiment.condition.known_frames
    world = task.source.config
    measure = jax.jit(
      lambda video, state: physics.measure(
        video, state, extent=world.extent, fps=world.fps, known=known
      )
    )
    baselines = jax.jit(
      lambda video, state: {
        "floor": video,
        "copy_last": physics.copy_last(video, known),
        "extrapolate": physics.extrapolate(
          video, state, extent=world.extent, fps=world.fps, known=known
        ),
      }
    )
    make = self.generator(split)
    rows: dict[str, list[dict[str, np.ndarray]]] = {}
    for carried, n in self.batches(task, self.config.coherence_clips):
      video, example = make(params, carried)
      clips = {split: video}
      if split == self.first and known:
        clips |= baselines(example["video"], example["state"])
      for row, clip in clips.items():
        values = measure(clip, example["state"])
        rows.setdefault(row, []).append({k: _host(v)[:n] for k, v in values.items()})
    return {
      row: {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
      for row, parts in rows.items()
    }


def _host(x: jax.Array) -> np.ndarray:
  """A global array on every host."""
  if x.is_fully_addressable:
    return jax.device_get(x)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(x, tiled=True))
