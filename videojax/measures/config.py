"""Which measures are taken, and on which data."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from videojax import settings
from videojax.errors import check_choice
from videojax.settings import Count, Natural, Range


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """Which measures are taken, and on which data.

  Attributes:
    splits: name -> settings that turn the measured data source into that split. The frozen loss
      and, on worlds, coherence are measured on all splits.
    main: the split whose frozen loss stands for the run; required if there are several.
    source: the data source to measure; required if there are several.
    clips: number of clips for the frozen loss.
    coherence_clips: number of clips sampled per split for coherence; 0: none.
    reference_clips: number of training clips for the data's variance and the Wiener value.
    fvd_clips: N clips sampled for FVD by --mode=evaluate, compared with 2 N clips of the main
      split; 0: none.
    fvd_weights: weights of I3D as safetensors; None: those of the extra `fvd`.
    batch_size: clips per batch; need not divide the numbers above.
  """

  splits: Mapping[str, Mapping[str, Any]]
  main: str | None = None
  source: str | None = None
  clips: Count = 256
  coherence_clips: Natural = 64
  reference_clips: Count = 1024
  fvd_clips: Natural = 0
  fvd_weights: str | None = None
  batch_size: Annotated[int, Range(1, 2**16)] = 32

  def __post_init__(self):
    settings.check(self)
    if not self.splits:
      raise ValueError("evaluate.splits is empty: name at least one split")
    object.__setattr__(self, "splits", first(self.splits, self.main, "evaluate.main"))


def first(choices: Mapping[str, Any], chosen: str | None, setting: str) -> dict[str, Any]:
  """The choices with the chosen one first. (A ConfigDict sorts its keys, so order has no meaning.)

  Raises:
    ValueError: the chosen one does not exist, or there are several and none is chosen.
  """
  if chosen is None and len(choices) > 1:
    raise ValueError(f"{setting} must name one of {', '.join(choices)}, since there are several")
  if chosen is not None:
    check_choice(setting, chosen, choices)
    return {chosen: choices[chosen], **choices}
  return dict(choices)
