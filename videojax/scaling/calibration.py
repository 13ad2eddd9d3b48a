"""Intervals that hold beyond the rows: the law's own error of form, measured by extrapolating.

A bootstrap measures how the law would change with other rows of the same budgets. It cannot see
that the law's form is wrong, which is most of the error of a larger run. So a fit extrapolates
inside its table: rows up to a budget are fitted, and the larger runs of the table are predicted.
For a new run,

  log(measured / predicted) ~ Student's t with `freedom` degrees of freedom, scale^2 =
    law^2 + run^2 + misfit^2 (growth drop)^2

where `law` is the bootstrap's standard deviation of the log prediction, `run` the scatter of single
runs about the law, and `drop` the log of how far the law says that the lowest loss falls from the
largest budget fitted to the run's: a law that is wrong by a share of what it predicts. `misfit` is
1 a priori and updated by what the table shows: its extrapolations, and the scatter of whole
budgets. The prior's numbers were learned from public tables of runs (`PUBLIC`, docs/laws.md);
`python -m videojax.scaling calibrate` learns them from other tables and checks them on tables left
out.

Letters: k runs predicted by one extrapolation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray
Number = float | np.floating | np.ndarray

RECENT = 0.5  # weight of an extrapolation relative to the next that starts from a larger budget
SPLITS = 5  # most extrapolations inside a table
APART = 1.2  # least factor between the budgets that they start from
REACH = 10.5  # largest factor of compute that an extrapolation inside the table spans
LEAST_BUDGETS = 3  # fewest below the cut
GROUP = 4  # fewest rows of a group whose mean residual is compared with the others'
TAKEN = 2.5  # degrees of freedom that a fitted law takes from the groups' means
MOST = 4.0  # largest number of groups that count as evidence
NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True)
class Prior:
  """What is believed about a law's errors before its table says more.

  Attributes:
    growth: the error of form, as a share of the predicted drop of the log loss.
    scatter: of new runs, over the robust scatter of the runs that were fitted.
    freedom: degrees of freedom of Student's t.
    weight: of the prior, in extrapolations.
    rows: weight of the budgets' scatter, per degree of freedom.
    unit: mean of the budgets' scatter (chi^2 per degree of freedom) where misfit is 1.
    source: the tables.
  """

  growth: float
  scatter: float
  freedom: float
  weight: float
  rows: float
  unit: float
  source: str


PUBLIC = Prior(
  growth=0.095, scatter=1.195, freedom=10.9, weight=0.98, rows=0.526, unit=1.11,
  source="seven public tables of language models",
)  # fmt: skip


@dataclass(frozen=True)
class Ahead:
  """Runs beyond a fit's rows: their errors, and what the fit said about them."""

  above: float  # FLOPs of the largest row fitted
  error: Array  # [k], log(measured / predicted)
  law: Array  # [k], standard deviation of the log prediction over bootstrap draws
  drop: Array  # [k], log of the fall of the lowest loss; 0 within the rows
  run: float  # robust scatter of the rows fitted

  def scale(self, prior: "Prior", misfit: float = 1.0) -> Array:
    """Scale [k] of the errors: law^2 + run^2 + form^2."""
    return np.sqrt(
      self.law**2 + (prior.scatter * self.run) ** 2 + (misfit * prior.growth * self.drop) ** 2
    )


@dataclass(frozen=True)
class Evidence:
  """What a table shows about the errors of a law's form."""

  run: float  # robust log scatter of the rows about the law
  freedom: int  # rows minus coefficients
  chi2: float  # scatter of the groups' means over that within groups, summed over groups
  groups: int
  ahead: tuple[Ahead, ...] = ()  # extrapolations inside the table, from the smallest budgets on

  def misfit(self, prior: Prior = PUBLIC) -> float:
    """Scale of the error of form relative to the prior's, from prior and evidence."""
    weights = RECENT ** np.arange(len(self.ahead))[::-1]
    seen = [float(np.mean((a.error / a.scale(prior)) ** 2)) for a in self.ahead]
    free = max(self.groups - TAKEN, 0.0)
    rows = prior.rows * min(free, MOST)
    total = prior.weight + float(weights @ seen)
    if rows:
      total += rows * self.chi2 / free / prior.unit
    return float(np.sqrt(total / (prior.weight + weights.sum() + rows)))

  def as_dict(self, prior: Prior = PUBLIC) -> dict[str, Any]:
    """The misfit and what it was learned from, as plain numbers."""
    ahead = [
      {
        "above": a.above, "runs": len(a.error), "error": float(np.sqrt((a.error**2).mean())),
        "bias": float(a.error.mean()), "drop": float(a.drop.mean()),
      }
      for a in self.ahead
    ]  # fmt: skip
    return {
      "misfit": self.misfit(prior), "growth": prior.growth, "prior": prior.source, "ahead": ahead,
      "said": self.said(prior),
    }  # fmt: skip

  def said(self, prior: Prior = PUBLIC) -> str:
    """One sentence about where the error of form comes from."""
    share = f"{100 * self.misfit(prior) * prior.growth:.0f} % of the fall in loss it predicts"
    if not self.ahead:
      seen = "the scatter of its budgets and from " if self.groups > TAKEN else ""
      return (
        f"beyond the rows the law may be wrong by {share} (one standard deviation): too few "
        f"budgets to test it on itself, so this comes from {seen}{prior.source}"
      )
    runs = sum(len(a.error) for a in self.ahead)
    return (
      f"beyond the rows the law may be wrong by {share} (one standard deviation): from "
      f"{len(self.ahead)} extrapolation{'s' * (len(self.ahead) > 1)} inside the table ({runs} runs "
      f"predicted from smaller budgets) and a prior from {prior.source}"
    )

  def students(self, prior: Prior = PUBLIC) -> float:
    """Degrees of freedom of Student's t: no more than the rows leave."""
    return max(1.0, min(prior.freedom, float(self.freedom)))


@dataclass(frozen=True)
class Width:
  """Parts of an interval, as log standard deviations: where its width comes from."""

  law: Number  # sampling: other rows of the same budgets
  run: float  # seeds: the scatter of single runs
  form: Number  # distance: the error of the law's form
  freedom: float

  def as_dict(self) -> dict[str, Any]:
    """Log standard deviations: sampling (the law), seeds (one run), and distance (the form)."""
    return {"law": self.law, "run": self.run, "form": self.form}

  @staticmethod
  def text(parts: Mapping[str, float]) -> str:
    """The parts of one interval, as `as_dict` has them, in words."""
    law, run, form = (parts[name] for name in ("law", "run", "form"))
    return f"(sd: sampling {law:.1%}, one run {run:.1%}, distance {form:.1%})"

  def half(self, level: float) -> Number:
    """Half of the log width of one run's interval, as `calibrate` checks it."""
    return self._quantile(level) * np.sqrt(self.law**2 + self.run**2 + self.form**2)

  def beyond(self, level: float) -> Number:
    """What the error of form alone adds to half of the law's interval."""
    return self._quantile(level) * self.form

  def _quantile(self, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, self.freedom))


def width(evidence: Evidence, law: Number, drop: Number, *, prior: Prior = PUBLIC) -> Width:
  """The parts of an interval for runs with these bootstrap deviations and drops."""
  form = evidence.misfit(prior) * prior.growth * np.maximum(drop, 0.0)
  return Width(law, prior.scatter * evidence.run, form, evidence.students(prior))


def widen(low: Number, high: Number, middle: Number, half: Number) -> tuple[Number, Number]:
  """An interval of the law, widened by an independent error: each side adds in squares."""
  below, above = np.log(middle / low), np.log(high / middle)
  return (
    middle * np.exp(-np.hypot(np.maximum(below, 0), half)),
    middle * np.exp(np.hypot(np.maximum(above, 0), half)),
  )


def robust_scatter(scatter: Array, coefficients: int) -> float:
  """Standard deviation of residuals from their median size, for the freedom that is left."""
  n = len(scatter)
  return float(
    NORMAL * np.median(np.abs(scatter)) * np.sqrt(n / max(n - coefficients, 1)) if n else 0.0
  )


def between_budgets(scatter: Array, level: Array) -> tuple[float, int]:
  """(chi^2, groups): how far the mean residuals of budgets depart from 0, against chance.

  Args: scatter, level: [n], log residuals and the budgets of the rows. A group is one budget, or
    several that follow each other if they have fewer than GROUP rows.
  """
  order = np.argsort(level, kind="stable")
  group, current, inside = np.zeros(len(level), int), 0, 0
  for i, row in enumerate(order):
    new = i > 0 and level[row] > level[order[i - 1]]
    if new and inside >= GROUP and len(order) - i >= GROUP:
      current, inside = current + 1, 0
    group[row], inside = current, inside + 1
  sizes = np.bincount(group)
  means = np.bincount(group, scatter) / sizes
  within = ((scatter - means[group]) ** 2).sum() / max(len(scatter) - len(sizes), 1)
  if within == 0 or len(scatter) <= len(sizes):
    return 0.0, 0
  return float((sizes * means**2).sum() / within), len(sizes)


def cuts(levels: Sequence[float] | Array) -> list[float]:
  """FLOPs up to which to fit when extrapolating inside a table, ascending.

  Args: levels: FLOPs of the table's budgets, ascending.
  """
  found: list[float] = []
  for level in list(levels)[-2 : LEAST_BUDGETS - 2 : -1]:
    if len(found) < SPLITS and (not found or level * APART <= found[-1]):
      found.append(float(level))
  return found[::-1]
