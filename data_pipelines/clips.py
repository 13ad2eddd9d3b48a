"""Clips on disk: the one tfds dataset format that every pipeline writes and `Source` reads.

Each split holds examples {video uint8 [T,H,W,C], caption, id, fps} in array_record files, written
and read without TensorFlow. Videos are stored as bytes: the default encoding of tfds keeps uint8 as
lists of int64, which are five times slower to read.

Shapes: B batch, T frames, H W height width, C channels, L caption bytes.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from data_pipelines import tfds_files
from videojax import settings
from videojax.data import encode_caption
from videojax.errors import ConfigError
from videojax.settings import Range, Width

NAME = "clips"
VERSION = "1.0.0"
CHANNELS = 3
SHARD_BYTES = 256 * 2**20
LONGEST = 2**16  # bytes of a caption that `Source` reads at most
EXAMPLES_PER_WRITE = 256  # each write also rewrites the dataset's metadata


def write_clips(
  out: Path,
  splits: Mapping[str, Iterable[dict[str, Any]]],
  *,
  frames: int,
  height: int,
  width: int,
  fps: float,
  description: str,
  extra_metadata: Mapping[str, Any] | None = None,
) -> dict[str, int]:
  """Writes a tfds dataset of clips to `out`: all of it, or nothing.

  Args:
    out: directory that does not exist yet, or is empty.
    splits: split name -> examples, each with `video` uint8 [T,H,W,C], `caption` str, `id` int
      (uint32, unique in the dataset) and optionally its own `fps`; iterated once, in order.
    frames: T.
    height: H, in pixels.
    width: W, in pixels.
    fps: frames per second of the clips without an `fps` of their own.
    description: what the clips are, in words.
    extra_metadata: JSON values stored in the dataset's metadata.

  Returns:
    The number of examples per split.

  Raises:
    ConfigError: `out` is not empty, a split is empty, or an example is invalid.
  """
  out = Path(out)
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise ConfigError(f"{out} already exists; nothing was written. Choose another directory")
  shape = (frames, height, width, CHANNELS)
  with _at_once(out) as temporary:
    writer = _writer(temporary, shape, fps, description, extra_metadata or {})
    return _fill(writer, splits, shape, fps)


@contextlib.contextmanager
def _at_once(out: Path) -> Iterator[Path]:
  """A temporary directory that is renamed to `out` on success and deleted on an error."""
  temporary = out.with_name(f"{out.name}.writing-{os.getpid()}")
  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir(parents=True)
  try:
    yield temporary
    temporary.replace(out)  # replaces an empty directory too
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _fill(
  writer: tfds.core.SequentialWriter,
  splits: Mapping[str, Iterable[dict[str, Any]]],
  shape: tuple[int, int, int, int],
  fps: float,
) -> dict[str, int]:
  """Writes every example; returns their number per split."""
  writer.initialize_splits(list(splits))
  ids: set[int] = set()
  counts = dict.fromkeys(splits, 0)
  for split, examples in splits.items():
    checked = (_checked(example, shape, fps, ids, split) for example in examples)
    while batch := list(itertools.islice(checked, EXAMPLES_PER_WRITE)):
      with tfds_files.errors("the dataset cannot be written"):  # a full disk
        writer.add_examples({split: batch})
      counts[split] += len(batch)
    if not counts[split]:
      raise ConfigError(f"split {split!r} has no clips; nothing was written")
  with tfds_files.errors("the dataset cannot be written"):
    writer.close_all()
  return counts


def _writer(
  directory: Path,
  shape: tuple[int, int, int, int],
  fps: float,
  description: str,
  extra_metadata: Mapping[str, Any],
) -> tfds.core.SequentialWriter:
  """The tfds writer of a dataset of clips, without a builder class to register."""
  frames, height, width, channels = shape
  features = {
    "video": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
    "caption": tfds.features.Text(),
    "id": tfds.features.Scalar(np.uint32),
    "fps": tfds.features.Scalar(np.float32),
  }
  metadata = {
    "frames": frames, "height": height, "width": width, "channels": channels, "fps": fps
  } | dict(extra_metadata)  # fmt: skip
  identity = tfds.core.dataset_info.DatasetIdentity(
    name=NAME, version=VERSION, data_dir=os.fspath(directory), module_name=__name__
  )
  info = tfds.core.DatasetInfo(
    builder=identity,
    description=description,
    features=tfds.features.FeaturesDict(features),
    metadata=tfds.core.MetadataDict(metadata),
  )
  per_shard = max(1, SHARD_BYTES // int(np.prod(shape)))
  return tfds.core.SequentialWriter(info, per_shard, file_format="array_record")


def _checked(
  example: dict[str, Any],
  shape: tuple[int, int, int, int],
  fps: float,
  ids: set[int],
  split: str,
) -> dict[str, Any]:
  """The example as stored; adds its id to `ids`. Raises ConfigError if it is invalid."""
  video, identity = example["video"], int(example["id"])
  where = f"clip with id {identity} of split {split!r}"
  if video.shape != shape or video.dtype != np.uint8:
    raise ConfigError(f"{where}: video is {video.dtype}{video.shape}, wanted uint8{shape}")
  if not 0 <= identity < 2**32:
    raise ConfigError(f"{where}: an id must be from 0 to 2**32 - 1")
  if identity in ids:
    raise ConfigError(f"{where}: another clip has this id; ids must be unique in a dataset")
  ids.add(identity)
  rate = float(({"fps": fps} | example)["fps"])
  if not 0 < rate < np.inf:
    raise ConfigError(f"{where}: fps is {rate}, wanted a finite number above 0")
  return {
    "video": np.ascontiguousarray(video),
    "caption": example["caption"],
    "id": identity,
    "fps": rate,
  }


@dataclasses.dataclass(frozen=True)
class Config:
  """Which clips are read.

  Args:
    path: directory of a dataset that `write_clips` wrote.
    split: its split; tfds slices such as 'train[:10%]' work.
    frames: number of frames to read from the start of each clip; None: all.
    size: the height and width that the clips must have, in pixels; None: as stored.
    caption_bytes: L; longer captions are cut at a whole character, shorter ones are zero padded.
  """

  path: str
  split: str = "train"
  frames: Width | None = None
  size: Width | None = None
  caption_bytes: Annotated[int, Range(0, LONGEST)] = 64

  def __post_init__(self) -> None:
    settings.check(self)


class Source:
  """Random access to stored clips; safe from several threads.

  Args:
    config: which clips.

  Raises:
    ValueError: the directory is missing, empty or not a dataset, has no such split, or holds clips
      of another size than the config asks for.
    ConfigError: one of its files is damaged or does not hold clips; the message names the file.
  """

  finite = True

  def __init__(self, config: Config):
    self.config = config
    path = Path(config.path)
    builder = open_clips(path)
    stored = _stored_shape(builder, config)
    self.shape = (config.frames or stored[0], *stored[1:])
    self._records = tfds_files.Records(path, builder, config.split)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    """Example `index`: {video uint8 [T,H,W,C], caption uint8 [L], fps float32, id uint32}."""
    record = self._records[index]
    return {
      "video": record["video"][: self.shape[0]],  # [T,H,W,C]
      "caption": encode_caption(record["caption"], self.config.caption_bytes),
      "fps": np.float32(record["fps"]),
      "id": np.uint32(record["id"]),
    }

  def decode(self, carried: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch as models see it: uint8 video becomes float32 in [-1,1]; jittable."""
    return carried | {"video": to_float(carried["video"])}


def to_float(video: UInt8[jax.Array, "*dims"]) -> Float[jax.Array, "*dims"]:
  """0..255 -> [-1,1]."""
  return video.astype(jnp.float32) / 127.5 - 1.0


def open_clips(path: Path) -> tfds.core.DatasetBuilder:
  """The tfds builder of the dataset in `path`; raises ValueError if there is no dataset."""
  make = "make one with `python -m data_pipelines.video_folder`"
  if not path.is_dir():
    raise ValueError(f"no directory {path}: it should hold a dataset of clips; {make}")
  if not any(path.iterdir()):
    raise ValueError(f"{path} is empty: it should hold a dataset of clips; {make}")
  if lost := [n for n in (tfds_files.INFO, tfds_files.FEATURES) if not (path / n).exists()]:
    raise ValueError(f"{path} is not a tfds dataset (it lacks {' and '.join(lost)}); {make}")
  return tfds_files.open_dataset(path)


def _stored_shape(builder: tfds.core.DatasetBuilder, config: Config) -> tuple[int, int, int, int]:
  """(T,H,W,C) as stored; raises if the config asks for something else."""
  features = builder.info.features
  wanted = {"video": "uint8", "caption": "object", "id": "uint32", "fps": "float32"}
  found = {name: np.dtype(feature.np_dtype).name for name, feature in features.items()}
  shape: tuple[Any, ...] = features["video"].shape if "video" in features else ()
  if not wanted.items() <= found.items() or len(shape) != 4 or None in shape or 0 in shape:
    told = (f"{name} {found[name]}{list(features[name].shape)}" for name in found)
    raise ConfigError(
      f"{config.path} is a tfds dataset, but not of clips: wanted video uint8[T,H,W,C], caption, "
      f"id uint32 and fps float32, found {', '.join(told)}"
    )
  frames, height, width, channels = shape
  if config.frames is not None and config.frames > frames:
    raise ValueError(f"{config.path} has clips of {frames} frames, but frames={config.frames}")
  if config.size is not None and (height, width) != (config.size, config.size):
    raise ValueError(
      f"{config.path} has clips of {height}x{width} pixels (HxW), but size={config.size}: "
      "change size, or make the dataset again at that size"
    )
  return frames, height, width, channels
