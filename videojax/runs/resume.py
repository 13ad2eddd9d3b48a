"""What a run starts from: its own checkpoint, a trunk, other weights, or fresh parameters."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from videojax import optim
from videojax.config import Experiment, from_json
from videojax.errors import ConfigError
from videojax.io.checkpoint import Checkpointer
from videojax.io.records import Seconds
from videojax.optim import merge
from videojax.runs import rundir, weights
from videojax.runs.program import (
  Program,
)
from videojax.runs.run_state import damage_notes, evaluated, open_checkpoints, restore_weights
from videojax.sharding import by_path, path_name
from videojax.specs import CODEC
from videojax.state import TrainState
from videojax.task import without_codec


def restore_or_create(
  e: Experiment, program: Program, checkpoints: Checkpointer, trunk: tuple[Path, int] | None
) -> tuple[TrainState, dict[str, float], list[str]]:
  """Returns (the state to start from, seconds spent so far, notes for the console).

  Args:
    trunk: (run directory, step) of a shorter run that is identical up to that step.
  """
  seconds = dataclasses.asdict(Seconds())
  restored = checkpoints.restore(program.abstract)
  if restored is not None:
    notes = [*damage_notes(restored), f"resuming after step {restored.step}"]
    return restored.state, restored.metadata["seconds"], notes
  if e.branch_from:
    run, _, step = e.branch_from.rpartition("@")
    if not run or not step.isdigit():
      raise ConfigError(f"branch_from={e.branch_from!r} must be RUN@STEP, e.g. runs/trunk@1000")
    with Checkpointer(open_checkpoints(run, "branch_from"), keep_last=1) as branches:
      branch = branches.restore(program.abstract, int(step))
    if branch is None:
      raise ConfigError(f"branch_from={e.branch_from!r}: {run} has no checkpoints")
    return branch.state, seconds, [f"branched from {run} at step {step}"]
  if trunk is not None:
    with Checkpointer(trunk[0] / "checkpoints", keep_last=1) as shared:
      restored = shared.restore(program.abstract, trunk[1])
    assert restored is not None
    notes = [f"continuing from {trunk[0]} at step {trunk[1]}"]
    return restored.state, restored.metadata["seconds"], notes
  state = program.create(e.seed)
  if e.init_from:
    state = dataclasses.replace(state, **load_weights(e, state, program))
    return state, seconds, [f"initialised with the weights of {e.init_from}"]
  return state, seconds, []


def load_weights(e: Experiment, state: TrainState, program: Program) -> dict[str, dict]:
  """Trainable and frozen parameters, and EMAs, with weights of another run or published ones.

  Args:
    state: a fresh state; the parameters that `init_fresh` matches are taken from it.
  """
  assert e.init_from is not None
  path, own = Path(e.init_from), without_codec(state.params)
  fresh = by_path(own)
  abstract = without_codec(merge(program.abstract.trainable, program.abstract.frozen))
  abstract = by_path(abstract)
  if (path / "config.json").exists() and (path / "checkpoints").is_dir():
    other = from_json(rundir.read_config(path))
    have = by_path(without_codec(restore_weights(other, path, program.mesh)[0]))
    keep = lambda p: not (e.init_fresh and re.match(e.init_fresh, p))
    have, want = ({p: x for p, x in d.items() if keep(p)} for d in (have, abstract))
    shapes = lambda d: {p: x.shape for p, x in d.items()}
    _check_same(shapes(have), shapes(want), e.init_from)
    have = {p: jax.device_put(x, abstract[p].sharding) for p, x in have.items()}
  else:
    module, config = e.model.module, e.model.config
    have = weights.load(path, module, config, e.model.info, abstract, e.init_fresh)
  params = jax.tree_util.tree_map_with_path(
    lambda p, x: have.get(path_name(p), fresh[path_name(p)]), own
  )
  trainable, frozen = optim.split_frozen(params, e.optim.freeze)
  frozen |= {name: value for name, value in state.frozen.items() if name == CODEC}
  ema = {name: jax.tree.map(jnp.copy, trainable) for name in state.ema}
  return {"trainable": trainable, "frozen": frozen, "ema": ema}


def _check_same(
  have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]], run: str
) -> None:
  """Raises ConfigError if the shapes of parameters by path differ."""
  differing = sorted(p for p in want.keys() | have.keys() if want.get(p) != have.get(p))
  if differing:
    raise ConfigError(
      f"init_from={run!r} has a different model; its parameters differ in "
      + ", ".join(f"{p} ({have.get(p)} there, {want.get(p)} here)" for p in differing[:8])
      + "; name the layers that this model adds with init_fresh"
    )


def initial_weights(e: Experiment, mesh: Mesh) -> dict:
  """The weights that a run of this experiment, which has init_from, starts with."""
  program = Program(e, mesh)
  state = program.create(e.seed)
  return evaluated(e, dataclasses.replace(state, **load_weights(e, state, program)))
