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
from typing import Any, Required, TypedDict

from videojax.errors import ConfigError
from videojax.io.records import Result, Seconds
from videojax.io.schema import check_form, read_as

Point = dict[str, Any]  # dotted key -> value; only 'budget' is not a key of the config


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

  def __post_init__(self):
    if self.name in ("", ".", "..") or "/" in self.name or not self.name.isprintable():
      raise ConfigError(f"cell {self.name!r}: its name must be a valid directory name")
    if self.budget is not None and not 0 < self.budget < math.inf:
      raise ConfigError(f"cell {self.name}: budget={self.budget} must be a positive number of FLOP")


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
    raise ConfigError(f"zipped axes have {sorted(lengths)} points: they must have equal lengths")
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
    ConfigError: two cells are equal, or there is none.
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
    raise ConfigError(f"the sweep has equal cells: {', '.join(twice) or 'it has none'}")
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
    ConfigError: it is none, or holds no cell.
  """
  try:
    first, _, last = (text or ":").partition(":") if ":" in (text or ":") else ("", "", "no")
    part = slice(int(first) if first else None, int(last) if last else None)
  except ValueError:
    raise ConfigError(f"--cells={text} must be i:j, e.g. --cells=0:4") from None
  if not range(number)[part]:
    raise ConfigError(f"--cells={text} holds no cell: there are {number}, counted from 0")
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
    frames, fps = self._source("frames", "fps")
    return self.result["clips"] * frames / fps

  @property
  def pixels(self) -> float:
    """Pixels that training saw, over all frames; NaN for data whose size is not in the config."""
    frames, size, height, width = self._source("frames", "size", "height", "width")
    height, width = (size if math.isnan(side) else side for side in (height, width))
    return self.result["clips"] * frames * height * width

  @property
  def seconds(self) -> dict[str, float]:
    """Wall-clock seconds by part; see records.Seconds."""
    told = self.result["seconds"]
    return {f.name: told.get(f.name, f.default) for f in dataclasses.fields(Seconds)}

  def _source(self, *names: str) -> list[float]:
    """Settings of the first data source; NaN where they are no positive numbers."""
    settings = next(iter(self.config["data"].values()))["settings"]
    found = (settings.get(name) for name in names)
    return [float(v) if isinstance(v, int | float) and v > 0 else math.nan for v in found]

  def value(self, measure: str) -> tuple[float, float]:
    """(value, standard error over clips) of a measure of a finished cell.

    Args:
      measure: 'loss', 'dynamics' or 'velocity' (frozen loss of the first split; 'loss@SPLIT' of
        another), 'level3' (0 to 15, cleanest first), or a coherence measure 'NAME@SPLIT'.
    Raises:
      ConfigError: there is no such measure in this cell; those there are named.
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


# --- the files' forms ---------------------------------------------------------------------------


class Planned(TypedDict, total=False):
  """What a cell will take, said before it runs."""

  params: float
  tokens: float
  flops: float
  clips: float
  total_steps: float
  seconds: float


class Notes(TypedDict, total=False):
  """sweep.json, see groups.Sweep."""

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
  """What is read of config.json."""

  data: Required[dict[str, _Source]]
  evaluate: Required[_Evaluate]
  seed: int


class _Failed(TypedDict):
  why: str


class Start(TypedDict, total=False):
  """One start of a run, of environment.json."""

  time: str
  devices: list[str]
  git_commit: str | None


class _Seed(TypedDict, total=False):
  seed: int


def read_notes(directory: Path) -> Mapping[str, Any]:
  """sweep.json.

  Raises:
    ConfigError: it is not a directory of a sweep, or the file is damaged.
  """
  path = directory / "sweep.json"
  if not path.exists():
    raise ConfigError(
      f"{directory} holds no sweep (no sweep.json): make one with "
      f"python -m videojax.launch --mode=sweep --workdir={directory}"
    )
  return read_as(path, Notes)


def read_sweep(directory: Path) -> list[Row]:
  """Every cell of a sweep's directory, finished or not, in the sweep's order.

  Raises:
    ConfigError: it is not a directory of a sweep, or a file in it is damaged.
  """
  path, made = directory / "sweep.json", read_notes(directory)["cells"]
  names = [cell["name"] for cell in made]
  if len(set(names)) < len(names):
    raise ConfigError(f"{path} is damaged: two cells have one name")
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
  """What the directory of a cell holds.

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
  """environment.json: the time, devices and versions of every start of a cell; [] where none.

  Raises:
    ConfigError: the file is damaged.
  """
  path = run / "environment.json"
  return read_as(path, list[Start]) if path.exists() else []
