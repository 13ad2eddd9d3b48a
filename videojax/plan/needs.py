"""What is known about a run without compiling it: parameters, FLOPs, tokens, bytes per device."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from videojax.config import Experiment
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.models.layers import REMATS
from videojax.runs.program import (
  Counts,
  check_divides,
  check_loss,
  parameters_by_part,
)
from videojax.runs.run_state import (
  create_state,
  make_update,
  state_shardings,
)
from videojax.scaling import flops, roofline
from videojax.sharding import MESH_AXES, MeshConfig, make_mesh
from videojax.state import TrainState
from videojax.task import Task


class DoesNotFit(ConfigError):
  """None of the candidates that were compiled fits in memory."""


def needs(e: Experiment, mesh: Mesh | AbstractMesh) -> dict[str, Any]:
  """Everything that is known without compiling, as the entries of plan.json."""
  check_divides(e, mesh)
  tasks = {name: e.task(name) for name in e.data}
  check_loss(e, tasks)
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  shardings = state_shardings(e, abstract, mesh)
  kinds: dict[str, dict[str, Any]] = {}
  for name, task in tasks.items():
    products = task.products()
    forward = flops.forward(products)
    tokens = Counts.of(task).tokens
    kinds[name] = {
      "clip_shape": list(task.source.shape),
      "tokens_per_clip": tokens,
      "tokens_per_video_second": tokens * task.fps / task.source.shape[0],
      "forward_flops_per_clip": forward,
      "step_flops_per_clip": flops.step(products),
      "encode_flops_per_clip": task.encode_flops,
      "backward_flops_per_clip_exact": flops.backward(products),
      "remat": {remat: remat_cost(e, name, remat, mesh, forward) for remat in REMATS},
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
  """The config's mesh; if it has all sizes, the devices need not exist on this machine."""
  sizes = dataclasses.astuple(config)
  if -1 in sizes:
    return make_mesh(config)
  return AbstractMesh(sizes, MESH_AXES)


def state_bytes(abstract: TrainState, shardings: TrainState) -> dict[str, int]:
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
  # Gradients live until the update and are as large as the trained parameters.
  parts["gradients"] = parts["trainable"]
  return parts | {"total": sum(parts.values())}


def remat_cost(
  e: Experiment, name: str, remat: str, mesh: Mesh | AbstractMesh, forward: Mapping[str, int]
) -> dict[str, Any]:
  """Bytes that a remat policy keeps on one device, and executed FLOPs over 3 x forward."""
  task = with_remat(e, remat).task(name)
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
  """Bytes that the forward pass of one clip keeps for the backward pass under the remat policy.

  Counts the residuals of `jax.vjp` of the loss (XLA may keep fewer). They include the weights, some
  as 16-bit copies, so the result is what a second clip adds.
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
