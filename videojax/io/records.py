"""result.json: the record of a run, its fields with their units. Reports are built from these.

In the file null stands for NaN: a measure that is not defined. Where it may, the type says None.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = 2


@dataclasses.dataclass(frozen=True)
class Seconds:
  """Wall-clock seconds by part, over all starts of a run.

  Not counted: start-up and restoring, and what a kill threw away after the last checkpoint.
  """

  compile: float = 0.0
  data_wait: float = 0.0
  step: float = 0.0
  save: float = 0.0
  evaluate: float = 0.0


@dataclasses.dataclass(frozen=True)
class SplitLoss:
  """The frozen loss of the EMA weights on one split (docs/measures.md).

  In units of the variance of the training data, but for `velocity`.

  Attributes:
    final: the number; stderr: its standard error over clips.
    by_level: its parts at the 16 noise levels, cleanest first.
    velocity: mean squared error of the velocity, not divided by the variance.
    dynamics: noisiest level minus the cleanest.
    per_example: `final` of every clip, in the order of their indices.
  """

  final: float
  stderr: float | None
  by_level: list[float]
  velocity: float
  dynamics: float
  per_example: list[float]


@dataclasses.dataclass(frozen=True)
class FrozenLossRecord(SplitLoss):
  """The frozen loss on the split evaluate.main, and what it is compared with.

  Attributes:
    init: before training; not known of a run that went on from another's checkpoint.
    raw: of the weights themselves, without averaging.
    zero_model, wiener: what ignorance scores.
    variance: the data's, by which all but `velocity` are divided.
    clips: evaluated.
  """

  init: float | None
  raw: float
  zero_model: float
  wiener: float
  variance: float
  clips: int


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished run.

  Attributes:
    schema: version of this record.
    params_sha256: of the final parameters (integrity.params_sha256: paths in sorted order).
    parameters: number of them, by part and `total`.
    steps: updates done.
    clips: seen in training.
    tokens: that the model processed in training.
    flops: model FLOPs of training by part and `total`; 3 x forward (docs/measures.md).
    seconds: by part.
    peak_bytes: of one device: the compiler's account of the training step where the device does
      not report its own.
    frozen_loss: of the split evaluate.main.
    frozen_loss_by_split: of the others, in units of the same variance.
    coherence: measure -> {split, 'floor', 'copy_last', 'extrapolate'} -> mean; empty where the
      data has no simulator behind it.
    coherence_stderr: the same for standard errors over clips.
    coherence_per_example: measure -> split -> value of every sampled clip; null: not defined.
  """

  schema: int
  params_sha256: str
  parameters: dict[str, int]
  steps: int
  clips: int
  tokens: int
  flops: dict[str, float]
  seconds: Seconds
  peak_bytes: int
  frozen_loss: FrozenLossRecord
  frozen_loss_by_split: dict[str, SplitLoss]
  coherence: Mapping[str, Mapping[str, float | None]]
  coherence_stderr: Mapping[str, Mapping[str, float | None]]
  coherence_per_example: Mapping[str, Mapping[str, Sequence[float | None]]]

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)
