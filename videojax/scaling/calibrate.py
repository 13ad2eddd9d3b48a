"""python -m videojax.scaling calibrate TABLE.csv ...: learns the prior of a law's error of form.

Every table is cut at every budget that leaves enough below and above; the rows below are fitted,
and the runs at up to 10 times the compute predicted. The prior's numbers are those under which the
errors are most likely, with the same weight for every table and for every cut of a table. To check
them, each table's intervals are also made from the other tables alone. `--by-name=4` treats tables
whose names share their first 4 letters as one, so that twins do not vouch for each other.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from scipy import optimize, stats

from videojax.errors import ConfigError
from videojax.scaling.calibration import LEAST_BUDGETS, PUBLIC, REACH, Ahead, Evidence, Prior
from videojax.scaling.command import Parser, count
from videojax.scaling.fit import METHODS, extrapolated, fit_table
from videojax.scaling.run_table import Table, levels, read_table

Array = np.ndarray

LEVELS = (0.95, 0.8, 0.5)
LEAST_ROWS, LEAST_AHEAD = 12, 3  # of a cut: rows below it, runs above it
LEARNED = ("growth", "scatter", "freedom", "weight", "rows", "unit")
START = (0.13, 1.0, 7.0, 1.0, 0.5, 1.2)  # of the search, and its weak prior
LOOSE = 0.01  # weight of that prior, in runs


@dataclass(frozen=True)
class Cut:
  """One extrapolation of a table, and what the rows below the cut said about themselves."""

  table: str
  ahead: Ahead
  evidence: Evidence

  def standard(self, prior: Prior) -> tuple[Array, Array, float]:
    """(errors over their scale [k], the scale [k], degrees of freedom)."""
    scale = self.ahead.scale(prior, self.evidence.misfit(prior))
    return self.ahead.error / scale, scale, self.evidence.students(prior)


def cuts_of(
  table: Table, name: str, method: str = METHODS[0], *, bootstrap: int = 200
) -> list[Cut]:
  """Every extrapolation of a table that has enough rows below and runs above."""
  level, flops = levels(table), table.numbers("flops")
  found = []
  for cut in np.unique(level)[LEAST_BUDGETS - 1 : -1]:
    below = level <= cut
    above = ~below & (flops <= flops[below].max() * REACH)
    if below.sum() < LEAST_ROWS or above.sum() < LEAST_AHEAD:
      continue
    try:
      fit = fit_table(table.rows(below), method, bootstrap=bootstrap)
    except ConfigError:
      continue  # so few budgets do not determine the law
    ahead = extrapolated(fit, table.rows(above))
    if ahead is not None:
      found.append(Cut(name, ahead, fit.evidence))
  return found


def learn(cuts: Sequence[Cut], source: str) -> Prior:
  """The prior under which the errors of these cuts are most likely."""
  tables = [cut.table for cut in cuts]
  weights = [1 / len(set(tables)) / tables.count(name) for name in tables]

  def unlikely(theta: Array) -> float:
    prior = _prior(theta, source)
    total = LOOSE * float(((theta - np.log(START)) ** 2).sum())
    for cut, weight in zip(cuts, weights):
      z, scale, freedom = cut.standard(prior)
      total -= weight * float((stats.t.logpdf(z, freedom) - np.log(scale)).mean())
    return total

  start = np.log(START)
  simplex = np.concatenate([start[None], start + 0.4 * np.eye(len(start))])
  options = dict(maxiter=900, xatol=0.02, fatol=1e-4, initial_simplex=simplex)
  return _prior(optimize.minimize(unlikely, start, method="Nelder-Mead", options=options).x, source)


def _prior(theta: Array, source: str) -> Prior:
  values = dict(zip(LEARNED, np.exp(theta).tolist()))
  return Prior(**values | {"freedom": 1 + values["freedom"]}, source=source)


@dataclass(frozen=True)
class Covered:
  """How a table's runs lie in intervals of one level."""

  level: float
  share: float  # of the runs that lie inside
  width: float  # mean log width
  score: float  # mean interval score (Gneiting & Raftery 2007, eq. 43) of the log loss


def covered(cuts: Sequence[Cut], prior: Prior, level: float) -> Covered:
  """Coverage, width and score of the intervals of these cuts' runs."""
  inside, width, score = [], [], []
  for cut in cuts:
    z, scale, freedom = cut.standard(prior)
    quantile = stats.t.ppf((1 + level) / 2, freedom)
    outside = np.maximum(np.abs(z) - quantile, 0) * scale
    inside.append(np.abs(z) <= quantile)
    width.append(2 * quantile * scale)
    score.append(2 * quantile * scale + 2 / (1 - level) * outside)
  means = (float(np.concatenate(values).mean()) for values in (inside, width, score))
  return Covered(level, *means)


def left_out(cuts: Sequence[Cut], letters: int | None = None) -> dict[str, list[Covered]]:
  """Coverage of each table's runs under the prior of the other tables."""
  kin = lambda name: name[:letters]
  out = {}
  for name in dict.fromkeys(cut.table for cut in cuts):
    others = [cut for cut in cuts if kin(cut.table) != kin(name)]
    prior = learn(others, "the other tables")
    out[name] = [covered([c for c in cuts if c.table == name], prior, k) for k in LEVELS]
  return out


def main(arguments: Sequence[str]) -> None:
  """Prints the prior of some tables, and the coverage of each table's runs without itself."""
  parser = Parser("calibrate", __doc__)
  parser.add_argument("tables", nargs="+", type=Path, help="CSV: params,tokens,flops,loss,budget")
  parser.add_argument("--method", choices=METHODS[:3], default=METHODS[0])
  parser.add_argument("--bootstrap", type=int, default=200, metavar="N")
  parser.add_argument("--by-name", type=count, metavar="LETTERS", help="leave out kin together")
  parser.add_argument("--json", action="store_true", help="print only JSON")
  told = parser.parse_args(arguments)
  cuts = []
  for path in told.tables:
    found = cuts_of(read_table(path), path.stem, told.method, bootstrap=told.bootstrap)
    if not found:
      raise ConfigError(f"{path}: no budget leaves {LEAST_BUDGETS} budgets and {LEAST_ROWS} rows "
                        f"below it and {LEAST_AHEAD} runs above")  # fmt: skip
    cuts += found
  names = list(dict.fromkeys(cut.table for cut in cuts))
  prior = learn(cuts, f"{len(names)} tables")
  kin = {name[: told.by_name] for name in names}
  checked = left_out(cuts, told.by_name) if len(kin) > 1 else {}
  if told.json:
    shares = {name: [asdict(c) for c in rows] for name, rows in checked.items()}
    print(json.dumps({"prior": asdict(prior), "cuts": len(cuts), "left_out": shares}, indent=1))
    return
  console = Console(highlight=False, soft_wrap=True)
  runs = sum(len(cut.ahead.error) for cut in cuts)
  console.print(f"{len(cuts)} extrapolations of {len(names)} tables, {runs} runs predicted")
  console.print("prior: " + ", ".join(f"{k} {getattr(prior, k):.3g}" for k in LEARNED))
  console.print("shipped: " + ", ".join(f"{k} {getattr(PUBLIC, k):.3g}" for k in LEARNED))
  if checked:
    shown = RichTable("left out", *(f"{level:.0%}: inside, width" for level in LEVELS), box=None)
    for name, rows in checked.items():
      shown.add_row(name, *(f"{row.share:.3f}, {row.width:.4f}" for row in rows))
    console.print(shown)
