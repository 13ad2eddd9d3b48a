"""python -m videojax.scaling fit TABLE.csv: fits a law to a table of runs (docs/laws.md).

Letters: N parameters, D data, C FLOPs, n rows, R bootstrap draws.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from videojax.errors import ConfigError, check_choice
from videojax.io.files import finite
from videojax.scaling import isoflop
from videojax.scaling.bootstrap import (
  LEVERAGE,
  Scalar,
  check_resamples,
  draw_wild,
  interval,
  perturb,
  resampled,
)
from videojax.scaling.command import Parser, positive
from videojax.scaling.isoflop import IsoFlop, Minimum
from videojax.scaling.law_forms import Additive, Number, Power
from videojax.scaling.optimum import Flops, Optimum, optimum
from videojax.scaling.run_table import Rows, Table, check, read_table, select, too_far

Array = np.ndarray
AnyLaw = Additive | IsoFlop | Power

METHODS = ("variable_projection", "parametric", "isoflop", "power")
DATA = ("tokens", "pixels", "seconds")
RESAMPLE = ("auto", "rows", "wild")
FREE = "free"  # irreducible=FREE: the floor is fitted

MANY_ROWS = 50  # rows from which on rows are resampled; with fewer, such intervals are too narrow
OUTLYING = 6.0  # robust standard deviations of the residuals beyond which a row is an outlier
AT_BOUNDS = 0.1  # share of resamples at a bound above which a warning is given


@dataclass(frozen=True)
class Fit:
  """A fitted law, its bootstrap draws, and how they were obtained."""

  method: str
  target: str
  data: str  # column used as D
  law: AnyLaw
  draws: AnyLaw | None  # [R]
  objective: float | None  # minimum of the estimator's objective; None for isoflop
  table: Table  # rows used
  residuals: Array  # [n], log(observed / fitted)
  scatter: Array  # [n], residuals enlarged by their leverage to the errors of runs
  outliers: dict[str, Any]  # the rule applied, and the lines it dropped
  resampling: dict[str, Any]
  minima: tuple[Minimum, ...]
  warnings: tuple[str, ...]
  held_out: Table

  def predict(
    self, params: Number | None = None, tokens: Number | None = None, flops: Number | None = None
  ) -> Any:
    """The measure at N and D; for isoflop (the best model) and power, at C."""
    return _evaluate(self.law, params, tokens, flops)

  def predict_draws(
    self, params: Number | None = None, tokens: Number | None = None, flops: Number | None = None
  ) -> Array:
    """`predict` under each bootstrap draw: [R, *shape]."""
    if self.draws is None:
      raise ConfigError("this fit has no bootstrap draws: fit with bootstrap > 0")
    return _evaluate(self.draws, params, tokens, flops)

  def predict_interval(
    self,
    params: Number | None = None,
    tokens: Number | None = None,
    flops: Number | None = None,
    *,
    run: bool = False,
  ) -> tuple[Any, Any]:
    """95 % interval of the law; with `run`, of one new run, which scatters about the law."""
    draws = self.predict_draws(params, tokens, flops)
    if run:
      rng = np.random.default_rng(0)
      draws = draws * np.exp(rng.choice(self.scatter, draws.shape))
    return interval(draws)

  def optimum(self, flops: Scalar, flops_of: Flops = 6.0) -> Optimum:
    """The N and D of lowest loss at a budget (see optimum.py; isoflop ignores `flops_of`)."""
    return _optimum(self.law, flops, flops_of)

  def optimum_draws(self, flops: Scalar, flops_of: Flops = 6.0) -> Optimum:
    """`optimum` under each bootstrap draw; NaN if a draw has no optimum."""
    if self.draws is None:
      raise ConfigError("this fit has no bootstrap draws: fit with bootstrap > 0")
    return _optimum(self.draws, flops, flops_of)

  @property
  def flops_coefficient(self) -> float:
    """Median C / (N D) of the rows: the c in C = c N D for these runs."""
    n, d = self.table.numbers("params"), self.table.numbers(self.data)
    return float(np.median(self.table.numbers("flops") / (n * d)))

  def as_json(self, budgets: Sequence[float] = ()) -> dict[str, Any]:
    """The fit as Python numbers; NaN becomes None. budgets: FLOPs at which to give the optimum."""
    values = _named(self.law)
    out: dict[str, Any] = {"method": self.method, "target": self.target, "data": self.data}
    if isinstance(self.law, IsoFlop):
      coefficients = {name: values.pop(name) for name in ("k_params", "k_tokens")}
      coefficients["loss"] = {name: values.pop(name) for name in ("floor", "k", "gamma")}
      out |= values | {"coefficients": coefficients, "minima": [asdict(m) for m in self.minima]}
    else:
      out |= values
    if self.draws is not None:
      draws = {name: draws for name, draws in _named(self.draws).items() if np.ptp(draws) > 0}
      out["intervals"] = {name: interval(values) for name, values in draws.items()}
    out |= {"objective": self.objective, "n": len(self.table), "bootstrap": self.resampling}
    out["residuals"] = [
      {"line": line, "residual": residual}
      for line, residual in zip(self.table.lines, self.residuals)
    ]
    warnings = [*self.warnings, *too_far(self.table, budgets)]
    out |= {"outliers": self.outliers, "warnings": warnings}
    out["held_out"] = [_held_out(self, i) for i in range(len(self.held_out))]
    out["optima"] = [_optimum_json(self, flops) for flops in budgets]
    return finite(out)


def _evaluate(
  law: AnyLaw, params: Number | None, tokens: Number | None, flops: Number | None
) -> Any:
  if isinstance(law, Additive):
    if params is None or tokens is None:
      raise ConfigError("the additive law predicts from params and tokens")
    return law.loss(params, tokens)
  if flops is None:
    raise ConfigError("isoflop and power predict from flops")
  return law.at(flops)


def _optimum(law: AnyLaw, flops: Scalar, flops_of: Flops) -> Optimum:
  if isinstance(law, Power):
    raise ConfigError("a power law in FLOPs does not determine the model size: use another method")
  return law.optimum(flops) if isinstance(law, IsoFlop) else optimum(law, flops, flops_of)


def _named(law: AnyLaw) -> dict[str, Any]:
  return law.as_dict() | ({"a": law.a, "b": law.b} if isinstance(law, Additive) else {})


def _held_out(fit: Fit, i: int) -> dict[str, Any]:
  row = fit.held_out.rows(np.arange(len(fit.held_out)) == i)
  names = ("flops",) if fit.method == "power" else ("params", fit.data, "flops")
  at = {name: row.numbers(name)[0] for name in names}
  where = [at.get("params"), at.get(fit.data), at["flops"]]
  observed, predicted = row.numbers(fit.target)[0], fit.predict(*where)
  out = {"line": row.lines[0], **at, "observed": observed, "predicted": predicted}
  if "name" in row:
    out["name"] = row.text("name")[0]
  out["relative_error"] = observed / predicted - 1
  if fit.draws is not None:
    out["interval"] = fit.predict_interval(*where)
    out["run_interval"] = fit.predict_interval(*where, run=True)
  return out


def _optimum_json(fit: Fit, flops: float) -> dict[str, Any]:
  c = fit.flops_coefficient
  out: dict[str, Any] = {"flops": flops, "flops_coefficient": c}
  out |= fit.optimum(flops, c).as_dict()
  if fit.draws is not None:
    draws = fit.optimum_draws(flops, c).as_dict()
    out["intervals"] = {name: interval(value) for name, value in draws.items()}
  return out


def _resampling(method: str, resample: str, n: int) -> str:
  check_choice("resampling", resample, RESAMPLE)
  if resample == "auto":
    return {"parametric": "rows", "isoflop": "wild"}.get(
      method, "rows" if n >= MANY_ROWS else "wild"
    )
  if (method, resample) == ("parametric", "wild"):
    raise ConfigError("wild residuals give too narrow intervals under Huber's loss: resample rows")
  if (method, resample) == ("isoflop", "rows"):
    raise ConfigError("a parabola's few rows cannot be resampled: use wild residuals")
  return resample


@dataclass(frozen=True)
class _Fitted:
  """The result of one method, for `fit_table`."""

  law: AnyLaw
  draws: AnyLaw | None  # [R]
  fitted: Array  # [n]
  hat: Array  # [n]
  objective: float | None
  resampling: dict[str, Any]
  warnings: list[str]
  minima: tuple[Minimum, ...] = ()


def _fit_law(
  method: str, rows: Rows, floor: float | None, bootstrap: int, resample: str, seed: int
) -> _Fitted:
  power = method == "power"
  axes = [rows.flops] if power else [rows.params, rows.tokens]
  form: type[Power] | type[Additive] = Power if power else Additive
  kind = _resampling(method, resample, len(rows.y))
  first, many, hat = resampled(
    np.log(np.stack(axes)), rows.y, rows.groups, robust=method == "parametric", floor=floor,
    kind=kind, resamples=bootstrap, seed=seed,
  )  # fmt: skip
  warnings = []
  if first.at_bounds[0]:
    warnings.append("a coefficient is 0 or an exponent at its bound: the law has one term too many")
  if first.agreement < 0.5:
    warnings.append(f"only {first.agreement:.0%} of the starts reached the best minimum")
  if not first.converged[0]:
    warnings.append("the search did not converge")
  said: dict[str, Any] = {"kind": None, "resamples": 0}
  draws = None
  if many is not None:
    ok, bounds = many.converged, int((many.at_bounds & many.converged).sum())
    said = {"kind": kind, "resamples": len(ok), "converged": int(ok.sum()), "at_bounds": bounds}
    draws = form.of(many, floor).take(ok)
    if bounds > AT_BOUNDS * len(ok):
      warnings.append(f"{bounds} of {len(ok)} resamples have a coefficient 0 or a bounded exponent")
  law = form.of(first, floor).take(0)
  return _Fitted(law, draws, first.fitted[0], hat, float(first.objective[0]), said, warnings)


def _fit_isoflop(
  rows: Rows, floor: float | None, bootstrap: int, resample: str, seed: int
) -> _Fitted:
  budget = rows.groups.strata if "budget" in rows.table else isoflop.budgets(rows.flops)
  fit = lambda y: isoflop.fit_isoflop(rows.params, rows.tokens, rows.flops, budget, y, floor)
  first = fit(rows.y[None])
  skipped = len(np.unique(budget)) - len(first.minima)
  warnings = isoflop.warnings(first.minima, skipped)
  kind, rng = _resampling("isoflop", resample, len(rows.y)), np.random.default_rng(seed)
  said: dict[str, Any] = {"kind": None, "resamples": 0}
  draws = None
  if bootstrap:
    # Rows that no parabola was fitted to are kept as they are.
    fitted = np.where(np.isfinite(first.fitted), first.fitted, rows.y)
    y = draw_wild(rng, rows.groups, bootstrap, fitted, rows.y, first.leverage, isoflop.WILD_POWER)
    many = fit(perturb(rng, rows.groups, y))
    said = {"kind": kind, "resamples": bootstrap, "converged": int(many.valid.sum())}
    draws = many.law.take(many.valid)
  law = first.law.take(0)
  minima = tuple(first.minima)
  return _Fitted(law, draws, first.fitted, first.leverage, None, said, warnings, minima)


def fit_table(
  table: Table,
  method: str = "variable_projection",
  *,
  target: str = "loss",
  data: str = "tokens",
  irreducible: Scalar | str | None = None,
  drop_highest: int = 0,
  holdout_above: Scalar | None = None,
  bootstrap: int = 1000,
  resample: str = "auto",
  seed: int = 0,
) -> Fit:
  """Fits a law to a table of runs.

  Args:
    method: one of METHODS. target: column of the measure. data: column used as D.
    irreducible: the fixed E or floor; "free" fits it; default: 0 for a power law, else "free".
    drop_highest: number of rows with the highest targets to drop as outliers.
    holdout_above: rows with more FLOPs than this are predicted, not fitted.
    bootstrap: number of resamples, 0 or >= 40; seed: of their random numbers.
    resample: "rows", "wild" or "auto" (docs/laws.md).
  """
  check_choice("method", method, METHODS)
  check_choice("kind of data", data, DATA)
  check_resamples(bootstrap)
  floor = _floor(method, irreducible)
  axes = () if method == "power" else ("params", data)
  rows = select(table, target, axes, drop_highest=drop_highest, holdout_above=holdout_above)
  warnings = check(rows, method, floor, data)
  if left := int(table.empty(target).sum()):
    warnings.append(f"{left} rows have no {target} and are left out")
  how = (rows, floor, bootstrap, resample, seed)
  found = _fit_isoflop(*how) if method == "isoflop" else _fit_law(method, *how)
  residuals = np.log(rows.y / found.fitted)
  scatter = residuals / np.sqrt(1 - np.minimum(found.hat, LEVERAGE))
  return Fit(
    method, target, data, found.law, found.draws, found.objective, rows.table, residuals,
    scatter[np.isfinite(scatter)], rows.outliers, found.resampling, found.minima,
    (*warnings, *found.warnings, *_outlying(residuals)), rows.held_out,
  )  # fmt: skip


def _outlying(residuals: Array) -> list[str]:
  size = np.abs(residuals)
  count = int((size > OUTLYING * 1.4826 * np.nanmedian(size) + 1e-9).sum())
  if not count:
    return []
  return [
    f"{count} rows lie more than {OUTLYING:g} robust standard deviations off the law: see "
    "drop_highest, or method=parametric, which bounds their weight"
  ]


def _floor(method: str, irreducible: Scalar | str | None) -> float | None:
  """The known floor; None if it is fitted."""
  if irreducible is None:
    return 0.0 if method == "power" else None
  try:
    value = None if irreducible == FREE else float(irreducible)
  except ValueError:
    value = -1.0
  if value is not None and not 0 <= value < np.inf:
    raise ConfigError(f"irreducible={irreducible} must be a number of at least 0, or '{FREE}'")
  return value


def level_laws(table: Table, columns: Sequence[str], **options: Any) -> dict[str, Fit]:
  """Fits L_b(C) = E_b + k_b C^-gamma_b to each noise level's column of losses, with E_b free."""
  options = {"irreducible": FREE} | options
  return {name: fit_table(table, "power", target=name, **options) for name in columns}


def main(arguments: list[str]) -> None:
  """Fits a table and prints the result; with --json, prints only JSON."""
  parser = Parser("fit", __doc__)
  add = parser.add_argument
  add("table", type=Path, help="CSV: params,tokens,flops,loss or other measures; seed,stderr,...")
  add("--method", choices=METHODS, default=METHODS[0])
  add("--target", default="loss", help="column of the measure")
  add("--data", choices=DATA, default="tokens", help="column used as D")
  add("--irreducible", help="E, or the floor of a power law: a number, or 'free'")
  add("--drop-highest", type=int, default=0, metavar="K", help="drop the K highest targets")
  add("--holdout-above", type=positive, metavar="FLOP", help="predict rows above, do not fit them")
  add("--bootstrap", type=int, default=1000, metavar="N", help="number of resamples")
  add("--resample", choices=RESAMPLE, default="auto")
  add("--at", type=positive, action="append", default=[], metavar="FLOP", help="show the optimum")
  add("--json", action="store_true", help="print only JSON")
  flags = vars(parser.parse_args(arguments))
  path, budgets, as_json = flags.pop("table"), flags.pop("at"), flags.pop("json")
  needed = ["flops", flags["target"]]
  if flags["method"] != "power":
    needed = ["params", flags["data"], *needed]
  found = fit_table(read_table(path, needed), **flags).as_json(budgets)
  if as_json:
    print(json.dumps(found, indent=1))
  else:
    _show(found)


def _show(found: dict[str, Any]) -> None:
  """Prints a fit as tables and lines."""
  console = Console(highlight=False, soft_wrap=True)
  intervals, coefficients = found.get("intervals", {}), found.get("coefficients", {})
  loss = coefficients.pop("loss", {})
  values = {k: v for k, v in found.items() if k in intervals or k in _NAMES} | coefficients | loss
  lines = RichTable("", found["method"], "95 % interval", box=None)
  for name, value in values.items():
    lines.add_row(name, f"{value:.5g}", _span(intervals.get(name)))
  console.print(lines)
  objective = found["objective"]
  console.print(
    f"{found['n']} rows; outliers: {found['outliers']['rule']}"
    + (f"; objective {objective:.8g}" if objective is not None else "")
  )
  if found["bootstrap"]["resamples"]:
    console.print("bootstrap: " + ", ".join(f"{k} {v}" for k, v in found["bootstrap"].items()))
  for minimum in found.get("minima", []):
    console.print("minimum " + "  ".join(f"{k} {_short(v)}" for k, v in minimum.items()))
  for row in found["held_out"]:
    console.print(
      f"held out, line {row['line']} ({row['flops']:.3g} FLOP): {row['observed']:.5g} observed, "
      f"{row['predicted']:.5g} predicted {_span(row.get('run_interval'))}"
    )
  for best in found["optima"]:
    console.print(
      f"at {best['flops']:.3g} FLOP: N {best['params']:.4g}, D {best['tokens']:.4g}, "
      f"loss {best['loss']:.5g} {_span(best.get('intervals', {}).get('loss'))}"
    )
  for warning in found["warnings"]:
    console.print(f"[yellow]warning:[/] {escape(warning)}")


_NAMES = ("E", "A", "B", "alpha", "beta", "a", "b", "floor", "k", "gamma")


def _short(value: float | int | None) -> str:
  return "none" if value is None else f"{value:.4g}"


def _span(ends: Sequence[float | None] | None) -> str:
  return escape("[{}, {}]".format(*map(_short, ends))) if ends else ""
