"""The cells of a sweep: how an experiment file defines them, and how their directories are read.

A sweep is a list of cells. A cell is a named set of overrides of one base experiment, and a budget:

  def get_sweep(arg=""):
    return cells(
      product(vary("budget", 4e13, 1.6e14), vary("model.width", 64, 128), vary("seed", 0, 1, 2)),
      held_out=lambda c: c["budget"] > 1e14,
    )

A directory of a sweep:

  sweep.json           its cells (name, overrides, budget, held_out) and their planned cost
  cells/NAME/          a run directory (videojax/runs/rundir.py); failed.json if the cell failed
  predictions/*.json   made by `python -m videojax.scaling predict` before the held-out cells ran
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict

from videojax.errors import ConfigError
from videojax.io.records import Result, Seconds
from videojax.io.schema import check_form, read_as

Point = dict[str, Any]  # dotted config key -> value; 'budget' is the only key not in the config


@dataclasses.dataclass(frozen=True)
class Cell:
  """One run of a sweep.

  Attributes:
    name: name of its directory.
    overrides: dotted config key -> value.
    budget: training FLOPs (3 x forward), which determine total_steps; None: the overrides or the
      base config set total_steps.
    held_out: whether it runs only after its loss was predicted from the other cells.
  """

  name: str
  overrides: Mapping[str, Any]
  budget: float | None = None
  held_out: bool = False

  def __post_init__(self):
    if self.name in ("", ".", "..") or "/" in self.name or not self.name.isprintable():
      raise ConfigError(f"cell {self.name!r}: its name must be a valid directory name")
    if self.budget is not None and not 0 < self.budget < math.inf:
      raise ConfigError(f"cell {self.name}: budget={self.budget} must be a positive number of FLOP")


def vary(key: str, *values: Any) -> list[Point]:
  """One point per value of a key."""
  return [{key: value} for value in values]


def product(*axes: Sequence[Point]) -> list[Point]:
  """Every combination; later axes vary fastest and take precedence if two set the same key."""
  points: list[Point] = [{}]
  for axis in axes:
    points = [before | point for before in points for point in axis]
  return points


def zipped(*axes: Sequence[Point]) -> list[Point]:
  """Joins the i-th points of all axes, which must have equal lengths."""
  lengths = {len(axis) for axis in axes}
  if len(lengths) > 1:
    raise ConfigError(f"zipped axes have {sorted(lengths)} points: they must have equal lengths")
  return [dict(item for point in row for item in point.items()) for row in zip(*axes)]


def chain(*parts: Sequence[Point]) -> list[Point]:
  """Concatenates lists of points."""
  return [point for part in parts for point in part]


def cells(
  points: Sequence[Point], *, held_out: Callable[[Point], bool] = lambda point: False
) -> list[Cell]:
  """Makes cells, each named after the settings that distinguish it.

  Args:
    points: from the combinators above; 'budget' in FLOP.
    held_out: whether a point's loss is predicted before it runs.
  Raises:
    ConfigError: two cells are equal, or there are no points.
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
  if twice:
    raise ConfigError(f"the sweep has equal cells: {', '.join(twice)}")
  if not made:
    raise ConfigError("the sweep has no cells: it needs at least one point")
  return made


def distinct(points: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
  """Number of distinct combinations of values of these keys."""
  return len({json.dumps([point.get(key) for key in keys]) for point in points})


def telling(points: Sequence[Mapping[str, Any]]) -> list[str]:
  """The keys that distinguish the points, without keys that earlier ones determine (the number of
  heads, given the width)."""
  told: list[str] = []
  for key in dict.fromkeys(key for point in points for key in point):
    if distinct(points, [*told, key]) > distinct(points, told):
      told.append(key)
  return told


def _label(key: str, value: Any) -> str:
  """'width64', 'budget4e+13', 'patch2x8x8': short and valid in a file name."""
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
    ConfigError: the text is not a slice, or selects no cell.
  """
  try:
    first, _, last = (text or ":").partition(":") if ":" in (text or ":") else ("", "", "no")
    part = slice(int(first) if first else None, int(last) if last else None)
  except ValueError:
    raise ConfigError(f"--cells={text} must be i:j, e.g. --cells=0:4") from None
  if not range(number)[part]:
    raise ConfigError(f"--cells={text} holds no cell: there are {number}, counted from 0")
  return part


# --- reading a sweep's directory ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
  """A cell and the contents of its directory.

  Attributes:
    cell: the cell in sweep.json.
    directory: its run directory.
    status: 'finished', 'failed', 'started' or 'waiting'.
    config: the resolved config, from config.json; empty while waiting.
    result: result.json; empty unless finished.
    why: the error of a failed cell.
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
    """Seconds of video seen in training; NaN if clips differ in frame rate."""
    frames, fps = self._source("frames", "fps")
    return self.result["clips"] * frames / fps

  @property
  def pixels(self) -> float:
    """Pixels seen in training, over all frames; NaN if the config does not give the frame size."""
    frames, size, height, width = self._source("frames", "size", "height", "width")
    height, width = (size if math.isnan(side) else side for side in (height, width))
    return self.result["clips"] * frames * height * width

  @property
  def seconds(self) -> dict[str, float]:
    """Wall-clock seconds by part; see records.Seconds."""
    told = self.result["seconds"]
    return {f.name: told.get(f.name, f.default) for f in dataclasses.fields(Seconds)}

  def _source(self, *names: str) -> list[float]:
    """Settings of the first data source; NaN for one that is not a positive number."""
    settings = next(iter(self.config["data"].values()))["settings"]
    found = (settings.get(name) for name in names)
    return [float(v) if isinstance(v, int | float) and v > 0 else math.nan for v in found]

  def value(self, measure: str) -> tuple[float, float]:
    """(value, standard error over clips) of a measure of a finished cell.

    Args:
      measure: 'loss', 'dynamics' or 'velocity' (frozen loss on the first split; 'loss@SPLIT' on
        another), 'level3' (0 to 15, cleanest first), or a coherence measure 'NAME@SPLIT'.
    Raises:
      ConfigError: this cell has no such measure; the message lists those it has.
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
      return _number(rows[name][split]), _number(errors_of.get(name, {}).get(split))
    there = sorted(f"{n}@{s}" for n, row in rows.items() for s in row)
    raise ConfigError(
      f"cell {self.cell.name} has no measure {measure!r}; it has loss, dynamics, velocity, "
      + ", ".join(there)
    )


def _number(value: float | int | None) -> float:
  return math.nan if value is None else float(value)


# --- schemas of the files -----------------------------------------------------------------------


class Planned(TypedDict, total=False):
  """Planned size and cost of a cell, written before it runs."""

  params: float
  tokens: float
  flops: float
  clips: float
  total_steps: float
  seconds: float


class Notes(TypedDict, total=False):
  """sweep.json; see sweep_groups.Sweep."""

  cells: Required[list[Cell]]
  planned: dict[str, Planned]
  irreducible: float | None
  least_steps: float | None
  onset: dict[str, float]
  price: float | None
  title: str
  description: str


class _Source(TypedDict):
  settings: dict[str, Any]


class _Evaluate(TypedDict):
  splits: dict[str, dict[str, Any]]


class _Config(TypedDict, total=False):
  """The part of config.json that is read."""

  data: Required[dict[str, _Source]]
  evaluate: Required[_Evaluate]
  seed: int


class _Failed(TypedDict):
  why: str


class Start(TypedDict, total=False):
  """One start of a run, in environment.json."""

  time: str
  devices: list[str]
  git_commit: str | None


class _Seed(TypedDict, total=False):
  seed: int


def read_notes(directory: Path) -> Mapping[str, Any]:
  """Reads sweep.json.

  Raises:
    ConfigError: this is not a sweep's directory, or the file is damaged.
  """
  path = directory / "sweep.json"
  if not path.exists():
    raise ConfigError(
      f"{directory} holds no sweep (no sweep.json): make one with "
      f"python -m videojax.launch --mode=sweep --workdir={directory}"
    )
  return read_as(path, Notes)


def read_sweep(directory: Path) -> list[Row]:
  """Reads every cell of a sweep's directory, finished or not, in the sweep's order.

  Raises:
    ConfigError: this is not a sweep's directory, or a file in it is damaged.
  """
  path, made = directory / "sweep.json", read_notes(directory)["cells"]
  names = [cell["name"] for cell in made]
  if len(set(names)) < len(names):
    raise ConfigError(f"{path} is damaged: two cells have the same name")
  known = {field.name for field in dataclasses.fields(Cell)}
  return [_read_row(directory, {k: cell[k] for k in cell.keys() & known}) for cell in made]


def _read_row(directory: Path, written: Mapping[str, Any]) -> Row:
  path = directory / "sweep.json"
  check_form(written["overrides"], _Seed, f"{path}, cell {written['name']}")
  budget = written.get("budget")
  try:
    cell = Cell(**{**written, "budget": None if budget is None else float(budget)})
  except ConfigError as error:
    raise ConfigError(f"{path} is damaged: {error}") from None
  return read_row(directory, cell)


def read_row(directory: Path, cell: Cell) -> Row:
  """Reads a cell's directory.

  Raises:
    ConfigError: a file in it is damaged.
  """
  run = directory / "cells" / cell.name
  config = read_as(run / "config.json", _Config) if (run / "config.json").exists() else {}
  status, result, why = ("started" if config else "waiting"), {}, ""
  if (run / "result.json").exists():
    status, result = "finished", read_as(run / "result.json", Result)
  elif (run / "failed.json").exists():
    status, why = "failed", read_as(run / "failed.json", _Failed)["why"]
  return Row(cell, run, status, config, result, why)


def read_starts(run: Path) -> list[dict[str, Any]]:
  """Reads environment.json: time, devices and versions of every start of a cell; [] if missing.

  Raises:
    ConfigError: the file is damaged.
  """
  path = run / "environment.json"
  return read_as(path, list[Start]) if path.exists() else []
