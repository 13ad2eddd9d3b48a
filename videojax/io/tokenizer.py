"""Captions -> tokens for the encoders of T5, umT5 and ByT5 (models/t5.py).

The tokenizer's file belongs to the encoder's weights and comes from the same place. Either of its
two forms gives the same tokens: `tokenizer.json` (read by tokenizers) or `spiece.model` (by
sentencepiece); both packages are in `videojax[text]`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from videojax.errors import ConfigError, require_extra

Pieces = Callable[[list[str]], list[list[int]]]
PAD, PAD_TEXT, END_TEXT = 0, "<pad>", "</s>"
MISSING = -1  # id of a token that is not in the vocabulary, as in sentencepiece


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A vocabulary, and how text is cut into it.

  Attributes:
    pieces: ids of the pieces of each caption, without an end.
    end: id of the token that ends every caption.
    size: all ids are smaller.
  """

  pieces: Pieces
  end: int
  size: int

  @classmethod
  def read(cls, path: Path) -> "Tokenizer":
    """The tokenizer in a `tokenizer.json` or a `spiece.model`.

    Raises:
      ConfigError: there is no such file, it is not a T5 tokenizer, or the package that reads it is
        not installed.
    """
    if path.suffix not in READERS:
      raise ConfigError(f"{path} must be the file of a tokenizer, tokenizer.json or spiece.model")
    if not path.is_file():
      raise ConfigError(f"{path} does not exist, or is not a regular file")
    pieces, size, pad, end = READERS[path.suffix](path)
    if pad != PAD or end == MISSING:
      raise ConfigError(
        f"{path} is not a tokenizer of T5: its {PAD_TEXT} must be token {PAD}, and it must have "
        f"{END_TEXT}; take the file that belongs to the encoder's weights"
      )
    return cls(pieces, end, size)

  def encode(
    self, captions: Sequence[str], length: int
  ) -> tuple[Int32[np.ndarray, "n length"], Bool[np.ndarray, "n length"], int]:
    """Tokens of each caption with the end, padded with 0; longer ones are cut before the end.

    Args:
      captions: n texts.
      length: number of tokens, at least 1.
    Returns: ids; a mask that is False at padding; how many captions were cut.
    Raises:
      ValueError: the length is less than 1.
    """
    if length < 1:
      raise ValueError(f"length={length} must be >= 1: the end of a caption is a token, too")
    pieces = self.pieces(list(captions))
    ids = np.full((len(pieces), length), PAD, np.int32)
    for row, found in zip(ids, pieces):
      kept = [*found[: length - 1], self.end]
      row[: len(kept)] = kept
    lengths = np.array([len(found) + 1 for found in pieces], int)
    return ids, np.arange(length) < lengths[:, None], int((lengths > length).sum())

  def check_table(self, rows: int) -> None:
    """Raises ConfigError if an encoder's table of tokens has fewer rows than there are ids.

    JAX would take the last row for those beyond the table, without an error.
    """
    if self.size > rows:
      raise ConfigError(
        f"the tokenizer has ids up to {self.size - 1}, but the encoder's table has only {rows} "
        "rows: take the tokenizer that belongs to the encoder's weights"
      )


# ByT5 (Xue et al. 2022, arXiv:2105.13626): bytes after <pad>, </s> and an unused <unk>.
BYTES = Tokenizer(lambda captions: [[3 + b for b in c.encode()] for c in captions], 1, 3 + 256)


def _tokenizers(path: Path) -> tuple[Pieces, int, int, int]:
  """Reads a tokenizer.json, but not what it says of cutting and padding.

  Returns: pieces and size as in Tokenizer; ids of padding and end.
  """
  require_extra("tokenizers", "text")
  import tokenizers

  try:
    read = tokenizers.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises no narrower class
    raise ConfigError(f"{path} cannot be read as a tokenizer.json: {error}") from None
  read.no_truncation()
  read.no_padding()
  pieces = lambda captions: [
    each.ids for each in read.encode_batch(captions, add_special_tokens=False)
  ]
  ids = read.get_vocab(with_added_tokens=True)
  pad, end = (ids.get(text, MISSING) for text in (PAD_TEXT, END_TEXT))
  return pieces, max(ids.values(), default=-1) + 1, pad, end


def _sentencepiece(path: Path) -> tuple[Pieces, int, int, int]:
  """Reads a spiece.model; returns what `_tokenizers` does."""
  require_extra("sentencepiece", "text")
  import sentencepiece

  try:
    read = sentencepiece.SentencePieceProcessor(model_file=str(path))
  except (OSError, RuntimeError) as error:
    raise ConfigError(f"{path} cannot be read as a sentencepiece model: {error}") from None
  return read.encode, read.get_piece_size(), read.pad_id(), read.eos_id()


READERS = {".json": _tokenizers, ".model": _sentencepiece}
