"""A small causal autoencoder whose compression is a setting; ours, for a CPU and for questions.

As Wan's (vae_wan.py): 1 + time k frames become 1 + k latents, and the first frame is an image of
its own. Patches of pixels become channels first, so that no convolution runs at full resolution;
then each step halves the resolution, the number of frames, or both. There is no attention. The
latents are shifted and scaled by statistics that are measured after training (reconstruct.py).

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from videojax import settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.causal import (
  CUBE,
  GRID,
  CausalConv,
  ChannelNorm,
  ResBlock,
  Stream,
  fold,
  in_chunks,
  unfold,
)
from videojax.models.critic import Critic
from videojax.models.quantize import FSQ, LFQ
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import Keys
from videojax.models.vae_wan import PIXELS, Down, Up
from videojax.settings import Depth, Width
from videojax.sharding import constrain

norm = functools.partial(ChannelNorm, eps=1e-6)
CERTAIN = -30.0  # the least log variance
# Log variance at first: with 0, noise hides the means, and decoders learn to ignore them.
START = -4.0


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at the finest resolution; doubled once, after the first step.
    blocks: number per resolution.
    time, space: frames and pixels per latent position; powers of two.
    patch: pixels per position of the first convolution.
    channels: Z.
    codes: 'none': latents are normal distributions; 'fsq': each latent is rounded to one of
      `levels`; 'lfq': to its sign (quantize.py).
    levels: of FSQ, one per channel.
    critic: channels of the first layer of a discriminator, for the weight `adversarial` of the
      training loss; None: there is none. Codecs do not have it.
    dtype: of convolutions; parameters stay fp32.
  """

  width: Width
  blocks: Depth
  time: Width
  space: Width
  patch: Width
  channels: Width
  codes: str = "none"
  levels: tuple[Width, ...] = ()
  critic: Width | None = None
  dtype: str = "float32"

  def __post_init__(self):
    settings.check(self)
    check_choice("codes", self.codes, ("none", "fsq", "lfq"))
    if len(self.levels) != (self.channels if self.codes == "fsq" else 0):
      raise ValueError(
        f"levels={self.levels} must be one for each of the channels={self.channels} with codes="
        "'fsq', and empty otherwise"
      )
    self.quantizer  # noqa: B018  # raises if the levels are no codebook
    for name in ("time", "space", "patch"):
      value = getattr(self, name)
      if value & (value - 1):
        raise ValueError(f"{name}={value} must be a power of two")
    if self.patch > self.space:
      raise ValueError(f"patch={self.patch} must not be above space={self.space}")
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, after the first frame."""
    return self.time, self.space, self.space

  @property
  def quantizer(self) -> FSQ | LFQ | None:
    if self.codes == "none":
      return None
    return FSQ(self.levels) if self.codes == "fsq" else LFQ(self.channels)

  @property
  def steps(self) -> list[tuple[bool, bool]]:
    """(whether it halves the frames, whether it halves the resolution) of each step down.

    Frames are merged in the last steps, where there are fewest positions.
    """
    times, spaces = int(math.log2(self.time)), int(math.log2(self.space // self.patch))
    number = max(times, spaces)
    return [(i >= number - times, i < spaces) for i in range(number)]

  @property
  def widths(self) -> list[int]:
    """Channels at each resolution, from the finest."""
    return [self.width * (2 if i else 1) for i in range(len(self.steps) + 1)]


SIZES = {
  "nano": dict(width=32, blocks=1, time=4, space=8, patch=4),
  "tiny": dict(width=8, blocks=1, time=2, space=4, patch=2),
}


class Coder(nnx.Module):
  """Blocks and steps, from the finest resolution to the coarsest (`down`) or back."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    step: type[Down] | type[Up] = Down if down else Up
    widths, steps = (cfg.widths, cfg.steps) if down else (cfg.widths[::-1], cfg.steps[::-1])
    self.conv_in = CausalConv(c_in, widths[0], CUBE, ("patch", "embed"), **kw)
    self.levels: Any = numbered(
      numbered(ResBlock(c, c, norm=norm, **kw) for _ in range(cfg.blocks)) for c in widths
    )
    self.steps: Any = numbered(
      step(widths[i], widths[i + 1], time, space=space, **kw)
      for i, (time, space) in enumerate(steps)
    )
    self.norm_out = norm(widths[-1], rngs=rngs)
    self.conv_out = CausalConv(widths[-1], c_out, CUBE, ("embed", "patch"), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    x = constrain(self.conv_in(x, stream), *GRID, None)
    for blocks, step in zip(in_order(self.levels), [*in_order(self.steps), None]):
      for block in in_order(blocks):
        x = block(x, stream)
      x = x if step is None else step(x, stream)
    return self.conv_out(jax.nn.silu(self.norm_out(x)), stream)


class Model(nnx.Module):
  """Video [B,1+time k,H,W,3] <-> latents [B,1+k,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, Keys(rngs.params())
    pixels = PIXELS * cfg.patch**2
    out = cfg.channels * (2 if cfg.quantizer is None else 1)
    self.encoder = Coder(cfg, pixels, out, down=True, rngs=rngs)
    self.decoder = Coder(cfg, cfg.channels, pixels, down=False, rngs=rngs)
    self.statistics = Statistics(cfg.channels, rngs=rngs)
    if cfg.critic is not None:
      self.critic = Critic(PIXELS, cfg.critic, rngs=rngs, dtype=jnp.dtype(cfg.dtype))

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Mean and log variance of each latent, before normalisation; of a code, itself and CERTAIN.

    Args: frames: number of latent frames encoded together after the first; None: all.
    """
    return self.bottleneck(video, frames)[:2]

  def bottleneck(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Array, Array, Array, Int[Array, "B t h w"] | None]:
    """Mean and log variance, the loss of the codes [], and their indices, if there are codes."""
    x = fold(constrain(video, *GRID, None), (1, self.cfg.patch, self.cfg.patch), "cthw")
    x = in_chunks(self.encoder, x, 1, None if frames is None else self.cfg.time * frames)
    x, quantizer = x.astype(jnp.float32), self.cfg.quantizer
    if quantizer is None:
      mean, log_var = jnp.split(x, 2, -1)
      return mean, jnp.clip(log_var + START, CERTAIN, 20), jnp.zeros(()), None
    codes, indices, penalty = quantizer.quantize(x)
    return codes, jnp.full_like(codes, CERTAIN), penalty, indices

  def decode(
    self, latent: Float[Array, "B t h w Z"], frames: int | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The video. Args: frames: number of latent frames decoded together; None: all."""
    x = in_chunks(self.decoder, constrain(latent, *GRID, None), 1, frames).astype(jnp.float32)
    return unfold(x, (1, self.cfg.patch, self.cfg.patch), "cthw")


class Statistics(nnx.Module):
  """Mean and deviation of each latent channel: not learned, but measured after training."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    self.mean = layers.param(rngs, layers.ZEROS, (channels,), ("patch",))
    self.deviation = layers.param(rngs, layers.ONES, (channels,), ("patch",))
