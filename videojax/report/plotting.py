"""Style, axes, colours and files of the report's figures."""

import copy
import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from videojax.report.loss_json import Curve, Number

# Okabe & Ito: distinguishable for colour-blind readers; for splits, series and sizes.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY, FAINT = "#555555", "#BBBBBB"
STYLE: Any = {
  "font.size": 9.5, "axes.labelsize": 9.5, "axes.titlesize": 10, "xtick.labelsize": 9,
  "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False, "axes.grid": True,
  "grid.color": "#E6E6E6", "grid.linewidth": 0.6, "axes.axisbelow": True,
  "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
  "lines.linewidth": 1.5, "lines.markersize": 5, "figure.constrained_layout.use": True,
  "svg.hashsalt": "videojax", "errorbar.capsize": 0,
}  # fmt: skip
WIDTH = 7.2  # inches
COMPUTE = "training compute (FLOP)"
LOSS = "frozen loss (share of the data's variance)"
Row = Mapping[str, Any]  # of a figure's CSV
Color = tuple[float, float, float, float]  # RGBA


def new(
  rows: int = 1, columns: int = 1, *, height: float = 3.4, **kw: Any
) -> tuple[Figure, np.ndarray]:
  """A figure as wide as the page, and its axes as an array [rows, columns]."""
  figure = Figure(figsize=(WIDTH, height * rows))
  return figure, figure.subplots(rows, columns, squeeze=False, **kw)


def styled() -> AbstractContextManager[None]:
  """The context for creating and saving figures."""
  return matplotlib.rc_context(STYLE)


def save(figure: Figure, directory: Path, name: str) -> bytes:
  """Writes NAME.png and NAME.svg; returns the SVG, which contains no date."""
  directory.mkdir(parents=True, exist_ok=True)
  figure.savefig(directory / f"{name}.png", dpi=180, metadata={"Software": None})
  out = io.BytesIO()
  figure.savefig(out, format="svg", metadata={"Date": None})
  (directory / f"{name}.svg").write_bytes(out.getvalue())
  return out.getvalue()


def literal(value: Any) -> Any:
  """A part of the report with '$' escaped in all its text, so matplotlib draws it literally."""
  if isinstance(value, str):
    return value.encode("utf-8", "replace").decode().replace("$", r"\$")
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    names = [field.name for field in dataclasses.fields(value)]
    return dataclasses.replace(value, **{name: literal(getattr(value, name)) for name in names})
  if isinstance(value, Mapping):
    return {literal(k): literal(v) for k, v in value.items()}
  return [literal(v) for v in value] if isinstance(value, list | tuple) else value


# --- drawing, and the numbers drawn -------------------------------------------------------------


class Panels:
  """A figure with one or more axes that keeps every number drawn on them, for its CSV.

  Args:
    count: number of axes.
    height: of a row of axes, in inches.
    columns: most axes per row.
  """

  def __init__(self, count: int = 1, *, height: float, columns: int = 2, **kw: Any) -> None:
    columns = min(columns, count)
    self.figure, grid = new(math.ceil(count / columns), columns, height=height, **kw)
    self.axes: list[Axes] = list(grid.ravel()[:count])
    self._drawn: list[tuple[Axes, Row]] = []
    for spare in grid.ravel()[count:]:
      spare.set_axis_off()

  def marks(
    self, axes: Axes, kind: str, rows: Sequence[Row], x: str, y: str, *, of: str = "", **style: Any
  ) -> None:
    """Draws points, with bars from NAME_low to NAME_high if a row has these keys.

    Args:
      kind, of: what the marks are and which line they belong to, for the CSV.
      rows: with the keys x and y; other keys identify the point in the CSV.
      style: arguments of Axes.errorbar.
    """
    drawn: dict[str, Any] = {"fmt": "o", "elinewidth": 1} | style
    axes.errorbar([r[x] for r in rows], [r[y] for r in rows], xerr=_bars(rows, x),
                  yerr=_bars(rows, y), **drawn)  # fmt: skip
    self._drawn += [(axes, {"line": of, "marks": kind} | dict(row)) for row in rows]

  def curve(
    self, axes: Axes, kind: str, curve: Curve, x: str, y: str, *, of: str = "", band: bool = True,
    **style: Any,
  ) -> None:  # fmt: skip
    """Draws a line and its 95 % band."""
    axes.plot(curve.x, curve.y, **style)
    rows = [{"line": of, "marks": kind, x: at, y: value} for at, value in zip(curve.x, curve.y)]
    if band and curve.low and curve.high:
      axes.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.13, lw=0)
      rows = [row | {f"{y}_low": low, f"{y}_high": high}
              for row, low, high in zip(rows, curve.low, curve.high)]  # fmt: skip
    self._drawn += [(axes, row) for row in rows]

  def level(self, axes: Axes, kind: str, y: str, value: Number, **style: Any) -> None:
    """Draws a horizontal line across the axes."""
    axes.axhline(value, **{"color": GREY, **style})
    self._drawn.append((axes, {"marks": kind, y: value}))

  def legend(self, *, title: str | None = None, columns: int = 5) -> None:
    """Draws one legend for all axes, above them, where it covers no data."""
    handles: dict[str, Any] = {}
    for axes in self.axes:
      some, labels = axes.get_legend_handles_labels()
      handles = dict(zip(labels, some)) | handles
    self.figure.legend(handles.values(), handles.keys(), title=title, loc="outside upper center",
                       ncols=min(columns, len(handles)))  # fmt: skip

  def csv(self) -> str:
    """Every number on the axes as CSV: a row per mark and per point of a line; text unescaped."""
    name = lambda axes: axes.get_label() or axes.get_title() or axes.get_ylabel()
    panel = lambda axes: {"panel": name(axes)} if len(self.axes) > 1 else {}
    rows = [panel(axes) | dict(row) for axes, row in self._drawn]
    out = io.StringIO()
    columns = list(dict.fromkeys(k for row in rows for k, v in row.items() if v != ""))
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    as_it_was = lambda v: v.replace(r"\$", "$") if isinstance(v, str) else v
    writer.writerows({k: as_it_was(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def with_bars(points: Sequence[Any], x: str, y: str, *also: str) -> list[Row]:
  """Rows for points, with bars of two standard errors; `also` names further fields to keep.

  A logarithmic axis cannot show 0, so a bar ends at a tenth of the value.
  """
  rows: list[Row] = []
  for point in points:
    value, error = getattr(point, y), 2 * (point.stderr or 0)
    row = {name: getattr(point, name) for name in ("budget", "cell", *also) if hasattr(point, name)}
    row |= {x: getattr(point, x), y: value}
    ends = {f"{y}_low": value - min(error, 0.9 * abs(value)), f"{y}_high": value + error}
    rows.append(row | (ends if error else {}))
  return rows


def _bars(rows: Sequence[Row], name: str) -> list[list[float]] | None:
  """Lengths of error bars [2, n] for matplotlib; None if no row has any."""
  low, high = f"{name}_low", f"{name}_high"
  if not any(low in row for row in rows):
    return None
  return [[row[name] - row.get(low, row[name]) for row in rows],
          [row.get(high, row[name]) - row[name] for row in rows]]  # fmt: skip


# --- axes ---------------------------------------------------------------------------------------

SI = ticker.EngFormatter(sep="")  # 300k, 1.2M
PLAIN = ticker.FormatStrFormatter("%g")
POWER = ticker.LogFormatterSciNotation(minor_thresholds=(math.inf, math.inf))  # 1.6 x 10^14


def rounded(value: Number) -> float:
  """Rounds to three significant digits."""
  return float(f"{value:.3g}")


def power_of_ten(value: Number) -> str:
  """'1.6 x 10^14' in mathtext."""
  return POWER(rounded(value))


def log_axis(
  axes: Axes, which: str, form: ticker.Formatter = PLAIN, *, most: int | None = None
) -> None:
  """Makes an axis logarithmic, with about `most` labelled ticks however few decades it spans."""
  (axes.set_xscale if which == "x" else axes.set_yscale)("log")
  axis = axes.xaxis if which == "x" else axes.yaxis
  most = most or (4 if form is POWER else 6)  # powers are wide
  low, high = axis.get_view_interval()
  decades = math.log10(high / low)
  steps = ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
  subs = next((s for s in steps if decades * len(s) <= most + 1), (1,))
  narrow = ticker.MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])
  locator = ticker.LogLocator(subs=subs, numticks=most) if decades > 0.35 else narrow
  axis.set_major_locator(locator)
  axis.set_major_formatter(copy.copy(form))  # a formatter belongs to one axis
  axis.set_minor_locator(ticker.NullLocator())


def budget_colors(budgets: Sequence[Number]) -> dict[Number, Color]:
  """Viridis from dark (little compute) to light, without its palest end."""
  known = sorted(set(budgets))
  scale = matplotlib.colormaps["viridis"]
  return {b: scale(0.86 * i / max(len(known) - 1, 1)) for i, b in enumerate(known)}
