"""Exact coherence of generated clips of worlds, measured against the simulator's state.

The masses, centroids and colours from `disc_masses.observe` are compared with the truth, over the
unknown frames. All thresholds are constants here; docs/measures.md explains them.

Shapes: B batch, T frames, H W height width (equal), M maximum number of discs in a clip.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from videojax.measures.disc_masses import (
  State,
  Video,
  checked_state,
  exact,
  full_mass,
  masked_mean,
  observe_clip,
  render,
)


class Measure(NamedTuple):
  """A number per clip: its unit, whether up or down is better, and its meaning."""

  unit: str
  better: str
  meaning: str


MEASURES = {
  "permanence": Measure("fraction", "up", "disc-frames with the right mass and nothing foreign"),
  "permanence_after_occlusion": Measure("fraction", "up", "the same, once a hidden disc is back"),
  "survival_frames": Measure("frames", "up", "unknown frames before the first violation"),
  "position_error_px": Measure("px", "down", "distance of the centroid from the true centre"),
  "velocity_error": Measure("world units/s", "down", "distance of the least-squares velocities"),
  "color_drift": Measure("RGB in [-1,1]", "down", "distance of the disc's colour from the true"),
  "radius_drift": Measure("fraction", "down", "|radius by mass / true radius - 1|"),
  "momentum_error": Measure("fraction", "down", "|P - P_true| / sum of m |v|_rms"),
  "energy_error": Measure("fraction", "down", "|E - E_true| / true kinetic energy"),
}

MASS_TOLERANCE = 0.2  # of the whole disc's mass
OTHER_MASS = 0.1  # of the smallest disc's mass; mass of no disc may not exceed this ...
OTHER_MASS_PX = 1.0  # ... or one whole pixel, whichever is larger
WHOLE = 0.999  # minimum visible fraction at which the centroid is the disc's centre
HIDDEN, BACK = 0.25, 0.5  # visible fractions: below, mostly hidden; from here on, visible again
MIN_FRAMES = 3  # to fit a slope


def _permanence(seen: dict[str, Array], state: State, unknown: Array, full: Array):
  """permanence, permanence_after_occlusion and survival_frames of one clip."""
  present = state["present"][None]  # [1,M]
  off = jnp.abs(seen["mass"] - state["visible"] * full[None]) > MASS_TOLERANCE * full[None]
  smallest = jnp.min(jnp.where(state["present"], full, jnp.inf))
  bound = jnp.maximum(OTHER_MASS * smallest, OTHER_MASS_PX)
  sound = ~off & (seen["other_mass"] <= bound)[:, None]  # [T,M]
  pairs = unknown[:, None] & present
  was_hidden = jax.lax.cummax((state["visible"] < HIDDEN).astype(jnp.int32)).astype(bool)
  after = pairs & was_hidden & (state["visible"] >= BACK)
  intact = jnp.all(sound | ~pairs, -1)  # [T]
  survival = jnp.sum(jax.lax.cummin(intact.astype(jnp.int32)) * unknown)
  return {
    "permanence": masked_mean(sound, pairs),
    "permanence_after_occlusion": masked_mean(sound, after),
    "survival_frames": survival.astype(jnp.float32),
  }


def _appearance(seen: dict[str, Array], state: State, usable: Array, full: Array):
  """color_drift and radius_drift of one clip: a vanished disc has radius 0 and no colour."""
  drift = jnp.linalg.norm(seen["color"] - state["color"][None], axis=-1)  # [T,M]
  # mass = visible * pi (r^2 + 1/12), solved for r
  area = seen["mass"] / jnp.maximum(state["visible"], WHOLE) / jnp.pi - 1 / 12
  true = full / jnp.pi - 1 / 12
  ratio = jnp.sqrt(jnp.maximum(area, 0) / jnp.maximum(true, 1e-6)[None])
  return {
    "color_drift": masked_mean(drift, usable & ~jnp.isnan(drift)),
    "radius_drift": masked_mean(jnp.abs(ratio - 1), usable),
  }


def _lines(position: Array, time: Array, same: Array) -> tuple[Array, Array]:
  """Least-squares lines through position [T,M,2], one per frame, fitted to the frames in `same`.

  Args: time [T] in s; same [T,T,M]: whether the second frame belongs to the first one's line.
  Returns: slope [T,M,2] per second, and mean position [T,M,2].
  """
  position = jnp.where(jnp.any(same, 0)[..., None], position, 0)  # a NaN outside must not spread
  count = jnp.maximum(jnp.sum(same, 1), 1)  # [T,M]
  lag = time[None, :, None] - (jnp.einsum("tsm,s->tm", same, time) / count)[:, None]  # [T,T,M]
  lag = jnp.where(same, lag, 0)
  slope = jnp.einsum("tsm,smd->tmd", lag, position)
  slope /= jnp.maximum(jnp.sum(lag**2, 1), 1e-12)[..., None]
  return slope, jnp.einsum("tsm,smd->tmd", same, position) / count[..., None]


def _motion(position: Array, state: State, usable: Array, unknown: Array, fps: Array):
  """velocity_error, momentum_error and energy_error of one clip.

  Between two contacts a disc's positions lie on a line (or parabola). Lines are fitted to both the
  measured and the true positions over the same frames, so that gravity cancels.
  """
  time = jnp.arange(position.shape[0]) / fps
  usable &= ~jnp.isnan(position[..., 0])
  contact = state["contact"]
  same = (contact[:, None] == contact[None]) & usable[None]  # [T,T,M]
  enough = (jnp.sum(same, 1) >= MIN_FRAMES) & unknown[:, None] & state["present"][None]  # [T,M]
  same = same.astype(jnp.float32)
  slope, mean = _lines(position, time, same)
  true_slope, true_mean = _lines(state["position"], time, same)

  inertia = jnp.where(state["present"], state["radius"] ** 2, 0)  # [M]
  weigh = lambda x: jnp.einsum("tm...,m->t...", x, inertia)
  momentum = jnp.linalg.norm(weigh(slope - true_slope), axis=-1)  # [T]
  kinetic = 0.5 * jnp.sum(slope**2 - true_slope**2, -1)  # [T,M]
  potential = -jnp.einsum("tmd,d->tm", mean - true_mean, state["gravity"])
  energy = jnp.abs(weigh(kinetic + potential))
  # Scales over the whole clip, which vanish only if nothing moves.
  square_speed = jnp.sum(state["velocity"] ** 2, -1) * unknown[:, None]  # [T,M]
  square_speed = jnp.sum(square_speed, 0) / jnp.sum(unknown)
  all_measured = jnp.all(enough | ~state["present"][None], -1)  # [T]
  relative = lambda x, scale: jnp.where(scale > 0, masked_mean(x, all_measured) / scale, jnp.nan)
  return {
    "velocity_error": masked_mean(jnp.linalg.norm(slope - true_slope, axis=-1), enough),
    "momentum_error": relative(momentum, jnp.sum(inertia * jnp.sqrt(square_speed))),
    "energy_error": relative(energy, jnp.sum(0.5 * inertia * square_speed)),
  }


def _measure(video: Array, state: State, fps: Array, *, extent: float, known: int):
  """`measure` for one clip."""
  frames, size = video.shape[:2]
  unknown = jnp.arange(frames) >= known
  usable = unknown[:, None] & state["present"][None] & (state["visible"] >= WHOLE)  # [T,M]
  full = full_mass(state, size, extent)
  seen = observe_clip(video, state, extent)
  distance = seen["centroid"] - state["position"] * (size / extent)
  cap = size / np.sqrt(2)  # half the diagonal: the error of a vanished disc
  distance = jnp.minimum(jnp.nan_to_num(jnp.linalg.norm(distance, axis=-1), nan=cap), cap)
  return {
    **_permanence(seen, state, unknown, full),
    "position_error_px": masked_mean(distance, usable),
    **_appearance(seen, state, usable, full),
    **_motion(seen["centroid"] * (extent / size), state, usable, unknown, fps),
  }


def _check_known(video: Video, known: int) -> None:
  if not 1 <= known < video.shape[1]:
    raise ValueError(
      f"known={known} of {video.shape[1]} frames: coherence needs a known and an unknown frame"
    )


def measure(
  video: Video, state: State, *, extent: float, fps: ArrayLike, known: int
) -> dict[str, Float[Array, " B"]]:
  """All of `MEASURES` for each clip, over its unknown frames; NaN where a measure is undefined.

  Args:
    video: in [-1,1].
    state: the simulator's state of the same clips.
    extent: side of the world, in world units.
    fps: frames per second, one number or one per clip.
    known: number of given frames at the start, which are not judged.
  Raises:
    ValueError: the image is not square, no frame is unknown, or the state lacks a field.
  """
  _check_known(video, known)
  state = checked_state(video, state)
  fps = jnp.broadcast_to(jnp.asarray(fps, jnp.float32), (video.shape[0],))
  per_clip = lambda *clip: _measure(*clip, extent=extent, known=known)
  with exact():
    return jax.vmap(per_clip)(jnp.asarray(video), state, fps)


def copy_last(video: Video, known: int) -> Float[Array, "B T H W 3"]:
  """The last known frame repeated: perfect permanence, no motion."""
  _check_known(video, known)
  frame = jnp.minimum(jnp.arange(video.shape[1]), known - 1)
  return jnp.take(jnp.asarray(video), frame, axis=1)


def extrapolate(
  video: Video, state: State, *, extent: float, fps: ArrayLike, known: int
) -> Float[Array, "B T H W 3"]:
  """Each disc keeps its velocity of the last known frame, through walls and other discs.

  Args: as in `measure`; the known frames are copied from `video`.
  """
  _check_known(video, known)
  state = checked_state(video, state)
  frames, size = video.shape[1:3]
  fps = jnp.broadcast_to(jnp.asarray(fps, jnp.float32), (video.shape[0],))

  def per_clip(clip, state, fps):
    ahead = (jnp.arange(frames) - (known - 1)) / fps  # [T]
    step = ahead[:, None, None] * state["velocity"][known - 1][None]
    moved = render(state["position"][known - 1][None] + step, state, size, extent)
    return jnp.concatenate([clip[:known], moved[known:]])

  return jax.vmap(per_clip)(jnp.asarray(video), state, fps)


def coherence_table(per_clip: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  """Mean and standard error of each measure, and the number of clips where it is defined.

  Args: per_clip: measure -> value per clip, NaN where it is undefined.
  Returns: measure -> {mean, stderr, n}; NaN if n is too small.
  """
  table = {}
  for name, numbers in per_clip.items():
    numbers = np.asarray(numbers, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    n = len(numbers)
    table[name] = {
      "mean": float(np.mean(numbers)) if n else float("nan"),
      "stderr": float(np.std(numbers, ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
      "n": n,
    }
  return table
