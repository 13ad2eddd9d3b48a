"""HunyuanVideo's causal autoencoders: 13B's (4x8x8, 16 channels) and 1.5's (4x16x16, 32 channels).

1 + 4k frames become 1 + k latents. Both repeat the first frame in time and the outermost pixels in
space, and have attention in the middle, from each position to all of its frame and earlier ones.

In 13B's, group norm takes its statistics over all frames, so that parts of a clip are not encoded
or decoded as the clip is. The published programs take tiles of 17 frames or 5 latents, of which
neighbours overlap and are blended; `frames` gives such tiles. Their result differs from that of the
whole clip, by up to a fifth of the range. 1.5's has norms of single positions and is exact in
chunks of any size. Tiles in space, which both programs take of large frames, are not covered.

Source: Kong et al. 2024, arXiv:2412.03603, section 4.1; 1.5: Wu et al. 2025, arXiv:2511.18870. The
computation and all parameters are those of diffusers' AutoencoderKLHunyuanVideo and
AutoencoderKLHunyuanVideo15 (0.42.1).

Shapes: B batch, T frames, H W height width in pixels, t h w of latents, C channels, Z of latents.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.models import diffusers_names, layers
from videojax.models.attention import KERNELS, attention
from videojax.models.causal import CUBE, GRID, ChannelNorm, ResBlock, Stream, in_chunks
from videojax.models.layers import Linear
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import FAN_IN, GroupNorm, Keys
from videojax.models.vae_hunyuan_steps import Down, FoldDown, UnfoldUp, Up, repeating
from videojax.models.vae_wan import Level
from videojax.settings import Depth, Width
from videojax.sharding import constrain

PIXELS = 3  # channels of a video


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    widths: channels of each level; each has half the resolution of the previous one.
    time: whether the step after each level but the last also halves the number of frames.
    blocks: number per level in the encoder; one more in the decoder.
    groups: of group norm, in 13B's; None: 1.5's network, with norms over the channels of each
      position, and folded inputs added around each step.
    channels: Z.
    dtype: of matmuls and convolutions; parameters stay fp32.
    kernel: of attention (attention.py).
  """

  widths: tuple[Width, ...]
  time: tuple[bool, ...]
  blocks: Depth
  groups: Width | None
  channels: Width
  dtype: str = "float32"
  kernel: str = "auto"

  def __post_init__(self):
    settings.check(self)
    if not self.widths or len(self.time) != len(self.widths) - 1:
      raise ValueError(f"time={self.time} must have one entry fewer than widths={self.widths}")
    if self.groups is not None and any(width % self.groups for width in self.widths):
      raise ValueError(f"widths={self.widths} must be multiples of groups={self.groups}")
    if self.groups is None:
      self._check_shortcuts()
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))
    check_choice("attention kernel", self.kernel, KERNELS)

  def _check_shortcuts(self) -> None:
    for a, b, time in zip(self.widths, self.widths[1:], self.time):
      cells = 8 if time else 4
      if b % cells or a * 4 % b:
        raise ValueError(
          f"widths={self.widths}: without group norm a level after {a} channels folds {cells} "
          f"positions into its own, and has whole groups of the others': {b} is not a multiple of "
          f"{cells} that divides {4 * a}"
        )
    if self.widths[-1] % (2 * self.channels):
      raise ValueError(
        f"widths={self.widths}: without group norm the last must be a multiple of twice "
        f"channels={self.channels}, as averages of groups of it are added to the moments"
      )

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position, after the first frame."""
    side = 2 ** len(self.time)
    return 2 ** sum(self.time), side, side


SIZES: dict[str, dict[str, Any]] = {
  "13B": dict(
    widths=(128, 256, 512, 512), time=(False, True, True), blocks=2, groups=32, channels=16
  ),
  "1.5": dict(
    widths=(128, 256, 512, 1024, 1024), time=(False, False, True, True), blocks=2, groups=None,
    channels=32,
  ),
  # For a CPU; ours.
  "nano": dict(widths=(16, 16, 32), time=(True, True), blocks=1, groups=8, channels=4),
}  # fmt: skip
SCALING = {16: 0.476986, 32: 1.03682}  # of published latents, by their number of channels


def norm(cfg: Config, c: int, rngs: nnx.Rngs) -> nnx.Module:
  if cfg.groups is None:
    return ChannelNorm(c, rngs=rngs)
  return GroupNorm(c, cfg.groups, frames=True, eps=1e-6, rngs=rngs)


class Attention(nnx.Module):
  """From each position to all of its own and of earlier frames, with one head."""

  def __init__(self, cfg: Config, c: int, **kw: Any):
    self.norm: Any = norm(cfg, c, kw["rngs"])
    make = lambda: Linear((c,), (1, c), ("embed", None, None), init=FAN_IN, **kw)
    self.q, self.k, self.v = make(), make(), make()
    self.out = Linear((1, c), (c,), (None, None, "embed"), init=FAN_IN, **kw)
    self.kernel = cfg.kernel

  def __call__(self, x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    b, t, h, w, c = x.shape
    y = self.norm(x).reshape(b, t, h * w, c)  # [B,T,HW,C]
    q = jnp.moveaxis(self.q(y), 1, 0)  # [T,B,HW,1,C]
    k, v = (f(y).reshape(b, t * h * w, 1, c) for f in (self.k, self.v))

    def one(frame: tuple[Array, Array]) -> Array:
      index, q = frame
      seen = jnp.full((b,), (index + 1) * h * w)
      return attention(q, k, v, seen, axes=("batch", None), keys=None, kernel=self.kernel)

    y = jax.lax.map(one, (jnp.arange(t), q))  # frame by frame: a clip's scores need much memory
    y = self.out(jnp.moveaxis(y, 0, 1)).reshape(x.shape)
    return constrain(x + y, *GRID, None)


def levels(cfg: Config, down: bool) -> list[Level]:
  """The levels of the encoder (`down`) or the decoder, in the order of the forward pass."""
  shortcuts = cfg.groups is None
  widths = cfg.widths if down else cfg.widths[::-1]
  # 13B's decoder does not mirror its encoder: the last steps of both are in time.
  time = cfg.time if down or not shortcuts else cfg.time[::-1]
  c, out = widths[0], list[Level]()
  for i, width in enumerate(widths):
    blocks = ((c, width), *[(width, width)] * (cfg.blocks - down))
    final = i == len(time)
    # A step of 1.5's gives the next level's channels, the first block of a level of 13B's.
    c = widths[i + 1] if shortcuts and not final else width
    out.append(Level(blocks, None if final else (c, time[i])))
  return out


class Coder(nnx.Module):
  """The layers of the encoder or decoder, in the order of their forward pass."""

  def __init__(self, cfg: Config, c_in: int, c_out: int, *, down: bool, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    made = levels(cfg, down)
    first, last, top = made[0].blocks[0][0], made[-1].blocks[-1][1], cfg.widths[-1]
    step: Any = (FoldDown if down else UnfoldUp) if cfg.groups is None else Down if down else Up
    how: dict[str, Any] = dict(norm=functools.partial(norm, cfg), conv=repeating)
    block = lambda c_in, c_out: ResBlock(c_in, c_out, **how, **kw)
    self.conv_in = repeating(c_in, first, CUBE, ("patch", "embed"), **kw)
    self.blocks: Any = numbered(numbered(block(*shape) for shape in level.blocks) for level in made)
    self.steps: Any = numbered(
      step(level.blocks[-1][1], *level.step, **kw) for level in made if level.step is not None
    )
    self.mid1, self.mid2 = (block(top, top) for _ in range(2))
    self.attention = Attention(cfg, top, **kw)
    self.norm_out: Any = norm(cfg, last, rngs)
    self.conv_out = repeating(last, c_out, CUBE, ("embed", "patch"), **kw)

  def begin(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    return constrain(self.conv_in(x, stream), *GRID, None)

  def climb(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    """All levels."""
    steps = in_order(self.steps)
    for i, blocks in enumerate(in_order(self.blocks)):
      for block in in_order(blocks):
        x = block(x, stream)
      x = steps[i](x, stream) if i < len(steps) else x
    return x

  def middle(self, x: Float[Array, "B t h w C"]) -> Array:
    stream = Stream()  # attention needs all frames, but only of latents
    return self.mid2(self.attention(self.mid1(x, stream)), stream)

  def end(self, x: Float[Array, "B T H W C"], stream: Stream) -> Array:
    return self.conv_out(jax.nn.silu(self.norm_out(x)), stream)


def in_tiles(
  step: Callable[[Array], Array], x: Float[Array, "B T ..."], size: int, blend: int
) -> Array:
  """Applies a step to overlapping tiles of a clip, and blends neighbours.

  Args:
    step: of 1 + n frames; gives 1 + m, where m / n is the same for all.
    x: the clip.
    size: frames of a tile after its first; a quarter of them overlaps with the next tile.
    blend: number of output frames that are blended.
  """
  if x.shape[1] <= size:
    return step(x)
  tiles = [x[:, i : i + size + 1] for i in range(0, x.shape[1], size * 3 // 4)]
  whole = [tile for tile in tiles if tile.shape[1] == size + 1]
  done = list(jax.lax.map(step, jnp.stack(whole))) if whole else []
  done += [step(tile) for tile in tiles[len(whole) :]]
  out = [done[0][:, : 1 + 3 * blend]]
  for before, y in zip(done, (y[:, 1:] for y in done[1:])):
    n = min(y.shape[1], blend)
    share = (jnp.arange(n) / n).reshape(1, n, 1, 1, 1)
    mixed = (1 - share) * before[:, before.shape[1] - n :] + share * y[:, :n]
    out.append(jnp.concatenate([mixed, y[:, n : 3 * blend]], 1))
  return jnp.concatenate(out, 1)


class Model(nnx.Module):
  """Video [B,1+4k,H,W,3] <-> latents [B,1+k,h,w,Z]."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs, z = cfg, Keys(rngs.params()), cfg.channels
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=FAN_IN)
    self.encoder = Coder(cfg, PIXELS, 2 * z, down=True, rngs=rngs)
    matrix = lambda c: None if cfg.groups is None else Linear((c,), (c,), (None, None), **kw)
    self.moments, self.latent = matrix(2 * z), matrix(z)
    self.decoder = Coder(cfg, z, PIXELS, down=False, rngs=rngs)

  def encode(
    self, video: Float[Array, "B T H W 3"], frames: int | None = None
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Mean and log variance of each latent.

    Args: frames: latent frames per tile (13B: changes the result), or per chunk after the first
      frame (1.5: does not); None: the whole clip at once.
    """
    x, t, e = constrain(video, *GRID, None), self.cfg.strides[0], self.encoder
    levels = lambda x, stream: e.climb(e.begin(x, stream), stream)
    if self.moments is None:
      y = e.middle(in_chunks(levels, x, 1, frames and t * frames))
      x = e.end(y, Stream())
      x = x + y.reshape(*y.shape[:-1], x.shape[-1], -1).mean(-1)
    else:
      moments = self.moments
      whole = lambda x: moments(e.end(e.middle(levels(x, Stream())), Stream()))
      x = in_tiles(whole, x, t * frames, frames // 4) if frames else whole(x)
    mean, log_var = jnp.split(x.astype(jnp.float32), 2, -1)
    return mean, jnp.clip(log_var, -30, 20)

  def decode(
    self, latent: Float[Array, "B t h w Z"], frames: int | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The video, about within [-1, 1]. Args: frames: as in `encode`."""
    x, t, d = constrain(latent, *GRID, None), self.cfg.strides[0], self.decoder
    levels = lambda x, stream: d.end(d.climb(x, stream), stream)
    if self.latent is None:
      y = d.begin(x, Stream())
      y = d.middle(y + jnp.repeat(x, y.shape[-1] // x.shape[-1], -1))
      x = in_chunks(levels, y, 1, frames)
    else:
      mixed = self.latent
      whole = lambda x: levels(d.middle(d.begin(mixed(x), Stream())), Stream())
      x = in_tiles(whole, x, frames, t * frames // 4) if frames else whole(x)
    return x.astype(jnp.float32)


# Our paths -> diffusers' names, applied in order; those of 13B's and 1.5's differ in some.
_RENAMES = (
  (r"^moments", "quant_conv"),
  (r"^latent", "post_quant_conv"),
  (r"^encoder/blocks/(\d+)/(\d+)/", r"encoder/down_blocks/\1/resnets/\2/"),
  (r"^decoder/blocks/(\d+)/(\d+)/", r"decoder/up_blocks/\1/resnets/\2/"),
  (r"^encoder/steps/(\d+)/", r"encoder/down_blocks/\1/downsamplers/0/"),
  (r"^decoder/steps/(\d+)/", r"decoder/up_blocks/\1/upsamplers/0/"),
  (r"/mid1/", "/mid_block/resnets/0/"),
  (r"/mid2/", "/mid_block/resnets/1/"),
  (r"/attention/", "/mid_block/attentions/0/"),
  (r"/(q|k|v)/", r"/to_\1/"),
  (r"/shortcut/", "/conv_shortcut/"),
  (r"/(conv\w*)/", r"/\1/conv/"),
  (r"/kernel$", "/weight"),
)
_OWN = {
  "13B": (
    (r"/attentions/0/norm/", "/attentions/0/group_norm/"),
    (r"/attentions/0/out/", "/attentions/0/to_out/0/"),
    (r"/norm_out/", "/conv_norm_out/"),
    (r"/scale$", "/weight"),
  ),
  "1.5": ((r"/attentions/0/out/", "/attentions/0/proj_out/"), (r"/scale$", "/gamma")),
}
# 1.5's own file; the names in 13B's are those of diffusers.
_ORIGINAL = (
  (r"/mid_block/resnets/0/", "/mid/block_1/"),
  (r"/mid_block/resnets/1/", "/mid/block_2/"),
  (r"/mid_block/attentions/0/(to_)?", "/mid/attn_1/"),
  (r"/(down|up)_blocks/", r"/\1/"),
  (r"/resnets/", "/block/"),
  (r"/(down|up)samplers/0/", r"/\1sample/"),
)
LAYOUTS = ("diffusers", "original")  # of names in published files


def names(cfg: Config, layout: str = "diffusers") -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in the published file, and its layout there."""
  own = "1.5" if cfg.groups is None else "13B"
  renames = (*_RENAMES, *_OWN[own], *(_ORIGINAL if (own, layout) == ("1.5", "original") else ()))
  points = ("moments", "latent", "shortcut") + (("q", "k", "v", "out") if own == "1.5" else ())

  def kind(path: str) -> str:
    *_, module, leaf = path.split("/")
    if leaf == "scale" and own == "1.5":
      return "vector3d"
    return "vector" if leaf != "kernel" else "conv3d" if module in points else "weight"

  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  name = lambda path: diffusers_names.renamed(path, (*renames, (r"/", ".")))
  return {path: (name(path), kind(path)) for path in info}


def statistics(cfg: Config) -> tuple[float, float]:
  """Mean and deviation of the latents, as published; 0 and 1 for other sizes."""
  return 0.0, 1 / SCALING.get(cfg.channels, 1.0)


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of the published class that give this network, if it merges 4 frames."""
  t, h, _ = cfg.strides
  kind = lambda side: [f"HunyuanVideo{side}Block3D"] * len(cfg.widths)
  own: dict[str, Any] = {}
  if cfg.groups is not None:
    own = dict(norm_num_groups=cfg.groups, down_block_types=kind("Down"), up_block_types=kind("Up"))
  return own | dict(
    _class_name="AutoencoderKLHunyuanVideo" + ("15" if cfg.groups is None else ""),
    latent_channels=cfg.channels, block_out_channels=list(cfg.widths), layers_per_block=cfg.blocks,
    spatial_compression_ratio=h, temporal_compression_ratio=t,
    scaling_factor=SCALING.get(cfg.channels, 1.0),
  )  # fmt: skip
