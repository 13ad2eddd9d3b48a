"""The one table that maps logical axis names to mesh axes.

Parameters are declared with logical names (`axes=('embed', 'mlp')`), activations are constrained
with them (`constrain(x, 'batch', 'frames', None, None)`). Only this file knows the mesh axes:

  data    replicates the state and shards the batch; the only axis that may cross slices
  fsdp    shards the batch too, and every parameter
  seq     shards frames, tokens or rows of a frame (context parallelism), and every parameter
  tensor  shards heads and mlp columns
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from videojax import settings
from videojax.errors import ConfigError
from videojax.settings import MOST, Range

MESH_AXES = ("data", "fsdp", "seq", "tensor")
Size = Annotated[int, Range(-1, MOST)]  # of a mesh axis

# logical name -> mesh axes; None: never sharded.
RULES: dict[str, tuple[str, ...] | None] = {
  # activations
  "batch": ("data", "fsdp"),
  "frames": ("seq",),  # of the token grid [frames, tokens of a frame]
  "tokens": ("seq",),  # where frames are not sharded, or do not divide
  "rows": ("seq",),  # of a frame, in autoencoders, which take frames in chunks
  "sequence": ("seq",),  # frames and tokens merged
  "act_heads": ("tensor",),
  "act_mlp": ("tensor",),
  # parameters
  "layers": None,
  "embed": ("fsdp", "seq"),
  "mlp": ("tensor",),
  "heads": ("tensor",),
  "head_dim": None,
  "vocab": None,
  "patch": None,
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes; one of them may be -1, which takes the remaining devices."""

  data: Size = -1
  fsdp: Size = 1
  seq: Size = 1
  tensor: Size = 1

  def __post_init__(self):
    settings.check(self)
    sizes = dataclasses.astuple(self)
    if sum(size == -1 for size in sizes) > 1 or any(size < 1 and size != -1 for size in sizes):
      raise ValueError(f"mesh={dataclasses.asdict(self)}: sizes must be >= 1; one may be -1")


def mesh_sizes(config: MeshConfig, devices: int, slices: int = 1) -> list[int]:
  """The sizes of the mesh axes on this number of devices.

  Raises:
    ConfigError: their product is not that number, or `data` is not a multiple of the slices.
  """
  sizes = list(dataclasses.astuple(config))
  if -1 in sizes:
    rest = math.prod(size for size in sizes if size != -1)
    sizes[sizes.index(-1)] = max(devices // rest, 1)
  if math.prod(sizes) != devices:
    raise ConfigError(
      f"mesh {dict(zip(MESH_AXES, sizes))} needs {math.prod(sizes)} devices, but there are "
      f"{devices}: change the config's `mesh`"
    )
  if sizes[0] % slices:
    raise ConfigError(
      f"mesh.data={sizes[0]} is not a multiple of the {slices} slices: only `data` crosses the "
      "network between slices"
    )
  return sizes


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
  """A mesh with the axes (data, fsdp, seq, tensor) over all devices.

  Raises:
    ConfigError: see `mesh_sizes`.
  """
  devices = jax.devices() if devices is None else devices
  slices = number_of_slices(devices)
  sizes = mesh_sizes(config, len(devices), slices)
  auto = (AxisType.Auto,) * len(sizes)  # explicit: make_mesh's default varies between releases
  if devices[0].platform != "tpu":
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=auto, devices=devices)
  return Mesh(_on_torus(sizes, slices, devices), MESH_AXES, axis_types=auto)


def local_mesh(batch: int) -> Mesh:
  """This process's devices, as many as divide a batch; parameters are sharded over them, too."""
  devices = jax.local_devices()
  ways = math.gcd(batch, len(devices))
  return make_mesh(MeshConfig(data=1, fsdp=ways), devices[:ways])


def number_of_slices(devices: list[jax.Device]) -> int:
  """Number of TPU slices, which the data-centre network connects; 1 for other devices."""
  if devices[0].platform != "tpu":
    return 1
  return len({getattr(device, "slice_index", None) for device in devices})


def _on_torus(sizes: list[int], slices: int, devices: list[jax.Device]) -> np.ndarray:
  """Places TPUs so that mesh axes are rings of the interconnect; `data` spans the slices."""
  if slices == 1:
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  return mesh_utils.create_hybrid_device_mesh(
    (sizes[0] // slices, *sizes[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
  )


def spec(
  axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
  """The PartitionSpec of an array with logical names `axes`.

  A mesh axis shards the first dimension whose rule names it and that it divides. If a rule names
  several mesh axes, those that divide the dimension into the most shards are used. In a parameter,
  a mesh axis that does not divide its dimension shards another one, the largest first. `fallbacks`
  lists every deviation from the rules.

  Raises:
    ValueError: a logical name is not in RULES.
  """
  if len(axes) != len(shape):
    raise ValueError(f"axes {axes} name {len(axes)} dimensions, but {shape} has {len(shape)}")
  taken: list[tuple[str, ...]] = []
  for name, size in zip(axes, shape):
    if name is not None and name not in RULES:
      raise ValueError(f"unknown logical axis {name!r}: sharding.RULES has {sorted(RULES)}")
    free = [a for a in RULES[name] or () if a not in sum(taken, ())] if name is not None else []
    taken.append(_most_that_divide(size, free, mesh))
  if "embed" in axes:
    for axis in RULES["embed"] or ():
      dims = [i for i in range(len(shape)) if axes[i] != "layers"]
      for i in sorted(dims, key=lambda i: -shape[i]):
        if axis not in sum(taken, ()):
          more = (*taken[i], axis)
          taken[i] = more if _most_that_divide(shape[i], more, mesh) == more else taken[i]
  return PartitionSpec(*((t if len(t) > 1 else t[0]) if t else None for t in taken))


def _most_that_divide(size: int, axes: Sequence[str], mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
  """Those of the mesh axes (of size > 1) that divide `size` evenly into the most shards."""
  axes = [a for a in axes if mesh.shape[a] > 1]
  ways = lambda some: math.prod(mesh.shape[a] for a in some)
  some = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]
  return max((c for c in some if size % ways(c) == 0), key=ways)


def entry_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes of one entry of a PartitionSpec."""
  return (entry,) if isinstance(entry, str) else entry or ()


def fallbacks(
  axes: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> list[str]:
  """A line for each mesh axis that does not shard this array as RULES says."""
  found, split = [], [entry_axes(entry) for entry in spec(axes, shape, mesh)]
  for name, size, own in zip(axes, shape, split):
    rule = RULES[name] or () if name is not None else ()
    for axis in rule:
      if mesh.shape[axis] == 1 or axis in own:
        continue
      other = next((i for i, e in enumerate(split) if axis in e), None)
      where = f"replicated over {axis}"
      if other is not None:
        where = f"sharding {axes[other]}={shape[other]} instead"
      found.append(f"{name}={size} is not divisible by {axis}={mesh.shape[axis]}: {where}")
  return found


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains an activation's sharding by logical names; a no-op outside `jax.set_mesh`."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def splits(name: str) -> bool:
  """Whether the current mesh may shard the logical axis `name`; False outside `jax.set_mesh`."""
  mesh = jax.sharding.get_abstract_mesh()
  return not mesh.empty and any(mesh.shape[axis] > 1 for axis in RULES[name] or ())


def param_shardings(
  params: Any, axes: dict[str, tuple[str | None, ...]], mesh: Mesh | AbstractMesh
) -> Any:
  """Shardings of a nested dict of (abstract) parameters from their logical axes by path."""

  def one(path, leaf):
    return NamedSharding(mesh, spec(axes[path_name(path)], leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(one, params)


def like_params(tree: Any, params: Any, shardings: Any, mesh: Mesh | AbstractMesh) -> Any:
  """Shardings for a pytree that contains copies of parameters (moments, EMA).

  A leaf whose path ends in a parameter's path, and which has its shape, is sharded like that
  parameter; all other leaves (counters) are replicated.
  """
  by_path = {
    path_name(path): (leaf.shape, sharding)
    for (path, leaf), sharding in zip(
      jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings)
    )
  }
  replicated = NamedSharding(mesh, PartitionSpec())

  def one(path, leaf):
    parts = path_name(path).split("/")
    for start in range(len(parts)):
      shape, sharding = by_path.get("/".join(parts[start:]), (None, None))
      if shape == leaf.shape:
        return sharding
    return replicated

  return jax.tree_util.tree_map_with_path(one, tree)


def path_name(path: tuple) -> str:
  """'blocks/attention/qkv/kernel' for a key path of jax.tree_util."""
  return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of a nested dict by path."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def put_batch(batch: Any, mesh: Mesh, global_rows: int, lead: int = 0) -> Any:
  """Makes global arrays, sharded over (data, fsdp), from this process's rows of a batch.

  Args:
    batch: pytree of arrays [*lead, rows, ...].
    mesh: of the run.
    global_rows: B.
    lead: number of axes before the rows (several batches in one dispatch).
  """

  def one(x):
    x = np.asarray(x)
    shape = (*x.shape[:lead], global_rows, *x.shape[lead + 1 :])
    sharding = batch_sharding(mesh, shape, lead)
    if jax.process_count() == 1:
      return jax.device_put(x, sharding)
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return jax.tree.map(one, batch)


@functools.lru_cache
def batch_sharding(mesh: Mesh, shape: tuple[int, ...], lead: int = 0) -> NamedSharding:
  """Sharding of a batch whose rows are axis `lead`."""
  axes = (None,) * lead + ("batch",) + (None,) * (len(shape) - lead - 1)
  return NamedSharding(mesh, spec(axes, shape, mesh))


def whole_batch(rows: int, mesh: Mesh | AbstractMesh) -> int:
  """`rows`, rounded up to a multiple of the number of devices that shard a batch."""
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  return -(-rows // ways) * ways


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
  """Indices of the rows of the global batch that are on this process's devices."""
  sharding = batch_sharding(mesh, (batch_size,))
  spans = {
    s[0].indices(batch_size)[:2]
    for s in sharding.addressable_devices_indices_map((batch_size,)).values()
    if s is not None
  }
  return np.concatenate([np.arange(a, b) for a, b in sorted(spans)])
