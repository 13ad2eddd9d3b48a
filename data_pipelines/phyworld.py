"""PhyWorld's three motions: uniform motion, a parabola, and a head-on collision of two balls.

The loader carries an index; `Source.decode` draws, moves and renders the clip on the device. The
training clips are a finite grid of speeds and radii; all other splits are endless fresh draws, so
that no evaluation clip is a training clip.

As in the paper: a white 10x10 world without walls (balls leave the picture); a red ball, and to its
right a blue one if there are two; speeds 1 to 4, radii .7 to 1.4 (.5 to 1.5 for two balls), mass
r^2, gravity 2.5; 32 frames, .1 s apart, the first at .01 s; the grids, the starting positions, and
the out-of-distribution ranges.
Different:
- Motion is exact. Box2D takes steps of .01 s; its parabola falls .0125 t further.
- An edge is one pixel wide and centred on r; the paper's is .015 r wide and entirely inside r. The
  centre of pixel i is at (i + .5) / W of the picture; the paper's is at i / (W - 1).
- The paper's script reseeds its random numbers every 1,000 clips, so that all clips share 1,000
  starting positions. Here each clip has its own.
- The paper drops collisions that cannot begin 8 frames apart (8 % of the smallest grid). Here the
  balls begin as far apart as fits, at least 5 frames.
- Evaluation draws speeds and radii at random where the paper has coarse grids, in the same
  proportions.

Source: Kang et al. 2024, arXiv:2411.02385, and its code, github.com/phyworld/phyworld (ee0e473).

Shapes: B batch, T frames, H W height width, M balls (1 or 2), L caption bytes.
World: x to the right, y down; speeds in world units per second.
"""

import dataclasses
import math
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from data_pipelines import indexed
from data_pipelines import world_physics as physics
from data_pipelines.indexed import Indexed, make_clips
from videojax import settings
from videojax.settings import Natural, Positive, Range, Seed, Width

EXTENT = 10.0
FIRST_S = 0.01  # time of the first frame
VIEW_S = 2.4  # how long a single ball is in the picture: 24 frames
BEFORE_S, AFTER_S = 0.8, 0.8  # time before and after a collision: 8 frames each
EARLIEST_S = 0.25  # the earliest possible collision: two balls of the largest size, at top speed
MARGIN = 0.5  # between a ball and the upper and lower edges
GRAVITY = 2.5  # world units/s^2
WHITE, RED, BLUE = (1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, -1.0, 1.0)

Interval = tuple[float, float]


class Scenario(NamedTuple):
  """A motion and its ranges: 'in' is the training distribution, all others are outside it."""

  caption: str
  balls: int
  gravity: float
  speed: dict[str, Interval]
  radius: dict[str, Interval]


_SPEED = {"in": (1.0, 4.0), "slow": (0.0, 0.8), "fast": (4.5, 6.0), "still": (0.0, 0.0)}
# The paper draws small radii from .3 to .6 but leaves those below .6 out of its evaluation.
_ONE = {"in": (0.7, 1.4), "small": (0.6, 0.6), "large": (1.5, 2.0)}
_TWO = {"in": (0.5, 1.5), "large": (1.7, 2.0)}
SCENARIOS = {
  "uniform": Scenario("a red ball moves to the right", 1, 0.0, _SPEED, _ONE),
  "parabola": Scenario("a red ball is thrown to the right and falls", 1, GRAVITY, _SPEED, _ONE),
  "collision": Scenario("a red ball and a blue ball collide", 2, 0.0, _SPEED, _TWO),
}

# Grid points of (speed, radius): for one ball, and for each of two. The two smallest are ours.
GRIDS = {
  "300": ((30, 10), (5, 4)),
  "3K": ((100, 30), (9, 6)),
  "30K": ((300, 100), (21, 8)),
  "300K": ((1000, 300), (41, 14)),
  "3M": ((3000, 1000), (71, 26)),
}

# Split -> number of balls -> kind of clip -> its share, the number of such clips that the paper
# evaluates. A kind is (speed, radius) for one ball and (speeds, radii) for two; collisions that
# cannot begin 8 frames apart are not counted. The paper has only 2 clips left in rv_out; ours have
# a large ball and begin as far apart as fits.
SPLITS: dict[str, dict[int, dict[tuple[str, ...], int]]] = {
  "train": {1: {}, 2: {}},  # the grid
  "id": {1: {("in", "in"): 1}, 2: {("in", "in", "in", "in"): 1}},
  "r_out": {
    1: {("in", "small"): 8, ("in", "large"): 128},
    2: {("in", "in", "large", "in"): 36, ("in", "in", "large", "large"): 28},
  },
  "v_out": {
    1: {("slow", "in"): 120, ("fast", "in"): 160},
    2: {
      ("slow", "in", "in", "in"): 36, ("slow", "slow", "in", "in"): 36,
      ("slow", "fast", "in", "in"): 29, ("fast", "in", "in", "in"): 10,
    },
  },
  "rv_out": {
    1: {
      ("slow", "small"): 15, ("slow", "large"): 120, ("fast", "small"): 16,
      ("fast", "large"): 128,
    },
    2: {("slow", "in", "large", "in"): 1, ("fast", "in", "large", "in"): 1},
  },
  "v_zero": {
    1: {("still", "in"): 8, ("still", "small"): 1, ("still", "large"): 8},
    2: {
      ("still", "in", "in", "in"): 12, ("still", "slow", "in", "in"): 24,
      ("still", "fast", "in", "in"): 14,
    },
  },
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
  """A scenario, its frames and which of its clips are drawn.

  Args:
    size: height and width, pixels.
    scenario: a name in SCENARIOS.
    grid: a name in GRIDS, about the number of training clips.
    split: a name in SPLITS.
    frames: T.
    known: frames that a model is shown; two balls meet after these.
    seed: of the starting positions.
    fps: frames per second.

  Raises:
    ValueError: an unknown name, or the known frames do not determine the clips.
  """

  size: Annotated[int, Range(16, 2**14)]  # at 16 the smallest ball is 1.6 px wide
  scenario: str = "uniform"
  grid: str = "30K"
  split: str = "train"
  frames: Width = 32
  known: Natural = 3
  seed: Seed = 0
  fps: Positive = 10.0
  extent: ClassVar[float] = EXTENT

  def __post_init__(self) -> None:
    settings.check(self)
    for name, table in (("scenario", SCENARIOS), ("grid", GRIDS), ("split", SPLITS)):
      if getattr(self, name) not in table:
        raise ValueError(
          f"phyworld: no {name} {getattr(self, name)!r}; there are {', '.join(table)}"
        )
    if not 2 <= self.known < self.frames:
      raise ValueError(
        f"phyworld: known={self.known}, frames={self.frames}: known must be from 2 to frames - 1, "
        "because velocity cannot be measured from fewer than 2 frames"
      )
    if self.balls == 2 and self.clock[self.known - 1] >= EARLIEST_S:
      raise ValueError(
        f"phyworld: known={self.known}, fps={self.fps}: the balls may meet after {EARLIEST_S} s, "
        "but the known frames must end before that"
      )

  @property
  def balls(self) -> int:
    return SCENARIOS[self.scenario].balls

  @property
  def clock(self) -> np.ndarray:
    """Time of each frame, s: [T]."""
    return FIRST_S + np.arange(self.frames, dtype=np.float32) / np.float32(self.fps)

  @property
  def steps(self) -> tuple[int, ...]:
    """Grid points along each axis: speeds, then radii."""
    speeds, radii = GRIDS[self.grid][self.balls - 1]
    return (speeds,) * self.balls + (radii,) * self.balls


class Start(NamedTuple):
  """The state of a clip at time 0; a second ball comes from the right."""

  position: Float[Array, "M 2"]
  velocity: Float[Array, "M 2"]
  radius: Float[Array, " M"]


def stream(config: Config) -> np.uint32:
  """A distinct number for each scenario and split."""
  return indexed.stream(f"{config.scenario}/{config.split}")


def draw(config: Config, index: UInt32[Array | np.ndarray, ""]) -> Start:
  """The start of a clip; keyed by (seed, scenario and split, index)."""
  key = indexed.stream_key(config.seed, stream(config), index)
  uniform = jax.random.uniform(key, (8,))
  place, values = uniform[:3], uniform[3:]
  low, high, at = _cell(config, index) if config.split == "train" else _box(config, values)
  value = low + at * (high - low)  # [2M]: speeds, then radii
  speed, radius = value[: config.balls], value[config.balls :]
  x = (_one_ball if config.balls == 1 else _two_balls)(config, speed, radius, place)
  largest = jnp.max(radius)
  room = 1.0 if config.scenario == "parabola" else EXTENT - 2 * (MARGIN + largest)
  y = jnp.full_like(x, MARGIN + largest) + place[1] * room
  way = jnp.array([1.0, -1.0])[: config.balls]  # [M]
  velocity = jnp.stack([way * speed, jnp.zeros_like(speed)], -1)
  return Start(jnp.stack([x, y], -1), velocity, radius)


def _ranges(config: Config, kinds: tuple[str, ...]) -> list[Interval]:
  """The intervals of speeds, then radii."""
  scenario, balls = SCENARIOS[config.scenario], config.balls
  return [scenario.speed[k] for k in kinds[:balls]] + [scenario.radius[k] for k in kinds[balls:]]


def _cell(config: Config, index: Array | np.ndarray) -> tuple[Array, Array, Array]:
  """Cell `index` of the grid: (lowest, highest, relative position between them), [2M] each."""
  low, high = jnp.array(_ranges(config, ("in",) * 2 * config.balls)).T
  cell = jnp.stack(jnp.unravel_index(jnp.asarray(index, jnp.int32), config.steps))  # [2M]
  return low, high, cell / (jnp.array(config.steps) - 1)


def _box(config: Config, uniform: Float[Array, " 5"]) -> tuple[Array, Array, Array]:
  """As `_cell`, for a random clip whose kind is drawn in proportion to its share."""
  shares = SPLITS[config.split][config.balls]
  until = np.cumsum(list(shares.values())) / sum(shares.values())
  which = jnp.sum(uniform[0] >= jnp.array(until[:-1]))
  ranges = jnp.array([_ranges(config, kinds) for kinds in shares])[which]  # [2M,2]
  return ranges[:, 0], ranges[:, 1], uniform[1 : 1 + 2 * config.balls]


def _one_ball(config: Config, speed: Array, radius: Array, u: Float[Array, "3"]) -> Array:
  """x [1] of a ball that stays in the picture for VIEW_S, or else starts at its left edge."""
  last = EXTENT - VIEW_S * speed - radius
  last = jnp.where(last < radius, radius + 0.5 * u[2], last)
  return radius + u[0] * (last - radius)


def _two_balls(config: Config, speed: Array, radius: Array, u: Float[Array, "3"]) -> Array:
  """x [2] of balls that meet between BEFORE_S and AFTER_S before the end, if that fits the picture.

  If one ball is more than twice as large, the collision comes early and the large ball begins near
  its side, because the small one bounces off fast. (The paper's code does this only if the right
  ball is the large one.)
  """
  closing, reach = jnp.sum(speed), jnp.sum(radius)
  room = EXTENT - 2 * reach
  first = jnp.minimum(BEFORE_S * closing, room)  # gaps
  last = (config.frames / config.fps - AFTER_S) * closing
  uneven = jnp.max(radius) > 2 * jnp.min(radius)
  last = jnp.where(uneven, jnp.minimum(1.25 * first + 0.25 * reach, last), last)
  gap = first + u[2] * (jnp.clip(last, first, jnp.maximum(room, first)) - first)
  left, right = radius[0], EXTENT - 2 * radius[1] - radius[0] - gap
  low = jnp.where(uneven & (radius[1] > radius[0]), jnp.maximum(left, right - 0.5), left)
  high = jnp.where(uneven & (radius[0] > radius[1]), jnp.minimum(right, left + 0.5), right)
  x = low + u[0] * (high - low)
  return jnp.stack([x, x + reach + gap])


def motion(
  config: Config, start: Start
) -> tuple[Float[Array, "T M 2"], Float[Array, "T M 2"], Float[Array, "T M"]]:
  """Exact position and velocity at every frame, and each ball's number of contacts so far."""
  clock = jnp.asarray(config.clock)[:, None, None]  # [T,1,1]
  pull = jnp.array([0.0, SCENARIOS[config.scenario].gravity])[None, None]  # [1,1,2]
  if config.balls == 1:
    position, velocity = start.position[None], start.velocity[None]
    contact = jnp.zeros((config.frames, 1))
    return physics.flight(position, velocity, pull, clock), velocity + pull * clock, contact
  (x1, x2), (v1, v2) = start.position[:, 0], start.velocity[:, 0]
  (r1, r2), (m1, m2) = start.radius, start.radius**2
  meet = (x2 - x1 - r1 - r2) / jnp.maximum(v1 - v2, 1e-9)
  # Elastic and central: conserving momentum and energy leaves one other solution.
  after = jnp.stack([(m1 - m2) * v1 + 2 * m2 * v2, (m2 - m1) * v2 + 2 * m1 * v1]) / (m1 + m2)
  then = jnp.stack([after, jnp.zeros(2)], -1)[None]  # [1,M,2]
  met = clock >= meet
  before = jnp.minimum(clock, meet)
  position = start.position[None] + start.velocity[None] * before + then * (clock - before)
  velocity = jnp.where(met, then, start.velocity[None])
  return position, velocity, jnp.broadcast_to(met[..., 0], velocity.shape[:2]).astype(jnp.float32)


def in_picture(position: Float[Array, "T M 2"], radius: Float[Array, " M"]) -> Float[Array, "T M"]:
  """The exact fraction of each ball's area inside the picture."""
  low, high = jnp.moveaxis(-position, -1, 0), jnp.moveaxis(EXTENT - position, -1, 0)  # [2,T,M]
  (x0, y0), (x1, y1) = low / radius[None, None], high / radius[None, None]
  area = _corner(x1, y1) - _corner(x0, y1) - _corner(x1, y0) + _corner(x0, y0)
  return jnp.clip(area / np.pi, 0.0, 1.0)


def _corner(u: Float[Array, "T M"], w: Float[Array, "T M"]) -> Float[Array, "T M"]:
  """Area of the part of the unit disc with x <= u and y <= w."""
  u, w = jnp.clip(u, -1.0, 1.0), jnp.clip(w, -1.0, 1.0)
  half = jnp.sqrt(1 - u**2)  # of the chord at x = u

  def strip(y: Array) -> Array:  # area of half the disc from its middle line to y
    return (y * jnp.sqrt(jnp.maximum(1 - y**2, 0.0)) + jnp.arcsin(y)) / 2

  cut = jnp.clip(w, -half, half)  # rows that the chord cuts
  area = strip(cut) - strip(-half) + u * (cut + half)
  # Rows beyond the chord's ends count whole if the chord is right of the middle, else not at all.
  whole = strip(jnp.minimum(w, -half)) - strip(-jnp.ones_like(w))
  whole = whole + strip(jnp.maximum(w, half)) - strip(half)
  return area + jnp.where(u > 0, 2 * whole, 0.0)


def make_clip(config: Config, index: UInt32[Array | np.ndarray, ""]) -> dict[str, Any]:
  """One example without the batch axis; see `Source.decode`."""
  start, balls = draw(config, index), config.balls
  position, velocity, contact = motion(config, start)
  state = {
    "position": position,
    "velocity": velocity,
    "radius": start.radius,
    "color": jnp.array((RED, BLUE))[:balls],
    "present": jnp.ones(balls, bool),
    "visible": in_picture(position, start.radius),
    "gravity": jnp.array([0.0, SCENARIOS[config.scenario].gravity]),
    "occluder": jnp.zeros(4),
    "background": jnp.array(WHITE),
    "occluder_color": jnp.array(WHITE),
    "contact": contact,
  }
  names = "radius", "color", "present", "occluder", "background", "occluder_color"
  scene = {name: state[name] for name in names}
  caption = SCENARIOS[config.scenario].caption.encode()
  return {
    "video": physics.render(position, **scene, size=config.size, extent=EXTENT),
    "id": index ^ stream(config),
    "fps": jnp.float32(config.fps),
    "caption": jnp.array(np.frombuffer(caption, np.uint8)),
    "state": state,
  }


class Source(Indexed):
  """Clips of a scenario: the loader carries indices, and the device makes the clips.

  Args:
    config: the scenario and split.
  """

  def __init__(self, config: Config):
    shape = (config.frames, config.size, config.size, 3)
    super().__init__(shape, math.prod(config.steps) if config.split == "train" else None)
    self.config = config

  def decode(self, carried: dict[str, UInt32[Array | np.ndarray, " B"]]) -> dict[str, Any]:
    """Draws, moves and renders the clips; jittable. A clip does not depend on its batch.

    Args:
      carried: `index` [B]; in the training split it is the cell of the grid, radii fastest.

    Returns:
      `video` float32 [B,T,H,W,3] in [-1,1]; `id` uint32 [B]; `fps` float32 [B]; `caption` uint8
      [B,L]; `state` as in worlds (docs/shapes.md), where `visible` is the fraction of a ball's area
      inside the picture.
    """
    return make_clips(make_clip, self.config, carried["index"])
