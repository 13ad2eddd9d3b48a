"""Layers of causal video autoencoders, in which no frame depends on a later one.

A clip of any length therefore fits into bounded memory: it is processed in chunks, and each
convolution keeps the last frames that it saw for the next chunk. There is one code for both: the
whole clip is a first chunk that holds all frames. Causal convolutions in time, which let images be
clips of one frame: Yu et al. 2024 (MAGVIT-v2), arXiv:2310.05737, section 3.3.

Shapes: B batch, T frames, H W height width, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.layers import Linear
from videojax.models.unet_layers import FAN_IN, convolve, last
from videojax.sharding import constrain

CUBE = (3, 3, 3)  # a kernel
GRID = ("batch", None, "rows", None)  # logical names of [B,T,H,W]
BEFORE = ("zeros", "first")  # what stands before the first frame: zeros, or the frame repeated
EDGE = ("zeros", "edge")  # what stands around a frame: zeros, or its outermost pixels repeated


class Stream:
  """The frames before a chunk that each layer needs, and those that it leaves for the next chunk.

  Layers run in the same order on every chunk, so each finds its own frames.

  Attributes:
    before: one array per layer; None: this is the first chunk.
    after: filled by the layers.
  """

  def __init__(self, before: Sequence[Array] | None = None):
    self.before, self.after = before, list[Array]()

  @property
  def first(self) -> bool:
    return self.before is None

  def join(self, x: Float[Array, "B T H W C"], frames: int, start: Array | None) -> Array:
    """The chunk with the last `frames` frames before it.

    Args: start: what stands before the first chunk; None: nothing, so that it is not prolonged.
    """
    past = self.before[len(self.after)] if self.before is not None else start
    x = x if past is None else jnp.concatenate([past.astype(x.dtype), x], 1)
    self.after.append(x[:, x.shape[1] - frames :])
    return x


Step = Callable[[Array, Stream], Array]


def in_chunks(step: Step, x: Float[Array, "B T ..."], first: int, frames: int | None) -> Array:
  """Applies a causal step to a clip, in chunks if told.

  Args:
    step: (chunk, stream) -> outputs, whose frames are concatenated.
    x: the clip.
    first: number of frames of the first chunk, which give the first output frame.
    frames: number of frames in each further chunk; None: the whole clip at once.
  """
  if frames is None:
    return step(x, Stream())

  def run(seen: Sequence[Array] | None, chunk: Array) -> tuple[list[Array], Array]:
    stream = Stream(seen)
    y = step(chunk, stream)
    return stream.after, y

  seen, y = run(None, x[:, :first])
  out, number = [y], (x.shape[1] - first) // frames
  if number:
    end = first + number * frames
    chunks = x[:, first:end].reshape(x.shape[0], number, frames, *x.shape[2:]).swapaxes(0, 1)
    seen, y = jax.lax.scan(run, seen, chunks)
    y = y.swapaxes(0, 1)  # [B,number,T,...]
    out.append(y.reshape(y.shape[0], -1, *y.shape[3:]))
    first = end
  if first < x.shape[1]:
    out.append(run(seen, x[:, first:])[1])
  return jnp.concatenate(out, 1)


class CausalConv(nnx.Module):
  """A convolution over [B,T,H,W,C] that sees no later frame; stride 1 keeps the size.

  Args:
    strides: in T, H, W; a stride in time has no frames before the first chunk.
    before, edge: see BEFORE and EDGE.
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
    strides: tuple[int, int, int] = (1, 1, 1),
    before: str = "zeros",
    edge: str = "zeros",
  ):
    names = (None, None, None, *axes)
    self.kernel = layers.param(rngs, FAN_IN, (*kernel, c_in, c_out), names, inputs=4)
    self.bias = layers.param(rngs, layers.ZEROS, (c_out,), axes[1:])
    check_choice("what stands before the first frame", before, BEFORE)
    check_choice("what stands around a frame", edge, EDGE)
    self.strides, self.before, self.edge, self.dtype = strides, before, edge, dtype

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    n, j, k = self.kernel.shape[:3]
    if n > 1:
      x = stream.join(x, n - self.strides[0], self._start(x, n - 1))
    sides = [(j // 2, j // 2), (k // 2, k // 2)]
    if self.edge == "edge":
      x, sides = jnp.pad(x, ((0, 0), (0, 0), *sides, (0, 0)), "edge"), [(0, 0), (0, 0)]
    if x.shape[1] < n:  # no output frame yet
      return jnp.zeros((x.shape[0], 0, *x.shape[2:4], self.bias.shape[0]), self.dtype)
    kernel = self.kernel[...].astype(self.dtype)
    y = convolve(x.astype(self.dtype), kernel, self.strides, [(0, 0), *sides])
    return y + last(self.bias, y)

  def _start(self, x: Array, frames: int) -> Array | None:
    """What stands before the first chunk."""
    if self.strides[0] > 1:
      return None
    shape = (x.shape[0], frames, *x.shape[2:])
    return (
      jnp.zeros(shape, x.dtype) if self.before == "zeros" else jnp.broadcast_to(x[:, :1], shape)
    )


class ChannelNorm(nnx.Module):
  """Scales each position to a root mean square of 1 over its channels, in fp32, times a gain.

  Args: eps: added to the mean square. With 0, as published, gradients are huge where all channels
    are almost 0, as they are at first where pixels are.
  """

  def __init__(self, channels: int, *, eps: float = 0.0, rngs: nnx.Rngs):
    self.eps = eps
    self.scale = layers.param(rngs, layers.ONES, (channels,), ("embed",))

  def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    y = x.astype(jnp.float32)
    square = jnp.square(y).mean(-1, keepdims=True) + self.eps
    y = y * jax.lax.rsqrt(jnp.maximum(square, 1e-24 / y.shape[-1]))
    return (y * last(self.scale, y)).astype(x.dtype)


class ResBlock(nnx.Module):
  """Two causal convolutions, each after a norm and SiLU, and a shortcut.

  Args: norm: (channels, rngs=) -> norm. conv: makes both convolutions, as CausalConv does.
  """

  def __init__(
    self,
    c_in: int,
    c_out: int,
    *,
    norm: Callable[..., Any] = ChannelNorm,
    conv: Callable[..., Any] = CausalConv,
    **kw: Any,
  ):
    self.norm1 = norm(c_in, rngs=kw["rngs"])
    self.conv1 = conv(c_in, c_out, CUBE, ("embed", None), **kw)
    self.norm2 = norm(c_out, rngs=kw["rngs"])
    self.conv2 = conv(c_out, c_out, CUBE, ("embed", None), **kw)
    matrix = lambda: Linear((c_in,), (c_out,), ("embed", None), init=FAN_IN, **kw)
    self.shortcut = matrix() if c_in != c_out else None

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    y = constrain(self.conv1(jax.nn.silu(self.norm1(x)), stream), *GRID, None)
    y = self.conv2(jax.nn.silu(self.norm2(y)), stream)
    return constrain(y + (x if self.shortcut is None else self.shortcut(x)), *GRID, None)


# --- space and time as channels ------------------------------------------------------------------


def fold(x: Float[Array, "B T H W C"], factors: tuple[int, int, int], order: str) -> Array:
  """Blocks of `factors` frames and pixels become channels: [B,t,h,w,C i j k].

  Args: order: of channels, slowest first: 'c' the old channel, 't' 'h' 'w' the place in a block.
  """
  (b, t, h, w, c), (i, j, k) = x.shape, factors
  x = x.reshape(b, t // i, i, h // j, j, w // k, k, c)
  places = {"t": 2, "h": 4, "w": 6, "c": 7}
  x = x.transpose(0, 1, 3, 5, *(places[name] for name in order))
  return x.reshape(b, t // i, h // j, w // k, c * i * j * k)


def unfold(x: Float[Array, "B T H W C"], factors: tuple[int, int, int], order: str) -> Array:
  """The inverse of `fold`."""
  (b, t, h, w, _), (i, j, k) = x.shape, factors
  sizes = {"t": i, "h": j, "w": k, "c": x.shape[-1] // (i * j * k)}
  x = x.reshape(b, t, h, w, *(sizes[name] for name in order))
  at = {name: 4 + order.index(name) for name in order}
  x = x.transpose(0, 1, at["t"], 2, at["h"], 3, at["w"], at["c"])
  return x.reshape(b, t * i, h * j, w * k, sizes["c"])
