"""NVIDIA's video LDM: Stable Diffusion's U-Net with temporal layers that align its frames.

After each spatial residual block comes a temporal one, and after each transformer a temporal
transformer, with a sine table of the frame's number. With z the output of the spatial layer and
l_t the temporal layer, the output of the pair is

  z' = a z + (1 - a) l_t(z),  a in [0, 1] learned, one per temporal layer.

a is 1 - |s|. Initially s = 0, so z' = z and the video model equals the image model bit for bit; the
slope of |s| at 0 is defined as 1, so that s can leave 0 and l_t begins to learn. An image, a clip
of one frame, skips the temporal layers.

Every parameter that the image model lacks has 'temporal' in its path; FREEZE matches all others.
Known frames and their mask, downsampled with convolutions, are inputs of the temporal layers only,
so that the image model can remain unchanged.

Source: Blattmann et al. 2023, arXiv:2304.08818, Sec. 3; no code was published. Kernels of (3,1,1)
are those of its successor, Stable Video Diffusion. Our choices: two temporal attentions and a
feed-forward, the parametrisation of a, and its initial value of 1.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax.models import diffusers_names, layers, unet, unet_config
from videojax.models.cond import Cond
from videojax.models.layers import Linear
from videojax.models.unet_config import BlockShape, Stage
from videojax.models.unet_layers import FAN_IN, GRID, ResNet, Transformer
from videojax.settings import Natural
from videojax.sharding import constrain

FREEZE = "(?!.*temporal)"  # for optim.freeze: the image model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unet_config.Config):
  """The image model's config, and whether there are temporal layers.

  Attributes:
    attends: levels with attention; the middle always has it.
    temporal: False: the image model, with the same names and shapes without the temporal layers; it
      treats each frame of a clip independently.
    scalars: names of scalar conditions; 'low_noise' is the noise in the volume 'low'.
    known: 'zeros' in the paper.
    volumes: 'low' is the clip to upsample, at full size.
  """

  attends: tuple[Natural, ...]
  temporal: bool = True
  scalars: tuple[str, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    if not set(self.attends) <= set(range(len(self.multipliers))):
      raise ValueError(f"attends={self.attends} must be levels, 0 to {len(self.multipliers) - 1}")
    if self.known and not self.temporal:
      raise ValueError(f"known={self.known!r}, but temporal=False: only temporal layers see it")

  @property
  def image(self) -> "Config":
    """The image model's config."""
    return dataclasses.replace(self, temporal=False, known=None)

  def stages(self) -> list[Stage]:
    return unet_config.stages(self, self.attends, middle=True)


SD = dict(blocks=2, head_dim=64, groups=32)
SIZES = {
  # Stable Diffusion 2.1.
  "sd21": dict(width=320, multipliers=(1, 2, 4, 4), attends=(0, 1, 2), **SD),
  # The widths of Stable Diffusion's x4 upscaler.
  "x4": dict(width=256, multipliers=(1, 2, 2, 4), attends=(1, 2, 3), **SD),
  # For a CPU; ours.
  "nano": dict(width=32, multipliers=(1, 2), blocks=1, attends=(0,), head_dim=16, groups=8),
  # For tests; ours.
  "tiny": dict(width=16, multipliers=(1, 2), blocks=1, head_dim=8, groups=8, attends=(0, 1)),
}  # fmt: skip
PUBLISHED = dict(channels=4, text=1024)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14
wider = unet_config.wider


# --- temporal layers --------------------------------------------------------------------------


class Merge(nnx.Module):
  """a z + (1 - a) z_t, with 1 - a = min(|s|, 1)."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.s = layers.param(rngs, layers.ZEROS, (1,), (None,))

  def __call__(self, z: Float[Array, "*B C"], z_t: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    s = self.s[...]
    s = jnp.where(s < 0, -s, s)  # |s|, but with slope 1 at 0
    s = s - jax.lax.stop_gradient(jnp.maximum(s - 1, 0))  # min(|s|, 1), but with slope 1 beyond 1
    s = layers.lead(s, z)
    return (1 - s).astype(z.dtype) * z + s.astype(z.dtype) * z_t


class Seen(NamedTuple):
  """Inputs of blocks: the text [B,L,D], and for each level the known frames [B,T,H,W,width]."""

  text: Array | None
  known: list[Array]  # empty for an image, or if the model takes no known frames


class TemporalConv(nnx.Module):
  """A temporal residual block that also sees the known frames."""

  def __init__(self, c: int, cfg: Config, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    make = lambda: Linear((cfg.width,), (c,), ("embed", None), init=FAN_IN, **kw)
    self.known = make() if cfg.known else None
    self.layer = ResNet(c, c, 4 * cfg.width, cfg.groups, eps=1e-5, over="time", **kw)
    self.merge = Merge(rngs=rngs)

  def __call__(
    self, z: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], known: Array | None
  ) -> Array:
    y = z if self.known is None or known is None else z + self.known(known)
    return constrain(self.merge(z, self.layer(constrain(y, *GRID, None), c)), *GRID, None)


class TemporalAttention(nnx.Module):
  """A temporal transformer with an embedding of the frame's number."""

  def __init__(self, c: int, cfg: Config, *, rngs: nnx.Rngs):
    self.layer = Transformer(cfg, c, "time", rngs=rngs)
    self.merge = Merge(rngs=rngs)

  def __call__(self, z: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    number = layers.sinusoid(jnp.arange(z.shape[1], dtype=jnp.float32), z.shape[-1])  # [T,C]
    y = z + number[None, :, None, None].astype(z.dtype)
    return constrain(self.merge(z, self.layer(y)), *GRID, None)


class Block(nnx.Module):
  """A spatial residual block and transformer, each followed by its temporal counterpart."""

  def __init__(self, cfg: Config, stage: Stage, shape: BlockShape, *, rngs: nnx.Rngs):
    (c_in, c, attends), along = shape, cfg.temporal
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.resnet = ResNet(c_in, c, 4 * cfg.width, cfg.groups, eps=1e-5, **kw)
    self.temporal_conv = TemporalConv(c, cfg, rngs=rngs) if along else None
    self.attention = Transformer(cfg, c, "space", rngs=rngs) if attends else None
    self.temporal_attention = TemporalAttention(c, cfg, rngs=rngs) if attends and along else None
    self.level = stage.level

  def __call__(self, z: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], seen: Seen) -> Array:
    clip = z.shape[1] > 1
    z = self.resnet(z, c)  # [B,T,H,W,c_out]
    if self.temporal_conv is not None and clip:
      z = self.temporal_conv(z, c, seen.known[self.level] if seen.known else None)
    if self.attention is not None:
      z = self.attention(z, seen.text)
    if self.temporal_attention is not None and clip:
      z = self.temporal_attention(z)
    return z


class Model(unet.UNet):
  """A U-Net whose temporal layers see known frames and their mask, downsampled to each level."""

  Block = Block

  @property
  def inputs(self) -> Config:
    return self.cfg.image

  def make_first(self, rngs: nnx.Rngs) -> None:
    cfg = self.cfg
    count = layers.known_channel_count(cfg.channels, cfg.known)
    convs = [self.conv(count, cfg.width, ("patch", "embed"), rngs=rngs)] if count else []
    for _ in cfg.multipliers[1:] if count else ():
      convs.append(self.conv(cfg.width, cfg.width, ("embed", None), stride=2, rngs=rngs))
    self.temporal_known: Any = unet.numbered(convs)

  def see(self, x: Float[Array, "B T H W C"], cond: Cond) -> Seen:
    seen = Seen(super().see(x, cond), [])
    if not self.cfg.known or x.shape[1] == 1:
      return seen
    y = layers.known_channels(x, cond, self.cfg.known)  # [B,T,H,W,count]
    for conv in unet.in_order(self.temporal_known):
      y = jax.nn.silu(constrain(conv(constrain(y, *GRID, None)), *GRID, None))
      seen.known.append(y)  # [B,T,H/2^n,W/2^n,width]
    return seen


describe = unet_config.describe
PARTS = unet_config.PARTS | {
  "temporal_known": "known frames", "temporal_conv": "temporal convolutions", "merge": "norms"
}  # fmt: skip


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter of the image model -> its name in UNet2DConditionModel, and its layout.

  Temporal layers have none: use `init_from` with `init_fresh='.*temporal'`.
  """
  image = nnx.eval_shape(lambda: Model(cfg.image, rngs=nnx.Rngs(0)))
  return diffusers_names.names(layers.param_info(image))
