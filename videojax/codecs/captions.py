"""Which text encoder makes the embeddings that a model reads; runs/text_encoder.py runs it."""

import dataclasses
from typing import Any, TypedDict

from videojax import settings
from videojax.errors import check_choice

# Name of an encoder -> the size in t5.SIZES that is published under this name.
ENCODERS = {"t5": "t5_xxl", "umt5": "umt5_xxl"}


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The encoder that turns prompts and captions into the embeddings that a model reads.

  Attributes:
    encoder: 't5' or 'umt5'; None: the one that encoded the captions of the training data.
    weights: safetensors, or a directory with them; its config.json has the sizes, which are those
      of the XXL encoder where there is none.
    tokenizer: the tokenizer.json or spiece.model that belongs to the weights.
    length: tokens after which a text is cut; None: as in the training data.
  """

  encoder: str | None = None
  weights: str | None = None
  tokenizer: str | None = None
  length: settings.Count | None = None

  def __post_init__(self) -> None:
    settings.check(self)
    if self.encoder is not None:
      check_choice("encoder", self.encoder, ENCODERS)


class TextCard(TypedDict):
  """A text encoder; `length` is the number of tokens after which captions are cut."""

  name: str
  config: dict[str, Any]
  params_sha256: str
  tokenizer_sha256: str
  length: int
  width: int
  flops_per_clip: int
