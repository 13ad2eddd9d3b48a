"""VideoCrafter's U-Net: an image U-Net with temporal attention after every spatial attention.

A block is a residual block (in two variants with temporal convolutions), a spatial transformer
(with attention to the text, in one variant also to an image), and a temporal transformer (in the
two other variants with embeddings of the distance between frames). The frame rate's embedding is
added to that of the noise level. Every branch and the last convolution start at zero.

Source: Chen et al. 2023, arXiv:2310.19512 (VideoCrafter1); Chen et al. 2024, arXiv:2401.09047
(VideoCrafter2). The computation and all parameters are those of UNetModel in openaimodel3d.py of
github.com/AILab-CVC/VideoCrafter (commit 11bcd76) under its four configs, but without its dropout
of 0.1 in temporal convolutions, and with zero initial biases.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, I image tokens, M width of
time embedding.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from videojax.models import layers, unet, unet_config, videocrafter_names
from videojax.models.attention import choose_kernel
from videojax.models.cond import Cond
from videojax.models.unet_config import BlockShape, Stage
from videojax.models.unet_layers import ResNet, TemporalConv
from videojax.models.videocrafter_attention import Transformer, from_zero
from videojax.settings import Count, Natural, Width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unet_config.Config):
  """All levels but the last have attention, and so has the middle.

  `known` and `volumes` are not in the paper.

  Attributes:
    in_heads: heads of the temporal transformer after the first convolution.
    temporal_conv: whether every residual block has temporal convolutions.
    image_tokens: I, number of image tokens, which have the text's width and separate keys and
      values; 0: none.
    scalars: names of scalar conditions, each embedded like the noise level; 'fps' in the paper.
    reach: maximum distance between frames, to which temporal attention clips distances; None: it
      has no distance embeddings.
    kernel: attention with distances always uses XLA's kernel.
  """

  in_heads: Width
  temporal_conv: bool
  image_tokens: Natural = 0
  scalars: tuple[str, ...] = ()
  reach: Count | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.multipliers[:1] != (1,):
      raise ValueError(f"multipliers={self.multipliers} must be numbers >= 1, by level, 1 first")
    if self.image_tokens < 0 or (self.image_tokens and not self.text):
      raise ValueError(
        f"image_tokens={self.image_tokens} with text={self.text}: image tokens accompany a text "
        "and have its width, so set text"
      )

  @property
  def uses(self) -> tuple[str, ...]:
    return (*super().uses, *["image"] * bool(self.image_tokens))


_PAPER = dict(width=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=64, in_heads=8, groups=32)
SIZES: dict[str, dict[str, Any]] = {
  # The published ones, named as their configs; tests/models/test_videocrafter.py has their
  # parameter counts.
  "512-v2": dict(**_PAPER, temporal_conv=True, scalars=("fps",)),  # VideoCrafter2
  "1024-v1": dict(**_PAPER, temporal_conv=False, scalars=("fps",), reach=16),
  "512-v1": dict(**_PAPER, temporal_conv=False, reach=16),
  "i2v-512": dict(**_PAPER, temporal_conv=True, scalars=("fps",), image_tokens=16),
  # For a CPU; ours.
  "nano": dict(
    width=32, multipliers=(1, 2), blocks=1, head_dim=16, in_heads=1, groups=8, temporal_conv=True
  ),
  # For tests; ours.
  "tiny": dict(
    width=16, multipliers=(1, 2), blocks=1, head_dim=8, groups=8, in_heads=1, temporal_conv=True
  ),
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
    from_zero(self.resnet.conv2)
    self.temp_conv = TemporalConv(c, cfg.groups, **kw) if cfg.temporal_conv else None
    make = lambda over: Transformer(cfg, c, over, rngs=rngs) if shape.attends else None
    self.attention, self.temp_attention = make("space"), make("time")

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], seen: Array | None
  ) -> Array:
    x = self.resnet(x, c)  # [B,T,H,W,c_out]
    if self.temp_conv is not None:
      x = self.temp_conv(x)
    if self.attention is not None and self.temp_attention is not None:
      x = self.temp_attention(self.attention(x, seen))
    return x


class Model(unet.UNet):
  """A U-Net with a temporal transformer before the blocks.

  Image tokens are the output of CLIP's resampler, which is not part of the U-Net. Tokens outside
  the mask are attended to, as the reference attends to its padding. A scalar that is NaN adds
  nothing (the reference always has a value; its default frame rate is 16).
  """

  Block = Block

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    super().__init__(cfg, rngs=rngs)
    from_zero(self.conv_out)

  def make_scalars(self, rngs: nnx.Rngs) -> Any:
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(self.cfg.dtype))
    return nnx.Dict({name: unet.TimeEmbed(self.cfg.width, **kw) for name in self.cfg.scalars})

  def make_first(self, rngs: nnx.Rngs) -> None:
    cfg = self.cfg
    self.transformer_in = Transformer(cfg, cfg.width, "time", heads=cfg.in_heads, rngs=rngs)

  def embed(self, t: Float[Array, " B #T"], cond: Cond) -> Float[Array, " B #T M"]:
    c = self.time(t)  # [B,1|T,M]
    for name, embed in self.scalars.items():
      value = cond.scalars[name][:, None]  # [B,1]
      given = ~jnp.isnan(value)
      c = c + jnp.where(given[..., None], embed(jnp.where(given, value, 0.0)), 0)
    return c

  def see(self, x: Array, cond: Cond) -> Float[Array, "B S D"] | None:
    """Text tokens followed by image tokens: S = L + I."""
    text = super().see(x, cond)  # [B,L,D]
    if not self.cfg.image_tokens:
      return text
    if cond.image.shape[1] != self.cfg.image_tokens:
      raise ValueError(
        f"got {cond.image.shape[1]} image tokens, not {self.cfg.image_tokens} as in the config"
      )
    return jnp.concatenate([text, unet.visible(cond.image, cond.image_mask)], 1)

  def enter(self, x: Array, cond: Cond) -> Array:
    return self.transformer_in(super().enter(x, cond))


def describe(cfg: Config, mesh: Mesh | AbstractMesh) -> str:
  """How attention is computed on this mesh, in words for the console."""
  kernel = choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim)
  kernel += ", xla along time (distances)" if cfg.reach else ""
  return unet_config.in_turn(kernel, mesh, "rows")


PARTS = unet_config.PARTS | {
  "scalars": "time",
  "temp_conv": "temporal convolutions",
  "key_distance": "attention scores",
  "value_distance": "attention scores",
}
OTHER_PARTS = videocrafter_names.OTHER_PARTS


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name and layout in a published checkpoint (runs/weights.py)."""
  model = nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0)))
  return videocrafter_names.names(layers.param_info(model), cfg.blocks)
