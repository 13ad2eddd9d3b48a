"""Wan's causal video autoencoders: 2.1 (4x8x8, 16 channels) and 2.2 (4x16x16, 48 channels).

1 + 4k frames become 1 + k latents. The first frame is an image of its own: it is not merged in time
on the way down, nor doubled on the way up. The published code keeps a cache per convolution; the
closed form below equals it, on whole clips and in chunks (causal.Stream).

Source: Wan team 2025, arXiv:2503.20314, section 4.1; the computation and all parameters are those
of diffusers' AutoencoderKLWan (0.42.1), and of `wan/modules/vae.py` and `vae2_2.py`.

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.attention import KERNELS, attention
from videojax.models.causal import (
  CUBE,
  GRID,
  CausalConv,
  ChannelNorm,
  ResBlock,
  Stream,
  fold,
  in_chunks,
  unfold,
)
from videojax.models.layers import Linear
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import (
  ATTEND,
  FAN_IN,
  SPACE,
  TIME,
  Conv,
  Keys,
  double,
  on_tokens,
)  # fmt: skip
from videojax.settings import Depth, Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width, decoder_width: channels at full resolution.
    multipliers: channels of each level in units of the width; each level has half the resolution of
      the previous one.
    time: whether the step after each level but the last also halves the number of frames.
    blocks: number per level in the encoder; one more in the decoder.
    shortcuts: 2.2: each level adds its input, with its channels averaged or repeated, and patches
      of 2x2 pixels come first.
    channels: Z.
    dtype: of matmuls and convolutions; parameters stay fp32.
    kernel: of attention (attention.py).
  """

  width: Width
  decoder_width: Width
  multipliers: tuple[Depth, ...]
  time: tuple[bool, ...]
  blocks: Depth
  shortcuts: bool
  channels: Width
  dtype: str = "float32"
  kernel: str = "auto"

  def __post_init__(self):
    settings.check(self)
    if not self.multipliers or len(self.time) != len(self.multipliers) - 1:
      raise ValueError(
        f"time={self.time} must have one entry fewer than multipliers={self.multipliers}"
      )
    if self.shortcuts and self.multipliers[-1] > self.multipliers[-2]:
      raise ValueError(
        f"multipliers={self.multipliers}: with shortcuts the last level cannot have more channels "
        "than the one before it, whose average it adds"
      )
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    check_choice("attention kernel", self.kernel, KERNELS)

  @property
  def patch(self) -> int:
    return 2 if self.shortcuts else 1

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, after the first frame."""
    side = self.patch * 2 ** len(self.time)
    return 2 ** sum(self.time), side, side


_WAN = dict(multipliers=(1, 2, 4, 4), time=(False, True, True), blocks=2)
SIZES: dict[str, dict[str, Any]] = {
  "2.1": dict(_WAN, width=96, decoder_width=96, shortcuts=False, channels=16),
  "2.2": dict(_WAN, width=160, decoder_width=256, shortcuts=True, channels=48),
  # For a CPU; ours.
  "nano": dict(
    width=16, decoder_width=16, multipliers=(1, 2), time=(True,), blocks=1, shortcuts=False,
    channels=4,
  ),
}  # fmt: skip


# Mean and deviation of each latent channel, by their number (vae.py, vae2_2.py).
STATISTICS = {
  16: (
    (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
     -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
    (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579,
     1.6382, 1.1253, 2.8251, 1.9160),
  ),
  48: (
    (-0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
     0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
     -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313,
     -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
     0.3573, -0.0548, -0.1681, -0.0667),
    (0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
     0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
     0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
     0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468,
     0.7744),
  ),
}  # fmt: skip


class Level(NamedTuple):
  """Blocks at one resolution, and the step after them: its outputs, and whether it is in time."""

  blocks: tuple[tuple[int, int], ...]  # input and output channels of each
  step: tuple[int, bool] | None


def levels(cfg: Config, down: bool) -> list[Level]:
  """The levels of the encoder (`down`) or the decoder, in the order of the forward pass."""
  multipliers, time = (
    (cfg.multipliers, cfg.time) if down else (cfg.multipliers[::-1], cfg.time[::-1])
  )
  widths = [(cfg.width if down else cfg.decoder_width) * m for m in multipliers]
  c, out = (cfg.width if down else widths[0]), list[Level]()
  for i, width in enumerate(widths):
    blocks = ((c, width), *[(width, width)] * (cfg.blocks - down))
    # On the way up 2.1 halves the channels with the resolution.
    c = width if down or cfg.shortcuts else width // 2
    out.append(Level(blocks, (c, time[i]) if i < len(time) else None))
  return out


class Attention(nnx.Module):
  """Self-attention within each frame, with one head over all channels."""

  def __init__(self, cfg: Config, c: int, **kw: Any):
    self.norm = ChannelNorm(c, rngs=kw["rngs"])
    self.qkv = Linear((c,), (3, 1, c), ("embed", None, None, None), init=FAN_IN, **kw)
    self.out = Linear((1, c), (c,), (None, None, "embed"), init=FAN_IN, **kw)
    self.kernel = cfg.kernel

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    how: dict[str, Any] = dict(axes=ATTEND["space"], kernel=self.kernel)
    attend = lambda y: self.out(attention(*self.qkv.parts(y), **how))  # [B,T,HW,C]
    return constrain(x + on_tokens(self.norm(x), "space", [attend]), *GRID, None)


class Down(nnx.Module):
  """Halves the resolution; in time, frame 0 stays, and pairs of the others become one frame."""

  def __init__(self, c: int, c_out: int, time: bool, *, space: bool = True, **kw: Any):
    stride = 2 if space else 1
    self.space = Conv(c, c_out, SPACE, ("embed", None), stride=stride, after=space, **kw)
    halved = dict(strides=(2, 1, 1), **kw)
    self.time = CausalConv(c_out, c_out, TIME, ("embed", None), **halved) if time else None

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    x = constrain(self.space(x), *GRID, None)  # [B,T,h,w,C]
    if self.time is None:
      return x
    pairs = self.time(x, stream)  # of frames 0 to 2, 2 to 4, ...: [B,(T-1)/2,h,w,C]
    return jnp.concatenate([x[:, :1], pairs], 1) if stream.first else pairs


class Up(nnx.Module):
  """Doubles the resolution; in time, frame 0 stays, and all others become two frames."""

  def __init__(self, c: int, c_out: int, time: bool, *, space: bool = True, **kw: Any):
    self.time = CausalConv(c, 2 * c, TIME, ("embed", None), **kw) if time else None
    self.space = Conv(c, c_out, SPACE, ("embed", None), **kw)
    self.doubles = space

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    if self.time is not None:
      # The convolution does not see frame 0: zeros stand before frame 1.
      image, rest = (x[:, :1], x[:, 1:]) if stream.first else (x[:, :0], x)
      pairs = unfold(self.time(rest, stream), (2, 1, 1), "thwc")  # [B,2(T-1),H,W,C]
      x = jnp.concatenate([image, pairs.astype(x.dtype)], 1)
    x = double(x, 2 * x.shape[2], 2 * x.shape[3]) if self.doubles else x
    return constrain(self.space(x), *GRID, None)


def averaged(x: Float[Array, "B T H W C"], level: Level, first: bool) -> Array:
  """The input of a level as its output: folded, and its channels averaged in groups (2.2)."""
  c_out, factors = level.blocks[-1][1], (1, 1, 1)
  if level.step is not None:
    factors = (2 if level.step[1] else 1, 2, 2)
  if first and factors[0] == 2:  # zeros stand before frame 0
    x = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
  x = fold(x, factors, "cthw")
  return x.reshape(*x.shape[:-1], c_out, -1).mean(-1)


def repeated(x: Float[Array, "B T H W C"], level: Level, first: bool) -> Array:
  """The input of a level as its output: channels repeated, and unfolded (2.2)."""
  assert level.step is not None
  c_out, time = level.step
  factors = (2 if time else 1, 2, 2)
  times = c_out * factors[0] * 4 // x.shape[-1]
  x = unfold(jnp.repeat(x, times, -1), factors, "cthw")
  return x[:, factors[0] - 1 :] if first else x


class Coder(nnx.Module):
  """The layers of the encoder or decoder, which differ in the order of levels and middle."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    made = levels(cfg, down)
    first, last = made[0].blocks[0][0], made[-1].blocks[-1][1]
    top = last if down else first
    self.conv_in = CausalConv(c_in, first, CUBE, ("patch", "embed"), **kw)
    self.blocks: Any = numbered(
      numbered(ResBlock(*shape, **kw) for shape in level.blocks) for level in made
    )
    step = Down if down else Up
    self.steps: Any = numbered(
      step(level.blocks[-1][1], *level.step, **kw) for level in made if level.step is not None
    )
    self.mid1, self.mid2 = (ResBlock(top, top, **kw) for _ in range(2))
    self.attention = Attention(cfg, top, **kw)
    self.norm_out = ChannelNorm(last, rngs=rngs)
    self.conv_out = CausalConv(last, c_out, CUBE, ("embed", "patch"), **kw)
    self.levels, self.down, self.shortcuts = tuple(made), down, cfg.shortcuts

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    x = constrain(self.conv_in(x, stream), *GRID, None)
    x = x if self.down else self._middle(x, stream)
    for i, (level, blocks) in enumerate(zip(self.levels, in_order(self.blocks))):
      y = x
      for block in in_order(blocks):
        y = block(y, stream)
      if level.step is not None:
        y = in_order(self.steps)[i](y, stream)
      if self.shortcuts and (self.down or level.step is not None):
        y = y + (averaged if self.down else repeated)(x, level, stream.first)
      x = y
    x = self._middle(x, stream) if self.down else x
    return self.conv_out(jax.nn.silu(self.norm_out(x)), stream)

  def _middle(self, x: Array, stream: Stream) -> Array:
    return self.mid2(self.attention(self.mid1(x, stream)), stream)


class Model(nnx.Module):
  """Video [B,1+4k,H,W,3] <-> latents [B,1+k,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs, z = cfg, Keys(rngs.params()), cfg.channels
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=FAN_IN)
    pixels = PIXELS * cfg.patch**2
    self.encoder = Coder(cfg, pixels, 2 * z, down=True, rngs=rngs)
    self.moments = Linear((2 * z,), (2 * z,), (None, None), **kw)
    self.latent = Linear((z,), (z,), (None, None), **kw)
    self.decoder = Coder(cfg, z, pixels, down=False, rngs=rngs)

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Mean and log variance of each latent.

    Args: frames: number of latent frames encoded together after the first; None: all.
    """
    t = self.cfg.strides[0]
    video = constrain(video[:, : 1 + (video.shape[1] - 1) // t * t], *GRID, None)
    x = fold(video, (1, self.cfg.patch, self.cfg.patch), "cwht")
    x = in_chunks(self.encoder, x, 1, None if frames is None else t * frames)
    mean, log_var = jnp.split(self.moments(x).astype(jnp.float32), 2, -1)
    return mean, jnp.clip(log_var, -30, 20)

  def decode(
    self, latent: Float[Array, "B t h w Z"], frames: int | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The video, within [-1, 1].

    Args: frames: number of latent frames decoded together after the first; None: all.
    """
    x = self.latent(constrain(latent, *GRID, None))
    x = in_chunks(self.decoder, x, 1, frames).astype(jnp.float32)
    x = unfold(x, (1, self.cfg.patch, self.cfg.patch), "cwht")
    return jnp.clip(x, -1, 1)


LAYOUTS = ("diffusers", "original")  # of names in published files
_BLOCK = {
  "diffusers": dict(norm1="norm1", conv1="conv1", norm2="norm2", conv2="conv2",
                    shortcut="conv_shortcut"),
  "original": dict(norm1="residual.0", conv1="residual.2", norm2="residual.3", conv2="residual.6",
                   shortcut="shortcut"),
}  # fmt: skip
_ENDS = {
  "diffusers": dict(conv_in="conv_in", norm_out="norm_out", conv_out="conv_out",
                    mid1="mid_block.resnets.0", attention="mid_block.attentions.0",
                    mid2="mid_block.resnets.1", moments="quant_conv", latent="post_quant_conv"),
  "original": dict(conv_in="conv1", norm_out="head.0", conv_out="head.2", mid1="middle.0",
                   attention="middle.1", mid2="middle.2", moments="conv1", latent="conv2"),
}  # fmt: skip


def names(cfg: Config, layout: str = "diffusers") -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in AutoencoderKLWan or in Wan's file, and its layout there."""
  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))

  def one(path: str) -> tuple[str, str]:
    *where, leaf = path.split("/")
    leaf = {"kernel": "weight", "scale": "gamma"}.get(leaf, leaf)
    kind = "weight" if leaf == "weight" else "vector"
    if leaf == "gamma":
      kind = "vector2d" if "attention" in where else "vector3d"
    if leaf == "weight" and where[-1] in ("shortcut", "moments", "latent", "qkv", "out"):
      kind = "conv2d" if "attention" in where else "conv3d"
    return ".".join([*_published(cfg, where, layout), leaf]), kind

  return {path: one(path) for path in info}


def _published(cfg: Config, where: list[str], layout: str) -> list[str]:
  """The published module of one of ours."""
  coder, *rest = where
  ends, down = _ENDS[layout], coder == "encoder"
  if not rest:
    return [ends[coder]]
  if rest[0] == "attention":
    return [coder, ends["attention"], dict(norm="norm", qkv="to_qkv", out="proj")[rest[1]]]
  if rest[0] in ("mid1", "mid2"):
    return [coder, ends[rest[0]], _BLOCK[layout][rest[1]]]
  if rest[0] in ends:
    return [coder, ends[rest[0]]]
  level, number = int(rest[1]), cfg.blocks + (0 if down else 1)  # blocks of a level
  step = rest[0] == "steps"
  place = number if step else int(rest[2])
  last = dict(space="resample.1", time="time_conv")[rest[2]] if step else _BLOCK[layout][rest[3]]
  flat = str(level * (number + 1) + place)
  if layout == "original":
    outer = "downsamples" if down else "upsamples"
    nested = [outer, str(level), outer, str(place)] if cfg.shortcuts else [outer, flat]
    return [coder, *nested, last]
  if down and not cfg.shortcuts:
    return [coder, "down_blocks", flat, last]
  sampler = "downsampler" if down else "upsampler" if cfg.shortcuts else "upsamplers.0"
  inner = [sampler] if step else ["resnets", str(place)]
  return [coder, "down_blocks" if down else "up_blocks", str(level), *inner, last]


def statistics(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and deviation of each latent channel, as published; 0 and 1 for other sizes."""
  return STATISTICS.get(cfg.channels, ((0.0,) * cfg.channels, (1.0,) * cfg.channels))


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of AutoencoderKLWan that give this network."""
  t, h, _ = cfg.strides
  return dict(
    _class_name="AutoencoderKLWan", base_dim=cfg.width, decoder_base_dim=cfg.decoder_width,
    z_dim=cfg.channels, dim_mult=list(cfg.multipliers), num_res_blocks=cfg.blocks,
    temperal_downsample=list(cfg.time), is_residual=cfg.shortcuts,
    patch_size=cfg.patch if cfg.shortcuts else None, in_channels=PIXELS * cfg.patch**2,
    out_channels=PIXELS * cfg.patch**2, scale_factor_temporal=t, scale_factor_spatial=h,
  )  # fmt: skip
