"""--mode=cascade: samples clips with a chain of runs, each conditioned on the previous one's clips.

A run with volume 'low' enlarges the previous clip (super-resolution in space, in time, or both); a
run whose mask is 'sparse' fills in the frames between the given ones (temporal interpolation). A
run that samples in windows takes any number of frames.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from videojax import controls
from videojax.config import Experiment, from_json, to_json
from videojax.errors import ConfigError
from videojax.evaluate import Evaluator
from videojax.io import files
from videojax.io.log import phase
from videojax.measures import physics
from videojax.modes.finished_run import opened
from videojax.runs import rundir
from videojax.runs.run_state import (
  open_checkpoints,
)
from videojax.sample import write_samples
from videojax.task import Task

CLIPS = 64
SHOWN = 8


def continued(
  task: Task, example: dict[str, Any], video: Float[Array, "B t h w C"]
) -> dict[str, Any]:
  """The example of a stage with the clip of the previous stage as its condition.

  Args:
    task: of the stage.
    example: decoded example of the stage's own data, with captions, scalars and all else that is
      not replaced.
    video: in [-1, 1].
  Raises:
    ConfigError: the stage does not take such a clip.
  """
  out, shape = dict(example), example["video"].shape
  what = takes(task.model.config, task.condition.masks)
  if "low" in what:
    st, sh, sw = task.controls.low
    small = (-(-shape[1] // st), shape[2] // sh, shape[3] // sw)
    _check(video.shape[1:4], small)
    held = jnp.repeat(video, st, 1)[:, : shape[1]]  # one of its frames covers st of ours
    out |= {"low": controls.enlarge(held, shape), "low_noise": jnp.zeros(shape[0])}
  if "sparse" in what:
    every = task.controls.every
    _check(video.shape[1:4], (-(-shape[1] // every), *shape[2:4]))
    out["video"] = jnp.zeros(shape).at[:, ::every].set(video)
  return out


def takes(config: Any, masks: Sequence[str]) -> tuple[str, ...]:
  """What a model takes from a clip: 'low', a clip to enlarge; 'sparse', frames to fill between.

  Raises:
    ConfigError: it takes neither.
  """
  low = any(name == "low" for name, _ in config.volumes)
  sparse = config.known is not None and masks[0] == "sparse"
  if not (low or sparse):
    raise ConfigError(
      "a run in the middle of a cascade takes volume 'low' or mask 'sparse'; this one has neither"
    )
  return ("low",) * low + ("sparse",) * sparse


def _of_frames(e: Experiment, frames: int) -> Experiment:
  """The same experiment on clips of `frames` frames."""
  longer = lambda source: dataclasses.replace(
    source, settings={**source.settings, "frames": frames}
  )
  return dataclasses.replace(e, data={name: longer(source) for name, source in e.data.items()})


def _check(have: tuple[int, ...], want: tuple[int, ...]) -> None:
  if tuple(have) != tuple(want):
    raise ConfigError(
      f"the previous stage makes clips of {have} (frames, height, width), but this one takes {want}"
    )


def cascade(experiment: Experiment, workdir: Path, before: Sequence[str]) -> None:
  """Samples clips of the main split with the runs `before`, then this; writes samples/cascade/.

  Args:
    experiment, workdir: of the last stage.
    before: run directories of the earlier stages, in order.
  """
  chain = [(from_json(rundir.read_config(Path(run))), Path(run)) for run in before]
  for number, (e, run) in enumerate([*chain, (experiment, workdir)]):  # before sampling anything
    rundir.check_same(run, rundir.read_config(run), to_json(e))
    open_checkpoints(run, "cascade")
    try:
      if number:
        takes(e.model.config, e.condition.masks)
    except ConfigError as error:
      raise ConfigError(f"{run}: {error}") from None
  made: Any = None
  size = 0
  for e, run in [*chain, (experiment, workdir)]:
    with opened(e, run) as (evaluator, params, step):
      evaluator.need_video("cascade")
      if made is not None and e.sampler.window:
        evaluator = Evaluator(_of_frames(e, made.shape[1]), evaluator.mesh)
      number = size or min(CLIPS, evaluator.batch)
      batch = next(evaluator.examples(evaluator.first, number))[0]
      size = len(batch["video"])
      given = batch if made is None else continued(evaluator.train_task, batch, made)
      try:
        with phase(f"sampling {size} clips with {run}"):
          made = jax.block_until_ready(evaluator.generate(params, given))
      except ValueError as error:
        raise ConfigError(f"{run}: {error}") from error
    print(f"{run}: {size} clips of {tuple(made.shape[1:])}")
  video, truth = np.asarray(made), jax.tree.map(np.asarray, batch)
  world, measures = evaluator.world, {}
  if world is not None and world.known:
    values = physics.measure(
      made, batch["state"], extent=world.extent, fps=world.fps, known=world.known
    )
    measures = physics.coherence_table(values)
    for name in ("position_error_px", "permanence", "color_drift"):
      print(f"  {name:28s}{measures[name]['mean']:.4g} +- {measures[name]['stderr']:.2g}")
  files.write_json(
    workdir / "cascade.json", {"runs": [*before, str(workdir)], "step": step, "measures": measures}
  )
  shown = {k: v[:SHOWN] for k, v in truth.items() if k != "state"}
  known = np.arange(video.shape[1]) < (world.known if world is not None else 0)
  directory = workdir / "samples" / "cascade"
  for path in write_samples(directory, video[:SHOWN], shown, given=known, step=step):
    print(path)
