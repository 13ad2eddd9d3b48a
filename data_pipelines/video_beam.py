"""`video_folder --beam`: both stages on many machines, with the functions that one machine runs.

In stage one each worker task cuts a file, in stage two it writes a shard. Whatever needs all clips
together (splits, ids, manifest, data card) stays in the command, so the dataset has the same
examples in the same order, and the other files are the same, too. --source and --out are
directories that every worker sees, or URLs of Beam's file systems. With URLs, workers copy the
files that they read and write, an interrupted command starts over, and OUT is filled at the end,
`video_folder.json` last. Workers need videojax[beam], too.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines import beam_tools, video_build, video_cut, video_dataset, video_splits
from data_pipelines.beam_tools import is_url
from videojax.errors import ConfigError

INFO = "dataset_info.json"


def build(source: str, out: str, options: video_dataset.Options, arguments: Sequence[str]) -> str:
  """Makes the dataset unless it is already there: `video_build.build` on Beam, URLs allowed.

  Args:
    source: directory or URL of videos and images.
    out: directory or URL of the dataset.
    options: the settings of clips and splits.
    arguments: Beam's own options.

  Returns:
    A summary in words.

  Raises:
    ConfigError: Beam is not installed, or see `video_build.build`.
  """
  beam_tools.check(source, out, arguments)
  source, out = source.rstrip("/"), out.rstrip("/")
  with tempfile.TemporaryDirectory() as folder:
    near, files = Path(source).absolute(), None
    if is_url(source):
      near = Path(folder, "source", PurePosixPath(source).name)
      files = beam_tools.fetch_texts(source, near, (f"{out}/", f"{out}.partial/"))
    target = Path(folder, "out") if is_url(out) else Path(out)
    partial = f"{out}.partial" if is_url(out) else str(video_build.partial_of(target))
    place = source if is_url(source) else str(near)
    cluster = Cluster(f"{partial}/pieces", options, place, f"{partial}/dataset", arguments)
    if not is_url(out):
      return video_build.build(near, target, options, 1, cluster, files)
    finished = beam_tools.fetch_record(out, target, video_dataset.RECORD)
    try:
      summary = video_build.build(near, target, options, 1, cluster, files)
    except ConfigError as error:
      raise ConfigError(str(error).replace(str(target), out)) from error
    if not finished:
      beam_tools.publish(target, cluster.shards, out, video_dataset.RECORD)
      beam_tools.delete(f"{partial}/**")
    return summary.replace(str(target), out)


@dataclasses.dataclass(frozen=True)
class Cluster(video_build.Cluster):
  """Both stages on Beam; `folder` may be a URL.

  Args:
    source: directory or URL of the files.
    shards: directory or URL of the shards.
    arguments: Beam's own options.
  """

  source: str
  shards: str
  arguments: Sequence[str]

  def cut(self, media: Sequence[str]) -> list[dict[str, Any]]:
    """Stage one: cuts every file; returns the records in the order of `media`."""
    place = f"{self.folder}/cut"
    results = beam_tools.map_all(self._cut_file, media, place, self.arguments)
    records = {record["name"]: record for record in results}
    return [records[name] for name in media]

  def _cut_file(self, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
      path = Path(self.source, name)
      if is_url(self.source):
        path = Path(folder, f"source{PurePosixPath(name).suffix}")
        beam_tools.copy(f"{self.source}/{name}", str(path))
      pieces = Path(folder if is_url(self.folder) else self.folder)
      record = video_cut.cut_file(path, name, pieces, self.options.cutting())
      if is_url(self.folder):
        beam_tools.copy(str(video_cut.frames_path(pieces, name)), self._frames(name))
      return record

  def _frames(self, name: str) -> str:
    return f"{self.folder}/{video_cut.frames_path(Path(), name)}"

  def video(self, clip: video_cut.Clip) -> UInt8[np.ndarray, "T H W C"]:
    if not is_url(self.folder):
      return super().video(clip)
    side, first = self.options.size, min(clip.rows)
    with beam_tools.open_file(self._frames(clip.file)) as file:
      file.seek(first * side * side * 3)
      read = file.read((max(clip.rows) + 1 - first) * side * side * 3)
    return np.frombuffer(read, np.uint8).reshape(-1, side, side, 3)[np.array(clip.rows) - first]

  def write_clips(
    self, dataset: Path, entries: Sequence[video_dataset.Entry], rule: str, fps: float
  ) -> dict[str, int]:
    """Stage two: writes every shard, and the metadata files of tfds."""
    from data_pipelines import clips  # imported here: stage one needs neither tfds nor jax

    step = max(1, clips.SHARD_BYTES // (self.options.frames * self.options.size**2 * 3))
    splits, tasks = list(video_splits.parse_splits(self.options.splits)), []
    for split in splits:
      lines = [dataclasses.asdict(entry) for entry in entries if entry.split == split]
      starts = range(0, len(lines), step)
      tasks += [[n, lines[start : start + step], rule, fps] for n, start in enumerate(starts)]
    results = beam_tools.map_all(self._write_shard, tasks, f"{self.folder}/write", self.arguments)
    results.sort(key=lambda result: result["number"])
    info = _joined([json.loads(result["files"][INFO]) for result in results], splits)
    dataset.mkdir(parents=True, exist_ok=True)
    for name, text in (results[0]["files"] | {INFO: json.dumps(info, indent=2)}).items():
      (dataset / name).write_text(text)
    return {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}

  def _write_shard(self, task: Sequence[Any]) -> dict[str, Any]:
    number, lines, rule, fps = task
    entries = [video_dataset.Entry(**x | {"clip": video_cut.Clip(**x["clip"])}) for x in lines]
    with tempfile.TemporaryDirectory() as folder:
      dataset = Path(folder, "dataset")
      super().write_clips(dataset, entries, rule, fps)
      (shard,) = dataset.glob("*-00000")
      beam_tools.copy(str(shard), f"{self.shards}/{shard.name[:-5]}{number:05d}")
      files = {path.name: path.read_text() for path in dataset.glob("*.json")}
    return {"number": number, "files": files}


def _joined(infos: Sequence[dict[str, Any]], splits: Sequence[str]) -> dict[str, Any]:
  """The dataset_info of a dataset, merged from those of its shards in order."""
  joined = []
  for split in splits:
    parts = [part for info in infos for part in info["splits"] if part["name"] == split]
    size = sum(int(part["numBytes"]) for part in parts)
    lengths = [length for part in parts for length in part["shardLengths"]]
    joined.append(parts[0] | {"numBytes": str(size), "shardLengths": lengths})
  return infos[0] | {"splits": joined}
