"""CogVideoX's autoencoder: 4x8x8 pixels per position, 16 channels.

1 + 8k frames become 1 + 2k latents. Convolutions are causal, but group norm takes its statistics
over all frames that are processed together. The published programs process 8 frames or 2 latents at
a time (one more at the beginning), so that is the default; the whole clip at once (`frames=None`)
gives latents and pixels that differ by about 1.5 % of their range. Even numbers of latents, which
1 + 8k frames do not give, are decoded to four frames each.

In the decoder each norm is scaled and shifted by the latents themselves (Zheng et al. 2022, MoVQ,
arXiv:2209.09002). Tiles in space, which the published programs can take, are not covered.

Source: Yang et al. 2024, arXiv:2408.06072, section 2.1; the computation and all parameters are
those of diffusers' AutoencoderKLCogVideoX (0.42.1), and of `vae_modules/cp_enc_dec.py`.

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import diffusers_names, layers
from videojax.models.causal import CUBE, GRID, CausalConv, Stream, in_chunks
from videojax.models.layers import Linear
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import FAN_IN, SPACE, Conv, GroupNorm, Keys
from videojax.settings import Depth, Positive, Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video
FRAMES = 2  # latents that the published programs process together


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    widths: channels of each level; each has half the resolution of the previous one.
    time: whether the step after each level but the last also halves or doubles the number of
      frames, in the order of the forward pass of both the encoder and the decoder.
    blocks: number per level in the encoder; one more in the decoder.
    groups: of group norm.
    channels: Z.
    scaling: brings latents to unit variance.
    dtype: of matmuls and convolutions; parameters stay fp32.
  """

  widths: tuple[Width, ...]
  time: tuple[bool, ...]
  blocks: Depth
  groups: Width
  channels: Width
  scaling: Positive
  dtype: str = "float32"

  def __post_init__(self):
    settings.check(self)
    if not self.widths or len(self.time) != len(self.widths) - 1:
      raise ValueError(f"time={self.time} must have one entry fewer than widths={self.widths}")
    if any(width % self.groups for width in self.widths):
      raise ValueError(f"widths={self.widths} must be multiples of groups={self.groups}")
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, after the first frame."""
    side = 2 ** len(self.time)
    return 2 ** sum(self.time), side, side


_PUBLISHED = dict(
  widths=(128, 256, 256, 512), time=(True, True, False), blocks=3, groups=32, channels=16
)
SIZES: dict[str, dict[str, Any]] = {
  "2B": dict(_PUBLISHED, scaling=1.15258426),
  "5B": dict(_PUBLISHED, scaling=0.7),  # and 1.5's
  # For a CPU; ours.
  "nano": dict(widths=(16, 32), time=(True,), blocks=1, groups=8, channels=4, scaling=1.0),
}


def resized(x: Float[Array, "B t h w C"], frames: int, height: int, width: int) -> Array:
  """[B,frames,height,width,C], by repetition; of an odd number of frames the first stays one."""
  t, odd = x.shape[1], frames % 2
  if t > odd and frames != t:
    rest = jnp.repeat(x[:, odd:], (frames - odd) // (t - odd), 1)
    x = jnp.concatenate([x[:, :odd], rest], 1)  # [B,frames,h,w,C]
  x = jnp.repeat(x, height // x.shape[2], 2)  # [B,frames,height,w,C]
  return jnp.repeat(x, width // x.shape[3], 3)  # [B,frames,height,width,C]


class SpatialNorm(nnx.Module):
  """Group norm over all frames; in the decoder scaled and shifted by the latents."""

  def __init__(self, cfg: Config, c: int, *, latent: bool, **kw: Any):
    self.norm = GroupNorm(c, cfg.groups, frames=True, eps=1e-6, rngs=kw["rngs"])
    make = lambda: Linear((cfg.channels,), (c,), (None, "embed"), init=FAN_IN, **kw)
    self.scale = make() if latent else None
    self.shift = make() if latent else None

  def __call__(self, x: Float[Array, "B T H W C"], latent: Array | None) -> Array:
    y = self.norm(x)
    if self.scale is None or self.shift is None or latent is None:
      return y
    scale, shift = (resized(f(latent), *x.shape[1:4]) for f in (self.scale, self.shift))
    return y * scale + shift


class Block(nnx.Module):
  """A residual block of two causal convolutions."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, latent: bool, **kw: Any):
    conv = lambda c: CausalConv(c, c_out, CUBE, ("embed", None), before="first", **kw)
    self.norm1 = SpatialNorm(cfg, c_in, latent=latent, **kw)
    self.conv1 = conv(c_in)
    self.norm2 = SpatialNorm(cfg, c_out, latent=latent, **kw)
    self.conv2 = conv(c_out)
    matrix = lambda: Linear((c_in,), (c_out,), ("embed", None), init=FAN_IN, **kw)
    self.shortcut = matrix() if c_in != c_out else None

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream, latent: Array | None) -> Array:
    y = self.conv1(jax.nn.silu(self.norm1(x, latent)), stream)
    y = constrain(y, *GRID, None)
    y = self.conv2(jax.nn.silu(self.norm2(y, latent)), stream)
    return constrain(y + (x if self.shortcut is None else self.shortcut(x)), *GRID, None)


class Step(nnx.Module):
  """Halves or doubles the resolution; in time, the first of an odd number of frames stays one."""

  def __init__(self, c: int, time: bool, *, down: bool, **kw: Any):
    how: dict[str, Any] = dict(stride=2, after=True) if down else {}
    self.conv = Conv(c, c, SPACE, ("embed", None), **how, **kw)
    self.time, self.down = time, down

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    _, t, h, w, _ = x.shape
    if self.down:
      x = self._halved(x) if self.time else x
    else:
      x = resized(x, 2 * t - t % 2 if self.time else t, 2 * h, 2 * w)
    return constrain(self.conv(x), *GRID, None)

  def _halved(self, x: Float[Array, "B T H W C"]) -> Array:
    """Averages pairs of frames."""
    first = x.shape[1] % 2
    pairs = (x[:, first::2] + x[:, first + 1 :: 2]) / 2
    return jnp.concatenate([x[:, :first], pairs], 1)  # [B,(T+1)/2,H,W,C]


class Coder(nnx.Module):
  """The layers of the encoder or decoder, which differ in the order of levels and middle."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    block = lambda *shape: Block(cfg, *shape, latent=not down, **kw)
    widths, number = (cfg.widths if down else cfg.widths[::-1]), cfg.blocks + (not down)
    top, last = cfg.widths[-1], widths[-1]
    self.conv_in = CausalConv(c_in, widths[0], CUBE, ("patch", "embed"), before="first", **kw)
    self.blocks: Any = numbered(
      numbered(block(c if i else before, c) for i in range(number))
      for before, c in zip((widths[0], *widths), widths)
    )
    self.steps: Any = numbered(Step(c, time, down=down, **kw) for c, time in zip(widths, cfg.time))
    self.mid1, self.mid2 = block(top, top), block(top, top)
    self.norm_out = SpatialNorm(cfg, last, latent=not down, **kw)
    self.conv_out = CausalConv(last, c_out, CUBE, ("embed", "patch"), before="first", **kw)
    self.down = down

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    latent = None if self.down else x
    middle = lambda x: self.mid2(self.mid1(x, stream, latent), stream, latent)
    x = constrain(self.conv_in(x, stream), *GRID, None)
    x, steps = x if self.down else middle(x), in_order(self.steps)
    for i, blocks in enumerate(in_order(self.blocks)):
      for block in in_order(blocks):
        x = block(x, stream, latent)
      x = steps[i](x) if i < len(steps) else x
    x = middle(x) if self.down else x
    return self.conv_out(jax.nn.silu(self.norm_out(x, latent)), stream)


def _chunked(coder: Coder, x: Float[Array, "B T ..."], frames: int | None) -> Array:
  """The frames that are left over are processed with the first chunk, as published."""
  length = x.shape[1]
  return in_chunks(coder, x, min(length, frames + length % frames) if frames else length, frames)


class Model(nnx.Module):
  """Video [B,1+8k,H,W,3] <-> latents [B,1+2k,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs, z = cfg, Keys(rngs.params()), cfg.channels
    self.encoder = Coder(cfg, PIXELS, 2 * z, down=True, rngs=rngs)
    self.decoder = Coder(cfg, z, PIXELS, down=False, rngs=rngs)

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = FRAMES
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Mean and log variance of each latent.

    Args: frames: even number of latents that are encoded together (more in the first chunk), which
      changes the result; None: all.
    """
    x = constrain(video, *GRID, None)
    x = _chunked(self.encoder, x, self.cfg.strides[0] * frames if frames else None)
    mean, log_var = jnp.split(x.astype(jnp.float32), 2, -1)
    return mean, jnp.clip(log_var, -30, 20)

  def decode(
    self, latent: Float[Array, "B t h w Z"], frames: int | None = FRAMES
  ) -> Float[Array, "B T H W 3"]:
    """The video, about within [-1, 1]. Args: frames: as in `encode`."""
    return _chunked(self.decoder, constrain(latent, *GRID, None), frames).astype(jnp.float32)


LAYOUTS = ("diffusers", "original")  # of names in published files
# Our paths -> names, applied in order; first those of each layout, then those of both.
_RENAMES = {
  "diffusers": (
    (r"^encoder/blocks/(\d+)/(\d+)/", r"encoder/down_blocks/\1/resnets/\2/"),
    (r"^decoder/blocks/(\d+)/(\d+)/", r"decoder/up_blocks/\1/resnets/\2/"),
    (r"^encoder/steps/(\d+)/", r"encoder/down_blocks/\1/downsamplers/0/"),
    (r"^decoder/steps/(\d+)/", r"decoder/up_blocks/\1/upsamplers/0/"),
    (r"/mid1/", "/mid_block/resnets/0/"),
    (r"/mid2/", "/mid_block/resnets/1/"),
    (r"/(conv\w+)/", r"/\1/conv/"),
    (r"/shortcut/", "/conv_shortcut/"),
  ),
  "original": (
    (r"^encoder/blocks/(\d+)/(\d+)/", r"encoder/down/\1/block/\2/"),
    (r"^decoder/blocks/(\d+)/(\d+)/", r"decoder/up/\1/block/\2/"),
    (r"^encoder/steps/(\d+)/", r"encoder/down/\1/downsample/"),
    (r"^decoder/steps/(\d+)/", r"decoder/up/\1/upsample/"),
    (r"/mid(\d)/", r"/mid/block_\1/"),
    (r"/(conv\w+)/", r"/\1/conv/"),
    (r"/shortcut/", "/nin_shortcut/"),
  ),
}
_BOTH = (
  (r"^(decoder.*)/norm/", r"\1/norm_layer/"),
  (r"/norm/", "/"),
  (r"/scale/(\w+)$", r"/conv_y/conv/\1"),
  (r"/shift/(\w+)$", r"/conv_b/conv/\1"),
  (r"/(kernel|scale)$", "/weight"),
  (r"/", "."),
)


def names(cfg: Config, layout: str = "diffusers") -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in AutoencoderKLCogVideoX or in the original, its layout there.

  The original numbers the decoder's levels from the finest.
  """
  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  finest = len(cfg.widths) - 1

  def name(path: str) -> str:
    coder, part, level, *rest = path.split("/")
    if layout == "original" and coder == "decoder" and part in ("blocks", "steps"):
      path = "/".join([coder, part, str(finest - int(level)), *rest])
    return diffusers_names.renamed(path, (*_RENAMES[layout], *_BOTH))

  def kind(path: str) -> str:
    *_, module, leaf = path.split("/")
    if leaf != "kernel":
      return "vector"
    return "conv3d" if module in ("shortcut", "scale", "shift") else "weight"

  return {path: (name(path), kind(path)) for path in info}


def statistics(cfg: Config) -> tuple[float, float]:
  """Mean and deviation of the latents."""
  return 0.0, 1 / cfg.scaling


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of AutoencoderKLCogVideoX that give this network."""
  levels = len(cfg.widths)
  return dict(
    _class_name="AutoencoderKLCogVideoX", block_out_channels=list(cfg.widths),
    down_block_types=["CogVideoXDownBlock3D"] * levels, layers_per_block=cfg.blocks,
    up_block_types=["CogVideoXUpBlock3D"] * levels, norm_num_groups=cfg.groups,
    latent_channels=cfg.channels, scaling_factor=cfg.scaling,
    temporal_compression_ratio=cfg.strides[0],
  )  # fmt: skip
