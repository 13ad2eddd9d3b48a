"""Stable Video Diffusion's autoencoder: latent diffusion's encoder, and a temporal decoder.

Each frame is encoded alone, to a mean and a log variance. In the decoder every residual block is
blended with a temporal one, and the last convolution is temporal, which reduces flicker between
frames.

Source: Rombach et al. 2022, arXiv:2112.10752; the decoder's temporal layers: Blattmann et al. 2023,
arXiv:2304.08818, section 3.1.1. The computation and all parameters are those of diffusers'
AutoencoderKLTemporalDecoder (0.42.1) with layers_per_block=2; with other numbers diffusers leaves
layers of its middle unused. Biases start at zero.

Shapes: B batch, T frames, H W height width in pixels, h w in latents, C channels, Z of latents.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import diffusers_names, layers
from videojax.models.attention import KERNELS, attention
from videojax.models.layers import Linear
from videojax.models.time_blending import Blend
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import (
  ATTEND,
  FAN_IN,
  GRID,
  SPACE,
  TIME,
  Conv,
  GroupNorm,
  Keys,
  ResNet,
  double,
  on_tokens,
)  # fmt: skip
from videojax.settings import Depth, Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video
SCALING = 0.18215  # brings latents to unit variance (Rombach et al. 2022, appendix D.1)
EPS = 1e-6  # of norms outside temporal layers


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each level has half the resolution of
      the previous one.
    blocks: number per level in the encoder; one more in the decoder.
    groups: of group norm.
    channels: Z.
    dtype: of matmuls and convolutions; parameters stay fp32.
    kernel: of attention (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  groups: Width
  channels: Width
  dtype: str = "float32"
  kernel: str = "auto"

  def __post_init__(self):
    settings.check(self)
    if not self.multipliers:
      raise ValueError(f"multipliers={self.multipliers} must be numbers >= 1, one per level")
    if self.width % self.groups:
      raise ValueError(f"width={self.width} is not divisible by groups={self.groups}")
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    check_choice("attention kernel", self.kernel, KERNELS)

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position in (t, h, w)."""
    side = 2 ** (len(self.multipliers) - 1)
    return 1, side, side


SIZES = {
  # The published one.
  "98M": dict(width=128, multipliers=(1, 2, 4, 4), blocks=2, groups=32),
  # For a CPU; ours.
  "nano": dict(width=16, multipliers=(1, 2), blocks=1, groups=8),
}
PUBLISHED = dict(channels=4)


class Level(NamedTuple):
  """Blocks at one resolution, 1 / 2^level; `sampler`: whether it changes the resolution after."""

  level: int
  blocks: tuple[tuple[int, int], ...]  # input and output channels of each
  sampler: bool


def levels(cfg: Config, down: bool) -> list[Level]:
  """The levels of the encoder (`down`) or the decoder, in the order of the forward pass."""
  widths = list(enumerate(cfg.width * m for m in cfg.multipliers))
  c, out = cfg.width if down else widths[-1][1], list[Level]()
  for level, width in widths if down else reversed(widths):
    blocks = ((c, width), *[(width, width)] * (cfg.blocks - down))
    out.append(Level(level, blocks, level < len(widths) - 1 if down else level > 0))
    c = width
  return out


class Attention(nnx.Module):
  """Self-attention within each frame, with one head over all channels."""

  def __init__(self, cfg: Config, c: int, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=FAN_IN)
    self.norm = GroupNorm(c, cfg.groups, frames=False, eps=EPS, rngs=rngs)
    make = lambda: Linear((c,), (1, c), ("embed", None, None), **kw)
    self.q, self.k, self.v = make(), make(), make()
    self.out = Linear((1, c), (c,), (None, None, "embed"), **kw)
    self.kernel = cfg.kernel

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    how: dict[str, Any] = dict(axes=ATTEND["space"], kernel=self.kernel)
    attend = lambda y: self.out(attention(self.q(y), self.k(y), self.v(y), **how))  # [B,T,HW,C]
    return constrain(x + on_tokens(self.norm(x), "space", [attend]), *GRID, None)


class Block(nnx.Module):
  """A spatial residual block; in the decoder blended with a temporal one."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, time: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.resnet = ResNet(c_in, c_out, 0, cfg.groups, eps=EPS, **kw)
    along = lambda: ResNet(c_out, c_out, 0, cfg.groups, eps=1e-5, over="time", **kw)
    self.temporal = along() if time else None
    self.blend = Blend(0.0, rngs=rngs) if time else None

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    x = self.resnet(x)
    if self.temporal is None or self.blend is None:
      return x
    return constrain(self.blend(self.temporal(x), x), *GRID, None)


class Blocks(nnx.Module):
  """The blocks of a level, and the convolution that changes the resolution."""

  def __init__(self, cfg: Config, level: Level, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    make = lambda shape: Block(cfg, *shape, time=not down, rngs=rngs)
    self.blocks: Any = numbered(make(shape) for shape in level.blocks)
    c = level.blocks[-1][1]
    kw |= dict(stride=2, after=True) if down else {}
    self.sampler = Conv(c, c, SPACE, ("embed", None), **kw) if level.sampler else None

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    for block in in_order(self.blocks):
      x = block(x)
    return x


class Coder(nnx.Module):
  """The layers of the encoder or decoder, which differ in the order of levels and middle."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    first, top = cfg.width, cfg.width * cfg.multipliers[-1]
    first, last = (first, top) if down else (top, first)
    self.conv_in = Conv(c_in, first, SPACE, ("patch", "embed"), **kw)
    make = lambda level: Blocks(cfg, level, down=down, rngs=rngs)
    self.levels: Any = numbered(make(level) for level in levels(cfg, down))
    self.mid1, self.mid2 = (Block(cfg, top, top, time=not down, rngs=rngs) for _ in range(2))
    self.attention = Attention(cfg, top, rngs=rngs)
    self.norm_out = GroupNorm(last, cfg.groups, frames=False, eps=EPS, rngs=rngs)
    self.conv_out = Conv(last, c_out, SPACE, ("embed", "patch"), **kw)

  def middle(self, x: Float[Array, "B T H W C"]) -> Array:
    return self.mid2(self.attention(self.mid1(x)))

  def out(self, x: Float[Array, "B T H W C"]) -> Array:
    return self.conv_out(jax.nn.silu(self.norm_out(x)))


class Model(nnx.Module):
  """Video [B,T,H,W,3] <-> latents [B,T,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs, z = cfg, Keys(rngs.params()), cfg.channels
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.encoder = Coder(cfg, PIXELS, 2 * z, down=True, rngs=rngs)
    self.moments = Linear((2 * z,), (2 * z,), (None, None), init=FAN_IN, **kw)
    self.decoder = Coder(cfg, z, PIXELS, down=False, rngs=rngs)
    self.time_out = Conv(PIXELS, PIXELS, TIME, ("patch", None), **kw)

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B T h w Z"], Float[Array, "B T h w Z"]]:
    """Mean and log variance of each latent; height and width are multiples of the stride.

    Args: frames: of no effect, as each frame is encoded alone.
    """
    e = self.encoder
    x = constrain(e.conv_in(constrain(video, *GRID, None)), *GRID, None)
    for level in in_order(e.levels):
      x = level(x)
      if level.sampler is not None:
        x = constrain(level.sampler(x), *GRID, None)
    mean, log_var = jnp.split(self.moments(e.out(e.middle(x))).astype(jnp.float32), 2, -1)
    return mean, jnp.clip(log_var, -30, 20)

  def decode(
    self, latent: Float[Array, "B T h w Z"], frames: int | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The video. Args: frames: number of frames decoded together, apart from others; None: all."""
    together = frames or latent.shape[1]
    parts = [latent[:, i : i + together] for i in range(0, latent.shape[1], together)]
    return jnp.concatenate([self._decode(part) for part in parts], 1)

  def _decode(self, latent: Float[Array, "B T h w Z"]) -> Float[Array, "B T H W 3"]:
    d = self.decoder
    x = d.middle(constrain(d.conv_in(constrain(latent, *GRID, None)), *GRID, None))
    for level in in_order(d.levels):
      x = level(x)
      if level.sampler is not None:
        x = double(x, 2 * x.shape[2], 2 * x.shape[3])
        x = constrain(level.sampler(x), *GRID, None)
    return self.time_out(d.out(x)).astype(jnp.float32)


# Our paths -> diffusers' names, applied in order.
_RENAMES = (
  (r"^moments", "quant_conv"),
  (r"^time_out", "decoder/time_conv_out"),
  (r"^encoder/levels", "encoder/down_blocks"),
  (r"^decoder/levels", "decoder/up_blocks"),
  (r"/blocks/(\d+)/", r"/resnets/\1/"),
  (r"/mid1/", "/mid_block/resnets/0/"),
  (r"/mid2/", "/mid_block/resnets/1/"),
  (r"/attention/", "/mid_block/attentions/0/"),
  (r"/attentions/0/norm/", "/attentions/0/group_norm/"),
  (r"/(q|k|v)/", r"/to_\1/"),
  (r"/attentions/0/out/", "/attentions/0/to_out/0/"),
  (r"(encoder.*)/resnet/", r"\1/"),
  (r"/resnet/", "/spatial_res_block/"),
  (r"/temporal/", "/temporal_res_block/"),
  (r"/blend/factor", "/time_mixer/mix_factor"),
  (r"(down_blocks/\d+)/sampler", r"\1/downsamplers/0/conv"),
  (r"(up_blocks/\d+)/sampler", r"\1/upsamplers/0/conv"),
  (r"/norm_out", "/conv_norm_out"),
  (r"/shortcut/", "/conv_shortcut/"),
  (r"/(kernel|scale)$", "/weight"),
  (r"/", "."),
)


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in AutoencoderKLTemporalDecoder, and its layout there."""

  def layout(path: str, inputs: int) -> str:
    if path.endswith(("shortcut/kernel", "moments/kernel")):
      return "conv2d"
    return "weight" if inputs else "vector"

  model = nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0)))
  info = layers.param_info(model)
  return {
    path: (diffusers_names.renamed(path, _RENAMES), layout(path, i.inputs))
    for path, i in info.items()
  }


def statistics(cfg: Config) -> tuple[float, float]:
  """Mean and deviation of the latents."""
  return 0.0, 1 / SCALING


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of AutoencoderKLTemporalDecoder that give this network."""
  return dict(
    _class_name="AutoencoderKLTemporalDecoder", in_channels=PIXELS, out_channels=PIXELS,
    block_out_channels=[cfg.width * m for m in cfg.multipliers], layers_per_block=cfg.blocks,
    latent_channels=cfg.channels, scaling_factor=SCALING,
    down_block_types=["DownEncoderBlock2D"] * len(cfg.multipliers),
  )  # fmt: skip
