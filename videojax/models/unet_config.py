"""What the configs of all U-Nets have in common: fields, checks, how they attend, parts."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, ClassVar, NamedTuple

from videojax.models.attention import choose_kernel
from videojax.models.contract import check_sizes
from videojax.settings import Depth, Width


class BlockShape(NamedTuple):
  """Channels into and out of a block, and whether it attends."""

  c_in: int
  c_out: int
  attends: bool


class Stage(NamedTuple):
  """Blocks at one resolution, 1 / 2^level; `sampler`: on to the next."""

  place: str
  level: int
  blocks: tuple[BlockShape, ...]
  sampler: bool


def stages(cfg: "Config", attends: Collection[int], middle: bool) -> list[Stage]:
  """The U in the order of its forward pass.

  Args:
    cfg: with `width`, `multipliers` of each level, and `blocks` of each on the way down.
    attends: levels that attend.
    middle: whether the first of the two blocks in the middle does.
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
  """The fields of every U-Net. Sizes have no default; see SIZES of each.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before.
    blocks: per level on the way down; one more on the way up.
    head_dim: channels of a head; a level has as many heads as fit.
    groups: of group norm.
    channels: C of the clip.
    text: width of the given embeddings; None: no cross-attention.
    known: None, or how the channels of known frames are filled (layers.KNOWN_FILLS).
    volumes: channels of each aligned volume by name.
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
      raise ValueError(f"width={self.width} must be even: sines and cosines of the noise level")

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    names = ("text", "scalars", "known", "volumes")
    return tuple(name for name in names if getattr(self, name, None))

  @property
  def num_heads(self) -> int:
    """Heads at full resolution, the fewest of any level."""
    return self.width // self.head_dim

  def stages(self) -> list[Stage]:
    """The U in the order of its forward pass: all levels but the last attend, and the middle."""
    return stages(self, range(len(self.multipliers) - 1), middle=True)

  def grid(self, shape: tuple[int, int, int, int], level: int) -> tuple[int, int, int]:
    """Frames, height and width at a level, of a clip [T,H,W,C]."""
    return shape[0], -(-shape[1] // 2**level), -(-shape[2] // 2**level)

  def stream(self, shape: tuple[int, int, int, int]) -> int:
    """Numbers that blocks hand on to each other in one clip [T,H,W,C], summed over the blocks."""
    at = lambda stage: math.prod(self.grid(shape, stage.level))
    return sum(at(stage) * block.c_out for stage in self.stages() for block in stage.blocks)


def wider(cfg: Any) -> Any:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width)


def describe(cfg: Any, mesh: Any) -> str:
  """How attention is computed on this mesh, for people."""
  return in_turn(choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim), mesh, "rows")


def in_turn(kernel: str, mesh: Any, places: str) -> str:
  """The kernel's name, and how frames and places are split where a mesh splits them."""
  if mesh.shape["seq"] == 1:
    return kernel
  return f"{kernel}, frames and {places} in turn over seq={mesh.shape['seq']}, by all-to-all"


# The first element of a parameter's path that stands here -> the part that it is listed under.
PARTS = {
  "conv_in": "in and out", "conv_out": "in and out", "norm_out": "norms", "time": "time",
  "sampler": "samplers", "conv1": "spatial convolutions", "conv2": "spatial convolutions",
  "shortcut": "spatial convolutions", "cross": "text", "ff": "mlp", "norm": "norms",
  "norm1": "norms", "norm2": "norms", "norm3": "norms", "proj_in": "attention projections",
  "proj_out": "attention projections", "q": "attention projections", "k": "attention projections",
  "v": "attention projections", "out": "attention projections",
}  # fmt: skip
