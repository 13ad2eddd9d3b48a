"""Samplers, from noise to a clip: a grid of times and a stepper, in one `lax.scan`.

The probability-flow ODE of any process is dx = x0 d(alpha) + noise d(sigma), where x0 and noise are
the denoiser's estimates at (x, t). In this form nothing is singular where alpha or sigma vanishes,
an Euler step is x_next = alpha_next x0 + sigma_next noise, and the published solvers are special
cases: rectified flow's Euler and Heun in t, EDM's in sigma, DDIM. The multistep solvers integrate
the same equation in the log-SNR, with x0 as a polynomial through earlier estimates.

Shapes: B batch, T frames, H W height width, C channels; N steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from videojax import settings
from videojax.diffusion import multidiffusion
from videojax.diffusion.objective import Keys, row_noise
from videojax.diffusion.process import TRAINED_STEPS, Process, shift_times
from videojax.errors import check_choice
from videojax.settings import Natural, Positive, Range, Share

STEPPERS = ("euler", "heun", "ddim", "dpm_solver", "unipc")
GRIDS = ("uniform", "quadratic", "karras", "log_snr", "leading", "linspace")
STARTS = ("noise", "unit")
ENDS = ("data", "process")

# denoise(x_t [B,T,H,W,C], t [B,1]) -> (x0, noise, ...), where x_t = alpha x0 + sigma noise.
Denoise = Callable[[Array, Array], tuple[Array, ...]]


class _Level(NamedTuple):
  t: Array
  alpha: Array
  sigma: Array
  unscaled: Array  # Process.unscaled_alpha


_Believe = Callable[[Array, _Level], tuple[Array, ...]]  # (x, level) -> estimated (x0, noise)


@dataclasses.dataclass(frozen=True)
class Sampler:
  """A grid of times, and a solver that steps from each time to the next.

  Args:
    stepper: 'euler'; 'heun' (second order); 'ddim' (Euler with a share eta of the noise redrawn);
      'dpm_solver', DPM-Solver++(2M), second order at Euler's cost; 'unipc', UniPC-2, the same step
      corrected with the next estimate, third order at the same cost. Heun's last step is an Euler
      step if it ends without noise; that of the multistep solvers always is.
    steps: N, number of steps. The denoiser is called `evaluations` times.
    grid: 'uniform' in t (with Edm this is the published grid); 'quadratic', t = u^2, more steps
      near the data; 'karras', (sigma / alpha)^(1/rho) evenly spaced; 'log_snr' evenly spaced. Of
      the trained steps k of models with 1000 steps (t = k / 1000): 'leading', the multiples of
      floor(1000 / N) below 1000, plus 1; 'linspace', N + 1 from 999 to 0, rounded, without 0.
    eta: 0 is deterministic, 1 is ancestral (DDPM); with 'ddim' only.
    shift: resolution shift a (`process.resolution_shift`), lowers every log-SNR by 2 ln a.
    rho: of 'karras'.
    sigma_min, sigma_max: ends of 'karras' and 'log_snr', in units of sigma / alpha before the
      shift, unless the process ends earlier.
    start: the initial x: 'noise': sigma times the noise; 'unit': sqrt(alpha^2 + sigma^2) times the
      noise (with the unscaled alpha), the std of noised data of variance 1, as in most published
      samplers.
    shared_noise: all frames start from the same noise (frame-by-frame super-resolution, Singer et
      al. 2022, arXiv:2209.14792, section 3.2.3).
    window, stride: in frames, of MultiDiffusion along a clip longer than the model's own
      (multidiffusion.py); 0: the whole clip together.
    end: end of the last step: the 'data', or t=0 of the 'process' with the noise it has there, as
      published with 'leading'.
  Raises: ValueError for unknown names or invalid numbers.
  With 'heun' on Linear prefer 'quadratic' to 'uniform': near the data sigma is proportional to
  sqrt(t) there, and the last step, an Euler step that is as long in t, reduces the order to one.

  Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 1 and Eq. 5. Song, Meng & Ermon 2021,
    arXiv:2010.02502, Eq. 12 and 16; quadratic times appendix D.2. Lu et al. 2022,
    arXiv:2211.01095, Algorithm 2. Zhao et al. 2023, arXiv:2302.04867, section 3, of order 2 with
    B_2 and data prediction. 'leading' and 'linspace': Lin et al. 2023, arXiv:2305.08891, Table 2.
  """

  stepper: str = "euler"
  steps: Annotated[int, Range(1, 100_000)] = 50
  grid: str = "uniform"
  eta: Share = 0.0
  shift: Positive = 1.0
  rho: Positive = 7.0
  sigma_min: Positive = 0.002
  sigma_max: Positive = 80.0
  start: str = "noise"
  end: str = "data"
  shared_noise: bool = False
  window: Natural = 0
  stride: Natural = 0

  def __post_init__(self) -> None:
    settings.check(self)
    check_choice("stepper", self.stepper, STEPPERS)
    check_choice("grid", self.grid, GRIDS)
    check_choice("start", self.start, STARTS)
    check_choice("end", self.end, ENDS)
    if self.grid in ("leading", "linspace") and self.steps >= TRAINED_STEPS:
      raise ValueError(f"steps={self.steps} on grid='{self.grid}' must be < {TRAINED_STEPS}")
    if self.eta > 0 and self.stepper != "ddim":
      raise ValueError(f"eta={self.eta} needs stepper='ddim', but stepper='{self.stepper}'")
    if not self.sigma_min < self.sigma_max:
      raise ValueError(f"sigma_min={self.sigma_min} must be < sigma_max={self.sigma_max}")
    if self.window:
      multidiffusion.check_stride(self.window, self.stride)
    elif self.stride:
      raise ValueError(f"stride={self.stride} needs window, but window=0")

  @property
  def evaluations(self) -> int:
    """Number of denoiser calls per sample."""
    return 2 * self.steps - 1 if self.stepper == "heun" else self.steps

  def times(self, process: Process) -> Float[Array, " N"]:
    """The N times at which steps begin, decreasing.

    If the process has noise left at t=0 (Edm), the last step, to the data, begins there, as
    published.
    """
    # If the process does not reach from zero to infinite noise: only times that the shift keeps
    # within [0, 1]. Others would be clipped, so that several steps had the same time.
    end, start = (shift_times(process, t, 1 / self.shift) for t in (1.0, 0.0))
    between = lambda u: start + (end - start) * u
    if self.grid in ("uniform", "quadratic"):
      short = (process.sigma(0.0) > 0) & (self.end == "data")
      u = 1.0 - jnp.arange(self.steps) / jnp.where(short, max(self.steps - 1, 1), self.steps)  # [N]
      t = between(u if self.grid == "uniform" else u**2)
    elif self.grid in ("leading", "linspace"):
      t = between(jnp.float32(self._trained_steps() / TRAINED_STEPS))
    else:
      noisiest = jnp.minimum(jnp.log(self.sigma_max), -0.5 * process.log_snr(end))
      cleanest = jnp.maximum(jnp.log(self.sigma_min), -0.5 * process.log_snr(start))
      log_sigma = self._between(noisiest, cleanest)  # [N], of sigma / alpha
      t = jnp.clip(process.t_from_log_snr(-2.0 * log_sigma), 0.0, 1.0)
    return shift_times(process, t, self.shift)

  def _trained_steps(self) -> Float[np.ndarray, " N"]:
    if self.grid == "leading":
      return np.arange(self.steps)[::-1] * (TRAINED_STEPS // self.steps) + 1.0
    return np.linspace(0, TRAINED_STEPS - 1, self.steps + 1).round()[:0:-1]

  def _between(self, start: Float[Array, ""], stop: Float[Array, ""]) -> Float[Array, " N"]:
    if self.grid == "log_snr":
      return jnp.linspace(start, stop, self.steps)
    roots = jnp.linspace(jnp.exp(start / self.rho), jnp.exp(stop / self.rho), self.steps)
    return self.rho * jnp.log(roots)


def sample(
  denoise: Denoise,
  process: Process,
  noise: Float[Array, "B T H W C"],
  keys: Keys | None,
  sampler: Sampler,
) -> Float[Array, "B T H W C"]:
  """Integrates from noise to data.

  Args:
    denoise: denoise(x_t, t [B, 1]) -> (x0, noise, ...), for instance a bound `Denoiser`. Never
      called where sigma is 0.
    process: the denoiser's.
    noise: standard normal, float32.
    keys: one per row, required for eta > 0.
    sampler: grid and stepper.
  Returns: x0, float32. Known content that the denoiser imposes is returned unchanged.
  Raises: ValueError if eta > 0 and there are no keys.
  """
  if sampler.eta > 0 and keys is None:
    raise ValueError(f"eta={sampler.eta} draws fresh noise: pass keys, one per row")
  now, after = _levels(process, sampler)

  def believe(x: Array, level: _Level) -> tuple[Array, ...]:
    return denoise(x, jnp.full((x.shape[0], 1), level.t))[:2]

  spread = jnp.hypot(now.unscaled, now.sigma) if sampler.start == "unit" else now.sigma
  x = spread[0] * noise.astype(jnp.float32)  # alpha x0, if any is left there, is unknown
  if sampler.stepper in ("dpm_solver", "unipc"):
    ahead = _coefficients(process, now, after)
    return _multistep(believe, x, now, ahead, corrected=sampler.stepper == "unipc")

  def step(x: Array, at: tuple[Array, _Level, _Level]) -> tuple[Array, None]:
    index, here, there = at
    if sampler.stepper == "heun":
      return _heun(believe, x, here, there), None
    x0, n = believe(x, here)
    if keys is None or sampler.eta == 0:
      return there.alpha * x0 + there.sigma * n, None
    fresh = row_noise(jax.vmap(jax.random.fold_in, (0, None))(keys, index), x)
    return _ddim(x0, n, fresh, here, there, sampler.eta), None

  return jax.lax.scan(step, x, (jnp.arange(sampler.steps), now, after))[0]


def _levels(process: Process, sampler: Sampler) -> tuple[_Level, _Level]:
  """The levels at which each step begins and ends, [N] each."""
  level = lambda t: _Level(t, process.alpha(t), process.sigma(t), process.unscaled_alpha(t))
  now, zero = level(sampler.times(process)), jnp.zeros(1)
  last = level(zero) if sampler.end == "process" else _Level(zero, jnp.ones(1), zero, jnp.ones(1))
  return now, jax.tree.map(lambda v, end: jnp.concatenate([v[1:], end]), now, last)


def _heun(believe: _Believe, x: Array, here: _Level, there: _Level) -> Array:
  """The trapezoidal rule in (alpha, sigma). Source: Karras et al. 2022, Algorithm 1, lines 4-8."""
  x0, n = believe(x, here)
  predicted = there.alpha * x0 + there.sigma * n

  def correct(predicted: Array) -> Array:
    x0_there, n_there = believe(predicted, there)
    along_data = 0.5 * (there.alpha - here.alpha) * (x0 + x0_there)
    along_noise = 0.5 * (there.sigma - here.sigma) * (n + n_there)
    return x + along_data + along_noise

  return jax.lax.cond(there.sigma > 0, correct, lambda predicted: predicted, predicted)


def _ddim(x0: Array, n: Array, fresh: Array, here: _Level, there: _Level, eta: float) -> Array:
  """A DDIM step. Source: Song, Meng & Ermon 2021, Eq. 12 and 16, for any alpha and sigma."""
  # 1 - a_t^2 / a_s^2 if the process preserves variance.
  lost = here.sigma**2 - (here.unscaled * there.sigma / there.unscaled) ** 2
  std = eta * there.sigma / here.sigma * jnp.sqrt(jnp.maximum(lost, 0.0))
  kept = jnp.sqrt(jnp.maximum(there.sigma**2 - std**2, 0.0))
  return there.alpha * x0 + kept * n + std * fresh


class _Past(NamedTuple):
  """A multistep solver's memory of the previous step."""

  x: Array  # where that step began
  x0: Array  # the estimate there
  older: Array  # the estimate one step earlier


class _Coefficients(NamedTuple):
  """Coefficients of a step from here to there, over h = ln(alpha / sigma) there minus here."""

  keep: Array  # sigma there / sigma here
  gain: Array  # -alpha there (exp(-h) - 1)
  ratio: Array  # h / h of the previous step; 0 (no extrapolation) in the first and the last step
  old: Array  # UniC's rho for the previous step's difference of estimates
  new: Array  # UniC's rho for this step's difference


def _multistep(
  believe: _Believe, x: Array, now: _Level, ahead: _Coefficients, *, corrected: bool
) -> Array:
  """DPM-Solver++(2M) or, if `corrected`, UniPC-2, which has the same predictor.

  The corrector uses the estimate at the predicted x, which then also replaces the estimate at the
  corrected x, so that a step needs one call, as published.

  Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2. Zhao et al. 2023, arXiv:2302.04867,
    section 3, with B_2 and data prediction.
  """
  behind = jax.tree.map(lambda v: jnp.append(0.0, v[:-1]), ahead)  # of the previous steps

  def step(
    carry: tuple[Array, _Past], at: tuple[_Level, _Coefficients, _Coefficients]
  ) -> tuple[tuple[Array, _Past], None]:
    (x, past), (here, led, c) = carry, at
    x0 = believe(x, here)[0]
    if corrected:
      bend = led.old * led.ratio * (past.x0 - past.older) + led.new * (x0 - past.x0)
      again = led.keep * past.x + led.gain * (past.x0 + bend)
      x = jnp.where(led.keep > 0, again, x)  # no step led to the first level
    bend = 0.5 * c.ratio * (x0 - past.x0)
    return (c.keep * x + c.gain * (x0 + bend), _Past(x, x0, past.x0)), None

  return jax.lax.scan(step, (x, _Past(x, x, x)), (now, behind, ahead))[0][0]


def _coefficients(process: Process, now: _Level, after: _Level) -> _Coefficients:
  """The coefficients of all steps, [N] each.

  UniC's rho solve rho_1 + rho_2 = b_1 and -rho_1 / ratio + rho_2 = b_2. With B_2, b_1 and b_2 are
  the means of u and u^2 on [0, 1] under a density proportional to exp(h u): b_1 = (1 + L) / 2 and
  b_1 - b_2 = L / h with L = coth(h / 2) - 2 / h. The first step has order 1 and rho = 1/2.
  """
  end = jnp.log(after.alpha[-1]) - jnp.log(after.sigma[-1])
  h = jnp.diff(jnp.append(0.5 * process.log_snr(now.t), end))  # [N], may be infinite at the ends
  first, last = (jnp.arange(len(h)) == i for i in (0, len(h) - 1))
  # No step extrapolates from one of length 0, whose own coefficients are the limits h -> 0.
  length, before = (jnp.where(v > 0, v, 1.0) for v in (h, jnp.roll(h, 1)))
  ratio = jnp.where(first | last | (jnp.roll(h, 1) <= 0), 0.0, h / before)
  x = 0.5 * h
  small = jnp.minimum(x, 0.3)  # series of L where its closed form suffers cancellation
  series = small / 3.0 - small**3 / 45.0 + 2.0 * small**5 / 945.0
  slope = jnp.where(x < 0.3, series, 1.0 / jnp.tanh(x) - 1.0 / x)
  old = jnp.where(h > 0, slope / length, 1.0 / 6.0) * ratio / (1.0 + ratio)
  new = jnp.where(first, 0.5, 0.5 * (1.0 + slope) - old)
  keep = after.sigma / now.sigma
  return _Coefficients(keep, after.alpha - keep * now.alpha, ratio, old, new)
