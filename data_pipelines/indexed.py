"""Sources whose loader carries only an index, from which the device makes the example.

Shapes: B batch.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt32

ENDLESS = 2**31 - 1  # len() of an endless source


class Indexed:
  """Base class of such sources; a subclass defines `decode` of {'index': [B]}.

  Args:
    shape: of a clip, (T,H,W,C).
    clips: how many there are; None: endless.
  """

  def __init__(self, shape: tuple[int, int, int, int], clips: int | None):
    self.shape, self.finite = shape, clips is not None
    self._clips = ENDLESS if clips is None else clips

  def __len__(self) -> int:
    return self._clips

  def __getitem__(self, index: int | np.ndarray) -> dict[str, np.ndarray | np.uint32]:
    """What the loader carries for one index or an array of them: {'index': uint32}."""
    if np.min(index) < 0 or np.max(index) >= len(self):
      raise IndexError(f"index {index} is not in [0, {len(self)})")
    return {"index": np.asarray(index, np.uint32)[()]}


# One jitted function for all callers: equal configs compile once.
@functools.partial(jax.jit, static_argnums=(0, 1))
def make_clips(
  make_clip: Callable[[Any, Any], dict[str, Any]],
  config: Any,
  index: UInt32[Array | np.ndarray, " B"],
) -> dict[str, Any]:
  """make_clip(config, index) for every row; a clip does not depend on its batch."""
  return jax.vmap(functools.partial(make_clip, config))(index)


def stream(name: str) -> np.uint32:
  """A distinct number for each named stream of random numbers (a split, a scenario's split)."""
  return np.uint32(zlib.crc32(name.encode()))


def stream_key(seed: int, of: np.uint32, index: UInt32[Array | np.ndarray, ""]) -> PRNGKeyArray:
  """The key of one example; names the PRNG, so that no JAX flag changes the data."""
  words = jnp.array([np.uint32(seed), of])
  return jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), index)
