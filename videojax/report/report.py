"""Writes a page about a sweep, using only its run directories.

  python -m videojax.scaling report DIR [--out=DIR/report]

writes index.html (self-contained); figures/*.png and *.svg, each with a *.csv of the numbers drawn;
cells.csv (for `videojax.scaling fit` and `tune`); and report.json (every number on the page). The
same directory always gives the same files.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videojax.io.files import write_json, write_text
from videojax.report import analysis, clip_strips, figures, plotting
from videojax.report.coherence_json import Coherence
from videojax.report.loss_json import HeldOut, Series
from videojax.report.page import page
from videojax.report.report_json import (
  Column,
  LeftOut,
  Report,
  Samples,
  made,
  plain,
)
from videojax.scaling import coherence, predict
from videojax.scaling.command import Parser
from videojax.scaling.sweep_groups import Group, Sweep, describe, load, require_finished, seed_of
from videojax.scaling.tune import KEYS


def report(directory: Path | str, out: Path | str | None = None) -> Path:
  """Writes the report of a sweep.

  Args:
    directory: of the sweep.
    out: output directory; DIRECTORY/report by default.
  Returns: the path of index.html.
  Raises:
    ValueError: this is not a sweep's directory, no cell has finished, or a file is damaged.
  """
  sweep = load(Path(directory))
  require_finished(sweep)
  out = Path(out) if out is not None else sweep.directory / "report"
  numbers = analyse(sweep)
  images = _figures(numbers, out / "figures") | _clips(sweep, numbers, out / "figures")
  write_json(out / "report.json", plain(numbers))
  write_text(out / "cells.csv", table(sweep))
  write_text(out / "index.html", page(numbers, images))
  return out / "index.html"


def analyse(sweep: Sweep) -> Report:
  """The contents of report.json: every number on the page."""
  held_out: HeldOut = made(HeldOut, predict.score(sweep))
  coherent = made(Coherence | LeftOut, coherence.analyse(sweep))
  series = [analysis.loss_of(sweep, series) for series in sweep.series]
  rates, by_key, samples = analysis.rates(sweep), analysis.by_key(sweep), _columns(sweep)
  cost = analysis.cost(sweep)
  left_out = [part.why for part in (samples, coherent, rates, by_key) if isinstance(part, LeftOut)]
  left_out += [why for one in series for why in _left_out(one)]
  if not held_out.files:
    left_out.append("A held-out score is left out: no prediction was made before cells were run.")
  if cost.price is None:
    left_out.append("Money is left out: the sweep has no price per hour.")
  numbers = Report(
    about=analysis.about(sweep), series=series, held_out=held_out, coherence=coherent,
    levels=analysis.levels(sweep), rates=rates, by_key=by_key, noise=analysis.noise(sweep),
    cost=cost, samples=samples, cells=analysis.cells(sweep), warnings=_warnings(held_out),
    left_out=left_out,
  )  # fmt: skip
  return made(Report, plain(numbers))  # as the file has it: None for NaN


def _warnings(held_out: HeldOut) -> list[str]:
  out = list(held_out.warnings)
  if held_out.unpredicted:
    out.append(
      "Held-out cells ran without a prediction of their loss, so they do not test the law: "
      + ", ".join(held_out.unpredicted)
    )
  return out


def _left_out(one: Series) -> list[str]:
  """One sentence for everything that a series lacks the data to show."""
  of = f" of {one.label}" if one.label else ""
  why = []
  if len(one.frontier) < 2:
    why.append(f"Loss against compute{of} is left out: there is one budget only.")
  if not one.isoflop.budgets:
    why.append(f"IsoFLOP curves{of} are left out: {one.isoflop.why}.")
  elif not one.isoflop.size_law:
    why.append(f"How the best size{of} grows with compute is left out: it needs three budgets "
               "whose minimum is found.")  # fmt: skip
  if not one.law:
    why.append(f"The law of the loss{of} is left out: {one.law_why}.")
  return why


# --- figures and clips --------------------------------------------------------------------------


def _figures(numbers: Report, directory: Path) -> dict[str, bytes]:
  """Writes the figures and their CSVs; returns 'NAME.svg', 'NAME.csv' -> contents."""
  out = {}
  with plotting.styled():
    for name, panels in figures.draw(plotting.literal(numbers)).items():
      out[f"{name}.svg"], drawn = plotting.save(panels.figure, directory, name), panels.csv()
      write_text(directory / f"{name}.csv", drawn)
      out[f"{name}.csv"] = drawn.encode()
  return out


def _chosen(sweep: Sweep) -> list[tuple[Group, clip_strips.Samples]]:
  """(group, samples of its first seed) for the best cell of each budget that saved samples."""
  best = sweep.frontier(coherence.main_series(sweep), held_out=True)
  pairs = [(g, clip_strips.read_samples(g.rows[0].directory)) for g in best]
  return [(g, s) for g, s in pairs if s is not None]


def _columns(sweep: Sweep) -> Samples | LeftOut:
  chosen = _chosen(sweep)
  if not chosen:
    return LeftOut("Clips are left out: the best cells have saved no samples.")
  if not clip_strips.comparable([s for _, s in chosen]):
    return LeftOut("Clips are left out: the best cells have sampled different clips.")
  unit = chosen[0][0].flops
  columns = [
    Column(
      label=times(g.flops / unit), cell=g.name, directory=g.rows[0].cell.name,
      seed=seed_of(g.rows[0]), flops=g.flops, params=g.params,
      loss=g.rows[0].value("loss")[0], held_out=g.held_out,
    )
    for g, _ in chosen
  ]  # fmt: skip
  return Samples(
    unit=unit, series=describe(coherence.main_series(sweep)),
    clips=min(clip_strips.ROWS, len(chosen[0][1].video)), given=sum(chosen[0][1].given),
    columns=columns,
  )  # fmt: skip


def times(ratio: float) -> str:
  """'1x', '4x', '2.5x': compute relative to the smallest budget."""
  return f"{ratio:.0f}x" if ratio >= 9.5 or abs(ratio - round(ratio)) < 0.06 else f"{ratio:.1f}x"


def _clips(sweep: Sweep, numbers: Report, directory: Path) -> dict[str, bytes]:
  if isinstance(numbers.samples, LeftOut):
    return {}
  columns = [
    clip_strips.Column(told.label, f"loss {told.loss:.3g}", samples)
    for told, (_, samples) in zip(numbers.samples.columns, _chosen(sweep))
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

  `seconds` and `pixels` count the video seen in training, for `fit --data`; `wall_seconds` is the
  cell's wall-clock time. The error over clips is not named `stderr`, because `fit` would treat that
  as noise between cells, while all cells share the same clips. `tune` reads the hyperparameters.
  """
  settings = {row.cell.name: row.config for row in sweep.rows}
  cells = [c for c in analysis.cells(sweep) if c.status == "finished"]
  # level0: the loss at the cleanest level.
  measured = [{**c.levels, **c.coherence} for c in cells]
  measures = list(dict.fromkeys(key for values in measured for key in values))
  columns = {k: k for k in ("name", "params", "tokens", "flops", "loss", "seed", "budget")}
  columns |= {"held_out": "held_out", "steps": "steps", "wall_seconds": "seconds"}
  columns |= {"seconds": "video_seconds", "pixels": "pixels"}
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow([*columns, *KEYS, "stderr_over_clips", *measures])
  for c, values in zip(cells, measured):
    row = [getattr(c, k) for k in columns.values()]
    row += [_setting(settings[c.name], key) for key in KEYS.values()]
    row += [c.stderr, *(values.get(m) for m in measures)]
    writer.writerow(["" if v is None else int(v) if isinstance(v, bool) else v for v in row])
  return out.getvalue()


def _setting(config: Mapping[str, Any], key: str) -> Any:
  """A dotted key of a resolved config; None if it has none."""
  value: Any = config
  for name in key.split("."):
    value = value.get(name) if isinstance(value, Mapping) else None
  return value


def main(arguments: Sequence[str]) -> None:
  """Runs the command; see the docstring of this file."""
  parser = Parser("report", __doc__)
  parser.add_argument("directory", type=Path, help="the sweep's directory (with sweep.json)")
  parser.add_argument("--out", type=Path, help="output directory; DIR/report by default")
  told = parser.parse_args(arguments)
  print(report(told.directory, told.out))
