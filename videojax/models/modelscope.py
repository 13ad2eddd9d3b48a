"""ModelScopeT2V's U-Net: an image U-Net with temporal convolutions and attention in every block.

A block is a spatial residual block and a spatial transformer (with cross-attention to the text),
each followed by its temporal counterpart. The temporal convolutions start as the identity.

Source: Wang et al. 2023, arXiv:2308.06571. The computation and all parameters are those of
diffusers' UNet3DConditionModel (0.42.1), but without its dropout of 0.1 in temporal convolutions,
and with zero initial biases.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax.models import diffusers_names, layers, unet, unet_config
from videojax.models.cond import Cond
from videojax.models.unet_config import BlockShape, Stage
from videojax.models.unet_layers import ResNet, TemporalConv, Transformer
from videojax.settings import Width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unet_config.Config):
  """All levels but the last have attention, and so has the middle.

  `known` and `volumes` are not in the paper.

  Attributes:
    in_heads: heads of the temporal transformer after the first convolution.
  """

  in_heads: Width

  scalars: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self):
    super().__post_init__()
    if self.multipliers[0] != 1:
      raise ValueError(f"multipliers={self.multipliers} must be 1 and numbers >= 1, one per level")


SIZES = {
  # The published one.
  "1.4B": dict(
    width=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=64, in_heads=8, groups=32
  ),
  # For a CPU; ours.
  "nano": dict(width=32, multipliers=(1, 2), blocks=1, head_dim=16, in_heads=1, groups=8),
  # For tests; ours.
  "tiny": dict(width=16, multipliers=(1, 2), blocks=1, head_dim=8, groups=8, in_heads=2),
}  # fmt: skip
PUBLISHED = dict(channels=4, text=1024)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14


def wider(cfg: Config) -> Config:
  """The same model with twice the width and heads, from which muP infers which axes grow."""
  return dataclasses.replace(cfg, width=2 * cfg.width, in_heads=2 * cfg.in_heads)


class Block(nnx.Module):
  """Spatial and temporal convolutions, then spatial and temporal attention."""

  def __init__(self, cfg: Config, stage: Stage, shape: BlockShape, *, rngs: nnx.Rngs):
    c, kw = shape.c_out, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.resnet = ResNet(shape.c_in, c, 4 * cfg.width, cfg.groups, eps=1e-5, **kw)
    self.temp_conv = TemporalConv(c, cfg.groups, **kw)
    make = lambda over: Transformer(cfg, c, over, rngs=rngs) if shape.attends else None
    self.attention, self.temp_attention = make("space"), make("time")

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    x = self.temp_conv(self.resnet(x, c))  # [B,T,H,W,c_out]
    if self.attention is not None and self.temp_attention is not None:
      x = self.temp_attention(self.attention(x, text))
    return x


class Model(unet.UNet):
  """A U-Net with a temporal transformer before the blocks."""

  Block = Block

  def make_first(self, rngs: nnx.Rngs) -> None:
    cfg = self.cfg
    self.transformer_in = Transformer(cfg, cfg.width, "time", heads=cfg.in_heads, rngs=rngs)

  def enter(self, x: Array, cond: Cond) -> Array:
    return self.transformer_in(super().enter(x, cond))


describe = unet_config.describe
PARTS = unet_config.PARTS | {"temp_conv": "temporal convolutions"}


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in UNet3DConditionModel, and its layout (runs/weights.py)."""
  model = nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0)))
  return diffusers_names.names(layers.param_info(model))


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of UNet3DConditionModel that give this network, which has no known frames."""
  attends = [i < len(cfg.multipliers) - 1 for i in range(len(cfg.multipliers))]
  block = lambda way, a: f"CrossAttn{way}Block3D" if a else f"{way}Block3D"
  return dict(
    _class_name="UNet3DConditionModel", in_channels=layers.channels_in(cfg),
    out_channels=cfg.channels, block_out_channels=[cfg.width * m for m in cfg.multipliers],
    layers_per_block=cfg.blocks, attention_head_dim=cfg.head_dim, norm_num_groups=cfg.groups,
    cross_attention_dim=cfg.text, down_block_types=[block("Down", a) for a in attends],
    up_block_types=[block("Up", a) for a in reversed(attends)],
  )  # fmt: skip
