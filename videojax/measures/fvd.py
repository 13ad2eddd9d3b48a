"""Frechet video distance, with its protocol and its floor: a number is not given without either.

Shapes: N clips, T frames, H W height width; D features.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt8

from videojax.io.log import phase
from videojax.measures import i3d
from videojax.measures.frechet import KernelDistance, frechet_distance, kernel_distance

PIXELS = 224
NETWORK = "I3D logits"
# As PyTorch's interpolate with align_corners=False, which most published numbers used; the first
# implementation (TensorFlow 1) put pixel centres at their corners.
RESIZE = "bilinear, half-pixel centres, no antialiasing"
SEED = 20240229  # of which real clips are compared; a constant of the measure, not of a run


@dataclasses.dataclass(frozen=True)
class Protocol:
  """All that a distance between sets of clips depends on, besides the clips.

  Attributes:
    resolution: (H, W) of the clips before they are resized.
    frames, stride: of a clip; a frame of it is every stride-th of the video.
    split: of the data whose clips are called real.
    clips: of each set, N.
    ema: whether the generator's weights are averaged.
    network: whose output the features are.
    pixels: side of the images that the network sees.
    weights: fingerprint of the network's weights.
    bn_epsilon: of its batch norms, if it has any.
    resize: from resolution to pixels.
  """

  resolution: tuple[int, int]
  frames: int
  stride: int
  split: str
  clips: int
  ema: bool
  network: str
  pixels: int
  weights: str
  bn_epsilon: float | None = None
  resize: str = RESIZE

  @property
  def name(self) -> str:
    """FVD of the published I3D's logits at 224 pixels, and of nothing else."""
    if (self.network, self.pixels, self.weights) == (NETWORK, PIXELS, i3d.PUBLISHED):
      return "FVD"
    other = self.network == NETWORK and self.weights != i3d.PUBLISHED
    network = f"{self.network} of weights {self.weights}" if other else self.network
    return f"Frechet distance ({self.frames}-frame {self.pixels}-pixel {network})"

  def __str__(self) -> str:
    height, width = self.resolution
    return (
      f"N {self.clips} clips of {self.frames} frames, stride {self.stride}, {height}x{width}; "
      f"split {self.split}; {'EMA' if self.ema else 'raw'} weights; {self.network} at "
      f"{self.pixels} px ({self.resize}), weights {self.weights}, "
      f"batch-norm epsilon {self.bn_epsilon}"
    )


@dataclasses.dataclass(frozen=True)
class Result:
  """Generated against real clips, and beside it the floor: other real clips against the same."""

  protocol: Protocol
  distance: float
  floor: float
  kernel: KernelDistance
  kernel_floor: KernelDistance

  def __str__(self) -> str:
    name = self.protocol.name
    kernel = "KVD" if name == "FVD" else "polynomial MMD of the same features"
    pair = "{0.value:.4g} +- {0.stderr:.2g}".format
    return (
      f"{name} {self.distance:.4g} (real against real: {self.floor:.4g})\n"
      f"{kernel} {pair(self.kernel)} (real against real: {pair(self.kernel_floor)})\n"
      f"  {self.protocol}"
    )


def resized(clips: UInt8[Array, "N T H W 3"], pixels: int) -> Float[Array, "N T P P 3"]:
  """Clips in [-1,1] at pixels x pixels, whatever their aspect ratio."""
  shape = (*clips.shape[:2], pixels, pixels, 3)
  video = jax.image.resize(clips.astype(jnp.float32), shape, "bilinear", antialias=False)
  return video / 127.5 - 1


@jax.jit(static_argnums=2)
def _logits(weights: i3d.Weights, clips: Array, pixels: int) -> Array:
  return i3d.with_weights(weights)(resized(clips, pixels))


def features(
  weights: i3d.Weights, clips: UInt8[np.ndarray, "N T H W 3"], pixels: int = PIXELS, batch: int = 4
) -> Float[np.ndarray, "N 400"]:
  """I3D's logits of clips, a batch at a time; the last batch is filled up with its last clip.

  Raises:
    ValueError: if there are no clips, they are not uint8, or too short for the network.
  """
  if not len(clips) or clips.dtype != np.uint8:
    raise ValueError(f"features need uint8 clips, got {len(clips)} of {clips.dtype}")
  weights = jax.device_put(weights)

  def batches() -> Iterator[np.ndarray]:
    with phase("features of I3D, clips", len(clips)) as advance:
      for start in range(0, len(clips), batch):
        rows = np.minimum(np.arange(start, start + batch), len(clips) - 1)
        yield np.asarray(_logits(weights, jax.device_put(clips[rows]), pixels))
        advance(batch)

  return np.concatenate(list(batches()))[: len(clips)]


def compare(
  real: Shaped[np.ndarray, "N2 D"], generated: Shaped[np.ndarray, "N D"], protocol: Protocol
) -> Result:
  """Distances of N generated to N real clips, and of N other real clips to the same: the floor.

  Which real clips are which is drawn at random, always alike.

  Args:
    real: features of at least 2 N clips.
    generated: features of N clips.
  Raises:
    ValueError: if their numbers are others.
  """
  n = protocol.clips
  if len(generated) != n or len(real) < 2 * n:
    raise ValueError(
      f"{n} generated clips need as many real ones and as many again for the floor: "
      f"got {len(generated)} generated and {len(real)} real"
    )
  order = np.random.default_rng(SEED).permutation(len(real))
  reference, other = real[order[:n]], real[order[n : 2 * n]]
  return Result(
    protocol,
    frechet_distance(reference, generated),
    frechet_distance(reference, other),
    kernel_distance(reference, generated),
    kernel_distance(reference, other),
  )


def measure(
  weights: i3d.Weights,
  real: UInt8[np.ndarray, "N2 T H W 3"],
  generated: UInt8[np.ndarray, "N ..."],
  *,
  stride: int,
  split: str,
  ema: bool,
  pixels: int = PIXELS,
) -> Result:
  """FVD of generated clips and its floor; what the clips themselves say is not asked for.

  Args:
    weights: of I3D.
    real: at least 2 N clips.
    generated: N clips of the same frames and size.
    stride, split, ema, pixels: see `Protocol`; the number is FVD at 224 pixels alone.
  Raises:
    ValueError: if the clips do not compare.
  """
  if real.shape[1:] != generated.shape[1:]:
    raise ValueError(f"real clips are {real.shape[1:]}, generated ones {generated.shape[1:]}")
  _, frames, height, width, _ = generated.shape
  protocol = Protocol(
    resolution=(height, width),
    frames=frames,
    stride=stride,
    split=split,
    clips=len(generated),
    ema=ema,
    network=NETWORK,
    pixels=pixels,
    weights=i3d.fingerprint(weights),
    bn_epsilon=i3d.BN_EPSILON,
  )
  return compare(features(weights, real, pixels), features(weights, generated, pixels), protocol)
