"""Are these the same bits? Checksums of arrays, seals of JSON, fingerprints of files.

Array checksums are computed on the device, before and after a checkpoint travels; they depend on
no mesh. Files are fingerprinted only so that a damaged one can be named.
"""

import hashlib
import json
import math
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
    ValueError: two leaves have one path (a dict key holds a slash), or there are none.
  """
  pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
  leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
  if len(leaves) != len(pairs) or not leaves:
    raise ValueError(f"{len(pairs)} leaves have {len(leaves)} different paths (a '/' in a key?)")
  return leaves


def _mix(x: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
  """A bijection of 32-bit words that spreads every bit over all (MurmurHash3's finaliser)."""
  x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
  x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


@jax.jit
def checksum(x: Shaped[Array, "*shape"]) -> tuple[UInt32[Array, ""], UInt32[Array, ""]]:
  """Two 32-bit checksums of an array's bits, the same whatever its sharding.

  Each is the sum, mod 2^32, of mix(word ^ mix(index + seed)). mix is a bijection, so any change
  within one word is certain to be found; any other is missed with probability about 2^-64.
  (Odd multipliers in place of mix would find the first too, but never two flipped sign bits.)
  """
  if x.dtype == jnp.bool_:
    words = x.astype(jnp.uint32)
  else:
    bits = min(32, 8 * x.dtype.itemsize)  # 64-bit values become two words on a new last axis
    words = jax.lax.bitcast_convert_type(x, f"uint{bits}").astype(jnp.uint32)
  index = jnp.zeros(words.shape, jnp.uint32)  # by axes: a reshape would gather a sharded x
  for axis in range(words.ndim):
    stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
    index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
  seeds = np.uint32(0x9E3779B9), np.uint32(0x243F6A88)
  first, second = (jnp.sum(_mix(words ^ _mix(index + s)), dtype=jnp.uint32) for s in seeds)
  return first, second


def describe(leaves: dict[str, jax.Array]) -> dict[str, list[Any]]:
  """Returns [shape, dtype, checksum as 16 hexadecimal digits] by path: JSON.

  Raises:
    ValueError: a leaf cannot be checkpointed: no jax.Array, a typed key, complex, or empty.
  """
  for path, leaf in leaves.items():
    if not isinstance(leaf, jax.Array):
      raise ValueError(f"{path} is a {type(leaf).__name__}: only jax.Array can be checkpointed")
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) or leaf.dtype.kind == "c" or not leaf.size:
      raise ValueError(
        f"{path} is {leaf.dtype}{list(leaf.shape)}: typed keys (store jax.random.key_data), complex"
        " and empty arrays cannot be checkpointed"
      )
  sums = jax.device_get({path: checksum(leaf) for path, leaf in leaves.items()})
  return {
    path: [list(leaf.shape), str(leaf.dtype), f"{sums[path][0]:08x}{sums[path][1]:08x}"]
    for path, leaf in leaves.items()
  }


def differences(stored: dict[str, list[Any]], wanted: dict[str, Any]) -> list[str]:
  """Compares what `describe` said with abstract leaves; a sentence for each that differs."""
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

  Leaves in the order of their path strings ("a/b/c"); of each: path, dtype and shape (as text,
  each ended by a zero byte), then the bytes of the whole array, row-major.

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
  """Returns what was sealed; ValueError, KeyError or TypeError where it is not that."""
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
  """Compares files with what `fingerprint_files` said; a sentence for each that differs."""
  with ThreadPoolExecutor(8) as pool:
    found = pool.map(lambda name: _compare(directory / name, *expected[name]), expected)
    return [f"file {name} {problem}" for name, problem in zip(expected, found) if problem]


def _compare(path: epath.Path, size: int, sha256: str) -> str:
  if not path.exists():
    return "is missing"
  found_size, found_sha256 = _fingerprint(path)
  if found_size != size:
    word = "truncated" if found_size < size else "too long"
    return f"is {word} ({found_size} of {size} bytes)"
  return "" if found_sha256 == sha256 else "has other bytes than were written"


def _fingerprint(path: epath.Path) -> tuple[int, str]:
  with path.open("rb") as file:
    return path.stat().length, hashlib.file_digest(file, "sha256").hexdigest()
