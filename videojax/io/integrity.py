"""Detects changed bits: checksums of arrays, seals of JSON, fingerprints of files.

The checksums of arrays are computed before saving and after restoring, on the accelerator if there
is one, and do not depend on the mesh. Files have fingerprints so that a damaged one can be named.
"""

import functools
import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Array, Shaped, UInt32


def by_path(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a pytree by path ("opt_state/0/mu/w"), in the tree's order.

  Raises:
    ValueError: two leaves have the same path (a dict key contains a slash), or there are none.
  """
  pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
  leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
  if len(leaves) != len(pairs) or not leaves:
    raise ValueError(f"{len(pairs)} leaves have {len(leaves)} different paths (a '/' in a key?)")
  return leaves


def _mix(x: Any) -> Any:
  """A bijection of 32-bit words that spreads every bit over all (MurmurHash3's finaliser)."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def _terms(words: Any, index: Any) -> tuple[Any, Any]:
  """What each word adds to the two checksums at its flat index; numpy or jax, uint32."""
  place = _mix(index + np.uint32(0x9E3779B9))
  term = _mix(words ^ place)
  return term, term * (place | np.uint32(1))


@jax.jit
def device_checksum(x: Shaped[Array, "*shape"]) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
  """Two 32-bit checksums of an array's bits, independent of its sharding.

  Each is the sum, mod 2^32, of a bijection of each word, which the word's flat row-major index
  selects. So a change within one word is always detected; any other change is missed with
  probability about 2^-63.
  """
  if x.dtype == jnp.bool_:
    words = x.astype(jnp.uint32)
  else:
    bits = min(32, 8 * x.dtype.itemsize)  # 64-bit values become two words on a new last axis
    words = jax.lax.bitcast_convert_type(x, f"uint{bits}").astype(jnp.uint32)
  index = jnp.zeros(words.shape, jnp.uint32)  # axis by axis: a reshape would gather a sharded x
  for axis in range(words.ndim):
    stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
    index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
  first, second = _terms(words, index)
  return jnp.sum(first, dtype=jnp.uint32), jnp.sum(second, dtype=jnp.uint32)


def host_checksum(x: jax.Array) -> UInt32[np.ndarray, "2"]:
  """Returns this process's part of `device_checksum`, computed with numpy from its shards.

  For CPU devices: no copy and nothing to compile (a compilation per shape took seconds), and no
  collectives (with many in flight, CPU devices that share few cores deadlock).
  """
  total: Any = np.zeros(2, np.uint32)
  for shard in x.addressable_shards:
    if shard.replica_id != 0:
      continue
    data = np.ascontiguousarray(jax.device_get(shard.data))  # at least one axis
    words = data.view(f"uint{min(32, 8 * data.dtype.itemsize)}")  # 64-bit: last axis doubles
    split = words.shape[-1] // data.shape[-1]
    shape = (*x.shape[:-1], x.shape[-1] * split) if x.ndim else (1,)
    starts = [s.start or 0 for s in shard.index] or [0]
    starts[-1] *= split
    rows, *columns = (
      ((start + np.arange(n)) * math.prod(shape[axis + 1 :])).astype(np.uint32)
      for axis, (start, n) in enumerate(zip(starts, words.shape))
    )
    inner = functools.reduce(np.add.outer, columns, np.zeros((), np.uint32))
    group = max(1, 2**16 // inner.size)  # blocks that fit a core's cache
    for i in range(0, rows.size, group):
      index = np.add.outer(rows[i : i + group], inner)
      terms = _terms(words[i : i + group].astype(np.uint32), index)
      total = total + np.array([np.sum(term, dtype=np.uint32) for term in terms])
  return total


def checksums(leaves: dict[str, jax.Array]) -> dict[str, str]:
  """Returns both checksums of each array, as 16 hexadecimal digits; equal on all processes."""
  sums: Any
  if jax.default_backend() == "cpu":
    sums = np.stack([host_checksum(leaf) for leaf in leaves.values()])
    if jax.process_count() > 1:
      sums = np.sum(multihost_utils.process_allgather(sums), axis=0, dtype=np.uint32)
  else:
    sums = jax.device_get([device_checksum(leaf) for leaf in leaves.values()])
  return {path: f"{first:08x}{second:08x}" for path, (first, second) in zip(leaves, sums)}


def describe(leaves: dict[str, Any]) -> dict[str, list[Any]]:
  """Returns [shape, dtype, checksum as 16 hexadecimal digits] by path: JSON.

  Raises:
    ValueError: a leaf cannot be checkpointed: not a jax.Array, a typed key, complex, or empty.
  """
  for path, leaf in leaves.items():
    if not isinstance(leaf, jax.Array):
      raise ValueError(f"{path} is a {type(leaf).__name__}: only jax.Array can be checkpointed")
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or leaf.dtype.kind == "c" or not leaf.size:
      raise ValueError(
        f"{path} is {leaf.dtype}{list(leaf.shape)}: typed keys (store jax.random.key_data), complex"
        " and empty arrays cannot be checkpointed"
      )
  sums = checksums(leaves)
  return {path: [list(x.shape), str(x.dtype), sums[path]] for path, x in leaves.items()}


def differences(stored: dict[str, list[Any]], wanted: dict[str, jax.ShapeDtypeStruct]) -> list[str]:
  """Compares the result of `describe` with abstract leaves; a sentence for each difference."""
  has = {path: f"{dtype}{shape}" for path, (shape, dtype, _) in stored.items()}
  asks = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in wanted.items()}
  both = [p for p in asks if p in has and has[p] != asks[p]]
  return [
    *(f"{p} ({asks[p]}) is missing from the checkpoint" for p in asks if p not in has),
    *(f"{p} ({has[p]}) is in the checkpoint only" for p in has if p not in asks),
    *(f"{p} is {has[p]} in the checkpoint, {asks[p]} here" for p in both),
  ]


def params_sha256(params: Any) -> str:
  """Hashes a pytree of arrays by value: equal on any mesh, device count and process count.

  Leaves are hashed in the order of their path strings ("a/b/c"). For each: path, dtype and shape
  (as text, each followed by a zero byte), then the bytes of the whole array, row-major.

  Returns:
    SHA-256, 64 hexadecimal digits.
  """
  digest = hashlib.sha256()
  for path, leaf in sorted(by_path(params).items()):
    whole = leaf.is_fully_addressable or leaf.is_fully_replicated
    value = jax.device_get(leaf) if whole else multihost_utils.process_allgather(leaf, tiled=True)
    digest.update(f"{path}\0{value.dtype}\0{value.shape}\0".encode())
    digest.update(np.ascontiguousarray(value).tobytes())
  return digest.hexdigest()


def seal(body: dict[str, Any]) -> dict[str, Any]:
  """Wraps JSON with its SHA-256.

  Raises:
    ValueError: `body` is not JSON.
  """
  try:
    body = json.loads(json.dumps(body))  # hashed as it will be read: keys are strings
  except TypeError as error:
    raise ValueError(f"checkpoint metadata must be JSON: {error}") from error
  return {"body": body, "sha256": _json_sha256(body)}


def unseal(sealed: dict[str, Any]) -> dict[str, Any]:
  """Returns what was sealed; raises ValueError, KeyError or TypeError if it has changed."""
  if _json_sha256(sealed["body"]) != sealed["sha256"]:
    raise ValueError("its contents do not match its SHA-256")
  return sealed["body"]


def _json_sha256(body: Any) -> str:
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def fingerprint_files(directory: epath.Path) -> dict[str, tuple[int, str]]:
  """Returns size in bytes and SHA-256 of each file below `directory`, by relative path."""
  paths = [root / name for root, _, names in directory.walk() for name in names]
  with ThreadPoolExecutor(8) as pool:
    return dict(
      zip([str(path.relative_to(directory)) for path in paths], pool.map(_fingerprint, paths))
    )


def changed_files(directory: epath.Path, expected: dict[str, Any]) -> list[str]:
  """Compares files with the result of `fingerprint_files`; a sentence for each difference."""
  with ThreadPoolExecutor(8) as pool:
    found = pool.map(lambda name: _compare(directory / name, *expected[name]), expected)
    return [f"file {name} {problem}" for name, problem in zip(expected, found) if problem]


def _compare(path: epath.Path, size: int, sha256: str) -> str:
  try:
    if not path.exists():
      return "is missing"
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would block forever
      return "is not a file"
    found_size, found_sha256 = _fingerprint(path)
  except OSError as error:  # no permission, a failing device
    return f"cannot be read ({error.strerror or error})"
  if found_size != size:
    word = "truncated" if found_size < size else "too long"
    return f"is {word} ({found_size} of {size} bytes)"
  return "" if found_sha256 == sha256 else "does not contain the bytes that were written"


def _fingerprint(path: epath.Path) -> tuple[int, str]:
  with path.open("rb") as file:
    return path.stat().length, hashlib.file_digest(file, "sha256").hexdigest()
