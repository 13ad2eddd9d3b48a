"""Make-A-Video's U-Nets: image U-Nets with temporal layers after all convolutions and attentions.

Temporal layers start as the identity, so that the video model starts as the image model applied to
each frame. An image, a clip of one frame, skips them. One class makes the decoder, the
interpolation network (with known frames) and the super-resolution networks (volume 'low'; the last
one without temporal layers).

Source: Singer et al. 2022, arXiv:2209.14792, Sec. 3. No code was published: residual blocks are
those of Dhariwal & Nichol 2021 (noise level as scale and shift), on which DALL-E 2's (Ramesh et al.
2022) are based. Our choices: attention to the text is a separate layer, no kernel of the image
model starts at zero, and levels are joined by convolutions, with stride 2 or after doubling.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax.models import layers, unet, unet_config
from videojax.models.layers import Init, Linear
from videojax.models.unet_config import BlockShape, Stage
from videojax.models.unet_layers import (
  ATTEND,
  FAN_IN,
  GRID,
  SPACE,
  TIME,
  Attention,
  Conv,
  GroupNorm,
  Over,
  on_tokens,
)  # fmt: skip
from videojax.settings import Natural
from videojax.sharding import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unet_config.Config):
  """The image model's config, and whether there are temporal layers.

  Attributes:
    attends: levels with attention; if there are any, the middle has it, too.
    temporal: False: the image model, with the same names and shapes without the temporal layers; it
      treats each frame of a clip independently.
    text: in the paper one embedding, CLIP's of an image.
    scalars: names of scalar conditions: 'fps', and 'low_noise', the noise in the volume 'low'.
    known: 'zeros' in the paper.
    volumes: low=3 is the clip to upsample, at full size.
  """

  attends: tuple[Natural, ...]
  temporal: bool = True
  scalars: tuple[str, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    if not set(self.attends) <= set(range(len(self.multipliers))):
      raise ValueError(f"attends={self.attends} must be levels, 0 to {len(self.multipliers) - 1}")
    if self.text and not self.attends:
      raise ValueError(f"text={self.text}, but attends={self.attends}: no level attends to it")

  def stages(self) -> list[Stage]:
    return unet_config.stages(self, self.attends, middle=bool(self.attends))


SIZES = {
  # DALL-E 2's decoder and upsamplers (Ramesh et al. 2022, Table 3); we do not have Make-A-Video's
  # own sizes and assume that they are the same.
  "decoder": dict(
    width=512, multipliers=(1, 2, 3, 4), blocks=3, attends=(1, 2, 3), head_dim=64, groups=32
  ),
  "sr_l": dict(width=320, multipliers=(1, 2, 3, 4), blocks=3, attends=(), head_dim=64, groups=32),
  "sr_h": dict(
    width=192, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attends=(), head_dim=64, groups=32
  ),
  # For a CPU; ours.
  "nano": dict(width=16, multipliers=(1, 2, 4), blocks=1, attends=(1, 2), head_dim=16, groups=8),
  # For tests; ours.
  "tiny": dict(width=16, multipliers=(1, 2), blocks=1, head_dim=8, groups=8, attends=(0, 1)),
}  # fmt: skip
PUBLISHED = dict(channels=3)
wider = unet_config.wider


# --- spatial layers followed by temporal layers -----------------------------------------------


class Dirac(Init):
  """The middle tap of a kernel is the identity matrix, the others are zero.

  Its root mean square is proportional to 1 / sqrt(fan in), so that muP does not rescale it.
  """

  def std(self, fan_in: int | float, fan_out: int | float) -> float:
    return 1 / math.sqrt(fan_in)

  def draw(self, key: Array, shape: tuple[int, ...], inputs: int) -> Array:
    return jnp.zeros(shape, jnp.float32).at[shape[0] // 2, 0, 0].set(jnp.eye(shape[-1]))


DIRAC = Dirac("dirac")


class PseudoConv(nnx.Module):
  """Conv1D(Conv2D(x)), each over its own axes of [B,T,H,W,C] (Eq. 2)."""

  def __init__(
    self, c_in: int, c_out: int, axes: tuple[str, str | None], cfg: Config, *, rngs: nnx.Rngs,
    stride: int = 1,
  ):  # fmt: skip
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.within = Conv(c_in, c_out, SPACE, axes, stride=stride, **kw)
    along = ("patch" if axes[1] == "patch" else "embed", None)
    make = lambda: Conv(c_out, c_out, TIME, along, init=DIRAC, **kw)
    self.temporal = make() if cfg.temporal else None

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    x = constrain(self.within(x), *GRID, None)
    if self.temporal is None or x.shape[1] == 1:
      return x
    return constrain(self.temporal(x), *GRID, None)


class Attend(nnx.Module):
  """x + attention(norm(x)): within each frame, to the text, or temporal.

  Temporal attention starts at zero. It has no position embeddings: convolutions encode the order.
  """

  def __init__(self, c: int, over: Over, cfg: Config, *, source: int = 0, rngs: nnx.Rngs):
    self.norm = GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.heads = Attention(cfg, c, source or c, rngs=rngs)
    if over == "time":
      heads, axes = (c // cfg.head_dim, cfg.head_dim), ("heads", "head_dim", "embed")
      kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=layers.ZEROS)
      self.heads.out = Linear(heads, (c,), axes, **kw)
    self.over = over

  def __call__(
    self, x: Float[Array, "B T H W C"], text: Array | None = None
  ) -> Float[Array, "B T H W C"]:
    attend = lambda y: self.heads(y, ATTEND[self.over], text)
    return constrain(x + on_tokens(self.norm(x), self.over, [attend]), *GRID, None)


class Block(nnx.Module):
  """Two pseudo-3D convolutions, modulated by the noise level, then pseudo-3D attention."""

  def __init__(self, cfg: Config, stage: Stage, shape: BlockShape, *, rngs: nnx.Rngs):
    c_in, c, attends = shape
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=FAN_IN)
    conv = lambda c_in: PseudoConv(c_in, c, ("embed", None), cfg, rngs=rngs)
    norm = lambda c: GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.norm1, self.conv1 = norm(c_in), conv(c_in)
    self.time = Linear((4 * cfg.width,), (2, c), ("embed", None, None), **kw)
    self.norm2, self.conv2 = norm(c), conv(c)
    self.shortcut = Linear((c_in,), (c,), ("embed", None), **kw) if c_in != c else None
    attend = lambda over, source=0: Attend(c, over, cfg, source=source, rngs=rngs)
    self.attention = attend("space") if attends else None
    self.cross = attend("space", cfg.text) if attends and cfg.text else None
    self.temporal_attention = attend("time") if attends and cfg.temporal else None

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    y = self.conv1(jax.nn.silu(self.norm1(x)))  # [B,T,H,W,c_out]
    scale, shift = jnp.moveaxis(self.time(jax.nn.silu(c))[:, :, None, None], -2, 0)
    y = self.conv2(jax.nn.silu(self.norm2(y) * (1 + scale) + shift))
    x = constrain(y + (x if self.shortcut is None else self.shortcut(x)), *GRID, None)
    if self.attention is not None:
      x = self.attention(x)
    if self.cross is not None:
      x = self.cross(x, text)
    if self.temporal_attention is not None and x.shape[1] > 1:
      x = self.temporal_attention(x)
    return x


class Model(unet.UNet):
  """A U-Net whose first and last convolutions and those between levels are pseudo-3D, too."""

  Block = Block

  def conv(
    self, c_in: int, c_out: int, axes: tuple[str, str | None], *, stride: int = 1, rngs: nnx.Rngs
  ) -> PseudoConv:
    return PseudoConv(c_in, c_out, axes, self.cfg, stride=stride, rngs=rngs)


describe = unet_config.describe
# The first element of a parameter's path that is listed here -> its part.
PARTS = {
  "temporal": "temporal convolutions", "within": "spatial convolutions",
  "shortcut": "spatial convolutions", "time": "time", "scalars": "scalars", "cross": "text",
  "norm": "norms", "norm1": "norms", "norm2": "norms", "norm_out": "norms",
  "heads": "attention projections",
}  # fmt: skip
