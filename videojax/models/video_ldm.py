"""NVIDIA's video LDM: Stable Diffusion's U-Net, and between its layers others that align frames.

After each residual block within the frames, l, comes one along time, and after each transformer
attention along time, with a sine table of the frame's number. What goes on is

  z' = a z + (1 - a) l_t(z),  a in [0, 1] learned, one per layer along time.

a is 1 - |s|. At the start s = 0, so z' is z and the video model the image model, to the last bit;
the slope of |s| at 0 is taken to be 1, so that s leaves it and l_t begins to learn. An image, a
clip of one frame, passes the layers along time by.

Every parameter that the image model lacks has 'temporal' in its path: FREEZE is all the others.
Known frames and their mask, shrunk by convolutions, reach the layers along time alone, so that the
image model may stay as it is.

Source: Blattmann et al. 2023, arXiv:2304.08818, Sec. 3; no code was published. Kernels of (3,1,1)
are those of its successor, Stable Video Diffusion. Ours: two attentions and a feed-forward along
time, how a is made, and that it starts at 1.

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
from videojax.models.layers import Linear
from videojax.settings import Depth, Natural, Width
from videojax.sharding import constrain

FREEZE = "(?!.*temporal)"  # for optim.freeze: the image model


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before.
    blocks: per level on the way down; one more on the way up.
    attends: levels that attend; the middle does.
    head_dim: channels of a head; a level has as many heads as fit.
    groups: of group norm.
    channels: C of the clip.
    temporal: False: the image model, with the same names and shapes less the layers along time; of
      a clip it treats each frame alone.
    text: width of the given embeddings; None: no cross-attention.
    scalars: names of scalar conditions; 'low_noise' is the noise in the volume 'low'.
    known: None, or how the channels of known frames are filled; the paper's: 'zeros'.
    volumes: channels of each aligned volume by name; 'low' is the clip to enlarge, at full size.
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
    if self.known and not self.temporal:
      raise ValueError(f"known={self.known!r}, but temporal=False: layers along time see it")

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    given = dict(text=self.text, scalars=self.scalars, known=self.known, volumes=self.volumes)
    return tuple(name for name, value in given.items() if value)

  @property
  def image(self) -> "Config":
    """The image model's."""
    return dataclasses.replace(self, temporal=False, known=None)

  @property
  def num_heads(self) -> int:
    """Heads at full resolution, the fewest of any level."""
    return self.width // self.head_dim

  @property
  def depth(self) -> int:
    """Blocks in units of one at full resolution, by tokens times channels: for estimates."""
    return unet_config.depth(self, stages(self))


SD = dict(blocks=2, head_dim=64, groups=32)
SIZES = {
  # Stable Diffusion 2.1.
  "sd21": dict(width=320, multipliers=(1, 2, 4, 4), attends=(0, 1, 2), **SD),
  # The widths of Stable Diffusion's x4 upscaler.
  "x4": dict(width=256, multipliers=(1, 2, 2, 4), attends=(1, 2, 3), **SD),
  # For a CPU; ours.
  "nano": dict(width=32, multipliers=(1, 2), blocks=1, attends=(0,), head_dim=16, groups=8),
}  # fmt: skip
PUBLISHED = dict(channels=4, text=1024)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14


def wider(cfg: Config) -> Config:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width)


def stages(cfg: Config) -> list[unet.Stage]:
  return unet.stages(cfg, cfg.attends, middle=True)


# --- along time -------------------------------------------------------------------------------


class Merge(nnx.Module):
  """a z + (1 - a) z_t, with 1 - a = min(|s|, 1)."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.s = layers.param(rngs, layers.ZEROS, (1,), (None,))

  def __call__(self, z: Float[Array, "*B C"], z_t: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
    s = self.s[...]
    s = jnp.where(s < 0, -s, s)  # |s|, but of slope 1 at 0
    s = s - jax.lax.stop_gradient(jnp.maximum(s - 1, 0))  # its slope goes on beyond 1
    s = layers.lead(s, z)
    return (1 - s).astype(z.dtype) * z + s.astype(z.dtype) * z_t


class TemporalConv(nnx.Module):
  """A residual block along time that also sees which frames are known."""

  def __init__(self, c: int, cfg: Config, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    make = lambda: Linear((cfg.width,), (c,), ("embed", None), init=unet.FAN_IN, **kw)
    self.known = make() if cfg.known else None
    self.layer = unet.ResNet(c, c, 4 * cfg.width, cfg.groups, eps=1e-5, over="time", **kw)
    self.merge = Merge(rngs=rngs)

  def __call__(
    self, z: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], known: Array | None
  ) -> Array:
    y = z if self.known is None or known is None else z + self.known(known)
    return constrain(self.merge(z, self.layer(constrain(y, *unet.GRID, None), c)), *unet.GRID, None)


class TemporalAttention(nnx.Module):
  """A transformer along time that is told the frame's number."""

  def __init__(self, c: int, cfg: Config, *, rngs: nnx.Rngs):
    kw: dict[str, Any] = dict(text=0, how=(cfg.kernel, cfg.context), dtype=jnp.dtype(cfg.dtype))
    heads = (c // cfg.head_dim, cfg.head_dim)
    self.layer = unet.Transformer(c, *heads, cfg.groups, "time", rngs=rngs, **kw)
    self.merge = Merge(rngs=rngs)

  def __call__(self, z: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    number = layers.sinusoid(jnp.arange(z.shape[1], dtype=jnp.float32), z.shape[-1])  # [T,C]
    y = z + number[None, :, None, None].astype(z.dtype)
    return constrain(self.merge(z, self.layer(y, None)), *unet.GRID, None)


class Block(nnx.Module):
  """A residual block and a transformer within the frames, each followed by its like along time."""

  def __init__(self, cfg: Config, shape: unet.BlockShape, *, rngs: nnx.Rngs):
    (c_in, c, attends), dtype = shape, jnp.dtype(cfg.dtype)
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype)
    self.resnet = unet.ResNet(c_in, c, 4 * cfg.width, cfg.groups, eps=1e-5, **kw)
    self.temporal_conv = TemporalConv(c, cfg, rngs=rngs) if cfg.temporal else None
    heads = (c // cfg.head_dim, cfg.head_dim)
    kw |= dict(over="space", text=cfg.text or 0, how=(cfg.kernel, cfg.context))
    self.attention = unet.Transformer(c, *heads, cfg.groups, **kw) if attends else None
    along = attends and cfg.temporal
    self.temporal_attention = TemporalAttention(c, cfg, rngs=rngs) if along else None

  def __call__(
    self, z: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None,
    known: Array | None,
  ) -> Array:  # fmt: skip
    clip = z.shape[1] > 1
    z = self.resnet(z, c)
    if self.temporal_conv is not None and clip:
      z = self.temporal_conv(z, c, known)
    if self.attention is not None:
      z = self.attention(z, text)
    if self.temporal_attention is not None and clip:
      z = self.temporal_attention(z)
    return z


# --- the U ------------------------------------------------------------------------------------


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
    embed = lambda: layers.ScalarEmbed(4 * c, null=True, **kw)
    self.scalars: Any = nnx.Dict({name: embed() for name in cfg.scalars})
    into = layers.channels_in(cfg.image)
    self.conv_in = unet.Conv(into, c, unet.SPACE, ("patch", "embed"), **kw)
    shrink = lambda c_in, axes, stride: unet.Conv(c_in, c, unet.SPACE, axes, stride=stride, **kw)
    known = layers.known_channel_count(cfg.channels, cfg.known)
    convs = [shrink(known, ("patch", "embed"), 1)] if known else []
    convs += [shrink(c, ("embed", None), 2) for _ in cfg.multipliers[1:] if known]
    self.temporal_known: Any = nnx.Dict({str(i): conv for i, conv in enumerate(convs)})
    make = lambda place: [Level(cfg, s, rngs=rngs) for s in stages(cfg) if s.place == place]
    self.down: Any = nnx.Dict({str(i): level for i, level in enumerate(make("down"))})
    self.mid = make("mid")[0]
    self.up: Any = nnx.Dict({str(i): level for i, level in enumerate(make("up"))})
    self.norm_out = unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_out = unet.Conv(c, cfg.channels, unet.SPACE, ("embed", "patch"), **kw)

  def known(self, x: Float[Array, "B T H W C"], cond: Cond) -> list[Any]:
    """What the layers along time of each level see of the known frames."""
    if not self.cfg.known or x.shape[1] == 1:
      return [None] * len(self.cfg.multipliers)
    y, out = layers.known_channels(x, cond, self.cfg.known), []
    for conv in unet.in_order(self.temporal_known):
      y = jax.nn.silu(constrain(conv(constrain(y, *unet.GRID, None)), *unet.GRID, None))
      out.append(y)
    return out

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
    known, last = self.known(x, cond), len(cfg.multipliers) - 1
    run = lambda block, x, n: unet.run(block, x, c, text, known[n], remat=cfg.remat)

    x = self.conv_in(constrain(layers.beside(x, cond, cfg.image), *unet.GRID, None))
    x = constrain(x, *unet.GRID, None)
    skips = [x]
    for n, level in enumerate(unet.in_order(self.down)):
      for block in unet.in_order(level.blocks):
        x = run(block, x, n)
        skips.append(x)
      if level.sampler is not None:
        x = constrain(level.sampler(x), *unet.GRID, None)
        skips.append(x)
    for block in unet.in_order(self.mid.blocks):
      x = run(block, x, last)
    for n, level in enumerate(unet.in_order(self.up)):
      for block in unet.in_order(level.blocks):
        x = run(block, jnp.concatenate([x, skips.pop()], -1), last - n)
      if level.sampler is not None:
        _, _, height, width, _ = skips[-1].shape
        x = constrain(level.sampler(unet.double(x, height, width)), *unet.GRID, None)
    return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


describe = unet_config.describe


PARTS = unet_config.PARTS | {
  "temporal_known": "known frames",
  "temporal_conv": "temporal convolutions",
  "merge": "norms",
}


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter of the image model -> its name in UNet2DConditionModel, and its layout.

  What goes along time has none: `init_from` takes it with `init_fresh='.*temporal'`.
  """
  image = nnx.eval_shape(lambda: Model(cfg.image, rngs=nnx.Rngs(0)))
  return diffusers_names.names(layers.param_info(image))
