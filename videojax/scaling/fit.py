"""Fits a law to a table of runs, with intervals (docs/laws.md).

Letters: N parameters, D data, C FLOPs, n rows, R bootstrap draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from videojax.errors import ConfigError, check_choice
from videojax.scaling import calibration, isoflop
from videojax.scaling.bootstrap import (
  LEVERAGE,
  Scalar,
  check_resamples,
  draw_wild,
  interval,
  perturb,
  resampled,
)
from videojax.scaling.calibration import Ahead, Evidence, Width
from videojax.scaling.isoflop import IsoFlop, Minimum
from videojax.scaling.law_forms import Additive, Number, Power
from videojax.scaling.optimum import Flops, Optimum, best_size, optimum
from videojax.scaling.run_table import Rows, Table, check, coefficients, levels, select

Array = np.ndarray
AnyLaw = Additive | IsoFlop | Power

METHODS = ("auto", "parametric", "variable_projection", "isoflop", "power")
ROBUST_ROWS = 12  # rows from which on 'auto' is parametric; fewer say too little about outliers
DATA = ("tokens", "pixels", "seconds")
RESAMPLE = ("auto", "rows", "wild")
FREE = "free"  # irreducible=FREE: the floor is fitted

MANY_ROWS = 50  # rows from which on rows are resampled; with fewer, such intervals are too narrow
LEAST_ROWS, LEAST_AHEAD = 10, 2  # rows of an extrapolation inside the table: fitted, predicted
OUTLYING = 6.0  # robust standard deviations of the residuals beyond which a row is an outlier
INSIDE = 100  # resamples of an extrapolation inside the table
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
  evidence: Evidence  # of errors beyond the rows
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

  def width(
    self, params: Number | None = None, tokens: Number | None = None, flops: Number | None = None
  ) -> Width:
    """Where the width of an interval comes from (scaling/calibration.py)."""
    draws = self.predict_draws(params, tokens, flops)
    if flops is None:
      assert params is not None and tokens is not None
      flops = self.flops_coefficient * np.multiply(params, tokens)
    return calibration.width(self.evidence, np.nanstd(np.log(draws), 0), self.drop(flops))

  def predict_interval(
    self,
    params: Number | None = None,
    tokens: Number | None = None,
    flops: Number | None = None,
    *,
    run: bool = False,
    level: float = 0.95,
  ) -> tuple[Any, Any]:
    """Interval of the law; with `run`, of one new run, which scatters about the law.

    Beyond the rows' FLOPs (`flops`, by default those of N and D) it grows with the distance.
    """
    width, middle = self.width(params, tokens, flops), self.predict(params, tokens, flops)
    if run:
      return middle * np.exp(-width.half(level)), middle * np.exp(width.half(level))
    law = interval(self.predict_draws(params, tokens, flops), level)
    return calibration.widen(*law, middle, width.beyond(level))

  def drop(self, flops: Number) -> Any:
    """Log of the fall of the lowest loss from the rows' largest FLOPs to these."""
    return np.log(self.lowest(self.top) / self.lowest(np.asarray(flops, float)))

  def lowest(self, flops: Number) -> Any:
    """The law's lowest loss at these FLOPs (any shape), with the rows' c in C = c N D."""
    if not isinstance(self.law, Additive):
      return self.law.at(flops)
    budget = np.asarray(flops, float) / self.flops_coefficient  # N D
    law = self.law
    if law.A > 0 and law.B > 0:
      n = best_size(law, budget)
    else:  # a term is missing, so no size is best: both grow alike
      n = self._middle("params") * np.sqrt(budget / self._middle("params", self.data))
    return law.loss(n, budget / n)

  def _middle(self, *names: str) -> float:
    """Geometric mean over the rows of a product of columns."""
    return float(np.exp(np.sum([np.log(self.table.numbers(name)) for name in names], 0).mean()))

  def optimum(self, flops: Scalar, flops_of: Flops = 6.0) -> Optimum:
    """The N and D of lowest loss at a budget (see optimum.py; isoflop ignores `flops_of`)."""
    return _optimum(self.law, flops, flops_of)

  def optimum_interval(
    self, flops: Scalar, flops_of: Flops = 6.0, *, run: bool = False, level: float = 0.95
  ) -> tuple[float, float]:
    """Interval of the lowest loss at a budget; with `run`, of one run of the best size."""
    best = np.asarray(self.optimum(flops, flops_of).loss)
    draws = np.asarray(self.optimum_draws(flops, flops_of).loss)
    width = calibration.width(self.evidence, np.nanstd(np.log(draws)), self.drop(flops))
    if run:
      return float(best * np.exp(-width.half(level))), float(best * np.exp(width.half(level)))
    low, high = calibration.widen(*interval(draws, level), best, width.beyond(level))
    return float(low), float(high)

  def optimum_draws(self, flops: Scalar, flops_of: Flops = 6.0) -> Optimum:
    """`optimum` under each bootstrap draw; NaN if a draw has no optimum."""
    if self.draws is None:
      raise ConfigError("this fit has no bootstrap draws: fit with bootstrap > 0")
    return _optimum(self.draws, flops, flops_of)

  @cached_property
  def top(self) -> float:
    """The rows' largest FLOPs."""
    return float(self.table.numbers("flops").max())

  @cached_property
  def flops_coefficient(self) -> float:
    """Median C / (N D) of the rows: the c in C = c N D for these runs."""
    n, d = self.table.numbers("params"), self.table.numbers(self.data)
    return float(np.median(self.table.numbers("flops") / (n * d)))


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
  method: str = METHODS[0],
  *,
  target: str = "loss",
  data: str = "tokens",
  irreducible: Scalar | str | None = None,
  drop_highest: int = 0,
  holdout_above: Scalar | None = None,
  bootstrap: int = 1000,
  resample: str = "auto",
  seed: int = 0,
  extrapolate: bool = True,
) -> Fit:
  """Fits a law to a table of runs.

  Args:
    method: one of METHODS; "auto" is parametric from ROBUST_ROWS rows on, with fewer
      variable_projection. target: column of the measure. data: column used as D.
    irreducible: the fixed E or floor; "free" fits it; default: 0 for a power law, else "free".
    drop_highest: number of rows with the highest targets to drop as outliers.
    holdout_above: rows with more FLOPs than this are predicted, not fitted.
    bootstrap: number of resamples, 0 or >= 40; seed: of their random numbers.
    resample: "rows", "wild" or "auto" (docs/laws.md).
    extrapolate: whether to test the law by extrapolating inside the table, if there is a bootstrap.
  """
  check_choice("method", method, METHODS)
  check_choice("kind of data", data, DATA)
  check_resamples(bootstrap)
  floor = _floor(method, irreducible)
  axes = () if method == "power" else ("params", data)
  rows = select(table, target, axes, drop_highest=drop_highest, holdout_above=holdout_above)
  if method == "auto":
    method = "parametric" if len(rows.y) >= ROBUST_ROWS else "variable_projection"
  warnings = check(rows, method, floor, data)
  if left := int(table.empty(target).sum()):
    warnings.append(f"{left} rows have no {target} and are left out")
  how = (rows, floor, bootstrap, resample, seed)
  found = _fit_isoflop(*how) if method == "isoflop" else _fit_law(method, *how)
  residuals = np.log(rows.y / found.fitted)
  scatter = residuals / np.sqrt(1 - np.minimum(found.hat, LEVERAGE))
  there = np.isfinite(scatter)
  free, level = coefficients(method, floor), levels(rows.table)
  evidence = Evidence(
    calibration.robust_scatter(scatter[there], free),
    max(int(there.sum()) - free, 1),
    *calibration.between_budgets(scatter[there], level[there]),
  )
  fit = Fit(
    method, target, data, found.law, found.draws, found.objective, rows.table, residuals,
    scatter[there], rows.outliers, evidence, found.resampling, found.minima,
    (*warnings, *found.warnings, *_outlying(residuals, method == "parametric")), rows.held_out,
  )  # fmt: skip
  if not (bootstrap and extrapolate):
    return fit
  again = dict(
    target=target, data=data, irreducible=FREE if floor is None else floor, resample=resample,
    bootstrap=min(bootstrap, INSIDE), seed=seed, extrapolate=False,
  )  # fmt: skip
  tried = [_inside(fit, level, cut, again) for cut in calibration.cuts(np.unique(level))]
  return replace(fit, evidence=replace(evidence, ahead=tuple(a for a in tried if a)))


def extrapolated(fit: Fit, rest: Table) -> Ahead | None:
  """A fit against runs beyond its rows; None if their prediction is not finite."""
  measured, flops = rest.numbers(fit.target), rest.numbers("flops")
  where: list[Any] = [None, None, flops]
  if isinstance(fit.law, Additive):
    where[:2] = rest.numbers("params"), rest.numbers(fit.data)
  error = np.log(measured / fit.predict(*where))
  law = np.nanstd(np.log(fit.predict_draws(*where)), 0)
  drop = np.maximum(fit.drop(flops), 0)
  if not np.isfinite(error + law + drop).all():
    return None
  return Ahead(fit.top, error, law, drop, fit.evidence.run)


def _inside(whole: Fit, level: Array, cut: float, options: dict[str, Any]) -> Ahead | None:
  """The law of the rows up to a budget against the rows beyond; None if these are too few."""
  below = level <= cut
  if below.sum() < max(LEAST_ROWS, coefficients(whole.method, None) + 2):
    return None
  try:
    fit = fit_table(whole.table.rows(below), whole.method, **options)
  except ConfigError:
    return None  # so few budgets do not determine the law
  rest = whole.table.rows(~below)
  if whole.method == "isoflop":  # predicts the minima of budgets, not runs
    best = [m for m in whole.minima if m.flops > cut * 1.001 and m.loss > 0]
    columns = {"flops": [m.flops for m in best], whole.target: [m.loss for m in best]}
    rest = Table.of(**columns)
  rest = rest.rows(rest.numbers("flops") <= fit.top * calibration.REACH)
  return extrapolated(fit, rest) if len(rest) >= LEAST_AHEAD else None


def _outlying(residuals: Array, robust: bool) -> list[str]:
  size = np.abs(residuals)
  count = int((size > OUTLYING * calibration.NORMAL * np.nanmedian(size) + 1e-9).sum())
  if not count:
    return []
  return [
    f"{count} rows lie more than {OUTLYING:g} robust standard deviations off the law: see "
    "drop_highest" + ("" if robust else ", or method=parametric, which bounds their weight")
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
