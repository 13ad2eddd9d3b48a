"""Opens and reads a stored tfds dataset safely, with errors that name the file.

tfds imports the classes that features.json names, and opens the paths that dataset_info.json names.
A dataset may come from an untrusted source, so both are checked before tfds reads them.
"""

import bisect
import concurrent.futures
import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf import json_format, message

from videojax.errors import ConfigError
from videojax.io import files

INFO, FEATURES, METADATA = "dataset_info.json", "features.json", "metadata.json"
_TFDS = "tensorflow_datasets.core.features."
_DICT = f"{_TFDS}features_dict.FeaturesDict"
_LEAVES = {  # class -> the field with its settings; none of these imports anything
  f"{_TFDS}tensor_feature.Tensor": "tensor",
  f"{_TFDS}scalar.Scalar": "tensor",
  f"{_TFDS}text_feature.Text": "text",
}
_DTYPES = {"bool", "string", "object", "float16", "float32", "float64"} | {
  f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}  # for any other dtype tfds imports TensorFlow
_NOTES = {"description", "valueRange"}
_NAME = r"[A-Za-z0-9_]+"
_TEMPLATE = r"(\{(DATASET|SPLIT|FILEFORMAT|SHARD_INDEX|NUM_SHARDS|SHARD_X_OF_Y)\}|[A-Za-z0-9_.-])+"
# Exceptions of tfds, protobuf and array_record on files that are damaged or of another version.
_TFDS_ERRORS = (
  json_format.Error,
  message.Error,
  ArithmeticError,
  AssertionError,
  AttributeError,
  LookupError,
  NotImplementedError,
  OSError,
  RuntimeError,
  TypeError,
  ValueError,
)


def open_dataset(path: Path) -> tfds.core.DatasetBuilder:
  """The tfds builder of the dataset in `path`; runs no code that the dataset names.

  Raises:
    ConfigError: a file is missing or damaged, or names a class or a path that a dataset of numbers
      and text does not need.
  """
  _check_features(path / FEATURES)
  _check_info(path / INFO)
  if (path / METADATA).exists():
    files.read_json(path / METADATA)
  with errors(f"{path} cannot be read as a tfds dataset"):
    return tfds.builder_from_directory(path)


@contextlib.contextmanager
def errors(what: str) -> Iterator[None]:
  """Turns exceptions of tfds inside the block into a ConfigError that begins with `what`."""
  try:
    yield
  except _TFDS_ERRORS as error:
    raise ConfigError(f"{what} ({_line(error)})") from error


class Records:
  """The examples of a split by index; thread-safe.

  Args:
    path: directory of the dataset, for messages.
    builder: from `open_dataset`.
    split: its split, or a slice of it.

  Raises:
    ValueError: there is no such split, or it is empty.
    ConfigError: a shard is missing, damaged, or does not hold the number of records that
      dataset_info.json says.
  """

  def __init__(self, path: Path, builder: tfds.core.DatasetBuilder, split: str):
    name = split.split("[")[0]
    if name not in builder.info.splits:
      known = ", ".join(sorted(builder.info.splits))
      raise ValueError(f"{path} has no split {name!r}; it has: {known}")
    with errors(f"{path}: split {split!r} cannot be read"):
      parts = builder.info.splits[split].file_instructions
    if not parts:
      raise ValueError(f"{path}: split {split!r} has no clips in it")
    with errors(f"{path}: split {split!r} cannot be read"):
      self._records: Any = builder.as_data_source(split)
    self._shards = [Path(part.filename) for part in parts]
    self._ends = list(itertools.accumulate(part.take for part in parts))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
      list(pool.map(_check_shard, self._shards, [part.examples_in_shard for part in parts]))

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < len(self):
      raise IndexError(f"index {index} is not in [0, {len(self)})")
    shard = self._shards[bisect.bisect_right(self._ends, index)]
    with errors(f"{shard} is damaged: one of its records is not a clip"):
      return self._records[index]


def _line(error: Exception) -> str:
  return " ".join(str(error).split())[:300] or "no reason given"


def _check_features(path: Path) -> None:
  """Raises ConfigError unless features.json is a flat dictionary of tensors, numbers and texts."""
  features = files.read_json(path)
  allowed = {"pythonClassName", "featuresDict", *_NOTES}
  if not isinstance(features, dict) or features.get("pythonClassName") != _DICT:
    raise ConfigError(f"{path}: wanted pythonClassName {_DICT!r} at the top level")
  named = features.get("featuresDict")
  named = named.get("features") if isinstance(named, dict) else None
  if set(features) - allowed or not isinstance(named, dict):
    raise ConfigError(f"{path}: wanted pythonClassName and featuresDict.features, nothing else")
  for name, feature in named.items():
    kind = feature.get("pythonClassName") if isinstance(feature, dict) else None
    if not isinstance(kind, str) or kind not in _LEAVES:
      raise ConfigError(
        f"{path}: feature {name!r} has class {kind!r}, which tfds would import; allowed classes: "
        f"{', '.join(_LEAVES)}"
      )
    if extra := set(feature) - {"pythonClassName", _LEAVES[kind], *_NOTES}:
      raise ConfigError(f"{path}: feature {name!r} has an unknown field {sorted(extra)[0]!r}")
    settings = feature.get("tensor", {"dtype": "string"})
    dtype = settings.get("dtype") if isinstance(settings, dict) else None
    if not isinstance(dtype, str) or dtype not in _DTYPES:
      raise ConfigError(f"{path}: feature {name!r} has an unknown dtype {dtype!r}")
    if not re.fullmatch(_NAME, name):
      raise ConfigError(f"{path}: {name!r} is not a valid feature name (letters, digits, _)")


def _check_info(path: Path) -> None:
  """Raises ConfigError unless dataset_info.json names array_record files in its own folder."""
  info = files.read_json(path)
  if not isinstance(info, dict):
    raise ConfigError(f"{path}: wanted a JSON object")
  splits = info.get("splits")
  if not isinstance(splits, list) or not splits:
    raise ConfigError(f"{path}: wanted `splits`, a list of at least one split")
  if info.get("fileFormat") != "array_record":
    raise ConfigError(f"{path}: fileFormat is {info.get('fileFormat')!r}, wanted 'array_record'")
  _check_text(path, info, "name", _NAME)
  for split in splits:
    if not isinstance(split, dict):
      raise ConfigError(f"{path}: a split is {split!r}, wanted a JSON object")
    _check_text(path, split, "name", _NAME)
    if split.get("filepathTemplate", "") != "":
      _check_text(path, split, "filepathTemplate", _TEMPLATE)
    lengths = split.get("shardLengths")
    if not isinstance(lengths, list) or not all(_is_count(length) for length in lengths):
      raise ConfigError(
        f"{path}: shardLengths of split {split['name']!r} must be a list of whole numbers"
      )
  for part in (info, *splits):  # protobuf also accepts file_format for fileFormat
    if odd := [key for key in part if "_" in key]:
      raise ConfigError(f"{path}: unknown field {odd[0]!r}")


def _check_text(path: Path, values: Mapping[str, Any], key: str, pattern: str) -> None:
  value = values.get(key)
  if not isinstance(value, str) or not re.fullmatch(pattern, value):
    raise ConfigError(f"{path}: {key} is {value!r}, which is not a file name in its folder")


def _is_count(value: object) -> bool:
  """Whether `value` is a whole number as protobuf writes it, as text or as a number."""
  return re.fullmatch("[0-9]{1,18}", str(value)) is not None


def _check_shard(shard: Path, records: int) -> None:
  """Raises ConfigError unless the shard exists, has its last block, and holds `records` records."""
  if not shard.exists():
    raise ConfigError(f"{shard.parent} is damaged: {shard.name} is missing")
  if not shard.is_file():  # reading a pipe would block forever
    raise ConfigError(f"{shard} is not a regular file")
  with errors(f"{shard} is truncated, changed, or not readable"):
    reader = array_record_module.ArrayRecordReader(str(shard), options="readahead_buffer_size:0")
    found = reader.num_records()
    reader.close()
  if found != records:
    raise ConfigError(f"{shard} holds {found} records, but {INFO} says {records}")
