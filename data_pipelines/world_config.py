"""The settings of a simulated world: its scenes, splits, colours and `Config`.

World: [0, extent]^2, x to the right, y down; speeds in world units per second. Mass is radius^2.
"""

import dataclasses
import math
from typing import Annotated, NamedTuple

from videojax import settings
from videojax.settings import Count, Natural, NonNegative, Positive, Range, Seed, Share, Width

Pixels = Annotated[int, Range(1, 2**14)]  # a side of a clip

# Complementary pairs about a grey background. Each disc of a clip has a colour of another pair, so
# that the colours are linearly independent and a picture can be unmixed into its discs.
PALETTE = {
  "red": (1.0, -1.0, -1.0), "cyan": (-1.0, 1.0, 1.0),
  "green": (-1.0, 1.0, -1.0), "magenta": (1.0, -1.0, 1.0),
  "blue": (-1.0, -1.0, 1.0), "yellow": (1.0, 1.0, -1.0),
}  # fmt: skip
SIZES = ("small", "large")  # below and above the middle of the training radii
# One colour of each complementary pair at one size; only the split 'combination' shows these.
UNSEEN = {"red": "large", "magenta": "small", "blue": "large"}
BACKGROUND = (0.0, 0.0, 0.0)
OCCLUDER_COLOR = (-1.0, -1.0, -1.0)
GRAVITY = (0.15, 0.35)  # in extents per second^2; PhyWorld's is .25
BAR = (0.15, 0.3)  # the occluder's width, in extents
TRIES = 1000  # candidates for a valid start; if all fail, the clip is NaN (valid configs need ~10)


class Scene(NamedTuple):
  """What happens in a clip."""

  discs: int
  head_on: bool = False  # two discs collide centrally, after the known frames
  gravity: bool = False
  bar: bool = False  # an occluder is in the disc's path


SCENES = {
  "one": Scene(discs=1),
  "two": Scene(discs=2),
  "three": Scene(discs=3),
  "collision": Scene(discs=2, head_on=True),
  "gravity": Scene(discs=1, gravity=True),
  "occluder": Scene(discs=1, bar=True),
}

Intervals = tuple[tuple[float, float], ...]


class Split(NamedTuple):
  """How a split differs from training.

  Intervals are multiples of the nearer end of the training interval.
  """

  determined: bool = True  # the known frames determine the rest
  speed: Intervals | None = None
  radius: Intervals | None = None
  scenes: tuple[str, ...] | None = None
  unseen: bool = False  # colour-size pairs that training never shows
  hides: bool = False  # a disc is at least half hidden in some unknown frame


# With the default training ranges these are PhyWorld's out-of-distribution ranges (arXiv
# 2411.02385): speeds 4.5-6 and 0-.8, radii 1.5-2 and .5-.6 (PhyWorld drops clips below .5).
SPLITS = {
  "train": Split(determined=False),
  "id": Split(),
  "fast": Split(speed=((1.125, 1.5),)),
  "slow": Split(speed=((0.0, 0.8),)),
  "radius": Split(radius=((0.7, 0.85), (1.07, 1.43))),
  "count": Split(scenes=("three",)),
  "combination": Split(unseen=True),
  "occluder": Split(scenes=("occluder",), hides=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """A world, its frames and which of its clips are drawn.

  Args:
    size: height and width, pixels.
    frames: T.
    known: frames that a model is shown. The discs of a head-on collision meet after these. In all
      splits but 'train' the known frames are clean: all discs are wholly visible, without contacts.
    scenes: names in SCENES, equally likely (a name given twice is twice as likely); a split with
      scenes of its own shows those instead.
    split: a name in SPLITS.
    clips: number of training clips, each seen once per epoch; None: endless, as all other splits.
    seed: of all clips.
    speed: lowest and highest speed at the first frame, world units/s.
    radius: smallest and largest, world units.
    extent: side of the box, world units.
    fps: frames per second.
    still: share of discs that are at rest in the first frame.
    pan: maximum speed of the camera along x and along y, world units/s, drawn for each clip.
    zoom: maximum |rate| of the camera's zoom, 1/s: lengths grow by exp(rate * time). With a moving
      camera, `position` and `velocity` are in its view, `radius` is the first frame's, and discs
      may leave the picture.
    brush: also gives `brush`, the motion strokes of the first frame.

  Raises:
    ValueError: an unknown scene or split, or no clip can satisfy the config.
  """

  size: Pixels
  frames: Width
  known: Natural = 3
  scenes: tuple[str, ...] = ("one", "two", "collision")
  split: str = "train"
  clips: Count | None = None
  seed: Seed = 0
  speed: tuple[Positive, Positive] = (1.0, 4.0)
  radius: tuple[Positive, Positive] = (0.7, 1.4)
  extent: Positive = 10.0
  fps: Positive = 10.0
  still: Share = 0.0
  pan: NonNegative = 0.0
  zoom: NonNegative = 0.0
  brush: bool = False

  def __post_init__(self) -> None:
    settings.check(self)
    if self.split not in SPLITS:
      raise ValueError(f"worlds: no split {self.split!r}; there are {', '.join(SPLITS)}")
    unknown = [name for name in self.scenes if name not in SCENES]
    if unknown or not self.scenes:
      raise ValueError(f"worlds: no scenes {unknown or '()'}; there are {', '.join(SCENES)}")
    for name in ("speed", "radius"):
      low, high = getattr(self, name)
      if low > high:
        raise ValueError(f"{name}={(low, high)} must be (lowest, highest)")
    if self.moves_camera and any(s.bar for s in self.drawn_scenes):
      raise ValueError("worlds: a moving camera cannot be combined with an occluder")
    self._check_known()
    self._check_room()

  def _check_known(self) -> None:
    """Raises ValueError unless the known frames can determine the rest."""
    where = f"worlds: known={self.known}, frames={self.frames}, split={self.split!r}"
    if not 0 <= self.known < self.frames:
      raise ValueError(f"{where}: known must be from 0 to frames - 1")
    need = 3 if any(s.gravity for s in self.drawn_scenes) else 2
    if SPLITS[self.split].determined and self.known < need:
      raise ValueError(
        f"{where}, scenes={self.scenes}: evaluation needs known >= {need}, because "
        + ("gravity" if need == 3 else "velocity")
        + " cannot be measured from fewer frames"
      )
    if any(s.head_on for s in self.drawn_scenes) and self.frames - max(self.known, 1) < 2:
      raise ValueError(f"{where}: a collision after the known frames needs 2 unknown frames")

  def _check_room(self) -> None:
    """Raises ValueError unless the discs fit the box, the pixels and the known frames."""
    (slow, fast), (small, large) = (_span(self.intervals(name)) for name in ("speed", "radius"))
    where = f"worlds: size={self.size}, extent={self.extent}, split={self.split!r}"
    most = max(s.discs for s in self.drawn_scenes)
    if most * math.pi * large**2 > 0.4 * self.extent**2:
      raise ValueError(f"{where}: {most} discs of radius {large:.3g} fill over 40 % of the box")
    if small * self.size < 0.5 * self.extent:
      raise ValueError(f"{where}: radius {small:.3g} is less than half a pixel; enlarge size")
    if SPLITS[self.split].unseen and self.radius[0] == self.radius[1]:
      raise ValueError(f"{where}: radius={self.radius} has no small and large discs to combine")
    if SPLITS[self.split].hides and fast * (self.end - self.settled) < 1.2 * small:
      raise ValueError(
        f"{where}: no disc can pass behind a bar in {self.frames - self.known} frames"
      )
    room = self.extent - 2 * small  # range of a disc's centre
    pull = GRAVITY[0] * self.extent if any(s.gravity for s in self.drawn_scenes) else 0.0
    head_on = any(s.head_on for s in self.drawn_scenes)
    path = slow * self.settled + pull * self.settled**2 / 2
    if path >= room or (head_on and 2 * slow * self.settled >= room - 2 * small):
      raise ValueError(
        f"{where}: discs of speed {slow:.3g} always touch within known={self.known} frames"
      )

  @property
  def moves_camera(self) -> bool:
    return self.pan > 0 or self.zoom > 0

  @property
  def drawn_scenes(self) -> tuple[Scene, ...]:
    """The scenes of the split, or of the config if the split has none."""
    return tuple(SCENES[name] for name in SPLITS[self.split].scenes or self.scenes)

  @property
  def settled(self) -> float:
    """Time of the last known frame, s."""
    return max(self.known - 1, 0) / self.fps

  @property
  def end(self) -> float:
    """Time of the last frame, s."""
    return (self.frames - 1) / self.fps

  def intervals(self, name: str) -> Intervals:
    """The 'speed' or 'radius' intervals of the split, each equally likely."""
    low, high = getattr(self, name)
    multiples = getattr(SPLITS[self.split], name)
    if multiples is None:
      return ((low, high),)
    return tuple(
      (a * (low if b <= 1 else high), b * (low if b <= 1 else high)) for a, b in multiples
    )


def _span(intervals: Intervals) -> tuple[float, float]:
  return min(a for a, _ in intervals), max(b for _, b in intervals)
