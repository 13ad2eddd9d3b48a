"""What is measured, and on what."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from videojax import settings
from videojax.errors import check_choice
from videojax.settings import Count, Natural, Range


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """What is measured, and on what.

  Attributes:
    splits: name -> settings of the measured data source that make it that split; all get the
      frozen loss, and coherence (on worlds).
    main: the split whose frozen loss is the run's; needed where there are several.
    source: the data source that is measured; needed where there are several.
    clips: for the frozen loss.
    coherence_clips: sampled per split; 0: none.
    reference_clips: training clips for the data's variance and the Wiener value.
    fvd_clips: N sampled for FVD, against 2 N of the main split, by --mode=evaluate; 0: none.
    fvd_weights: of I3D as safetensors; None: those of the extra `fvd`.
    batch_size: clips at a time; need not divide the numbers above.
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
      raise ValueError("evaluate.splits is empty: name at least one")
    object.__setattr__(self, "splits", first(self.splits, self.main, "evaluate.main"))


def first(choices: Mapping[str, Any], chosen: str | None, setting: str) -> dict[str, Any]:
  """The choices with the chosen one first. (A ConfigDict sorts its keys: no order is meant.)

  Raises:
    ValueError: it is not among them, or there are several and none is chosen.
  """
  if chosen is None and len(choices) > 1:
    raise ValueError(f"{setting} must name one of {', '.join(choices)}: which is the run's?")
  if chosen is not None:
    check_choice(setting, chosen, choices)
    return {chosen: choices[chosen], **choices}
  return dict(choices)
