"""The laws of the loss shown in reports and used by predictions, as plain numbers.

A law goes through all cells: its interval comes from a bootstrap and from extrapolations inside the
sweep (scaling/fit.py). Curves through few points: scaling/trends.py.

Letters: C FLOPs, N parameters, D tokens, n points, R draws.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from videojax.errors import ConfigError
from videojax.scaling.bootstrap import interval
from videojax.scaling.calibration import PUBLIC
from videojax.scaling.fit import FREE, Fit, fit_table
from videojax.scaling.isoflop import IsoFlop, parabola
from videojax.scaling.run_table import Table
from videojax.scaling.sweep_groups import Group
from videojax.scaling.trends import LEAST, POINTS

Array = np.ndarray
Part = dict[str, Any]
EDGE = 0.5  # half widths beyond the grid up to which a minimum is reported


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
      "run": PUBLIC.scatter * self.fit.evidence.run,
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
