"""From noise to a clip: a grid of times and a stepper, one `lax.scan`.

The probability-flow ODE of any process is dx = x0 d(alpha) + noise d(sigma), with x0 and noise what
the denoiser believes at (x, t). Written so, nothing is singular where alpha or sigma vanishes, one
Euler step is x_next = alpha_next x0 + sigma_next noise, and the published solvers are special
cases: rectified flow's Euler and Heun in t, EDM's in sigma, DDIM.

Legend: B batch, T frames, H W height width, C channels; N steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from videojax.diffusion.objective import Keys, row_noise
from videojax.diffusion.process import Process, shift_times
from videojax.errors import check_choice

STEPPERS = ("euler", "heun", "ddim")
GRIDS = ("uniform", "quadratic", "karras", "log_snr")

# denoise(x_t [B,T,H,W,C], t [B,1]) -> (x0, noise, ...), where x_t = alpha x0 + sigma noise.
Denoise = Callable[[Array, Array], tuple[Any, ...]]


class _Level(NamedTuple):
  t: Array
  alpha: Array
  sigma: Array


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Which times are visited and how one gets from each to the next.

  Args:
    stepper: 'euler'; 'heun' (second order, its last step to the data is Euler's); 'ddim' (Euler,
      and a share eta of the noise is drawn afresh).
    steps: N, number of steps. The denoiser is called `evaluations` times.
    grid: 'uniform' in t (on Edm that is the published grid); 'quadratic', t = u^2, more steps near
      the data; 'karras', (sigma / alpha)^(1/rho) evenly spaced; 'log_snr' evenly spaced.
    eta: 0 is deterministic, 1 is ancestral (DDPM); with 'ddim' only.
    shift: resolution shift a (`process.resolution_shift`), lowers every log-SNR by 2 ln a.
    rho: of 'karras'.
    sigma_min, sigma_max: ends of 'karras' and 'log_snr', in units of sigma / alpha before the
      shift, where the process does not end earlier.
  Raises: ValueError for unknown names or impossible numbers.
  With 'heun' on Linear prefer 'quadratic' to 'uniform': there sigma goes as the root of t near the
  data, and the last step, an Euler step of even t, makes the whole first order.

  Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 1 and Eq. 5. Song, Meng & Ermon 2021,
    arXiv:2010.02502, Eq. 12 and 16; quadratic times appendix D.2.
  """

  stepper: str = "euler"
  steps: int = 50
  grid: str = "uniform"
  eta: float = 0.0
  shift: float = 1.0
  rho: float = 7.0
  sigma_min: float = 0.002
  sigma_max: float = 80.0

  def __post_init__(self) -> None:
    check_choice("stepper", self.stepper, STEPPERS)
    check_choice("grid", self.grid, GRIDS)
    if self.steps < 1:
      raise ValueError(f"steps={self.steps} must be >= 1")
    if not 0 <= self.eta <= 1:
      raise ValueError(f"eta={self.eta} must be in [0, 1]")
    if self.eta > 0 and self.stepper != "ddim":
      raise ValueError(f"eta={self.eta} draws noise, stepper='{self.stepper}' does not: use 'ddim'")
    if not (self.shift > 0 and self.rho > 0 and 0 < self.sigma_min < self.sigma_max):
      raise ValueError(
        f"need shift={self.shift} > 0, rho={self.rho} > 0 and "
        f"0 < sigma_min={self.sigma_min} < sigma_max={self.sigma_max}"
      )

  @property
  def evaluations(self) -> int:
    """How often the denoiser is called for one sample."""
    return 2 * self.steps - 1 if self.stepper == "heun" else self.steps

  def times(self, process: Process) -> Float[Array, "N"]:
    """The N times at which steps begin, falling; the last step ends at the data itself.

    A process that has noise left at t=0 (Edm) begins its last step there, as published.
    """
    # Of a process that ends before infinite noise, the part that the shift keeps inside.
    end = shift_times(process, 1.0, 1 / self.shift)
    if self.grid in ("uniform", "quadratic"):
      spans = jnp.where(process.sigma(0.0) > 0, max(self.steps - 1, 1), self.steps)
      u = 1.0 - jnp.arange(self.steps) / spans  # [N]
      t = end * (u if self.grid == "uniform" else u**2)
    else:
      noisiest = jnp.minimum(jnp.log(self.sigma_max), -0.5 * process.log_snr(end))
      cleanest = jnp.maximum(jnp.log(self.sigma_min), -0.5 * process.log_snr(0.0))
      log_sigma = self._between(noisiest, cleanest)  # [N], of sigma / alpha
      t = jnp.clip(process.t_from_log_snr(-2.0 * log_sigma), 0.0, 1.0)
    return shift_times(process, t, self.shift)

  def _between(self, start: Float[Array, ""], stop: Float[Array, ""]) -> Float[Array, "N"]:
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
  """Carries noise to data.

  Args:
    denoise: denoise(x_t, t [B, 1]) -> (x0, noise, ...), for instance a bound `Denoiser`. It is
      called at no time where sigma is 0.
    process: the denoiser's.
    noise: standard normal, float32.
    keys: one per row, for eta > 0; else None is enough.
    sampler: grid and stepper.
  Returns: x0, float32. Content that the denoiser replaces by what is known comes out as it is.
  Raises: ValueError if eta > 0 and there are no keys.
  """
  if sampler.eta > 0 and keys is None:
    raise ValueError(f"eta={sampler.eta} draws fresh noise: pass keys, one per row")
  t = sampler.times(process)
  now = _Level(t, process.alpha(t), process.sigma(t))  # [N] each
  data = _Level(jnp.zeros(1), jnp.ones(1), jnp.zeros(1))
  after = jax.tree.map(lambda v, end: jnp.concatenate([v[1:], end]), now, data)  # [N] each

  def believe(x: Array, level: _Level) -> tuple[Any, ...]:
    return denoise(x, jnp.full((x.shape[0], 1), level.t))[:2]

  def step(x: Array, at: tuple[Array, _Level, _Level]) -> tuple[Array, None]:
    index, here, there = at
    if sampler.stepper == "heun":
      return _heun(believe, x, here, there), None
    x0, n = believe(x, here)
    if keys is None or sampler.eta == 0:
      return there.alpha * x0 + there.sigma * n, None
    fresh = row_noise(jax.vmap(jax.random.fold_in, (0, None))(keys, index), x)
    return _ddim(x0, n, fresh, here, there, sampler.eta), None

  x = now.sigma[0] * noise.astype(jnp.float32)  # whatever alpha x0 is left there is not known
  return jax.lax.scan(step, x, (jnp.arange(sampler.steps), now, after))[0]


def _heun(believe: Callable[..., Any], x: Array, here: _Level, there: _Level) -> Array:
  """The trapezoid in (alpha, sigma). Source: Karras et al. 2022, Algorithm 1, lines 4 to 8."""
  x0, n = believe(x, here)
  predicted = there.alpha * x0 + there.sigma * n

  def correct(predicted: Array) -> Array:
    x0_there, n_there = believe(predicted, there)
    along_data = 0.5 * (there.alpha - here.alpha) * (x0 + x0_there)
    along_noise = 0.5 * (there.sigma - here.sigma) * (n + n_there)
    return x + along_data + along_noise

  return jax.lax.cond(there.sigma > 0, correct, lambda predicted: predicted, predicted)


def _ddim(x0: Array, n: Array, fresh: Array, here: _Level, there: _Level, eta: float) -> Array:
  """Source: Song, Meng & Ermon 2021, Eq. 12 and 16, for any alpha and sigma."""
  lost = here.sigma**2 - (here.alpha * there.sigma / there.alpha) ** 2  # 1 - a_t^2 / a_s^2 if VP
  std = eta * there.sigma / here.sigma * jnp.sqrt(jnp.maximum(lost, 0.0))
  kept = jnp.sqrt(jnp.maximum(there.sigma**2 - std**2, 0.0))
  return there.alpha * x0 + kept * n + std * fresh
