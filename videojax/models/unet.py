"""The common structure of video U-Nets: down, middle and up blocks, with skip connections.

A model file has its Config (unet_config.Config), its Block, and a UNet that overrides what differs.

Shapes: B batch, T frames, H W height width, C channels, L tokens, D width of tokens, M width of the
time embedding, I channels into the network.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from videojax.models import layers
from videojax.models.cond import Cond, check_cond
from videojax.models.layers import Linear
from videojax.models.unet_config import Stage
from videojax.models.unet_layers import FAN_IN, GRID, SPACE, Conv, GroupNorm, Keys, double
from videojax.sharding import constrain


class TimeEmbed(nnx.Module):
  """A noise level -> sinusoid of the U-Net's width -> Linear, SiLU, Linear -> 4 x the width."""

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype, init=FAN_IN)
    self.hidden = Linear((width,), (4 * width,), (None, "embed"), **kw)
    self.out = Linear((4 * width,), (4 * width,), ("embed", None), **kw)
    self.width = width

  def __call__(self, t: Float[Array, " B #T"]) -> Float[Array, " B #T M"]:
    return self.out(jax.nn.silu(self.hidden(layers.sinusoid(t, self.width))))


def run(block: nnx.Module, x: Array, *args: Any, remat: str) -> Array:
  """block(x, *args), with this remat policy in the backward pass (see layers.run_stack)."""
  graphdef, params = nnx.split(block)

  def body(params: Any, x: Array, *args: Any) -> Array:
    return nnx.merge(graphdef, params)(checkpoint_name(x, layers.BLOCK_INPUT), *args)

  if remat != "none":
    body = jax.checkpoint(body, policy=layers.remat_policy(remat))
  return body(params, x, *args)


def numbered(modules: Iterable[nnx.Module]) -> Any:
  """An nnx.Dict of the modules, with keys '0', '1', ..."""
  return nnx.Dict({str(i): module for i, module in enumerate(modules)})


def in_order(modules: Any) -> list[Any]:
  """The modules from `numbered`, in order."""
  return [modules[key] for key in sorted(modules, key=int)]


class Level(nnx.Module):
  """The blocks of a stage, and the convolution that changes the resolution."""

  def __init__(self, model: "UNet", stage: Stage, *, rngs: nnx.Rngs):
    block = lambda shape: model.Block(model.cfg, stage, shape, rngs=rngs)
    self.blocks: Any = numbered(block(shape) for shape in stage.blocks)
    self.sampler: Any = self.make_sampler(model, stage, rngs) if stage.sampler else None

  def make_sampler(self, model: "UNet", stage: Stage, rngs: nnx.Rngs) -> Any:
    c, stride = stage.blocks[-1].c_out, 2 if stage.place == "down" else 1
    return model.conv(c, c, ("embed", None), stride=stride, rngs=rngs)

  def shrink(self, x: Float[Array, "B T H W C"]) -> Array:
    """-> [B,T,H/2,W/2,C], rounded up."""
    return constrain(self.sampler(x), *GRID, None)

  def grow(self, x: Float[Array, "B T H W C"], like: Float[Array, "B _ h w _"]) -> Array:
    """-> [B,T,h,w,C], the next skip's size (`like`), which may not be exactly twice the input's."""
    return constrain(self.sampler(double(x, *like.shape[2:4])), *GRID, None)


class UNet(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x.

  A model names its Block and overrides what differs. Initial values are drawn in the order in which
  parameters are created here, and attribute names become parameter paths: checkpoints depend on
  both.
  """

  Block: ClassVar[Any]  # Block(cfg, stage, shape, rngs=rngs)(x, c, seen) -> like x, c_out channels
  Level: ClassVar[type[Level]] = Level

  def __init__(self, cfg: Any, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, Keys(rngs.params())
    c = cfg.width
    self.time = TimeEmbed(c, rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.scalars: Any = self.make_scalars(rngs)
    self.conv_in = self.conv(layers.channels_in(self.inputs), c, ("patch", "embed"), rngs=rngs)
    self.make_first(rngs)
    at = lambda place: [s for s in cfg.stages() if s.place == place]
    make = lambda place: [self.Level(self, stage, rngs=rngs) for stage in at(place)]
    self.down: Any = numbered(make("down"))
    self.mid = make("mid")[0]
    self.up: Any = numbered(make("up"))
    self.norm_out = GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_out = self.conv(c, cfg.channels, ("embed", "patch"), rngs=rngs)

  @property
  def inputs(self) -> Any:
    """The config whose known frames and volumes are concatenated to the clip's channels."""
    return self.cfg

  def conv(
    self, c_in: int, c_out: int, axes: tuple[str, str | None], *, stride: int = 1, rngs: nnx.Rngs
  ) -> Any:
    """The first or last convolution, or one between levels."""
    dtype = jnp.dtype(self.cfg.dtype)
    return Conv(c_in, c_out, SPACE, axes, stride=stride, rngs=rngs, dtype=dtype)

  def make_scalars(self, rngs: nnx.Rngs) -> Any:
    """The layers with which `embed` embeds scalars."""
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(self.cfg.dtype), null=True)
    width = 4 * self.cfg.width
    return nnx.Dict({name: layers.ScalarEmbed(width, **kw) for name in self.cfg.scalars})

  def make_first(self, rngs: nnx.Rngs) -> None:
    """Creates additional layers before the levels; none by default."""

  def embed(self, t: Float[Array, " B #T"], cond: Cond) -> Float[Array, " B #T M"]:
    """The noise level and the scalars as one vector."""
    c = self.time(t)  # [B,1|T,M]
    for name, embed in self.scalars.items():
      c = c + embed(cond.scalars[name])[:, None]
    return c

  def see(self, x: Float[Array, "B T H W C"], cond: Cond) -> Any:
    """The third argument of every block: text [B,L,D], or None.

    A token outside the mask is a zero vector: it is attended to, but carries no information.
    """
    return visible(cond.text, cond.text_mask) if self.cfg.text else None

  def enter(self, x: Float[Array, "B T H W C"], cond: Cond) -> Float[Array, "B T H W width"]:
    """The first skip: the clip with its aligned conditions, after the first convolution."""
    x = constrain(layers.beside(x, cond, self.inputs), *GRID, None)  # [B,T,H,W,I]
    return constrain(self.conv_in(x), *GRID, None)

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
      x: noisy clip of about unit variance; any height and width.
      t: noise level, 0 to 1000 unless the model says otherwise, one per clip or per frame.
      cond: exactly the conditions that Config declares.
      key: unused: the model is deterministic.
    """
    check_cond(cond, self.cfg)
    c, seen = self.embed(t, cond), self.see(x, cond)  # [B,1|T,M], [B,L,D]
    run_on = lambda block, x: run(block, x, c, seen, remat=self.cfg.remat)

    x = self.enter(x, cond)  # [B,T,H,W,width]
    skips = [x]
    for level in in_order(self.down):  # [B,T,H,W,C]; H and W halve from level to level
      for block in in_order(level.blocks):
        x = run_on(block, x)  # [B,T,H,W,C]
        skips.append(x)
      if level.sampler is not None:
        x = level.shrink(x)  # [B,T,H/2,W/2,C]
        skips.append(x)
    for block in in_order(self.mid.blocks):
      x = run_on(block, x)
    for level in in_order(self.up):
      for block in in_order(level.blocks):
        x = jnp.concatenate([x, skips.pop()], -1)  # [B,T,H,W,C + C of the skip]
        x = run_on(block, x)  # [B,T,H,W,C]
      if level.sampler is not None:
        x = level.grow(x, skips[-1])  # [B,T,2H,2W,C]
    x = self.conv_out(jax.nn.silu(self.norm_out(x)))  # [B,T,H,W,channels]
    return x.astype(jnp.float32)


def visible(tokens: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
  """The tokens, with zeros outside the mask."""
  return jnp.where(mask[..., None], tokens, 0)
