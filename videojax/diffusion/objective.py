"""The training loss: distribution of noise levels, prediction space of the error, and weighting.

All random numbers belong to a row of the batch: each clip has its own key, so that its noise, level
and loss do not depend on the batch, device or microbatch that contains it.

Shapes: B batch, T frames, H W height width, C channels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, UInt32

from videojax import settings
from videojax.diffusion import denoiser as dn
from videojax.diffusion.process import (
  Process,
  add_noise,
  levels,
  shift_times,
)
from videojax.errors import check_choice
from videojax.settings import Positive

TIMES = ("uniform", "logit_normal", "log_normal")
WEIGHTINGS = ("none", "min_snr")

Keys = Key[Array, " B"] | UInt32[Array, "B 2"]

_TIME, _NOISE, _NETWORK = 0, 1, 2  # folded into a row's key, for each use


def row_keys(
  key: Key[Array, ""] | UInt32[Array, "2"], step: ArrayLike, rows: Int[Array, " B"]
) -> Array:
  """One key per row of a step's batch: fold_in(fold_in(key, step), row).

  Args:
    key: of the run.
    step: of the run; may be traced.
    rows: positions in the global batch, [B].
  """
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), rows)


def row_noise(keys: Keys, like: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
  """Standard normal noise; row r depends on keys[r] alone."""
  draw = lambda key: jax.random.normal(key, like.shape[1:], jnp.float32)
  return jax.vmap(draw)(keys)


def check_levels(t: Array | np.ndarray, frames_per_level: int) -> None:
  """Raises ValueError if a concrete t [B, T] is not constant over each temporal patch.

  A traced t has no values to check and passes.
  """
  if isinstance(t, jax.core.Tracer) or t.shape[1] == 1:
    return
  if t.shape[1] % frames_per_level:
    raise ValueError(
      f"t {t.shape} is not a whole number of temporal patches of {frames_per_level} frames"
    )
  groups = np.asarray(t).reshape(t.shape[0], -1, frames_per_level)
  if (groups != groups[:, :, :1]).any():
    raise ValueError(
      f"t changes within a temporal patch of {frames_per_level} frames, which share their tokens: "
      "repeat one level per patch"
    )


def min_snr_weight(
  space: str,
  alpha: Float[Array, "*s"],
  sigma: Float[Array, "*s"],
  sigma_data: float,
  gamma: float,
) -> Float[Array, "*s"]:
  """Min-SNR-gamma weight of an error in any space: the same as min(SNR, gamma) for the x0 error.

  As published, it is min(SNR, gamma) for x0, min(1, gamma / SNR) for noise and
  min(SNR, gamma) / (SNR + 1) for v (variance preserving).

  Source: Hang et al. 2023, arXiv:2303.09556, section 3.4 (Min-SNR-gamma).
  """
  tiny = 1e-12  # keeps 0 / 0 at its limit; its square is still a nonzero float32
  alpha, sigma = jnp.maximum(alpha, tiny), jnp.maximum(sigma, tiny)
  scale = dn.error_scale(space, alpha, sigma, sigma_data)
  return jnp.minimum(alpha**2, gamma * sigma**2) / scale**2


@dataclasses.dataclass(frozen=True)
class Objective:
  """A distribution of noise levels and a weighting of errors.

  Args:
    times: distribution of noise levels before the shift. 'uniform' in t; 'logit_normal': logit(t) ~
      N(mean, std) (Esser et al. 2024, arXiv:2403.03206, Eq. 19); 'log_normal': ln(sigma / alpha) ~
      N(mean, std) (Karras et al. 2022, arXiv:2206.00364, Table 1: mean -1.2, std 1.2). Under
      rectified flow the last two are the same.
    mean, std: of the two normal distributions, dimensionless; a larger mean is noisier.
    shift: resolution shift a (`process.resolution_shift`): lowers every log-SNR by 2 ln a.
    space: prediction space of the error, one of `denoiser.PREDICTIONS`; 'edm' is EDM's weighting.
      In the denoiser's own space the error of its output is unweighted.
    weighting: 'none', or 'min_snr', which weighs the x0 error identically in every space (`space`
      then has no effect).
    gamma: of min_snr.
    min_sigma: if x0 is predicted and `space` is another one, the error is divided by
      max(sigma, min_sigma): under rectified flow 'velocity' weighs x0 by 1 / max(t, min_sigma)^2.
      Predicted noise has the mirrored singularity; its divisor is max(alpha, min_sigma).
    per_frame: one level per temporal patch instead of one per clip.
  Raises: ValueError for unknown names or invalid numbers.
  """

  times: str = "logit_normal"
  mean: float = 0.0
  std: Positive = 1.0
  shift: Positive = 1.0
  space: str = "velocity"
  weighting: str = "none"
  gamma: Positive = 5.0
  min_sigma: Positive = 0.1
  per_frame: bool = False

  def __post_init__(self) -> None:
    settings.check(self)
    check_choice("times", self.times, TIMES)
    check_choice("space", self.space, dn.PREDICTIONS)
    check_choice("weighting", self.weighting, WEIGHTINGS)

  def sample_times(
    self, process: Process, keys: Keys, frames: int, frames_per_level: int = 1
  ) -> Float[Array, "B L"]:
    """Draws noise levels; row r depends on keys[r] alone.

    Args:
      process: maps log-SNR to t.
      keys: one per row.
      frames: T of the clips.
      frames_per_level: temporal patch of the network, in frames; used if per_frame.
    Returns: t in [0, 1], [B, 1] or, per frame, [B, T].
    Raises: ValueError if per_frame and frames is not a multiple of frames_per_level.
    """
    if not self.per_frame:
      return self._draw(process, keys, 1)
    if frames % frames_per_level:
      raise ValueError(
        f"frames={frames} is not a multiple of frames_per_level={frames_per_level} (temporal patch)"
      )
    t = self._draw(process, keys, frames // frames_per_level)
    return jnp.repeat(t, frames_per_level, axis=1)  # [B, T]

  def _draw(self, process: Process, keys: Keys, count: int) -> Float[Array, "B L"]:
    if self.times == "uniform":
      u = jax.vmap(lambda key: jax.random.uniform(key, (count,), jnp.float32))(keys)
      # If the process ends before infinite noise: only times that the shift keeps within [0, 1].
      return shift_times(process, u * shift_times(process, 1.0, 1 / self.shift), self.shift)
    z = jax.vmap(lambda key: jax.random.normal(key, (count,), jnp.float32))(keys)
    z = self.mean + self.std * z
    if self.times == "logit_normal":
      return shift_times(process, jax.nn.sigmoid(z), self.shift)
    t = jnp.clip(process.t_from_log_snr(-2.0 * z), 0.0, 1.0)
    return shift_times(process, t, self.shift)

  def weight(
    self,
    prediction: str,
    alpha: Float[Array, "*s"],
    sigma: Float[Array, "*s"],
    sigma_data: float,
  ) -> Float[Array, "*s"]:
    """The weight of the output's squared error; 1 in the output's own space."""
    if self.weighting == "min_snr":
      return min_snr_weight(prediction, alpha, sigma, sigma_data, self.gamma)
    if self.space == prediction:
      return jnp.ones_like(alpha)
    own = dn.error_scale(prediction, alpha, sigma, sigma_data)
    if prediction in ("data", "noise"):  # only their scale can vanish
      own = jnp.maximum(own, self.min_sigma)
    return (dn.error_scale(self.space, alpha, sigma, sigma_data) / own) ** 2

  def loss(
    self,
    denoiser: dn.Denoiser,
    network: dn.Network,
    x0: Float[Array, "B T H W C"],
    keys: Keys,
    cond: Any,
    *,
    known: dn.Mask | None = None,
    frames_per_level: int = 1,
  ) -> tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]:
    """The loss at random levels and noise, drawn for each row.

    Args:
      denoiser: process, prediction and scaling.
      network: called as network(x, t, cond, key=keys'), keys' one per row.
      x0: clean clips or latents.
      keys: one per row, see `row_keys`; keys for level, noise and network are derived from it.
      cond: passed to the network.
      known: mask [B, T, 1|H, 1|W, 1], 1 where the content is given: no loss there.
      frames_per_level: temporal patch of the network, used if per_frame.
    Returns: see `loss_at`.
    """
    use = lambda purpose: jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
    t = self.sample_times(denoiser.noise, use(_TIME), x0.shape[1], frames_per_level)
    noise = row_noise(use(_NOISE), x0)
    return self.loss_at(denoiser, network, x0, noise, t, cond, known=known, key=use(_NETWORK))

  def loss_at(
    self,
    denoiser: dn.Denoiser,
    network: dn.Network,
    x0: Float[Array, "B T H W C"],
    noise: Float[Array, "B T H W C"],
    t: Float[Array, "B L"],
    cond: Any,
    *,
    known: dn.Mask | None = None,
    key: Array | None = None,
  ) -> tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]:
    """The weighted squared error at given levels and noise; only the network itself may be random.

    Returns: ([B], aux): for each clip the mean over its unknown positions and channels (0 if all
      are known). aux, per clip [B]: 't' (mean over frames), 'x0_mse' (unweighted, same positions).
    """
    x0 = x0.astype(jnp.float32)
    alpha, sigma = levels(denoiser.noise, t, x0)
    x_t = add_noise(denoiser.noise, x0, noise, t)
    denoised = denoiser(network, x_t, t, cond, key=key)
    error = denoised.output - denoiser.target(x0, noise, t)
    weight = self.weight(denoiser.prediction, alpha, sigma, denoiser.sigma_data)
    aux = {"t": t.mean(axis=1), "x0_mse": clip_mean((denoised.x0 - x0) ** 2, known)}
    return clip_mean(weight * error**2, known), aux


def clip_mean(
  values: Float[Array, "B T H W C"], known: dn.Mask | None = None
) -> Float[Array, " B"]:
  """Mean over each clip's unknown positions and all channels, [B]; 0 if all positions are known."""
  if known is None:
    return values.mean(axis=(1, 2, 3, 4))  # [B]
  unknown = jnp.broadcast_to(1.0 - known.astype(jnp.float32), (*values.shape[:4], 1))
  count = unknown.sum(axis=(1, 2, 3, 4)) * values.shape[4]  # [B]
  return (unknown * values).sum(axis=(1, 2, 3, 4)) / jnp.maximum(count, 1.0)  # [B]
