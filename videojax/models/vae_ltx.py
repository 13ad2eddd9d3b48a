"""LTX-Video's autoencoder, as of 0.9.5 to 0.9.8: 8x32x32 pixels per position, 128 channels.

1 + 8k frames become 1 + k latents. The encoder is causal. The decoder is not: its convolutions see
as many later frames as earlier ones. It also removes the last noise of sampling: it is told the
noise level of the latents.

Source: HaCohen et al. 2024, arXiv:2501.00103, section 2.1; the computation and all parameters are
those of diffusers' AutoencoderKLLTXVideo (0.42.1) with LTXVideo095DownBlock3D. The layouts of 0.9.0
(strided convolutions) and 0.9.1 (noise within the decoder) are not covered, nor the tiles that the
published programs can take of large clips.

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.causal import CUBE, GRID, CausalConv, Stream, fold, in_chunks, unfold
from videojax.models.layers import Init, ScalarEmbed
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import Keys, convolve, last
from videojax.settings import Depth, Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video
PATCH = (1, 4, 4)
STEPS = {"spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2)}
# Of the latents that the decoder is made for, in units of the whole noise. The published pipelines
# give it latents with a share NOISE of fresh noise, which is left to the caller here.
LEVEL, NOISE = 0.05, 0.025


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    widths, blocks: channels of each level of the encoder, and number of its blocks.
    steps: what is halved between its levels: 'spatial', 'temporal' or 'spatiotemporal'.
    decoder_width: channels of the decoder's first level; each level has half of the previous one's,
      and twice its resolution in time and space.
    decoder_blocks: number of blocks of each of its levels.
    channels: Z.
    dtype: of matmuls and convolutions; parameters stay fp32.
  """

  widths: tuple[Width, ...]
  blocks: tuple[Depth, ...]
  steps: tuple[str, ...]
  decoder_width: Width
  decoder_blocks: tuple[Depth, ...]
  channels: Width
  dtype: str = "float32"

  def __post_init__(self):
    settings.check(self)
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    for step in self.steps:
      check_choice("step between levels", step, tuple(STEPS))
    if not len(self.widths) == len(self.blocks) == len(self.steps) + 1:
      raise ValueError(
        f"widths={self.widths} and blocks={self.blocks} need one entry per level, and "
        f"steps={self.steps} one fewer"
      )
    ups = len(self.decoder_blocks) - 1
    if any(math.prod(STEPS[step][i] for step in self.steps) != 2**ups for i in range(3)):
      raise ValueError(
        f"steps={self.steps} must halve time, height and width as often as the decoder doubles "
        f"them, {ups} times for {len(self.decoder_blocks)} levels"
      )
    for c, out, step in zip(self.widths, self.widths[1:], self.steps):
      cells = math.prod(STEPS[step])
      if out % cells or c * cells % out:
        raise ValueError(
          f"widths={self.widths}: a {step} step from {c} channels gives {cells} times a whole "
          f"number, whose {cells}-fold input has whole groups of channels; {out} does not fit"
        )
    if ups and self.decoder_width % (4 * 2**ups):
      raise ValueError(
        f"decoder_width={self.decoder_width} must be a multiple of {4 * 2**ups}, so that each of "
        f"{ups} steps can make eight positions of its channels"
      )

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, in time after the first frame."""
    side = 2 ** (len(self.decoder_blocks) - 1)
    return PATCH[0] * side, PATCH[1] * side, PATCH[2] * side


SIZES: dict[str, dict[str, Any]] = {
  "0.9.5": dict(
    widths=(128, 256, 512, 1024, 2048), blocks=(4, 6, 6, 2, 2),
    steps=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
    decoder_width=1024, decoder_blocks=(5, 5, 5, 5), channels=128,
  ),
  # For a CPU; ours.
  "nano": dict(
    widths=(16, 32), blocks=(1, 1), steps=("spatiotemporal",), decoder_width=32,
    decoder_blocks=(1, 1), channels=8,
  ),
}  # fmt: skip


class CentredConv(CausalConv):
  """A convolution over [B,T,H,W,C] of the whole clip, whose first and last frame are repeated."""

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    n, j, k = (size // 2 for size in self.kernel.shape[:3])
    ends = jnp.repeat(x[:, :1], n, 1), jnp.repeat(x[:, -1:], n, 1)
    x = jnp.concatenate([ends[0], x, ends[1]], 1).astype(self.dtype)  # [B,T+2,H,W,C]
    kernel = self.kernel[...].astype(self.dtype)
    y = convolve(x, kernel, self.strides, [(0, 0), (j, j), (k, k)])
    return y + last(self.bias, y)


def activated(x: Float[Array, "B T H W C"], rows: list[Array]) -> Float[Array, "B T H W C"]:
  """SiLU of x at a root mean square of 1 over the channels, in fp32.

  Args: rows: shift and scale, [B,1,1,1,C]; empty: none.
  """
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-8)
  if rows:
    shift, scale = rows
    y = y * (1 + scale) + shift
  return jax.nn.silu(y).astype(x.dtype)


class Rows(nnx.Module):
  """A table of vectors; to each is added what the noise level says."""

  def __init__(self, number: int, c: int, *, rngs: nnx.Rngs):
    self.table = layers.param(rngs, layers.normal(c**-0.5), (number, c), (None, "embed"))

  def __call__(self, level: Float[Array, "B n"]) -> list[Float[Array, "B 1 1 1 C"]]:
    number, c = self.table.shape
    rows = level.astype(jnp.float32).reshape(-1, number, c) + self.table[...].reshape(1, number, c)
    return [rows[:, i].reshape(-1, 1, 1, 1, c) for i in range(number)]


class Block(nnx.Module):
  """A residual block of two convolutions, in the decoder with the noise level in its norms."""

  def __init__(self, c: int, conv: type[CausalConv], **kw: Any):
    self.conv1, self.conv2 = (conv(c, c, CUBE, ("embed", None), **kw) for _ in range(2))
    self.rows = Rows(4, c, rngs=kw["rngs"]) if conv is CentredConv else None

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream, level: Array | None) -> Array:
    rows = [] if self.rows is None or level is None else self.rows(level)
    y = constrain(self.conv1(activated(x, rows[:2]), stream), *GRID, None)
    return constrain(x + self.conv2(activated(y, rows[2:]), stream), *GRID, None)


class Level(nnx.Module):
  """The blocks at one resolution; in the decoder they share an embedding of the noise level."""

  def __init__(self, c: int, number: int, conv: type[CausalConv], **kw: Any):
    embed = lambda: ScalarEmbed(4 * c, rngs=kw["rngs"], dtype=kw["dtype"], null=False)
    self.embed = embed() if conv is CentredConv else None
    self.blocks: Any = numbered(Block(c, conv, **kw) for _ in range(number))

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream, level: Array | None) -> Array:
    c = None if self.embed is None or level is None else self.embed(level)  # [B,4C]
    for block in in_order(self.blocks):
      x = block(x, stream, c)
    return x


class Down(nnx.Module):
  """Folds space and time into channels, and adds the folded input with its channels averaged."""

  def __init__(self, c: int, c_out: int, step: str, **kw: Any):
    self.factors, self.width = STEPS[step], c_out
    self.conv = CausalConv(c, c_out // math.prod(self.factors), CUBE, ("embed", None), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Float[Array, "B t h w D"]:
    if self.factors[0] == 2 and stream.first:  # frame 0 is a pair with itself
      x = jnp.concatenate([x[:, :1], x], 1)
    y = fold(self.conv(x, stream), self.factors, "cthw")  # [B,t,h,w,D]
    x = fold(x, self.factors, "cthw")
    x = x.reshape(*x.shape[:-1], self.width, -1).mean(-1)  # [B,t,h,w,D]
    return constrain(x + y, *GRID, None)


class Up(nnx.Module):
  """Unfolds channels into space and time, and adds the unfolded input, its channels repeated."""

  FACTORS, TIMES = (2, 2, 2), 4

  def __init__(self, c: int, **kw: Any):
    self.conv = CentredConv(c, 4 * c, CUBE, ("embed", None), **kw)

  def __call__(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    y = unfold(self.conv(x, stream), self.FACTORS, "cthw")  # [B,2T,2H,2W,C/2]
    x = jnp.tile(unfold(x, self.FACTORS, "cthw"), (1, 1, 1, 1, self.TIMES))  # as y
    return constrain((x + y)[:, 1:], *GRID, None)  # [B,2T-1,2H,2W,C/2]


class Coder(nnx.Module):
  """The layers of the encoder (causal) or the decoder (told the noise level)."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), before="first")
    conv = CausalConv if down else CentredConv
    numbers = cfg.blocks if down else cfg.decoder_blocks
    widths = cfg.widths if down else [cfg.decoder_width // 2**i for i in range(len(numbers))]
    c = widths[-1]
    self.conv_in = conv(c_in, widths[0], CUBE, ("patch", "embed"), **kw)
    self.levels: Any = numbered(Level(*one, conv, **kw) for one in zip(widths, numbers))
    pairs = zip(widths, widths[1:])
    self.steps: Any = numbered(
      Down(*pair, step, **kw) for pair, step in zip(pairs, cfg.steps)
    ) if down else numbered(Up(width, **kw) for width in widths[:-1])  # fmt: skip
    self.embed = None if down else ScalarEmbed(2 * c, rngs=rngs, dtype=kw["dtype"], null=False)
    self.rows = None if down else Rows(2, c, rngs=rngs)
    self.conv_out = conv(c, c_out, CUBE, ("embed", "patch"), **kw)

  def __call__(
    self, x: Float[Array, "B T H W C"], stream: Stream, level: Float[Array, " B"] | None = None
  ) -> Array:
    x = constrain(self.conv_in(x, stream), *GRID, None)
    steps = in_order(self.steps)
    for i, blocks in enumerate(in_order(self.levels)):
      x = steps[i - 1](x, stream) if i else x
      x = blocks(x, stream, level)
    rows = []
    if self.rows is not None and self.embed is not None and level is not None:
      rows = self.rows(self.embed(level))
    return self.conv_out(activated(x, rows), stream)


class Model(nnx.Module):
  """Video [B,1+8k,H,W,3] <-> latents [B,1+k,h,w,Z]; also has the latents' mean and deviation."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs, z = cfg, Keys(rngs.params()), cfg.channels
    pixels = PIXELS * math.prod(PATCH)
    self.encoder = Coder(cfg, pixels, z + 1, down=True, rngs=rngs)
    self.decoder = Coder(cfg, z, pixels, down=False, rngs=rngs)
    self.unit = layers.param(rngs, Init("constant", 1000.0), (), ())  # of the decoder's noise level
    # In the published file; they take no part in the computation and so never train.
    self.mean = layers.param(rngs, layers.ZEROS, (z,), (None,))
    self.deviation = layers.param(rngs, layers.ONES, (z,), (None,))

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Mean and log variance of each latent; the log variance is the same in all channels.

    Args: frames: number of latent frames encoded together after the first; None: all.
    """
    x = fold(constrain(video, *GRID, None), PATCH, "cwht")
    x = in_chunks(self.encoder, x, 1, None if frames is None else self.cfg.strides[0] * frames)
    x = x.astype(jnp.float32)
    mean, log_var = x[..., :-1], jnp.clip(x[..., -1:], -30, 20)
    return mean, jnp.broadcast_to(log_var, mean.shape)

  def decode(
    self,
    latent: Float[Array, "B t h w Z"],
    frames: int | None = None,
    level: Float[ArrayLike, "*B"] = LEVEL,
  ) -> Float[Array, "B T H W 3"]:
    """The video, about within [-1, 1]; always of the whole clip, as each frame sees later ones.

    Args:
      frames: has no effect on the decoder.
      level: how noisy the latents are, 0 to 1, in all clips or in each.
    """
    level = jnp.broadcast_to(jnp.asarray(level, jnp.float32), latent.shape[:1])
    level = level * self.unit[...].reshape(1)
    x = self.decoder(constrain(latent, *GRID, None), Stream(), level)
    return unfold(x.astype(jnp.float32), PATCH, "cwht")


LAYOUTS = ("diffusers", "original")  # of names in published files
# The transformer of the same file, and statistics of the deviations of latents.
OTHER_PARTS = (
  "model.diffusion_model.", "vae.per_channel_statistics.channel",
  "vae.per_channel_statistics.mean-of-stds",
)  # fmt: skip
_TOP = {
  "diffusers": dict(mean="latents_mean", deviation="latents_std",
                    unit="decoder.timestep_scale_multiplier"),
  "original": dict(mean="vae.per_channel_statistics.mean-of-means",
                   deviation="vae.per_channel_statistics.std-of-means",
                   unit="vae.decoder.timestep_scale_multiplier"),
}  # fmt: skip


def names(cfg: Config, layout: str = "diffusers") -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in AutoencoderKLLTXVideo or in LTX's file, its layout there."""
  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))

  def one(path: str) -> tuple[str, str]:
    if path in _TOP[layout]:
      return _TOP[layout][path], "table" if path == "unit" else "vector"
    *where, leaf = path.split("/")
    ends = {"kernel": ["weight"], "bias": ["bias"], "table": []}[leaf]
    kind = {"kernel": "weight", "bias": "vector", "table": "table"}[leaf]
    return ".".join([*_published(cfg, where, layout), *ends]), kind

  return {path: one(path) for path in info}


def _published(cfg: Config, where: list[str], layout: str) -> list[str]:
  """The published module of one of ours."""
  coder, part, *rest = where
  down, original = coder == "encoder", layout == "original"
  top, side = (["vae", coder] if original else [coder]), "down_blocks" if down else "up_blocks"
  if part in ("conv_in", "conv_out"):
    return [*top, part, "conv"]
  if part in ("embed", "rows"):
    inner = _inner([part, *rest])
    return [*top, f"last_{inner[0]}" if original else inner[0], *inner[1:]]
  index, step = int(rest[0]), part == "steps"
  middle = index == (len(cfg.blocks) - 1 if down else 0)
  if original:  # levels and steps are numbered together
    at = [side, str(2 * index + step)]
  elif step:
    at = [side, str(index), "downsamplers.0" if down else "upsamplers.0"]
  else:
    at = ["mid_block"] if middle else [side, str(index if down else index - 1)]
  if not step and rest[1] == "blocks":
    at = [*at, "res_blocks" if original else "resnets", rest[2]]
    rest = rest[2:]
  return [*top, *at, *_inner(rest[1:])]


def _inner(rest: list[str]) -> list[str]:
  """The published part of a level, a block or a step."""
  if rest[0] == "embed":
    layer = dict(hidden="linear_1", out="linear_2")[rest[1]]
    return ["time_embedder", "timestep_embedder", layer]
  return ["scale_shift_table"] if rest[0] == "rows" else [rest[0], "conv"]


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of AutoencoderKLLTXVideo that give this network."""
  (t, h, _), ups = cfg.strides, len(cfg.decoder_blocks) - 1
  return dict(
    _class_name="AutoencoderKLLTXVideo", latent_channels=cfg.channels,
    block_out_channels=list(cfg.widths), layers_per_block=list(cfg.blocks),
    down_block_types=["LTXVideo095DownBlock3D"] * len(cfg.steps), downsample_type=list(cfg.steps),
    spatio_temporal_scaling=[True] * len(cfg.steps),
    decoder_block_out_channels=[cfg.decoder_width // 2**i for i in reversed(range(ups))],
    decoder_layers_per_block=list(cfg.decoder_blocks[::-1]),
    decoder_spatio_temporal_scaling=[True] * ups, decoder_inject_noise=[False] * (ups + 1),
    upsample_residual=[True] * ups, upsample_factor=[2] * ups, timestep_conditioning=True,
    patch_size=PATCH[1], patch_size_t=PATCH[0], encoder_causal=True, decoder_causal=False,
    scaling_factor=1.0, spatial_compression_ratio=h, temporal_compression_ratio=t,
  )  # fmt: skip
