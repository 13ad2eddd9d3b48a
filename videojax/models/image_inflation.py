"""Layers that inflate an image U-Net to video, as in Lumiere.

At initialisation they are the identity, or nearest-frame resampling.

Source: Bar-Tal et al. 2024, arXiv:2401.12945. The kernels (two frames at stride two, three frames
within blocks) and the norms before each are our interpretation.

Shapes: B batch, T frames, H W height width, C channels.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from videojax.models import layers
from videojax.models.layers import Init, Linear
from videojax.models.unet_layers import (
  ATTEND,
  GRID,
  SPACE,
  TIME,
  Attention,
  Conv,
  GroupNorm,
  on_tokens,
)  # fmt: skip
from videojax.sharding import constrain


class Nearest(Init):
  """Nearest frame: of two frames [2C] the first, or one frame [C] twice."""

  def std(self, fan_in: int | float, fan_out: int | float) -> float:
    # One 1 among the inputs: with this std muP does not rescale it at any width.
    return 1 / math.sqrt(fan_in)

  def draw(self, key: Array, shape: tuple[int, ...], inputs: int) -> Array:
    one = jnp.eye(shape[-1])
    return jnp.stack([one, 0 * one]) if inputs == 2 else jnp.stack([one, one], 1)


NEAREST = Nearest("nearest frame")


class Halve(nnx.Module):
  """Two frames -> one, with a temporal convolution of two frames at stride two."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    axes, kw = (None, "embed", None), dict[str, Any](rngs=rngs, dtype=dtype, init=NEAREST)
    self.conv = Linear((2, channels), (channels,), axes, **kw)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    b, t, *rest = x.shape
    pairs = jnp.moveaxis(x.reshape(b, t // 2, 2, *rest), 2, 4)  # [B,T/2,H,W,2,C]
    return constrain(self.conv(constrain(pairs, *GRID, None, None)), *GRID, None)


class Double(nnx.Module):
  """One frame -> two, the transpose of Halve's convolution."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    axes, kw = ("embed", None, None), dict[str, Any](rngs=rngs, dtype=dtype, init=NEAREST)
    self.conv = Linear((channels,), (2, channels), axes, **kw)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    b, t, *rest = x.shape
    pairs = constrain(self.conv(x), *GRID, None, None)  # [B,T,H,W,2,C]
    return constrain(jnp.moveaxis(pairs, 4, 2).reshape(b, 2 * t, *rest), *GRID, None)


class Convolutions(nnx.Module):
  """Inflation with a spatial and a temporal convolution, and a projection that starts at 0."""

  def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype)
    axes = ("embed", None)
    self.norm1 = GroupNorm(channels, groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_space = Conv(channels, channels, SPACE, axes, **kw)
    self.norm2 = GroupNorm(channels, groups, frames=True, eps=1e-5, rngs=rngs)
    self.conv_time = Conv(channels, channels, TIME, axes, **kw)
    self.project = Linear((channels,), (channels,), axes, init=layers.ZEROS, **kw)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    y = constrain(self.conv_space(jax.nn.silu(self.norm1(x))), *GRID, None)
    y = constrain(self.conv_time(jax.nn.silu(self.norm2(y))), *GRID, None)
    return constrain(x + self.project(jax.nn.silu(y)), *GRID, None)


class TimeAttention(nnx.Module):
  """Inflation with temporal attention at each position, and a projection that starts at 0.

  It has no position embeddings: the zero-padded convolutions of the other levels encode positions.
  """

  def __init__(self, cfg: Any, channels: int, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=layers.ZEROS)
    self.norm = GroupNorm(channels, cfg.groups, frames=True, eps=1e-6, rngs=rngs)
    self.attention = Attention(cfg, channels, channels, rngs=rngs)
    self.proj_out = Linear((channels,), (channels,), ("embed", None), **kw)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    attend = lambda y: self.attention(y, ATTEND["time"])  # [B,H,W,T,C]
    y = on_tokens(self.norm(x), "time", (attend, self.proj_out))
    return constrain(x + y, *GRID, None)
