"""Curves through few points, one per budget: errors, shares and survival against compute.

The interval is that of weighted least squares in the logarithms (or of the likelihood), widened by
the misfit of the points, and beyond them by the error of the curve's form
(scaling/calibration.py), of which the prior is that of the laws of the loss.

Letters: C FLOPs, n points.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from videojax.scaling.calibration import PUBLIC, Ahead, Evidence
from videojax.scaling.law_forms import Rate, Survival, Values, fit_rate, fit_survival

Array = np.ndarray
Part = dict[str, Any]
POINTS = 40  # points of a drawn curve
LEAST = 3  # fewest budgets for a curve
DRAWS = 4000  # lines, for the interval of where one reaches a value
NOTHING = Evidence(run=0.0, freedom=1, chi2=0.0, groups=0)  # no test inside the points


@dataclasses.dataclass(frozen=True)
class Line:
  """value = offset + sign k C^-gamma: log(sign (value - offset)) is a line in log C.

  Attributes:
    centre: mean of log C over the points.
    theta: log of (value - offset) at the centre, and gamma.
    covariance: of theta, [2,2].
    quantile: half width of a 95 % interval, in standard errors.
    run: relative sd of one new run about the line.
    evidence: of the line's error beyond its points (scaling/calibration.py).
  """

  offset: float
  sign: int
  centre: float
  theta: Array
  covariance: Array
  quantile: float
  run: float
  flops: Array
  evidence: Evidence = NOTHING

  def at(self, flops: Array) -> tuple[Array, Array]:
    """(log of sign (value - offset), its standard deviation) at C."""
    x = np.stack([np.ones_like(flops), self.centre - np.log(flops)])
    return self.theta @ x, np.sqrt(np.einsum("in,ij,jn->n", x, self.covariance, x))

  def _eta(self, flops: Array, run: float = 0.0) -> tuple[Array, Array, Array]:
    eta, law = self.at(flops)
    form = self.evidence.misfit() * PUBLIC.growth * _fall(self.theta[1], self.flops, flops)
    half = self.quantile * np.sqrt(law**2 + run**2 + form**2)
    return eta, eta - half, eta + half

  def reaches(self, value: float) -> Part | None:
    """The FLOPs at which the line is at a value, with a 95 % interval; None if it never is.

    An end is None where more than 2.5 % of the lines that the points allow do not reach it.
    """
    above = self.sign * (value - self.offset)
    if above <= 0 or self.theta[1] <= 0:
      return None
    rng = np.random.default_rng(0)
    spread = np.linalg.cholesky(self.covariance) * self.quantile / stats.norm.ppf(0.975)
    start, gamma = self.theta[:, None] + spread @ rng.normal(size=(2, DRAWS))
    at = self.centre + (start - math.log(above)) / gamma
    # Beyond the points the line falls by a share more or less, as everywhere here.
    top = math.log(self.flops.max())
    wrong = 1 + self.evidence.misfit() * PUBLIC.growth * rng.normal(size=DRAWS)
    at = np.where(at > top, top + (at - top) / np.maximum(wrong, 0.1), at)
    with np.errstate(over="ignore"):
      at = np.exp(at)
    low, high = np.quantile(np.where(gamma > 0, at, np.inf), [0.025, 0.975], method="nearest")
    middle = math.exp(self.centre + (self.theta[0] - math.log(above)) / self.theta[1])
    ends = {"low": float(low), "high": float(high)}
    return {"mean": middle} | {k: v if np.isfinite(v) else None for k, v in ends.items()}

  def _values(self, flops: Array, run: float = 0.0) -> tuple[Array, Array, Array]:
    mean, low, high = (self.offset + self.sign * np.exp(e) for e in self._eta(flops, run))
    return mean, np.minimum(low, high), np.maximum(low, high)

  def interval(self, flops: float) -> Part:
    """Prediction for one new run with this compute: mean and 95 % interval."""
    mean, low, high = (float(v[0]) for v in self._values(np.array([flops]), self.run))
    return {"mean": mean, "low": low, "high": high}

  def numbers(self, until: float = 0.0) -> Part:
    """Gamma with its interval, and the curve over the points, extended to `until` FLOPs."""
    half = self.quantile * math.sqrt(self.covariance[1, 1])
    x = np.geomspace(self.flops.min(), max(until, self.flops.max()), POINTS)
    mean, low, high = self._values(x)
    return {
      "form": "power", "gamma": self.theta[1], "low": self.theta[1] - half,
      "high": self.theta[1] + half, "offset": self.offset, "budgets": len(self.flops),
      "k": math.exp(self.theta[0] + self.theta[1] * self.centre),
      "curve": {"x": x.tolist(), "y": mean.tolist(), "low": low.tolist(), "high": high.tolist()},
    }  # fmt: skip


def _fall(gamma: float, rows: Array, flops: Array | float) -> Any:
  """How far C^-gamma falls from the largest C of the rows to these, in logs; 0 within the rows."""
  return np.maximum(gamma * np.log(flops / rows.max()), 0.0)


def power_line(
  flops: Values, above: Array, relative: Array, *, offset: float = 0.0, sign: int = 1,
  extrapolate: bool = True,
) -> Line:  # fmt: skip
  """Fits a Line; with 4 points or more it is tested on the last one.

  Args:
    flops, above: [n]; `above` is sign (value - offset) and positive.
    relative: [n], standard errors of log(above); all 0 if unknown.
    offset, sign: as in Line.
  """
  flops, above, relative = (np.asarray(v, float) for v in (flops, above, relative))
  known = bool((relative > 0).all())
  error = relative if known else np.ones_like(relative)
  centre = float(np.log(flops).mean())
  design = np.stack([np.ones(len(flops)), centre - np.log(flops)], 1) / error[:, None]
  covariance = np.linalg.inv(design.T @ design)
  theta = covariance @ design.T @ (np.log(above) / error)
  freedom = len(flops) - 2
  misfit = float(((np.log(above) / error - design @ theta) ** 2).sum()) / max(freedom, 1)
  # Points closer to the line than their errors imply are luck; a misfit widens the interval.
  scaled = freedom > 0 and (misfit > 1 or not known)
  scale = misfit if scaled else 1.0
  line = Line(
    offset=offset, sign=sign, centre=centre, theta=theta, covariance=covariance * scale,
    quantile=float(stats.t.ppf(0.975, freedom) if scaled else stats.norm.ppf(0.975)),
    run=float(np.median(error)) * math.sqrt(scale), flops=flops,
  )  # fmt: skip
  if not extrapolate or len(flops) <= LEAST:
    return line
  early = flops < flops.max()
  before = power_line(
    flops[early], above[early], relative[early], offset=offset, sign=sign, extrapolate=False
  )
  eta, law = before.at(flops[~early])
  drop = _fall(before.theta[1], before.flops, flops[~early])
  beyond = Ahead(float(before.flops.max()), np.log(above[~early]) - eta, law, drop, before.run)
  evidence = dataclasses.replace(NOTHING, run=line.run, freedom=freedom, ahead=(beyond,))
  return dataclasses.replace(line, evidence=evidence)


@dataclasses.dataclass(frozen=True)
class RateCurve:
  """A share whose odds of failure fall as C^-gamma; see law_forms.Rate."""

  rate: Rate
  flops: Array
  trials: float  # effective number of independent clips of one new run

  def interval(self, flops: float) -> Part:
    rate, x = self.rate, np.array([1.0, -math.log(flops)])
    p = float(rate.at(flops))
    chance = rate.dispersion / max(self.trials * p * (1 - p), 1e-9)
    form = PUBLIC.growth * float(_fall(rate.gamma, self.flops, flops))
    half = rate.quantile * math.sqrt(x @ rate.covariance @ x + chance + form**2)
    low, high = (float(1 - special.expit(special.logit(p) + s * half)) for s in (1, -1))
    return {"mean": 1 - p, "low": low, "high": high}

  def numbers(self) -> Part:
    low, high = self.rate.gamma_interval
    x = np.geomspace(self.flops.min(), self.flops.max(), POINTS)
    worst, best = self.rate.interval(x)[::-1]
    return {
      "form": "rate", "gamma": self.rate.gamma, "low": low, "high": high,
      "budgets": len(np.unique(self.flops)), "dispersion": self.rate.dispersion,
      "curve": {"x": x.tolist(), "y": (1 - self.rate.at(x)).tolist(), "low": (1 - worst).tolist(),
                "high": (1 - best).tolist()},
    }  # fmt: skip


def rate_curve(flops: Values, share: Array, stderr: Array, clips: int) -> RateCurve:
  """Fits the share that fails, 1 - share, by maximum binomial likelihood.

  Args:
    flops, share, stderr: [n]; the frames of a clip fail together, so the standard error over clips
      gives the effective number of trials, share (1 - share) / stderr^2.
    clips: the number of trials if that is undefined (stderr 0, or a share of 0 or 1).
  """
  flops, share, stderr = (np.asarray(v, float) for v in (flops, share, stderr))
  spread = share * (1 - share)
  trials = np.where((stderr > 0) & (spread > 0), spread / np.maximum(stderr, 1e-12) ** 2, clips)
  rate = fit_rate(flops, (1 - share) * trials, trials)
  return RateCurve(rate, flops, float(np.median(trials)))


@dataclasses.dataclass(frozen=True)
class SurvivalCurve:
  """Frames until the first violation, with a hazard per frame that falls as C^-gamma."""

  law: Survival
  flops: Array
  clips: int  # of one new run
  events: int  # clips with a violation, of all runs

  def interval(self, flops: float) -> Part:
    """Mean frames of one new run's clips before the first violation: mean and 95 % interval."""
    law, z = self.law, float(stats.norm.ppf(0.975))
    stderr = (law.gamma_interval[1] - law.gamma_interval[0]) / (2 * z)
    distance = stderr * math.log(flops / law.reference)
    form = PUBLIC.growth * float(_fall(law.gamma, self.flops, flops))
    half = z * math.sqrt(distance**2 + form**2 + 1 / self.events)
    curve = law.curve(flops)
    mean, last = float(curve.sum()), len(curve)
    square = float(((2 * np.arange(last) + 1) * curve).sum())  # E T^2 of T = the intact frames
    chance = z * math.sqrt(max(square - mean**2, 0.0) / self.clips)
    ends = [float((curve ** math.exp(s * half)).sum()) for s in (1, -1)]
    low, high = (mean + math.copysign(math.hypot(e - mean, chance), e - mean) for e in ends)
    return {"mean": mean, "low": max(low, 0.0), "high": min(high, float(last))}

  def numbers(self) -> Part:
    low, high = self.law.gamma_interval
    x = np.geomspace(self.flops.min(), self.flops.max(), POINTS)
    return {
      "form": "survival", "gamma": self.law.gamma, "low": low, "high": high,
      "budgets": len(self.flops),
      "curve": {"x": x.tolist(), "y": [float(self.law.curve(c).sum()) for c in x]},
    }  # fmt: skip


def survival_curve(flops: Sequence[float], frames: Sequence[Array], last: int) -> SurvivalCurve:
  """Fits the hazard. frames: per budget, the frames before the first violation, [clips]."""
  intact = np.round(np.concatenate(frames))
  compute = np.repeat(np.asarray(flops, float), [len(f) for f in frames])
  violated = intact < last
  law = fit_survival(compute, np.where(violated, intact + 1, last).astype(int), violated)
  return SurvivalCurve(law, np.asarray(flops, float), len(frames[0]), int(violated.sum()))


Curve = Line | RateCurve | SurvivalCurve
