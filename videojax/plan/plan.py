"""What a run would need, without allocating it: parameters, FLOPs, tokens and bytes; for TPUs that
are not here also whether it fits, what it sends and how long it takes."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from videojax.config import Experiment
from videojax.cost.tables import price_per_hour, priced
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.io import files
from videojax.models.attention import compiling_for
from videojax.models.layers import REMATS
from videojax.plan import tables, topology
from videojax.plan.step_work import Sent, step_work
from videojax.runs.program import (
  Counts,
  check_divides,
  check_loss,
  create_state,
  make_update,
  parameters_by_part,
  state_shardings,
  task_products,
)
from videojax.scaling import flops, roofline
from videojax.sharding import MESH_AXES, MeshConfig, make_mesh, mesh_sizes
from videojax.task import Task


class DoesNotFit(ConfigError):
  """No way to run it that was tried fits."""


@dataclasses.dataclass(frozen=True)
class Target:
  """TPUs to compile for, or GPUs to count for.

  Attributes:
    name: 'v5p:4x4x4', see `topology.open_topology`; 'h100:8', see `topology.gpus`.
    slices: of this shape.
    step: 'train', or 'sample'.
    search: for the mesh, batch and remat that are fastest there.
  """

  name: str
  slices: int = 1
  step: str = "train"
  search: bool = False

  def __post_init__(self):
    if not 1 <= self.slices <= 64:
      raise ConfigError(f"--slices={self.slices} must be from 1 to 64")


def plan(experiment: Experiment, workdir: Path, target: Target | None = None) -> dict[str, Any]:
  """Prints what the run needs and writes plan.json; nothing is allocated on a device.

  Args:
    experiment: resolved.
    workdir: for plan.json.
    target: chips that are not here; None: the devices of this machine, or of the config's mesh.
  Returns: the content of plan.json; bytes are per device, FLOPs are FLOP (2 per MAC).
  """
  if target is None:
    mesh = plan_mesh(experiment.mesh)
    written = needs(experiment.on_devices(mesh.size), mesh)
  elif topology.gpus(target.name):
    written = counted(experiment, target)
  else:
    written = compiled(experiment, target)
  files.write_json(workdir / "plan.json", written)
  tables.show(written)
  print(f"{workdir}/plan.json")
  return written


def compiled(experiment: Experiment, target: Target) -> dict[str, Any]:
  """The plan for TPUs, by their compiler."""
  devices = topology.open_topology(target.name, target.slices)
  e, tried, kind = experiment.on_devices(len(devices)), None, devices[0].device_kind
  if target.search:
    from videojax.plan.search import search  # it plans too

    e, tried = search(e, devices)
  topology.check_mesh(e, len(devices), target.slices)
  written = needs(e, make_mesh(e.mesh, devices))
  written |= {"topology": target.name, "slices": target.slices, "search": tried}
  written |= topology.compile_for(e, devices, target.step)
  known = roofline.memory(kind) is not None
  if target.step == "train" and written["collectives"] is not None and known:
    written |= times(e, written, kind)
  return written


def counted(experiment: Experiment, target: Target) -> dict[str, Any]:
  """The plan for GPUs: memory without the compiler's own, what is sent by `Sent.counted`."""
  kind, number = topology.gpus(target.name) or ("", 0)
  if target.slices > 1 or target.search or target.step != "train":
    raise ConfigError(f"--topology={target.name}: --slices, --step and --search are for TPUs")
  e = experiment.on_devices(number)
  topology.check_mesh(e, number)
  mesh = AbstractMesh(tuple(mesh_sizes(e.mesh, number)), MESH_AXES)
  written = needs(e, mesh)
  with compiling_for("gpu"):
    written["attention"] = e.model.module.describe(e.model.config, mesh)
  state, memory = written["state_bytes"], roofline.memory(kind)
  assert memory is not None
  arguments = state["total"] - state["gradients"]
  temporary = state["gradients"] + max(k["activation_bytes"] for k in written["data"].values())
  written |= {
    "topology": target.name, "slices": 1, "search": None, "step": "train",
    "peak_bytes": arguments + temporary, "argument_bytes": arguments,
    "temporary_bytes": temporary, "fits": arguments + temporary <= memory.hbm_bytes,
    "over_bytes": max(arguments + temporary - memory.hbm_bytes, 0),
    "usable_bytes": memory.hbm_bytes, "memory_bytes": memory.hbm_bytes, "collectives": None,
    "reason": "counted, not compiled: without XLA's own temporaries",
  }  # fmt: skip
  return written | times(e, written, kind)


def needs(e: Experiment, mesh: Mesh | AbstractMesh) -> dict[str, Any]:
  """All that is known without compiling."""
  check_divides(e, mesh)
  tasks = {name: e.task(name) for name in e.data}
  check_loss(e, tasks)
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  shardings = state_shardings(e, abstract, mesh)
  kinds: dict[str, dict[str, Any]] = {}
  for name, task in tasks.items():
    products = task_products(e, task)
    tokens = Counts.of(e, task).tokens
    kinds[name] = {
      "clip_shape": list(task.source.shape),
      "tokens_per_clip": tokens,
      "tokens_per_video_second": tokens * fps(task) / task.source.shape[0],
      "forward_flops_per_clip": flops.forward(products),
      "step_flops_per_clip": flops.step(products),
      "encode_flops_per_clip": e.codec.encode_flops(task.source.shape),
      "backward_flops_per_clip_exact": flops.backward(products),
      "remat": {remat: remat_cost(e, name, remat, mesh) for remat in REMATS},
    }
    kinds[name]["activation_bytes"] = kinds[name]["remat"][e.model.config.remat]["kept_bytes"]
  weights = {name: e.data[name].weight for name in e.data}
  per_clip = sum(
    kinds[n]["step_flops_per_clip"]["total"] * w for n, w in weights.items()
  ) / sum(weights.values())  # fmt: skip
  return {
    "parameters": parameters_by_part(e.model),
    "data": kinds,
    "batch_size": e.batch_size,
    "total_steps": e.total_steps,
    "flops": per_clip * e.batch_size,
    "training_flops": per_clip * e.batch_size * e.total_steps,
    "devices": mesh.size,
    "mesh": dict(mesh.shape),
    "attention": e.model.module.describe(e.model.config, mesh),
    "remat": e.model.config.remat,
    "state_bytes": state_bytes(abstract, shardings),
  }


def plan_mesh(config: MeshConfig) -> Mesh | AbstractMesh:
  """The mesh of the config, of devices that need not be here where all its sizes are given."""
  sizes = dataclasses.astuple(config)
  if -1 in sizes:
    return make_mesh(config)
  return AbstractMesh(sizes, MESH_AXES)


def fps(task: Task) -> float:
  """Frames per second of a source's clips: of its first one, where they differ."""
  carried = stack_examples(task.source, [0])
  if "fps" in carried:
    return float(carried["fps"][0])
  return float(getattr(task.source, "config").fps)  # noqa: B009 (a world's; sources differ)


def state_bytes(abstract: Any, shardings: Any) -> dict[str, int]:
  """Bytes of the training state on one device, by kind."""

  def size(tree: Any, shards: Any) -> int:
    return sum(
      math.prod(s.shard_shape(leaf.shape)) * leaf.dtype.itemsize
      for leaf, s in zip(jax.tree.leaves(tree), jax.tree.leaves(shards))
    )

  parts = {
    name: size(getattr(abstract, name), getattr(shardings, name))
    for name in ("trainable", "frozen", "opt_state", "ema")
  }
  # Gradients live as long as the update; they are as large as what trains.
  parts["gradients"] = parts["trainable"]
  return parts | {"total": sum(parts.values())}


def remat_cost(e: Experiment, name: str, remat: str, mesh: Mesh | AbstractMesh) -> dict[str, Any]:
  """What a remat policy keeps on one device, and what a step then computes of 3 x forward."""
  task = with_remat(e, remat).task(name)
  forward = flops.forward(task_products(e, task))
  rows = e.batch_size / e.accumulate / (mesh.shape["data"] * mesh.shape["fsdp"])
  split = mesh.shape["seq"] * mesh.shape["tensor"]
  return {
    "kept_bytes": int(kept_bytes(task) * rows / split),
    "executed_over_model_flops": sum(roofline.executed_flops(forward, remat))
    / (3 * forward["total"]),
  }


def with_remat(e: Experiment, remat: str) -> Experiment:
  """The same experiment under another remat policy."""
  model = dataclasses.replace(e.model, config=dataclasses.replace(e.model.config, remat=remat))
  return dataclasses.replace(e, model=model)


def kept_bytes(task: Task) -> int:
  """What the forward pass of one clip keeps for the backward pass, under the remat policy.

  These are the residuals of `jax.vjp` of the loss, of which XLA may keep less: what a second clip
  adds to them, since the weights are among them too, some only as copies in 16 bits.
  """
  params, codec = task.model.abstract_params, task.codec.abstract_params

  def residuals(params: dict, codec: dict, carried: Any, keys: Any) -> Any:
    return jax.vjp(lambda p: task.loss(p | codec, carried, keys)[0].mean(), params)[1]

  def size(clips: int) -> int:
    carried = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)),
      stack_examples(task.source, [0] * clips),
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), clips))
    kept = jax.tree.leaves(jax.eval_shape(residuals, params, codec, carried, keys))
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in kept)

  return size(2) - size(1)


def times(e: Experiment, written: dict[str, Any], kind: str) -> dict[str, Any]:
  """Bound and estimate of a compiled step, with hours and price of the run."""
  kept = max(kind["activation_bytes"] for kind in written["data"].values())
  found = written["collectives"]
  sent = Sent.counted(e, written["mesh"]) if found is None else Sent.compiled(found)
  work = step_work(e, written["mesh"], kept, sent)
  bound, parts = roofline.bound(work, kind), roofline.estimate(work, kind)
  seconds = sum(parts.values())
  hours = seconds * e.total_steps / 3600
  price, chip = price_per_hour(kind, written["devices"]), priced(kind)
  return {
    "bound_seconds": bound,
    "estimate_seconds": seconds,
    "estimate_by_part": parts,
    "mfu_estimate": written["flops"]
    / written["devices"] / seconds / (flops.peak_flops_per_s(kind) or math.nan),
    "hours": hours,
    "price_dollars": None if price is None else hours * price,
    "dollars_per_chip_hour": None if chip is None else float(chip.price),
    "price_source": None if chip is None else chip.price_source,
  }  # fmt: skip
