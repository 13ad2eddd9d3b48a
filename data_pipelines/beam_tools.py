"""Apache Beam for `video_beam`: files at URLs (gs:// and others), and a map over many machines."""

import concurrent.futures
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines import captions
from videojax import errors


def is_url(path: str) -> bool:
  return "://" in path


def check(source: str, out: str, arguments: Sequence[str]) -> None:
  """Raises ConfigError if Beam is missing or cannot use these paths.

  Also sets Beam's `arguments` for all later file operations.
  """
  errors.require_extra("apache_beam", "beam")
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  beam.Pipeline(options=PipelineOptions(list(arguments)))
  for path in [source, out] if is_url(source) else [out]:
    if set("*?[") & set(path):
      raise errors.ConfigError(
        f"{path}: Beam interprets *, ? and [ as patterns; choose another name"
      )


def open_file(path: str, write: bool = False) -> Any:
  """Opens a binary file, local or remote; its suffix never causes decompression."""
  from apache_beam.io import filesystem, filesystems

  act = filesystems.FileSystems.create if write else filesystems.FileSystems.open
  return act(path, compression_type=filesystem.CompressionTypes.UNCOMPRESSED)


def copy(source: str, target: str) -> None:
  """Copies a file and creates its parent directories."""
  with open_file(source) as read, open_file(target, write=True) as written:
    shutil.copyfileobj(read, written, 2**23)


def match(pattern: str) -> Iterator[tuple[str, list[int]]]:
  """Yields (path, [bytes, modification time in ms]) of each file; `**` also matches slashes."""
  from apache_beam.io.filesystems import FileSystems

  for file in FileSystems.match([pattern])[0].metadata_list:
    yield file.path, [file.size_in_bytes, round((file.last_updated_in_seconds or 0) * 1000)]


def delete(pattern: str) -> None:
  """Deletes the files that match; there may be none."""
  from apache_beam.io.filesystems import FileSystems

  if any(match(pattern)):
    FileSystems.delete([pattern])


def fetch_texts(source: str, near: Path, ours: Sequence[str]) -> dict[str, list[int]]:
  """Copies all files that may hold captions to `near`.

  Args:
    source: URL of a folder.
    near: local directory.
    ours: URL prefixes of our own output, which is ignored.

  Returns:
    Path below `source` -> identity (see `match`), for all files except hidden ones.

  Raises:
    ConfigError: there are no files.
  """
  files = {}
  for path, identity in match(f"{source}/**"):
    name = path.removeprefix(f"{source}/")
    hidden = any(part.startswith(".") for part in name.split("/"))
    if not (hidden or name.endswith("/") or path.startswith(tuple(ours))):
      files[name] = identity
  if not files:
    raise errors.ConfigError(f"--source: {source} has no files in it; nothing was written")
  near.mkdir(parents=True)
  texts = [n for n in files if n.endswith(".txt") or n.split("/")[-1] in captions.TABLES]
  with concurrent.futures.ThreadPoolExecutor(32) as pool:
    list(pool.map(lambda name: copy(f"{source}/{name}", str(near / name)), texts))
  return dict(sorted(files.items()))


def fetch_record(folder: str, target: Path, record: str) -> bool:
  """Copies `record` from a folder, or any other file if it is absent; whether there are files."""
  names = sorted(path.removeprefix(f"{folder}/") for path, _ in match(f"{folder}/**"))
  for name in [record] if record in names else names[:1]:
    copy(f"{folder}/{name}", str(target / name))
  return bool(names)


def publish(near: Path, shards: str, out: str, last: str) -> None:
  """Fills the folder `out`: the files of `near`, those below `shards`, and `last` at the end."""
  from apache_beam.io.filesystems import FileSystems

  for path in near.iterdir():
    if path.name != last:
      copy(str(path), f"{out}/{path.name}")
  moved = [path for path, _ in match(f"{shards}/*")]
  FileSystems.rename(moved, [f"{out}/{path.rpartition('/')[2]}" for path in moved])
  copy(str(near / last), f"{out}/{last}")


def map_all(
  function: Callable[[Any], Any], items: Iterable[Any], place: str, arguments: Sequence[str]
) -> list[Any]:
  """Runs a function on many machines.

  Args:
    function: from JSON to JSON; must be picklable.
    items: its arguments, passed through a file: there may be too many for a pipeline's description.
    place: path prefix of the files with items and results.
    arguments: Beam's own options.

  Returns:
    The results, in no particular order.
  """
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions

  delete(f"{place}.out*")
  with open_file(f"{place}.in", write=True) as file:
    file.writelines(f"{json.dumps(item)}\n".encode() for item in items)
  with beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
    _ = (
      pipeline
      | beam.io.ReadFromText(f"{place}.in")
      | beam.Reshuffle()
      | beam.Map(lambda line: json.dumps(function(json.loads(line))))
      | beam.io.WriteToText(f"{place}.out")
    )
  results: list[Any] = []
  for path, _ in match(f"{place}.out*"):
    with open_file(path) as file:
      results += map(json.loads, file)
  return results
