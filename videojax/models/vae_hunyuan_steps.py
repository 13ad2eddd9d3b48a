"""Steps between levels of HunyuanVideo's autoencoders: Down and Up of 13B, Fold and Unfold of 1.5.

In a step in time the first frame of a clip is not merged with others, nor doubled.

Shapes: B batch, T frames, H W height width, t h w after a step, C channels, D after a step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax.models.causal import CUBE, GRID, CausalConv, Stream, fold, unfold
from videojax.models.unet_layers import double
from videojax.sharding import constrain

# Repeats the first frame and the outermost pixels.
repeating = functools.partial(CausalConv, before="first", edge="edge")


def apart(
  step: Callable[[Array, tuple[int, int, int]], Array],
  x: Float[Array, "B T H W C"],
  time: bool,
  first: bool,
) -> Array:
  """(frames, factors) -> frames, where a clip's frame 0 has no factor in time.

  Args:
    time: whether the other frames have.
    first: whether x begins with frame 0.
  """
  if not time or not first:
    return step(x, (2 if time else 1, 2, 2))
  image = step(x[:, :1], (1, 2, 2))
  return image if x.shape[1] == 1 else jnp.concatenate([image, step(x[:, 1:], (2, 2, 2))], 1)


class Down(nnx.Module):
  """Halves the resolution with a strided convolution."""

  def __init__(self, c: int, c_out: int, time: bool, **kw: Any):
    self.time = time
    strides = (2 if time else 1, 2, 2)
    self.conv = repeating(c, c_out, CUBE, ("embed", None), strides=strides, **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    if self.time:
      x = jnp.concatenate([x[:, :1], x[:, :1], x], 1)  # [B,2+T,H,W,C]
    return constrain(self.conv(x, stream), *GRID, None)  # [B,t,h,w,C]


class Up(nnx.Module):
  """Repeats positions, and all frames but the first; then a convolution."""

  def __init__(self, c: int, c_out: int, time: bool, **kw: Any):
    self.time = time
    self.conv = repeating(c, c_out, CUBE, ("embed", None), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    h, w = 2 * x.shape[2], 2 * x.shape[3]
    larger = lambda x, factors: double(jnp.repeat(x, factors[0], 1), h, w)
    return constrain(self.conv(apart(larger, x, self.time, True), stream), *GRID, None)


class FoldDown(nnx.Module):
  """Folds positions into channels, and adds the folded input with its channels averaged (1.5)."""

  def __init__(self, c: int, c_out: int, time: bool, **kw: Any):
    self.time, self.width = time, c_out
    self.conv = repeating(c, c_out // (8 if time else 4), CUBE, ("embed", None), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    y = apart(self._twice, self.conv(x, stream), self.time, stream.first)  # [B,t,h,w,D]
    x = apart(self._averaged, x, self.time, stream.first)
    return constrain(x + y, *GRID, None)

  def _twice(self, x: Array, factors: tuple[int, int, int]) -> Array:
    """Frame 0, which has half the number of channels, has them twice."""
    x = fold(x, factors, "thwc")
    return jnp.tile(x, (1, 1, 1, 1, self.width // x.shape[-1]))

  def _averaged(self, x: Array, factors: tuple[int, int, int]) -> Array:
    x = fold(x, factors, "thwc")
    return x.reshape(*x.shape[:-1], self.width, -1).mean(-1)


class UnfoldUp(nnx.Module):
  """Unfolds channels into positions, and adds the unfolded input, its channels repeated (1.5)."""

  def __init__(self, c: int, c_out: int, time: bool, **kw: Any):
    self.time, self.width = time, c_out
    self.conv = repeating(c, c_out * (8 if time else 4), CUBE, ("embed", None), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    # Of frame 0, which has twice the number of channels, the first half is used.
    halved = lambda x, factors: unfold(x, factors, "thwc")[..., : self.width]
    y = apart(halved, self.conv(x, stream), self.time, stream.first)  # [B,T,H,W,D]
    x = apart(self._repeated, x, self.time, stream.first)
    return constrain(x + y, *GRID, None)

  def _repeated(self, x: Array, factors: tuple[int, int, int]) -> Array:
    x = unfold(x, factors, "thwc")
    return jnp.repeat(x, self.width // x.shape[-1], -1)
