"""Stage two of `video_folder`: makes a tfds dataset, its manifest and data card from cut files.

Shapes: T frames, H W height width, C channels.
"""

import collections
import dataclasses
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines import data_card, video_cut, video_splits
from videojax.errors import ConfigError

RECORD = "video_folder.json"


class NoClipsError(ConfigError):
  """The folder gives no clips; the message says why."""


@dataclasses.dataclass(frozen=True)
class Options(video_cut.Cutting):
  """All options that determine the dataset.

  Args:
    splits: name:share,...
  """

  splits: str

  def __post_init__(self) -> None:
    super().__post_init__()
    video_splits.parse_splits(self.splits)

  def cutting(self) -> video_cut.Cutting:
    names = [field.name for field in dataclasses.fields(video_cut.Cutting)]
    return video_cut.Cutting(**{name: getattr(self, name) for name in names})

  def command(self) -> str:
    """The command with these options, and placeholders for its directories."""
    values = dataclasses.asdict(self).items()
    flags = [f"--{name}={value}" for name, value in values if value is not None]
    return shlex.join(
      ["python", "-m", "data_pipelines.video_folder", "--source=DIR", "--out=DIR", *flags]
    )


@dataclasses.dataclass(frozen=True)
class Entry:
  """A line of the manifest: a clip with its split, its id in the dataset and its caption."""

  clip: video_cut.Clip
  split: str | None
  id: int | None
  caption: str

  def line(self) -> str:
    values = dataclasses.asdict(self.clip)
    del values["rows"]
    if self.split is not None:
      values |= {"split": self.split, "id": self.id, "caption": self.caption}
    return json.dumps(values) + "\n"


@dataclasses.dataclass(frozen=True)
class Pieces:
  """Makes examples from the frames that stage one stored.

  Args:
    folder: directory with the frames of each file.
    options: sizes and splits.
  """

  folder: str
  options: Options

  def video(self, clip: video_cut.Clip) -> UInt8[np.ndarray, "T H W C"]:
    path = video_cut.frames_path(Path(self.folder), clip.file)
    return video_cut.open_frames(path, self.options.size)[clip.rows]  # [T,H,W,C]

  def write_clips(
    self, dataset: Path, entries: Sequence[Entry], rule: str, fps: float
  ) -> dict[str, int]:
    """Writes the tfds dataset itself, with the splits of `entries`.

    Args:
      dataset: directory that does not exist yet.
      entries: kept clips, in order.
      rule: how clips were assigned to splits.
      fps: the typical frame rate of a clip.

    Returns:
      The number of clips per split.
    """
    from data_pipelines import clips  # imported here: the workers need neither tfds nor jax

    def examples(split: str) -> Iterator[dict[str, Any]]:
      for entry in entries:
        if entry.split == split:
          video, rate = self.video(entry.clip), entry.clip.fps
          yield {"video": video, "caption": entry.caption, "id": entry.id, "fps": rate}

    present = {entry.split for entry in entries}
    splits = [name for name in video_splits.parse_splits(self.options.splits) if name in present]
    return clips.write_clips(
      dataset,
      {split: examples(split) for split in splits},
      frames=self.options.frames,
      height=self.options.size,
      width=self.options.size,
      fps=fps,
      description=f"Clips cut from real videos by data_pipelines.video_folder. Splits: {rule}.",
      extra_metadata={"options": dataclasses.asdict(self.options)},
    )


def write(
  dataset: Path,
  source: Path,
  records: Sequence[Mapping[str, Any]],
  captions: Mapping[str, str],
  pieces: Pieces,
  state: Mapping[str, Any],
) -> str:
  """Writes the dataset.

  Args:
    dataset: its directory; replaced if it exists.
    source: the folder of videos.
    records: of each file, from `video_cut.cut_file`.
    captions: file -> caption.
    pieces: the frames of the files.
    state: stored in the dataset, so that the same command recognizes it.

  Returns:
    A summary in words.

  Raises:
    NoClipsError: there is nothing to write.
    ConfigError: a split would be empty.
  """
  files = [[video_cut.Clip(**clip) for clip in record["clips"]] for record in records]
  skipped, options = _skipped(records), pieces.options
  assigned, rule = video_splits.assign(files, video_splits.parse_splits(options.splits))
  entries = _entries(assigned, captions)
  kept = [entry for entry in entries if entry.split is not None]
  rates = [entry.clip.fps for entry in kept]
  shutil.rmtree(dataset, ignore_errors=True)
  card = data_card.Card(
    source=source.resolve().name,
    command=options.command(),
    frames=options.frames,
    size=options.size,
    rule=rule,
    counts=pieces.write_clips(dataset, kept, rule, float(np.median(rates))),
    rates=rates,
    slowest=kept[int(np.argmin(rates))].clip.file,
    fastest=kept[int(np.argmax(rates))].clip.file,
    source_seconds=sum(r["seconds"] for r in records if r["name"] not in skipped),
    dropped=collections.Counter(e.clip.reason for e in entries if e.split is None),
    skipped=skipped,
    caption_bytes=max(len(entry.caption.encode()) for entry in kept),
    files=len(records),
  )
  _describe(dataset, pieces, entries, card)
  (dataset / RECORD).write_text(json.dumps({**state, "summary": card.summary()}, indent=1))
  return card.summary()


def _describe(
  dataset: Path, pieces: Pieces, entries: Sequence[Entry], card: data_card.Card
) -> None:
  """Writes the files for people: manifest, data card and contact sheet."""
  with (dataset / "manifest.jsonl").open("w") as manifest:
    manifest.writelines(entry.line() for entry in entries)
  (dataset / "README.md").write_text(card.markdown(), encoding="utf-8")
  kept = [entry.clip for entry in entries if entry.split is not None]
  rows = [kept[i] for i in data_card.evenly(len(kept), data_card.SHEET_CLIPS)]
  sheet = data_card.contact_sheet([pieces.video(clip) for clip in rows])
  sheet.save(dataset / "contact_sheet.png")


def _skipped(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """{file: why it gives no clip}; raises NoClipsError if no file gives any."""
  skipped = {}
  for record in records:
    reasons = collections.Counter(clip["reason"] for clip in record["clips"])
    if record["skipped"]:
      skipped[record["name"]] = record["skipped"]
    elif not reasons["kept"]:
      pieces = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
      skipped[record["name"]] = f"no clip in it (pieces: {pieces})"
  if len(skipped) == len(records):
    dropped = collections.Counter(c["reason"] for record in records for c in record["clips"])
    raise NoClipsError(
      f"no clips in the {len(records)} files of --source; nothing was written\n"
      + data_card.report(dropped, skipped)
    )
  return skipped


def _entries(
  assigned: Sequence[tuple[video_cut.Clip, str | None]], captions: Mapping[str, str]
) -> list[Entry]:
  """Manifest entries; kept clips are numbered in order of file and time."""
  entries: list[Entry] = []
  number = 0
  for clip, split in assigned:
    entries.append(Entry(clip, split, None if split is None else number, captions[clip.file]))
    number += split is not None
  return entries
