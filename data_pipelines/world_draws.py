"""Draws the start of a clip: the first valid one of a stream of candidates, jittable.

In a valid start all discs are inside the box and apart. In an evaluation split the known frames
must also determine the rest: every disc is wholly visible in them, and there is no contact until
the last of them. Most of this is built into the draw; the rest is done by rejection.

Shapes: T frames, M most discs in a clip.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from data_pipelines import world_physics as physics
from data_pipelines.indexed import stream, stream_key
from data_pipelines.world_config import (
  BAR,
  GRAVITY,
  PALETTE,
  SIZES,
  SPLITS,
  TRIES,
  UNSEEN,
  Config,
  Intervals,
)
from data_pipelines.world_physics import DISCS


class Start(NamedTuple):
  """The state of a clip's first frame, and its constants. Absent discs are zero."""

  position: Float[Array, "M 2"]
  velocity: Float[Array, "M 2"]
  radius: Float[Array, " M"]
  color: Int[Array, " M"]  # index into PALETTE
  present: Bool[Array, " M"]
  gravity: Float[Array, "2"]
  occluder: Float[Array, "4"]


def draw(config: Config, index: UInt32[Array | np.ndarray, ""]) -> Start:
  """The first valid start of a stream of candidates, which is keyed by (seed, split, index)."""
  key = stream_key(config.seed, stream(config.split), index)

  # The scene is drawn only once, so that rejection does not make the harder scenes rarer.
  pick = jax.random.uniform(jax.random.fold_in(key, TRIES))
  scene = (pick * len(config.drawn_scenes)).astype(jnp.int32)

  def candidate(attempt: Int[Array, ""] | int) -> tuple[Start, Bool[Array, ""]]:
    return _candidate(config, scene, jax.random.fold_in(key, attempt))

  empty, _ = jax.eval_shape(candidate, 0)
  empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), empty)
  _, start, valid = jax.lax.while_loop(
    lambda carry: ~carry[2] & (carry[0] < TRIES),
    lambda carry: (carry[0] + 1, *candidate(carry[0])),
    (0, empty, jnp.zeros((), bool)),
  )
  # An invalid clip must never pass silently.
  return start._replace(position=jnp.where(valid, start.position, jnp.nan))


def draw_camera(
  config: Config, index: UInt32[Array | np.ndarray, ""]
) -> tuple[Float[Array, "2"], Float[Array, ""]]:
  """The camera's velocity [2], world units/s, and the rate of its zoom, 1/s."""
  key = jax.random.fold_in(stream_key(config.seed, stream(config.split), index), TRIES + 1)
  draw = jax.random.uniform(key, (3,), minval=-1.0)
  return config.pan * draw[:2], config.zoom * draw[2]


def _candidate(
  config: Config, scene: Int[Array, ""], key: PRNGKeyArray
) -> tuple[Start, Bool[Array, ""]]:
  """A start, and whether it is valid in the split; `scene` indexes config.drawn_scenes."""
  rules, extent = SPLITS[config.split], config.extent
  uniform = jax.random.uniform(key, (4 + DISCS * 7,))
  (fall, meet, ahead, width), uniform = uniform[:4], uniform[4:].reshape(DISCS, 7)
  discs, head_on, falls, bar = (jnp.array(c)[scene] for c in zip(*config.drawn_scenes))
  present = jnp.arange(DISCS) < discs  # [M]

  radius, color = _looks(config, uniform[:, :3])
  speed = _between(config.intervals("speed"), uniform[:, 3])
  angle = 2 * np.pi * uniform[:, 4]
  # Head-on: the second disc moves along the first one's line, from the other side.
  angle = jnp.where(head_on & (jnp.arange(DISCS) == 1), angle[0] + np.pi, angle)
  if config.still:
    chance = jax.random.uniform(jax.random.fold_in(key, 0), (DISCS,))
    speed = jnp.where(chance < config.still, 0.0, speed)
  velocity = speed[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)  # [M,2]
  gravity = jnp.stack([0.0, falls * extent * _between((GRAVITY,), fall)])
  clear = config.settled if rules.determined else 0.0
  low, high = _room(velocity, radius, gravity, clear, extent)  # [M,2] each
  position = low + uniform[:, 5:] * (high - low)
  pair, possible = _head_on(config, velocity, radius, meet, uniform[0, 5:])
  position = jnp.where(head_on, pair, position)
  fits = jnp.where(head_on, possible, jnp.all((low <= high) | ~present[:, None]))
  occluder = _bar(config, position[0], velocity[0], radius[0], clear, ahead, width) * bar

  def only(x: Array) -> Array:
    return jnp.where(present.reshape(DISCS, *[1] * (x.ndim - 1)), x, 0)

  start = Start(
    only(position), only(velocity), only(radius), only(color), present, gravity, occluder
  )
  return start, fits & _valid(config, start, head_on)


def _between(intervals: Intervals, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
  """Maps uniform numbers in [0,1) onto intervals, each equally likely."""
  low, high = jnp.array(intervals, jnp.float32).T
  scaled = u * len(intervals)
  which = jnp.minimum(scaled.astype(jnp.int32), len(intervals) - 1)
  return low[which] + (scaled - which) * (high - low)[which]


def _looks(config: Config, u: Float[Array, "M 3"]) -> tuple[Float[Array, " M"], Int[Array, " M"]]:
  """Radii, and one colour of each complementary pair.

  The colour-size pairs of UNSEEN never occur, or only they do if the split is `unseen`.
  """
  names = list(PALETTE)
  low, high = config.radius
  hue = jnp.argsort(u[:, 0])  # [M], complementary pairs
  side = (u[:, 1] < 0.5).astype(jnp.int32)
  radius = _between(config.intervals("radius"), u[:, 2])
  large = radius > (low + high) / 2
  held = {
    names.index(name) // 2: (names.index(name) % 2, SIZES.index(s)) for name, s in UNSEEN.items()
  }
  held_side, held_large = jnp.array([held[h] for h in range(len(names) // 2)]).T[:, hue]  # [M] each
  if SPLITS[config.split].unseen:
    radius = jnp.where(large == (held_large == 1), radius, low + high - radius)
    return radius, 2 * hue + held_side
  clash = (side == held_side) & (large == (held_large == 1))
  return radius, 2 * hue + jnp.where(clash, 1 - side, side)


def _room(
  velocity: Float[Array, "M 2"],
  radius: Float[Array, " M"],
  gravity: Float[Array, "2"],
  time: float,
  extent: float,
) -> tuple[Float[Array, "M 2"], Float[Array, "M 2"]]:
  """Lowest and highest start positions from which a disc stays off the walls until `time`."""
  zero = jnp.zeros_like(velocity)
  turn = jnp.clip(-velocity / jnp.maximum(gravity, 1e-6)[None], 0.0, time)
  stops = [zero, *(physics.flight(zero, velocity, gravity[None], t) for t in (time, turn))]
  path = jnp.stack(stops)  # [3,M,2]
  edge = radius[:, None]
  return edge - jnp.min(path, 0), extent - edge - jnp.max(path, 0)


def _head_on(
  config: Config,
  velocity: Float[Array, "M 2"],
  radius: Float[Array, " M"],
  meet: Float[Array, ""],
  where: Float[Array, "2"],
) -> tuple[Float[Array, "M 2"], Bool[Array, ""]]:
  """Starts of discs 0 and 1 that meet in the first 3/4 of the unknown time; whether they can."""
  reach = radius[0] + radius[1]
  speed = jnp.sqrt(jnp.sum(velocity[:2] ** 2, -1))  # [2]
  closing = jnp.maximum(speed[0] + speed[1], 1e-6)
  line = velocity[0] / jnp.maximum(speed[0], 1e-6)  # [2]
  # The latest meeting whose start fits the box along this line.
  fit = ((config.extent - reach) / jnp.max(jnp.abs(line)) - reach) / closing
  last = jnp.minimum(config.settled + 0.75 * (config.end - config.settled), fit)
  apart = (reach + closing * (config.settled + meet * (last - config.settled))) * line  # [2]
  low = jnp.maximum(radius[0], radius[1] - apart)
  high = config.extent - jnp.maximum(radius[0], radius[1] + apart)
  first = low + where * (high - low)
  position = jnp.stack([first, first + apart, jnp.zeros(2)])  # [M,2]
  return position, (last > config.settled) & jnp.all(low <= high)


def _bar(
  config: Config,
  position: Float[Array, "2"],
  velocity: Float[Array, "2"],
  radius: Float[Array, ""],
  clear: float,
  ahead: Float[Array, ""],
  width: Float[Array, ""],
) -> Float[Array, "4"]:
  """A bar across the disc's path, which reaches it in the first half of the time after `clear`."""
  speed = jnp.abs(velocity)
  along = jnp.arange(2) == jnp.argmax(speed)  # [2]
  sign = jnp.sign(velocity)
  wait = clear + 0.5 * ahead * (config.end - clear)
  near = position + sign * (radius + speed * wait)
  far = near + sign * config.extent * _between((BAR,), width)
  low = jnp.where(along, jnp.minimum(near, far), 0.0)
  high = jnp.where(along, jnp.maximum(near, far), config.extent)
  return jnp.concatenate([low, high])


def _valid(config: Config, start: Start, head_on: Bool[Array, ""]) -> Bool[Array, ""]:
  """Whether a start obeys the split's rules, judged by its motion up to the first contact."""
  rules = SPLITS[config.split]
  i, j = physics.PAIR
  gap = jnp.sqrt(jnp.sum((start.position[j] - start.position[i]) ** 2, -1))
  gap = gap - (start.radius[i] + start.radius[j])
  apart = jnp.all((gap > 0) | ~(start.present[i] & start.present[j]))
  inside = jnp.all((start.occluder >= 0) & (start.occluder <= config.extent))
  motion = start.position, start.velocity, start.radius, start.present, start.gravity
  times = physics.contact_times(*motion, config.extent)
  first = jnp.min(times)
  late = first > config.settled + 1e-4
  meet = late & (first <= config.end) & (jnp.argmin(times) >= physics.WALLS)
  valid = apart & inside & (meet | ~head_on)
  if not rules.determined:
    return valid
  clock = jnp.arange(config.frames, dtype=jnp.float32)[:, None, None] / config.fps  # [T,1,1]
  path = physics.flight(
    start.position[None], start.velocity[None], start.gravity[None, None], clock
  )  # [T,M,2]
  hidden = physics.hidden(path, start.radius, start.occluder)  # [T,M]
  valid = valid & late & jnp.all(hidden[: config.known] <= 0)
  if rules.hides:
    valid = valid & jnp.any((hidden >= 0.5) & (clock[..., 0] < first))
  return valid
