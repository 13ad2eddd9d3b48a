"""TAEHV: small causal autoencoders for previews in the latents of Wan and of HunyuanVideo 1.5.

Convolutions see one frame; time passes through blocks that also see the frame before at their own
resolution (zeros before the first), and through products of stacked frames. Latents are those that
the diffusion model sees: normalised. Not in a paper; the computation and all parameters are those
of TAEHV in `taehv.py` of github.com/madebyollin/taehv at 1f14a56.

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.causal import GRID, Stream, fold, in_chunks, unfold
from videojax.models.layers import Linear
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import FAN_IN, SPACE, Conv, Keys, double
from videojax.settings import Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video
BLOCKS = 3  # of each level


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels of the encoder.
    decoder_widths: channels of the decoder's levels, from the latents on, and of what follows them.
    time: whether each level of the encoder, which halves the resolution, also halves the number of
      frames; the decoder's levels double both, in reverse order.
    patch: side of the squares of pixels that are channels.
    channels: Z.
    dtype: of matmuls and convolutions; parameters stay fp32.
  """

  width: Width
  decoder_widths: tuple[Width, ...]
  time: tuple[bool, ...]
  patch: Width
  channels: Width
  dtype: str = "float32"

  def __post_init__(self):
    settings.check(self)
    if not self.time or len(self.decoder_widths) != len(self.time) + 1:
      raise ValueError(
        f"decoder_widths={self.decoder_widths} must have one entry more than time={self.time}, "
        "which has one per level"
      )
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))

  @property
  def factors(self) -> tuple[int, ...]:
    """Frames that each level of the encoder merges."""
    return tuple(1 + time for time in self.time)

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, after the first frame."""
    side = self.patch * 2 ** len(self.time)
    return math.prod(self.factors), side, side


_TAEHV = dict(width=64, decoder_widths=(256, 128, 64, 64), time=(True, True, False))
SIZES: dict[str, dict[str, Any]] = {
  "wan2.1": dict(_TAEHV, patch=1, channels=16),  # of HunyuanVideo too, with other weights
  "wan2.2": dict(_TAEHV, patch=2, channels=48),
  "hunyuan1.5": dict(_TAEHV, patch=2, channels=32),
}


class Block(nnx.Module):
  """Three convolutions of each frame together with the frame before, and the frame added."""

  def __init__(self, c: int, **kw: Any):
    self.conv1, self.conv2, self.conv3 = (
      Conv(c_in, c, SPACE, ("embed", None), **kw) for c_in in (2 * c, c, c)
    )

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Float[Array, "B T H W C"]:
    past = stream.join(x, 1, jnp.zeros_like(x[:, :1]))[:, :-1]  # [B,T,H,W,C]
    y = jax.nn.relu(self.conv1(jnp.concatenate([x, past], -1)))
    y = self.conv3(jax.nn.relu(self.conv2(constrain(y, *GRID, None))))
    return constrain(jax.nn.relu(y + x), *GRID, None)


def through(blocks: Any, x: Array, stream: Stream) -> Array:
  for block in in_order(blocks):
    x = block(x, stream)
  return x


class Encoder(nnx.Module):
  """Squares of pixels -> latents: in each level, frames are stacked and the resolution halved."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    c, axes, self.factors = cfg.width, ("embed", None), cfg.factors
    self.conv_in = Conv(PIXELS * cfg.patch**2, c, SPACE, ("patch", "embed"), **kw)
    self.frames: Any = numbered(
      Linear((n * c,), (c,), axes, init=FAN_IN, bias=False, **kw) for n in self.factors
    )
    self.convs: Any = numbered(
      Conv(c, c, SPACE, axes, stride=2, bias=False, **kw) for _ in self.factors
    )
    self.blocks: Any = numbered(
      numbered(Block(c, **kw) for _ in range(BLOCKS)) for _ in self.factors
    )
    self.conv_out = Conv(c, cfg.channels, SPACE, ("embed", "patch"), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Float[Array, "B t h w Z"]:
    x = constrain(jax.nn.relu(self.conv_in(x)), *GRID, None)
    for i, n in enumerate(self.factors):
      x = self.frames[str(i)](fold(x, (n, 1, 1), "thwc"))  # [B,T/n,H,W,C]
      x = constrain(self.convs[str(i)](x), *GRID, None)  # [B,T/n,H/2,W/2,C]
      x = through(self.blocks[str(i)], x, stream)
    return self.conv_out(x)


class Decoder(nnx.Module):
  """Latents -> squares of pixels: each level doubles the resolution and unstacks frames."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    widths, axes, self.factors = cfg.decoder_widths, ("embed", None), cfg.factors[::-1]
    self.conv_in = Conv(cfg.channels, widths[0], SPACE, ("patch", "embed"), **kw)
    self.blocks: Any = numbered(
      numbered(Block(c, **kw) for _ in range(BLOCKS)) for c in widths[:-1]
    )
    self.frames: Any = numbered(
      Linear((c,), (n * c,), axes, init=FAN_IN, bias=False, **kw)
      for n, c in zip(self.factors, widths)
    )
    self.convs: Any = numbered(
      Conv(c, c_out, SPACE, axes, bias=False, **kw) for c, c_out in zip(widths, widths[1:])
    )
    self.conv_out = Conv(widths[-1], PIXELS * cfg.patch**2, SPACE, ("embed", "patch"), **kw)

  def __call__(self, x: Float[Array, "B t h w Z"], stream: Stream) -> Float[Array, "B T H W C"]:
    x = constrain(jax.nn.relu(self.conv_in(3 * jnp.tanh(x / 3))), *GRID, None)
    for i, n in enumerate(self.factors):
      x = through(self.blocks[str(i)], x, stream)
      x = double(x, 2 * x.shape[2], 2 * x.shape[3])  # [B,t,2h,2w,C]
      x = unfold(self.frames[str(i)](x), (n, 1, 1), "thwc")  # [B,n t,2h,2w,C]
      x = constrain(self.convs[str(i)](x), *GRID, None)
    return self.conv_out(jax.nn.relu(x))


class Model(nnx.Module):
  """Video in [0, 1] [B,1+4k,H,W,3] <-> latents [B,1+k,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, Keys(rngs.params())
    self.encoder = Encoder(cfg, rngs=rngs)
    self.decoder = Decoder(cfg, rngs=rngs)

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Latents, and the log variance of latents that are certain: -inf.

    Args: frames: number of latent frames encoded together after the first; None: all.
    """
    t, patch = self.cfg.strides[0], self.cfg.patch
    rest = ((0, 0), (0, -video.shape[1] % t), (0, 0), (0, 0), (0, 0))
    # The last frame fills up the last latent, whereas the first latent holds t frames.
    x = fold(jnp.pad(constrain(video, *GRID, None), rest, "edge"), (1, patch, patch), "cthw")
    x = in_chunks(self.encoder, x, t, None if frames is None else t * frames).astype(jnp.float32)
    return x, jnp.full_like(x, -jnp.inf)

  def decode(
    self, latent: Float[Array, "B t h w Z"], frames: int | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The video, within [0, 1], without the frames before the first one.

    Args: frames: number of latent frames decoded together after the first; None: all.
    """
    t, patch = self.cfg.strides[0], self.cfg.patch
    x = in_chunks(self.decoder, constrain(latent, *GRID, None), 1, frames).astype(jnp.float32)
    x = unfold(x[:, t - 1 :], (1, patch, patch), "cthw")
    return jnp.clip(x, 0, 1)


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in TAEHV, and its layout there."""
  levels = range(len(cfg.time))
  blocks = lambda i: [f"blocks/{i}/{j}" for j in range(BLOCKS)]
  # The published coders are sequences; None: a layer without parameters.
  down = (part for i in levels for part in (f"frames/{i}", f"convs/{i}", *blocks(i)))
  up = (part for i in levels for part in (*blocks(i), None, f"frames/{i}", f"convs/{i}"))
  order = {
    "encoder": ["conv_in", None, *down, "conv_out"],
    "decoder": [None, "conv_in", None, *up, None, "conv_out"],
  }
  inside = dict(conv1="conv.0.", conv2="conv.2.", conv3="conv.4.")

  def one(path: str) -> tuple[str, str]:
    coder, *part, leaf = path.split("/")
    frames = part[0] == "frames"
    inner = "conv." if frames else inside[part.pop()] if part[0] == "blocks" else ""
    leaf = {"kernel": "weight"}.get(leaf, leaf)
    name = f"{coder}.{order[coder].index('/'.join(part))}.{inner}{leaf}"
    return name, "vector" if leaf == "bias" else "conv2d" if frames else "weight"

  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  return {path: one(path) for path in info}


def statistics(cfg: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and deviation of each latent channel: 0 and 1, as latents are normalised."""
  return (0.0,) * cfg.channels, (1.0,) * cfg.channels
