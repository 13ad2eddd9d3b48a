"""The figures of a report, drawn from its numbers (report.json) and from nothing else.

Each function takes a part of the report and returns a Figure.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from videojax.report.plotting import (
  COMPUTE,
  FAINT,
  GREY,
  LOSS,
  MARKERS,
  PALETTE,
  Part,
  blank,
  budget_colors,
  dots,
  legend_above,
  log_axis,
  new,
  power_of_ten,
  short,
)

# --- loss ---------------------------------------------------------------------------------------


def frontier(series: Sequence[Part]) -> Figure:
  """Loss against compute: every cell faint, the best of each budget joined, the fit dashed."""
  figure, grid = new(height=3.9)
  axes = grid[0, 0]
  many = len(series) > 1
  for i, one in enumerate(series):
    color = PALETTE[i % len(PALETTE)]
    marker = MARKERS[i % len(MARKERS)]
    other = one["cells"]
    axes.plot(
      [p["flops"] for p in other], [p["loss"] for p in other], marker,
      color=color if many else FAINT, alpha=0.35 if many else 1, ms=3.5,
      label=None if many else "every cell (mean over its seeds)",
    )  # fmt: skip
    best = [p for p in one["frontier"] if not p["held_out"]]
    label = one["label"] if many else "lowest loss of each budget"
    dots(axes, best, "flops", "loss", fmt=marker + "-", color=color, label=label)
    held = [p for p in one["frontier"] if p["held_out"]]
    if held:
      dots(
        axes, held, "flops", "loss", fmt="*", ms=12, color=color, markeredgecolor="white",
        label=None if many else "held out: predicted first",
      )  # fmt: skip
    if one["power"]:
      dash = PALETTE[1] if not many else color
      _fitted(axes, one["power"], dash, None if many else "fit", band=not many)
  axes.set(xlabel=COMPUTE, ylabel=LOSS)
  log_axis(axes, "x", powers=True)
  log_axis(axes, "y")
  axes.legend()
  return figure


def _fitted(axes: Axes, fit: Part, color: str, label: str | None, *, band: bool = True) -> None:
  curve = fit["curve"]
  axes.plot(curve["x"], curve["y"], "--", color=color, lw=1.1, label=label, zorder=1)
  if curve.get("low") and band:
    axes.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.13, lw=0)


def isoflop(series: Sequence[Part]) -> Figure:
  """Loss against parameters, a parabola per budget with its minimum and 95 % interval."""
  shown = [one for one in series if one["isoflop"]["budgets"]]
  columns = min(2, len(shown))
  rows = math.ceil(len(shown) / columns)
  figure, grid = new(rows, columns, height=4.2 if rows == 1 else 3.4)
  colors = budget_colors([b["budget"] for one in shown for b in one["isoflop"]["budgets"]])
  for axes, one in zip(grid.ravel(), shown):
    for part in one["isoflop"]["budgets"]:
      _isoflop_curve(axes, part, colors[part["budget"]])
    axes.set(xlabel="parameters", ylabel=LOSS, title=one["label"] if len(shown) > 1 else "")
    log_axis(axes, "x")
    log_axis(axes, "y")
  legend_above(figure, grid[0, 0], title="FLOP per run")
  blank(grid, len(shown))
  return figure


def _isoflop_curve(axes: Axes, part: Part, color: Any) -> None:
  shape: dict[str, Any] = {"fmt": "*", "ms": 9} if part["held_out"] else {}
  label = power_of_ten(part["budget"])
  dots(axes, part["points"], "params", "loss", color=color, label=label, **shape)
  edge = [p for p in part["points"] if p["cell"] == part["edge"]]
  if edge:  # hollow: the lowest point has a neighbour on one side only
    axes.plot([p["params"] for p in edge], [p["loss"] for p in edge], "o", ms=7, zorder=3,
              markerfacecolor="white", markeredgecolor=color, markeredgewidth=1.6)  # fmt: skip
  if part["curve"]:
    axes.plot(part["curve"]["x"], part["curve"]["y"], "-", color=color, lw=1.1)
  low = part["minimum"]
  if low:
    hollow: dict[str, Any] = {"markerfacecolor": "white"} if part["edge"] else {}
    axes.errorbar(
      [low["params"]], [low["loss"]], fmt="D", ms=5, color=color, elinewidth=2.2, zorder=4,
      xerr=_span(low), **hollow,
    )  # fmt: skip


def _span(minimum: Part) -> list[list[float]] | None:
  """A minimum's interval as an error bar."""
  if minimum["low"] is None:
    return None
  at = minimum["params"]
  return [[at - minimum["low"]], [minimum["high"] - at]]


def best_size(series: Sequence[Part]) -> Figure:
  """The best size against compute, with the line through it."""
  figure, grid = new(height=3.2)
  axes = grid[0, 0]
  shown = [one for one in series if one["isoflop"]["size_law"]]
  for i, one in enumerate(shown):
    color = PALETTE[i % len(PALETTE)]
    parts = [b for b in one["isoflop"]["budgets"] if b["minimum"]]
    for part in parts:
      low = part["minimum"]
      axes.errorbar(
        [part["budget"]], [low["params"]], fmt="*" if part["held_out"] else "D", color=color,
        ms=11 if part["held_out"] else 5, elinewidth=1.2, yerr=_span(low),
        markerfacecolor="white" if part["edge"] else color,
      )  # fmt: skip
    _fitted(axes, one["isoflop"]["size_law"], color, one["label"] or "size at the minimum")
  axes.set(xlabel=COMPUTE, ylabel="parameters at the minimum")
  log_axis(axes, "x", powers=True)
  log_axis(axes, "y")
  axes.legend()
  return figure


def law(part: Part, held_out: Sequence[Part]) -> Figure:
  """Left: how far cells are from the law. Right: what was predicted, and what came."""
  figure, grid = new(1, 2 if held_out else 1, height=3.5)
  axes = grid[0, 0]
  colors = budget_colors([p["budget"] for p in part["points"]])
  for budget, color in colors.items():
    some = [p for p in part["points"] if p["budget"] == budget]
    axes.plot([p["params"] for p in some], [100 * p["relative"] for p in some], "o", color=color,
              label=power_of_ten(budget))  # fmt: skip
  axes.axhline(0, color=GREY, lw=1)
  axes.set(xlabel="parameters", ylabel="measured loss above the law (%)")
  log_axis(axes, "x", most=5)
  legend_above(figure, axes, title="FLOP per run")
  if held_out:
    _predicted(grid[0, 1], held_out)
  return figure


def _predicted(axes: Axes, held_out: Sequence[Part]) -> None:
  place = np.arange(len(held_out))
  mean = np.array([h["predicted"]["mean"] for h in held_out])
  low = np.array([h["predicted"]["low"] for h in held_out])
  high = np.array([h["predicted"]["high"] for h in held_out])
  axes.errorbar(place, mean, yerr=[mean - low, high - mean], fmt="_", ms=12, color=PALETTE[0],
                elinewidth=7, alpha=0.45, label="predicted, 95 %")  # fmt: skip
  run = [i for i, h in enumerate(held_out) if h["measured"] is not None]
  if run:
    axes.plot(run, [held_out[i]["measured"] for i in run], "*", ms=11, color=PALETTE[1],
              markeredgecolor="white", label="measured")  # fmt: skip
  baselines = sorted({h["baseline"] for h in held_out if h["baseline"] is not None})
  for i, value in enumerate(baselines):
    label = "best loss of the budget before" if i == 0 else None
    axes.axhline(value, color=GREY, ls="--", lw=1, label=label)
  axes.set_xticks(place, [short(h["params"]) for h in held_out])
  axes.set(xlabel="parameters of the held-out cells", ylabel="frozen loss")
  axes.set_xlim(-0.6, len(held_out) - 0.4)
  axes.set_ylim(bottom=0, top=1.35 * max([*high, *baselines]))
  axes.legend(loc="upper left")


def levels(part: Part) -> Figure:
  """Error at the 16 noise levels, a line per budget; and how fast each falls with compute."""
  wide = part["exponents"] is not None
  figure, grid = new(1, 2 if wide else 1, height=3.4)
  axes = grid[0, 0]
  colors = budget_colors([b["budget"] for b in part["budgets"]])
  for one in part["budgets"]:
    axes.plot(part["t"], one["by_level"], "o-", ms=3, color=colors[one["budget"]],
              label=power_of_ten(one["budget"]))  # fmt: skip
  x = "noise level t (0: clean clip, 1: only noise)"
  axes.set(xlabel=x, ylabel="squared error / variance")
  log_axis(axes, "y")
  legend_above(figure, axes, title="FLOP per run")
  if wide:
    fit = part["exponents"]
    right = grid[0, 1]
    gamma = [e["gamma"] for e in fit]
    right.plot(part["t"], gamma, "o-", ms=3, color=PALETTE[0])
    right.fill_between(part["t"], [e["low"] for e in fit], [e["high"] for e in fit],
                       color=PALETTE[0], alpha=0.15, lw=0)  # fmt: skip
    right.set(xlabel=x, ylabel="exponent of the error in compute")
    right.set_ylim(min(0, min(gamma)) - 0.05, 1.5 * max(gamma))  # few points: wide bands
  return figure


def rates(part: Part) -> Figure:
  """Loss against learning rate, a line per size; the lowest marked."""
  panels = list(dict.fromkeys(c["panel"] for c in part["curves"]))
  columns = min(2, len(panels))
  figure, grid = new(math.ceil(len(panels) / columns), columns, height=3.5)
  labels = list(dict.fromkeys(c["label"] for c in part["curves"]))
  rates_run = sorted({p["rate"] for c in part["curves"] for p in c["points"]})
  low = min(p["loss"] for c in part["curves"] for p in c["points"])
  high = max(p["loss"] for c in part["curves"] for p in c["points"])
  for axes, panel in zip(grid.ravel(), panels):
    for curve in (c for c in part["curves"] if c["panel"] == panel):
      place = labels.index(curve["label"])
      color, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
      dots(axes, curve["points"], "rate", "loss", fmt=marker + "-", color=color,
           label=curve["label"])  # fmt: skip
      best = curve["optimum"]
      axes.plot([best["rate"]], [best["loss"]], "o", ms=12, markeredgecolor=color, zorder=4,
                markerfacecolor="none", markeredgewidth=1.4)  # fmt: skip
    axes.set(xlabel=part["key"].split(".")[-1].replace("_", " "), ylabel=LOSS)
    axes.set_title(panel)
    axes.set_ylim(low * 0.85, high * 1.15)  # the same in all panels
    log_axis(axes, "y")
    axes.set_xscale("log")
    axes.set_xticks(rates_run, [f"{r:.3g}" for r in rates_run], fontsize=8)
    axes.minorticks_off()
    axes.legend(loc="upper left")
  blank(grid, len(panels))
  return figure


# --- coherence, and any other key ---------------------------------------------------------------


def coherence(part: Part) -> Figure:
  """A panel per measure: each split against compute, with the floor and the baselines."""
  shown = part["measures"]
  columns = min(2, len(shown))
  figure, grid = new(math.ceil(len(shown) / columns), columns, height=3.0)
  for axes, measure in zip(grid.ravel(), shown):
    for i, (split, one) in enumerate(measure["splits"].items()):
      color, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
      axes.plot([p["flops"] for p in one["others"]], [p["value"] for p in one["others"]], marker,
                color=color, alpha=0.25, ms=3, mew=0)  # fmt: skip
      dots(axes, one["frontier"], "flops", "value", fmt=marker + "-", color=color, label=split)
      marks = (("held_out", "*", {"ms": 12, "mec": "white", "zorder": 4}),
               ("before_onset", marker, {"mfc": "white", "zorder": 3}))  # fmt: skip
      for name, shape, style in marks:
        some = [p for p in one["frontier"] if p[name]]
        xy = [p["flops"] for p in some], [p["value"] for p in some]
        axes.plot(*xy, shape, **({"color": color} | style))
      if one["fit"] and one["fit"]["low"] > 0:
        _fitted(axes, one["fit"], color, label=None)
    _reference_lines(axes, measure)
    worse = "lower is better" if measure["better"] == "down" else "higher is better"
    axes.set(xlabel=COMPUTE, ylabel=f"{measure['unit']}", title=f"{measure['title']} ({worse})")
    log_axis(axes, "x", powers=True, most=3)
    if measure["better"] == "down":
      log_axis(axes, "y")
  blank(grid, len(shown))
  legend_above(figure, grid[0, 0])
  return figure


def _reference_lines(axes: Axes, measure: Part) -> None:
  lines = (("floor", "-", "true clips (floor)"), ("copy_last", "--", "last frame repeated"),
           ("extrapolate", ":", "straight on"))  # fmt: skip
  for name, dash, label in lines:
    value = measure[name]
    if value is not None and (value > 0 or measure["better"] == "up"):
      axes.axhline(value, color=GREY, ls=dash, lw=1.1, label=label)


def predictors(part: Part) -> Figure:
  """One coherence measure against three parts of the loss."""
  shown = part["scatter"]
  figure, grid = new(1, len(shown["by"]), height=2.9, sharey=True)
  colors = budget_colors([p["budget"] for p in shown["points"]])
  for axes, (name, text) in zip(grid.ravel(), shown["by"].items()):
    for budget, color in colors.items():
      some = [p for p in shown["points"] if p["budget"] == budget]
      axes.plot([p[name] for p in some], [p["value"] for p in some], "o", color=color,
                label=power_of_ten(budget))  # fmt: skip
    axes.set(xlabel=text, title=f"R$^2$ = {shown['r2'][name]:.2f}")
    log_axis(axes, "x", most=3)
    log_axis(axes, "y")
  grid[0, 0].set_ylabel(shown["label"])
  legend_above(figure, grid[0, 0], title="FLOP per run")
  return figure


def by_key(part: Part) -> Figure:
  """A panel per measure, a line per value of what was varied, a mark per budget."""
  panels = part["panels"]
  names = part["labels"]
  columns = min(2, len(panels))
  height = max(1.6, 0.34 * len(names) + 1.1)
  figure, grid = new(math.ceil(len(panels) / columns), columns, height=height, sharey=True)
  colors = budget_colors([p["budget"] for panel in panels for p in panel["points"]])
  for axes, panel in zip(grid.ravel(), panels):
    for budget, color in colors.items():
      some = [p for p in panel["points"] if p["budget"] == budget and p["value"] is not None]
      error = [min(2 * (p["stderr"] or 0), 0.9 * abs(p["value"])) for p in some]
      axes.errorbar([p["value"] for p in some], [names.index(p["label"]) for p in some],
                    xerr=error, fmt="o", color=color, elinewidth=1,
                    label=power_of_ten(budget))  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=panel["title"], ylim=(len(names) - 0.5, -0.5))
    if panel["log"]:
      log_axis(axes, "x")
  blank(grid, len(panels))
  legend_above(figure, grid[0, 0], title="FLOP per run")
  return figure
