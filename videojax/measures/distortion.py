"""Distortion of decoded clips: squared error, PSNR, SSIM, and errors of motion in worlds.

Shapes: N clips, T frames, H W height width.
"""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter1d

from videojax.measures import physics
from videojax.measures.disc_masses import State, Video

Clips = UInt8[np.ndarray, "N T H W 3"]
PEAK = 255.0
SIGMA, RADIUS = 1.5, 5  # of SSIM's Gaussian window, in pixels: 11 x 11
STABLE = ((0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2)  # SSIM's C1 and C2

# An error of motion: (clips in [-1,1], the simulator's state of the true ones) -> one per clip
# [N], NaN where it is undefined.
MotionError = Callable[[Video, State], Float[np.ndarray, " N"]]


def squared_error(truth: Clips, decoded: Clips) -> Float[np.ndarray, " N"]:
  """Mean squared error of each clip over its frames, pixels and colours, in squared grey levels."""
  error = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(truth, decoded)]
  return np.array(error)


def psnr(truth: Clips, decoded: Clips) -> float:
  """PSNR in dB of the squared error averaged over all clips; infinite if all are exact.

  The mean of the clips' own PSNRs would be infinite as soon as a single clip is exact.
  """
  error = squared_error(truth, decoded).mean()
  return float(10 * np.log10(PEAK**2 / error)) if error else float("inf")


def ssim(truth: Clips, decoded: Clips) -> Float[np.ndarray, " N"]:
  """Structural similarity of each clip: the mean over its frames and over R, G and B.

  Wang et al. 2004, 'Image quality assessment', section III.B: a Gaussian window of 11 x 11 pixels
  with sigma 1.5, K1 = 0.01, K2 = 0.03, wherever the window is inside the frame.

  Raises:
    ValueError: the frames are smaller than the window.
  """
  side = 2 * RADIUS + 1
  if min(truth.shape[2:4]) < side:
    height, width = truth.shape[2:4]
    raise ValueError(f"SSIM needs frames of at least {side}x{side} pixels, not {height}x{width}")
  return np.array(
    [_ssim(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(truth, decoded)]
  )


def _window_mean(x: np.ndarray) -> np.ndarray:
  """The window's mean [T,H-10,W-10,3] of [T,H,W,3]."""
  for axis in (1, 2):
    x = gaussian_filter1d(x, SIGMA, axis=axis, radius=RADIUS)
  return x[:, RADIUS:-RADIUS, RADIUS:-RADIUS]


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
  a, b = a.astype(np.float64), b.astype(np.float64)
  mean_a, mean_b = _window_mean(a), _window_mean(b)
  var_a, var_b = _window_mean(a * a) - mean_a**2, _window_mean(b * b) - mean_b**2
  covariance = _window_mean(a * b) - mean_a * mean_b
  c1, c2 = STABLE
  light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
  return float(np.mean(light * (2 * covariance + c2) / (var_a + var_b + c2)))


def position_error(extent: float, fps: float) -> MotionError:
  """`physics`'s position error in pixels, over all frames but the first, as an error of motion.

  Args:
    extent: side of the world, in world units.
    fps: frames per second.
  """

  @jax.jit
  def error(video, state):
    return physics.measure(video, state, extent=extent, fps=fps, known=1)["position_error_px"]

  return lambda video, state: np.asarray(error(video, state))
