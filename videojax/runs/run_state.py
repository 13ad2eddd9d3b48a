"""The state of an experiment: made fresh, placed on a mesh, or read from a run's checkpoint."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from videojax import optim
from videojax.config import Experiment
from videojax.errors import ConfigError
from videojax.io.checkpoint import Checkpointer, Restored
from videojax.scaling import mup
from videojax.sharding import by_path, like_params, param_shardings, path_name
from videojax.specs import CodecSpec, ModelSpec
from videojax.state import TrainState, init_state


def mup_rules(e: Experiment) -> Mapping[str, mup.Rule] | None:
  """muP's rule of every parameter by path; None without muP."""
  return None if e.mup_base_width is None else _mup_rules(e.model, e.mup_base_width)


@functools.lru_cache
def _mup_rules(model: ModelSpec, base_width: int) -> Mapping[str, mup.Rule]:
  shapes = lambda m: {path: x.shape for path, x in by_path(m.abstract_params).items()}
  return mup.rules(model.info, shapes(model), shapes(model.wider), model.config.width / base_width)


def make_update(e: Experiment) -> tuple[optax.GradientTransformation, dict[str, float]]:
  """The optimizer, and the exponents of the EMAs by name."""
  try:
    optim.split_frozen(e.model.abstract_params, e.optim.freeze)
    gammas = {ema_name(width): optim.ema_gamma(width) for width in e.ema}
    rules = mup_rules(e)
    rates = None if rules is None else {path: rule.rate for path, rule in rules.items()}
    tx = optim.make_optimizer(e.optim, e.model.info, rates)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  if len(gammas) < len(e.ema):
    raise ConfigError(f"ema={e.ema} has two widths that are equal to three digits")
  return tx, gammas


def ema_name(sigma_rel: float) -> str:
  return f"{sigma_rel:.3f}"


def create_state(
  e: Experiment, tx: optax.GradientTransformation, key: jax.Array | None = None
) -> TrainState:
  """A fresh state; jittable.

  Args:
    key: for the parameters; None: the key of the experiment's seed.
  """
  params = e.model.init(jax.random.key(e.seed) if key is None else key)
  rules = mup_rules(e)
  if rules is not None:
    scale = lambda path, x: rules[path_name(path)].init * x
    params = jax.tree_util.tree_map_with_path(scale, params)
  trainable, frozen = optim.split_frozen(params, e.optim.freeze)
  frozen |= e.codec.init()
  return init_state(trainable, frozen, tx, tuple(ema_name(width) for width in e.ema))


def state_shardings(e: Experiment, abstract: TrainState, mesh: Mesh | AbstractMesh) -> TrainState:
  """Shardings of the state: parameters by their logical axes, copies of them identically."""
  axes = {path: info.axes for path, info in (e.model.info | e.codec.info).items()}
  params = param_shardings(abstract.trainable, axes, mesh)
  like = lambda tree: like_params(tree, abstract.trainable, params, mesh)
  return TrainState(
    step=NamedSharding(mesh, PartitionSpec()),
    trainable=params,
    frozen=param_shardings(abstract.frozen, axes, mesh),
    opt_state=like(abstract.opt_state),
    ema={name: like(tree) for name, tree in abstract.ema.items()},
  )


def with_shardings(abstract: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), abstract, shardings
  )


def placed(spec: ModelSpec | CodecSpec, mesh: Mesh) -> dict:
  """Shapes of a network's parameters, with their shardings on a mesh."""
  axes, abstract = {path: info.axes for path, info in spec.info.items()}, spec.abstract_params
  return with_shardings(abstract, param_shardings(abstract, axes, mesh))


def evaluated(e: Experiment, state: TrainState) -> dict:
  """The weights that are measured: the first EMA, or the raw weights if none is kept."""
  return state.ema_params(ema_name(e.ema[0])) if e.ema else state.params


def damage_notes(restored: Restored) -> Iterator[str]:
  """Notes about damaged newer checkpoints, and about missing or damaged files of this one."""
  for text in restored.skipped:
    yield f"damaged, not used: {text}"
  if restored.lacks:
    yield f"checkpoint {restored.step} is sound, but lacks {', '.join(restored.lacks)}"


def open_checkpoints(run: str | Path, what: str) -> Path:
  path = Path(run) / "checkpoints"
  if not path.is_dir():
    raise ConfigError(f"{what}: {run} is not a run directory with checkpoints")
  return path


def restore_weights(e: Experiment, run: Path, mesh: Mesh) -> tuple[dict, int]:
  """(EMA weights, step) of a run's newest sound checkpoint, on any mesh."""
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  abstract = with_shardings(abstract, state_shardings(e, abstract, mesh))
  with Checkpointer(open_checkpoints(run, "reading weights"), keep_last=1) as checkpoints:
    restored = checkpoints.restore(abstract)
  if restored is None:
    raise ConfigError(f"{run} has no checkpoint yet")
  for note in damage_notes(restored):
    print(note)
  return evaluated(e, restored.state), restored.step
