"""The loss in report.json: frontier, isoFLOP curves, law, and what was predicted.

Losses and their errors are shares of the training data's variance (the frozen loss of
docs/measures.md); `budget` and `flops` are training FLOP, `params` parameters, `tokens` training
tokens; `low` and `high` end a 95 % interval; `stderr` is one standard error. None, in the file
null, stands for what is not defined or not known.
"""

import dataclasses
from typing import Any

Number = float | int  # JSON does not tell them apart


def absent() -> Any:
  """The default of a field that the file leaves out where there is no such number."""
  return dataclasses.field(default=None, metadata={"absent": True})


@dataclasses.dataclass(frozen=True)
class Span:
  mean: Number
  low: Number
  high: Number


@dataclasses.dataclass(frozen=True)
class Curve:
  """A line that is drawn: x and y, and its 95 % band where it has one."""

  x: list[Number]
  y: list[Number]
  low: list[Number] | None = absent()
  high: list[Number] | None = absent()


@dataclasses.dataclass(frozen=True)
class Point:
  """A setting: the mean over its seeds, the first of which is `cell`.

  Attributes:
    rate: its learning rate, where these are compared.
    label: its settings in words, where these are compared.
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
class Fit:
  """What falls with compute C as k C^-gamma, through the best cell of each budget.

  Attributes:
    form: 'power', a value above `offset`; 'rate', odds of failing; 'survival', a hazard per frame.
    offset_from: of a loss, where its constant comes from: 'known', 'law' or 'assumed'.
    dispersion: of 'rate': variance of the failures over the binomial's.
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


@dataclasses.dataclass(frozen=True)
class Minimum:
  """The vertex of a parabola: `low` and `high` are of its parameters."""

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
    edge: the best cell where it is the smallest or the largest size, else ''.
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
    cells: number of them in the fit.
    residual, run: log-sd of the cells about the law; of a new run about it.
    resampling: how the intervals were drawn.
    least_steps: of a cell in the fit, where the sweep says so.
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
  warnings: list[str]
  points: list[LawPoint]
  least_steps: Number | None = None


@dataclasses.dataclass(frozen=True)
class Series:
  """Cells that differ in budget, size, learning rate and seed only. `label` tells series apart."""

  label: str
  cells: list[Point]
  frontier: list[Point]
  power: Fit | None
  isoflop: Isoflop
  law: Law | None
  law_why: str


@dataclasses.dataclass(frozen=True)
class BestSize:
  """What a prediction says of the best size of a budget: its loss and parameters, or why not."""

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
  """`sound`: the seal (SHA-256) holds. `from_`, in the file 'from': cells it was made from."""

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
  """A held-out cell. Errors are predicted over measured, minus 1.

  Attributes:
    baseline: the best loss of the largest budget before; baseline_error: of repeating it.
    late: the cell had started before the prediction was made.
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
  """A measure of the best cell of a budget, in that measure's unit."""

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
    """Cells that have run, and were predicted before."""
    return [cell for cell in self.cells if cell.measured is not None and not cell.late]

  @property
  def worst_error(self) -> float:
    return max((c.error for c in self.scored if c.error is not None), key=abs)

  @property
  def worst_baseline_error(self) -> float:
    errors = (c.baseline_error for c in self.scored)
    return max(abs(error) for error in errors if error is not None)
