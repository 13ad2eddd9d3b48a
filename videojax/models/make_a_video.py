"""Make-A-Video's U-Nets: after every convolution and attention of an image U-Net one along time.

Those along time start as the identity, so that the video model starts as the image model, frame by
frame. An image, a clip of one frame, passes them by. One class makes the decoder, the interpolation
network (with known frames) and the super-resolution ones (volume 'low'; the last without time).

Source: Singer et al. 2022, arXiv:2209.14792, Sec. 3. No code was published: residual blocks are
those of Dhariwal & Nichol 2021 (noise level as scale and shift), on which DALL-E 2's (Ramesh et al.
2022) are built. Ours: attention to the text is a layer of its own, no kernel of the image model
starts at zero, and levels are joined by convolutions, with stride 2 or after doubling.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, M width of time embedding.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from videojax.models import layers, unet, unet_config
from videojax.models.cond import Cond, check_cond
from videojax.models.layers import Init, Linear
from videojax.settings import Depth, Natural, Width
from videojax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before.
    blocks: per level on the way down; one more on the way up.
    attends: levels that attend; where any does, so does the middle.
    head_dim: channels of a head; a level has as many heads as fit.
    groups: of group norm.
    channels: C of the clip.
    temporal: False: the image model, with the same names and shapes less the layers along time; of
      a clip it treats each frame alone.
    text: width of the given embeddings (the paper's: one, CLIP's of an image); None: none.
    scalars: names of scalar conditions: 'fps', and 'low_noise', the noise in the volume 'low'.
    known: None, or how the channels of known frames are filled; the paper's: 'zeros'.
    volumes: channels of each aligned volume by name; low=3 is the clip to enlarge, at full size.
    dtype: of matmuls and convolutions; parameters stay fp32.
    remat: what the backward pass of a block recomputes (layers.REMATS).
    scan: False; blocks differ in size, so there is nothing to loop over.
    kernel, context: of attention (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  attends: tuple[Natural, ...]
  head_dim: Width
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
    if not set(self.attends) <= set(range(len(self.multipliers))):
      raise ValueError(f"attends={self.attends} must be levels, 0 to {len(self.multipliers) - 1}")
    if self.text and not self.attends:
      raise ValueError(f"text={self.text}, but attends={self.attends}: no level sees it")

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    given = dict(text=self.text, scalars=self.scalars, known=self.known, volumes=self.volumes)
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
  # DALL-E 2's decoder and upsamplers (Ramesh et al. 2022, Table 3), for which Make-A-Video's sizes,
  # which we do not have, are taken to be.
  "decoder": dict(
    width=512, multipliers=(1, 2, 3, 4), blocks=3, attends=(1, 2, 3), head_dim=64, groups=32
  ),
  "sr_l": dict(width=320, multipliers=(1, 2, 3, 4), blocks=3, attends=(), head_dim=64, groups=32),
  "sr_h": dict(
    width=192, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attends=(), head_dim=64, groups=32
  ),
  # For a CPU; ours.
  "nano": dict(width=16, multipliers=(1, 2, 4), blocks=1, attends=(1, 2), head_dim=16, groups=8),
}  # fmt: skip
PUBLISHED = dict(channels=3)


def wider(cfg: Config) -> Config:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width)


def stages(cfg: Config) -> list[unet.Stage]:
  """The U in the order of its forward pass."""
  return unet.stages(cfg, cfg.attends, middle=bool(cfg.attends))


# --- within a frame, then along time ----------------------------------------------------------


class Dirac(Init):
  """The tap of a kernel's middle is the identity matrix, the others zero.

  Its root mean square falls as 1 / sqrt(fan in), so that muP leaves it as it is.
  """

  def std(self, fan_in: int | float, fan_out: int | float) -> float:
    return 1 / math.sqrt(fan_in)

  def draw(self, key: Array, shape: tuple[int, ...], inputs: int) -> Array:
    return jnp.zeros(shape, jnp.float32).at[shape[0] // 2, 0, 0].set(jnp.eye(shape[-1]))


DIRAC = Dirac("dirac")


class PseudoConv(nnx.Module):
  """Conv1D(Conv2D(x)), each over its own axes of [B,T,H,W,C] (Eq. 2)."""

  def __init__(
    self, c_in: int, c_out: int, axes: tuple[str, str | None], cfg: Config, *, rngs: nnx.Rngs,
    stride: int = 1,
  ):  # fmt: skip
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.within = unet.Conv(c_in, c_out, unet.SPACE, axes, stride=stride, **kw)
    along = ("patch" if axes[1] == "patch" else "embed", None)
    make = lambda: unet.Conv(c_out, c_out, unet.TIME, along, init=DIRAC, **kw)
    self.temporal = make() if cfg.temporal else None

  def __call__(self, x: Float[Array, "B T H W C"]) -> Array:
    x = constrain(self.within(x), *unet.GRID, None)
    if self.temporal is None or x.shape[1] == 1:
      return x
    return constrain(self.temporal(x), *unet.GRID, None)


class Attend(nnx.Module):
  """x + attention(norm(x)) over the places of each frame, to the text, or along time.

  Along time its last matrix starts at zero. It has no positions: convolutions tell the order.
  """

  def __init__(
    self, c: int, over: Literal["space", "time"], cfg: Config, *, source: int = 0, rngs: nnx.Rngs
  ):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    heads, how = (c // cfg.head_dim, cfg.head_dim), (cfg.kernel, cfg.context)
    self.norm = unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.heads = unet.Attention(c, *heads, source or c, how=how, **kw)
    if over == "time":
      axes = ("heads", "head_dim", "embed")
      self.heads.out = Linear(heads, (c,), axes, init=layers.ZEROS, **kw)
    self.over = over

  def __call__(self, x: Float[Array, "B T H W C"], text: Array | None = None) -> Array:
    y, grid = self.norm(x), x.shape
    to: tuple[str | None, ...]
    axes: tuple[str | None, ...]
    if self.over == "space":
      to, axes = ("batch", "frames", "tokens", None), ("batch", "frames", "sequence")
      y = y.reshape(*grid[:2], -1, grid[-1])  # [B,T,HW,C]
    else:
      to, axes = ("batch", "tokens", None, "frames", None), ("batch", "tokens", None, "sequence")
      y = jnp.moveaxis(y, 1, 3)  # [B,H,W,T,C]
    # Split alike before and after: see unet.Transformer.
    y = constrain(self.heads(constrain(y, *to), axes, text), *to)
    y = y.reshape(grid) if self.over == "space" else jnp.moveaxis(y, 3, 1)
    return constrain(x + y, *unet.GRID, None)


class Block(nnx.Module):
  """Two pseudo-3D convolutions with the noise level between them, then pseudo-3D attention."""

  def __init__(self, cfg: Config, shape: unet.BlockShape, *, rngs: nnx.Rngs):
    c_in, c, attends = shape
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), init=unet.FAN_IN)
    conv = lambda c_in: PseudoConv(c_in, c, ("embed", None), cfg, rngs=rngs)
    norm = lambda c: unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.norm1, self.conv1 = norm(c_in), conv(c_in)
    self.time = Linear((4 * cfg.width,), (2, c), ("embed", None, None), **kw)
    self.norm2, self.conv2 = norm(c), conv(c)
    self.shortcut = Linear((c_in,), (c,), ("embed", None), **kw) if c_in != c else None
    attend = lambda over, source=0: Attend(c, over, cfg, source=source, rngs=rngs)
    self.attention = attend("space") if attends else None
    self.cross = attend("space", cfg.text) if attends and cfg.text else None
    self.temporal_attention = attend("time") if attends and cfg.temporal else None

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    y = self.conv1(jax.nn.silu(self.norm1(x)))
    scale, shift = jnp.moveaxis(self.time(jax.nn.silu(c))[:, :, None, None], -2, 0)
    y = self.conv2(jax.nn.silu(self.norm2(y) * (1 + scale) + shift))
    x = constrain(y + (x if self.shortcut is None else self.shortcut(x)), *unet.GRID, None)
    if self.attention is not None:
      x = self.attention(x)
    if self.cross is not None:
      x = self.cross(x, text)
    if self.temporal_attention is not None and x.shape[1] > 1:
      x = self.temporal_attention(x)
    return x


# --- the U ------------------------------------------------------------------------------------


class Level(nnx.Module):
  """The blocks of a stage, and the convolution that comes with a change of resolution."""

  def __init__(self, cfg: Config, stage: unet.Stage, *, rngs: nnx.Rngs):
    shapes, c = enumerate(stage.blocks), stage.blocks[-1].c_out
    self.blocks: Any = nnx.Dict({str(i): Block(cfg, shape, rngs=rngs) for i, shape in shapes})
    stride = 2 if stage.place == "down" else 1
    make = lambda: PseudoConv(c, c, ("embed", None), cfg, rngs=rngs, stride=stride)
    self.sampler = make() if stage.sampler else None


class Model(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x. A network and nothing else."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, unet.Keys(rngs.params())
    c, kw = cfg.width, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.time = unet.TimeEmbed(c, **kw)
    embed = lambda: layers.ScalarEmbed(4 * c, null=True, **kw)
    self.scalars: Any = nnx.Dict({name: embed() for name in cfg.scalars})
    self.conv_in = PseudoConv(layers.channels_in(cfg), c, ("patch", "embed"), cfg, rngs=rngs)
    make = lambda place: [Level(cfg, s, rngs=rngs) for s in stages(cfg) if s.place == place]
    self.down: Any = nnx.Dict({str(i): level for i, level in enumerate(make("down"))})
    self.mid = make("mid")[0]
    self.up: Any = nnx.Dict({str(i): level for i, level in enumerate(make("up"))})
    self.norm_out = unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_out = PseudoConv(c, cfg.channels, ("embed", "patch"), cfg, rngs=rngs)

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
        vector.
      key: unused, the model is deterministic.
    """
    cfg = self.cfg
    check_cond(cond, cfg)
    text = jnp.where(cond.text_mask[..., None], cond.text, 0) if cfg.text else None  # [B,L,text]
    c = self.time(t)  # [B,1|T,M]
    for name, embed in self.scalars.items():
      c = c + embed(cond.scalars[name])[:, None]
    run = lambda block, x: unet.run(block, x, c, text, remat=cfg.remat)

    x = self.conv_in(constrain(layers.beside(x, cond, cfg), *unet.GRID, None))
    skips = [x]
    for level in unet.in_order(self.down):
      for block in unet.in_order(level.blocks):
        x = run(block, x)
        skips.append(x)
      if level.sampler is not None:
        x = level.sampler(x)
        skips.append(x)
    for block in unet.in_order(self.mid.blocks):
      x = run(block, x)
    for level in unet.in_order(self.up):
      for block in unet.in_order(level.blocks):
        x = run(block, jnp.concatenate([x, skips.pop()], -1))
      if level.sampler is not None:
        _, _, height, width, _ = skips[-1].shape
        x = level.sampler(unet.double(x, height, width))
    return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


describe = unet_config.describe


# The first element of a parameter's path that stands here -> the part that it is listed under.
PARTS = {
  "temporal": "temporal convolutions", "within": "spatial convolutions",
  "shortcut": "spatial convolutions", "time": "time", "scalars": "scalars", "cross": "text",
  "norm": "norms", "norm1": "norms", "norm2": "norms", "norm_out": "norms",
  "heads": "attention projections",
}  # fmt: skip
