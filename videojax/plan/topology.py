"""Compiles a run for TPUs that this machine does not have: memory, and what the program sends.

XLA's TPU compiler runs on any machine (extra `tpu`); it knows each chip's memory and network, and
allocates nothing.
"""

import contextlib
import dataclasses
import importlib.util
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh, Mesh

from videojax.config import Experiment
from videojax.errors import ConfigError
from videojax.host.process import settings_of_no_tpu
from videojax.io.log import clock_text
from videojax.models.attention import compiling_for
from videojax.plan import hlo
from videojax.runs.program import (
  Program,
  check_divides,
  compile_decode,
  compile_sample,
  compile_step,
)
from videojax.scaling import roofline
from videojax.sharding import MESH_AXES, MeshConfig, make_mesh, mesh_sizes
from videojax.task import Task

STEPS = {"train": compile_step, "sample": compile_sample, "decode": compile_decode}
FORMS = (
  "It is chip:shape, e.g. v5e:4x4, v5p:2x2x1, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4, or gcloud's "
  "v5litepod-16, v5p-32; GPUs by number: h100:8"
)
# Compile time of a step on two cores (docs/LOG.md: 15 to 60 s for a loop); several times as long on
# a busy machine.
MINUTES = {"loop": "1 minute", "unrolled": "5 minutes", "decoder": "3 minutes"}
MOST = 2**14  # chips per slice, more than any slice has


def open_topology(name: str, slices: int = 1) -> list[jax.Device]:
  """Devices of TPU slices to compile for.

  Args:
    name: chip and shape: 'v5p:4x4x4', 'v5e:16x16', 'tpu7x:4x4x4'; or gcloud's, see `shape_of`.
    slices: number of slices of this shape, connected by the data-centre network.
  Raises:
    ConfigError: no such topology exists, or the extra is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError("--topology needs the TPU compiler: pip install 'videojax[tpu]'")
  settings_of_no_tpu()
  name = shape_of(name)
  extra: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
  if name.startswith("v4"):
    extra["chip_config_name"] = "megacore"  # one device per chip
  if name.partition(":")[2] in ("1x1", "1x1x1"):
    extra["chips_per_host_bounds"] = (1, 1, 1)
  try:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **extra)
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(f"--topology={name}: {str(error).splitlines()[0]}. {FORMS}") from None
  return list(topology.devices)


def shape_of(name: str) -> str:
  """gcloud's name of a slice, 'v5litepod-16' or 'v5e-16', -> 'v5e:4x4'; keeps 'v5e:4x4'.

  gcloud counts chips, but for v4 and v5p it counts cores, two per chip. The shape is its default.

  Raises:
    ConfigError: the name is neither.
  """
  kind, by, size = re.sub("^v5lite(pod)?([:-])", r"v5e\2", name).partition("-")
  if by and re.fullmatch("[1-9][0-9]{0,4}", size) and kind in ("v4", "v5e", "v5p", "v6e"):
    flat = kind in ("v5e", "v6e")
    chips = int(size) if flat else int(size) // 2
    ways, doubled = (2 if flat else 3), chips.bit_length() - 1
    sides = [2 ** ((doubled + i) // ways) for i in range(ways)]
    if chips == 4 and not flat:
      sides = [2, 2, 1]
    if math.prod(sides) == chips:
      return f"{kind}:{'x'.join(map(str, sides))}"
  kind, _, shape = (kind + by + size).partition(":")
  sides = shape.split("x")
  whole = all(re.fullmatch("[1-9][0-9]{0,4}", side) for side in sides)
  if not whole or not kind or math.prod(map(int, sides)) > MOST:
    raise ConfigError(f"--topology={name}: no such slice. {FORMS}")
  return f"{kind}:{shape}"


GPUS = {
  "h100": "NVIDIA H100", "h200": "NVIDIA H200", "a100": "NVIDIA A100", "b200": "NVIDIA B200"
}  # fmt: skip


def gpus(name: str) -> tuple[str, int] | None:
  """'h100:8' -> (device kind, number); None for TPUs. GPU plans are counted, not compiled."""
  kind, _, number = name.partition(":")
  if kind not in GPUS:
    return None
  if not re.fullmatch("[1-9][0-9]{0,4}", number):
    raise ConfigError(f"--topology={name}: give the number of GPUs, e.g. {kind}:8")
  return GPUS[kind], int(number)


def check_mesh(e: Experiment, devices: int, slices: int = 1) -> None:
  """Checks that the mesh matches the devices and slices and splits the batch evenly.

  Raises:
    ConfigError: it does not; the message has flags of a mesh and a batch that do.
  """
  sized = e.on_devices(devices)
  try:
    sizes = mesh_sizes(e.mesh, devices, slices)
    check_divides(sized, AbstractMesh(tuple(sizes), MESH_AXES))
  except ConfigError as error:
    raise ConfigError(f"{error}. This would fit: {_nearest(sized, devices, slices)}") from None


def _nearest(e: Experiment, devices: int, slices: int) -> str:
  """Flags of the mesh closest to the config's that fits the devices, and of the next batch size."""
  seq, tensor = max(e.mesh.seq, 1), max(e.mesh.tensor, 1)
  if devices // slices % (seq * tensor):
    seq = tensor = 1
  rest = devices // slices // (seq * tensor)
  fsdp = rest if e.mesh.fsdp == -1 else math.gcd(e.mesh.fsdp, rest)
  mesh = MeshConfig(data=rest // fsdp * slices, fsdp=fsdp, seq=seq, tensor=tensor)
  had, sizes = dataclasses.asdict(e.mesh), dataclasses.asdict(mesh)
  flags = [f"--config.mesh.{axis}={n}" for axis, n in sizes.items() if n != had[axis]]
  ways = mesh.data * mesh.fsdp * e.accumulate
  if e.batch_size % ways:
    batch = -(-e.batch_size // ways) * ways
    alone = e.clips_per_device is None
    flags.append(f"--config.batch_size={batch}" if alone else clips_flag(batch, devices))
  return " ".join(flags)


def clips_flag(batch: int, devices: int) -> str:
  """The flag that sets the batch size of a config with `clips_per_device`."""
  return f"--config.clips_per_device={batch / devices:g}"


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
  """Context in which programs are compiled for this mesh's devices, which need not exist here."""
  config: Any = jax.config
  cached = config.jax_enable_compilation_cache
  config.update("jax_enable_compilation_cache", False)  # it could not load its entries
  try:
    with compiling_for(mesh.devices.flat[0].platform), jax.set_mesh(mesh):
      yield
  finally:
    config.update("jax_enable_compilation_cache", cached)


def compile_for(e: Experiment, devices: list[jax.Device], step: str = "train") -> dict[str, Any]:
  """Compiles the step of every data source for these devices; out of memory is a valid result.

  Args:
    e: the resolved experiment.
    devices: of a topology.
    step: 'train'; or 'sample', of an evaluation's batch, or 'decode', of its latents.
  Returns: for the data source with the largest peak, per device: fits, peak_bytes, argument_bytes,
    temporary_bytes, over_bytes (bytes too many), bytes_per_flop (read and written), collectives;
    also attention, step and XLA flags.
  Raises: ConfigError if the codec has nothing to decode with.
  """
  if step == "decode" and e.codec.network is None:
    raise ConfigError(f"--step=decode: the codec {e.codec.name!r} has no network")
  mesh = make_mesh(e.mesh, devices)
  with on(mesh):
    program = Program(e, mesh)
    attention = e.model.module.describe(e.model.config, mesh)
    make = STEPS[step]
    model = "loop" if e.model.scan else "unrolled"
    minutes = MINUTES["decoder" if step == "decode" else model]
    found = []
    for name, task in program.tasks.items():
      print(f"{name}: compiling the {step} step, about {minutes}", flush=True)
      started = time.monotonic()
      found.append(compiled(make, program, task, mesh))
      print(f"{name}: compiled in {clock_text(time.monotonic() - started)}", flush=True)
  worst = max(found, key=lambda f: f["peak_bytes"])
  flags = {"xla_flags": list(e.xla_flags), "unknown_flags": program.unknown_flags}
  return {"attention": attention, "step": step} | flags | worst


def compiled(
  make: Callable[[Program, Task], Any], program: Program, task: Task, mesh: Mesh
) -> dict[str, Any]:
  """Memory and collectives of one compiled program."""
  held = roofline.memory(mesh.devices.flat[0].device_kind)
  limit = held.hbm_bytes if held else math.inf
  try:
    made = make(program, task)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    used, usable = _bytes_used(str(error))
    return {
      "fits": False, "peak_bytes": used, "over_bytes": used - usable, "argument_bytes": None,
      "temporary_bytes": None, "bytes_per_flop": None, "collectives": None,
      "reason": str(error).splitlines()[0][:300], "usable_bytes": usable,
      "memory_bytes": limit,
    }  # fmt: skip
  memory = made.memory_analysis()
  peak = int(memory.peak_memory_in_bytes)  # the TPU compiler reports it
  return {
    "fits": peak <= limit,
    "peak_bytes": peak,
    "over_bytes": max(peak - limit, 0),
    "usable_bytes": limit,
    "memory_bytes": limit,
    "argument_bytes": int(memory.argument_size_in_bytes),
    "temporary_bytes": int(memory.temp_size_in_bytes),
    "bytes_per_flop": _bytes_per_flop(made),
    "collectives": hlo.table(hlo.collectives(made.as_text(), mesh.shape)),
  }


def _bytes_per_flop(made: Any) -> float | None:
  """Bytes read and written per FLOP, by XLA's count of the program; None if it has none.

  A ratio, because XLA counts the body of a loop once.
  """
  costs = made.cost_analysis()
  costs = costs[0] if isinstance(costs, list) else costs or {}
  found = costs.get("bytes accessed"), costs.get("flops")
  return None if None in found or not found[1] else found[0] / found[1]


def _bytes_used(message: str) -> tuple[float, float]:
  """'Used 18.86G of 15.75G hbm' -> (used, usable); of one part if the total is not given."""
  units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  size = r"([\d.]+)([KMGT])"
  found = re.search(rf"[Uu]sed {size} of {size}", message) or re.search(
    rf"\({size}\).*?\({size}\)", message
  )
  if not found:
    return math.nan, math.nan
  return float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]
