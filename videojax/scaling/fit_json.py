"""A fit as plain numbers: its coefficients, intervals, predictions, and what they come from."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from videojax.io.files import finite
from videojax.scaling.bootstrap import interval
from videojax.scaling.fit import AnyLaw, Fit
from videojax.scaling.isoflop import IsoFlop
from videojax.scaling.law_forms import Additive
from videojax.scaling.run_table import too_far


def fit_json(
  fit: Fit, budgets: Sequence[float] = (), runs: Sequence[tuple[float, ...]] = ()
) -> dict[str, Any]:
  """The fit as Python numbers; NaN becomes None.

  Args: budgets: FLOPs at which to give the optimum. runs: (N, D) or (N, D, C) of runs to predict.
  """
  values = _named(fit.law)
  out: dict[str, Any] = {"method": fit.method, "target": fit.target, "data": fit.data}
  if isinstance(fit.law, IsoFlop):
    coefficients = {name: values.pop(name) for name in ("k_params", "k_tokens")}
    coefficients["loss"] = {name: values.pop(name) for name in ("floor", "k", "gamma")}
    out |= values | {"coefficients": coefficients, "minima": [asdict(m) for m in fit.minima]}
  else:
    out |= values
  if fit.draws is not None:
    draws = {name: draws for name, draws in _named(fit.draws).items() if np.ptp(draws) > 0}
    out["intervals"] = {name: interval(values) for name, values in draws.items()}
  out |= {"objective": fit.objective, "n": len(fit.table), "bootstrap": fit.resampling}
  out["residuals"] = [
    {"line": line, "residual": residual} for line, residual in zip(fit.table.lines, fit.residuals)
  ]
  warnings = [*fit.warnings, *too_far(fit.table, budgets)]
  out |= {"outliers": fit.outliers, "warnings": warnings}
  if fit.draws is not None:
    out["calibration"] = fit.evidence.as_dict()
  out["held_out"] = [_held_out(fit, i) for i in range(len(fit.held_out))]
  out["runs"] = [_run_json(fit, *run) for run in runs]
  out["optima"] = [_optimum_json(fit, flops) for flops in budgets]
  return finite(out)


def _named(law: AnyLaw) -> dict[str, Any]:
  return law.as_dict() | ({"a": law.a, "b": law.b} if isinstance(law, Additive) else {})


def _run_json(fit: Fit, params: float, data: float, flops: float | None = None) -> dict[str, Any]:
  """The prediction of one run; with intervals if there is a bootstrap."""
  flops = flops or fit.flops_coefficient * params * data
  at = {"params": params, fit.data: data, "flops": flops}
  return at | {"predicted": fit.predict(params, data)} | _intervals(fit, params, data, flops)


def _intervals(fit: Fit, *where: Any) -> dict[str, Any]:
  """The intervals of the law and of one run, and where their width comes from."""
  if fit.draws is None:
    return {}
  return {
    "interval": fit.predict_interval(*where),
    "run_interval": fit.predict_interval(*where, run=True),
    "width": fit.width(*where).as_dict(),
  }


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
  return out | _intervals(fit, *where)


def _optimum_json(fit: Fit, flops: float) -> dict[str, Any]:
  c = fit.flops_coefficient
  out: dict[str, Any] = {"flops": flops, "flops_coefficient": c}
  out |= fit.optimum(flops, c).as_dict()
  if fit.draws is not None:
    draws = fit.optimum_draws(flops, c).as_dict()
    out["intervals"] = {name: interval(value) for name, value in draws.items()}
    out["intervals"]["loss"] = fit.optimum_interval(flops, c)
    out["run_interval"] = fit.optimum_interval(flops, c, run=True)
  return out
