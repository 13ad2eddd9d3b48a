"""Lumiere's Space-Time U-Net: an image U-Net that also halves and doubles the number of frames.

After each block of the image U-Net come layers that inflate it to video: spatial and temporal
convolutions or, at the coarsest level, temporal attention. At initialisation they are the identity;
temporal halving keeps the first of two frames, and doubling repeats a frame. So at initialisation
the output for a clip in which each frame is repeated 2^(levels - 1) times, such as a still clip, is
the image model's output for each frame; for a moving clip it is not. An image, a clip of one frame,
passes only through the image model.

Source: Bar-Tal et al. 2024, arXiv:2401.12945. The image model is not public: we use a U-Net like
Imagen's (Saharia et al. 2022, arXiv:2205.11487), with ModelScope's blocks.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax.models import unet, unet_config
from videojax.models.cond import Cond
from videojax.models.image_inflation import Convolutions, Double, Halve, TimeAttention
from videojax.models.unet_config import BlockShape, Stage
from videojax.models.unet_layers import ResNet, Transformer
from videojax.settings import Depth, Natural


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unet_config.Config):
  """Each level has half the frames and half the resolution of the previous one.

  Attributes:
    attends: number of levels with spatial attention, the coarsest ones; the middle always has it.
    temporal_blocks: number of temporal attentions after each block of the coarsest level.
    temporal: False: the image model, whose parameters are a subset of the video model's.
    scalars: names of scalar conditions, such as "low_noise", the noise in the volume "low".
    known: 'zeros' in the paper.
    volumes: such as "low", the upsampled low-resolution clip.
  """

  attends: Natural
  temporal_blocks: Depth
  temporal: bool = True
  scalars: tuple[str, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.attends <= len(self.multipliers):
      raise ValueError(f"attends={self.attends} must be 0 to {len(self.multipliers)}, the levels")

  @property
  def frames_per_step(self) -> int:
    """Number of frames of the clip per frame of the coarsest level."""
    return 2 ** (len(self.multipliers) - 1) if self.temporal else 1

  def stages(self) -> list[Stage]:
    levels = range(len(self.multipliers))
    return unet_config.stages(self, levels[len(levels) - self.attends :], middle=True)

  def grid(self, shape: tuple[int, int, int, int], level: int) -> tuple[int, int, int]:
    frames, height, width = super().grid(shape, level)
    return frames // 2**level if self.temporal and frames > 1 else frames, height, width


SIZES = {
  # Our interpretation of the base model and of its super-resolution model; neither is public.
  "base": dict(
    width=512, multipliers=(1, 2, 3, 4), blocks=3, attends=2, head_dim=64, temporal_blocks=2,
    groups=32,
  ),
  "ssr": dict(
    width=128, multipliers=(1, 2, 4, 8), blocks=4, attends=0, head_dim=64, temporal_blocks=2,
    groups=32,
  ),
  # For a CPU; ours.
  "nano": dict(
    width=16, multipliers=(1, 2, 4), blocks=1, attends=1, head_dim=16, temporal_blocks=1, groups=8
  ),
  # For tests; ours.
  "tiny": dict(
    width=16, multipliers=(1, 2), blocks=1, head_dim=8, groups=8, attends=1, temporal_blocks=1
  ),
}  # fmt: skip
PUBLISHED = dict(channels=3, text=4096)  # pixels, T5-XXL
wider = unet_config.wider


class Block(nnx.Module):
  """The image model's residual block and transformer, then the layers that inflate them."""

  def __init__(self, cfg: Config, stage: Stage, shape: BlockShape, *, rngs: nnx.Rngs):
    c, kw = shape.c_out, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.resnet = ResNet(shape.c_in, c, 4 * cfg.width, cfg.groups, eps=1e-5, **kw)
    self.attention = Transformer(cfg, c, "space", rngs=rngs) if shape.attends else None
    coarsest = stage.level == len(cfg.multipliers) - 1
    make = lambda: (
      TimeAttention(cfg, c, rngs=rngs) if coarsest else Convolutions(c, cfg.groups, **kw)
    )
    count = (cfg.temporal_blocks if coarsest else 1) * cfg.temporal
    self.temporal: Any = unet.numbered(make() for _ in range(count))

  def __call__(
    self, x: Float[Array, "B t H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    if c.shape[1] > 1:
      c = c[:, :: c.shape[1] // x.shape[1]]  # [B,t,M]: from the first of each frame's frames
    x = self.resnet(x, c)  # [B,t,H,W,c_out]
    if self.attention is not None:
      x = self.attention(x, text)
    if x.shape[1] > 1:
      for block in unet.in_order(self.temporal):
        x = block(x)
    return x


class Level(unet.Level):
  """A level whose samplers change the resolution in space, then in time."""

  def make_sampler(self, model: unet.UNet, stage: Stage, rngs: nnx.Rngs) -> Any:
    cfg, make = model.cfg, Halve if stage.place == "down" else Double
    time = lambda: make(stage.blocks[-1].c_out, rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.temporal_sampler: Any = time() if cfg.temporal else None
    return super().make_sampler(model, stage, rngs)

  def shrink(self, x: Float[Array, "B T H W C"]) -> Array:
    """-> [B,T/2,H/2,W/2,C]; a single frame remains one."""
    y = super().shrink(x)  # [B,T,H/2,W/2,C]
    return y if self.temporal_sampler is None or x.shape[1] == 1 else self.temporal_sampler(y)

  def grow(self, x: Float[Array, "B T H W C"], like: Float[Array, "B t h w _"]) -> Array:
    """-> [B,t,h,w,C]."""
    y = super().grow(x, like)  # [B,T,h,w,C]
    return self.temporal_sampler(y) if like.shape[1] > x.shape[1] else y


class Model(unet.UNet):
  """A U-Net in which each coarse frame has the noise level of the first of its frames."""

  Block, Level = Block, Level

  def enter(self, x: Float[Array, "B T H W C"], cond: Cond) -> Array:
    """The first skip.

    Raises:
      ValueError: the number of frames cannot be halved at every level but the last.
    """
    cfg, frames = self.cfg, x.shape[1]
    if frames > 1 and frames % cfg.frames_per_step:
      raise ValueError(
        f"{frames} frames cannot be halved at {len(cfg.multipliers)} levels: use one frame or a "
        f"multiple of {cfg.frames_per_step}"
      )
    return super().enter(x, cond)


describe = unet_config.describe
PARTS = unet_config.PARTS | {
  "scalars": "scalars",
  "temporal_sampler": "samplers",
  "project": "temporal convolutions",
  "conv_space": "temporal convolutions",
  "conv_time": "temporal convolutions",
}
