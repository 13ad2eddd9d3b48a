"""python -m videojax.scaling compare TABLE.csv --at=FLOP: the lowest loss at a budget, by form.

Several forms of the law of the lowest loss are fitted, and each is judged by extrapolating inside
the table: rows up to a budget are fitted, and the lowest losses of the larger budgets (to 10 times
the compute) predicted. Their predictions are averaged with weights that fall with this error.

  power                C^-gamma through the lowest loss of each budget
  power with floor     E + k C^-gamma through the same
  broken power         a power whose exponent changes at one budget (Caballero et al. 2023)
  parametric           E + A/N^alpha + B/D^beta by Huber's loss, at its best N and D
  variable_projection  the same by least squares
  isoflop              parabolas in log N, and E + k C^-gamma through their minima

Letters: G budgets.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from scipy import optimize

from videojax.errors import ConfigError
from videojax.io.files import finite
from videojax.scaling.calibration import REACH, RECENT, cuts
from videojax.scaling.command import Parser, positive
from videojax.scaling.fit import FREE, fit_table
from videojax.scaling.law_forms import fit_power
from videojax.scaling.run_table import Table, levels, read_table

Array = np.ndarray
Curve = Callable[[Array], Array]  # FLOPs to the lowest loss there

BROKEN_BUDGETS = 7  # fewest for a broken power, which has 5 coefficients
SHARPNESS = 0.3  # of a broken power's bend, in units of log C


def lowest(table: Table, target: str = "loss") -> tuple[Array, Array]:
  """(FLOPs [G], lowest loss [G]) of each budget, ascending."""
  level, loss = levels(table), table.numbers(target)
  budgets = np.unique(level)
  return budgets, np.array([loss[level == budget].min() for budget in budgets])


def _power(table: Table, target: str, floor: float | None) -> Curve:
  return fit_power(*lowest(table, target), floor=floor).at


def _broken(table: Table, target: str, floor: float | None) -> Curve:
  """Least squares of log loss: E + k C^-g (1 + (C/C1)^(1/f))^(-f h), f = SHARPNESS."""
  flops, loss = lowest(table, target)
  if len(flops) < BROKEN_BUDGETS:
    raise ConfigError(f"{len(flops)} budgets, a broken power needs {BROKEN_BUDGETS}")
  x, middle = np.log(flops), float(np.log(flops).mean())
  start = fit_power(flops, loss, floor=floor)

  def value(theta: Array, x: Array) -> Array:
    log_k, gamma, bend, at = theta[:4]
    base = floor if floor is not None else np.exp(theta[4])
    below = bend * SHARPNESS * np.logaddexp(0.0, (x - at) / SHARPNESS)
    return base + np.exp(log_k - gamma * (x - middle) - below)

  ends = [np.log(start.k) - start.gamma * middle, start.gamma, 0.0, middle]
  if floor is None:
    ends.append(np.log(max(start.floor, 0.1 * loss.min())))
  # The bend is held near 0: of few budgets one end alone would otherwise set it.
  rest = lambda theta: np.append(np.log(value(theta, x) / loss), 0.02 * theta[2])
  found = min(
    (optimize.least_squares(rest, [*ends[:3], at, *ends[4:]]) for at in np.quantile(x, [0.3, 0.7])),
    key=lambda result: result.cost,
  )
  return lambda at: value(found.x, np.log(at))


def _fitted(method: str) -> Callable[[Table, str, float | None], Curve]:
  def curve(table: Table, target: str, floor: float | None) -> Curve:
    known = FREE if floor is None else floor
    return fit_table(table, method, target=target, irreducible=known, bootstrap=0).lowest

  return curve


FORMS: dict[str, Callable[[Table, str, float | None], Curve]] = {
  "power": lambda table, target, floor: _power(table, target, floor or 0.0),
  "power with floor": _power,
  "broken power": _broken,
  "parametric": _fitted("parametric"),
  "variable_projection": _fitted("variable_projection"),
  "isoflop": _fitted("isoflop"),
}


@dataclass(frozen=True)
class Form:
  """One form: its curve, and how it did beyond a part of the table."""

  name: str
  curve: Curve
  error: float  # root mean square log error of extrapolations inside the table; NaN if none
  bias: float  # mean log error, measured over predicted
  weight: float


@dataclass(frozen=True)
class Forms:
  """All forms that could be fitted, and why the others could not."""

  forms: tuple[Form, ...]
  why: dict[str, str]
  splits: int  # extrapolations inside the table
  top: float  # FLOPs of the largest budget

  def stacked(self, flops: Array) -> tuple[Array, Array]:
    """(weighted mean prediction, weighted sd of the log predictions of the forms)."""
    each = np.log([form.curve(np.asarray(flops, float)) for form in self.forms])
    weights = np.array([form.weight for form in self.forms])
    mean = np.tensordot(weights, each, 1)
    return np.exp(mean), np.sqrt(np.tensordot(weights, (each - mean) ** 2, 1))

  def as_json(self, budgets: Sequence[float]) -> dict[str, Any]:
    at = np.array(budgets, float)
    mean, spread = self.stacked(at)
    return finite({
      "splits": self.splits, "why": self.why, "at": list(budgets),
      "forms": [{"name": f.name, "error": f.error, "bias": f.bias, "weight": f.weight,
                 "predicted": f.curve(at)} for f in self.forms],
      "stacked": mean, "spread": spread,
    })  # fmt: skip


def compare(table: Table, target: str = "loss", *, irreducible: float | None = None) -> Forms:
  """Fits every form and weighs it by its error beyond parts of the table.

  Weights are error^-s, normalised, with s the number of extrapolations, at most 3: with none, all
  forms weigh the same. A form that could not be fitted to a part counts with the largest error.
  irreducible: the floor, if it is known.
  """
  table = table.rows(~table.empty(target))
  whole, why = _curves(table, target, irreducible)
  if not whole:
    raise ConfigError("no form can be fitted: " + "; ".join(f"{k}: {v}" for k, v in why.items()))
  level = levels(table)
  squares, biases, weights = [], [], []
  flops, loss = lowest(table, target)
  for age, cut in enumerate(cuts(flops)[::-1]):
    beyond = (flops > cut) & (flops <= cut * REACH)
    part, _ = _curves(table.rows(level <= cut), target, irreducible)
    errors = {k: np.log(loss[beyond] / curve(flops[beyond])) for k, curve in part.items()}
    errors = {k: e for k, e in errors.items() if np.isfinite(e).all()}
    if not errors:
      continue
    worst = max(float((e**2).mean()) for e in errors.values())
    squares.append([float((errors[k] ** 2).mean()) if k in errors else worst for k in whole])
    biases.append([float(errors[k].mean()) if k in errors else np.nan for k in whole])
    weights.append(RECENT**age)
  if squares:
    error = np.sqrt(np.average(squares, 0, weights))
    seen = np.isfinite(biases)
    share = np.array(weights)[:, None] * seen
    bias = (np.where(seen, biases, 0.0) * share).sum(0) / np.maximum(share.sum(0), 1e-9)
    power = np.maximum(error, 1e-6) ** -float(min(len(squares), 3))
  else:
    error = bias = np.full(len(whole), np.nan)
    power = np.ones(len(whole))
  shares = power / power.sum()
  forms = tuple(
    Form(name, curve, float(e), float(b), float(w))
    for (name, curve), e, b, w in zip(whole.items(), error, bias, shares)
  )
  return Forms(forms, why, len(squares), float(level.max()))


def _curves(
  table: Table, target: str, floor: float | None
) -> tuple[dict[str, Curve], dict[str, str]]:
  """The curves of the forms that these rows determine, and why not the others'."""
  found, why = {}, {}
  for name, fit in FORMS.items():
    if name == "power with floor" and floor is not None:
      continue  # the floor is known: it is the power
    try:
      found[name] = fit(table, target, floor)
    except ConfigError as error:
      why[name] = str(error)
  return found, why


def main(arguments: Sequence[str]) -> None:
  """Prints what every form predicts at some budgets, and the weighted mean."""
  parser = Parser("compare", __doc__)
  parser.add_argument("table", type=Path, help="CSV: params,tokens,flops,loss,budget")
  parser.add_argument("--target", default="loss", help="column of the measure")
  parser.add_argument("--irreducible", type=float, help="the floor, if it is known")
  parser.add_argument("--at", type=positive, action="append", metavar="FLOP", required=True)
  parser.add_argument("--json", action="store_true", help="print only JSON")
  told = parser.parse_args(arguments)
  table = read_table(told.table, ["params", "tokens", "flops", told.target])
  forms = compare(table, told.target, irreducible=told.irreducible)
  found = forms.as_json(told.at)
  if told.json:
    print(json.dumps(found, indent=1))
    return
  console = Console(highlight=False, soft_wrap=True)
  shown = RichTable("form", "error inside the table", "weight", *(f"{c:.3g} FLOP" for c in told.at),
                    box=None)  # fmt: skip
  for form in found["forms"]:
    error = "" if form["error"] is None else f"{form['error']:.2%} ({form['bias']:+.2%})"
    values = (f"{v:.4g}" for v in form["predicted"])
    shown.add_row(form["name"], error, f"{form['weight']:.2f}", *values)
  spread = (f"{m:.4g} (sd of forms {s:.1%})" for m, s in zip(found["stacked"], found["spread"]))
  shown.add_row("weighted mean", "", "", *spread)
  console.print(shown)
  console.print(f"{forms.splits} extrapolations inside the table; in brackets the mean error, "
                "measured over predicted")  # fmt: skip
  for name, reason in forms.why.items():
    console.print(f"left out: {name}: {reason}", markup=False)
