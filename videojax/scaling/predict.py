"""Predictions that are dated and sealed before the cells are run, and their score afterwards.

  python -m videojax.scaling predict DIR --budget=FLOP [--irreducible=0]

writes DIR/predictions/BUDGET.json from the finished cells of smaller budgets: the law's parameters,
a loss with a 95 % interval for every held-out cell of that budget and for its best size, and what
coherence the best cell will have. The seal is the SHA-256 of the rest of the file. It shows that
the file was changed, by accident or in haste; who wants to prove the date to others publishes the
seal (a commit, a message) before the cells run.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videojax.files import finite
from videojax.scaling import coherence
from videojax.scaling.cells import Row
from videojax.scaling.curves import Law, SurvivalCurve, fit_law
from videojax.scaling.groups import (
  Setting,
  Sweep,
  budget_of,
  describe,
  load,
  require_finished,
  setting,
  starts,
)

SCHEMA = 1
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
    irreducible: E of the law if it is known; None: sweep.json's, or else fitted.
    draws: bootstrap resamples behind the intervals.
  Returns: the path of the prediction.
  Raises:
    ValueError: there is one already, a cell that it is about has finished, or too few cells have.
  """
  sweep = load(Path(directory))
  if not (math.isfinite(budget) and budget > 0):
    raise ValueError(f"--budget={budget} must be a positive number of FLOP")
  require_finished(sweep)
  path = sweep.directory / "predictions" / f"{budget:.4g}.json"
  if path.exists():
    raise ValueError(f"{path} is there already: a prediction is made once and never replaced")
  asked = [row for row in sweep.rows if row.cell.held_out and same_budget(row, sweep, budget)]
  _refuse_after_the_fact(asked, budget)
  if irreducible is None:
    irreducible = sweep.irreducible
  content = finite(_content(sweep, float(budget), asked, irreducible, draws))
  text = json.dumps(content | {"sha256": seal(content)}, indent=2, allow_nan=False) + "\n"
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, "x") as file:  # x: two processes cannot both be the first
    file.write(text)
  return path


def same_budget(row: Row, sweep: Sweep, budget: float | int) -> bool:
  return math.isclose(budget_of(row, sweep.notes), budget, rel_tol=1e-3)


def _refuse_after_the_fact(asked: Sequence[Row], budget: float | int) -> None:
  done = [row.cell.name for row in asked if row.status == "finished"]
  if done:
    raise ValueError(
      f"cells of {budget:.4g} FLOP have finished already ({', '.join(done)}): a prediction after "
      "the fact is no prediction. Predict a larger budget"
    )


def _content(
  sweep: Sweep, budget: float, asked: Sequence[Row], irreducible: float | int | None, draws: int
) -> Part:
  """All of the file but its seal."""
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
  planned = sweep.notes.get("planned", {}).get(row.cell.name)
  if not planned or not {"params", "tokens", "flops"} <= planned.keys():
    raise ValueError(
      f"{sweep.directory / 'sweep.json'} does not say under 'planned' how many params, tokens and "
      f"flops {row.cell.name} will have: start the sweep once more, it writes them"
    )
  return {key: float(planned[key]) for key in ("params", "tokens", "flops")}


def _cell(sweep: Sweep, law: Law, row: Row) -> Part:
  planned = _planned(sweep, row)
  return {**planned} | law.interval(planned["params"], planned["tokens"])


def _coherence(sweep: Sweep, series: Setting, budget: float) -> Part:
  """'measure@split' -> {mean, low, high} of the cell with the lowest loss, where there is a fit."""
  out = {}
  best = [g for g in sweep.frontier(series) if g.budget < budget * 0.999]
  for name in coherence.measured(sweep):
    for split in sweep.splits:
      fit, _ = coherence.fitted(sweep, best, name, split)
      # Survival has no interval for one run; an exponent that may be 0 foretells nothing.
      if fit and not isinstance(fit, SurvivalCurve) and fit.numbers()["low"] > 0:
        out[f"{name}@{split}"] = fit.interval(budget)
  return out


# --- the seal -----------------------------------------------------------------------------------


def seal(content: Mapping[str, Any]) -> str:
  """SHA-256 of everything but the seal itself, in one canonical form."""
  rest = {k: v for k, v in content.items() if k != "sha256"}
  text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(path: Path | str) -> str:
  """'' if the prediction is as it was written; otherwise what is wrong with it, in words."""
  path = Path(path)
  try:
    content = json.loads(path.read_text())
    told = content["sha256"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    return f"{path.name} cannot be read ({error!r})"
  if told != seal(content):
    return f"the seal of {path.name} is broken: the file was changed after it was written"
  return ""


# --- the score ----------------------------------------------------------------------------------


def score(sweep: Sweep) -> Part:
  """Every prediction beside what came: rows per held-out cell, and what is wrong with the files.

  Returns: {files: [...], cells: [...], coherence: [...], warnings: [...], unpredicted: [...]}.
  """
  out: Part = {"files": [], "cells": [], "coherence": [], "warnings": []}
  by_name = {row.cell.name: row for row in sweep.rows}
  for path in sorted((sweep.directory / "predictions").glob("*.json")):
    wrong = verify(path)
    out["warnings"] += [wrong] if wrong else []
    try:
      content = json.loads(path.read_text())
      rows = [_scored(by_name, content, name) for name in content["cells"]]
      changed = _changed(sweep, by_name, content)
      late = [r["cell"] for r in rows if r["late"]]
      measured = _scored_coherence(sweep, content)
      told = {k: content[k] for k in ("date", "budget", "sha256", "irreducible")}
      best = [{"series": part["series"]} | part["best"] for part in content["series"]]
    except (ValueError, KeyError, TypeError, AttributeError):
      out["warnings"].append(f"{path.name} is no prediction, or is damaged: it is not scored")
      continue
    out["warnings"] += _warnings(path.name, changed, late)
    made = {"file": path.name, "sound": not wrong, "best": best, "from": len(content["from"])}
    out["files"].append(made | told)
    out["cells"] += rows
    out["coherence"] += measured
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
      f"{name} was made from results that have changed or gone since: {', '.join(changed)}"
    )
  if late:
    out.append(
      f"{name} is dated after the start of {', '.join(late)}: what it says of these cells is no "
      "prediction"
    )
  return out


def _changed(sweep: Sweep, by_name: Mapping[str, Row], content: Part) -> list[str]:
  gone = []
  for name, told in content["from"].items():
    path = sweep.directory / "cells" / name / "result.json"
    if name not in by_name or not path.exists() or file_sha256(path) != told:
      gone.append(name)
  return gone


def _scored(by_name: Mapping[str, Row], content: Part, name: str) -> Part:
  row, told = by_name[name], content["cells"][name]
  began = [start["time"] for start in starts(row) if "time" in start]
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
  """What was said of the best cell's coherence beside what the best cell had."""
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
  """The command; see the docstring of this file."""
  raw = argparse.RawDescriptionHelpFormatter
  parser = argparse.ArgumentParser(
    "python -m videojax.scaling predict", description=__doc__, formatter_class=raw
  )
  parser.add_argument("directory", type=Path, help="of the sweep (it holds sweep.json)")
  parser.add_argument("--budget", type=float, required=True, help="training FLOP to predict")
  parser.add_argument("--irreducible", type=float, help="E of the law where it is known, e.g. 0")
  told = parser.parse_args(arguments)
  path = predict(told.directory, told.budget, irreducible=told.irreducible)
  content = json.loads(path.read_text())
  for name, cell in content["cells"].items():
    print(f"{name}: {cell['mean']:.4g} [{cell['low']:.4g}, {cell['high']:.4g}]")
  for part in content["series"]:
    best, where = (
      part["best"],
      f"best loss of {content['budget']:.4g} FLOP {part['series']}".strip(),
    )
    if best["mean"] is None:
      print(f"{where}: {best['why']}")
    else:
      print(
        f"{where}: {best['mean']:.4g} [{best['low']:.4g}, {best['high']:.4g}] "
        f"at {best['params']:.3g} parameters"
      )
  print(f"{path}  sha256 {content['sha256']}")
