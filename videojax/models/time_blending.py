"""Spatial layers blended with temporal layers: Stable Video Diffusion's blocks.

The output of a pair of layers is s * spatial + (1 - s) * temporal, where s is the sigmoid of a
learned number. For an image, a clip of one frame, s is 1 and temporal layers are not computed.

Source: Blattmann et al. 2023, arXiv:2304.08818, section 3.1, as in diffusers' (0.42.1)
SpatioTemporalResBlock and TransformerSpatioTemporalModel.

Shapes: B batch, T frames, H W height width, C channels, L tokens of the image or text, S = H*W,
D width of tokens, M width of the noise level's embedding. `cfg` is svd.Config.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from videojax.models import layers
from videojax.models.layers import Linear
from videojax.models.unet_config import BlockShape, Stage
from videojax.models.unet_layers import (
  ATTEND,
  FAN_IN,
  GRID,
  SPLIT,
  FeedForward,
  GroupNorm,
  LayerNorm,
  ResNet,
  TransformerBlock,
  on_tokens,
)
from videojax.sharding import constrain


class Blend(nnx.Module):
  """s a + (1 - s) b, where s is the sigmoid of a learned number."""

  def __init__(self, start: float, *, rngs: nnx.Rngs):
    self.factor = layers.param(rngs, layers.Init("constant", start), (1,), (None,))

  def __call__(self, a: Float[Array, "*B C"], b: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    s = layers.lead(jax.nn.sigmoid(self.factor[...]), a).astype(a.dtype)
    return b + s * (a - b)  # in this form the gradient of s is one sum, not two that cancel


class Embed(nnx.Module):
  """Linear, SiLU, Linear."""

  def __init__(self, features: int, hidden: int, out: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype, init=FAN_IN)
    self.hidden = Linear((features,), (hidden,), (None, "embed"), **kw)
    self.out = Linear((hidden,), (out,), ("embed", None), **kw)

  def __call__(self, x: Float[Array, "*B features"]) -> Float[Array, "*B out"]:
    return self.out(jax.nn.silu(self.hidden(x)))


class TemporalBlock(nnx.Module):
  """Feed-forward, then a TransformerBlock over the frames at each position."""

  def __init__(self, cfg: Any, width: int, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.norm_in, self.ff_in = LayerNorm(width, rngs=rngs), FeedForward(width, **kw)
    self.block = transformer_block(cfg, width, rngs=rngs)

  def __call__(self, x: Float[Array, "B S T D"], seen: Array | None) -> Array:
    x = x + self.ff_in(self.norm_in(x))
    return self.block(x, ("batch", "tokens", "sequence"), seen)


def transformer_block(cfg: Any, width: int, *, rngs: nnx.Rngs) -> TransformerBlock:
  return TransformerBlock(cfg, width, text=cfg.image or cfg.text or 0, again=False, rngs=rngs)


class Transformer(nnx.Module):
  """A spatial transformer block blended with a temporal one, which also sees the frame's number."""

  def __init__(self, cfg: Any, channels: int, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.norm = GroupNorm(channels, cfg.groups, frames=False, eps=1e-6, rngs=rngs)
    self.proj_in = Linear((channels,), (channels,), ("embed", None), init=FAN_IN, **kw)
    self.space = transformer_block(cfg, channels, rngs=rngs)
    self.frame = Embed(channels, 4 * channels, channels, **kw)
    self.along = TemporalBlock(cfg, channels, rngs=rngs)
    self.blend = Blend(0.5, rngs=rngs)
    self.proj_out = Linear((channels,), (channels,), (None, "embed"), init=FAN_IN, **kw)

  def __call__(self, x: Float[Array, "B T H W C"], seen: Array | None) -> Array:
    steps: list[Any] = [self.proj_in, lambda y: self.space(y, ATTEND["space"], seen)]
    if x.shape[1] > 1:
      steps.append(lambda y: self.blend(y, self.over_frames(y, seen)))
    steps.append(self.proj_out)
    return constrain(x + on_tokens(self.norm(x), "space", steps), *GRID, None)

  def over_frames(self, y: Float[Array, "B T S C"], seen: Array | None) -> Array:
    frames, channels = y.shape[1], y.shape[-1]
    split = lambda z: constrain(z, "batch", "tokens", "frames", None)
    number = self.frame(layers.sinusoid(jnp.arange(frames, dtype=jnp.float32), channels))  # [T,C]
    z = split(jnp.swapaxes(y + number[None, :, None], 1, 2))  # [B,S,T,C]
    z = jnp.swapaxes(split(self.along(z, seen)), 1, 2)  # [B,T,S,C]
    return constrain(z, *SPLIT["space"])


class Block(nnx.Module):
  """Blended spatial and temporal convolutions, then blended spatial and temporal attention."""

  def __init__(self, cfg: Any, stage: Stage, shape: BlockShape, *, rngs: nnx.Rngs):
    c, kw = shape.c_out, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    # As in the reference, where eps depends on the class of the block.
    eps = 1e-5 if stage.place == "mid" or (stage.place == "down" and not shape.attends) else 1e-6
    self.resnet = ResNet(shape.c_in, c, 4 * cfg.width, cfg.groups, eps=eps, **kw)
    self.temporal = ResNet(c, c, 4 * cfg.width, cfg.groups, eps=eps, over="time", **kw)
    self.blend = Blend(0.5, rngs=rngs)
    self.attention = Transformer(cfg, c, rngs=rngs) if shape.attends else None

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], seen: Array | None
  ) -> Array:
    x = self.resnet(x, c)
    if x.shape[1] > 1:
      x = constrain(self.blend(x, self.temporal(x, c)), *GRID, None)
    return x if self.attention is None else self.attention(x, seen)
