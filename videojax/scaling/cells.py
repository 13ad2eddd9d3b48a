"""The cells of a sweep: how they are written down, and what is read back from their directories.

A sweep is a list of cells, a cell a named set of overrides of one base experiment with its budget:

  def get_sweep(arg=""):
    return cells(
      product(vary("budget", 4e13, 1.6e14), vary("model.width", 64, 128), vary("seed", 0, 1, 2)),
      held_out=lambda c: c["budget"] > 1e14,
    )

A directory of a sweep:

  sweep.json           its cells: name, overrides, budget, held_out; and what it was said to cost
  cells/NAME/          a run directory (videojax/rundir.py), or failed.json of a cell that failed
  predictions/*.json   made by `python -m videojax.scaling predict`, before the held-out cells ran
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Point = dict[str, Any]  # dotted key -> value; 'budget' is the one that is no key of the config


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep.

  Attributes:
    name: of its directory.
    overrides: dotted keys of the config -> values.
    budget: training FLOPs (3 x forward), from which total_steps follows; None: the overrides or
      the base say total_steps.
    held_out: runs only after its loss was predicted from the other cells.
  """

  name: str
  overrides: Mapping[str, Any]
  budget: float | None = None
  held_out: bool = False


def vary(key: str, *values: Any) -> list[Point]:
  """One point per value of one key."""
  return [{key: value} for value in values]


def product(*axes: Sequence[Point]) -> list[Point]:
  """Every combination; later axes vary fastest, and win where they set the same key."""
  points: list[Point] = [{}]
  for axis in axes:
    points = [before | point for before in points for point in axis]
  return points


def zipped(*axes: Sequence[Point]) -> list[Point]:
  """The axes side by side, which are equally long."""
  lengths = {len(axis) for axis in axes}
  if len(lengths) > 1:
    raise ValueError(f"zipped axes have {sorted(lengths)} points: they must be equally many")
  return [dict(item for point in row for item in point.items()) for row in zip(*axes)]


def chain(*parts: Sequence[Point]) -> list[Point]:
  """One after the other."""
  return [point for part in parts for point in part]


def cells(
  points: Sequence[Point], *, held_out: Callable[[Point], bool] = lambda point: False
) -> list[Cell]:
  """Cells named after what distinguishes them.

  Args:
    points: from the combinators above; 'budget' in FLOP.
    held_out: whether a point's loss is to be predicted before it runs.
  Raises:
    ValueError: two cells are equal, or there is none.
  """
  varied = telling(points)
  made = [
    Cell(
      name="_".join(_label(k, point[k]) for k in varied if k in point) or "cell",
      overrides={k: v for k, v in point.items() if k != "budget"},
      budget=float(point["budget"]) if "budget" in point else None,
      held_out=held_out(point),
    )
    for point in points
  ]
  names = [cell.name for cell in made]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice or not made:
    raise ValueError(f"the sweep has cells that are equal: {', '.join(twice) or 'it has none'}")
  return made


def distinct(points: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
  """How many different values these keys have together."""
  return len({json.dumps([point.get(key) for key in keys]) for point in points})


def telling(points: Sequence[Mapping[str, Any]]) -> list[str]:
  """The keys that tell points apart; what follows from those before it (heads, from the width) is
  left out."""
  told: list[str] = []
  for key in dict.fromkeys(key for point in points for key in point):
    if distinct(points, [*told, key]) > distinct(points, told):
      told.append(key)
  return told


def _label(key: str, value: Any) -> str:
  """'width64', 'budget4e+13', 'patch2x8x8': short, and fit for a file name."""
  if isinstance(value, tuple | list):
    text = "x".join(str(v) for v in value)
  elif isinstance(value, float):
    text = f"{value:.4g}"
  else:
    text = str(value)
  return key.split(".")[-1] + "".join(c if c.isalnum() or c in "+-.@" else "-" for c in text)


def part_of(text: str | None, number: int) -> slice:
  """'i:j', ':j' or 'i:' as a slice of `number` cells; None: all.

  Raises:
    ValueError: it is none, or holds no cell.
  """
  try:
    first, _, last = (text or ":").partition(":") if ":" in (text or ":") else ("", "", "no")
    part = slice(int(first) if first else None, int(last) if last else None)
  except ValueError:
    raise ValueError(f"--cells={text} must be i:j, e.g. --cells=0:4") from None
  if not range(number)[part]:
    raise ValueError(f"--cells={text} holds no cell: there are {number}, counted from 0")
  return part


# --- what is read back --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
  """A cell with what its directory holds.

  Attributes:
    cell: as the sweep names it.
    directory: of the run.
    status: 'finished', 'failed', 'started' or 'waiting'.
    config: resolved, as in config.json; empty while waiting.
    result: result.json; empty unless finished.
    why: of a failed cell.
  """

  cell: Cell
  directory: Path
  status: str
  config: Mapping[str, Any]
  result: Mapping[str, Any]
  why: str = ""

  @property
  def is_open(self) -> bool:
    return self.status in ("started", "waiting")

  @property
  def seconds_of_video(self) -> float:
    """Seconds of video that training saw; NaN where clips differ in frame rate."""
    source = next(iter(self.config["data"].values()))["settings"]
    if "fps" not in source or "frames" not in source:
      return math.nan
    return float(self.result["clips"] * source["frames"] / source["fps"])

  @property
  def pixels(self) -> float:
    """Pixels that training saw, over all frames; NaN for data whose size is not in the config."""
    source = next(iter(self.config["data"].values()))["settings"]
    height, width = (source.get(k, source.get("size")) for k in ("height", "width"))
    if None in (height, width, source.get("frames")):
      return math.nan
    return float(self.result["clips"] * source["frames"] * height * width)

  def value(self, measure: str) -> tuple[float, float]:
    """(value, standard error over clips) of a measure of a finished cell.

    Args:
      measure: 'loss', 'dynamics' or 'velocity' (frozen loss of the first split; 'loss@SPLIT' of
        another), 'level3' (0 to 15, cleanest first), or a coherence measure 'NAME@SPLIT'.
    Raises:
      ValueError: there is no such measure in this cell; those there are named.
    """
    name, _, split = measure.partition("@")
    losses = {next(iter(self.config["evaluate"]["splits"])): self.result["frozen_loss"]}
    losses |= self.result["frozen_loss_by_split"]
    loss = losses.get(split) if split else self.result["frozen_loss"]
    if loss is not None and name == "loss":
      return _number(loss["final"]), _number(loss["stderr"])
    if loss is not None and name in ("dynamics", "velocity"):
      return _number(loss[name]), math.nan
    if loss is not None and name.startswith("level"):
      return _number(loss["by_level"][int(name[5:])]), math.nan
    rows, errors_of = self.result["coherence"], self.result["coherence_stderr"]
    if split in rows.get(name, {}):
      return _number(rows[name][split]), _number(errors_of[name][split])
    there = sorted(f"{n}@{s}" for n, row in rows.items() for s in row)
    raise ValueError(
      f"cell {self.cell.name} has no measure {measure!r}; it has loss, dynamics, velocity, "
      + ", ".join(there)
    )


def _number(value: float | None) -> float:
  return math.nan if value is None else float(value)


def read_sweep(directory: Path) -> list[Row]:
  """Every cell of a sweep's directory, finished or not, in the sweep's order.

  Raises:
    ValueError: it is no directory of a sweep, or a file in it is damaged.
  """
  path = directory / "sweep.json"
  if not path.exists():
    raise ValueError(
      f"{directory} holds no sweep (no sweep.json): make one with "
      f"python -m videojax.launch --mode=sweep --workdir={directory}"
    )
  return [_read_row(directory, Cell(**cell)) for cell in _read(path)["cells"]]


def _read_row(directory: Path, cell: Cell) -> Row:
  run = directory / "cells" / cell.name
  config = _read(run / "config.json") if (run / "config.json").exists() else {}
  status, result, why = ("started" if config else "waiting"), {}, ""
  if (run / "result.json").exists():
    status, result = "finished", _read(run / "result.json")
  elif (run / "failed.json").exists():
    status, why = "failed", _read(run / "failed.json")["why"]
  return Row(cell, run, status, config, result, why)


def _read(path: Path) -> Any:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is damaged ({error})") from None
