"""The data card of a dataset of clips: contents, what was left out and why, a contact sheet.

Shapes: T frames, H W height width, C channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

UNLIKE = 2.0  # a larger ratio of frame rates causes a warning
LISTED = 20  # maximum number of names in a message
SHEET_CLIPS, SHEET_FRAMES = 12, 16  # maximum rows and columns of the contact sheet
SHEET_SIDE, SHEET_GAP = 96, 2  # pixels
REASONS = {
  "still": "at most 0.5 % of the pixels ever differ from the first frame",
  "slow": "fewer than three quarters of its frames differ: the frame rate of the source is too low",
  "short": "the remainder of a shot after its last whole clip",
  "broken": "damaged frames, and all frames from there to the next key frame",
  "overlap": "would share frames with a later split",
}

CROP = "scaled by area averaging so that the\nshorter side fits, and cropped in the centre"

CARD = """# Clips cut from `{source}`

{total} clips of {frames} frames, {size}x{size} pixels, {rate}: {hours:.3f} hours in total
(overlapping clips counted in full), from {source_hours:.3f} hours of video in {used} of {files} files.
{warnings}

![contact sheet](contact_sheet.png)

Each row is one clip; time runs from left to right.

| split | clips |
|---|---|
{splits}

How clips were assigned to splits: {rule}.

## Dropped

| reason | pieces | meaning |
|---|---|---|
{dropped}

## Skipped files

{skipped}

## How it was made

    {command}

Files are decoded frame by frame; if a file has several video tracks, the first is used. A shot ends
where a frame differs from the previous one in layout and colours far more than neighbouring frames
differ from each other (fades and dissolves are not detected); no clip crosses the end of a shot.
Frames are those nearest in time to an even grid. They are {crop}; pixels that are not square are made square. Rotation and
mirroring flags are applied. Colours are 8-bit RGB of standard-dynamic-range video (BT.709; for images
sRGB, converted with their colour profiles). In HDR video (PQ, HLG) the reference white of 203 nits and
everything brighter becomes white; BT.2020 and Display P3 are converted, and colours outside BT.709 are
clipped. Videos without colour metadata are taken to be BT.601. Transparency is ignored; interlaced
video is not deinterlaced.

`manifest.jsonl` has one line per clip or dropped piece: file, start_frame and end_frame (decoded
frames of the file, counted from 0, end excluded), start_s, source_fps, fps, shot, reason, and for kept
clips split, id and caption. Read the clips with

    tfds.builder_from_directory(DIRECTORY).as_data_source({first_split!r})

or, in an experiment, with the data source `clips`; {captions}.
"""  # noqa: E501 (Markdown)


def shown(name: str) -> str:
  """A file's name as printable text: bytes that are not UTF-8 become question marks."""
  return name.encode("utf-8", "replace").decode("utf-8")


def listing(title: str, reasons: Mapping[str, str]) -> str:
  """A title, then names and reasons on at most LISTED lines, and how many more there are."""
  lines = [
    f"  {shown(name)}" + (f": {reason}" if reason else "")
    for name, reason in sorted(reasons.items())
  ]
  more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
  return "\n".join([f"{title}:" + ("" if lines else " none"), *lines[:LISTED], *more])


def report(dropped: Mapping[str, int], skipped: Mapping[str, str]) -> str:
  """What was left out, as a few lines of text."""
  lines = [f"  {count} {reason}: {REASONS[reason]}" for reason, count in sorted(dropped.items())]
  return "\n".join(
    ["dropped pieces:" + ("" if lines else " none"), *lines, listing("skipped files", skipped)]
  )


@dataclasses.dataclass(frozen=True)
class Card:
  """The contents of a data card.

  Args:
    source: the source folder's name.
    command: the command that makes the dataset.
    frames: T.
    size: height and width, in pixels.
    rule: how clips were assigned to splits.
    counts: split -> number of clips.
    rates: the fps of every clip.
    slowest: the file with the lowest fps.
    fastest: the file with the highest fps.
    source_seconds: total length of the files that gave clips.
    dropped: reason -> number of pieces.
    skipped: file -> reason.
    caption_bytes: length of the longest caption.
    files: number of files in the source folder.
  """

  source: str
  command: str
  frames: int
  size: int
  rule: str
  counts: Mapping[str, int]
  rates: Sequence[float]
  slowest: str
  fastest: str
  source_seconds: float
  dropped: Mapping[str, int]
  skipped: Mapping[str, str]
  caption_bytes: int
  files: int

  def summary(self) -> str:
    """The card as a few lines for the console."""
    by_split = ", ".join(f"{count} {split}" for split, count in self.counts.items())
    lines = [
      f"{self.files} files, {len(self.rates)} clips ({by_split}), "
      f"{len(self.skipped)} files skipped",
      report(self.dropped, self.skipped),
      self._captions(),
    ]
    return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings())])

  def _captions(self) -> str:
    """The `caption_bytes` that the source `clips` needs; it cuts longer captions."""
    if not self.caption_bytes:
      return "there are no captions"
    return f"the longest caption has {self.caption_bytes} bytes: caption_bytes={self.caption_bytes}"

  def warnings(self) -> list[str]:
    """What to know before training on the dataset."""
    low, high = min(self.rates), max(self.rates)
    if self.frames == 1 or high <= UNLIKE * low:
      return []
    return [
      f"the dataset mixes {low:g} frames per second ({shown(self.slowest)}) and {high:g} "
      f"({shown(self.fastest)}): the same motion is {high / low:.1f} times as large per frame in "
      "the first; --fps=RATE brings all files to one rate"
    ]

  def markdown(self) -> str:
    low, high = min(self.rates), max(self.rates)
    rate = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    dropped = [f"| {r} | {n} | {REASONS[r]} |" for r, n in sorted(self.dropped.items())]
    skipped = [f"- `{shown(f)}`: {r}" for f, r in sorted(self.skipped.items())]
    return CARD.format(
      source=shown(self.source),
      command=self.command,
      total=len(self.rates),
      frames=self.frames,
      size=self.size,
      rate=f"{rate} frames per second",
      warnings="".join(f"\n**Warning:** {text}.\n" for text in self.warnings()),
      hours=sum(self.frames / fps for fps in self.rates) / 3600,
      source_hours=self.source_seconds / 3600,
      used=self.files - len(self.skipped),
      files=self.files,
      splits="\n".join(f"| {split} | {count} |" for split, count in self.counts.items()),
      rule=self.rule,
      dropped="\n".join(dropped) or "| none | 0 | |",
      skipped="\n".join(skipped) or "None.",
      captions=self._captions(),
      first_split=next(iter(self.counts)),
      crop=CROP,
    )


def contact_sheet(videos: Sequence[UInt8[np.ndarray, "T H W C"]]) -> Image.Image:
  """A grid of clips (rows) and frames (columns), both evenly sampled."""
  videos = [videos[i] for i in evenly(len(videos), SHEET_CLIPS)]
  columns = evenly(len(videos[0]), SHEET_FRAMES)
  side = min(SHEET_SIDE, videos[0].shape[1])
  step = side + SHEET_GAP
  sheet = Image.new("RGB", (len(columns) * step, len(videos) * step), "white")
  for row, video in enumerate(videos):
    for column, frame in enumerate(columns):
      picture = Image.fromarray(video[frame]).resize((side, side), Image.Resampling.BOX)
      sheet.paste(picture, (column * step, row * step))
  return sheet


def evenly(count: int, most: int) -> list[int]:
  """At most `most` evenly spaced numbers of range(count), including the first and the last."""
  return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
