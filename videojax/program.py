"""The state and the compiled step of an experiment: what training, plan and bench share."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from videojax import optim
from videojax.config import Experiment
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.scaling import flops
from videojax.sharding import like_params, param_shardings, path_name
from videojax.state import TrainState, init_state, train_step
from videojax.task import ModelSpec, Task


def check_divides(e: Experiment, mesh: Mesh | AbstractMesh) -> None:
  """The batch, and each microbatch of it, is split evenly."""
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  if e.batch_size % (ways * e.accumulate):
    over = f"{ways} devices (data x fsdp)" + (
      f" x {e.accumulate} microbatches" if e.accumulate > 1 else ""
    )
    raise ConfigError(
      f"batch_size={e.batch_size} is not divisible by {over}: use a multiple of "
      f"{ways * e.accumulate}, or fewer devices (mesh)"
    )


def check_loss(e: Experiment, tasks: dict[str, Task]) -> None:
  """Traces the loss of every kind of batch on shapes, so that misfits show before anything runs.

  Raises:
    ConfigError: a patch, a condition or a number of channels that does not fit the data.
  """
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  for name, task in tasks.items():
    rows = stack_examples(task.source, [0])
    try:
      example = jax.eval_shape(task.source.decode, rows)
      missing = [key for key in task.needs if key not in example]
      if missing:
        raise ConfigError(f"the model's conditions need {missing}, which the data does not have")
      channels = task.latent_shape[-1]
      if e.model.config.channels != channels:
        raise ConfigError(f"model.channels={e.model.config.channels}, the data has {channels}")
      jax.eval_shape(task.loss, e.model.abstract_params, rows, keys)
    except ValueError as error:
      raise ConfigError(f"data.{name}: {error}") from error


def make_update(e: Experiment) -> tuple[Any, dict[str, float]]:
  """The optimizer, and the exponents of the averages by name."""
  try:
    optim.split_frozen(e.model.abstract_params, e.optim.freeze)
    gammas = {ema_name(width): optim.ema_gamma(width) for width in e.ema}
  except ValueError as error:
    raise ConfigError(str(error)) from error
  if len(gammas) < len(e.ema):
    raise ConfigError(f"ema={e.ema} has widths that are equal to three digits")
  return optim.make_optimizer(e.optim, e.total_steps, e.model.info), gammas


def ema_name(sigma_rel: float) -> str:
  return f"{sigma_rel:.3f}"


def create_state(e: Experiment, tx: Any) -> TrainState:
  """A fresh state; jittable."""
  params = e.model.init(jax.random.key(e.seed))
  trainable, frozen = optim.split_frozen(params, e.optim.freeze)
  return init_state(trainable, frozen, tx, tuple(ema_name(width) for width in e.ema))


def state_shardings(
  model: ModelSpec, abstract: TrainState, mesh: Mesh | AbstractMesh
) -> TrainState:
  """Where every leaf of the state lives: parameters by their logical axes, copies like them."""
  axes = {path: info.axes for path, info in model.info.items()}
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


def compile_step(
  e: Experiment,
  task: Task,
  tx: Any,
  gammas: dict[str, float],
  shardings: TrainState,
  state: TrainState,
  mesh: Mesh,
) -> Any:
  """The training step on one kind of batch, compiled ahead: state donated, shardings pinned."""
  step = functools.partial(
    train_step, loss_fn=task.loss, tx=tx, gammas=gammas, accumulate=e.accumulate
  )
  replicated = NamedSharding(mesh, PartitionSpec())
  jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated))
  example = abstract_batch(e, task, mesh)
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated)
  return jitted.lower(state, example, key).compile()


def abstract_batch(e: Experiment, task: Task, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a carried batch."""
  rows = stack_examples(task.source, [0])
  split = PartitionSpec(("data", "fsdp"))

  def one(x: np.ndarray) -> jax.ShapeDtypeStruct:
    shape = (e.batch_size, *x.shape[1:])
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, split))

  return jax.tree.map(one, rows)


def compiled_bytes(compiled: Any) -> int:
  """The compiler's account of one device's peak: arguments, temporaries, outputs not aliased."""
  m = compiled.memory_analysis()
  return int(
    m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
  )


def put_replicated(x: Any, mesh: Mesh) -> Any:
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))


def task_products(e: Experiment, task: Task) -> list[Any]:
  """The matrix products of one forward pass of one training clip."""
  frames = task.latent_shape[0]
  levels = frames if e.objective.per_frame else 1
  text = 0
  if e.model.config.text:
    example = jax.eval_shape(task.source.decode, stack_examples(task.source, [0]))
    text = example["caption" if e.model.config.text == "bytes" else "text"].shape[1]
  return e.model.module.products(e.model.config, task.latent_shape, levels=levels, text_length=text)


@dataclasses.dataclass(frozen=True)
class Counts:
  """Work per clip of one kind of batch."""

  tokens: int
  flops: int

  @classmethod
  def of(cls, e: Experiment, task: Task) -> "Counts":
    products = task_products(e, task)
    patch = e.model.config.patch
    frames, height, width, _ = task.latent_shape
    tokens = max(frames // patch[0], 1) * (height // patch[1]) * (width // patch[2])
    return cls(tokens, flops.step(products)["total"])


def parameters_by_part(model: ModelSpec) -> dict[str, int]:
  """Number of parameters by the model's parts, and 'total'."""
  out: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract_params):
    names = path_name(path).split("/")
    part = next((model.module.PARTS[n] for n in names if n in model.module.PARTS), names[0])
    out[part] = out.setdefault(part, 0) + math.prod(leaf.shape)
  return out | {"total": sum(out.values())}
