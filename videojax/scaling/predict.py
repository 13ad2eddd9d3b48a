"""Predicts held-out cells before they run, dated and sealed, and scores the predictions afterwards.

  python -m videojax.scaling predict DIR --budget=FLOP [--irreducible=0]

writes DIR/predictions/BUDGET.json from the finished cells of smaller budgets: the coefficients of
the law, a loss with a 95 % prediction interval for every held-out cell of that budget and for its
best size, and the coherence of the best cell. The seal is the SHA-256 of the rest of the file. It
reveals accidental and hasty changes of the file; to prove the date to others, publish the seal (in
a commit or a message) before the cells run.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videojax.errors import ConfigError
from videojax.io.files import finite
from videojax.io.schema import check_form, read_as
from videojax.scaling import coherence
from videojax.scaling.calibration import Width
from videojax.scaling.cells import Row, read_starts
from videojax.scaling.command import Parser, positive
from videojax.scaling.curves import Law, fit_law
from videojax.scaling.sealed import (
  SCHEMA,
  Prediction,
  file_sha256,
  path_of,
  same_budget,
  seal,
  unpredicted,
  verify,
  write_first,
)
from videojax.scaling.sweep_groups import Setting, Sweep, describe, load, require_finished, setting

Part = dict[str, Any]


def predict(
  directory: Path | str,
  budget: float | int,
  *,
  irreducible: float | int | None = None,
  draws: int = 2000,
) -> Path:
  """Writes the prediction for a budget that has not been run.

  Args:
    directory: of the sweep.
    budget: training FLOPs of the cells to predict.
    irreducible: E of the law if it is known; None: the one in sweep.json, else fitted.
    draws: number of bootstrap resamples for the intervals.
  Returns: the path of the prediction.
  Raises:
    ConfigError: there is a valid prediction already, a cell to predict has finished, too few
      smaller cells have finished, or the law gives no finite number.
  """
  sweep = load(Path(directory))
  if not (math.isfinite(budget) and budget > 0):
    raise ConfigError(f"--budget={budget} must be a positive number of FLOP")
  require_finished(sweep)
  path = path_of(sweep.directory, budget)
  damaged = path.exists()
  if not unpredicted(sweep.directory, budget):
    raise ConfigError(f"{path} exists already: predictions are made once and never replaced")
  asked = [row for row in sweep.rows if row.cell.held_out and same_budget(row, sweep, budget)]
  _refuse_after_the_fact(asked, budget)
  if irreducible is None:
    irreducible = sweep.irreducible
  content = finite(_content(sweep, float(budget), asked, irreducible, draws))
  content |= {"sha256": seal(content)}
  check_form(content, Prediction, f"no prediction: the law of {sweep.directory}")
  path.parent.mkdir(parents=True, exist_ok=True)
  if damaged:
    path.unlink(missing_ok=True)
  write_first(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
  return path


def _refuse_after_the_fact(asked: Sequence[Row], budget: float | int) -> None:
  done = [row.cell.name for row in asked if row.status == "finished"]
  if done:
    raise ConfigError(
      f"cells of {budget:.4g} FLOP have finished already ({', '.join(done)}): they can no "
      "longer be predicted. Predict a larger budget"
    )


def _content(
  sweep: Sweep, budget: float, asked: Sequence[Row], irreducible: float | int | None, draws: int
) -> Part:
  """Everything in the file except the seal."""
  wanted = list(dict.fromkeys(setting(row, sweep.series_keys) for row in asked)) or sweep.series
  used: dict[str, Path] = {}
  cells: Part = {}
  parts = []
  for series in wanted:
    groups = [g for g in sweep.for_law(series) if g.budget < budget * 0.999]
    law = fit_law(groups, irreducible=irreducible, draws=draws)
    mine = [row for row in asked if setting(row, sweep.series_keys) == series]
    last = min(g.value("loss")[0] for g in groups if g.budget == groups[-1].budget)
    cells |= {row.cell.name: _cell(sweep, law, row) | {"last_best_loss": last} for row in mine}
    planned = [_planned(sweep, row) for row in mine]
    used |= {row.cell.name: row.directory / "result.json" for g in groups for row in g.rows}
    parts.append({
      "series": describe(series),
      "law": {k: v for k, v in law.numbers().items() if k != "points"},
      "best": law.best(budget, planned),
      "last_best_loss": last,
      "coherence": _coherence(sweep, series, budget),
    })  # fmt: skip
  return {
    "schema": SCHEMA,
    "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "budget": budget,
    "irreducible": irreducible,
    "least_steps": sweep.notes.get("least_steps"),
    "started": [row.cell.name for row in asked if row.status == "started"],
    "cells": cells,
    "series": parts,
    "from": {name: file_sha256(path) for name, path in sorted(used.items())},
  }


def _planned(sweep: Sweep, row: Row) -> Mapping[str, float]:
  planned = sweep.notes.get("planned", {}).get(row.cell.name, {})
  if not all(planned.get(key, 0) > 0 for key in ("params", "tokens", "flops")):
    raise ConfigError(
      f"{sweep.directory / 'sweep.json'} has no 'planned' params, tokens and flops for "
      f"{row.cell.name}: start the sweep again, which writes them"
    )
  return {key: float(planned[key]) for key in ("params", "tokens", "flops")}


def _cell(sweep: Sweep, law: Law, row: Row) -> Part:
  planned = _planned(sweep, row)
  return {**planned} | law.interval(planned["params"], planned["tokens"], planned["flops"])


def _coherence(sweep: Sweep, series: Setting, budget: float) -> Part:
  """'measure@split' -> {mean, low, high} for the cell of lowest loss, if there is a fit."""
  out = {}
  best = [g for g in sweep.frontier(series) if g.budget < budget * 0.999]
  for name in coherence.measured(sweep):
    for split in sweep.splits:
      fit, _ = coherence.fitted(sweep, best, name, split)
      if fit and fit.numbers()["low"] > 0:  # an exponent that may be 0 predicts nothing
        told = fit.interval(budget)
        if all(map(math.isfinite, told.values())):
          out[f"{name}@{split}"] = told
  return out


# --- the score ----------------------------------------------------------------------------------


def score(sweep: Sweep) -> Part:
  """Compares every prediction with the outcome, per held-out cell; checks the prediction files.

  Returns: {files: [...], cells: [...], coherence: [...], warnings: [...], unpredicted: [...]}.
  """
  out: Part = {"files": [], "cells": [], "coherence": [], "warnings": []}
  by_name = {row.cell.name: row for row in sweep.rows}
  for path in sorted((sweep.directory / "predictions").glob("*.json")):
    wrong = verify(path)
    out["warnings"] += [wrong] if wrong else []
    try:
      content = read_as(path, Prediction)
    except ConfigError:
      out["warnings"].append(f"{path.name} is not a prediction, or is damaged: it is not scored")
      continue
    unknown = sorted(content["cells"].keys() - by_name.keys())
    if unknown:
      out["warnings"].append(f"{path.name} predicts cells that are not here: {', '.join(unknown)}")
    rows = [_scored(by_name[name], content) for name in content["cells"] if name in by_name]
    late = [r["cell"] for r in rows if r["late"]]
    out["warnings"] += _warnings(path.name, _changed(sweep, by_name, content), late)
    best = [{"series": part["series"]} | part["best"] for part in content["series"]]
    made = {"file": path.name, "sound": not wrong, "best": best, "from": len(content["from"])}
    told = {k: content[k] for k in ("date", "budget", "sha256", "irreducible")}
    out["files"].append(made | told)
    out["cells"] += rows
    out["coherence"] += _scored_coherence(sweep, content)
  predicted = {row["cell"] for row in out["cells"]}
  out["unpredicted"] = [
    r.cell.name for r in sweep.rows
    if r.cell.held_out and r.status == "finished" and r.cell.name not in predicted
  ]  # fmt: skip
  return out


def _warnings(name: str, changed: Sequence[str], late: Sequence[str]) -> list[str]:
  out = []
  if changed:
    out.append(
      f"{name} was made from results that have since changed or disappeared: {', '.join(changed)}"
    )
  if late:
    out.append(f"{name} is dated after the start of {', '.join(late)}: it does not predict them")
  return out


def _changed(sweep: Sweep, by_name: Mapping[str, Row], content: Part) -> list[str]:
  gone = []
  for name, told in content["from"].items():
    path = sweep.directory / "cells" / name / "result.json"
    if name not in by_name or not path.is_file() or file_sha256(path) != told:
      gone.append(name)
  return gone


def _scored(row: Row, content: Part) -> Part:
  name, told = row.cell.name, content["cells"][row.cell.name]
  began = [start["time"] for start in read_starts(row.directory) if "time" in start]
  measured = row.value("loss")[0] if row.status == "finished" else None
  out = {
    "cell": name, "params": told["params"],
    "budget": content["budget"], "status": row.status,
    "predicted": {k: told[k] for k in ("mean", "low", "high")}, "measured": measured,
    "baseline": told["last_best_loss"],
    "late": bool(began) and content["date"] > min(began),
    "error": None, "inside": None, "baseline_error": None,
  }  # fmt: skip
  if measured is not None:
    out |= {
      "error": told["mean"] / measured - 1,
      "inside": told["low"] <= measured <= told["high"],
      "baseline_error": out["baseline"] / measured - 1,
    }
  return out


def _scored_coherence(sweep: Sweep, content: Part) -> list[Part]:
  """Predicted and measured coherence of the best cell, a row per series and measure."""
  rows = []
  for series in sweep.series:
    told = [p for p in content["series"] if p["series"] == describe(series)]
    front = [g for g in sweep.frontier(series, held_out=True)
             if math.isclose(g.budget, content["budget"], rel_tol=1e-3)]  # fmt: skip
    for key, value in (told[0]["coherence"] if told else {}).items():
      measured = coherence.value(front[0], key)[0] if front else math.nan
      seen = bool(np.isfinite(measured))
      name, _, split = key.partition("@")
      rows.append({
        "measure": key, "title": coherence.about(name).title, "split": split,
        "series": describe(series), "budget": content["budget"],
        "predicted": value, "measured": measured if seen else None,
        "inside": value["low"] <= measured <= value["high"] if seen else None,
        "cell": front[0].name if front else None,
      })  # fmt: skip
  return rows


def main(arguments: Sequence[str]) -> None:
  """Runs the command; see the docstring of this file."""
  parser = Parser("predict", __doc__)
  parser.add_argument("directory", type=Path, help="the sweep's directory (with sweep.json)")
  parser.add_argument("--budget", type=positive, required=True, help="training FLOP to predict")
  parser.add_argument("--irreducible", type=float, help="E of the law if it is known, e.g. 0")
  told = parser.parse_args(arguments)
  path = predict(told.directory, told.budget, irreducible=told.irreducible)
  content = read_as(path, Prediction)
  for name, cell in content["cells"].items():
    print(f"{name}: {_span(cell)} {Width.text(cell['width'])}")
  for part in content["series"]:
    best = part["best"]
    where = f"best loss of {content['budget']:.4g} FLOP {part['series']}".strip()
    if best["mean"] is None:
      print(f"{where}: {best['why']}")
    else:
      print(f"{where}: {_span(best)} at {best['params']:.3g} parameters")
    print(part["law"]["calibration"]["said"])
  print(f"{path}  sha256 {content['sha256']}")


def _span(told: Part) -> str:
  mean, *ends = (told[key] for key in ("mean", "low", "high"))
  return f"{mean:.4g} [{', '.join('none' if end is None else f'{end:.4g}' for end in ends)}]"
