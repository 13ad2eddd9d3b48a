"""Discs in a box: solves for contact times, moves discs exactly between them, and renders them.

Everything here is for one clip; `jax.vmap` makes the batch. Between two contacts a disc moves on a
parabola, gravity moves all discs identically (so a pair approaches on a straight line), and every
contact time is the root of a quadratic. No contact is missed, whatever the frame rate.

Shapes: T frames, H W height width, C channels, M most discs in a clip.
World: [0, extent]^2, x to the right, y down; times in seconds. Mass is radius^2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

DISCS = 3  # M of every world: shapes do not depend on the scene
PAIR = np.triu_indices(DISCS, 1)  # the P pairs i < j
WALLS = DISCS * 4  # contacts 0 .. WALLS-1 are (disc, axis, side), the following ones are pairs
# A contact of pair p pushes disc PAIR[0][p] backward and disc PAIR[1][p] forward.
PUSH = np.eye(DISCS, dtype=np.float32)[PAIR[1]] - np.eye(DISCS, dtype=np.float32)[PAIR[0]]
# Ten times as many as discs that fit the box can have; with more, the motion is NaN, not a hang.
CONTACTS_PER_FRAME = 64


def flight(
  position: Float[Array, "... M 2"],
  velocity: Float[Array, "... M 2"],
  gravity: Float[Array, "... 2"],
  time: Float[Array, "..."] | float,
) -> Float[Array, "... M 2"]:
  """Positions after `time` without a contact; the arguments broadcast."""
  return position + velocity * time + 0.5 * gravity * time**2


def contact_times(
  position: Float[Array, "M 2"],
  velocity: Float[Array, "M 2"],
  radius: Float[Array, " M"],
  present: Bool[Array, " M"],
  gravity: Float[Array, "2"],
  extent: float,
) -> Float[Array, " K"]:
  """Seconds until each wall and each pair would touch if there were no other contact; inf: never.

  Args:
    position: world units.
    velocity: world units/s.
    radius: world units.
    present: which of the M discs exist.
    gravity: world units/s^2.
    extent: side of the box, world units.

  Returns:
    K = WALLS + P times >= 0: walls as (disc, axis, low or high side), then the pairs.
  """
  edge = radius[:, None]
  gap = jnp.stack([position - edge, extent - edge - position], -1)  # [M,2,2]
  speed = jnp.stack([-velocity, velocity], -1)  # [M,2,2], towards the wall
  pull = jnp.stack([-gravity, gravity], -1)[None]  # [1,2,2]
  wall = jnp.where(present[:, None, None], _touch(gap, speed, 0.5 * pull), jnp.inf)

  i, j = PAIR
  apart = position[j] - position[i]  # [P,2]
  drift = velocity[j] - velocity[i]  # [P,2]
  reach = radius[i] + radius[j]  # [P]
  distance = jnp.sqrt(jnp.sum(apart**2, -1))  # [P]
  a = jnp.sum(drift**2, -1)
  b = jnp.sum(apart * drift, -1)  # negative: they approach
  c = (distance - reach) * (distance + reach)
  root = b**2 - a * c
  hit = present[i] & present[j] & (b < 0) & (root > 0)
  # The smaller root of a t^2 + 2 b t + c, in the form without cancellation.
  pair = c / jnp.where(hit, jnp.sqrt(jnp.where(hit, root, 1.0)) - b, 1.0)
  pair = jnp.where(hit, jnp.maximum(pair, 0.0), jnp.inf)
  return jnp.concatenate([wall.reshape(-1), pair])  # [K]


def _touch(
  gap: Float[Array, "M 2 2"], speed: Float[Array, "M 2 2"], pull: Float[Array, "1 2 2"]
) -> Float[Array, "M 2 2"]:
  """First time >= 0 at which gap - speed t - pull t^2 falls through 0; inf: never."""
  square = speed**2 + 4 * pull * gap
  root = jnp.sqrt(jnp.maximum(square, 0.0))
  ahead = speed > 0
  straight = 2 * gap / jnp.where(ahead, speed + root, 1.0)
  falls = pull > 0
  back = (root - speed) / jnp.where(falls, 2 * pull, 1.0)  # leaves the wall, falls back onto it
  time = jnp.where(
    ahead, jnp.where(square >= 0, straight, jnp.inf), jnp.where(falls, back, jnp.inf)
  )
  return jnp.maximum(time, 0.0)


def _bounce(
  position: Float[Array, "M 2"],
  velocity: Float[Array, "M 2"],
  radius: Float[Array, " M"],
  which: Int[Array, ""],
  extent: float,
) -> tuple[Float[Array, "M 2"], Float[Array, "M 2"], Float[Array, " M"]]:
  """Position and velocity after contact `which`, and which discs it involves (1 or 0)."""
  hit = jnp.arange(WALLS + len(PUSH)) == which  # [K]
  low, high = jnp.moveaxis(hit[:WALLS].reshape(DISCS, 2, 2), -1, 0)  # [M,2] each
  # Exactly on the wall: rounding must not leave a gap that the disc would cross again.
  edge = radius[:, None]
  position = jnp.where(low, edge, jnp.where(high, extent - edge, position))
  speed = jnp.abs(velocity)
  velocity = jnp.where(low, speed, jnp.where(high, -speed, velocity))

  i, j = PAIR
  mass = radius**2
  apart = position[j] - position[i]  # [P,2]
  normal = apart / jnp.maximum(jnp.sqrt(jnp.sum(apart**2, -1, keepdims=True)), 1e-12)
  closing = jnp.sum((velocity[i] - velocity[j]) * normal, -1)  # [P]
  together = jnp.maximum(mass[i] + mass[j], 1e-12)
  # Elastic: along the normal, each velocity is reflected about that of the centre of mass.
  impulse = jnp.where(hit[WALLS:], 2 * mass[i] * mass[j] / together * closing, 0.0)
  kick = jnp.sum(PUSH[:, :, None] * (impulse[:, None] * normal)[:, None, :], 0)  # [M,2]
  velocity = velocity + kick / jnp.maximum(mass, 1e-12)[:, None]
  touched = jnp.any(low | high, -1) | jnp.any(hit[WALLS:, None] & (PUSH != 0), 0)
  return position, velocity, touched.astype(jnp.float32)


def _arc(
  position: Float[Array, "... M 2"],
  velocity: Float[Array, "... M 2"],
  pull: Float[Array, "... M 2"],
  time: Float[Array, "..."],
) -> tuple[Float[Array, "... M 2"], Float[Array, "... M 2"]]:
  """Position and velocity after `time` without a contact; the arguments broadcast."""
  return flight(position, velocity, pull, time), velocity + pull * time


def simulate(
  position: Float[Array, "M 2"],
  velocity: Float[Array, "M 2"],
  radius: Float[Array, " M"],
  present: Bool[Array, " M"],
  gravity: Float[Array, "2"],
  *,
  extent: float,
  frames: int,
  fps: float,
) -> tuple[Float[Array, "T M 2"], Float[Array, "T M 2"], Float[Array, "T M"]]:
  """The exact motion of discs that bounce elastically off the walls and each other.

  Each contact begins a new arc, which overwrites all later frames.

  Args:
    position: world units at the first frame; the discs lie in the box and apart.
    velocity: world units/s at the first frame.
    radius: world units.
    present: which of the M discs exist.
    gravity: world units/s^2.
    extent: side of the box, world units.
    frames: T.
    fps: frames per second.

  Returns:
    Position and velocity at every frame, and each disc's number of contacts so far. A motion with
    more than CONTACTS_PER_FRAME contacts per frame is NaN.
  """
  clock = jnp.arange(frames, dtype=jnp.float32)[:, None, None] / fps  # [T,1,1]
  pull = gravity[None] * present[:, None]  # [M,2]
  bound = CONTACTS_PER_FRAME * frames

  def contact(carry):
    position, velocity, time, last, count, path, speed, contacts = carry
    times = contact_times(position, velocity, radius, present, gravity, extent)
    # Discs that just touched separate on a straight line: rounding must not make them touch again.
    again = (jnp.arange(len(times)) == last) & (last >= WALLS)
    times = jnp.where(again, jnp.inf, times)
    which = jnp.argmin(times)
    position, velocity = _arc(position, velocity, pull, times[which])
    position, velocity, touched = _bounce(position, velocity, radius, which, extent)
    time = time + times[which]
    later = clock >= time  # [T,1,1]; none after the last contact
    new_path, new_speed = _arc(position[None], velocity[None], pull[None], clock - time)
    path, speed = jnp.where(later, new_path, path), jnp.where(later, new_speed, speed)
    contacts = contacts + jnp.where(later[:, :, 0], touched[None], 0.0)
    return position, velocity, time, which, count + 1, path, speed, contacts

  begin = jnp.zeros((), jnp.float32)
  contacts = jnp.zeros((frames, DISCS), jnp.float32)
  path, speed = _arc(position[None], velocity[None], pull[None], clock)  # [T,M,2] each
  _, _, time, *_, path, speed, contacts = jax.lax.while_loop(
    lambda carry: (carry[2] <= clock[-1, 0, 0]) & (carry[4] < bound),
    contact,
    (position, velocity, begin, -1, 0, path, speed, contacts),
  )
  sound = ~(time <= clock[-1, 0, 0])
  return jnp.where(sound, path, jnp.nan), jnp.where(sound, speed, jnp.nan), contacts


def hidden(
  position: Float[Array, "T M 2"], radius: Float[Array, " M"], occluder: Float[Array, "4"]
) -> Float[Array, "T M"]:
  """The exact fraction of each disc's area behind the occluder.

  Args:
    position: world units, discs inside the box.
    radius: world units.
    occluder: (x0, y0, x1, y1) in world units; a bar from wall to wall, or all zero (none).

  Returns:
    The area fraction: the product of the fraction between x0 and x1 and that between y0 and y1.
    For a bar, one of them is 1.
  """
  safe = jnp.maximum(radius, 1e-6)[None, :, None]
  low = _below((occluder[None, None, :2] - position) / safe)
  high = _below((occluder[None, None, 2:] - position) / safe)
  return jnp.prod(high - low, -1)


def _below(u: Float[Array, "..."]) -> Float[Array, "..."]:
  """The fraction of a unit disc's area below the line at distance `u` from its centre."""
  u = jnp.clip(u, -1.0, 1.0)
  return 0.5 + (u * jnp.sqrt(1 - u**2) + jnp.arcsin(u)) / np.pi


def seen(
  position: Float[Array, "T M 2"],
  velocity: Float[Array, "T M 2"],
  radius: Float[Array, " M"],
  pan: Float[Array, "2"],
  zoom: Float[Array, ""],
  *,
  extent: float,
  fps: float,
) -> tuple[Float[Array, "T M 2"], Float[Array, "T M 2"], Float[Array, "T M"]]:
  """Position, velocity and radius in the view of a camera that pans, and zooms about its centre.

  Args:
    pan: the camera's velocity, world units/s.
    zoom: rate, 1/s: at time t lengths are enlarged by exp(zoom t).
  """
  clock = jnp.arange(len(position), dtype=jnp.float32)[:, None, None] / fps  # [T,1,1]
  scale, middle = jnp.exp(zoom * clock), extent / 2
  from_middle = scale * (position - middle - pan[None, None] * clock)
  speed = scale * (velocity - pan[None, None]) + zoom * from_middle
  return middle + from_middle, speed, scale[..., 0] * radius[None]


def render(
  position: Float[Array, "T M 2"],
  radius: Float[Array, " M"] | Float[Array, "T M"],
  color: Float[Array, "M C"],
  present: Bool[Array, " M"],
  occluder: Float[Array, "4"],
  background: Float[Array, " C"],
  occluder_color: Float[Array, " C"],
  *,
  size: int,
  extent: float,
) -> Float[Array, "T H W C"]:
  """Draws background, discs and occluder, with edges one pixel wide.

  A disc covers clip(.5 + (r - d)/pixel, 0, 1) of a pixel whose centre is at distance d from the
  disc's; the sum is pi (r^2 + pixel^2/12). The occluder covers exactly its area. Discs that do not
  overlap never cover more than all of a pixel, so their contributions add.

  Args:
    position: world units.
    radius: world units, one for the clip or one per frame.
    color: in [-1,1].
    present: which of the M discs exist.
    occluder: (x0, y0, x1, y1) in world units; all zero: none.
    background: in [-1,1].
    occluder_color: in [-1,1].
    size: H = W, pixels.
    extent: side of the world, world units.

  Returns:
    The clip, in [-1,1] if the colours are.
  """
  pixel = extent / size
  centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) * pixel  # [W] and [H]
  video = background[None, None, None]  # [1,1,1,C]
  for disc in range(radius.shape[-1]):
    x = centre[None, None, :] - position[:, disc, 0, None, None]  # [T,1,W]
    y = centre[None, :, None] - position[:, disc, 1, None, None]  # [T,H,1]
    r = radius.reshape(-1, radius.shape[-1])[:, disc, None, None]  # [1|T,1,1]
    inside = r - jnp.sqrt(x**2 + y**2)  # [T,H,W]
    cover = jnp.clip(0.5 + inside / pixel, 0.0, 1.0) * present[disc]
    video = video + cover[..., None] * (color[disc] - background)[None, None, None]  # [T,H,W,C]
  bar = _overlap(centre, pixel, occluder[0], occluder[2])[None, :]  # [1,W]
  bar = bar * _overlap(centre, pixel, occluder[1], occluder[3])[:, None]  # [H,W]
  return video + bar[None, ..., None] * (occluder_color[None, None, None] - video)


def _overlap(
  centre: Float[Array, " n"], pixel: float, low: Float[Array, ""], high: Float[Array, ""]
) -> Float[Array, " n"]:
  """The fraction of each pixel between `low` and `high`, along one axis."""
  inside = jnp.minimum(high, centre + pixel / 2) - jnp.maximum(low, centre - pixel / 2)
  return jnp.clip(inside / pixel, 0.0, 1.0)
