"""Functional forms of the laws of loss, coherence, rates and survival.

Letters: N parameters, D data (tokens, pixels or seconds of video), C FLOPs of training, R bootstrap
draws, n runs or clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import special, stats

from videojax.errors import ConfigError
from videojax.scaling.bootstrap import Fits, Scalar, variable_projection

Array = np.ndarray
Number = Scalar | np.ndarray  # one number or an array; a coefficient has one per draw [R]
Values = Array | Sequence[Scalar]  # [n], converted with np.asarray


@dataclass(frozen=True)
class Law:
  """Coefficients of a law, or of R draws of it."""

  def as_dict(self) -> dict[str, Any]:
    return {f.name: getattr(self, f.name) for f in fields(self)}

  def take(self, index: int | Array) -> Any:
    """The law of one draw, or of a selection [R] of the draws."""
    return type(self)(*(value[index] for value in self.as_dict().values()))


def _outer(draws: Number, x: Array) -> Number:
  """Reshapes draws [R] to [R,1,...] to broadcast against x; returns a single number unchanged."""
  return np.reshape(draws, np.shape(draws) + (1,) * x.ndim)


@dataclass(frozen=True)
class Additive(Law):
  """L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, eq. 2)."""

  E: Number
  A: Number
  B: Number
  alpha: Number
  beta: Number

  @staticmethod
  def of(fits: Fits, irreducible: Scalar | None) -> "Additive":
    """R laws; irreducible is E if it was not fitted."""
    c, e = fits.coefficients, fits.exponents
    constant = c[:, 2] if irreducible is None else np.full(len(c), float(irreducible))
    return Additive(constant, c[:, 0], c[:, 1], e[:, 0], e[:, 1])

  @property
  def a(self) -> Number:
    """Exponent of the best N ~ C^a, if C ~ N D."""
    return self.beta / (self.alpha + self.beta)

  @property
  def b(self) -> Number:
    """Exponent of the best D ~ C^b, if C ~ N D."""
    return self.alpha / (self.alpha + self.beta)

  def loss(self, params: Number, tokens: Number) -> Any:
    """L at N and D (any shape); [R, *shape] for draws."""
    x, y = np.broadcast_arrays(np.asarray(params, float), np.asarray(tokens, float))
    E, A, B, alpha, beta = (_outer(value, x) for value in self.as_dict().values())
    return E + A * x**-alpha + B * y**-beta


@dataclass(frozen=True)
class Power(Law):
  """m = floor + k x^-gamma; x is C, or the number of sampling steps."""

  floor: Number
  k: Number
  gamma: Number

  @staticmethod
  def of(fits: Fits, floor: Scalar | None) -> "Power":
    """R laws; floor is the given one if it was not fitted."""
    c = fits.coefficients
    constant = c[:, 1] if floor is None else np.full(len(c), float(floor))
    return Power(constant, c[:, 0], fits.exponents[:, 0])

  def at(self, x: Number) -> Any:
    """m at x (any shape); [R, *shape] for draws."""
    x = np.asarray(x, float)
    floor, k, gamma = (_outer(value, x) for value in self.as_dict().values())
    return floor + k * x**-gamma


def fit_power(x: Values, y: Values, *, floor: Scalar | None = None) -> Power:
  """Fits m = floor + k x^-gamma by variable projection; also fits the floor if it is None.

  For sampling steps, q(S) = q_inf + k S^-kappa is fit_power(steps, quality).
  """
  x, y, free = np.asarray(x, float), np.asarray(y, float), 2 + (floor is None)
  if len(x) < free:
    raise ConfigError(f"{len(x)} points are too few for the {free} coefficients of a power law")
  if not ((x > 0).all() and (y > 0).all()):
    raise ConfigError("a power law needs x > 0 and y > 0")
  ones, known = np.ones((1, len(y))), 0.0 if floor is None else floor
  fits = variable_projection(np.log(x)[None], y[None], ones, constant=floor is None, offset=known)
  return Power.of(fits, floor).take(0)


@dataclass(frozen=True)
class Predictor:
  """How well one part of the loss predicts a measure, over runs."""

  name: str
  r2: float  # of log measure on log loss
  slope: float  # d log measure / d log loss
  n: int  # runs with positive values; others are left out


def predictors(measure: Values, by_level: Array | Sequence[Sequence[Scalar]]) -> list[Predictor]:
  """How well each noise level, and noisiest minus cleanest ("dynamics"), predicts coherence.

  Args: measure [n] of n runs; by_level [n,K], their loss at each noise level, cleanest first.
  """
  measure, by_level = np.asarray(measure, float), np.asarray(by_level, float)
  columns = {f"level {i}": by_level[:, i] for i in range(by_level.shape[1])}
  columns["dynamics"] = by_level[:, -1] - by_level[:, 0]
  found = []
  for name, column in columns.items():
    use = (column > 0) & (measure > 0)
    if use.sum() < 3:
      raise ConfigError(f"{name}: {use.sum()} runs with a positive loss and measure; 3 are needed")
    x, y = column[use], measure[use]
    slope = float(stats.linregress(np.log(x), np.log(y)).slope) if np.ptp(x) else np.nan
    found.append(Predictor(name, r_squared(x, y), slope, int(use.sum())))
  return found


def r_squared(x: Any, y: Any) -> float:
  """Share of the variance of log y that a straight line in log x explains."""
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return 0.0
  return float(np.corrcoef(np.log(x), np.log(y))[0, 1] ** 2)


def _binomial(design: Array, events: Array, trials: Array, link: str) -> tuple[Array, Array, float]:
  """Maximum-likelihood binomial regression by Fisher scoring.

  Args: design [n,p]; events, trials [n]; link: "logit" or "cloglog".
  Returns: (coefficients [p], their covariance [p,p], Pearson's chi^2 per degree of freedom).
  """
  inverse, slope = {
    "logit": (special.expit, lambda eta: special.expit(eta) * special.expit(-eta)),
    "cloglog": (lambda eta: -np.expm1(-np.exp(eta)), lambda eta: np.exp(eta - np.exp(eta))),
  }[link]
  start = (events + 0.5) / (trials + 1)
  start = special.logit(start) if link == "logit" else np.log(-np.log1p(-start))
  theta = np.linalg.lstsq(design, start, rcond=None)[0]
  for _ in range(100):
    eta = np.clip(design @ theta, -30, 3 if link == "cloglog" else 30)
    p, d = inverse(eta), slope(eta)
    weight = trials * d**2 / (p * (1 - p))
    information = design.T @ (weight[:, None] * design)
    move = np.linalg.lstsq(
      information, design.T @ (weight * (events / trials - p) / d), rcond=None
    )[0]
    theta = theta + np.clip(move, -2, 2)
    if np.abs(move).max() < 1e-9:
      chi2 = (trials * (events / trials - p) ** 2 / (p * (1 - p))).sum()
      return theta, np.linalg.inv(information), chi2 / max(len(events) - len(theta), 1)
  raise ConfigError("the likelihood has no maximum: some budgets have only events, the others none")


@dataclass(frozen=True)
class Rate:
  """logit(p) = a - gamma log C, where p is the rate of violations per clip (or frame).

  Attributes:
    covariance: [2,2] of (a, gamma), multiplied by the dispersion if that is above 1.
    dispersion: Pearson's chi^2 per degree of freedom; above 1, runs differ by more than chance.
    quantile: half width of a 95 % interval, in standard errors.
  """

  a: float
  gamma: float
  covariance: Array
  dispersion: float
  quantile: float

  def at(self, flops: Number) -> Any:
    """p at C."""
    return special.expit(self.a - self.gamma * np.log(flops))

  def interval(self, flops: Number) -> tuple[Any, Any]:
    """95 % interval of p at C."""
    x = np.stack([np.ones_like(np.asarray(flops, float)), -np.log(flops)])
    half = self.quantile * np.sqrt(np.einsum("i...,ij,j...->...", x, self.covariance, x))
    eta = self.a - self.gamma * np.log(flops)
    return special.expit(eta - half), special.expit(eta + half)

  @property
  def gamma_interval(self) -> tuple[float, float]:
    half = self.quantile * float(np.sqrt(self.covariance[1, 1]))
    return self.gamma - half, self.gamma + half


def fit_rate(flops: Values, events: Values, trials: Values) -> Rate:
  """Fits a rate to counts per run, by maximum binomial likelihood.

  If runs differ by more than binomial chance (seeds), intervals are widened by the square root of
  Pearson's dispersion and use Student's t (McCullagh & Nelder 1989, section 4.5).

  Args: flops, events, trials: [n] each, one entry per run.
  """
  flops, events, trials = (np.asarray(v, float) for v in (flops, events, trials))
  if len(np.unique(flops)) < 2:
    raise ConfigError("a rate against compute needs at least 2 budgets")
  if events.sum() in (0, trials.sum()):
    raise ConfigError(
      f"{events.sum():g} of {trials.sum():g} trials are events: gamma cannot be determined"
    )
  centre = np.log(flops).mean()
  design = np.stack([np.ones(len(flops)), centre - np.log(flops)], 1)
  theta, covariance, dispersion = _binomial(design, events, trials, "logit")
  to_origin = np.array([[1, centre], [0, 1]])
  dof, wide = len(flops) - 2, dispersion > 1 and len(flops) > 2
  return Rate(
    a=float(theta[0] + centre * theta[1]),
    gamma=float(theta[1]),
    covariance=to_origin @ covariance @ to_origin.T * (dispersion if wide else 1),
    dispersion=float(dispersion) if dof else 1.0,
    quantile=float(stats.t.ppf(0.975, dof) if wide else stats.norm.ppf(0.975)),
  )


@dataclass(frozen=True)
class Survival:
  """Hazard per frame, h_f (C / reference)^-gamma; f counts generated frames from 1."""

  gamma: float
  gamma_interval: tuple[float, float]  # 95 %, Wald
  hazard: Array  # h_f [F], at the reference
  reference: float  # FLOPs

  def curve(self, flops: Scalar) -> Array:
    """Share of clips without a violation up to frame f, [F]."""
    return np.exp(-np.cumsum(self.hazard) * (flops / self.reference) ** -self.gamma)


def fit_survival(
  flops: Array, frames: Array, violated: Array, *, baseline: str = "free"
) -> Survival:
  """Fits the frames until the first violation, with a hazard proportional to C^-gamma.

  Discrete proportional hazards: log(-log(1 - P(violated in f | not before))) is linear (Prentice &
  Gloeckler 1978), which is exact for frames of a continuous process.

  Args:
    flops, frames, violated: [n] each, one entry per clip: the frame of the first violation, from 1,
      or the last frame if there was none (right-censored at the end of the clip).
    baseline: "free", a hazard for each frame (errors accumulate), or "constant".
  """
  flops, frames, violated = np.asarray(flops, float), np.asarray(frames), np.asarray(violated, bool)
  budgets, of = np.unique(flops, return_inverse=True)
  if len(budgets) < 2 or not violated.any():
    raise ConfigError(
      f"{len(budgets)} budgets, {violated.sum()} violations: gamma cannot be determined"
    )
  last, reference = int(frames.max()), float(np.exp(np.log(flops).mean()))
  f = np.arange(1, last + 1)[:, None]  # [F,1]
  risk = np.stack([(frames[of == j] >= f).sum(-1) for j in range(len(budgets))], -1)  # [F,budgets]
  events = np.stack(
    [((frames == f) & violated)[:, of == j].sum(-1) for j in range(len(budgets))], -1
  )
  group = np.arange(last) if baseline == "free" else np.zeros(last, int)
  # A frame without events has hazard 0 and carries no information about gamma.
  used = (risk > 0) & (np.bincount(group, events.sum(-1), last)[group] > 0)[:, None]
  levels, group = np.unique(np.repeat(group, len(budgets))[used.ravel()], return_inverse=True)
  x = np.log(reference / np.broadcast_to(budgets, risk.shape)[used])
  design = np.concatenate([np.eye(len(levels))[group], x[:, None]], 1)
  theta, covariance, _ = _binomial(design, events[used], risk[used], "cloglog")
  half = float(stats.norm.ppf(0.975) * np.sqrt(covariance[-1, -1]))
  hazard = np.zeros(last)
  hazard[levels] = np.exp(theta[:-1])
  if baseline == "constant":
    hazard[:] = hazard[0]
  gamma = float(theta[-1])
  return Survival(gamma, (gamma - half, gamma + half), hazard, reference)
