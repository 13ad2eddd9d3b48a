"""Schema of the loss in report.json: frontier, isoFLOP curves, law, and predictions.

Losses and their errors are shares of the training data's variance (the frozen loss of
docs/measures.md); `budget` and `flops` are training FLOP, `params` parameters, `tokens` training
tokens; `low` and `high` are the ends of a 95 % interval; `stderr` is one standard error. None (null
in the file) means undefined or unknown.
"""

import dataclasses
from typing import Any

Number = float | int  # JSON does not distinguish them


def absent() -> Any:
  """Default of a field that is omitted from the file if it has no value."""
  return dataclasses.field(default=None, metadata={"absent": True})


@dataclasses.dataclass(frozen=True)
class Span:
  mean: Number
  low: Number
  high: Number


@dataclasses.dataclass(frozen=True)
class Curve:
  """A drawn line: x and y, and its 95 % band if it has one."""

  x: list[Number]
  y: list[Number]
  low: list[Number] | None = absent()
  high: list[Number] | None = absent()


@dataclasses.dataclass(frozen=True)
class Point:
  """A setting: the mean over its seeds; `cell` is the first seed's.

  Attributes:
    rate: its learning rate, in learning-rate curves.
    label: its settings as text, in comparisons of settings.
  """

  cell: str
  budget: Number
  params: Number
  tokens: Number
  flops: Number
  steps: int
  loss: Number
  stderr: Number | None
  seeds: int
  held_out: bool
  rate: Number | None = absent()
  label: str | None = absent()


@dataclasses.dataclass(frozen=True)
class Onset:
  """FLOP; an end is None where the points allow lines that never get there."""

  mean: Number
  low: Number | None
  high: Number | None


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fit k C^-gamma in compute C, through the best cell of each budget.

  Attributes:
    form: the quantity that falls: 'power', the value above `offset`; 'rate', the odds of failing;
      'survival', the hazard per frame.
    offset_from: source of a loss's offset: 'known', 'law' or 'assumed'.
    dispersion: for 'rate': variance of the failures relative to the binomial variance.
    onset: FLOP from which an error is below that of repeating the last given frame.
  """

  form: str
  gamma: Number
  low: Number | None
  high: Number | None
  budgets: int
  curve: Curve
  offset: Number | None = absent()
  k: Number | None = absent()
  dispersion: Number | None = absent()
  offset_from: str | None = absent()
  onset: Onset | None = absent()


@dataclasses.dataclass(frozen=True)
class Minimum:
  """The vertex of a parabola; `low` and `high` are the interval of `params`."""

  params: Number
  loss: Number
  low: Number | None
  high: Number | None


@dataclasses.dataclass(frozen=True)
class SizePoint:
  cell: str
  params: Number
  loss: Number
  stderr: Number | None
  seeds: int


@dataclasses.dataclass(frozen=True)
class IsoflopBudget:
  """The sizes of one budget, and the parabola of loss in log parameters through them.

  Attributes:
    edge: the best cell if it has the smallest or the largest size, else ''.
  """

  budget: Number
  held_out: bool
  edge: str
  minimum: Minimum | None
  warnings: list[str]
  curve: Curve
  points: list[SizePoint]


@dataclasses.dataclass(frozen=True)
class SizeLaw:
  """The minima grow as C^exponent; the curve is parameters against FLOP."""

  exponent: Number
  low: Number | None
  high: Number | None
  budgets: int
  curve: Curve
  warnings: list[str]


@dataclasses.dataclass(frozen=True)
class Isoflop:
  budgets: list[IsoflopBudget]
  why: str
  size_law: SizeLaw | None


@dataclasses.dataclass(frozen=True)
class Estimate:
  value: Number
  low: Number | None
  high: Number | None


@dataclasses.dataclass(frozen=True)
class LawPoint:
  """`relative`: measured loss over the fitted one, minus 1."""

  cell: str
  budget: Number
  params: Number
  loss: Number
  fitted: Number
  relative: Number


@dataclasses.dataclass(frozen=True)
class Law:
  """L = E + A (N/N0)^-alpha + B (D/D0)^-beta, N parameters, D tokens; a = beta / (alpha + beta).

  Attributes:
    cells: number of cells in the fit.
    residual, run: log-sd about the law, of the cells and of a new run.
    resampling: how the bootstrap resamples were drawn.
    method: the estimator. calibration: what the law's error beyond the cells was learned from.
    least_steps: fewest steps of a cell in the fit, if the sweep sets it.
  """

  E: Estimate
  A: Estimate
  alpha: Estimate
  B: Estimate
  beta: Estimate
  a: Estimate
  N0: Number
  D0: Number
  E_fitted: bool
  cells: int
  residual: Number
  run: Number
  resampling: dict[str, Any]
  method: str
  calibration: dict[str, Any]
  warnings: list[str]
  points: list[LawPoint]
  least_steps: Number | None = None


@dataclasses.dataclass(frozen=True)
class Form:
  """One form of the law of the lowest loss.

  Attributes:
    error: root mean square log error of its extrapolations inside the sweep; bias: the mean.
    weight: in the weighted mean of all forms. predicted: the lowest loss at `Forms.at`.
  """

  name: str
  error: Number | None
  bias: Number | None
  weight: Number
  predicted: list[Number]


@dataclasses.dataclass(frozen=True)
class Forms:
  """What each form predicts at the budgets `at`; `spread`: log-sd of the forms, weighted."""

  at: list[Number]
  forms: list[Form]
  stacked: list[Number]
  spread: list[Number]
  splits: int
  why: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Series:
  """Cells that differ only in budget, size, learning rate and seed; `label` names the series."""

  label: str
  cells: list[Point]
  frontier: list[Point]
  power: Fit | None
  isoflop: Isoflop
  law: Law | None
  law_why: str
  forms: Forms | None


@dataclasses.dataclass(frozen=True)
class BestSize:
  """The predicted loss and parameters of the best size of a budget, or why there are none."""

  series: str
  mean: Number | None
  low: Number | None = None
  high: Number | None = None
  params: Number | None = None
  params_low: Number | None = absent()
  params_high: Number | None = absent()
  why: str | None = absent()


@dataclasses.dataclass(frozen=True)
class PredictionFile:
  """`sound`: the seal (SHA-256) is intact. `from_` ('from' in the file): number of fitted cells."""

  file: str
  sound: bool
  best: list[BestSize]
  from_: int
  date: str
  budget: Number
  sha256: str
  irreducible: Number | None


@dataclasses.dataclass(frozen=True)
class PredictedCell:
  """A held-out cell. Errors are predicted / measured - 1.

  Attributes:
    baseline: the best loss of the previous budget; baseline_error: the error of repeating it.
    late: whether the cell had started before the prediction was made.
  """

  cell: str
  params: Number
  budget: Number
  status: str
  predicted: Span
  measured: Number | None
  baseline: Number | None
  late: bool
  error: Number | None
  inside: bool | None
  baseline_error: Number | None


@dataclasses.dataclass(frozen=True)
class PredictedCoherence:
  """A coherence measure of the best cell of a budget, in the measure's unit."""

  measure: str
  title: str
  split: str
  series: str
  budget: Number
  predicted: Span
  measured: Number | None
  inside: bool | None
  cell: str | None


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """`unpredicted`: held-out cells that ran without a prediction."""

  files: list[PredictionFile]
  cells: list[PredictedCell]
  coherence: list[PredictedCoherence]
  warnings: list[str]
  unpredicted: list[str]

  @property
  def scored(self) -> list[PredictedCell]:
    """Cells that have run and were predicted in time."""
    return [cell for cell in self.cells if cell.measured is not None and not cell.late]

  @property
  def worst_error(self) -> float:
    return max((c.error for c in self.scored if c.error is not None), key=abs)

  @property
  def worst_baseline_error(self) -> float:
    errors = (c.baseline_error for c in self.scored)
    return max(abs(error) for error in errors if error is not None)
