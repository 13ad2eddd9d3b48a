"""Noise processes: x_t = alpha(t) x + sigma(t) n with t in [0, 1], t=0 data, t=1 noise.

A process defines only alpha and sigma: the objective draws training times, the sampler chooses
sampling times, and the denoiser converts times to the network's unit.

Shapes: B batch, T frames, H W height width, C channels.
"""

import abc
import dataclasses
import functools
import math
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from videojax import settings
from videojax.errors import check_choice
from videojax.settings import Positive, Range

# Number of steps of the published discrete schedules, k = 0 .. 999. Step k is t = k / 1000, so that
# a network whose noise-level input is 1000 t (`Denoiser.time_unit`) sees k.
TRAINED_STEPS = 1000


class Process(abc.ABC):
  """A path from data to noise. Every method is elementwise, in float32."""

  @abc.abstractmethod
  def alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """Scale of the data at time t."""

  @abc.abstractmethod
  def sigma(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """Standard deviation of the noise at time t."""

  def unscaled_alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """The alpha that ancestral steps use; differs from alpha if the data is also scaled down."""
    return self.alpha(t)

  @abc.abstractmethod
  def log_snr(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """2 ln(alpha / sigma), strictly decreasing in t; infinite where alpha or sigma is zero."""

  @abc.abstractmethod
  def t_from_log_snr(self, log_snr: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    """The inverse of `log_snr`; outside [0, 1] if the process never reaches this log-SNR."""


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Process):
  """Straight lines: alpha = 1 - t, sigma = t.

  Source: Liu et al. 2023, arXiv:2209.03003; direction of time as in Esser et al. 2024,
  arXiv:2403.03206.
  """

  def alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return 1.0 - _f32(t)

  def sigma(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return _f32(t)

  def log_snr(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    t = _f32(t)
    return 2.0 * (jnp.log1p(-t) - jnp.log(t))

  def t_from_log_snr(self, log_snr: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jax.nn.sigmoid(-0.5 * _f32(log_snr))


@dataclasses.dataclass(frozen=True)
class Cosine(Process):
  """Variance preserving: alpha = cos(pi t / 2), sigma = sin(pi t / 2).

  Source: Nichol & Dhariwal 2021, arXiv:2102.09672, in the continuous form of Salimans & Ho 2022,
  arXiv:2202.00512; without the former's offset s = .008 and without a bound on the log-SNR: at t=1
  no data is left.
  """

  def alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.sin(0.5 * math.pi * (1.0 - _f32(t)))  # exactly 0 at t=1; cos(pi/2) is -4e-8

  def sigma(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.sin(0.5 * math.pi * _f32(t))

  def log_snr(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return 2.0 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

  def t_from_log_snr(self, log_snr: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return (2.0 / math.pi) * jnp.arctan(jnp.exp(-0.5 * _f32(log_snr)))


@dataclasses.dataclass(frozen=True)
class Linear(Process):
  """Variance preserving, noise rate linear in t: DDPM's schedule in continuous time.

  alpha = exp(-q / 2), sigma^2 = 1 - alpha^2, q(t) = beta_min t + (beta_max - beta_min) t^2 / 2.
  At t=1 alpha is still .0066 (log-SNR -10.05) with the published rates.

  Args:
    beta_min: rate at t=0, per unit of t.
    beta_max: rate at t=1.
  Raises: ValueError unless 0 < beta_min < beta_max.
  Source: Song et al. 2021, arXiv:2011.13456, Eq. 33 (VP SDE).
  """

  beta_min: Positive = 0.1
  beta_max: Positive = 20.0

  def __post_init__(self) -> None:
    settings.check(self)
    if not self.beta_min < self.beta_max:
      raise ValueError(f"beta_min={self.beta_min} must be < beta_max={self.beta_max}")

  def alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.exp(-0.5 * self._q(t))

  def sigma(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.sqrt(-jnp.expm1(-self._q(t)))

  def log_snr(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return -jnp.log(jnp.expm1(self._q(t)))

  def t_from_log_snr(self, log_snr: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    q = jax.nn.softplus(-_f32(log_snr))  # -ln alpha^2
    # The positive root of the quadratic, in the form without cancellation as q -> 0.
    root = jnp.sqrt(self.beta_min**2 + 2.0 * (self.beta_max - self.beta_min) * q)
    return 2.0 * q / (self.beta_min + root)

  def _q(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    t = _f32(t)
    return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)


@dataclasses.dataclass(frozen=True)
class ScaledLinear(Process):
  """Variance preserving, 1000 steps with sqrt(beta) linear in k: latent diffusion's schedule.

  alpha_k^2 = prod_{j <= k} (1 - beta_j) at t = k / 1000; the log-SNR is interpolated linearly in
  between and extrapolated linearly beyond the first and the last step. So t=0 is step 0, which has
  noise (log-SNR 7.07 with the published betas), and the last trained step, t = .999, still has data
  (-5.36): the noisiest level of the frozen loss (-6.87) is beyond it.

  With data_scale < 1 the data is also scaled down: alpha_k has a factor that falls linearly from 1
  at step 0 to data_scale at step 399 and then stays constant; sigma is unchanged, so variance is
  not preserved. Samplers compute the noise that they draw from the alpha without that factor, as
  published. (The reference's two versions, with and without fix_scale_bug, agree at all 1000
  steps.)

  Args:
    beta_min: of step 0.
    beta_max: of step 999.
    data_scale: VideoCrafter's scale_b.
  Raises: ValueError unless 0 < beta_min < beta_max < 1 and 0 < data_scale <= 1.
  Source: Ho et al. 2020, arXiv:2006.11239, Eq. 4, with the betas of Rombach et al. 2022,
    arXiv:2112.10752, as ModelScope and VideoCrafter use them. data_scale: q_sample in
    lvdm/models/ddpm3d.py of github.com/AILab-CVC/VideoCrafter.
  """

  beta_min: Positive = 0.00085
  beta_max: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.012
  data_scale: Annotated[float, Range(0, 1, open_low=True)] = 1.0

  def __post_init__(self) -> None:
    settings.check(self)
    if not self.beta_min < self.beta_max:
      raise ValueError(f"beta_min={self.beta_min} must be < beta_max={self.beta_max}")

  def alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    unscaled = self.unscaled_alpha(t)
    return unscaled if self.data_scale == 1 else unscaled * jnp.exp(_at(self._log_scale, t))

  def unscaled_alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.sqrt(jax.nn.sigmoid(_at(_scaled_linear(self.beta_min, self.beta_max), t)))

  def sigma(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.sqrt(jax.nn.sigmoid(-_at(_scaled_linear(self.beta_min, self.beta_max), t)))

  def log_snr(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return _at(self._log_snr, t)

  def t_from_log_snr(self, log_snr: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    k, table = jnp.arange(TRAINED_STEPS), self._log_snr
    return jnp.interp(-_f32(log_snr), -table, k, "extrapolate", "extrapolate") / TRAINED_STEPS

  @property
  def _log_snr(self) -> Float[np.ndarray, " K"]:
    return _scaled_linear(self.beta_min, self.beta_max) + 2 * self._log_scale

  @property
  def _log_scale(self) -> Float[np.ndarray, " K"]:
    ramp = np.interp(np.arange(TRAINED_STEPS), (0, 399), (1.0, self.data_scale))
    return np.log(ramp).astype(np.float32)


def _at(table: Float[np.ndarray, " K"], t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
  """A table over the trained steps, interpolated at time t and extrapolated beyond the ends."""
  k = TRAINED_STEPS * _f32(t)
  below = jnp.clip(jnp.floor(k), 0, TRAINED_STEPS - 2)
  at, slope = (jnp.asarray(v)[below.astype(int)] for v in (table[:-1], np.diff(table)))
  return at + (k - below) * slope


@functools.cache
def _scaled_linear(beta_min: float, beta_max: float) -> Float[np.ndarray, " K"]:
  """The log-SNR of each trained step, decreasing, without data scaling."""
  betas = np.linspace(beta_min**0.5, beta_max**0.5, TRAINED_STEPS) ** 2
  log_kept = np.cumsum(np.log1p(-betas))  # ln alpha_k^2
  return (log_kept - np.log(-np.expm1(log_kept))).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Edm(Process):
  """Variance exploding, data unscaled: t is the position on EDM's grid of noise levels.

  sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho, alpha = 1. At t=0
  sigma is sigma_min, not zero: samplers take a last step from there to the data.

  Args:
    sigma_min, sigma_max: minimum and maximum noise, in units of the data.
    rho: values > 1 spend more of t on low noise.
  Raises: ValueError unless 0 < sigma_min < sigma_max and rho > 0.
  Source: Karras et al. 2022, arXiv:2206.00364, Eq. 5 with i/(N-1) = 1 - t.
  """

  sigma_min: Positive = 0.002
  sigma_max: Positive = 80.0
  rho: Positive = 7.0

  def __post_init__(self) -> None:
    settings.check(self)
    if not self.sigma_min < self.sigma_max:
      raise ValueError(f"sigma_min={self.sigma_min} must be < sigma_max={self.sigma_max}")

  def alpha(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.ones_like(_f32(t))

  def sigma(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    return jnp.exp(-0.5 * self.log_snr(t))

  def log_snr(self, t: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    low, high = self._ends()
    return -2.0 * self.rho * jnp.log(low + _f32(t) * (high - low))

  def t_from_log_snr(self, log_snr: Float[ArrayLike, "*s"]) -> Float[Array, "*s"]:
    low, high = self._ends()
    return (jnp.exp(-0.5 / self.rho * _f32(log_snr)) - low) / (high - low)

  def _ends(self) -> tuple[float, float]:
    return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)


PROCESSES: dict[str, type[Process]] = {
  "rectified_flow": RectifiedFlow,
  "cosine": Cosine,
  "linear": Linear,
  "scaled_linear": ScaledLinear,
  "edm": Edm,
}


def make_process(name: str, **kwargs: float) -> Process:
  """The process of that name.

  Raises: ValueError for an unknown name or field; the message lists the valid ones.
  """
  check_choice("process", name, PROCESSES)
  fields = [f.name for f in dataclasses.fields(PROCESSES[name])]  # type: ignore[arg-type]
  for key in kwargs:
    check_choice(f"field of process '{name}'", key, fields)
  return PROCESSES[name](**kwargs)


def per_frame(t: Float[Array, "B L"], x: Float[Array, "B T H W C"]) -> Float[Array, "B L 1 1 1"]:
  """Times in a shape that broadcasts against clips.

  Raises: ValueError unless t is [B, 1] (one level per clip) or [B, T] (one per frame).
  """
  if t.ndim != 2 or t.shape[0] != x.shape[0] or t.shape[1] not in (1, x.shape[1]):
    raise ValueError(f"t {t.shape} must be [B, 1] or [B, T] for clips [B, T, H, W, C] = {x.shape}")
  return t[:, :, None, None, None]  # [B, 1|T, 1, 1, 1]


def levels(
  process: Process, t: Float[Array, "B L"], x: Float[Array, "B T H W C"]
) -> tuple[Float[Array, "B L 1 1 1"], Float[Array, "B L 1 1 1"]]:
  """(alpha, sigma) at t, in a shape that broadcasts against clips x."""
  t = per_frame(t, x)  # [B, 1|T, 1, 1, 1]
  return process.alpha(t), process.sigma(t)


def add_noise(
  process: Process,
  x: Float[Array, "B T H W C"],
  noise: Float[Array, "B T H W C"],
  t: Float[Array, "B L"],
) -> Float[Array, "B T H W C"]:
  """x_t = alpha(t) x + sigma(t) noise, in float32."""
  alpha, sigma = levels(process, t, x)
  return alpha * _f32(x) + sigma * _f32(noise)


def resolution_shift(n: int, n0: int) -> float:
  """The shift a = sqrt(n / n0) that preserves the visible noise when a clip has more positions.

  Args:
    n: number of latent positions of the noisy frames (T H W of the latent; not tokens: the patch
      size must not change the noise).
    n0: the number of positions for which a = 1.
  Raises: ValueError unless both are positive.
  Source: Esser et al. 2024, arXiv:2403.03206, Eq. 23.
  """
  if n <= 0 or n0 <= 0:
    raise ValueError(f"n={n} and n0={n0} must be positive counts of latent positions")
  return math.sqrt(n / n0)


def shift_times(process: Process, t: Float[ArrayLike, "*s"], shift: float) -> Float[Array, "*s"]:
  """Moves times towards noise so that the log-SNR falls by 2 ln(shift), clipped to [0, 1].

  Under rectified flow this is the published t -> a t / (1 + (a - 1) t), a = shift. The log-SNR of
  other processes changes by the same amount, so that a shift has the same meaning for all; if a
  process ends earlier (Linear, Edm), times are clipped to its noisiest level.

  Source: Esser et al. 2024, arXiv:2403.03206, Eq. 23; as an offset of the log-SNR: Hoogeboom et al.
  2023, arXiv:2301.11093, section 3.1.
  """
  if shift == 1:
    return _f32(t)
  shifted = process.t_from_log_snr(process.log_snr(t) - 2.0 * math.log(shift))
  return jnp.clip(shifted, 0.0, 1.0)


def _f32(x: ArrayLike) -> Array:
  return jnp.asarray(x, jnp.float32)
