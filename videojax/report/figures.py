"""The figures of a report, drawn only from its numbers (report.json).

Each function takes a part of the report; the figure it returns keeps the numbers it draws.
"""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes

from videojax.report.coherence_json import Coherence, Measure, Scatter
from videojax.report.loss_json import Curve, IsoflopBudget, Law, PredictedCell, Series
from videojax.report.number_text import MINUS
from videojax.report.plotting import (
  COMPUTE,
  FAINT,
  LOSS,
  MARKERS,
  PALETTE,
  POWER,
  SI,
  Color,
  Panels,
  Row,
  budget_colors,
  log_axis,
  power_of_ten,
  rounded,
  with_bars,
)
from videojax.report.report_json import BySetting, Levels, Rates, Report

HELD_OUT: dict[str, Any] = {"fmt": "*", "ms": 12, "markeredgecolor": "white"}


def draw(report: Report) -> dict[str, Panels]:
  """The figures that apply to a report, by name."""
  series, coherent, rates, by_key = report.series, report.coherence, report.rates, report.by_key
  out = {}
  if any(len(one.frontier) > 1 for one in series):
    out["frontier"] = frontier(series)
  if any(one.isoflop.budgets for one in series):
    out["isoflop"] = isoflop(series)
  if any(one.isoflop.size_law for one in series):
    out["best_size"] = best_size(series)
  if fitted := [one.law for one in series if one.law]:
    out["law"] = law(fitted[0], report.held_out.cells)
  if isinstance(coherent, Coherence):
    splits = [split for measure in coherent.measures for split in measure.splits.values()]
    if any(len(split.frontier) > 1 for split in splits):
      out["coherence"] = coherence(coherent)
    if coherent.predictors.scatter:
      out["predictors"] = predictors(coherent.predictors.scatter)
  out["levels"] = levels(report.levels)
  if isinstance(rates, Rates):
    out["rates"] = rate_curves(rates)
  if isinstance(by_key, BySetting):
    out["by_key"] = settings(by_key)
  return out


# --- loss ---------------------------------------------------------------------------------------


def frontier(series: Sequence[Series]) -> Panels:
  """Loss against compute: all cells (faint), the best of each budget (joined), the fit (dashed)."""
  panels = Panels(height=3.9)
  many = len(series) > 1
  for i, one in enumerate(series):
    _frontier_of(panels, one, PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], many)
  axes = panels.axes[0]
  axes.set(xlabel=COMPUTE, ylabel=LOSS)
  log_axis(axes, "x", POWER)
  log_axis(axes, "y")
  axes.legend()
  return panels


def _frontier_of(panels: Panels, one: Series, color: str, marker: str, many: bool) -> None:
  """Draws one series; if there are many, each has one colour and one legend entry."""
  axes, x, y = panels.axes[0], "flops", "loss"
  named = lambda text, label=None: label if many else text
  every = [{k: getattr(p, k) for k in ("budget", "cell", x, y)} for p in one.cells]
  panels.marks(
    axes, "every cell", every, x, y, of=one.label, fmt=marker, ms=3.5,
    color=color if many else FAINT, alpha=0.35 if many else 1,
    label=named("every cell (mean over its seeds)"),
  )  # fmt: skip
  best = with_bars([p for p in one.frontier if not p.held_out], x, y)
  text = "lowest loss of each budget"
  panels.marks(axes, text, best, x, y, of=one.label, fmt=f"{marker}-", color=color,
               label=named(text, one.label))  # fmt: skip
  held = with_bars([p for p in one.frontier if p.held_out], x, y)
  if held:
    panels.marks(axes, "held out", held, x, y, of=one.label, color=color,
                 label=named("held out: predicted first"), **HELD_OUT)  # fmt: skip
  if one.power:
    _fitted(panels, axes, one.power.curve, x, y, of=one.label, color=color if many else PALETTE[1],
            label=named("fit"), band=not many)  # fmt: skip


def _fitted(panels: Panels, axes: Axes, curve: Curve, x: str, y: str, **style: Any) -> None:
  panels.curve(axes, "fit", curve, x, y, ls="--", lw=1.1, zorder=1, **style)


def isoflop(series: Sequence[Series]) -> Panels:
  """Loss against parameters: a parabola per budget, its minimum, and a 95 % interval."""
  shown = [one for one in series if one.isoflop.budgets]
  panels = Panels(len(shown), height=4.2 if len(shown) < 3 else 3.4)
  colors = budget_colors([b.budget for one in shown for b in one.isoflop.budgets])
  for axes, one in zip(panels.axes, shown):
    for part in one.isoflop.budgets:
      _isoflop_curve(panels, axes, part, colors[part.budget])
    axes.set(xlabel="parameters", ylabel=LOSS, title=one.label if len(shown) > 1 else "")
    log_axis(axes, "x", SI)
    log_axis(axes, "y")
  panels.legend(title="FLOP per run")
  return panels


def _isoflop_curve(panels: Panels, axes: Axes, part: IsoflopBudget, color: Color) -> None:
  budget = {"budget": part.budget}
  points = [budget | dict(row) for row in with_bars(part.points, "params", "loss")]
  star: dict[str, Any] = {"fmt": "*", "ms": 9} if part.held_out else {}
  panels.marks(axes, "cells", points, "params", "loss", color=color,
               label=power_of_ten(part.budget), **star)  # fmt: skip
  edge = [p for p in part.points if p.cell == part.edge]
  # Hollow: the lowest point has a neighbour on one side only.
  axes.plot([p.params for p in edge], [p.loss for p in edge], "o", ms=7, zorder=3,
            markerfacecolor="white", markeredgecolor=color, markeredgewidth=1.6)  # fmt: skip
  of = f"{part.budget:g} FLOP"
  if part.curve.x:
    panels.curve(axes, "parabola", part.curve, "params", "loss", of=of, color=color, lw=1.1)
  if part.minimum:
    hollow: dict[str, Any] = {"markerfacecolor": "white"} if part.edge else {}
    row = _minimum(part) | {"loss": part.minimum.loss}
    panels.marks(axes, "minimum", [row], "params", "loss", fmt="D", ms=5, color=color,
                 elinewidth=2.2, zorder=4, **hollow)  # fmt: skip


def _minimum(part: IsoflopBudget) -> dict[str, Any]:
  """The best size of a budget, with its interval if it has one."""
  low = part.minimum
  assert low
  row = {"budget": part.budget, "params": low.params}
  return row if low.low is None else row | {"params_low": low.low, "params_high": low.high}


def best_size(series: Sequence[Series]) -> Panels:
  """The best size against compute, with the fitted power law."""
  panels = Panels(height=3.2)
  axes = panels.axes[0]
  shown = [one for one in series if one.isoflop.size_law]
  for i, one in enumerate(shown):
    color = PALETTE[i % len(PALETTE)]
    told: str | None = one.label or "minimum of a parabola"
    for part in (b for b in one.isoflop.budgets if b.minimum):
      panels.marks(
        axes, "held-out minimum" if part.held_out else "minimum", [_minimum(part)], "budget",
        "params", of=one.label, color=color, fmt="*" if part.held_out else "D",
        ms=10 if part.held_out else 5, elinewidth=1.2, label=told,
        markerfacecolor="white" if part.edge else color,
      )  # fmt: skip
      told = None  # one legend entry
    law = one.isoflop.size_law
    assert law
    _fitted(panels, axes, law.curve, "budget", "params", of=one.label, color=color,
            label=None if one.label else "power law")  # fmt: skip
  axes.set(xlabel=COMPUTE, ylabel="parameters at the minimum")
  log_axis(axes, "x", POWER)
  log_axis(axes, "y", SI)
  axes.legend()
  return panels


def law(part: Law, held_out: Sequence[PredictedCell]) -> Panels:
  """Left: deviations of cells from the law. Right: predicted and measured losses."""
  panels = Panels(2 if held_out else 1, height=3.5)
  axes = panels.axes[0]
  for budget, color in budget_colors([p.budget for p in part.points]).items():
    rows = [{"budget": budget, "cell": p.cell, "params": p.params, "relative": p.relative}
            for p in part.points if p.budget == budget]  # fmt: skip
    panels.marks(axes, "measured over fitted, minus 1", rows, "params", "relative", color=color,
                 label=power_of_ten(budget))  # fmt: skip
  panels.level(axes, "the law", "relative", 0, lw=1)
  axes.set(xlabel="parameters", ylabel="measured loss above the law")
  axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %".translate(MINUS))
  log_axis(axes, "x", SI, most=4)
  panels.legend(title="FLOP per run")
  if held_out:
    _predicted(panels, panels.axes[1], held_out)
  return panels


def _predicted(panels: Panels, axes: Axes, held_out: Sequence[PredictedCell]) -> None:
  told: list[Row] = [
    {"position": i, "cell_params": h.params, "cell": h.cell, "loss": h.predicted.mean,
     "loss_low": h.predicted.low, "loss_high": h.predicted.high}
    for i, h in enumerate(held_out)
  ]  # fmt: skip
  panels.marks(axes, "predicted", told, "position", "loss", fmt="_", ms=12, color=PALETTE[0],
               elinewidth=7, alpha=0.45, label="predicted, 95 %")  # fmt: skip
  ran: list[Row] = [
    {"position": i, "cell_params": h.params, "cell": h.cell, "loss": h.measured}
    for i, h in enumerate(held_out) if h.measured is not None
  ]  # fmt: skip
  if ran:
    panels.marks(axes, "measured", ran, "position", "loss", color=PALETTE[1], label="measured",
                 **(HELD_OUT | {"ms": 11}))  # fmt: skip
  baselines = sorted({h.baseline for h in held_out if h.baseline is not None})
  kind = "best loss of the previous budget"
  for i, value in enumerate(baselines):
    panels.level(axes, kind, "loss", value, ls="--", lw=1, label=None if i else kind)
  axes.set_xticks(range(len(held_out)), [SI(rounded(h.params)) for h in held_out])
  axes.set(xlabel="parameters of the held-out cells", ylabel="frozen loss")
  axes.set_xlim(-0.6, len(held_out) - 0.4)
  axes.set_ylim(bottom=0, top=1.35 * max([h.predicted.high for h in held_out] + baselines))
  axes.legend(loc="upper left")


def levels(part: Levels) -> Panels:
  """Error at the 16 noise levels, a line per budget; and its exponent in compute per level."""
  panels = Panels(2 if part.exponents else 1, height=3.4)
  axes = panels.axes[0]
  colors = budget_colors([b.budget for b in part.budgets])
  for one in part.budgets:
    rows = [{"budget": one.budget, "cell": one.cell, "t": t, "loss": v}
            for t, v in zip(part.t, one.by_level)]  # fmt: skip
    panels.marks(axes, "best cell of its budget", rows, "t", "loss", fmt="o-", ms=3,
                 color=colors[one.budget], label=power_of_ten(one.budget))  # fmt: skip
  x = "noise level t (0: clean clip, 1: only noise)"
  axes.set(xlabel=x, ylabel="squared error / variance")
  log_axis(axes, "y")
  panels.legend(title="FLOP per run")
  if part.exponents:
    right, fit = panels.axes[1], part.exponents
    gamma, low, high = ([getattr(e, k) for e in fit] for k in ("gamma", "low", "high"))
    panels.curve(right, "fit", Curve(part.t, gamma, low, high), "t", "gamma", marker="o", ms=3,
                 color=PALETTE[0])  # fmt: skip
    right.set(xlabel=x, ylabel="exponent of the error in compute")
    right.set_ylim(min(0, min(gamma)) - 0.05, 1.5 * max(gamma))  # few points: wide bands
  return panels


def rate_curves(part: Rates) -> Panels:
  """Loss against learning rate, a line per size, with its lowest point marked."""
  named = list(dict.fromkeys(c.panel for c in part.curves))
  panels = Panels(len(named), height=3.5)
  labels = list(dict.fromkeys(c.label for c in part.curves))
  losses = [p.loss for c in part.curves for p in c.points]
  for axes, panel in zip(panels.axes, named):
    axes.set_title(panel)
    for curve in (c for c in part.curves if c.panel == panel):
      place = labels.index(curve.label)
      color, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
      panels.marks(axes, "cells", with_bars(curve.points, "rate", "loss"), "rate", "loss",
                   of=curve.label, fmt=f"{marker}-", color=color, label=curve.label)  # fmt: skip
      best = [{"budget": curve.budget, "rate": curve.optimum.rate, "loss": curve.optimum.loss}]
      panels.marks(axes, "lowest", best, "rate", "loss", of=curve.label, ms=12, color=color,
                   zorder=4, markerfacecolor="none", markeredgewidth=1.4)  # fmt: skip
    axes.set(xlabel=part.key.split(".")[-1].replace("_", " "), ylabel=LOSS)
    axes.set_ylim(min(losses) * 0.85, max(losses) * 1.15)  # the same in all panels
    log_axis(axes, "y")
    log_axis(axes, "x")
    run = sorted({p.rate for c in part.curves for p in c.points if p.rate is not None})
    axes.xaxis.set_major_locator(ticker.FixedLocator(run))
  panels.legend()
  return panels


# --- coherence, and any other key ---------------------------------------------------------------


def coherence(part: Coherence) -> Panels:
  """A panel per measure: each split against compute, with the floor and the baselines."""
  panels = Panels(len(part.measures), height=3.0)
  for axes, measure in zip(panels.axes, part.measures):
    for i, split in enumerate(measure.splits):
      color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
      _coherence_split(panels, axes, measure, split, color, marker)
    _reference_lines(panels, axes, measure)
    worse = "lower is better" if measure.better == "down" else "higher is better"
    axes.set(xlabel=COMPUTE, ylabel=measure.unit, title=f"{measure.title} ({worse})")
    log_axis(axes, "x", POWER, most=3)
    if measure.better == "down":
      log_axis(axes, "y")
  panels.legend()
  return panels


def _coherence_split(
  panels: Panels, axes: Axes, measure: Measure, split: str, color: str, marker: str
) -> None:
  one, x, y = measure.splits[split], "flops", "value"
  every = [{x: p.flops, y: p.value} for p in one.others]
  panels.marks(axes, "every cell", every, x, y, of=split, fmt=marker, color=color, alpha=0.25,
               ms=3, mew=0)  # fmt: skip
  best = with_bars(one.frontier, x, y, "held_out", "before_onset")
  panels.marks(axes, "lowest loss of each budget", best, x, y, of=split, fmt=f"{marker}-",
               color=color, label=split)  # fmt: skip
  # Drawn over the marks of the line; the CSV has these points already.
  xy = lambda points: ([p.flops for p in points], [p.value for p in points])
  axes.plot(*xy([p for p in one.frontier if p.held_out]), "*", color=color, ms=12, mec="white",
            zorder=4)  # fmt: skip
  axes.plot(*xy([p for p in one.frontier if p.before_onset]), marker, color=color, mfc="white",
            zorder=3)  # fmt: skip
  if one.fit and one.fit.low is not None and one.fit.low > 0:
    _fitted(panels, axes, one.fit.curve, x, y, of=split, color=color)


def _reference_lines(panels: Panels, axes: Axes, measure: Measure) -> None:
  for value, dash, label in (
    (measure.floor, "-", "true clips (floor)"),
    (measure.copy_last, "--", "last frame repeated"),
    (measure.extrapolate, ":", "straight on"),
  ):
    if value is not None and (value > 0 or measure.better == "up"):
      panels.level(axes, label, "value", value, ls=dash, lw=1.1, label=label)


def predictors(part: Scatter) -> Panels:
  """One coherence measure against each of three parts of the loss."""
  panels = Panels(len(part.by), height=2.9, columns=len(part.by), sharey=True)
  colors = budget_colors([p.budget for p in part.points])
  for axes, (name, text) in zip(panels.axes, part.by.items()):
    for budget, color in colors.items():
      rows = [{"budget": budget, "cell": p.cell, name: getattr(p, name), "value": p.value}
              for p in part.points if p.budget == budget]  # fmt: skip
      panels.marks(axes, "cells", rows, name, "value", color=color, label=power_of_ten(budget))
    r2 = part.r2[name]
    axes.set_label(text)
    axes.set(xlabel=text, title=f"R² = {math.nan if r2 is None else r2:.2f}")
    log_axis(axes, "x", most=3)
    log_axis(axes, "y")
  panels.axes[0].set_ylabel(part.label)
  panels.legend(title="FLOP per run")
  return panels


def settings(part: BySetting) -> Panels:
  """A panel per measure, a row per setting, a mark per budget."""
  height = max(1.6, 0.34 * len(part.labels) + 1.1)
  panels = Panels(len(part.panels), height=height, sharey=True)
  colors = budget_colors([p.budget for panel in part.panels for p in panel.points])
  for axes, panel in zip(panels.axes, part.panels):
    axes.set_title(panel.title)
    for budget, color in colors.items():
      rows = with_bars([p for p in panel.points if p.budget == budget], "label", "value")
      places = [dict(row) | {"place": part.labels.index(row["label"])} for row in rows]
      panels.marks(axes, "best cell of its budget", places, "value", "place", color=color,
                   label=power_of_ten(budget))  # fmt: skip
    axes.set_yticks(range(len(part.labels)), part.labels)
    axes.set(ylim=(len(part.labels) - 0.5, -0.5))
    if panel.log:
      log_axis(axes, "x", most=5)
  panels.legend(title="FLOP per run")
  return panels
