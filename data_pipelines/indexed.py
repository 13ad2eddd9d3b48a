"""Sources that carry an index and make the example from it on the device.

Alphabet: B batch.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt32

ENDLESS = 2**31 - 1  # examples of a source without an end


class Indexed:
  """What such sources have in common; a subclass decodes {'index': [B]}.

  Args:
    shape: of a clip, (T,H,W,C).
    clips: how many there are; None: it does not end.
  """

  def __init__(self, shape: tuple[int, int, int, int], clips: int | None):
    self.shape, self.finite = shape, clips is not None
    self._clips = ENDLESS if clips is None else clips

  def __len__(self) -> int:
    return self._clips

  def __getitem__(self, index: int | np.ndarray) -> dict[str, Any]:
    """What is carried of example `index`, or of many: the index."""
    if np.min(index) < 0 or np.max(index) >= len(self):
      raise IndexError(f"index {index} is not in [0, {len(self)})")
    return {"index": np.asarray(index, np.uint32)[()]}


# Compiled once for equal configs, wherever it is called from.
@functools.partial(jax.jit, static_argnums=(0, 1))
def make_clips(
  make_clip: Callable[[Any, Any], dict[str, Any]],
  config: Any,
  index: UInt32[Array | np.ndarray, " B"],
) -> dict[str, Any]:
  """make_clip(config, index) of every row: each clip is the same in any batch."""
  return jax.vmap(functools.partial(make_clip, config))(index)


def stream(name: str) -> np.uint32:
  """A number of its own for each stream of random numbers (a split, a scenario's split)."""
  return np.uint32(zlib.crc32(name.encode()))


def stream_key(seed: int, of: np.uint32, index: UInt32[Array | np.ndarray, ""]) -> PRNGKeyArray:
  """The key of one example. Implementation named, so that no flag of jax changes the data."""
  words = jnp.array([np.uint32(seed), of])
  return jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), index)
