"""ModelScopeT2V's U-Net: an image U-Net with convolutions and attention along time in every block.

A block is a residual block and a transformer within each frame (with cross-attention to the text),
each followed by its like along time. The temporal convolutions start as the identity.

Source: Wang et al. 2023, arXiv:2308.06571. What is computed, and every parameter, is that of
diffusers' UNet3DConditionModel (0.42.1); its dropout of 0.1 in temporal convolutions is left out,
and biases start at zero.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from videojax.models import diffusers_names, layers, unet, unet_config
from videojax.models.cond import Cond, check_cond
from videojax.settings import Depth, Width
from videojax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before. All but the last attend, as does the middle.
    blocks: per level on the way down; one more on the way up.
    head_dim: channels of a head; a level has as many heads as fit.
    in_heads: of the temporal transformer after the first convolution.
    groups: of group norm.
    channels: C of the clip.
    text: width of the given embeddings; None: no cross-attention.
    known: None, or how the channels of known frames are filled (not the paper's).
    volumes: channels of each aligned volume by name (not the paper's).
    dtype: of matmuls and convolutions; parameters stay fp32.
    remat: what the backward pass of a block recomputes (layers.REMATS).
    scan: False; blocks differ in size, so there is nothing to loop over.
    kernel, context: of attention (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  head_dim: Width
  in_heads: Width
  groups: Width
  channels: Width
  text: Width | None = None
  known: str | None = None
  volumes: Any = ()
  dtype: str = "bfloat16"
  remat: str = "none"
  scan: bool = False
  kernel: str = "auto"
  context: str = "auto"

  patch: ClassVar[tuple[int, int, int]] = (1, 1, 1)
  classes: ClassVar[int | None] = None
  scalars: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    unet_config.check(self)
    if self.multipliers[0] != 1:
      raise ValueError(f"multipliers={self.multipliers} must be 1 and numbers >= 1, one per level")

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    given = dict(text=self.text, known=self.known, volumes=self.volumes)
    return tuple(name for name, value in given.items() if value)

  @property
  def num_heads(self) -> int:
    """Heads at full resolution, the fewest of any level."""
    return self.width // self.head_dim

  @property
  def depth(self) -> int:
    """Blocks in units of one at full resolution, by tokens times channels: for estimates."""
    return unet_config.depth(self, stages(self))


SIZES = {
  # The published one.
  "1.4B": dict(
    width=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=64, in_heads=8, groups=32
  ),
  # For a CPU; ours.
  "nano": dict(width=32, multipliers=(1, 2), blocks=1, head_dim=16, in_heads=1, groups=8),
}  # fmt: skip
PUBLISHED = dict(channels=4, text=1024)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14


def wider(cfg: Config) -> Config:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width, in_heads=2 * cfg.in_heads)


def stages(cfg: Config) -> list[unet.Stage]:
  """The U in the order of its forward pass."""
  return unet.stages(cfg, range(len(cfg.multipliers) - 1), middle=True)


class Block(nnx.Module):
  """Within the frames, along time, and both again with attention."""

  def __init__(self, cfg: Config, shape: unet.BlockShape, *, rngs: nnx.Rngs):
    c, dtype, groups = shape.c_out, jnp.dtype(cfg.dtype), cfg.groups
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype)
    self.resnet = unet.ResNet(shape.c_in, c, 4 * cfg.width, groups, eps=1e-5, **kw)
    self.temp_conv = unet.TemporalConv(c, groups, **kw)
    args = (c, c // cfg.head_dim, cfg.head_dim, groups)
    kw |= dict(text=cfg.text or 0, how=(cfg.kernel, cfg.context))
    attends = shape.attends
    self.attention = unet.Transformer(*args, "space", **kw) if attends else None
    self.temp_attention = unet.Transformer(*args, "time", **kw) if attends else None

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    x = self.temp_conv(self.resnet(x, c))
    if self.attention is not None and self.temp_attention is not None:
      x = self.temp_attention(self.attention(x, text), None)
    return x


class Level(nnx.Module):
  """The blocks of a stage, and the convolution that comes with a change of resolution."""

  def __init__(self, cfg: Config, stage: unet.Stage, *, rngs: nnx.Rngs):
    shapes, c = enumerate(stage.blocks), stage.blocks[-1].c_out
    self.blocks: Any = nnx.Dict({str(i): Block(cfg, shape, rngs=rngs) for i, shape in shapes})
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    kw["stride"] = 2 if stage.place == "down" else 1
    self.sampler = unet.Conv(c, c, unet.SPACE, ("embed", None), **kw) if stage.sampler else None


class Model(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x. A network and nothing else."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, unet.Keys(rngs.params())
    c, kw = cfg.width, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.time = unet.TimeEmbed(c, **kw)
    self.conv_in = unet.Conv(layers.channels_in(cfg), c, unet.SPACE, ("patch", "embed"), **kw)
    how = (cfg.kernel, cfg.context)
    self.transformer_in = unet.Transformer(
      c, cfg.in_heads, cfg.head_dim, cfg.groups, "time", text=0, how=how, **kw
    )
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
      x: noisy clip, about unit variance; any height and width.
      t: noise level, 0 to 1000, one per clip or (not the paper's) per frame.
      cond: exactly the conditions that Config declares. A text token outside the mask is a zero
        vector: it is attended to, as the reference attends to its padding, and says nothing.
      key: unused, the model is deterministic.
    """
    cfg = self.cfg
    check_cond(cond, cfg)
    text = jnp.where(cond.text_mask[..., None], cond.text, 0) if cfg.text else None  # [B,L,text]
    c = self.time(t)  # [B,1|T,M]
    run = lambda block, x: unet.run(block, x, c, text, remat=cfg.remat)

    x = self.conv_in(constrain(layers.beside(x, cond, cfg), *unet.GRID, None))
    x = self.transformer_in(constrain(x, *unet.GRID, None), None)
    skips = [x]
    for level in unet.in_order(self.down):
      for block in unet.in_order(level.blocks):
        x = run(block, x)
        skips.append(x)
      if level.sampler is not None:
        x = constrain(level.sampler(x), *unet.GRID, None)
        skips.append(x)
    for block in unet.in_order(self.mid.blocks):
      x = run(block, x)
    for level in unet.in_order(self.up):
      for block in unet.in_order(level.blocks):
        x = run(block, jnp.concatenate([x, skips.pop()], -1))
      if level.sampler is not None:
        _, _, height, width, _ = skips[-1].shape
        x = constrain(level.sampler(unet.double(x, height, width)), *unet.GRID, None)
    return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


describe = unet_config.describe


PARTS = unet_config.PARTS | {
  "temp_conv": "temporal convolutions",
}


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in UNet3DConditionModel, and its layout (runs/weights.py)."""
  return diffusers_names.names(
    layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  )


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of UNet3DConditionModel that make it this network; known frames are not its."""
  attends = [i < len(cfg.multipliers) - 1 for i in range(len(cfg.multipliers))]
  block = lambda way, a: f"CrossAttn{way}Block3D" if a else f"{way}Block3D"
  return dict(
    _class_name="UNet3DConditionModel", in_channels=layers.channels_in(cfg),
    out_channels=cfg.channels, block_out_channels=[cfg.width * m for m in cfg.multipliers],
    layers_per_block=cfg.blocks, attention_head_dim=cfg.head_dim, norm_num_groups=cfg.groups,
    cross_attention_dim=cfg.text, down_block_types=[block("Down", a) for a in attends],
    up_block_types=[block("Up", a) for a in reversed(attends)],
  )  # fmt: skip
