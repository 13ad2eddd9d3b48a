"""The compiled step of an experiment and what it needs, which training, plan and bench share.

A `Program` is what runs of one size have in common; a sweep passes it from cell to cell.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from videojax import optim
from videojax.codecs.autoencoder import in_use
from videojax.config import Experiment, from_json, program_of, to_json
from videojax.data import Carried, stack_examples
from videojax.errors import ConfigError
from videojax.evaluate import Evaluator
from videojax.evaluate_codec import CodecEvaluator
from videojax.host.xla_flags import PRESETS, compile_with
from videojax.optim import merge
from videojax.runs import rundir, weights
from videojax.runs.run_state import (
  create_state,
  make_update,
  restore_weights,
  state_shardings,
  with_shardings,
)
from videojax.sample import generate
from videojax.scaling import flops
from videojax.sharding import (
  batch_sharding,
  by_path,
  path_name,
  put_batch,
  whole_batch,
)
from videojax.specs import CODEC, CodecSpec, ModelSpec
from videojax.state import TrainState, train_step, train_steps
from videojax.task import Task


def check_divides(e: Experiment, mesh: Mesh | AbstractMesh) -> None:
  """Raises ConfigError if the batch or a microbatch does not divide evenly over the devices."""
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
  """Traces the loss of every kind of batch on shapes, to find mismatches before anything runs.

  Raises:
    ConfigError: a patch, a condition or the number of channels does not fit the data.
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
        raise ConfigError(f"model.channels={e.model.config.channels}, but the data has {channels}")
      jax.eval_shape(task.loss, task.abstract_params, rows, keys)
    except (TypeError, ValueError) as error:  # shapes that do not fit raise either
      raise ConfigError(f"data.{name}: {error}") from error


def check_memory(program: "Program") -> None:
  """Checks that the state and its gradients fit on each device, before anything is allocated.

  Raises:
    ConfigError: they do not; the message has both sizes and what to do.
  """
  gradients = program.abstract.trainable
  leaves = jax.tree.leaves((program.abstract, gradients))
  share = lambda x: math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
  need, (limit, what) = sum(map(share, leaves)), memory_of(jax.local_devices()[0])
  if need > limit:
    raise ConfigError(
      f"parameters, optimizer, averages and gradients need {need / 2**30:,.1f} GiB on each device, "
      f"but {what} has {limit / 2**30:,.1f}: use a smaller model or more devices (mesh.fsdp); "
      "--mode=plan shows the parts"
    )


def memory_of(device: jax.Device) -> tuple[float, str]:
  """(bytes that a device of this process may use, its name); CPU devices share the machine's."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return stats["bytes_limit"], device.device_kind
  whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return whole / jax.local_device_count(), "its share of this machine"


class Program:
  """What runs share that differ only in seed, length and learning rate: see config.AS_DATA.

  Args:
    e: an experiment; its AS_DATA settings do not matter.
    mesh: of the devices.
  Raises:
    ConfigError: a setting is invalid.
  """

  def __init__(self, e: Experiment, mesh: Mesh):
    self.key, self.mesh, self.experiment = program_of(e), mesh, e
    self.tasks = {name: e.task(name) for name in e.data}
    check_divides(e, mesh)
    check_loss(e, self.tasks)
    self.tx, self.gammas = make_update(e)
    abstract = jax.eval_shape(functools.partial(create_state, e, self.tx))
    self.shardings = state_shardings(e, abstract, mesh)
    self.abstract = with_shardings(abstract, self.shardings)
    self.most = e.steps_per_dispatch
    self.unknown_flags: list[str] = []  # options of xla_flags that the compiler does not know
    self._steps: dict[str, jax.stages.Compiled] = {}
    self._create = jax.jit(
      functools.partial(create_state, e, self.tx), out_shardings=self.shardings
    )

  def create(self, seed: int) -> TrainState:
    """A fresh state, with the codec's published weights."""
    state = self._create(key=put_replicated(jax.random.key(seed), self.mesh))
    codec = self.experiment.codec
    if codec.network is None or codec.config.weights is None:
      return state
    frozen = {CODEC: load_codec(codec, self.abstract.frozen[CODEC], self.mesh)}
    return dataclasses.replace(state, frozen=state.frozen | frozen)

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    kind = CodecEvaluator if self.experiment.learns_codec else Evaluator
    return kind(self.experiment, self.mesh)

  def compile(self) -> dict[str, jax.stages.Compiled]:
    """The compiled step of every kind of batch; compiled by the first call."""
    for name, task in self.tasks.items():
      if name not in self._steps:
        self._steps[name] = compile_step(self, task)
    return self._steps

  def peak_bytes(self) -> int:
    """The compiler's estimate of one device's peak memory, over all kinds of batch."""
    return max(compiled_bytes(step) for step in self.compile().values())


def load_codec(codec: CodecSpec, abstract: dict, mesh: Mesh) -> dict:
  """Loads a codec's weights, published ones or those of a run, sharded as in `abstract`."""
  model = codec.network
  assert model is not None
  path = Path(codec.config.weights)
  if (path / "checkpoints").is_dir():
    return _trained_codec(codec, path, abstract, mesh)
  try:
    have = weights.load(path, model.module, model.config, model.info, by_path(abstract))
  except ConfigError as error:
    raise ConfigError(f"codec.weights: {error}") from error
  return jax.tree_util.tree_map_with_path(lambda p, _: have[path_name(p)], abstract)


def _trained_codec(codec: CodecSpec, run: Path, abstract: dict, mesh: Mesh) -> dict:
  """The EMA weights of a finished run of an autoencoder, with the statistics of its latents."""
  other, own = from_json(rundir.read_config(run)), codec.network
  assert own is not None
  trained = in_use(other.model.config)
  sizes = {f.name: getattr(own.config, f.name) for f in dataclasses.fields(trained)}
  if other.model.name != own.name or sizes != vars(trained):
    raise ConfigError(
      f"codec.weights: {run} has trained {other.model.name} with {to_json(trained)}: "
      "set the codec's name and sizes to these"
    )
  result = rundir.read_sound(run / "result.json", lambda value: isinstance(value, dict))
  if not result or not result.get("reconstruction"):
    raise ConfigError(f"codec.weights: {run} has not finished (no result.json): run it to its end")
  told = result["reconstruction"]
  params = restore_weights(other, run, mesh)[0]
  params.pop("critic", None)
  latents = {"mean": told["latent_mean"], "deviation": told["latent_deviation"]}
  params |= {"statistics": {k: np.asarray(v, np.float32) for k, v in latents.items()}}
  return jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), params, abstract)


def lower_step(program: Program, task: Task, replicas: int | None = None) -> jax.stages.Lowered:
  """Lowers the training step on one kind of batch: the state is donated, shardings are fixed.

  Args:
    replicas: number of runs that vmap trains together: a leading axis of state, batch and key.
  Returns: `state.train_step`, or `state.train_steps` if a dispatch has several.
  """
  e, mesh = program.experiment, program.mesh
  step = functools.partial(
    train_step if program.most == 1 else train_steps,
    loss_fn=task.loss, tx=program.tx, gammas=program.gammas, accumulate=e.accumulate,
  )  # fmt: skip
  replicated = NamedSharding(mesh, PartitionSpec())
  others: tuple[Any, ...] = (optim.schedule(e.optim, e.total_steps),)
  if program.most > 1:
    others += (np.int32(0),)
  scalars = jax.eval_shape(lambda: (jax.random.key(0), *jax.tree.map(jax.numpy.asarray, others)))
  key, *shared = with_shardings(scalars, jax.tree.map(lambda _: replicated, scalars))
  own = program.abstract, abstract_batch(e, task, mesh), key
  if replicas is not None:
    step = jax.vmap(step, in_axes=(0, 0, 0, *(None for _ in shared)))
    own = jax.tree.map(functools.partial(_repeated, number=replicas), own)
  out = jax.tree.map(lambda leaf: leaf.sharding, own[0]), replicated
  return jax.jit(step, donate_argnums=0, out_shardings=out).lower(*own, *shared)


def compile_step(program: Program, task: Task, replicas: int | None = None) -> jax.stages.Compiled:
  """Compiles `lower_step` ahead of time, with the experiment's xla_flags."""
  options = {k: v for name in program.experiment.xla_flags for k, v in PRESETS[name].items()}
  step, unknown = compile_with(lower_step(program, task, replicas), options)
  program.unknown_flags = sorted({*program.unknown_flags, *unknown})
  return step


def compile_sample(program: Program, task: Task) -> jax.stages.Compiled:
  """Compiles the sampling of one evaluation batch of clips ahead of time."""
  e, mesh = program.experiment, program.mesh
  rows = whole_batch(e.evaluate.batch_size, mesh)
  example = jax.eval_shape(task.source.decode, stack_examples(task.source, [0]))

  def batch(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    shape = (rows, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=batch_sharding(mesh, shape))

  example = {k: jax.tree.map(batch, v) for k, v in example.items() if k != "state"}
  params = merge(program.abstract.trainable, program.abstract.frozen)
  make = functools.partial(generate, task, e.sampler, e.guidance)
  return jax.jit(make).lower(params, example).compile()


def compile_decode(program: Program, task: Task) -> jax.stages.Compiled:
  """Compiles the decoding of one evaluation batch of latents ahead of time."""
  e, mesh = program.experiment, program.mesh
  shape = (whole_batch(e.evaluate.batch_size, mesh), *task.latent_shape)
  latent = jax.ShapeDtypeStruct(shape, np.float32, sharding=batch_sharding(mesh, shape))
  decode = lambda params, latent: task.codec.of(params).decode(latent)
  return jax.jit(decode).lower(program.abstract.frozen, latent).compile()


def _repeated(leaf: jax.ShapeDtypeStruct, number: int) -> jax.ShapeDtypeStruct:
  sharding: Any = leaf.sharding
  sharding = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
  return jax.ShapeDtypeStruct((number, *leaf.shape), leaf.dtype, sharding=sharding)


def next_dispatch(
  batches: Iterator[tuple[str, Carried]], number: int, program: Program
) -> tuple[str, dict[str, jax.Array], tuple]:
  """(kind, rows on the devices, further arguments) for the compiled step's next call."""
  mesh, rows = program.mesh, program.experiment.batch_size
  name, carried = next(batches)
  if program.most == 1:
    return name, put_batch(carried, mesh, rows), ()
  parts = [carried, *(next(batches)[1] for _ in range(number - 1))]
  parts += [carried] * (program.most - number)  # padding, unused: one program for any number
  stacked = jax.tree.map(lambda *x: np.stack(x), *parts)
  return name, put_batch(stacked, mesh, rows, lead=1), (put_replicated(np.int32(number), mesh),)


def abstract_batch(e: Experiment, task: Task, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of the batch of one dispatch: [B, ...], or [steps_per_dispatch, B, ...]."""
  rows = stack_examples(task.source, [0])
  lead = (e.steps_per_dispatch,) if e.steps_per_dispatch > 1 else ()

  def one(x: np.ndarray) -> jax.ShapeDtypeStruct:
    shape = (*lead, e.batch_size, *x.shape[1:])
    sharding = batch_sharding(mesh, shape, len(lead))
    return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=sharding)

  return jax.tree.map(one, rows)


def compiled_bytes(compiled: Any) -> int:
  """The compiler's estimate of one device's peak: arguments, temporaries, non-aliased outputs.

  An upper bound: not all temporaries are live simultaneously.
  """
  m = compiled.memory_analysis()
  return int(
    m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
  )


def put_replicated(x: Any, mesh: Mesh) -> Any:
  """Puts a value that all processes have on every device."""
  whole = NamedSharding(mesh, PartitionSpec())
  if jax.process_count() == 1 or isinstance(x, jax.Array):
    return jax.device_put(x, whole)
  # device_put would compare the processes' values, and wait for them.
  make = lambda leaf: jax.make_array_from_process_local_data(whole, np.asarray(leaf))
  return jax.tree.map(make, x)


@dataclasses.dataclass(frozen=True)
class Counts:
  """Tokens and model FLOPs per clip of one kind of batch."""

  tokens: int
  flops: int

  @classmethod
  def of(cls, task: Task) -> "Counts":
    return cls(task.tokens, flops.step(task.products())["total"])


def parameters_by_part(model: ModelSpec) -> dict[str, int]:
  """Number of parameters by the model's parts, and 'total'."""
  out: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract_params):
    part = model.part(path_name(path))
    out[part] = out.setdefault(part, 0) + math.prod(leaf.shape)
  return out | {"total": sum(out.values())}
