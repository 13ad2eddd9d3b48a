"""How figures of a report look: their style, axes that can be read, colours, files."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

# Okabe & Ito: told apart by colour-blind readers; for splits, series and sizes.
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
Part = Mapping[str, Any]


def new(rows: int = 1, columns: int = 1, *, height: float = 3.4, **kw: Any) -> tuple[Figure, Any]:
  """A figure of the page's width with its axes as an array [rows, columns]."""
  figure = Figure(figsize=(WIDTH, height * rows))
  return figure, figure.subplots(rows, columns, squeeze=False, **kw)


def styled() -> Any:
  """The context in which figures are made and written."""
  return matplotlib.rc_context(STYLE)


def save(figure: Figure, directory: Path, name: str) -> bytes:
  """Writes NAME.png and NAME.svg; returns the SVG, which has no date in it."""
  directory.mkdir(parents=True, exist_ok=True)
  figure.savefig(directory / f"{name}.png", dpi=180, metadata={"Software": None})
  out = io.BytesIO()
  figure.savefig(out, format="svg", metadata={"Date": None})
  (directory / f"{name}.svg").write_bytes(out.getvalue())
  return out.getvalue()


def literal(value: Any) -> Any:
  """A part of report.json whose every text is shown as it is: '$' would begin mathematics."""
  if isinstance(value, str):
    return value.encode("utf-8", "replace").decode().replace("$", r"\$")
  if isinstance(value, Mapping):
    return {literal(k): literal(v) for k, v in value.items()}
  return [literal(v) for v in value] if isinstance(value, list | tuple) else value


# --- axes ---------------------------------------------------------------------------------------


def short(value: float | int) -> str:
  """'300k', '1.2M', '19M', '0.005': three digits at most, for ticks and labels."""
  for bound, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= bound * 0.9995:
      return f"{value / bound:.3g}{unit}"
  return f"{value:.3g}"


def power_of_ten(value: float) -> str:
  """'$1.6\\times10^{14}$'; '$10^{15}$'."""
  exponent = math.floor(math.log10(value) + 1e-9)
  digits = f"{value / 10**exponent:.3g}"
  return f"$10^{{{exponent}}}$" if digits == "1" else f"${digits}\\times10^{{{exponent}}}$"


# Multiples of powers of ten that ticks may stand at, the densest first.
TICKS = ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 4, 5, 7),
         (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))  # fmt: skip


def log_axis(axes: Axes, which: str, *, powers: bool = False, most: int = 6) -> None:
  """A logarithmic axis with ticks that can be read, over however few decades it goes."""
  (axes.set_xscale if which == "x" else axes.set_yscale)("log")
  low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
  exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  at = lambda steps: [s * 10.0**e for e in exponents for s in steps if low <= s * 10.0**e <= high]
  most = min(most, 4) if powers else most  # their labels are wide
  ticks = next((t for t in map(at, TICKS) if len(t) <= most), at((1,)))
  if powers and len(at((1,))) > 1:
    ticks = at((1,))
  ticks = ticks[:: max(math.ceil(len(ticks) / most), 1)]  # none where the axis is very short
  axis = axes.xaxis if which == "x" else axes.yaxis
  axis.set_major_locator(FixedLocator(ticks))
  axis.set_major_formatter(FixedFormatter([power_of_ten(t) if powers else short(t) for t in ticks]))
  axis.set_minor_locator(NullLocator())
  axis.set_minor_formatter(NullFormatter())


def legend_above(figure: Figure, axes: Axes, *, title: str | None = None, columns: int = 5) -> None:
  """One legend for all panels, where it can hide nothing."""
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(handles, labels, title=title, loc="outside upper center",
                ncols=min(columns, len(labels)))  # fmt: skip


def budget_colors(budgets: Sequence[float]) -> dict[float, Any]:
  """Viridis from dark (little compute) to light, without its palest end."""
  known = sorted(set(budgets))
  scale = matplotlib.colormaps["viridis"]
  return {b: scale(0.86 * i / max(len(known) - 1, 1)) for i, b in enumerate(known)}


def dots(axes: Axes, points: Sequence[Part], x: str, y: str, **kw: Any) -> None:
  """Points with error bars of two standard errors."""
  finite = [p for p in points if p[y] is not None]
  errors = [2 * (p["stderr"] or 0) for p in finite]
  # On a log axis a bar may not reach 0.
  down = [min(e, 0.9 * abs(p[y])) for e, p in zip(errors, finite)]
  style: dict[str, Any] = {"fmt": "o", "elinewidth": 1} | kw
  axes.errorbar([p[x] for p in finite], [p[y] for p in finite], yerr=[down, errors], **style)


def blank(axes: np.ndarray, used: int) -> None:
  for spare in axes.ravel()[used:]:
    spare.set_axis_off()
