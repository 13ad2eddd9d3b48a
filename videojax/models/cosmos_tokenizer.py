"""NVIDIA's Cosmos tokenizers of video: CV (continuous) and DV (discrete); 4x8x8, 8x8x8, 8x16x16.

1 + 8k (or 1 + 4k) frames become 1 + k latents; the first frame is an image of its own. Cubes of
4x4x4 pixels become channels by two levels of a Haar transform, so that the network runs at a
quarter of each resolution. No frame depends on a later one. In chunks, everything but the middle
keeps its last frames (causal.Stream); the middle, whose attention sees all earlier frames, always
runs on the whole clip: each of its activations has at most two thirds of the video's numbers.

Source: NVIDIA 2025, arXiv:2501.03575, section 4; the computation and all parameters are those of
diffusers' AutoencoderKLCosmos (0.42.1), and of CausalContinuousVideoTokenizer and
CausalDiscreteVideoTokenizer in NVIDIA's Cosmos-Tokenizer.

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import cosmos_names, cosmos_statistics, layers
from videojax.models.attention import KERNELS, attention
from videojax.models.causal import GRID, CausalConv, Stream, fold, in_chunks
from videojax.models.haar import haar, unhaar
from videojax.models.layers import Linear
from videojax.models.quantize import FSQ
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import (
  ATTEND,
  FAN_IN,
  SPACE,
  TIME,
  Conv,
  GroupNorm,
  Keys,
  double,
  on_tokens,
)  # fmt: skip
from videojax.settings import Depth, Natural, Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video
PATCH = 4  # side of the cubes of pixels


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels of the encoder's first convolution.
    multipliers, decoder_multipliers: channels of each level in units of the width, finest first.
    space, time: how often the resolution and the number of frames are halved after the patches.
    blocks: number per level in the encoder; one more in the decoder.
    inner: channels that the encoder gives and the decoder takes.
    channels: Z, after one more product.
    levels: DV: of each of the Z numbers of a code (quantize.FSQ); CV: none.
    dtype: of matmuls and convolutions; parameters stay fp32.
    kernel: of attention within a frame (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  decoder_multipliers: tuple[Depth, ...]
  space: Natural
  time: Natural
  blocks: Depth
  inner: Width
  channels: Width
  levels: tuple[Width, ...]
  dtype: str = "float32"
  kernel: str = "auto"

  def __post_init__(self):
    settings.check(self)
    if not (self.multipliers and self.decoder_multipliers):
      raise ValueError("multipliers and decoder_multipliers must have at least one level each")
    for down in (True, False):
      steps = [level.step for level in levels(self, down) if level.step]
      if (sum(s for s, _ in steps), sum(t for _, t in steps)) != (self.space, self.time):
        raise ValueError(
          f"space={self.space} and time={self.time} do not fit the levels of "
          f"{'multipliers' if down else 'decoder_multipliers'}: the encoder halves in its first "
          "levels, the decoder doubles frames from its second one on, and none after the last"
        )
    if self.levels and len(self.levels) != self.channels:
      raise ValueError(
        f"levels={self.levels} must have one entry per number of a code: channels={self.channels}"
      )
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    check_choice("attention kernel", self.kernel, KERNELS)

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, after the first frame."""
    side = PATCH * 2**self.space
    return PATCH * 2**self.time, side, side


def _size(space: int, time: int, codes: tuple[int, ...], **changes: Any) -> dict[str, Any]:
  return dict(
    width=128, multipliers=(2, 4, 4), decoder_multipliers=(2, 4, 4), space=space, time=time,
    blocks=2, inner=16, channels=len(codes) or 16, levels=codes,
  ) | changes  # fmt: skip


_CODES = (8, 8, 8, 5, 5, 5)  # 64,000 codes
SIZES: dict[str, dict[str, Any]] = {
  "CV4x8x8": _size(1, 0, (), decoder_multipliers=(2, 4)),
  "CV8x8x8": _size(1, 1, ()),
  "CV8x16x16": _size(2, 1, ()),
  "DV4x8x8": _size(1, 0, _CODES),
  "DV8x8x8": _size(1, 1, _CODES),
  "DV8x16x16": _size(2, 1, _CODES),
}


class Level(NamedTuple):
  """Blocks at one resolution, and whether the step after them is in space, and in time."""

  blocks: tuple[tuple[int, int], ...]  # input and output channels of each
  step: tuple[bool, bool] | None


def levels(cfg: Config, down: bool) -> list[Level]:
  """The levels of the encoder (`down`) or the decoder, in the order of the forward pass."""
  multipliers = cfg.multipliers if down else cfg.decoder_multipliers[::-1]
  c, out = cfg.width * (1 if down else multipliers[0]), list[Level]()
  for i, multiplier in enumerate(multipliers):
    width = cfg.width * multiplier
    blocks = ((c, width), *[(width, width)] * (cfg.blocks - down))
    # The decoder doubles frames one level later than it could, as published.
    time = i < cfg.time if down else 0 < i <= cfg.time
    space = i < cfg.space if down else time or i < cfg.space > cfg.time
    step = (space, time) if i + 1 < len(multipliers) and (space or time) else None
    out.append(Level(blocks, step))
    c = width
  return out


class Factorised(nnx.Module):
  """A convolution within each frame, then one along time, which sees no later frame."""

  def __init__(self, c_in: int, c_out: int, axes: tuple[str | None, str | None], **kw: Any):
    self.space = Conv(c_in, c_out, SPACE, axes, **kw)
    self.time = CausalConv(c_out, c_out, TIME, (axes[1], None), before="first", **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    return constrain(self.time(constrain(self.space(x), *GRID, None), stream), *GRID, None)


class Norm(GroupNorm):
  """One group of all channels of a frame."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    super().__init__(channels, 1, frames=False, eps=1e-6, rngs=rngs)


class Block(nnx.Module):
  """A residual block of two factorised convolutions."""

  def __init__(self, c_in: int, c_out: int, **kw: Any):
    self.norm1 = Norm(c_in, rngs=kw["rngs"])
    self.conv1 = Factorised(c_in, c_out, ("embed", None), **kw)
    self.norm2 = Norm(c_out, rngs=kw["rngs"])
    self.conv2 = Factorised(c_out, c_out, ("embed", None), **kw)
    self.shortcut = _matrix(c_in, c_out, **kw) if c_in != c_out else None

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    y = self.conv1(jax.nn.silu(self.norm1(x)), stream)
    y = self.conv2(jax.nn.silu(self.norm2(y)), stream)
    return constrain(y + (x if self.shortcut is None else self.shortcut(x)), *GRID, None)


def _matrix(c_in: int, c_out: int, **kw: Any) -> Linear:
  return Linear((c_in,), (c_out,), ("embed", None), init=FAN_IN, **kw)


class Attention(nnx.Module):
  """Self-attention with one head, within each frame or to earlier frames at each position."""

  def __init__(self, c: int, over: Any, kernel: str, **kw: Any):
    self.norm = Norm(c, rngs=kw["rngs"])
    self.q, self.k, self.v, self.out = (_matrix(c, c, **kw) for _ in range(4))
    self.over, self.kernel = over, kernel

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    return constrain(x + on_tokens(self.norm(x), self.over, [self._attend]), *GRID, None)

  def _attend(self, x: Array) -> Array:
    q, k, v = self.q(x), self.k(x), self.v(x)
    if self.over == "time":
      return self.out(_to_earlier(q, k, v))
    head = lambda y: y[..., None, :]  # [B,T,HW,1,C]
    y = attention(head(q), head(k), head(v), axes=ATTEND["space"], kernel=self.kernel)
    return self.out(y[..., 0, :])


def _to_earlier(q: Array, k: Array, v: Array) -> Float[Array, "B H W T C"]:
  """Attention along T to frames that are not later; there are few, so all logits are stored."""
  f32: dict[str, Any] = dict(preferred_element_type=jnp.float32)
  logits = jnp.einsum("bhwsc,bhwlc->bhwsl", q, k, **f32) * q.shape[-1] ** -0.5
  seen = layers.lead(jnp.tril(jnp.ones(logits.shape[-2:], bool)), logits)
  weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf))
  return jnp.einsum("bhwsl,bhwlc->bhwsc", weights.astype(v.dtype), v, **f32).astype(v.dtype)


class Down(nnx.Module):
  """Halves resolution and frames, each by a strided convolution plus means; then a product."""

  def __init__(self, c: int, space: bool, time: bool, **kw: Any):
    axes, halved = ("embed", None), dict(strides=(2, 1, 1), **kw)
    self.space = Conv(c, c, SPACE, axes, stride=2, after=True, **kw) if space else None
    self.time = CausalConv(c, c, TIME, axes, **halved) if time else None
    self.mix = _matrix(c, c, **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    if self.space is not None:
      x = constrain(self.space(x) + means(x, (1, 2, 2)), *GRID, None)  # [B,T,H/2,W/2,C]
    if self.time is not None:
      # Twice before frame 0 stands that frame; the mean of the first pair sees it once.
      x = before(x, 1, stream)
      x = self.time(before(x, 1, stream), stream) + means(x, (2, 1, 1))  # [B,(T+1)/2,..]
    return constrain(self.mix(x), *GRID, None)


class Up(nnx.Module):
  """Doubles frames (but for frame 0) and resolution, each with a convolution; then a product."""

  def __init__(self, c: int, space: bool, time: bool, **kw: Any):
    axes = ("embed", None)
    self.time = CausalConv(c, c, TIME, axes, before="first", **kw) if time else None
    self.space = Conv(c, c, SPACE, axes, **kw) if space else None
    self.mix = _matrix(c, c, **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    if self.time is not None:
      x = jnp.repeat(x, 2, 1)[:, int(stream.first) :]  # [B,2T-1,H,W,C], later [B,2T,H,W,C]
      x = constrain(x + self.time(x, stream), *GRID, None)
    if self.space is not None:
      x = double(x, 2 * x.shape[2], 2 * x.shape[3])  # [B,T,2H,2W,C]
      x = constrain(x + self.space(x), *GRID, None)
    return constrain(self.mix(x), *GRID, None)


def before(x: Float[Array, "B T H W C"], frames: int, stream: Stream) -> Array:
  """The first chunk with its first frame repeated `frames` times before it; others as they are."""
  if not stream.first:
    return x
  return jnp.concatenate([jnp.broadcast_to(x[:, :1], (len(x), frames, *x.shape[2:])), x], 1)


def means(x: Float[Array, "B T H W C"], factors: tuple[int, int, int]) -> Array:
  """Of blocks of this many frames and pixels."""
  y = fold(x, factors, "cthw")  # [B,t,h,w,C i j k]
  return y.reshape(*y.shape[:-1], x.shape[-1], -1).mean(-1)


class Coder(nnx.Module):
  """The layers of the encoder or decoder, which differ in the order of levels and middle."""

  def __init__(self, cfg: Config, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    made, cubes = levels(cfg, down), PIXELS * PATCH**3
    first, last = made[0].blocks[0][0], made[-1].blocks[-1][1]
    top, step = (last, Down) if down else (first, Up)
    self.conv_in = Factorised(cubes if down else cfg.inner, first, ("patch", "embed"), **kw)
    self.blocks: Any = numbered(
      numbered(Block(*shape, **kw) for shape in level.blocks) for level in made
    )
    steps = {str(i): (level.blocks[-1][1], level.step) for i, level in enumerate(made)}
    self.steps: Any = nnx.Dict({i: step(c, *how, **kw) for i, (c, how) in steps.items() if how})
    self.mid1, self.mid2 = (Block(top, top, **kw) for _ in range(2))
    self.within, self.along = (Attention(top, over, cfg.kernel, **kw) for over in ("space", "time"))
    self.norm_out = Norm(last, rngs=rngs)
    self.conv_out = Factorised(last, cfg.inner if down else cubes, ("embed", "patch"), **kw)

  def through(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    for i, blocks in enumerate(in_order(self.blocks)):
      for block in in_order(blocks):
        x = block(x, stream)
      x = self.steps[str(i)](x, stream) if str(i) in self.steps else x
    return x

  def middle(self, x: Float[Array, "B t h w C"]) -> Float[Array, "B t h w C"]:
    """Of the whole clip."""
    return self.mid2(self.along(self.within(self.mid1(x, Stream()))), Stream())

  def end(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    return self.conv_out(jax.nn.silu(self.norm_out(x)), stream)


class Encoder(Coder):
  """Video -> inner channels."""

  def __call__(self, video: Float[Array, "B T H W 3"], frames: int | None) -> Array:
    def lower(x: Array, stream: Stream) -> Array:
      x = haar(haar(before(x, PATCH - 1, stream)))  # [B,(T+3)/4,H/4,W/4,192]
      return self.through(self.conv_in(x, stream), stream)

    return self.end(self.middle(in_chunks(lower, video, 1, frames)), Stream())


class Decoder(Coder):
  """Inner channels -> video."""

  def __call__(self, x: Float[Array, "B t h w C"], frames: int | None) -> Array:
    def upper(x: Array, stream: Stream) -> Array:
      x = self.end(self.through(x, stream), stream).astype(jnp.float32)
      return unhaar(unhaar(x))[:, (PATCH - 1) * stream.first :]  # [B,4T-3,4H,4W,3]

    return in_chunks(upper, self.middle(self.conv_in(x, Stream())), 1, frames)


class Model(nnx.Module):
  """Video [B,1+8k,H,W,3] <-> latents [B,1+k,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, Keys(rngs.params())
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.encoder = Encoder(cfg, down=True, rngs=rngs)
    self.latent = _matrix(cfg.inner, cfg.channels, **kw)
    self.inner = _matrix(cfg.channels, cfg.inner, **kw)
    self.decoder = Decoder(cfg, down=False, rngs=rngs)

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Latents (DV: codes), and the log variance of latents that are certain: -inf.

    Args: frames: number of latent frames encoded together after the first, but for the middle;
      None: all.
    """
    chunk = None if frames is None else self.cfg.strides[0] * frames
    z = self.latent(self.encoder(constrain(video, *GRID, None), chunk)).astype(jnp.float32)
    z = FSQ(self.cfg.levels).quantize(z)[0] if self.cfg.levels else z
    return z, jnp.full_like(z, -jnp.inf)

  def decode(
    self, latent: Float[Array, "B t h w Z"], frames: int | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The video, about within [-1, 1].

    Args: frames: number of latent frames decoded together after the first, but for the middle;
      None: all.
    """
    return self.decoder(self.inner(constrain(latent, *GRID, None)), frames)


LAYOUTS, OTHER_PARTS = cosmos_names.LAYOUTS, cosmos_names.OTHER_PARTS
published_config = cosmos_names.published_config


def names(cfg: Config, layout: str = "diffusers") -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in AutoencoderKLCosmos or NVIDIA's files; layout there."""
  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  return {path: cosmos_names.published(path, layout, len(cfg.decoder_multipliers)) for path in info}


def unused(cfg: Config) -> tuple[str, ...]:
  """Beginnings of names in NVIDIA's files of convolutions that are never used."""
  used = {name for name, _ in names(cfg, "original").values()}
  return cosmos_names.unused(used, len(cfg.multipliers), len(cfg.decoder_multipliers))


def statistics(
  cfg: Config,
) -> tuple[Float[np.ndarray, "frames Z"], Float[np.ndarray, "frames Z"]]:
  """Mean and deviation of latents of the first frames, the last for all others: of CV8x8x8 (1.0).

  0 and 1 for other sizes, of which none are published.
  """
  if cfg.levels or cfg.channels != 16 or cfg.strides != (8, 8, 8):
    return np.zeros((1, cfg.channels)), np.ones((1, cfg.channels))
  return np.array(cosmos_statistics.MEAN).T, np.array(cosmos_statistics.DEVIATION).T
