"""Observes discs in clips of worlds: unmixes each frame into one soft mass per disc and a residual.

A pixel that deviates from the base image (background and occluder, both known) belongs to the disc
whose colour explains it best; a deviation that no disc's colour explains is foreign. Discs are
distinguished by colour alone, so the directions of their colours from the background must differ by
more than 60 degrees.

Shapes: B batch, T frames, H W height width (equal), M maximum number of discs in a clip.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Video = Float[Array | np.ndarray, "B T H W 3"]
State = Mapping[str, Any]  # the simulator's state: see docs/shapes.md

_PER_FRAME = ("position", "velocity", "visible", "contact")
_PER_CLIP = ("radius", "color", "present", "gravity", "occluder", "background", "occluder_color")

FOREIGN_SINE = 0.5  # a colour direction over 30 degrees from every disc's is foreign
DUST = 0.2  # far from any disc, a smaller deviation (mean of 3x3 pixels) is noise
STRONG = 0.5  # if one disc covers at least half of a pixel, its neighbours may contain its edge
HALO = (1.25, 1.5)  # mass further than 1.25 r + 1.5 px from the disc's centroid is debris
SEEN = 0.1  # of the whole disc's mass; with less, the disc has vanished and has no centroid


def _disc_coverage(position: Array, radius: Array, size: int, extent: float) -> Array:
  """Coverage [T,H,W,M] of each pixel by discs at position [T,M,2], with edges one pixel wide."""
  pixel = extent / size
  centre = (jnp.arange(size) + 0.5) * pixel
  dx = centre[None, :, None] - position[:, None, :, 0]  # [T,W,M]
  dy = centre[None, :, None] - position[:, None, :, 1]  # [T,H,M]
  distance = jnp.hypot(dx[:, None, :, :], dy[:, :, None, :])  # [T,H,W,M]
  return jnp.clip(0.5 + (radius[None, None, None, :] - distance) / pixel, 0, 1)


def _occluder_coverage(occluder: Array, size: int, extent: float) -> Array:
  """Fraction [H,W] of each pixel's area that the occluder (x0,y0,x1,y1) covers."""
  edge = jnp.arange(size) * (extent / size)

  def overlap(low, high):
    covered = jnp.minimum(edge + extent / size, high) - jnp.maximum(edge, low)
    return jnp.clip(covered * (size / extent), 0, 1)

  x0, y0, x1, y1 = occluder
  return overlap(y0, y1)[:, None] * overlap(x0, x1)[None, :]  # [H,W]


def _over(below: Array, color: Array, cover: Array) -> Array:
  """`color` composited over `below` [...,3] with opacity `cover` [...]."""
  return below + cover[..., None] * (color.reshape((1,) * cover.ndim + (3,)) - below)


def render(position: Array, state: State, size: int, extent: float) -> Array:
  """Frames [T,H,W,3] of one clip with discs at position [T,M,2]: background, discs, occluder."""
  cover = _disc_coverage(position, state["radius"], size, extent)  # [T,H,W,M]
  frames = jnp.broadcast_to(state["background"], (*cover.shape[:3], 3))  # [T,H,W,3]
  for m in range(cover.shape[-1]):
    frames = _over(frames, state["color"][m], cover[..., m] * state["present"][m])
  hidden = _occluder_coverage(state["occluder"], size, extent)
  return _over(frames, state["occluder_color"], jnp.broadcast_to(hidden, cover.shape[:3]))


def full_mass(state: State, size: int, extent: float) -> Array:
  """Mass [M] of a wholly visible disc, in pixels: pi (r^2 + 1/12), with 1/12 from the soft edge."""
  return jnp.pi * ((state["radius"] * size / extent) ** 2 + 1 / 12)


def exact() -> AbstractContextManager:
  """Matrix products in full fp32: accelerators round inputs to 8 or 10 bits by default."""
  return jax.default_matmul_precision("highest")


def masked_mean(x: Array, where: Array) -> Array:
  """Mean of x where `where` is True; NaN if it never is."""
  return jnp.sum(jnp.where(where, x, 0)) / jnp.sum(where)


def checked_state(video: Video, state: State) -> dict[str, Array]:
  """The state's fields that clips are measured against, as arrays.

  Raises:
    ValueError: the image is not square, or the state lacks a field.
  """
  if video.shape[2] != video.shape[3]:
    raise ValueError(f"video {video.shape}: height and width must be equal: worlds are square")
  if missing := [name for name in _PER_FRAME + _PER_CLIP if name not in state]:
    raise ValueError(f"state has no {', '.join(missing)}: coherence is measured against the state")
  return {name: jnp.asarray(state[name]) for name in _PER_FRAME + _PER_CLIP}


def _around(x: Array, reduce: Callable) -> Array:
  """Applies `reduce` over 3x3 neighbourhoods of x [T,H,W,...], with 0 (False) outside the image."""
  for axis in (1, 2):
    pad = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    before = jnp.concatenate([pad, jax.lax.slice_in_dim(x, 0, -1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, None, axis=axis), pad], axis)
    x = reduce(reduce(before, x), after)
  return x


def _nearest(dot: Array, square: Array, norm: Array, allowed: Array) -> tuple[Array, Array]:
  """Explains each pixel by the best allowed disc: amounts [T,H,W,M], squared residual [T,H,W]."""
  square = square[None]  # [1,H,W,M]
  amount = jnp.clip(dot / jnp.maximum(square, 1e-6), 0, 1)
  rest = norm[..., None] - 2 * amount * dot + amount**2 * square  # [T,H,W,M]
  rest = jnp.where(allowed, rest, jnp.inf)
  best = jax.nn.one_hot(jnp.argmin(rest, -1), dot.shape[-1]) * allowed
  return amount * best, jnp.minimum(jnp.min(rest, -1), norm)


def _mix_pairs(amount: Array, rest: Array, dot: Array, gram: Array, norm: Array, near: Array):
  """Explains pixels near two discs by both, with non-negative least squares.

  Args: dot [T,H,W,M] and gram [H,W,M,M]: products of the colours with the pixel and each other;
    amount, rest, norm, near: as in `_nearest` and `_unmix`.
  Returns: amount and rest, updated where a pair explains the pixel better than one disc.
  """
  discs = dot.shape[-1]
  for i in range(discs):
    for j in range(i + 1, discs):
      ii, jj, ij = (gram[None, ..., a, b] for a, b in ((i, i), (j, j), (i, j)))  # [1,H,W]
      b_i, b_j = dot[..., i], dot[..., j]
      det = jnp.maximum(ii * jj - ij**2, 1e-6)
      w_i, w_j = (jj * b_i - ij * b_j) / det, (ii * b_j - ij * b_i) / det
      allowed = near[..., i] & near[..., j] & (w_i > 0) & (w_j > 0)
      total = jnp.maximum(w_i + w_j, 1)
      w_i, w_j = w_i / total, w_j / total
      mixed = norm - 2 * (w_i * b_i + w_j * b_j)
      mixed += w_i**2 * ii + w_j**2 * jj + 2 * w_i * w_j * ij
      allowed &= mixed < rest
      pair = jnp.zeros_like(amount).at[..., i].set(w_i).at[..., j].set(w_j)
      amount = jnp.where(allowed[..., None], pair, amount)
      rest = jnp.where(allowed, mixed, rest)
  return amount, rest


def _directions(state: State, size: int, extent: float) -> tuple[Array, Array]:
  """The base image [H,W,3], and the difference from it to each disc's colour [H,W,M,3]."""
  hidden = _occluder_coverage(state["occluder"], size, extent)  # [H,W]
  plain = jnp.broadcast_to(state["background"], (size, size, 3))
  base = _over(plain, state["occluder_color"], hidden)
  # In a partly covered pixel a disc is seen against the background; a disc that is wrongly in front
  # of the occluder is seen against the occluder.
  under = jnp.where(hidden[..., None] > 0.999, base, plain)
  return base, state["color"][None, None] - under[:, :, None]


def _unmix(video: Array, state: State, extent: float) -> tuple[Array, Array]:
  """The amounts of each disc's colour and of foreign colour in each pixel.

  A pixel belongs to the disc whose line from the base to its colour is nearest (so a drifted colour
  still belongs to its disc), and to two discs only if both are within a pixel of it.

  Args: video [T,H,W,3], state of one clip.
  Returns: amounts [T,H,W,M] in [0,1]; foreign [T,H,W] in [0,1], 1 = the discs' mean contrast.
  """
  base, toward = _directions(state, video.shape[1], extent)
  deviation = video - base[None]  # [T,H,W,3]
  dot = jnp.einsum("thwc,hwmc->thwm", deviation, toward)
  gram = jnp.einsum("hwmc,hwnc->hwmn", toward, toward)
  square = jnp.diagonal(gram, axis1=-2, axis2=-1)  # [H,W,M]
  norm = jnp.sum(deviation**2, -1)  # [T,H,W]
  smooth = jnp.linalg.norm(_around(deviation, jnp.add) / 9, axis=-1)

  anyone = jnp.broadcast_to(state["present"], dot.shape)
  amount, rest = _nearest(dot, square, norm, anyone)
  strong = (amount >= STRONG) & (rest <= FOREIGN_SINE**2 * norm)[..., None]
  near = _around(strong, jnp.logical_or)
  far = anyone & (smooth >= DUST)[..., None]
  allowed = jnp.where(jnp.any(near, -1, keepdims=True), near, far)
  amount, rest = _nearest(dot, square, norm, allowed)
  amount, rest = _mix_pairs(amount, rest, dot, gram, norm, near)
  amount *= ((rest <= FOREIGN_SINE**2 * norm) | (norm < DUST**2))[..., None]

  unexplained = deviation - jnp.einsum("thwm,hwmc->thwc", amount, toward)
  unexplained = jnp.linalg.norm(_around(unexplained, jnp.add) / 9, axis=-1)  # [T,H,W]
  is_foreign = unexplained > jnp.maximum(DUST, FOREIGN_SINE * smooth)
  contrast = jnp.linalg.norm(state["color"] - state["background"][None], axis=-1)
  contrast = masked_mean(contrast, state["present"])
  return amount, is_foreign * jnp.minimum(unexplained / contrast, 1)


def observe_clip(video: Array, state: State, extent: float) -> dict[str, Array]:
  """`observe` for one clip, without its batch axis."""
  size = video.shape[1]
  # Samples may be NaN or outside [-1,1]; they then count as a deviation like any other.
  video = jnp.clip(jnp.nan_to_num(video), -1, 1)
  amount, foreign = _unmix(video, state, extent)
  mass = jnp.sum(amount, (1, 2))  # [T,M]
  centre = jnp.arange(size) + 0.5
  safe = jnp.maximum(mass, 1e-6)
  x = jnp.einsum("thwm,w->tm", amount, centre) / safe
  y = jnp.einsum("thwm,h->tm", amount, centre) / safe
  # Mass outside a larger disc about the measured centroid is debris.
  reach = HALO[0] * state["radius"] + HALO[1] * extent / size
  centroid = jnp.stack([x, y], -1)  # [T,M,2]
  inside = _disc_coverage(centroid * (extent / size), reach, size, extent)
  debris = jnp.sum(amount * (1 - inside), (1, 2, 3))  # [T]
  # The 8th power suppresses the mixed colours of the edge without a threshold.
  weight = amount**8
  color = jnp.einsum("thwm,thwc->tmc", weight, video)
  color /= jnp.maximum(jnp.sum(weight, (1, 2)), 1e-30)[..., None]
  gone = (mass < SEEN * full_mass(state, size, extent)[None])[..., None]  # [T,M,1]
  return {
    "mass": mass,
    "centroid": jnp.where(gone, jnp.nan, centroid),
    "color": jnp.where(gone, jnp.nan, color),
    "other_mass": debris + jnp.sum(foreign, (1, 2)),
  }


def observe(video: Video, state: State, *, extent: float) -> dict[str, Float[Array, "B T ..."]]:
  """The observed mass, centroid and colour of each disc in each frame, as used by `measure`.

  Args:
    video: in [-1,1].
    state: the simulator's state; its colours, radii, background and occluder are used.
    extent: side of the world, in world units.
  Returns: mass [B,T,M] in pixels; centroid [B,T,M,2] in pixels (the first pixel's centre is at .5)
    and color [B,T,M,3], both NaN where the disc has vanished; and other_mass [B,T] in pixels:
    foreign colour, and debris in a disc's colour far from that disc.
  """
  per_clip = lambda video, state: observe_clip(video, state, extent)
  with exact():
    return jax.vmap(per_clip)(jnp.asarray(video), checked_state(video, state))
