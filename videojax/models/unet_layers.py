"""Layers that video U-Nets share; a clip keeps its five axes throughout, [B,T,H,W,C].

Spatial convolutions have kernels (1,3,3), temporal ones (3,1,1), so that no sharded axis is ever
merged with another. Frames are sharded over seq; if seq does not divide them, only attention is
sharded, because on some meshes XLA's partitioner sums a kernel's gradient wrongly over sharded
rows.

Shapes: B batch, T frames, H W height width, C channels, D width of tokens, S tokens that attend to
each other, K heads, E head dim, L text tokens, M width of the time embedding.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from videojax.models import layers
from videojax.models.attention import attention, platform
from videojax.models.elementwise import gelu, layer_norm
from videojax.models.layers import Init, Linear
from videojax.sharding import constrain, splits


class FanIn(Init):
  """Uniform within +-1 / sqrt(fan in): PyTorch's default, with which published U-Nets start."""

  def std(self, fan_in: int | float, fan_out: int | float) -> float:
    return 1 / math.sqrt(3 * fan_in)


FAN_IN = FanIn("fan_in")
SPACE, TIME = (1, 3, 3), (3, 1, 1)  # kernels
GRID = ("batch", "frames", None, None)  # logical names of [B,T,H,W]


class Conv(nnx.Module):
  """A convolution over [B,T,H,W,C], zero padded so that stride 1 keeps the size.

  Args:
    after: pad only the end of each axis, as latent diffusion's VAE does with stride 2.
  """

  def __init__(
    self,
    c_in: int,
    c_out: int,
    kernel: tuple[int, int, int],
    axes: tuple[str | None, str | None],
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    stride: int = 1,
    after: bool = False,
    init: Init = FAN_IN,
    bias: bool = True,
  ):
    names = (None, None, None, *axes)
    self.kernel = layers.param(rngs, init, (*kernel, c_in, c_out), names, inputs=4)
    self.bias = layers.param(rngs, layers.ZEROS, (c_out,), axes[1:]) if bias else None
    self.stride, self.after, self.dtype = (1, stride, stride), after, dtype

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    zeros = [(0 if self.after else n // 2, n // 2) for n in self.kernel.shape[:3]]
    y = convolve(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.stride, zeros)
    return y if self.bias is None else y + last(self.bias, y)


def convolve(
  x: Float[Array, "B T H W C"],
  kernel: Float[Array, "i j k C D"],
  stride: tuple[int, int, int],
  zeros: Sequence[tuple[int, int]],
) -> Float[Array, "B t h w D"]:
  """A convolution; zeros: how many stand before and after each of T, H, W."""
  # Gathered first, and never sharded over tensor: XLA's partitioner can compute wrong sums for a
  # convolution with sharded channels.
  kernel = constrain(kernel, *[None] * 5)
  n = kernel.shape[0]
  whole = n > 1 and platform() != "cpu"  # a CPU takes eight times as long for it as for images
  if kernel.shape[1:3] != (1, 1) and (whole or splits("frames")):
    how: dict[str, Any] = dict(dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))
    return jax.lax.conv_general_dilated(x, kernel, stride, zeros, **how)
  x = jnp.pad(x, ((0, 0), zeros[0], (0, 0), (0, 0), (0, 0)))
  end = x.shape[1] - n + 1
  taps = [
    _on_images(x[:, i : i + end : stride[0]], kernel[i], stride[1:], zeros[1:]) for i in range(n)
  ]
  return functools.reduce(operator.add, taps)


def _on_images(
  x: Float[Array, "B T H W C"],
  kernel: Float[Array, "j k C D"],
  stride: tuple[int, ...],
  zeros: Sequence[tuple[int, int]],
) -> Float[Array, "B T h w D"]:
  """Convolves each frame alone."""
  if kernel.shape[:2] == (1, 1) and stride == (1, 1):
    # A matrix product: on some meshes the partitioner counts this gradient once per replica.
    return layers.product(x, kernel[0, 0])
  # Frames as a batch of images: merges two axes, of which at most the first is sharded.
  flat = x.reshape(-1, *x.shape[2:])
  how: dict[str, Any] = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
  y = jax.lax.conv_general_dilated(flat, kernel, stride, zeros, **how)
  return y.reshape(*x.shape[:2], *y.shape[1:])


def last(p: nnx.Param, x: Array) -> Array:
  """A vector, reshaped to broadcast along the last axis of x."""
  return layers.lead(p[...].astype(x.dtype), x)


class GroupNorm(nnx.Module):
  """Group norm over each frame, or over all frames; statistics in fp32 (Wu & He 2018)."""

  def __init__(self, channels: int, groups: int, *, frames: bool, eps: float, rngs: nnx.Rngs):
    self.scale = layers.param(rngs, layers.ONES, (channels,), ("embed",))
    self.bias = layers.param(rngs, layers.ZEROS, (channels,), ("embed",))
    self.groups, self.eps = groups, eps
    self.over = (1, 2, 3) if frames else (2, 3)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    y = x.astype(jnp.float32)
    y = y - self.mean(y)
    y = y * (jax.lax.rsqrt(self.mean(jnp.square(y)) + self.eps) * last(self.scale, y))
    return (y + last(self.bias, y)).astype(x.dtype)

  def mean(self, y: Float[Array, "B T H W C"]) -> Float[Array, " B #T 1 1 C"]:
    """The mean of each channel's group, via means of channels, so that y is not split in groups."""
    mean = y.mean(self.over, keepdims=True)
    groups = mean.reshape(*mean.shape[:-1], self.groups, -1).mean(-1)
    return jnp.repeat(groups, y.shape[-1] // self.groups, axis=-1)


class LayerNorm(nnx.Module):
  """Layer norm with scale and bias; statistics in fp32."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    self.scale = layers.param(rngs, layers.ONES, (width,), ("embed",))
    self.bias = layers.param(rngs, layers.ZEROS, (width,), ("embed",))

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    y = layer_norm(x.astype(jnp.float32), eps=1e-5)
    return (y * last(self.scale, y) + last(self.bias, y)).astype(x.dtype)


class Keys(nnx.Rngs):
  """Counts keys in Python.

  nnx.Rngs counts in the program, which takes quadratic time (U-Nets have up to 1,600 tensors).
  """

  def __init__(self, key: Array):
    self.key, self.drawn = key, 0

  def params(self) -> Array:
    self.drawn += 1
    return jax.random.fold_in(self.key, self.drawn)


# --- convolutions -----------------------------------------------------------------------------


class ResNet(nnx.Module):
  """Two spatial convolutions, with the noise level added between them, and a shortcut.

  Args:
    time: width of the noise level's embedding; 0: no noise level.
    over: 'time': temporal convolutions, with norms over all frames.
  """

  def __init__(
    self, c_in: int, c_out: int, time: int, groups: int, *, eps: float, rngs: nnx.Rngs,
    dtype: DTypeLike, over: Literal["space", "time"] = "space",
  ):  # fmt: skip
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype)
    kernel, frames = (SPACE, False) if over == "space" else (TIME, True)
    self.norm1 = GroupNorm(c_in, groups, frames=frames, eps=eps, rngs=rngs)
    self.conv1 = Conv(c_in, c_out, kernel, ("embed", None), **kw)
    self.time = Linear((time,), (c_out,), ("embed", None), init=FAN_IN, **kw) if time else None
    self.norm2 = GroupNorm(c_out, groups, frames=frames, eps=eps, rngs=rngs)
    self.conv2 = Conv(c_out, c_out, kernel, ("embed", None), **kw)
    wider = c_in != c_out
    self.shortcut = Linear((c_in,), (c_out,), ("embed", None), init=FAN_IN, **kw) if wider else None

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"] | None = None
  ) -> Array:
    y = self.conv1(jax.nn.silu(self.norm1(x)))
    if self.time is not None and c is not None:
      y = y + self.time(jax.nn.silu(c))[:, :, None, None]
    y = constrain(y, *GRID, None)
    y = self.conv2(jax.nn.silu(self.norm2(y)))
    x = x if self.shortcut is None else self.shortcut(x)
    return constrain(x + y, *GRID, None)


class TemporalConv(nnx.Module):
  """Four temporal convolutions; the last starts at zero: frames are independent at first."""

  def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    for n in range(1, 5):
      init = layers.ZEROS if n == 4 else FAN_IN
      conv = Conv(channels, channels, TIME, ("embed", None), init=init, rngs=rngs, dtype=dtype)
      setattr(self, f"norm{n}", GroupNorm(channels, groups, frames=True, eps=1e-5, rngs=rngs))
      setattr(self, f"conv{n}", conv)

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    y = x
    for n in range(1, 5):
      norm, conv = getattr(self, f"norm{n}"), getattr(self, f"conv{n}")
      y = constrain(conv(jax.nn.silu(norm(y))), *GRID, None)
    return x + y


def double(x: Float[Array, "B T H W C"], height: int, width: int) -> Array:
  """Nearest-neighbour upsampling by two, cropped to [B,T,height,width,C]."""
  b, t, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, :, None, :, None], (b, t, h, 2, w, 2, c))
  return x.reshape(b, t, 2 * h, 2 * w, c)[:, :, :height, :width]


# --- attention --------------------------------------------------------------------------------


Over = Literal["space", "time"]  # attention within each frame, or across frames at each position
SPLIT: dict[Over, tuple[str | None, ...]] = {  # logical axis names of tokens with their channels
  "space": ("batch", "frames", "tokens", None),  # [B,T,HW,C]
  "time": ("batch", "tokens", None, "frames", None),  # [B,H,W,T,C]
}
ATTEND: dict[Over, tuple[str | None, ...]] = {  # the `axes` argument of `attention`
  "space": ("batch", "frames", "sequence"),
  "time": ("batch", "tokens", None, "sequence"),
}


def on_tokens(
  x: Float[Array, "B T H W C"], over: Over, steps: Iterable[Callable[[Array], Array]]
) -> Float[Array, "B T H W C"]:
  """Applies the steps in order to x in token layout (SPLIT)."""
  y = x.reshape(*x.shape[:2], -1, x.shape[-1]) if over == "space" else jnp.moveaxis(x, 1, 3)
  # The same sharding before and after each matrix: if they differ, XLA's partitioner can omit the
  # sum over devices in the matrix's gradient.
  y = constrain(y, *SPLIT[over])
  for step in steps:
    y = constrain(step(y), *SPLIT[over])
  return y.reshape(x.shape) if over == "space" else jnp.moveaxis(y, 3, 1)


class Attention(nnx.Module):
  """Self-attention, or attention to tokens of width `source`; only the output has a bias."""

  def __init__(self, cfg: Any, width: int, source: int, *, rngs: nnx.Rngs):
    heads = (width // cfg.head_dim, cfg.head_dim)
    axes = ("embed", "heads", "head_dim")
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=FAN_IN)
    self.q = Linear((width,), heads, axes, bias=False, **kw)
    self.k = Linear((source,), heads, axes, bias=False, **kw)
    self.v = Linear((source,), heads, axes, bias=False, **kw)
    self.out = Linear(heads, (width,), (*axes[1:], "embed"), **kw)
    self.kernel, self.context = cfg.kernel, cfg.context

  def __call__(
    self,
    x: Float[Array, "*B S D"],
    axes: tuple[str | None, ...],
    text: Float[Array, "rows L text"] | None = None,
  ) -> Float[Array, "*B S D"]:
    how: dict[str, Any] = dict(axes=axes, kernel=self.kernel, context=self.context)
    q = self.q(x)  # [*B,S,K,E]
    if text is None:
      return self.out(attention(q, self.k(x), self.v(x), **how))
    # Keys and values of the text are computed once per clip and broadcast to every frame.
    k, v = (
      jnp.broadcast_to(y[:, None], (*q.shape[:2], *y.shape[1:]))
      for y in (self.k(text), self.v(text))
    )  # two [B,T,L,K,E]
    return self.out(attention(q, k, v, keys=None, **how))


class FeedForward(nnx.Module):
  """An mlp of four times the width, gated with GELU (GEGLU, Shazeer 2020)."""

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype, init=FAN_IN)
    self.up = Linear((width,), (2, 4 * width), ("embed", None, "mlp"), **kw)
    self.down = Linear((4 * width,), (width,), ("mlp", "embed"), **kw)

  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    value, gate = self.up.parts(x)  # two [*B,4D]
    return self.down(value * gelu(gate))


class TransformerBlock(nnx.Module):
  """Self-attention, cross-attention or a second self-attention, feed-forward; all pre-norm."""

  def __init__(self, cfg: Any, width: int, *, text: int, again: bool, rngs: nnx.Rngs):
    make = lambda source: Attention(cfg, width, source, rngs=rngs)
    self.norm1, self.attention = LayerNorm(width, rngs=rngs), make(width)
    self.norm2 = LayerNorm(width, rngs=rngs) if text or again else None
    self.cross = make(text) if text else None
    self.again = make(width) if again else None
    self.norm3 = LayerNorm(width, rngs=rngs)
    self.ff = FeedForward(width, rngs=rngs, dtype=jnp.dtype(cfg.dtype))

  def __call__(self, x: Array, axes: tuple[str | None, ...], text: Array | None) -> Array:
    x = x + self.attention(self.norm1(x), axes)
    second = self.again if self.cross is None else self.cross
    if second is not None and self.norm2 is not None:
      x = x + second(self.norm2(x), axes, text)
    return x + self.ff(self.norm3(x))


class Transformer(nnx.Module):
  """One transformer block within each frame ('space'), or across frames at each position ('time').

  Group norm comes first: over each frame for 'space', over all frames for 'time'. A temporal block
  has two self-attentions and sees no text.

  Args:
    cfg: has head_dim, groups, text, dtype, kernel and context.
    heads: number of heads; None: as many as fit into the channels.
  """

  def __init__(
    self, cfg: Any, channels: int, over: Over, *, heads: int | None = None, rngs: nnx.Rngs
  ):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=FAN_IN)
    d, time = (heads or channels // cfg.head_dim) * cfg.head_dim, over == "time"
    self.norm = GroupNorm(channels, cfg.groups, frames=time, eps=1e-6, rngs=rngs)
    self.proj_in = Linear((channels,), (d,), ("embed", None), **kw)
    text = 0 if time else cfg.text or 0
    self.block = TransformerBlock(cfg, d, text=text, again=time, rngs=rngs)
    self.proj_out = Linear((d,), (channels,), (None, "embed"), **kw)
    self.over = over

  def __call__(
    self, x: Float[Array, "B T H W C"], text: Array | None = None
  ) -> Float[Array, "B T H W C"]:
    block = lambda y: self.block(y, ATTEND[self.over], text)
    steps = (self.proj_in, block, self.proj_out)
    return constrain(x + on_tokens(self.norm(x), self.over, steps), *GRID, None)
