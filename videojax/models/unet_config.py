"""The common part of all U-Nets' configs: fields, checks, attention in words, parts."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

from jax.sharding import AbstractMesh, Mesh

from videojax.models.attention import choose_kernel
from videojax.models.contract import check_sizes
from videojax.settings import Depth, Width


class BlockShape(NamedTuple):
  """Input and output channels of a block, and whether it has attention."""

  c_in: int
  c_out: int
  attends: bool


class Stage(NamedTuple):
  """Blocks at one resolution, 1 / 2^level; `sampler`: whether it changes the resolution after."""

  place: str
  level: int
  blocks: tuple[BlockShape, ...]
  sampler: bool


def stages(cfg: "Config", attends: Collection[int], middle: bool) -> list[Stage]:
  """All stages of the U-Net, in the order of its forward pass.

  Args:
    cfg: has `width`, `multipliers` (one per level), and `blocks` per level on the way down.
    attends: levels with attention.
    middle: whether the first of the two middle blocks has attention.
  """
  widths, last = [cfg.width * m for m in cfg.multipliers], len(cfg.multipliers) - 1
  out, skips, c = list[Stage](), [cfg.width], cfg.width
  for level, width in enumerate(widths):
    blocks = [BlockShape(c, width, level in attends)]
    blocks += [BlockShape(width, width, level in attends)] * (cfg.blocks - 1)
    out.append(Stage("down", level, tuple(blocks), level < last))
    skips += [width] * (cfg.blocks + (level < last))
    c = width
  out.append(Stage("mid", last, (BlockShape(c, c, middle), BlockShape(c, c, False)), False))
  for level, width in reversed(list(enumerate(widths))):
    blocks = []
    for _ in range(cfg.blocks + 1):
      blocks.append(BlockShape(c + skips.pop(), width, level in attends))
      c = width
    out.append(Stage("up", level, tuple(blocks), level > 0))
  return out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """The fields of every U-Net. Sizes have no default; see each model's SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each level has half the resolution of
      the previous one.
    blocks: number per level on the way down; one more on the way up.
    head_dim: channels per head; a level has as many heads as fit into its channels.
    groups: of group norm.
    channels: C of the clip.
    text: width of the given embeddings; None: no cross-attention.
    known: None, or how the channels of known frames are filled (layers.KNOWN_FILLS).
    volumes: name -> channels of each aligned volume.
    dtype: of matmuls and convolutions; parameters stay fp32.
    remat: what the backward pass of a block recomputes (layers.REMATS).
    kernel, context: of attention (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  head_dim: Width
  groups: Width
  channels: Width
  text: Width | None = None
  known: str | None = None
  volumes: Any = ()
  dtype: str = "bfloat16"
  remat: str = "none"
  kernel: str = "auto"
  context: str = "auto"

  patch: ClassVar[tuple[int, int, int]] = (1, 1, 1)
  classes: ClassVar[int | None] = None

  def __post_init__(self):
    check_sizes(self)
    if not self.multipliers:
      raise ValueError(f"multipliers={self.multipliers} must be numbers >= 1, one per level")
    for name in ("head_dim", "groups"):
      if self.width % getattr(self, name):
        raise ValueError(f"width={self.width} is not divisible by {name}={getattr(self, name)}")
    if self.width % 2:
      raise ValueError(
        f"width={self.width} must be even: half sines, half cosines of the noise level"
      )

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    names = ("text", "scalars", "known", "volumes")
    return tuple(name for name in names if getattr(self, name, None))

  @property
  def num_heads(self) -> int:
    """Number of heads at full resolution, where there are the fewest."""
    return self.width // self.head_dim

  def stages(self) -> list[Stage]:
    """All stages in forward order; the middle and all levels but the last have attention."""
    return stages(self, range(len(self.multipliers) - 1), middle=True)

  def grid(self, shape: tuple[int, int, int, int], level: int) -> tuple[int, int, int]:
    """Frames, height and width of a clip [T,H,W,C] at a level."""
    return shape[0], -(-shape[1] // 2**level), -(-shape[2] // 2**level)

  def stream(self, shape: tuple[int, int, int, int]) -> int:
    """Size of all blocks' outputs for one clip [T,H,W,C], in numbers."""
    at = lambda stage: math.prod(self.grid(shape, stage.level))
    return sum(at(stage) * block.c_out for stage in self.stages() for block in stage.blocks)


def wider(cfg: Any) -> Any:
  """The same model with twice the width and heads, from which muP infers which axes grow."""
  return dataclasses.replace(cfg, width=2 * cfg.width)


def describe(cfg: Any, mesh: Mesh | AbstractMesh) -> str:
  """How attention is computed on this mesh, in words for the console."""
  return in_turn(choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim), mesh, "rows")


def in_turn(kernel: str, mesh: Mesh | AbstractMesh, places: str) -> str:
  """The kernel's name, and how frames and positions are sharded if the mesh shards them."""
  if mesh.shape["seq"] == 1:
    return kernel
  return f"{kernel}, frames and {places} in turn over seq={mesh.shape['seq']}, by all-to-all"


# The first element of a parameter's path that is listed here -> its part.
PARTS = {
  "conv_in": "in and out", "conv_out": "in and out", "norm_out": "norms", "time": "time",
  "sampler": "samplers", "conv1": "spatial convolutions", "conv2": "spatial convolutions",
  "shortcut": "spatial convolutions", "cross": "text", "ff": "mlp", "norm": "norms",
  "norm1": "norms", "norm2": "norms", "norm3": "norms", "proj_in": "attention projections",
  "proj_out": "attention projections", "q": "attention projections", "k": "attention projections",
  "v": "attention projections", "out": "attention projections",
}  # fmt: skip
