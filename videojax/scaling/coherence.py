"""How coherence in a sweep depends on compute, on model size and on the loss."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from videojax.errors import ConfigError
from videojax.scaling import law_forms
from videojax.scaling.sweep_groups import Group, Setting, Sweep, describe, per_clip
from videojax.scaling.trends import LEAST, Curve, Line, power_line, rate_curve, survival_curve

Part = dict[str, Any]
LEAST_CELLS = 5  # for an R2
BASELINES = ("floor", "copy_last", "extrapolate")


class Measure(NamedTuple):
  """How the report shows a measure of docs/measures.md."""

  title: str
  unit: str
  better: str
  meaning: str


# Copies videojax/measures/physics.py, which needs JAX; a report does not (a test compares the two).
MEASURES = {
  "velocity_error": Measure(
    "Velocity error", "world units/s", "down",
    "how far the velocity of a generated disc is from the simulator's",
  ),
  "position_error_px": Measure(
    "Position error", "px", "down", "distance of a generated disc's centre from the true one"
  ),
  "permanence": Measure(
    "Permanence", "fraction", "up",
    "share of discs and frames in which the disc has the right mass and nothing else is there",
  ),
  "permanence_after_occlusion": Measure(
    "Permanence after occlusion", "fraction", "up", "the same, once a hidden disc is back"
  ),
  "survival_frames": Measure(
    "Survival", "frames", "up", "generated frames before the first in which a disc is not intact"
  ),
  "color_drift": Measure(
    "Colour drift", "RGB in [-1,1]", "down", "distance of a disc's colour from the true one"
  ),
  "radius_drift": Measure(
    "Radius drift", "fraction", "down", "how far a disc's radius is off, as a share of the true one"
  ),
  "momentum_error": Measure(
    "Momentum error", "fraction", "down", "error of the total momentum, as a share of its size"
  ),
  "energy_error": Measure(
    "Energy error", "fraction", "down", "error of the energy, as a share of the kinetic energy"
  ),
}  # fmt: skip


def analyse(sweep: Sweep) -> Part:
  """The coherence part of the report, or the reason why there is none."""
  names = measured(sweep)
  if not names:
    return {"why": "Coherence is left out: the data of this sweep do not come from a simulator, "
                   "so there is no ground truth to compare with."}  # fmt: skip
  series = main_series(sweep)
  measures = [_measure(sweep, series, name) for name in names]
  return {
    "series": describe(series),
    "onset": {k: v for k, v in sweep.notes.get("onset", {}).items() if k in names},
    "clips": _clips(sweep.groups[0], names[0], sweep.splits[0]),
    "measures": measures,
    "exponents": [
      {"measure": m["name"], "title": m["title"], "split": split} | one["fit"]
      for m in measures
      for split, one in m["splits"].items()
      if one["fit"]
    ],
    "unfitted": {
      f"{m['title']}, {split}": one["why"]
      for m in measures
      for split, one in m["splits"].items()
      if not one["fit"]
    },
    "best_sizes": best_sizes(sweep, series, names),
    "predictors": predictors(sweep, series, names),
  }


def measured(sweep: Sweep) -> list[str]:
  """Measures that some cell has, in the order of MEASURES; unknown ones last."""
  there = {
    name
    for group in sweep.groups
    for name, row in group.rows[0].result["coherence"].items()
    if any(row.get(split) is not None for split in sweep.splits)
  }
  return [n for n in MEASURES if n in there] + sorted(there - MEASURES.keys())


def main_series(sweep: Sweep) -> Setting:
  """The series drawn against compute: the one with most budgets, then with the lowest loss."""

  def rank(series: Setting) -> tuple[int, float]:
    best = sweep.frontier(series, held_out=True)
    return len(best), -min(group.value("loss")[0] for group in best)

  return max(sweep.series, key=rank)


def about(name: str) -> Measure:
  """How to show a measure; one not in MEASURES is treated as an error (lower is better)."""
  return MEASURES.get(name, Measure(name.replace("_", " ").capitalize(), "", "down", name))


def value(group: Group, measure: str) -> tuple[float, float]:
  """Group.value; NaN if the cell does not have the measure."""
  try:
    return group.value(measure)
  except ValueError:
    return math.nan, math.nan


def past_onset(sweep: Sweep, group: Group, name: str) -> bool:
  """Whether a cell's measure, on the first split, is below the sweep's `onset` for it.

  After little training a model has learned nothing about motion, and its errors do not depend on
  compute: laws hold from the onset on. One split decides, so that all splits use the same cells.
  """
  limit = sweep.notes.get("onset", {}).get(name)
  return limit is None or value(group, f"{name}@{sweep.splits[0]}")[0] < limit


def _clips(group: Group, name: str, split: str) -> int | None:
  return len(group.per_clip(f"{name}@{split}")) or None


def _measure(sweep: Sweep, series: Setting, name: str) -> Part:
  shown = about(name)
  splits = {split: _split(sweep, series, name, split) for split in sweep.splits}
  return {
    "name": name,
    **shown._asdict(),
    **baselines(sweep, name),
    "splits": {split: one for split, one in splits.items() if one["frontier"]},
  }


def baselines(sweep: Sweep, name: str) -> Part:
  """Floor and baselines, from the first cell that has them (all cells see the same clips)."""
  for group in sweep.groups:
    row = group.rows[0].result["coherence"].get(name, {})
    if any(row.get(key) is not None for key in BASELINES):
      return {key: None if row.get(key) is None else float(row[key]) for key in BASELINES}
  return dict.fromkeys(BASELINES)


def _split(sweep: Sweep, series: Setting, name: str, split: str) -> Part:
  """One measure on one split: the cells of lowest loss, all cells, and the fit."""
  key = f"{name}@{split}"
  best = sweep.frontier(series, held_out=True)
  front = [p for p in (_point(sweep, g, name, split) for g in best) if p]
  pairs = [(g.flops, value(g, key)[0]) for g in sweep.groups if g.series == series]
  others = [{"flops": flops, "value": v} for flops, v in pairs if math.isfinite(v)]
  fit, why = fitted(sweep, best, name, split)
  numbers = fit.numbers() if fit else None
  copied = baselines(sweep, name)["copy_last"]
  if numbers and isinstance(fit, Line) and copied is not None:
    numbers["onset"] = fit.reaches(copied)
  return {"frontier": front, "others": others, "fit": numbers, "why": why}


def _point(sweep: Sweep, group: Group, name: str, split: str) -> Part | None:
  mean, stderr = value(group, f"{name}@{split}")
  if not math.isfinite(mean):
    return None
  return {
    "cell": group.name, "budget": group.budget, "flops": group.flops, "value": mean,
    "stderr": stderr, "seeds": len(group.rows), "held_out": group.held_out,
    "before_onset": not past_onset(sweep, group, name),
  }  # fmt: skip


def fitted(sweep: Sweep, best: Sequence[Group], name: str, split: str) -> tuple[Curve | None, str]:
  """(law, '') through the best-loss cells past the onset, without held-out ones; or (None, why).

  Errors follow floor + k C^-gamma. For shares the odds of failing fall as C^-gamma; for survival
  the hazard per frame does.
  """
  key = f"{name}@{split}"
  used = [g for g in best if not g.held_out and _has(g, key) and past_onset(sweep, g, name)]
  if len(used) < LEAST:
    past = " past the onset" if name in sweep.notes.get("onset", {}) else ""
    return None, f"budgets{past}: {len(used)}, a fit needs {LEAST}"
  try:
    if name == "survival_frames":
      return _survival(sweep, used, key), ""
    if about(name).better == "up" and about(name).unit == "fraction":
      share, stderr = np.array([value(g, key) for g in used]).T
      clips = len(used[0].per_clip(key)) or 1
      return rate_curve([g.flops for g in used], share, stderr, clips), ""
    return _power(sweep, used, name, key)
  except ValueError as error:
    return None, str(error)


def _power(sweep: Sweep, used: Sequence[Group], name: str, key: str) -> tuple[Curve | None, str]:
  floor = baselines(sweep, name)["floor"] or 0.0
  sign = 1 if about(name).better == "down" else -1
  above = np.array([sign * (value(g, key)[0] - floor) for g in used])
  used, above = [g for g, v in zip(used, above) if v > 0], above[above > 0]
  if len(used) < LEAST:
    return None, f"budgets off the floor: {len(used)}, a fit needs {LEAST}"
  over_clips = np.array([np.mean([row.value(key)[1] for row in g.rows]) for g in used]) / above
  over_seeds = run_sd(sweep, key, sign, floor) / np.sqrt([len(g.rows) for g in used])
  relative = np.hypot(np.nan_to_num(over_clips), over_seeds)
  return power_line([g.flops for g in used], above, relative, offset=floor, sign=sign), ""


def _survival(sweep: Sweep, used: Sequence[Group], key: str) -> Curve:
  last = baselines(sweep, "survival_frames")["floor"]
  frames = [per_clip(g.rows[0], key) for g in used]
  if last is None or not all(len(f) for f in frames):
    raise ConfigError("the cells have not kept the frames of every clip")
  return survival_curve([g.flops for g in used], frames, round(last))


def run_sd(sweep: Sweep, key: str, sign: int, floor: float) -> float:
  """Pooled log-sd over seeds of a measure above its floor; 0 if no setting has several seeds."""
  squares, freedom = 0.0, 0
  for group in sweep.groups:
    values = sign * (group.values(key) - floor) if _has(group, key) else np.zeros(0)
    values = values[values > 0]
    if len(values) > 1:
      squares += float(((np.log(values) - np.log(values).mean()) ** 2).sum())
      freedom += len(values) - 1
  return math.sqrt(squares / freedom) if freedom else 0.0


def _has(group: Group, key: str) -> bool:
  return math.isfinite(value(group, key)[0])


# --- is the best model for coherence smaller? ---------------------------------------------------


def best_sizes(sweep: Sweep, series: Setting, names: Sequence[str]) -> list[Part]:
  """The best cell by loss and by each measure, for every budget with two or more sizes."""
  groups = sweep.tuned(series, held_out=True)
  rows = []
  for budget in sorted({g.budget for g in groups}):
    here = [g for g in groups if g.budget == budget]
    if len({g.params for g in here}) < 2:
      continue
    by_loss = min(here, key=lambda g: g.value("loss")[0])
    for name in names:
      for split in sweep.splits:
        row = _compare(here, by_loss, name, split)
        if row:
          rows.append({"budget": budget} | row)
  return rows


def _compare(here: Sequence[Group], by_loss: Group, name: str, split: str) -> Part | None:
  key = f"{name}@{split}"
  sign = 1 if about(name).better == "down" else -1
  some = [g for g in here if _has(g, key)]
  if by_loss not in some:
    return None
  best = min(some, key=lambda g: (sign * value(g, key)[0], g is not by_loss))
  difference, stderr = paired(by_loss, best, key)
  return {
    "measure": name, "title": about(name).title, "split": split,
    "loss_cell": by_loss.name, "loss_params": by_loss.params,
    "loss_value": value(by_loss, key)[0],
    "best_cell": best.name, "best_params": best.params, "best_value": value(best, key)[0],
    "gain": sign * difference, "stderr": stderr,
    "resolved": best is not by_loss and stderr is not None and sign * difference > 2 * stderr,
  }  # fmt: skip


def paired(one: Group, other: Group, key: str) -> tuple[float, float | None]:
  """(mean difference of two groups on the same clips, its paired standard error over clips)."""
  difference = value(one, key)[0] - value(other, key)[0]
  a, b = one.per_clip(key), other.per_clip(key)
  if len(a) != len(b) or not len(a):
    return difference, None
  d = (a - b)[np.isfinite(a - b)]
  return difference, float(d.std(ddof=1) / math.sqrt(len(d))) if len(d) > 1 else None


# --- which part of the loss predicts coherence? -------------------------------------------------

PREDICTORS = {
  "loss": "frozen loss",
  "noisiest": "loss at the noisiest level",
  "dynamics": "dynamics part of the loss",
  "flops": "training compute (FLOP)",
}


def predictors(sweep: Sweep, series: Setting, names: Sequence[str]) -> Part:
  """R2, over cells, of each log measure regressed on the log of each part of the loss."""
  groups = sweep.tuned(series, held_out=True)
  table, scatter = [], None
  for name in names:
    if about(name).better != "down":
      continue
    here = [g for g in groups if past_onset(sweep, g, name)]
    for split in sweep.splits:
      points = _predictor_points(here, f"{name}@{split}")
      if len(points) < LEAST_CELLS:
        continue
      measure = [p["value"] for p in points]
      *by_level, dynamics = law_forms.predictors(measure, [p["by_level"] for p in points])
      alone = {k: law_forms.r_squared([p[k] for p in points], measure) for k in ("loss", "flops")}
      r2 = alone | {"noisiest": by_level[-1].r2, "dynamics": dynamics.r2}
      table.append({
        "measure": name, "title": about(name).title, "split": split, "cells": len(points),
        "r2": {k: r2[k] for k in PREDICTORS}, "by_level": [level.r2 for level in by_level],
      })  # fmt: skip
      if scatter is None:
        by = {k: text for k, text in PREDICTORS.items() if k != "flops"}
        label = f"{about(name).title.lower()}, {split} ({about(name).unit})"
        scatter = {"by": by, "r2": r2, "points": points, "label": label}
  return {"table": table, "scatter": scatter, "names": PREDICTORS, "least": LEAST_CELLS}


def _predictor_points(groups: Sequence[Group], key: str) -> list[Part]:
  points = []
  for group in groups:
    levels = len(group.rows[0].result["frozen_loss"]["by_level"])
    by_level = [group.value(f"level{i}")[0] for i in range(levels)]
    row: Part = {k: group.value(k)[0] for k in ("loss", "dynamics")}
    row |= {"noisiest": by_level[-1], "flops": group.flops, "budget": group.budget}
    row["value"] = value(group, key)[0]
    # Logarithms need positive parts; the dynamics of an untrained model may be negative.
    if all(v > 0 for v in row.values()):
      points.append(row | {"cell": group.name, "by_level": by_level})
  return points
