"""What a run would need, without allocating it: parameters, FLOPs, tokens and bytes."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from rich.console import Console
from rich.table import Table

from videojax import files
from videojax.config import Experiment
from videojax.data import stack_examples
from videojax.program import (
  Counts,
  check_divides,
  create_state,
  make_update,
  parameters_by_part,
  state_shardings,
  task_products,
)
from videojax.scaling import flops
from videojax.sharding import MESH_AXES, MeshConfig, make_mesh
from videojax.task import Task


def plan(experiment: Experiment, workdir: Path) -> dict[str, Any]:
  """Prints what the run needs and writes plan.json; nothing is allocated on a device.

  Returns: the content of plan.json; bytes are per device, FLOPs are FLOP (2 per MAC).
  """
  e = experiment
  mesh = plan_mesh(e.mesh)
  check_divides(e, mesh)
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  shardings = state_shardings(e.model, abstract, mesh)
  kinds: dict[str, dict[str, Any]] = {}
  for name in e.data:
    task = e.task(name)
    products = task_products(e, task)
    tokens = Counts.of(e, task).tokens
    kinds[name] = {
      "clip_shape": list(task.source.shape),
      "tokens_per_clip": tokens,
      "tokens_per_video_second": tokens * fps(task) / task.source.shape[0],
      "forward_flops_per_clip": flops.forward(products),
      "step_flops_per_clip": flops.step(products),
      "backward_flops_per_clip_exact": flops.backward(products),
      "activation_bytes": activation_bytes(e, task, mesh.shape["data"] * mesh.shape["fsdp"]),
    }
  weights = {name: e.data[name].weight for name in e.data}
  total = sum(
    kinds[n]["step_flops_per_clip"]["total"] * w for n, w in weights.items()
  ) / sum(weights.values()) * e.batch_size * e.total_steps  # fmt: skip
  written = {
    "parameters": parameters_by_part(e.model),
    "data": kinds,
    "batch_size": e.batch_size,
    "total_steps": e.total_steps,
    "training_flops": total,
    "devices": mesh.size,
    "mesh": dict(mesh.shape),
    "state_bytes": state_bytes(abstract, shardings),
  }
  files.write_json(workdir / "plan.json", written)
  show(written)
  print(f"{workdir}/plan.json")
  return written


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


def activation_bytes(e: Experiment, task: Task, ways: int) -> int:
  """What the forward pass keeps for the backward pass on one device, under the remat policy.

  These are the residuals of `jax.vjp` of one microbatch's loss; XLA may keep less.
  """
  rows = e.batch_size // e.accumulate
  carried = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype)),
    stack_examples(task.source, [0]),
  )
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
  params = e.model.abstract_params

  def residuals(params: dict, carried: Any, keys: Any) -> Any:
    return jax.vjp(lambda p: task.loss(p, carried, keys)[0].mean(), params)[1]

  kept = jax.tree.leaves(jax.eval_shape(residuals, params, carried, keys))
  own = sum(math.prod(p.shape) * p.dtype.itemsize for p in jax.tree.leaves(params))
  total = sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in kept)
  return max(total - own, 0) // ways


def show(written: dict[str, Any]) -> None:
  """The plan as tables."""
  console = Console(soft_wrap=True)
  table = Table(title="parameters", title_justify="left")
  table.add_column("part")
  table.add_column("number", justify="right")
  for part, number in written["parameters"].items():
    table.add_row(part, f"{number:,}")
  console.print(table)
  for name, kind in written["data"].items():
    forward = kind["forward_flops_per_clip"]
    table = Table(title=f"{name}: clips {kind['clip_shape']}", title_justify="left")
    table.add_column("FLOP per clip, forward")
    table.add_column("GFLOP", justify="right")
    table.add_column("share", justify="right")
    for part, value in forward.items():
      table.add_row(part, f"{value / 1e9:.4g}", f"{value / forward['total']:.1%}")
    console.print(table)
    console.print(
      f"{kind['tokens_per_clip']:,} tokens a clip, "
      f"{kind['tokens_per_video_second']:,.0f} per second of video; "
      f"activations kept for the backward pass {size_text(kind['activation_bytes'])} per device"
    )
  state = written["state_bytes"]
  listed = ", ".join(f"{k} {size_text(v)}" for k, v in state.items() if k != "total")
  console.print(f"state per device {size_text(state['total'])}: {listed}")
  console.print(
    f"training: {written['total_steps']:,} steps of {written['batch_size']} clips, "
    f"{written['training_flops']:.3g} FLOP (3 x forward)"
  )


def size_text(size: int | float) -> str:
  """1536 -> '1.5 KiB'."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if size < 1024:
      return f"{size:.4g} {unit}"
    size /= 1024
  return f"{size:.4g} TiB"
