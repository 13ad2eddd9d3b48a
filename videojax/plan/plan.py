"""What a run needs, without allocating it; for --topology devices also whether it fits, what it
sends, how long it takes and what it costs."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from jax.sharding import AbstractMesh

from videojax.config import Experiment
from videojax.cost.tables import price_per_hour, priced
from videojax.errors import ConfigError
from videojax.io import files
from videojax.models.attention import compiling_for
from videojax.plan import tables, topology
from videojax.plan.needs import needs, plan_mesh
from videojax.plan.search import search
from videojax.plan.step_work import Clip, Sent, step_work
from videojax.scaling import flops, roofline
from videojax.sharding import MESH_AXES, make_mesh, mesh_sizes, whole_batch


@dataclasses.dataclass(frozen=True)
class Target:
  """TPUs to compile for, or GPUs to estimate for.

  Attributes:
    name: 'v5p:4x4x4' (see `topology.open_topology`) or 'h100:8' (see `topology.gpus`).
    slices: number of slices of this shape.
    step: 'train', 'sample' or 'decode'.
    search: whether to search for the fastest mesh, batch size and remat policy.
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
    workdir: directory of plan.json.
    target: chips to plan for; None: the devices of the config's mesh, or of this machine.
  Returns: the content of plan.json; bytes are per device, FLOPs count 2 per MAC.
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
  """The plan for TPUs, from the TPU compiler."""
  devices = topology.open_topology(target.name, target.slices)
  e, tried, kind = experiment.on_devices(len(devices)), None, devices[0].device_kind
  if target.search:
    e, tried = search(e, devices)
  topology.check_mesh(e, len(devices), target.slices)
  mesh = make_mesh(e.mesh, devices)
  written = needs(e, mesh)
  written |= {"topology": target.name, "slices": target.slices, "search": tried}
  written |= topology.compile_for(e, devices, target.step)
  known = roofline.memory(kind) is not None
  if target.step == "train" and written["collectives"] is not None and known:
    written |= times(e, written, kind)
  if target.step == "decode" and written["bytes_per_flop"] is not None and known:
    clips = whole_batch(e.evaluate.batch_size, mesh)
    written |= {"decoding": decoding(e, clips, written, kind)}
  return written


def decoding(e: Experiment, clips: int, written: dict[str, Any], kind: str) -> dict[str, Any]:
  """Bound, estimate and price of decoding these clips together; see roofline.program."""
  task = e.task(next(iter(e.data)))
  each = e.codec.decode_flops(task.source.shape)
  work = each * clips / written["devices"]
  bound, parts = roofline.program(work, work * written["bytes_per_flop"], kind)
  seconds, price = sum(parts.values()), price_per_hour(kind, written["devices"])
  return {
    "clips": clips,
    "video_seconds": task.source.shape[0] / task.fps,
    "flops_per_clip": each,
    "bound_seconds": bound,
    "estimate_seconds": seconds,
    "estimate_by_part": parts,
    "dollars_per_clip": None if price is None else price * seconds / 3600 / clips,
  }


def counted(experiment: Experiment, target: Target) -> dict[str, Any]:
  """The plan for GPUs: memory without XLA's temporaries, communication from `Sent.counted`."""
  kind, number = topology.gpus(target.name) or ("", 0)
  if target.slices > 1 or target.search or target.step != "train":
    raise ConfigError(f"--topology={target.name}: --slices, --step and --search apply to TPUs only")
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
    "reason": "counted, not compiled: XLA's own temporaries are not included",
  }  # fmt: skip
  return written | times(e, written, kind)


def times(e: Experiment, written: dict[str, Any], kind: str) -> dict[str, Any]:
  """Bound and estimate of the time of a step; hours and price of the run."""
  kept = max(kind["activation_bytes"] for kind in written["data"].values())
  found = written["collectives"]
  clip, mesh = Clip.of(e), written["mesh"]
  sent = Sent.counted(e, clip, mesh) if found is None else Sent.compiled(found)
  work = step_work(e, clip, mesh, kept, sent)
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
