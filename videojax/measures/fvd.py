"""Frechet video distance, always reported with its protocol and its floor.

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
# As PyTorch's interpolate with align_corners=False, which most published numbers use; the original
# implementation (TensorFlow 1) aligned pixel corners.
RESIZE = "bilinear, half-pixel centres, no antialiasing"
SEED = 20240229  # selects the real clips; a constant of the measure, not a setting of the run


@dataclasses.dataclass(frozen=True)
class Protocol:
  """Everything that a distance between sets of clips depends on, except the clips.

  Attributes:
    resolution: (H, W) of the clips before they are resized.
    frames, stride: of a clip, which takes every stride-th frame of the video.
    split: data split of the real clips.
    clips: N, size of each set.
    ema: whether the generator's weights are averaged.
    network: the network whose outputs are the features.
    pixels: side of the images that the network sees.
    weights: fingerprint of the network's weights.
    bn_epsilon: of its batch norms, if it has any.
    resize: how clips are resized to `pixels`.
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
    """'FVD' only for logits of the published I3D at 224 pixels; else a more explicit name."""
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
  """Generated against real clips, and the floor: other real clips against the same real clips."""

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
  """Clips in [-1,1], resized to pixels x pixels regardless of their aspect ratio."""
  shape = (*clips.shape[:2], pixels, pixels, 3)
  video = jax.image.resize(clips.astype(jnp.float32), shape, "bilinear", antialias=False)
  return video / 127.5 - 1


@jax.jit(static_argnums=2)
def _logits(weights: i3d.Weights, clips: Array, pixels: int) -> Array:
  return i3d.with_weights(weights)(resized(clips, pixels))


def features(
  weights: i3d.Weights, clips: UInt8[np.ndarray, "N T H W 3"], pixels: int = PIXELS, batch: int = 4
) -> Float[np.ndarray, "N 400"]:
  """I3D's logits of clips, in batches; the last batch is padded with its last clip.

  Raises:
    ValueError: there are no clips, or they are not uint8 or too short for the network.
  """
  if not len(clips) or clips.dtype != np.uint8:
    raise ValueError(f"features need uint8 clips, got {len(clips)} clips of {clips.dtype}")
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
  """Distances of N generated clips to N real ones, and of N other real ones to the same (floor).

  The real clips are divided at random, with a fixed seed.

  Args:
    real: features of at least 2 N clips.
    generated: features of N clips.
  Raises:
    ValueError: the numbers of clips are wrong.
  """
  n = protocol.clips
  if len(generated) != n or len(real) < 2 * n:
    raise ValueError(
      f"{n} generated clips need as many real ones, and as many again for the floor: "
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
  """FVD of generated clips and its floor; the rest of the protocol is read off the clips.

  Args:
    weights: of I3D.
    real: at least 2 N clips.
    generated: N clips with the same number of frames and the same size.
    stride, split, ema, pixels: see `Protocol`; the result is called FVD only at 224 pixels.
  Raises:
    ValueError: the clips cannot be compared.
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
