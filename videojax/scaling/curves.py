"""The fits shown in reports and used by predictions: laws with intervals, as plain numbers.

A curve goes through few points of known error (one per budget): its interval is that of weighted
least squares in the logarithms, widened by the misfit of the points. A law goes through all cells:
its interval comes from a bootstrap (scaling/fit.py).

Letters: C FLOPs, N parameters, D tokens, n points, R draws.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from videojax.errors import ConfigError
from videojax.scaling.bootstrap import interval
from videojax.scaling.fit import FREE, Fit, fit_table
from videojax.scaling.isoflop import IsoFlop, parabola
from videojax.scaling.law_forms import Rate, Survival, Values, fit_rate, fit_survival
from videojax.scaling.run_table import Table
from videojax.scaling.sweep_groups import Group

Array = np.ndarray
Part = dict[str, Any]
POINTS = 40  # points of a drawn curve
LEAST = 3  # fewest budgets for a curve
EDGE = 0.5  # half widths beyond the grid up to which a minimum is reported


# --- curves through few points ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Line:
  """value = offset + sign k C^-gamma: log(sign (value - offset)) is a line in log C.

  Attributes:
    centre: mean of log C over the points.
    theta: log of (value - offset) at the centre, and gamma.
    covariance: of theta, [2,2].
    quantile: half width of a 95 % interval, in standard errors.
    run: relative sd of one new run about the line.
  """

  offset: float
  sign: int
  centre: float
  theta: Array
  covariance: Array
  quantile: float
  run: float
  flops: Array

  def _eta(self, flops: Array, run: float = 0.0) -> tuple[Array, Array, Array]:
    x = np.stack([np.ones_like(flops), self.centre - np.log(flops)])
    eta = self.theta @ x
    half = self.quantile * np.sqrt(np.einsum("in,ij,jn->n", x, self.covariance, x) + run**2)
    return eta, eta - half, eta + half

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


def power_line(
  flops: Values, above: Array, relative: Array, *, offset: float = 0.0, sign: int = 1
) -> Line:
  """Fits a Line.

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
  return Line(
    offset=offset, sign=sign, centre=centre, theta=theta, covariance=covariance * scale,
    quantile=float(stats.t.ppf(0.975, freedom) if scaled else stats.norm.ppf(0.975)),
    run=float(np.median(error)) * math.sqrt(scale), flops=flops,
  )  # fmt: skip


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
    half = rate.quantile * math.sqrt(x @ rate.covariance @ x + chance)
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
  return SurvivalCurve(law, np.asarray(flops, float))


Curve = Line | RateCurve | SurvivalCurve


# --- the law of the loss ------------------------------------------------------------------------


def table_of(groups: Sequence[Group]) -> Table:
  """One row per cell.

  The standard error over clips is left out: all cells see the same clips, so this error shifts them
  together, while `fit` would treat it as noise between cells.
  """
  pairs = [(g, row) for g in groups for row in g.rows]
  return Table.of(
    name=[row.cell.name for _, row in pairs],
    params=[g.params for g, _ in pairs],
    tokens=[g.tokens for g, _ in pairs],
    flops=[g.flops for g, _ in pairs],
    loss=[row.value("loss")[0] for _, row in pairs],
    seed=[i for g in groups for i in range(len(g.rows))],
    budget=[f"{g.budget:.6g}" for g, _ in pairs],
  )


@dataclasses.dataclass(frozen=True)
class Law:
  """L = E + A N^-alpha + B D^-beta through all cells, with bootstrap draws."""

  fit: Fit
  groups: Sequence[Group]
  fitted_E: bool

  def interval(
    self, params: float | int, tokens: float | int, flops: float | int | None = None
  ) -> Part:
    """The loss of one new run: mean and 95 % interval, including the scatter about the law."""
    at = (params, tokens, flops)
    low, high = self.fit.predict_interval(*at, run=True)
    width = {name: float(sd) for name, sd in self.fit.width(*at).as_dict().items()}
    mean = float(self.fit.predict(*at))
    return {"mean": mean, "low": float(low), "high": float(high), "width": width}

  def best(self, budget: float, planned: Sequence[Mapping[str, float]] = ()) -> Part:
    """The size of lowest loss at a budget, and the loss of one run of that size."""
    known = [(g.params, g.flops / (g.params * g.tokens)) for g in self.groups]
    known += [(p["params"], p["flops"] / (p["params"] * p["tokens"])) for p in planned]
    # FLOPs per parameter and token fall with size (attention, embeddings): c N^s.
    log_n, log_c = np.log(np.array(known)).T
    s, c = np.polyfit(log_n, log_c, 1) if np.ptp(log_n) else (0.0, log_c.mean())
    count = lambda n, d: np.exp(c) * n ** (1 + s) * d
    try:
      least, draws = self.fit.optimum(budget, count), self.fit.optimum_draws(budget, count)
    except ValueError as error:
      return {"mean": None, "low": None, "high": None, "params": None, "why": str(error)}
    sizes = [float(v) for v in interval(np.asarray(draws.params))]
    low, high = self.fit.optimum_interval(budget, count, run=True)
    return {"mean": float(least.loss), "low": low, "high": high, "params": float(least.params),
            "params_low": sizes[0], "params_high": sizes[1]}  # fmt: skip

  def numbers(self) -> Part:
    """Coefficients with intervals; A and B as losses at round N0 and D0 near the cells' middle."""
    law, draws = self.fit.law, self.fit.draws
    n0, d0 = (_round_middle([getattr(g, k) for g in self.groups]) for k in ("params", "tokens"))
    named = lambda of: {
      "E": of.E, "A": of.A * n0**-of.alpha, "alpha": of.alpha, "B": of.B * d0**-of.beta,
      "beta": of.beta, "a": of.a,
    }  # fmt: skip
    ends = {k: interval(np.asarray(v)) for k, v in named(draws).items()}
    out: Part = {
      k: {"value": float(v), "low": float(ends[k][0]), "high": float(ends[k][1])}
      for k, v in named(law).items()
    }
    fitted = lambda g: float(self.fit.predict(g.params, g.tokens))
    return out | {
      "N0": n0, "D0": d0, "E_fitted": self.fitted_E, "cells": len(self.fit.table),
      "residual": float(np.sqrt((self.fit.residuals**2).mean())),
      "run": float(np.sqrt((self.fit.scatter**2).mean())),
      "method": self.fit.method, "calibration": self.fit.evidence.as_dict(),
      "resampling": self.fit.resampling, "warnings": list(self.fit.warnings),
      "points": [
        {"cell": g.name, "budget": g.budget, "params": g.params, "loss": g.value("loss")[0],
         "fitted": fitted(g), "relative": g.value("loss")[0] / fitted(g) - 1}
        for g in self.groups
      ],
    }  # fmt: skip


def _round_middle(values: Sequence[float]) -> float:
  """The power of ten nearest to the geometric mean."""
  return 10.0 ** round(float(np.log10(values).mean()))


def fit_law(groups: Sequence[Group], *, irreducible: float | int | None, draws: int = 2000) -> Law:
  """Fits the law to all cells of some groups.

  Args:
    groups: to fit.
    irreducible: E if it is known; None: fitted.
    draws: number of bootstrap resamples.
  Raises:
    ConfigError: the cells do not determine the law.
  """
  if not groups:
    raise ConfigError("no finished cell to fit a law to: run the smaller budgets first")
  known = FREE if irreducible is None else float(irreducible)
  fit = fit_table(table_of(groups), irreducible=known, bootstrap=draws)
  return Law(fit, groups, irreducible is None)


# --- isoFLOP curves -----------------------------------------------------------------------------


def isoflop(groups: Sequence[Group], seed_sd: float) -> Part:
  """A parabola and its minimum per budget with three or more sizes, and a power law of the minima.

  Args:
    groups: of one series, by budget and parameters; the power law leaves out held-out ones.
    seed_sd: log-sd of the loss between repeats; 0 if unknown.
  """
  out = []
  for budget in sorted({g.budget for g in groups}):
    here = [g for g in groups if g.budget == budget]
    if len({g.params for g in here}) >= 3:
      out.append(_parabola(budget, here, seed_sd))
  why = "" if out else "no budget has three sizes that have finished"
  fitted = [part["budget"] for part in out if not part["held_out"]]
  law = _size_law([g for g in groups if g.budget in fitted], max(g.flops for g in groups))
  return {"budgets": out, "why": why, "size_law": law if len(fitted) >= LEAST else None}


def _parabola(budget: float, here: Sequence[Group], seed_sd: float) -> Part:
  """Fits loss as a parabola in log N (Hoffmann et al. 2022, approach 2; `fit --method=isoflop`)."""
  x, y = np.log([g.params for g in here]), np.array([g.value("loss")[0] for g in here])
  curve = parabola(x, y[None])
  (c,), (turn,), unit = curve.c, curve.turn, curve.unit
  lowest = here[int(np.argmin(y))]
  edge = lowest.name if lowest.params in (here[0].params, here[-1].params) else ""
  grid = np.linspace(-1, 1, POINTS)
  drawn = {"x": np.exp(curve.middle + unit * grid), "y": c[0] + c[1] * grid + c[2] * grid**2}
  good = drawn["y"] > 0  # a parabola of a wide grid may dip below 0, which a log axis cannot show
  error, minimum = _error(y, y - curve.fitted[0], here, seed_sd), None
  if abs(turn) <= 1 + EDGE:
    slope = np.array([0, -1 / (2 * c[2]), c[1] / (2 * c[2] ** 2)]) @ curve.inverse  # d turn / d y
    half = 1.96 * unit * float(np.sqrt(((slope * error) ** 2).sum())) if error is not None else None
    at = float(np.exp(curve.vertex[0]))
    minimum = {
      "params": at, "loss": float(curve.least[0]),
      "low": at * math.exp(-half) if half is not None else None,
      "high": at * math.exp(half) if half is not None else None,
    }  # fmt: skip
  return {
    "budget": budget, "held_out": here[0].held_out, "edge": edge, "minimum": minimum,
    "warnings": _warnings(here, lowest if edge else None, minimum),
    "curve": {k: v[good].tolist() for k, v in drawn.items()},
    "points": [{"cell": g.name, "params": g.params, "loss": v, "stderr": g.value("loss")[1],
                "seeds": len(g.rows)} for g, v in zip(here, y)],
  }  # fmt: skip


def _warnings(here: Sequence[Group], edge: Group | None, minimum: Part | None) -> list[str]:
  """Warnings about one budget's parabola."""
  found = []
  if edge:
    size = "smallest" if edge.params == here[0].params else "largest"
    found.append(f"the {size} size is the best: the minimum is not bracketed")
  if minimum is None:
    found.append("no minimum within reach of the sizes that were run")
  elif minimum["low"] is None:
    found.append("the minimum has no interval: the noise of a loss is unknown")
  if len(here) == 3:
    found.append("three sizes determine a parabola exactly, so its fit cannot be judged")
  return found


def _error(y: Array, rest: Array, here: Sequence[Group], seed_sd: float) -> Array | None:
  """Sd of each loss about the parabola: the larger of the seeds' spread and the points' scatter."""
  from_seeds = seed_sd * y / np.sqrt([len(g.rows) for g in here])
  freedom = len(y) - 3
  if freedom <= 0:
    return from_seeds if seed_sd else None
  return np.maximum(from_seeds, math.sqrt(float((rest**2).sum()) / freedom))


def _size_law(groups: Sequence[Group], until: float) -> Part | None:
  """The power law N ~ C^a through the minima; its curve extends to `until` FLOPs."""
  try:
    fit = fit_table(table_of(groups), "isoflop")
  except ValueError:
    return None
  law, draws = fit.law, fit.draws
  assert isinstance(law, IsoFlop) and isinstance(draws, IsoFlop)
  a, k = np.asarray(draws.a)[:, None], np.asarray(draws.k_params)[:, None]
  low, high = (float(end[0]) for end in interval(a))
  c = np.geomspace(min(m.flops for m in fit.minima), until, POINTS)
  with np.errstate(over="ignore", invalid="ignore"):  # draws may have any slope
    below, above = interval(k * c**a)
  if not (np.isfinite(below) & np.isfinite(above)).all():
    return None
  return {
    "exponent": float(law.a), "low": low, "high": high,
    "budgets": len(fit.minima),
    "curve": {"x": c.tolist(), "y": (law.k_params * c**law.a).tolist(),
              "low": below.tolist(), "high": above.tolist()},
    "warnings": [w for w in fit.warnings if not w.startswith("budget ")],
  }  # fmt: skip
