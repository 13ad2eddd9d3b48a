"""Schema of coherence in report.json; units as in loss_json.py, values in the measure's unit."""

import dataclasses

from videojax.report.loss_json import Fit, Number


@dataclasses.dataclass(frozen=True)
class CoherencePoint:
  """`value`: in the measure's unit; `before_onset`: too little training for the law to hold."""

  cell: str
  budget: Number
  flops: Number
  value: Number
  stderr: Number | None
  seeds: int
  held_out: bool
  before_onset: bool


@dataclasses.dataclass(frozen=True)
class OtherPoint:
  flops: Number
  value: Number


@dataclasses.dataclass(frozen=True)
class MeasureSplit:
  """A measure on a split: the cells of lowest loss, all cells, and the fit or why there is none."""

  frontier: list[CoherencePoint]
  others: list[OtherPoint]
  fit: Fit | None
  why: str


@dataclasses.dataclass(frozen=True)
class Measure:
  """A measure of docs/measures.md.

  Attributes:
    better: 'down' or 'up'.
    floor, copy_last, extrapolate: scores of the true clips, of repeating the last given frame, and
      of discs that continue in a straight line.
  """

  name: str
  title: str
  unit: str
  better: str
  meaning: str
  floor: Number | None
  copy_last: Number | None
  extrapolate: Number | None
  splits: dict[str, MeasureSplit]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exponent(Fit):
  measure: str
  title: str
  split: str


@dataclasses.dataclass(frozen=True)
class BestByMeasure:
  """For one budget and split: the cell of lowest loss, and the best cell by a measure.

  Attributes:
    loss_value, best_value, gain, stderr: in the measure's unit; gain: how much better the best is.
    resolved: whether the gain exceeds two paired standard errors over clips.
  """

  budget: Number
  measure: str
  title: str
  split: str
  loss_cell: str
  loss_params: Number
  loss_value: Number
  best_cell: str
  best_params: Number
  best_value: Number
  gain: Number
  stderr: Number | None
  resolved: bool

  @property
  def change(self) -> str:
    """Size of the best model by the measure, relative to the best by loss."""
    if self.best_params == self.loss_params:
      return "the same"
    return "smaller" if self.best_params < self.loss_params else "larger"


@dataclasses.dataclass(frozen=True)
class PredictorRow:
  """R2, over cells, of log measure on log predictor; by_level: on log loss at each noise level."""

  measure: str
  title: str
  split: str
  cells: int
  r2: dict[str, Number | None]
  by_level: list[Number | None]


@dataclasses.dataclass(frozen=True)
class PredictorPoint:
  loss: Number
  dynamics: Number
  noisiest: Number
  flops: Number
  budget: Number
  value: Number
  cell: str
  by_level: list[Number]


@dataclasses.dataclass(frozen=True)
class Scatter:
  """One measure against each predictor in `by` (name -> axis label)."""

  by: dict[str, str]
  r2: dict[str, Number | None]
  points: list[PredictorPoint]
  label: str


@dataclasses.dataclass(frozen=True)
class Predictors:
  """`names`: predictor -> description; `least`: fewest cells for an R2."""

  table: list[PredictorRow]
  scatter: Scatter | None
  names: dict[str, str]
  least: int


@dataclasses.dataclass(frozen=True)
class Coherence:
  """Generated clips compared with the simulator.

  Attributes:
    onset: measure -> value on the first split below which its law holds.
    clips: number generated per cell and split.
    unfitted: 'measure, split' -> why there is no fit.
  """

  series: str
  onset: dict[str, Number]
  clips: int | None
  measures: list[Measure]
  exponents: list[Exponent]
  unfitted: dict[str, str]
  best_sizes: list[BestByMeasure]
  predictors: Predictors
