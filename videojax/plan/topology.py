"""A run compiled for TPUs that are not here: does it fit, what does it send, how long at least.

XLA's TPU compiler runs on any machine (extra `tpu`); it knows each chip's memory and network, and
allocates nothing.
"""

import contextlib
import dataclasses
import importlib.util
import math
import re
import time
from collections.abc import Iterator
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
from videojax.runs.program import Program, check_divides, compile_sample, compile_step
from videojax.scaling import roofline
from videojax.sharding import MESH_AXES, MeshConfig, make_mesh, mesh_sizes
from videojax.task import Task

STEPS = ("train", "sample")
FORMS = (
  "It is chip:shape, e.g. v5e:4x4, v5p:2x2x1, v5p:4x4x4, v6e:16x16, tpu7x:4x4x4, or gcloud's "
  "v5litepod-16, v5p-32; GPUs by number: h100:8"
)
# Of a step, on two cores (docs/LOG.md: 15 to 60 s of a loop); a busy machine takes some times more.
MINUTES = {"loop": "1 minute", "unrolled": "5 minutes"}
MOST = 2**14  # chips of a slice, more than any has


def open_topology(name: str, slices: int = 1) -> list[jax.Device]:
  """Devices of a TPU slice, to compile for.

  Args:
    name: chip and shape: 'v5p:4x4x4', 'v5e:16x16', 'tpu7x:4x4x4'; or as `shape_of` takes it.
    slices: of this shape, joined by the data centre's network.
  Raises:
    ConfigError: no such topology, or the extra is not installed.
  """
  if importlib.util.find_spec("libtpu") is None:
    raise ConfigError("--topology needs the TPU compiler: pip install 'videojax[tpu]'")
  settings_of_no_tpu()
  name = shape_of(name)
  extra: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
  if name.startswith("v4"):
    extra["chip_config_name"] = "megacore"  # one device a chip
  if name.partition(":")[2] in ("1x1", "1x1x1"):
    extra["chips_per_host_bounds"] = (1, 1, 1)
  try:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **extra)
  except jax.errors.JaxRuntimeError as error:
    raise ConfigError(f"--topology={name}: {str(error).splitlines()[0]}. {FORMS}") from None
  return list(topology.devices)


def shape_of(name: str) -> str:
  """'v5litepod-16', or v5e-16, gcloud's name of a slice -> 'v5e:4x4'; 'v5e:4x4' as it is.

  gcloud counts chips, of v4 and v5p cores, two a chip; the shape is its default one.

  Raises:
    ConfigError: neither.
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
  """(kind, number) of 'h100:8': there is no compiler for GPUs that are not here, all is counted."""
  kind, _, number = name.partition(":")
  if kind not in GPUS:
    return None
  if not re.fullmatch("[1-9][0-9]{0,4}", number):
    raise ConfigError(f"--topology={name}: GPUs are given by their number, e.g. {kind}:8")
  return GPUS[kind], int(number)


def check_mesh(e: Experiment, devices: int, slices: int = 1) -> None:
  """The mesh is of so many devices in so many slices, and splits the batch evenly.

  Raises:
    ConfigError: with the flags of a mesh and a batch that would do.
  """
  sized = e.on_devices(devices)
  try:
    sizes = mesh_sizes(e.mesh, devices, slices)
    check_divides(sized, AbstractMesh(tuple(sizes), MESH_AXES))
  except ConfigError as error:
    raise ConfigError(f"{error}. This would fit: {_nearest(sized, devices, slices)}") from None


def _nearest(e: Experiment, devices: int, slices: int) -> str:
  """Flags: of the config's mesh, what these devices can keep, and of its batch a bit more."""
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
  """The flag of a batch for a config that says how many clips each device has."""
  return f"--config.clips_per_device={batch / devices:g}"


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
  """Programs are made for the devices of this mesh, which need not be here."""
  config: Any = jax.config
  cached = config.jax_enable_compilation_cache
  config.update("jax_enable_compilation_cache", False)  # it could not load what it kept
  try:
    with compiling_for(mesh.devices.flat[0].platform), jax.set_mesh(mesh):
      yield
  finally:
    config.update("jax_enable_compilation_cache", cached)


def compile_for(e: Experiment, devices: list[jax.Device], step: str = "train") -> dict[str, Any]:
  """Compiles every kind of batch for these devices; an out-of-memory is a result.

  Args:
    e: resolved.
    devices: of a topology.
    step: 'train', or 'sample': the evaluation's batch of samples.
  Returns: per device: fits, peak_bytes, argument_bytes, temporary_bytes, over_bytes (by how much it
    does not fit), collectives; of the kind of batch with the largest peak. mesh is of all.
  """
  mesh = make_mesh(e.mesh, devices)
  with on(mesh):
    program = Program(e, mesh)
    attention = e.model.module.describe(e.model.config, mesh)
    make = compile_step if step == "train" else compile_sample
    minutes = MINUTES["loop" if e.model.scan else "unrolled"]
    found = []
    for name, task in program.tasks.items():
      print(f"{name}: compiling the {step} step, about {minutes}", flush=True)
      started = time.monotonic()
      found.append(compiled(make, program, task, mesh))
      print(f"{name}: compiled in {clock_text(time.monotonic() - started)}", flush=True)
  worst = max(found, key=lambda f: f["peak_bytes"])
  flags = {"xla_flags": list(e.xla_flags), "unknown_flags": program.unknown_flags}
  return {"attention": attention, "step": step} | flags | worst


def compiled(make: Any, program: Program, task: Task, mesh: Mesh) -> dict[str, Any]:
  """What the compiler says of one program."""
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
      "temporary_bytes": None, "collectives": None, "reason": str(error).splitlines()[0][:300],
      "usable_bytes": usable, "memory_bytes": limit,
    }  # fmt: skip
  memory = made.memory_analysis()
  peak = int(memory.peak_memory_in_bytes)  # which a TPU's compiler knows
  return {
    "fits": peak <= limit,
    "peak_bytes": peak,
    "over_bytes": max(peak - limit, 0),
    "usable_bytes": limit,
    "memory_bytes": limit,
    "argument_bytes": int(memory.argument_size_in_bytes),
    "temporary_bytes": int(memory.temp_size_in_bytes),
    "collectives": hlo.table(hlo.collectives(made.as_text(), mesh.shape)),
  }


def _bytes_used(message: str) -> tuple[float, float]:
  """'Used 18.86G of 15.75G hbm' -> (used, usable); of a part where the whole is not said."""
  units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
  size = r"([\d.]+)([KMGT])"
  found = re.search(rf"[Uu]sed {size} of {size}", message) or re.search(
    rf"\({size}\).*?\({size}\)", message
  )
  if not found:
    return math.nan, math.nan
  return float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]
