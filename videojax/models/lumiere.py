"""Lumiere's Space-Time U-Net: an image U-Net that also halves and doubles the number of frames.

After each block of the image U-Net comes what inflates it to video: convolutions within the frames
and along time, or, at the coarsest level, attention along time. These start as the identity; the
temporal halving keeps the first of two frames and the doubling repeats a frame, at first. So a clip
whose frames are held for 2^(levels - 1) frames at a time, a still one above all, starts as what the
image model makes of each frame; a moving clip does not. Where there is one frame there is no time:
an image passes through the image model alone.

Source: Bar-Tal et al. 2024, arXiv:2401.12945. The image model is not public: here Imagen's kind of
U-Net (Saharia et al. 2022, arXiv:2205.11487), with ModelScope's blocks.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from videojax.models import image_inflation, layers, unet, unet_config
from videojax.models.cond import Cond, check_cond
from videojax.settings import Depth, Natural, Width
from videojax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before, in time too.
    blocks: per level on the way down; one more on the way up.
    attends: how many of the levels attend within the frames, the coarsest ones; the middle does.
    head_dim: channels of a head; a level has as many heads as fit.
    temporal_blocks: of attention along time after each block of the coarsest level.
    groups: of group norm.
    channels: C of the clip.
    temporal: False is the image model, whose parameters are some of the video model's.
    text: width of the given embeddings; None: no cross-attention.
    scalars: names of scalar conditions, such as "low_noise", the noise in the volume "low".
    known: None, or how the channels of known frames are filled; 'zeros' is the paper's.
    volumes: channels of each aligned volume by name, such as "low", the enlarged low resolution.
    dtype: of matmuls and convolutions; parameters stay fp32.
    remat: what the backward pass of a block recomputes (layers.REMATS).
    scan: False; blocks differ in size, so there is nothing to loop over.
    kernel, context: of attention (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  attends: Natural
  head_dim: Width
  temporal_blocks: Depth
  groups: Width
  channels: Width
  temporal: bool = True
  text: Width | None = None
  scalars: tuple[str, ...] = ()
  known: str | None = None
  volumes: Any = ()
  dtype: str = "bfloat16"
  remat: str = "none"
  scan: bool = False
  kernel: str = "auto"
  context: str = "auto"

  patch: ClassVar[tuple[int, int, int]] = (1, 1, 1)
  classes: ClassVar[int | None] = None

  def __post_init__(self):
    unet_config.check(self)
    if not 0 <= self.attends <= len(self.multipliers):
      raise ValueError(f"attends={self.attends} must be 0 to {len(self.multipliers)}, the levels")

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    given = dict(text=self.text, scalars=self.scalars, known=self.known, volumes=self.volumes)
    return tuple(name for name, value in given.items() if value)

  @property
  def frames_per_step(self) -> int:
    """Frames of the clip that one frame of the coarsest level stands for."""
    return 2 ** (len(self.multipliers) - 1) if self.temporal else 1

  @property
  def num_heads(self) -> int:
    """Heads at full resolution, the fewest of any level."""
    return self.width // self.head_dim

  @property
  def depth(self) -> int:
    """Blocks in units of one at full resolution, by tokens times channels: for estimates."""
    fewer = 8 if self.temporal else 4  # positions, per level
    return max(unet_config.depth(self, stages(self), fewer), 1)


SIZES = {
  # Our reading of the base model and of its super-resolution; neither is public.
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
}  # fmt: skip
PUBLISHED = dict(channels=3, text=4096)  # pixels, T5-XXL


def wider(cfg: Config) -> Config:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width)


def stages(cfg: Config) -> list[unet.Stage]:
  """The U in the order of its forward pass."""
  levels = range(len(cfg.multipliers))
  return unet.stages(cfg, levels[len(levels) - cfg.attends :], middle=True)


class Block(nnx.Module):
  """The image model's residual block and transformer, then what inflates them."""

  def __init__(self, cfg: Config, shape: unet.BlockShape, level: int, *, rngs: nnx.Rngs):
    c, groups, how = shape.c_out, cfg.groups, (cfg.kernel, cfg.context)
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.resnet = unet.ResNet(shape.c_in, c, 4 * cfg.width, groups, eps=1e-5, **kw)
    args, text = (c, c // cfg.head_dim, cfg.head_dim, groups), cfg.text or 0
    self.attention = (
      unet.Transformer(*args, "space", text=text, how=how, **kw) if shape.attends else None
    )
    coarsest = level == len(cfg.multipliers) - 1
    make = lambda: (
      image_inflation.TimeAttention(c, cfg.head_dim, groups, how=how, **kw)
      if coarsest
      else image_inflation.Convolutions(c, groups, **kw)
    )
    count = (cfg.temporal_blocks if coarsest else 1) * cfg.temporal
    self.temporal: Any = nnx.Dict({str(i): make() for i in range(count)})

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    x = self.resnet(x, c)
    if self.attention is not None:
      x = self.attention(x, text)
    if x.shape[1] > 1:
      for block in unet.in_order(self.temporal):
        x = block(x)
    return x


class Level(nnx.Module):
  """The blocks of a stage, and what changes the resolution after them: in space, then in time."""

  def __init__(self, cfg: Config, stage: unet.Stage, *, rngs: nnx.Rngs):
    shapes, c = enumerate(stage.blocks), stage.blocks[-1].c_out
    self.blocks: Any = nnx.Dict(
      {str(i): Block(cfg, shape, stage.level, rngs=rngs) for i, shape in shapes}
    )
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    down = stage.place == "down"
    make = image_inflation.Halve if down else image_inflation.Double
    temporal = make(c, **kw) if stage.sampler and cfg.temporal else None
    kw["stride"] = 2 if down else 1
    self.sampler = unet.Conv(c, c, unet.SPACE, ("embed", None), **kw) if stage.sampler else None
    self.temporal_sampler = temporal


class Model(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x. A network and nothing else."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, unet.Keys(rngs.params())
    c, kw = cfg.width, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.time = unet.TimeEmbed(c, **kw)
    self.scalars: Any = nnx.Dict(
      {name: layers.ScalarEmbed(4 * c, null=True, **kw) for name in cfg.scalars}
    )
    self.conv_in = unet.Conv(layers.channels_in(cfg), c, unet.SPACE, ("patch", "embed"), **kw)
    make = lambda place: [Level(cfg, s, rngs=rngs) for s in stages(cfg) if s.place == place]
    self.down: Any = nnx.Dict({str(i): level for i, level in enumerate(make("down"))})
    self.mid = make("mid")[0]
    self.up: Any = nnx.Dict({str(i): level for i, level in enumerate(make("up"))})
    self.norm_out = unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_out = unet.Conv(c, cfg.channels, unet.SPACE, ("embed", "patch"), **kw)

  def __call__(
    self,
    x: Float[Array, "B T H W C"],
    t: Float[Array, " B #T"],
    cond: Cond,
    *,
    key: Key[Array, " B"] | None = None,
  ) -> Float[Array, "B T H W C"]:
    """The network's output for a noisy clip.

    Args:
      x: noisy clip, about unit variance; any height and width; one frame, or a multiple of
        2^(levels - 1).
      t: noise level, 0 to 1000, one per clip or (not the paper's) per frame; a coarse frame is told
        that of the first frame it stands for.
      cond: exactly the conditions that Config declares. A text token outside the mask is a zero
        vector: it is attended to and says nothing.
      key: unused, the model is deterministic.
    Raises:
      ValueError: for a number of frames that cannot be halved as often as there are levels.
    """
    cfg = self.cfg
    check_cond(cond, cfg)
    frames = x.shape[1]
    if frames > 1 and frames % cfg.frames_per_step:
      raise ValueError(
        f"{frames} frames cannot be halved at {len(cfg.multipliers)} levels: use one frame or a "
        f"multiple of {cfg.frames_per_step}"
      )
    text = jnp.where(cond.text_mask[..., None], cond.text, 0) if cfg.text else None  # [B,L,text]
    c = self.time(t)  # [B,1|T,M]
    for name, embed in self.scalars.items():
      c = c + embed(cond.scalars[name])[:, None]

    def run(block: Block, x: Array) -> Array:
      here = c if c.shape[1] == 1 else c[:, :: frames // x.shape[1]]
      return unet.run(block, x, here, text, remat=cfg.remat)

    x = self.conv_in(constrain(layers.beside(x, cond, cfg), *unet.GRID, None))
    x = constrain(x, *unet.GRID, None)
    skips = [x]
    for level in unet.in_order(self.down):
      for block in unet.in_order(level.blocks):
        x = run(block, x)
        skips.append(x)
      if level.sampler is not None:
        x = constrain(level.sampler(x), *unet.GRID, None)
        if level.temporal_sampler is not None and frames > 1:
          x = level.temporal_sampler(x)
        skips.append(x)
    for block in unet.in_order(self.mid.blocks):
      x = run(block, x)
    for level in unet.in_order(self.up):
      for block in unet.in_order(level.blocks):
        x = run(block, jnp.concatenate([x, skips.pop()], -1))
      if level.sampler is not None:
        _, _, height, width, _ = skips[-1].shape
        x = constrain(level.sampler(unet.double(x, height, width)), *unet.GRID, None)
        if level.temporal_sampler is not None and frames > 1:
          x = level.temporal_sampler(x)
    return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


describe = unet_config.describe


PARTS = unet_config.PARTS | {
  "scalars": "scalars",
  "temporal_sampler": "samplers",
  "project": "temporal convolutions",
  "conv_space": "temporal convolutions",
  "conv_time": "temporal convolutions",
}
