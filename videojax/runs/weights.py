"""Reads and writes published weights, safetensors files, with an explicit map of names.

A model file that has a published counterpart defines `names(cfg)`: path of a parameter ->
(published name, layout). If programs name its tensors differently, it has `LAYOUTS`, of which the
one that fits the file best is taken. Every tensor must be used exactly once; otherwise the missing,
extra and misshapen ones are listed and nothing is loaded. One tensor at a time is in memory (two
while a copy is compared), and each device gets its shard.
"""

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from videojax.errors import ConfigError
from videojax.io.files import write_json
from videojax.io.tensors import INDEX, STEM, Tensors, write
from videojax.models.contract import modules
from videojax.models.layers import ParamInfo

SHARD_BYTES = 5_000_000_000
# Number of axes of size 1 after (out, in) in a published matrix, by layout.
ONES = {"weight": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}
VECTORS = {"vector": 0, "vector2d": 2, "vector3d": 3}


# --- layouts ----------------------------------------------------------------------------------


def there(layout: str, shape: tuple[int, ...], inputs: int) -> tuple[int, ...]:
  """The PyTorch shape of one of our parameters.

  Args:
    layout: 'table': unchanged; 'vector': flattened; 'vector2d', 'vector3d': and followed by two or
      three axes of size 1; 'weight': (*kernel, in, out) becomes
      (out, in, *kernel), without the kernel's first axis if its size is 1, and a matrix becomes
      (out, in); 'conv1d', 'conv2d', 'conv3d': a matrix published as a convolution of kernel size 1;
      'conv3d' also: a kernel that keeps its first axis.
    shape: of our parameter.
    inputs: ParamInfo.inputs.
  """
  if layout == "table":
    return shape
  if layout in VECTORS:
    return (math.prod(shape),) + (1,) * VECTORS[layout]
  if len(shape) == 5 and inputs == 4:
    images = shape[0] == 1 and layout != "conv3d"
    return (shape[4], shape[3], *(shape[1:3] if images else shape[:3]))
  matrix = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
  return matrix + (1,) * ONES[layout]


def from_torch(value: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
  """Converts a tensor, of `there`'s shape, to our parameter, of shape `shape`."""
  if layout not in ("table", *VECTORS):
    value = np.moveaxis(value, (0, 1), (-1, -2))
  return value.reshape(shape)


def to_torch(value: np.ndarray, layout: str, inputs: int) -> np.ndarray:
  """The inverse of `from_torch`."""
  shape = there(layout, value.shape, inputs)
  if layout not in ("table", *VECTORS):
    value = np.moveaxis(value.reshape(*shape[2:], shape[1], shape[0]), (-1, -2), (0, 1))
  return np.asarray(value.reshape(shape), order="C")  # keeps a scalar a scalar


# --- in and out -------------------------------------------------------------------------------


def published_names(
  module: ModuleType, config: Any, have: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
  """`names(config)` of a model file.

  Args: have: names in a file; of a model's LAYOUTS of names the one that has most of them counts.
  Raises:
    ConfigError: it has none; the message names the architectures that do.
  """
  if not hasattr(module, "names"):
    raise ConfigError(
      f"model {module.__name__.split('.')[-1]!r} has no published layout (no names() in its file), "
      f"so its weights cannot be imported or exported; these have one: {', '.join(_published())}"
    )
  if not have or not hasattr(module, "LAYOUTS"):
    return module.names(config)
  known = [module.names(config, layout) for layout in module.LAYOUTS]
  return max(known, key=lambda names: sum(name in have for name, _ in names.values()))


def _without_copies(
  tensors: Tensors, module: ModuleType, config: Any
) -> dict[str, tuple[int, ...]]:
  """Shapes by name, without what is of other networks, is never used or only repeats another."""
  unused = getattr(module, "unused", lambda config: ())
  elsewhere = (*getattr(module, "OTHER_PARTS", ()), *unused(config))
  have = {n: s for n, s in tensors.shape.items() if not n.startswith(elsewhere)}
  for copy, name in getattr(module, "COPIES", {}).items():
    if copy in have and name in have:
      if not np.array_equal(tensors.read(copy), tensors.read(name)):
        raise ConfigError(
          f"{copy} and {name} of {tensors.file[name]} differ, but the network has one tensor for "
          "both: whatever wrote the file has damaged one of them"
        )
      del have[copy]
  return have


def _published() -> list[str]:
  """Networks with a published layout."""
  has = lambda module: hasattr(module, "names") and hasattr(module, "Model")
  return [name for name, module in modules().items() if has(module)]


def load(
  path: Path,
  module: ModuleType,
  config: Any,
  info: Mapping[str, ParamInfo],
  abstract: Mapping[str, jax.ShapeDtypeStruct],
  fresh: str | None = None,
) -> dict[str, Array]:
  """Loads parameters by path from published weights, in float32, sharded as in `abstract`.

  Args:
    path: see tensors.Tensors.
    module, config: a model file with `names`, and its Config.
    info: of its parameters.
    abstract: shapes and shardings of its parameters.
    fresh: regular expression; parameters whose path matches it (from the start) are not loaded.
  Raises:
    ConfigError: tensors are missing, extra, misshapen or not finite, or a copy differs; the message
      names them.
  """
  tensors = Tensors(path)
  taken = lambda p: not (fresh and re.match(fresh, p))
  published = published_names(module, config, tensors.shape.keys())
  names = {p: n for p, n in published.items() if taken(p)}
  want = {
    name: there(layout, abstract[p].shape, info[p].inputs) for p, (name, layout) in names.items()
  }
  have = _without_copies(tensors, module, config)
  wrong = {
    "only in this model: name them with init_fresh": sorted(
      p for p in abstract if taken(p) and p not in names
    ),
    "missing": sorted(want.keys() - have.keys()),
    "extra": sorted(have.keys() - want.keys()),
    "misshapen": [
      f"{n} {have[n]} there, {want[n]} here"
      for n in sorted(want.keys() & have.keys())
      if have[n] != want[n]
    ],
  }
  if any(wrong.values()):
    listed = "; ".join(f"{what}: {_some(names)}" for what, names in wrong.items() if names)
    raise ConfigError(f"{path} does not fit model {module.__name__.split('.')[-1]!r}: {listed}")

  def one(p: str, name: str, layout: str) -> Array:
    value = from_torch(tensors.read(name), layout, abstract[p].shape)
    get = lambda index: value[index]
    return jax.make_array_from_callback(value.shape, abstract[p].sharding, get)

  return {p: one(p, name, layout) for p, (name, layout) in names.items()}


def _some(names: list[str], most: int = 8) -> str:
  more = f" and {len(names) - most} more" if len(names) > most else ""
  return ", ".join(names[:most]) + more


def save(
  directory: Path,
  module: ModuleType,
  config: Any,
  info: Mapping[str, ParamInfo],
  params: Mapping[str, Array],
  shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
  """Writes float32 parameters in the published layout, with an index if there are several files.

  Args:
    directory: destination; gets a `config.json` too if the model file has `published_config`.
    module, config, info: as in `load`.
    params: by path.
    shard_bytes: approximate size of a file; this much is in memory at a time.
  Returns: the files.
  """
  names, parts, filled = published_names(module, config), list[list[str]](), shard_bytes
  for path in sorted(names, key=lambda p: names[p][0]):
    if filled >= shard_bytes:
      parts.append([])
      filled = 0
    parts[-1].append(path)
    filled += 4 * params[path].size
  directory.mkdir(parents=True, exist_ok=True)
  files, where = list[Path](), dict[str, str]()
  for i, part in enumerate(parts, 1):
    several = f"-{i:05d}-of-{len(parts):05d}" if len(parts) > 1 else ""
    file = directory / f"{STEM}{several}.safetensors"
    tensors = {names[p][0]: _host(params[p], names[p][1], info[p].inputs) for p in part}
    where |= dict.fromkeys(tensors, file.name)
    write(file, tensors)
    files.append(file)
  if len(parts) > 1:
    index = directory / f"{STEM}.safetensors{INDEX}"
    size = 4 * sum(x.size for x in params.values())
    write_json(index, {"metadata": {"total_size": size}, "weight_map": where})
    files.append(index)
  if hasattr(module, "published_config"):
    write_json(directory / "config.json", module.published_config(config))
    files.append(directory / "config.json")
  return files


def _host(value: Array, layout: str, inputs: int) -> np.ndarray:
  return to_torch(np.asarray(jax.device_get(value), np.float32), layout, inputs)
