"""A page about a sweep, from its run directories alone.

  python -m videojax.scaling report DIR [--out=DIR/report]

writes index.html (self-contained), figures/*.png and *.svg, cells.csv (for `videojax.scaling fit`)
and report.json (every number on the page). The same directory makes the same files.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from videojax.io.files import finite, write_json, write_text
from videojax.report import analysis, clip_strips, figures, plotting
from videojax.report.page import page
from videojax.scaling import coherence, predict
from videojax.scaling.command import Parser
from videojax.scaling.sweep_groups import Sweep, describe, load, require_finished, seed_of

Part = dict[str, Any]


def report(directory: Path | str, out: Path | str | None = None) -> Path:
  """Writes the report of a sweep.

  Args:
    directory: of the sweep.
    out: where to; DIRECTORY/report by default.
  Returns: the path of index.html.
  Raises:
    ValueError: it is no sweep, no cell has finished, or a file is damaged.
  """
  sweep = load(Path(directory))
  require_finished(sweep)
  out = Path(out) if out is not None else sweep.directory / "report"
  numbers = finite(analyse(sweep))
  images = draw(numbers, out / "figures") | _clips(sweep, numbers, out / "figures")
  write_json(out / "report.json", numbers)
  write_text(out / "cells.csv", table(sweep))
  write_text(out / "index.html", page(numbers, images))
  return out / "index.html"


def analyse(sweep: Sweep) -> Part:
  """report.json: every number of the page."""
  scored = predict.score(sweep)
  numbers: Part = {
    "about": analysis.about(sweep),
    "series": [analysis.loss_of(sweep, series) for series in sweep.series],
    "held_out": scored,
    "coherence": coherence.analyse(sweep),
    "levels": analysis.levels(sweep),
    "rates": analysis.rates(sweep),
    "by_key": analysis.by_key(sweep),
    "noise": analysis.noise(sweep),
    "cost": analysis.cost(sweep),
    "samples": _columns(sweep),
    "cells": analysis.cells(sweep),
  }
  numbers["warnings"] = _warnings(scored)
  numbers["left_out"] = _left_out(numbers)
  return numbers


def _warnings(scored: Part) -> list[str]:
  out = list(scored["warnings"])
  if scored["unpredicted"]:
    out.append(
      "Held-out cells ran without a prediction of their loss, so that they test nothing: "
      + ", ".join(scored["unpredicted"])
    )
  return out


def _left_out(numbers: Part) -> list[str]:
  """One sentence for everything that this sweep cannot show."""
  why = [numbers[key]["why"] for key in ("samples", "coherence", "rates", "by_key")
         if "why" in numbers[key]]  # fmt: skip
  for one in numbers["series"]:
    of = f" of {one['label']}" if one["label"] else ""
    if len(one["frontier"]) < 2:
      why.append(f"Loss against compute{of} is left out: there is one budget only.")
    if not one["isoflop"]["budgets"]:
      why.append(f"IsoFLOP curves{of} are left out: {one['isoflop']['why']}.")
    elif not one["isoflop"]["size_law"]:
      why.append(f"How the best size{of} grows with compute is left out: it needs three budgets "
                 "whose minimum is found.")  # fmt: skip
    if not one["law"]:
      why.append(f"The law of the loss{of} is left out: {one['law_why']}.")
  if not numbers["held_out"]["files"]:
    why.append("A held-out score is left out: no prediction was made before cells were run.")
  if numbers["cost"]["price"] is None:
    why.append("Money is left out: the sweep has no price per hour.")
  return why


# --- figures and clips --------------------------------------------------------------------------


def draw(numbers: Part, directory: Path) -> dict[str, bytes]:
  """Writes the figures that apply; returns 'NAME.svg' -> contents."""
  numbers = plotting.literal(numbers)
  series = numbers["series"]
  laws = [one["law"] for one in series if one["law"]]
  held = numbers["held_out"]["cells"]
  coherent = numbers["coherence"]
  drawn: Mapping[str, tuple[bool, Callable[[], Figure]]] = {
    "frontier": (any(len(s["frontier"]) > 1 for s in series), lambda: figures.frontier(series)),
    "isoflop": (any(s["isoflop"]["budgets"] for s in series), lambda: figures.isoflop(series)),
    "best_size": (
      any(s["isoflop"]["size_law"] for s in series), lambda: figures.best_size(series)
    ),
    "law": (bool(laws), lambda: figures.law(laws[0], held)),
    "coherence": (
      any(len(one["frontier"]) > 1 for m in coherent.get("measures", [])
          for one in m["splits"].values()),
      lambda: figures.coherence(coherent),
    ),
    "predictors": (
      bool(coherent.get("predictors", {}).get("scatter")), lambda: figures.predictors(
        coherent["predictors"])
    ),
    "levels": (True, lambda: figures.levels(numbers["levels"])),
    "rates": ("curves" in numbers["rates"], lambda: figures.rates(numbers["rates"])),
    "by_key": ("panels" in numbers["by_key"], lambda: figures.by_key(numbers["by_key"])),
  }  # fmt: skip
  with plotting.styled():
    return {
      f"{name}.svg": plotting.save(make(), directory, name)
      for name, (applies, make) in drawn.items() if applies
    }  # fmt: skip


def _chosen(sweep: Sweep) -> list[tuple[Any, Any]]:
  """(group, samples) of the best cell of each budget, first seed, where it left samples."""
  best = sweep.frontier(coherence.main_series(sweep), held_out=True)
  pairs = [(g, clip_strips.read_samples(g.rows[0].directory)) for g in best]
  return [(g, s) for g, s in pairs if s is not None]


def _columns(sweep: Sweep) -> Part:
  chosen = _chosen(sweep)
  if not chosen:
    return {"why": "Clips are left out: the best cells have left no samples."}
  if not clip_strips.comparable([s for _, s in chosen]):
    return {"why": "Clips are left out: the cells have sampled different clips."}
  unit = chosen[0][0].flops
  return {
    "unit": unit,
    "series": describe(coherence.main_series(sweep)),
    "clips": min(clip_strips.ROWS, len(chosen[0][1].video)),
    "given": sum(chosen[0][1].given),
    "columns": [
      {"label": times(g.flops / unit), "cell": g.name, "directory": g.rows[0].cell.name,
       "seed": seed_of(g.rows[0]), "flops": g.flops, "params": g.params,
       "loss": g.rows[0].value("loss")[0], "held_out": g.held_out}
      for g, _ in chosen
    ],
  }  # fmt: skip


def times(ratio: float) -> str:
  """'1x', '4x', '2.5x': compute relative to the smallest budget."""
  return f"{ratio:.0f}x" if ratio >= 9.5 or abs(ratio - round(ratio)) < 0.06 else f"{ratio:.1f}x"


def _clips(sweep: Sweep, numbers: Part, directory: Path) -> dict[str, bytes]:
  if "why" in numbers["samples"]:
    return {}
  columns = [
    clip_strips.Column(told["label"], f"loss {told['loss']:.3g}", samples)
    for told, (_, samples) in zip(numbers["samples"]["columns"], _chosen(sweep))
  ]
  still = io.BytesIO()
  clip_strips.strip(columns).save(still, "PNG")
  made = {"samples.webp": clip_strips.animation(columns), "samples.png": still.getvalue()}
  for name, data in made.items():
    (directory / name).write_bytes(data)
  return made


# --- files --------------------------------------------------------------------------------------


def table(sweep: Sweep) -> str:
  """cells.csv: one row per finished cell, with the columns that `fit` reads and the measures.

  `seconds` and `pixels` are of the video that training saw, for `fit --data`; `wall_seconds` is
  what the cell took. The error over clips has a name of its own: the clips are the same for all
  cells, so that it is no noise between them, which `fit` would take a column `stderr` for.
  """
  cells = [c for c in analysis.cells(sweep) if c["status"] == "finished"]
  # level0: the loss at the cleanest level.
  measured = [c["levels"] | c["coherence"] for c in cells]
  measures = list(dict.fromkeys(key for values in measured for key in values))
  columns = {k: k for k in ("name", "params", "tokens", "flops", "loss", "seed", "budget")}
  columns |= {"held_out": "held_out", "steps": "steps", "wall_seconds": "seconds"}
  columns |= {"seconds": "video_seconds", "pixels": "pixels"}
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow([*columns, "stderr_over_clips", *measures])
  for c, values in zip(cells, measured):
    row = [*(c[k] for k in columns.values()), c["stderr"], *(values.get(m) for m in measures)]
    writer.writerow(["" if v is None else int(v) if isinstance(v, bool) else v for v in row])
  return out.getvalue()


def main(arguments: Sequence[str]) -> None:
  """The command; see the docstring of this file."""
  parser = Parser("report", __doc__)
  parser.add_argument("directory", type=Path, help="of the sweep (it holds sweep.json)")
  parser.add_argument("--out", type=Path, help="where the report goes; DIR/report by default")
  told = parser.parse_args(arguments)
  print(report(told.directory, told.out))
