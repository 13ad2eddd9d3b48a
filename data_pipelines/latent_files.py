"""Latents on disk: the tfds dataset that `encode` writes and `latents` reads, with its card.

Each split holds examples {mean, log_var, text, text_length, caption, id, fps, frames, height,
width} in array_record files. Moments and embeddings are float16: their relative error is 2^-11,
where bfloat16's would be 2^-8, and numbers beyond its 65504 are refused. Embeddings of a caption
are stored without padding, as bytes.

Shapes: t h w latent frames, height and width; Z channels; n tokens of a caption; D their width.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from jaxtyping import Float
from tensorflow_datasets.core import example_serializer

from data_pipelines import tfds_files
from videojax.codecs.captions import TextCard
from videojax.errors import ConfigError
from videojax.io import files

NAME, VERSION = "latents", "1.0.0"
CARD = "latents.json"
STORED = np.float16


class CodecCard(TypedDict):
  """A codec: `config` is cached.config_json of its Config; FLOPs are of encoding one clip."""

  name: str
  config: dict[str, Any]
  params_sha256: str
  flops_per_clip: int


class SourceCard(TypedDict):
  """The dataset of clips: its folder's name, what it says of itself, a hash of its file list."""

  name: str
  description: str
  crop: str | None
  files_sha256: str


class Statistics(TypedDict):
  """Of a split's latents per channel, before rounding; `noise` is the mean variance if sampled."""

  clips: int
  mean: list[float]
  deviation: list[float]
  noise: list[float] | None


class Card(TypedDict):
  """What the dataset is made of. The last three are known when it is finished.

  Attributes:
    codec, text, source: what made it from what.
    splits: number of clips of each.
    video: (T, H, W, 3) of a clip.
    latent: (t, h, w, Z) of its latent.
    stochastic: whether there are log variances.
    stored: dtype of moments and embeddings.
    batch, piece: clips per batch and per file.
    versions: of the packages that computed it, and the devices of a process, whose number changes
      the last digits, too.
    clips_sha256: of all clips, as they were read.
    statistics: by split.
    captions_cut: number of captions that are longer than the text encoder reads.
  """

  codec: CodecCard
  text: TextCard | None
  source: SourceCard
  splits: dict[str, int]
  video: list[int]
  latent: list[int]
  stochastic: bool
  stored: str
  batch: int
  piece: int
  versions: dict[str, str]
  clips_sha256: NotRequired[str]
  statistics: NotRequired[dict[str, Statistics]]
  captions_cut: NotRequired[int]


class Piece(NamedTuple):
  """A file of the dataset: clips `start` to `stop` of a split, `number` of its `of` files."""

  split: str
  number: int
  of: int
  start: int
  stop: int

  @property
  def name(self) -> str:
    return f"{self.split}-{self.number:05d}"

  def path(self, directory: Path) -> Path:
    return Path(_template(directory, self.split).sharded_filepath(
      shard_index=self.number, num_shards=self.of
    ))  # fmt: skip


def pieces(card: Card) -> list[Piece]:
  """The files of the dataset, in order."""
  made = list[Piece]()
  for split, clips in card["splits"].items():
    starts = range(0, clips, card["piece"])
    for number, start in enumerate(starts):
      stop = min(start + card["piece"], clips)
      made.append(Piece(split, number, len(starts), start, stop))
  return made


def features(card: Card) -> tfds.features.FeaturesDict:
  """The features of an example."""
  moments = ["mean", "log_var"] if card["stochastic"] else ["mean"]
  dtype, whole = np.dtype(card["stored"]), tfds.features.Scalar(np.int32)
  latent = tfds.features.Tensor(shape=tuple(card["latent"]), dtype=dtype, encoding="bytes")
  found: dict[str, Any] = dict.fromkeys(moments, latent)
  if card["text"]:
    # Text is the feature of tfds for bytes of any length; it does not decode them.
    found |= {"text": tfds.features.Text(), "text_length": whole}
  return tfds.features.FeaturesDict(
    found
    | dict.fromkeys(("frames", "height", "width"), whole)
    | {
      "caption": tfds.features.Text(),
      "id": tfds.features.Scalar(np.uint32),
      "fps": tfds.features.Scalar(np.float32),
    }
  )


def stored(values: Float[np.ndarray, "*shape"], dtype: str, what: str) -> np.ndarray:
  """The values as they are stored.

  Raises:
    ConfigError: one of them is not finite, or beyond the type's range; the message names `what`.
  """
  with np.errstate(over="ignore"):
    rounded = values.astype(dtype)
  if not np.isfinite(rounded).all():
    most = np.abs(values).max()
    raise ConfigError(f"{what} cannot be stored as {dtype}: the largest magnitude is {most:g}")
  return rounded


def write_piece(path: Path, card: Card, examples: Iterable[Mapping[str, Any]]) -> int:
  """Writes a file of the dataset; returns the number of bytes of its examples."""
  form, total = features(card), 0
  serializer = example_serializer.ExampleSerializer(form.get_serialized_info())
  with files.replacing(path) as temporary:
    writer = array_record_module.ArrayRecordWriter(os.fspath(temporary), "group_size:1")
    try:
      for example in examples:
        # Protobuf orders the features anew in every process unless it is told not to.
        made = serializer.get_tf_example(form.encode_example(example))
        written = made.SerializeToString(deterministic=True)
        total += len(written)
        with tfds_files.errors(f"{path} cannot be written"):  # a full disk
          writer.write(written)
    finally:
      writer.close()
  return total


def write_metadata(directory: Path, card: Card, sizes: Sequence[int]) -> None:
  """Writes the card, and what tfds needs to open the dataset.

  Args:
    sizes: bytes of the examples of each of `pieces`.
  """
  clips = "x".join(map(str, card["video"][:3]))
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=NAME, version=VERSION, data_dir=os.fspath(directory), module_name=__name__
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    description=f"Latents of clips of {clips} (frames, height, width) by {card['codec']['name']}.",
    features=features(card),
  )
  parts = list(zip(pieces(card), sizes, strict=True))
  splits = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[piece.stop - piece.start for piece, _ in parts if piece.split == split],
      num_bytes=sum(size for piece, size in parts if piece.split == split),
      filename_template=_template(directory, split),
    )
    for split in card["splits"]
  ]
  info.set_file_format("array_record")
  info.set_splits(tfds.core.splits.SplitDict(splits))
  with tfds_files.errors(f"{directory} cannot be written"):
    info.write_to_directory(directory)
  files.write_json(directory / CARD, card)


def _template(directory: Path, split: str) -> tfds.core.ShardedFileTemplate:
  return tfds.core.ShardedFileTemplate(
    data_dir=directory, dataset_name=NAME, split=split, filetype_suffix="array_record"
  )
