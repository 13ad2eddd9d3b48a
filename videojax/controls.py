"""Controls that steer a clip without words: given parts of it, and volumes computed from it.

If an example contains a control under its name (a motion stroke, another model's low-resolution
clip), that one is used; else it is computed from the clip, as in training. Controls that only a
simulator knows (motion, frame rate, camera, strokes) come from the data source, under the same
names.

Shapes: B batch, T frames, H W height width, C channels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from videojax import settings
from videojax.errors import check_choice
from videojax.settings import MOST, NonNegative, Range, Width

WHOLE = ("start", "one", "none", "ends", "sparse")  # masks of whole frames
MASKS = (*WHOLE, "repaint", "canvas")
MADE = {"first": "augmentation", "low": "low_noise", "edges": "blur"}  # volume -> its scalar
Noise = Callable[[tuple[int, ...]], Array]  # shape [B,...] -> standard normal numbers


@dataclasses.dataclass(frozen=True)
class ControlsConfig:
  """How controls are computed from clips.

  Attributes:
    every: for the mask 'sparse': frames 0, every, 2 every, ... are given (temporal interpolation).
    low: (t, h, w) strides, in frames and pixels, of the volume 'low', the clip at a lower
      resolution.
    low_noise: maximum std of the noise added to 'low' in training; the scalar 'low_noise' is the
      actual std (noise augmentation, Ho et al. 2021, arXiv:2106.15282). No noise in evaluation.
    first_noise: (mean, std) of ln(std of the noise added to the volume 'first') in training; the
      scalar 'augmentation' is the actual std. In evaluation it is .02 (Stable Video Diffusion).
    blurs: number of blur levels of the volume 'edges'; the scalar 'blur' is the actual level, which
      controls how closely the structure is followed (Esser et al. 2023, arXiv:2302.03011, section
      3.3). No blur in evaluation.
  """

  every: Annotated[int, Range(2, MOST)] = 4
  low: tuple[Width, Width, Width] = (1, 4, 4)
  low_noise: NonNegative = 0.5
  first_noise: tuple[float, NonNegative] = (-3.0, 0.5)
  blurs: Annotated[int, Range(1, 256)] = 8

  def __post_init__(self):
    settings.check(self)


# --- given parts ------------------------------------------------------------------------------


def given_frames(mask: str, frames: int, known: int, every: int) -> list[bool]:
  """Which of the T frames are given, for the masks of whole frames.

  Args:
    mask: 'start': the first `known`; 'one': the first; 'none': none; 'ends': the first `known` and
      the last; 'sparse': every `every`-th.
    frames: T.
  """
  check_choice("mask of whole frames", mask, WHOLE)
  known = {"one": 1, "none": 0}.get(mask, known)
  if mask == "sparse":
    return [t % every == 0 for t in range(frames)]
  return [t < known or (mask == "ends" and t == frames - 1) for t in range(frames)]


def region(mask: str, size: tuple[int, int], key: Key[Array, ""]) -> Float[Array, "H W"]:
  """1 where all frames are given: for 'repaint' outside a random box, for 'canvas' inside it."""
  sides = jax.random.uniform(jax.random.fold_in(key, 0), (2,), minval=0.375, maxval=0.625)
  corner = jax.random.uniform(jax.random.fold_in(key, 1), (2,)) * (1 - sides)
  centre = lambda n: (jnp.arange(n) + 0.5) / n
  inside = lambda i: (centre(size[i]) >= corner[i]) & (centre(size[i]) < corner[i] + sides[i])
  box = (inside(0)[:, None] & inside(1)[None, :]).astype(jnp.float32)
  return box if mask == "canvas" else 1 - box


# --- volumes ----------------------------------------------------------------------------------


def first(x: Float[Array, "B T H W C"], std: Float[Array, " B"], noise: Noise) -> Array:
  """The first frame plus noise, on all frames: Stable Video Diffusion's image-to-video."""
  start = x[:, :1]
  return jnp.broadcast_to(start + _column(std) * noise(start.shape), x.shape)


def low(
  x: Float[Array, "B T H W C"], strides: tuple[int, int, int], std: Float[Array, " B"], noise: Noise
) -> Array:
  """The downsampled clip plus noise, each value repeated over its block."""
  coarse = shrink(x, strides)
  return enlarge(coarse + _column(std) * noise(coarse.shape), x.shape)


def shrink(x: Float[Array, "B T H W C"], strides: tuple[int, int, int]) -> Array:
  """Every t-th frame, averaged over blocks of h x w, for strides (t, h, w)."""
  b, t, h, w, c = x.shape
  st, sh, sw = strides
  if h % sh or w % sw:
    raise ValueError(f"strides {strides} do not divide frames of {h}x{w}")
  x = x[:, ::st]
  return x.reshape(b, -1, h // sh, sh, w // sw, sw, c).mean((3, 5))


def enlarge(x: Float[Array, "B t h w C"], shape: tuple[int, ...]) -> Float[Array, "B T H W C"]:
  """Nearest-neighbour upsampling to the T, H, W of `shape`."""
  index = lambda n, to: jnp.arange(to) * n // to
  for axis in (1, 2, 3):
    if x.shape[axis] != shape[axis]:
      x = jnp.take(x, index(x.shape[axis], shape[axis]), axis)
  return x


def edges(
  video: Float[Array, "B T H W C"], blur: Float[Array, " B"], levels: int
) -> Float[Array, "B T H W 1"]:
  """Gradient magnitude of the brightness after `blur` (0, 1, ..., levels - 1) 3x3 box filters."""
  x = video.mean(-1)  # [B,T,H,W]
  pad = lambda v: jnp.pad(v, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")

  def mean(v: Array) -> Array:
    v = pad(v)
    v = (v[:, :, :-2] + v[:, :, 1:-1] + v[:, :, 2:]) / 3
    return (v[..., :-2] + v[..., 1:-1] + v[..., 2:]) / 3

  for level in range(1, levels):
    x = jnp.where((blur >= level).reshape(-1, 1, 1, 1), mean(x), x)
  v = pad(x)
  dy, dx = v[:, :, 2:, 1:-1] - v[:, :, :-2, 1:-1], v[:, :, 1:-1, 2:] - v[:, :, 1:-1, :-2]
  return jnp.sqrt(dx**2 + dy**2 + 1e-12)[..., None] / 2


def _column(x: Float[Array, " B"]) -> Float[Array, "B 1 1 1 1"]:
  return x.reshape(-1, 1, 1, 1, 1)


def make(
  name: str,
  x: Float[Array, "B T H W C"],
  example: Mapping[str, Any],
  config: ControlsConfig,
  keys: Key[Array, " B"] | None,
) -> tuple[Array, Float[Array, " B"]]:
  """A volume in MADE and the value of its scalar.

  Args:
    x: latents; all volumes but 'first' are computed from the clip itself.
    example: decoded; if it contains the volume's scalar, that is the strength.
    keys: of the rows, for the noise and its strength; None: the fixed strength of evaluation.
  """
  training = keys is not None
  if keys is None:
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(example["id"])
  of_strength, of_noise = fold(keys, 0), fold(keys, 1)

  def strength(drawn: Array, measured: float) -> Array:
    return example.get(MADE[name], drawn if training else jnp.full(x.shape[0], measured))

  def noise(shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(of_noise)

  if name == "first":
    mean, std = config.first_noise
    sigma = strength(jnp.exp(mean + std * jax.vmap(jax.random.normal)(of_strength)), 0.02)
    return first(x, sigma, noise), sigma
  uniform = jax.vmap(jax.random.uniform)(of_strength)
  if name == "low":
    sigma = strength(config.low_noise * uniform, 0.0)
    return low(example["video"], config.low, sigma, noise), sigma
  blur = strength(jnp.floor(config.blurs * uniform), 0.0)
  return edges(example["video"], blur, config.blurs), blur


def fold(keys: Key[Array, " B"], use: int) -> Key[Array, " B"]:
  """The keys of rows, folded for one use."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, use)
