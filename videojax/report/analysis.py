"""The numbers of a sweep's report, except coherence; deterministic given the inputs."""

import dataclasses
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from videojax.io.files import finite
from videojax.report.loss_json import Fit, Forms, Isoflop, Law, Point, Series
from videojax.report.report_json import (
  About,
  BySetting,
  Cell,
  Cost,
  LeftOut,
  LevelRow,
  Levels,
  Neighbours,
  Noise,
  Optimum,
  RateCurve,
  Rates,
  Repeats,
  SeedCount,
  SettingPanel,
  SettingPoint,
  Slope,
  made,
)
from videojax.scaling import coherence as coherent
from videojax.scaling import curves, trends
from videojax.scaling.cells import Row, read_starts, telling
from videojax.scaling.compare import compare
from videojax.scaling.sweep_groups import (
  STATUSES,
  Group,
  Setting,
  Sweep,
  budget_of,
  describe,
  seed_of,
)

LEVELS_T = lambda count: [(i + 0.5) / count for i in range(count)]  # docs/measures.md
COMMAND = "python -m videojax.scaling report"
FURTHER = 10.0  # times the largest budget, where forms of law are compared


def about(sweep: Sweep) -> About:
  """What was run, where and when, and the status of the cells."""
  begun = [start for row in sweep.rows for start in read_starts(row.directory)]
  times = sorted(start["time"] for start in begun if "time" in start)
  finished = [row for row in sweep.rows if row.status == "finished"]
  seeds = Counter(len(g.rows) for g in sweep.groups)
  name = sweep.directory.resolve().name
  loss = finished[0].result["frozen_loss"]
  return About(
    title=sweep.notes.get("title") or name,
    description=sweep.notes.get("description", ""),
    statuses={s: sum(r.status == s for r in sweep.rows) for s in STATUSES},
    held_out=sum(row.cell.held_out for row in sweep.rows),
    budgets=sorted({g.budget for g in sweep.groups}),
    sizes=sorted({g.params for g in sweep.groups}),
    seeds=[SeedCount(count, seeds[count]) for count in sorted(seeds)],
    size_keys=list(sweep.size_keys),
    tuned_keys=list(sweep.tuned_keys),
    series_keys=list(sweep.series_keys),
    series=[describe(s) for s in sweep.series],
    splits=sweep.splits,
    split_settings=finished[0].config["evaluate"]["splits"],
    clips=loss.get("clips"),
    ignorance={k: loss.get(k) for k in ("zero_model", "wiener")},
    devices=sorted({d for start in begun for d in start.get("devices", [])}),
    commits=sorted({start["git_commit"] for start in begun if start.get("git_commit")}),
    started=[times[0], times[-1]] if times else [],
    command=f"{COMMAND} {shlex.quote(name)}",
  )


def cells(sweep: Sweep) -> list[Cell]:
  """Every cell, finished or not, in the sweep's order."""
  return [_cell(sweep, row) for row in sweep.rows]


def _cell(sweep: Sweep, row: Row) -> Cell:
  planned = sweep.notes.get("planned", {}).get(row.cell.name, {})
  cell = Cell(
    name=row.cell.name, status=row.status, why=row.why, held_out=row.cell.held_out,
    budget=finite(budget_of(row, sweep.notes)), seed=seed_of(row),
    settings=dict(row.cell.overrides),
    params=planned.get("params"), tokens=planned.get("tokens"), flops=planned.get("flops"),
    steps=planned.get("total_steps"),
  )  # fmt: skip
  if row.status != "finished":
    return cell
  loss, stderr = row.value("loss")
  return dataclasses.replace(
    cell,
    params=row.result["parameters"]["total"], tokens=row.result["tokens"],
    flops=row.result["flops"]["total"], steps=row.result["steps"],
    loss=loss, stderr=finite(stderr), seconds=sum(row.seconds.values()),
    video_seconds=finite(row.seconds_of_video), pixels=finite(row.pixels),
    levels={f"level{i}": v for i, v in enumerate(row.result["frozen_loss"]["by_level"])},
    coherence={
      f"{m}@{s}": values[s]
      for m, values in row.result["coherence"].items() for s in sweep.splits if s in values
    },
  )  # fmt: skip


def point(group: Group, **more: Any) -> Point:
  """A group as a point in the loss figures."""
  loss, stderr = group.value("loss")
  return Point(
    cell=group.name, budget=group.budget, params=group.params, tokens=group.tokens,
    flops=group.flops, steps=group.steps, loss=loss, stderr=finite(stderr),
    seeds=len(group.rows), held_out=group.held_out, **more,
  )  # fmt: skip


# --- seeds and noise ----------------------------------------------------------------------------


def seed_sd(groups: Sequence[Group], measure: str = "loss") -> tuple[float, int]:
  """(pooled log-sd over seeds, degrees of freedom); (0, 0) if every group has one seed."""
  squares, freedom = 0.0, 0
  for group in groups:
    values = np.log(group.values(measure))
    squares += float(((values - values.mean()) ** 2).sum())
    freedom += len(values) - 1
  return (math.sqrt(squares / freedom) if freedom else 0.0), freedom


def noise(sweep: Sweep) -> Noise:
  """Differences between seeds, and between neighbouring sizes on the same clips."""
  several = [g for g in sweep.groups if len(g.rows) > 1]
  pooled, freedom = seed_sd(several)
  rows = [
    Repeats(
      cell=g.name, budget=g.budget, params=g.params, seeds=len(g.rows),
      loss=g.value("loss")[0], log_sd=float(np.log(g.values("loss")).std(ddof=1)),
    )
    for g in several
  ]  # fmt: skip
  over_clips = [g.rows[0].value("loss") for g in sweep.groups]
  relative = [e / v for v, e in over_clips if math.isfinite(e)]
  return Noise(
    groups=rows,
    single=sum(len(g.rows) == 1 for g in sweep.groups),
    log_sd=pooled if freedom else None,
    freedom=freedom,
    clips=float(np.median(relative)) if relative else None,
    neighbours=[n for series in sweep.series for n in _neighbours(sweep.tuned(series))],
  )


def _neighbours(groups: Sequence[Group]) -> list[Neighbours]:
  """Differences of log loss between adjacent sizes at the same budget."""
  rows = []
  for one, other in zip(groups, groups[1:]):
    if one.budget != other.budget or one.params == other.params:
      continue
    a, b = one.per_clip("loss"), other.per_clip("loss")
    difference = math.log(other.value("loss")[0] / one.value("loss")[0])
    stderr = None
    if len(a) == len(b) and len(a) > 1:
      # Delta method: d log mean = per-clip value / mean.
      d = b / b.mean() - a / a.mean()
      stderr = float(d.std(ddof=1) / math.sqrt(len(d)))
    rows.append(Neighbours(
      budget=one.budget, cells=[one.name, other.name], params=[one.params, other.params],
      log_ratio=difference, stderr=stderr,
    ))  # fmt: skip
  return rows


# --- the loss of one series ---------------------------------------------------------------------


def loss_of(sweep: Sweep, series: Setting) -> Series:
  """Frontier, isoFLOP curves and law of cells that differ only in budget, size and seed."""
  law: Law | None = None
  why = ""
  try:
    fitted = curves.fit_law(sweep.for_law(series), irreducible=sweep.irreducible).numbers()
    law = made(Law, fitted | {"least_steps": sweep.notes.get("least_steps")})
  except ValueError as error:
    why = str(error)
  sd, _ = seed_sd(sweep.groups)
  return Series(
    label=describe(series),
    cells=[point(g) for g in sweep.tuned(series, held_out=True)],
    frontier=[point(g) for g in sweep.frontier(series, held_out=True)],
    power=_frontier_law(sweep, series, law, sd),
    isoflop=made(Isoflop, curves.isoflop(sweep.tuned(series, held_out=True), sd)),
    law=law,
    law_why=why,
    forms=_forms(sweep, series) if law else None,
  )


def _forms(sweep: Sweep, series: Setting) -> Forms | None:
  """What each form of law says at the held-out budget and at ten times the largest fitted."""
  groups = sweep.for_law(series)
  try:
    forms = compare(curves.table_of(groups), irreducible=sweep.irreducible)
  except ValueError:
    return None
  held_out = [g.flops for g in sweep.groups if g.series == series and g.held_out]
  at = {float(f"{flops:.3g}") for flops in (*held_out, FURTHER * forms.top)}
  return made(Forms, forms.as_json(sorted(at)))


def _frontier_law(sweep: Sweep, series: Setting, law: Law | None, sd: float) -> Fit | None:
  """E + k C^-gamma through the best cell of each budget; E is known, from the law, or 0."""
  known = sweep.irreducible
  best = sweep.frontier(series)
  if len(best) < trends.LEAST:
    return None
  offset = known if known is not None else law.E.value if law else 0.0
  losses = np.array([g.value("loss")[0] for g in best])
  if not (losses > offset).all():
    return None
  # All cells see the same clips, so only seeds scatter them about a line.
  relative = sd / np.sqrt([len(g.rows) for g in best]) * losses / (losses - offset)
  line = trends.power_line([g.flops for g in best], losses - offset, relative, offset=offset)
  source = "known" if known is not None else "law" if law else "assumed"
  until = max(g.flops for g in sweep.frontier(series, held_out=True))
  return made(Fit, line.numbers(until) | {"offset_from": source})


# --- other sections -----------------------------------------------------------------------------


def levels(sweep: Sweep) -> Levels:
  """The loss at the 16 noise levels of the best cell of each budget."""
  series = coherent.main_series(sweep)
  best = sweep.frontier(series, held_out=True)
  count = len(best[0].rows[0].result["frozen_loss"]["by_level"])
  rows = [
    LevelRow(
      budget=g.budget, flops=g.flops, cell=g.name, held_out=g.held_out,
      by_level=[g.value(f"level{i}")[0] for i in range(count)],
    )
    for g in best
  ]  # fmt: skip
  exponents, fitted = None, [r for r in rows if not r.held_out]
  table = np.array([r.by_level for r in fitted])
  if len(fitted) >= trends.LEAST and (table > 0).all():
    flops = np.array([r.flops for r in fitted])
    exponents = [_slope(flops, column) for column in table.T]
  return Levels(LEVELS_T(count), describe(series), rows, exponents)


def _slope(flops: np.ndarray, errors: np.ndarray) -> Slope:
  """-d log error / d log C with its 95 % interval, from the misfit of the points to a line."""
  line = trends.power_line(flops, errors, np.zeros(len(flops))).numbers()
  return made(Slope, line)


def rates(sweep: Sweep) -> Rates | LeftOut:
  """Loss against learning rate, for every budget, size and series."""
  if not sweep.tuned_keys:
    return LeftOut("Learning-rate curves are left out: no two cells of this sweep differ only in "
                   "the learning rate.")  # fmt: skip
  key = sweep.tuned_keys[0]
  found: dict[tuple[float, Setting, Setting], list[Group]] = {}
  for group in sweep.groups:
    if key in dict(group.tuned):
      found.setdefault((group.budget, group.size, group.series), []).append(group)
  found = {place: groups for place, groups in found.items() if len(groups) > 1}
  if not found:
    return LeftOut(f"Learning-rate curves are left out: no size has two finished values of {key}.")
  told = telling([dict(size) for _, size, _ in found])
  several = len({series for *_, series in found}) > 1
  shared = len(found) > len({budget for budget, *_ in found})  # else each size has its own budget
  curves = []
  for (budget, size, series), groups in found.items():
    panel = describe(series) if several else f"{budget:.3g} FLOP per run" if shared else ""
    label = describe(tuple((k, v) for k, v in size if k in told)) or "all cells"
    curves.append(_basin(key, budget, groups, panel, label))
  return Rates(key, curves)


def _basin(key: str, budget: float, groups: Sequence[Group], panel: str, label: str) -> RateCurve:
  groups = sorted(groups, key=lambda g: dict(g.tuned)[key])
  points = [point(g, rate=float(dict(g.tuned)[key])) for g in groups]
  rate, loss = (np.array([getattr(p, k) for p in points]) for k in ("rate", "loss"))
  lowest = int(np.argmin(loss))
  edge, vertex = lowest in (0, len(points) - 1), None
  if not edge:  # the vertex of the parabola through the lowest point and its neighbours
    near = slice(lowest - 1, lowest + 2)
    x = np.log(rate[near])
    bend, slope, _ = np.polyfit(x - x[1], np.log(loss[near]), 2)
    vertex = float(np.exp(x[1] - slope / (2 * bend)))
  best = Optimum(float(rate[lowest]), float(loss[lowest]), finite(vertex))
  return RateCurve(budget, points, best, edge, panel, label)


def by_key(sweep: Sweep) -> BySetting | LeftOut:
  """Loss and coherence by the series keys, at the best size of each budget."""
  if not sweep.series_keys:
    return LeftOut("A comparison of settings is left out: the cells differ only in budget, size, "
                   "learning rate and seed.")  # fmt: skip
  groups = [g for s in sweep.series for g in sweep.frontier(s, held_out=True)]
  per_budget = [sum(g.budget == b for g in groups) for b in {g.budget for g in groups}]
  labels = [describe(s) for s in sorted(sweep.series, key=_order)]
  measures: list[tuple[str, str, bool]] = [("loss", "frozen loss", True)]
  for name in coherent.measured(sweep)[:3]:
    shown = coherent.about(name)
    measures += [(f"{name}@{s}", f"{shown.title}, {s} ({shown.unit})", shown.better == "down")
                 for s in sweep.splits[:2]]  # fmt: skip
  panels = [_panel(groups, *measure) for measure in measures]
  return BySetting(
    keys=list(sweep.series_keys), labels=labels, matched=max(per_budget) > 1,
    panels=[p for p in panels if p.points],
    rows=[point(g, label=describe(g.series)) for g in groups],
  )  # fmt: skip


def _order(series: Setting) -> tuple[Any, ...]:
  """Sort key: numbers by value, everything else as text."""
  return tuple((v, "") if isinstance(v, int | float) else (0, str(v)) for _, v in series)


def _panel(groups: Sequence[Group], measure: str, title: str, log: bool) -> SettingPanel:
  points = []
  for group in groups:
    mean, stderr = coherent.value(group, measure)
    if math.isfinite(mean):
      points.append(SettingPoint(
        label=describe(group.series), budget=group.budget, cell=group.name, flops=group.flops,
        value=mean, stderr=finite(stderr), seeds=len(group.rows),
      ))  # fmt: skip
  return SettingPanel(measure, title, log and all(p.value > 0 for p in points), points)


def cost(sweep: Sweep) -> Cost:
  """Compute, time and price of the finished cells; failed ones have no record of them."""
  finished = [row for row in sweep.rows if row.status == "finished"]
  parts: dict[str, float] = {}
  for row in finished:
    for name, seconds in row.seconds.items():
      parts[name] = parts.get(name, 0.0) + seconds
  seconds = sum(parts.values())
  price = sweep.notes.get("price")
  planned = sweep.notes.get("planned", {})
  told = [planned[r.cell.name].get("seconds") for r in finished if r.cell.name in planned]
  return Cost(
    cells=len(finished),
    flops=sum(row.result["flops"]["total"] for row in finished),
    tokens=sum(row.result["tokens"] for row in finished),
    seconds=seconds,
    seconds_by_part=parts,
    planned_seconds=sum(told) if told and None not in told else None,
    price=price,
    money=seconds / 3600 * price if isinstance(price, int | float) else None,
    not_counted=[row.cell.name for row in sweep.rows if row.status in ("failed", "started")],
  )
