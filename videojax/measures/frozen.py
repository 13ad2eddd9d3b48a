"""The frozen loss: one number that is comparable between all models, however they were trained.

It uses a fixed set of clips, 16 fixed noise levels, and noise keyed by (example id, level). Level i
has t_i = (i + .5) / 16 and log-SNR_i = 2 ln((1 - t_i) / t_i); every process is evaluated where it
has this log-SNR. The loss is the squared error of x0 over unknown positions, in units of the data's
variance, averaged over levels without weights. See docs/measures.md.

Shapes: B batch, T H W C of a latent, I = 16 levels.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

LEVELS = 16
T_LEVELS = (np.arange(LEVELS) + 0.5) / LEVELS
LOG_SNR = 2 * np.log((1 - T_LEVELS) / T_LEVELS)
# The velocity error is the x0 error / max(t, .1)^2.
VELOCITY_FLOOR = 0.1
SEED = 20240229  # of the frozen noise; a constant of the measure, not a setting of the run


class Reference(NamedTuple):
  """Per-pixel statistics of training clips, for the data's variance and the Wiener baseline.

  Attributes:
    mean, variance: [T,H,W,C], over clips.
    total: variance of all unknown values about the mean of each channel.
    clips: number of clips that the statistics were computed from.
  """

  mean: Float[np.ndarray, "T H W C"]
  variance: Float[np.ndarray, "T H W C"]
  total: float
  clips: int


def fit_reference(
  batches: Iterable[Float[np.ndarray, "_ T H W C"]], unknown: Float[np.ndarray, " T #H #W 1"]
) -> Reference:
  """Statistics of training clips, in one pass, with sums in float64.

  Args:
    batches: latents of training clips.
    unknown: 1 at positions that count for `total`.
  Raises:
    ValueError: the clips have no variance.
  """
  count, first, second = 0, np.zeros(()), np.zeros(())
  for batch in batches:
    clips = np.asarray(batch, np.float64)
    count += len(clips)
    first = first + clips.sum(0)
    second = second + np.square(clips).sum(0)
  mean = first / count
  variance = np.maximum(second / count - mean**2, 0)
  weight = np.broadcast_to(unknown, mean.shape)
  channel_mean = (mean * weight).sum((0, 1, 2)) / weight.sum((0, 1, 2))
  spread = second / count - 2 * mean * channel_mean + channel_mean**2
  total = float((spread * weight).sum() / weight.sum())
  if not total > 1e-12:
    raise ValueError("the training clips have no variance: all pixels of all clips are equal")
  return Reference(mean, variance, total, count)


def frozen_noise(ids: UInt32[Array, " B"], shape: tuple[int, ...], level: Array) -> Array:
  """Standard normal noise [B,*shape], keyed by (example id, level) alone."""

  def one(i):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), i), level)
    return jax.random.normal(key, shape, jnp.float32)

  return jax.vmap(one)(ids)


def level_errors(
  denoise: Callable[[Array, Array], Array],
  process: Any,
  x0: Float[Array, "B T H W C"],
  ids: UInt32[Array, " B"],
  unknown: Float[Array, "#B #T #H #W 1"],
) -> Float[Array, "B I"]:
  """Squared x0 error of every clip at every level, averaged over unknown positions; unnormalized.

  Args:
    denoise: (x_t, t [B,1]) -> x0.
    process: has alpha, sigma and t_from_log_snr.
    x0: clean latents.
    ids: of the examples.
    unknown: 1 where the error counts.
  """
  weight = jnp.broadcast_to(unknown, (*x0.shape[:-1], 1)).astype(jnp.float32)
  count = weight.sum((1, 2, 3, 4)) * x0.shape[-1]

  def at(_, level):
    t = process.t_from_log_snr(jnp.asarray(LOG_SNR, jnp.float32)[level])
    noise = frozen_noise(ids, x0.shape[1:], level)
    x_t = process.alpha(t) * x0 + process.sigma(t) * noise
    error = jnp.square(denoise(x_t, jnp.full((x0.shape[0], 1), t, jnp.float32)) - x0)
    return None, (weight * error).sum((1, 2, 3, 4)) / count

  return jax.lax.scan(at, None, jnp.arange(LEVELS))[1].T  # [B,I]


def wiener_errors(
  x0: Float[np.ndarray, "N T H W C"], reference: Reference, unknown: Float[np.ndarray, " T #H #W 1"]
) -> Float[np.ndarray, "N I"]:
  """The errors of the best per-pixel affine denoiser, in expectation over the noise.

  With pixel mean m and variance s^2, x0' = m + k (x_t - alpha m), k = alpha s^2 / (alpha^2 s^2 +
  sigma^2); its error is (1 - k alpha)^2 (x0 - m)^2 + k^2 sigma^2.
  """
  square = (x0.astype(np.float64) - reference.mean) ** 2
  weight = np.broadcast_to(unknown, x0.shape[1:])
  rows = []
  for log_snr in LOG_SNR:
    ratio = np.exp(-log_snr)  # (sigma / alpha)^2
    gain = reference.variance / (reference.variance + ratio)  # k alpha
    error = (1 - gain) ** 2 * square + gain**2 * ratio
    rows.append((error * weight).sum((1, 2, 3, 4)) / weight.sum())
  return np.stack(rows, 1)


def zero_errors(
  x0: Float[np.ndarray, "N T H W C"], unknown: Float[np.ndarray, " T #H #W 1"]
) -> Float[np.ndarray, "N I"]:
  """The errors of the model that always predicts 0."""
  weight = np.broadcast_to(unknown, x0.shape[1:])
  error = (x0.astype(np.float64) ** 2 * weight).sum((1, 2, 3, 4)) / weight.sum()
  return np.repeat(error[:, None], LEVELS, 1)


class FrozenLoss(NamedTuple):
  """The frozen loss of one set of weights, in units of the data's variance."""

  mean: float
  stderr: float
  by_level: list[float]
  velocity: float
  dynamics: float
  per_example: list[float]


def summarize(errors: Float[np.ndarray, "N I"], total_variance: float) -> FrozenLoss:
  """[N,I] errors -> the frozen loss, its standard error over clips, and its parts.

  velocity: mean of error / max(t, .1)^2, not divided by the variance (the velocity MSE of rectified
  flow). dynamics: loss at the noisiest level minus loss at the cleanest, the part that needs
  knowledge of motion.
  """
  errors = np.asarray(errors, np.float64)
  relative = errors / total_variance
  per_example = relative.mean(1)
  velocity = errors / np.maximum(T_LEVELS, VELOCITY_FLOOR) ** 2
  n = len(per_example)
  return FrozenLoss(
    mean=float(per_example.mean()),
    stderr=float(per_example.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
    by_level=[float(v) for v in relative.mean(0)],
    velocity=float(velocity.mean()),
    dynamics=float(relative[:, -1].mean() - relative[:, 0].mean()),
    per_example=[float(v) for v in per_example],
  )
