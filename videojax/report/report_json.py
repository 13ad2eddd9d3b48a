"""Schema of report.json: every number on the page and in its figures, with units (loss_json.py)."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from videojax.io.files import finite
from videojax.io.schema import type_hints
from videojax.report.coherence_json import Coherence
from videojax.report.loss_json import HeldOut, Number, Point, Series, absent


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """Replaces a part that this sweep cannot show; `why` is one sentence."""

  why: str


@dataclasses.dataclass(frozen=True)
class SeedCount:
  """`groups`: number of settings that ran with this number of seeds."""

  seeds: int
  groups: int


@dataclasses.dataclass(frozen=True)
class About:
  """The sweep.

  Attributes:
    statuses: status -> number of cells.
    held_out: number of held-out cells.
    budgets, sizes: in FLOP and in parameters, of the finished cells.
    size_keys, tuned_keys, series_keys: settings that vary.
    split_settings: split -> its data settings.
    clips: number of clips in the frozen loss.
    ignorance: baseline losses: of always predicting grey, and of the best per-pixel denoiser.
    started: times of the first and last start, ISO 8601 in UTC.
    command: command that remakes this report, run in the parent of the sweep's directory.
  """

  title: str
  description: str
  statuses: dict[str, int]
  held_out: int
  budgets: list[Number]
  sizes: list[Number]
  seeds: list[SeedCount]
  size_keys: list[str]
  tuned_keys: list[str]
  series_keys: list[str]
  series: list[str]
  splits: list[str]
  split_settings: dict[str, dict[str, Any]]
  clips: int | None
  ignorance: dict[str, Number | None]
  devices: list[str]
  commits: list[str]
  started: list[str]
  command: str = absent()


@dataclasses.dataclass(frozen=True)
class LevelRow:
  budget: Number
  flops: Number
  cell: str
  held_out: bool
  by_level: list[Number]


@dataclasses.dataclass(frozen=True)
class Slope:
  gamma: Number
  low: Number | None
  high: Number | None


@dataclasses.dataclass(frozen=True)
class Levels:
  """The loss of the best cell of each budget, by noise level t (0 clean, 1 noise).

  Attributes:
    exponents: per level, -d log loss / d log C.
  """

  t: list[Number]
  series: str
  budgets: list[LevelRow]
  exponents: list[Slope] | None


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The best rate that ran; `vertex`: minimum of the parabola through it and its neighbours."""

  rate: Number
  loss: Number
  vertex: Number | None = absent()


@dataclasses.dataclass(frozen=True)
class RateCurve:
  """`edge`: whether the best rate is the smallest or the largest that ran."""

  budget: Number
  points: list[Point]
  optimum: Optimum
  edge: bool
  panel: str
  label: str


@dataclasses.dataclass(frozen=True)
class Rates:
  key: str
  curves: list[RateCurve]


@dataclasses.dataclass(frozen=True)
class SettingPoint:
  """`value`: in the panel's unit."""

  label: str
  budget: Number
  cell: str
  flops: Number
  value: Number
  stderr: Number | None
  seeds: int


@dataclasses.dataclass(frozen=True)
class SettingPanel:
  measure: str
  title: str
  log: bool
  points: list[SettingPoint]


@dataclasses.dataclass(frozen=True)
class BySetting:
  """`matched`: whether some budget has two values of the setting."""

  keys: list[str]
  labels: list[str]
  matched: bool
  panels: list[SettingPanel]
  rows: list[Point]


@dataclasses.dataclass(frozen=True)
class Repeats:
  cell: str
  budget: Number
  params: Number
  seeds: int
  loss: Number
  log_sd: Number


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """Two adjacent sizes of a budget: log ratio of their losses, and its paired error over clips."""

  budget: Number
  cells: list[str]
  params: list[Number]
  log_ratio: Number
  stderr: Number | None


@dataclasses.dataclass(frozen=True)
class Noise:
  """Differences between repeats.

  Attributes:
    single: number of settings with one seed.
    log_sd, freedom: pooled sd of log loss over seeds, and its degrees of freedom.
    clips: median relative standard error over clips.
  """

  groups: list[Repeats]
  single: int
  log_sd: Number | None
  freedom: int
  clips: Number | None
  neighbours: list[Neighbours]

  @property
  def compared(self) -> list[Neighbours]:
    return [pair for pair in self.neighbours if pair.stderr]

  @property
  def clear(self) -> int:
    """Pairs that differ by more than two standard errors over clips."""
    return sum(abs(n.log_ratio) > 2 * (n.stderr or 0) for n in self.compared)

  @property
  def clear_over_seeds(self) -> int:
    """The same with the spread between seeds added to the error of each loss."""
    two = 2 * (self.log_sd or 0) ** 2
    return sum(abs(n.log_ratio) > 2 * ((n.stderr or 0) ** 2 + two) ** 0.5 for n in self.compared)


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of the finished cells: wall-clock seconds; price (per hour) and money in one currency."""

  cells: int
  flops: Number
  tokens: Number
  seconds: Number
  seconds_by_part: dict[str, Number]
  planned_seconds: Number | None
  price: Number | None
  money: Number | None
  not_counted: list[str]


@dataclasses.dataclass(frozen=True)
class Column:
  """A column of the clips: a cell and its run directory."""

  label: str
  cell: str
  directory: str
  seed: int | None
  flops: Number
  params: Number
  loss: Number
  held_out: bool


@dataclasses.dataclass(frozen=True)
class Samples:
  """`unit`: FLOP of '1x'; `clips`: rows shown; `given`: number of frames given to the model."""

  unit: Number
  series: str
  clips: int
  given: int
  columns: list[Column]


@dataclasses.dataclass(frozen=True)
class Cell:
  """A run, finished or not; one that has not run has its planned size.

  Attributes:
    why: why it failed.
    stderr: over clips.
    seconds: wall-clock; video_seconds, pixels: of the video seen in training.
    coherence: 'measure@split' -> value; levels: 'level0' (cleanest) ... -> loss.
  """

  name: str
  status: str
  why: str
  held_out: bool
  budget: Number | None
  seed: int | None
  settings: dict[str, Any]
  params: Number | None
  tokens: Number | None
  flops: Number | None
  steps: Number | None
  loss: Number | None = None
  stderr: Number | None = None
  seconds: Number | None = None
  coherence: dict[str, Number | None] = dataclasses.field(default_factory=dict)
  levels: dict[str, Number] = dataclasses.field(default_factory=dict)
  video_seconds: Number | None = None
  pixels: Number | None = None


@dataclasses.dataclass(frozen=True)
class Report:
  """The whole of report.json. `left_out`: a sentence for each part this sweep cannot show."""

  about: About
  series: list[Series]
  held_out: HeldOut
  coherence: Coherence | LeftOut
  levels: Levels
  rates: Rates | LeftOut
  by_key: BySetting | LeftOut
  noise: Noise
  cost: Cost
  samples: Samples | LeftOut
  cells: list[Cell]
  warnings: list[str]
  left_out: list[str]

  @property
  def shown_measures(self) -> list[str]:
    """The measures in the table of cells: two at most, 'measure@split'."""
    known = list(dict.fromkeys(key for cell in self.cells for key in cell.coherence))
    return [key for key in known if key.split("@")[0] == "velocity_error"][:2] or known[:2]


# --- to and from plain data ---------------------------------------------------------------------


def plain(value: Any) -> Any:
  """JSON data of a dataclass of this file; strips trailing underscores from field names."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return {f.name.rstrip("_"): plain(v) for f, v in fields if v is not None or not f.metadata}
  if isinstance(value, Mapping):
    return {k: plain(v) for k, v in value.items()}
  return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def made(kind: Any, value: Any) -> Any:
  """A dataclass of this file from plain data, as in `scaling`'s results and report.json.

  NaN becomes None; keys that the dataclass does not have are ignored.
  """
  return _made(kind, finite(value))


def _made(kind: Any, value: Any) -> Any:
  make, origin, inside = kind, typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    kinds = [one for one in inside if one is not types.NoneType]
    left_out = isinstance(value, dict) and set(value) == {"why"}
    return None if value is None else _made(kinds[-1] if left_out else kinds[0], value)
  if dataclasses.is_dataclass(kind):
    hints = type_hints(make)
    named = {name: name.rstrip("_") for name in hints}
    return make(**{n: _made(hints[n], value[key]) for n, key in named.items() if key in value})
  if origin is list:
    return [_made(inside[0], v) for v in value]
  if origin is dict:
    return {k: _made(inside[1], v) for k, v in value.items()}
  return value
