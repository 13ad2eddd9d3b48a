"""The data card of a dataset of clips: what is in it, what was left out and why, and a picture.

Alphabet: T frames, H W height width, C channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

UNLIKE = 2.0  # rates that differ by more are warned of
LISTED = 20  # most names in a message
SHEET_CLIPS, SHEET_FRAMES, SHEET_SIDE, SHEET_GAP = 12, 16, 96, 2  # most rows, columns; pixels
REASONS = {
  "still": "still: never more than 0.5 % of the pixels differ from the first frame",
  "slow": "fewer than three quarters of its frames differ: the frame rate of the source is too low",
  "short": "the remainder of a shot after its last whole clip",
  "broken": "damaged frames and those up to the next key frame",
  "overlap": "would share frames with a later split",
}

CARD = """# Clips cut from `{source}`

{total} clips of {frames} frames, {size}x{size} pixels, {rate}: {hours:.3f} hours one after another
(overlapping clips count each), from {source_hours:.3f} hours of video in {used} of {files} files.
{warnings}

![contact sheet](contact_sheet.png)

Each row is one clip, from left to right.

| split | clips |
|---|---|
{splits}

Divided by: {rule}.

## Dropped

| reason | pieces | meaning |
|---|---|---|
{dropped}

## Skipped files

{skipped}

## How it was made

    {command}

Files are decoded frame by frame, of several video tracks the first. A shot ends where a frame differs in layout and colours from the
one before, far more than the neighbouring frames do from each other (fades and dissolves are not
found); no clip crosses the end of a shot. Frames are the ones nearest in time to an even grid, scaled
by area so that the shorter side fits, and cropped in the centre; pixels that are not square are
made square. Marks of rotation and mirroring are obeyed. Colours are 8-bit RGB of ordinary video
(BT.709; of images sRGB, by their colour profiles): HDR (PQ, HLG) is shown with its reference white,
203 nits, as white, and all that is brighter as white; BT.2020 and Display P3 are converted, what they
have beyond BT.709 is clipped. Films that do not say their colours are taken for BT.601. Transparency
is ignored, interlaced video is left as it is.

`manifest.jsonl` has one line per clip or dropped piece: file, start_frame and end_frame (decoded
frames of the file from 0, the end excluded), start_s, source_fps, fps, shot, reason, and for kept
clips split, id and caption. Read the clips with

    tfds.builder_from_directory(DIRECTORY).as_data_source({first_split!r})

or, in an experiment, with the data source `clips`; {captions}.
"""  # noqa: E501 (Markdown)


def shown(name: str) -> str:
  """A file's name as text that can be written: bytes that are no UTF-8 become question marks."""
  return name.encode("utf-8", "replace").decode("utf-8")


def listing(title: str, reasons: Mapping[str, str]) -> str:
  """Names and reasons, in so many lines that they do not fill the screen."""
  lines = [
    f"  {shown(name)}" + (f": {reason}" if reason else "")
    for name, reason in sorted(reasons.items())
  ]
  more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
  return "\n".join([f"{title}:" + ("" if lines else " none"), *lines[:LISTED], *more])


def report(dropped: Mapping[str, int], skipped: Mapping[str, str]) -> str:
  """What was left out, in a few lines."""
  lines = [f"  {count} {reason}: {REASONS[reason]}" for reason, count in sorted(dropped.items())]
  return "\n".join(
    ["dropped pieces:" + ("" if lines else " none"), *lines, listing("skipped files", skipped)]
  )


@dataclasses.dataclass(frozen=True)
class Card:
  """What a data card tells.

  Args:
    source: the folder's name.
    command: what made the dataset.
    frames: T.
    size: height and width, in pixels.
    rule: how the splits were made.
    counts: clips by split.
    rates: the fps of every clip.
    slowest: the file of the lowest rate.
    fastest: of the highest.
    source_seconds: of all files that gave clips.
    dropped: pieces by reason.
    skipped: reason by file.
    caption_bytes: of the longest caption.
    files: how many there were.
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
    """The card in a few lines, for the screen."""
    by_split = ", ".join(f"{count} {split}" for split, count in self.counts.items())
    lines = [
      f"{self.files} files, {len(self.rates)} clips ({by_split}), "
      f"{len(self.skipped)} files skipped",
      report(self.dropped, self.skipped),
      self._captions(),
    ]
    return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings())])

  def _captions(self) -> str:
    """What the source `clips` must be told, for it cuts what is longer."""
    if not self.caption_bytes:
      return "there are no captions"
    return f"the longest caption has {self.caption_bytes} bytes: caption_bytes={self.caption_bytes}"

  def warnings(self) -> list[str]:
    """What the reader must know before training on it."""
    low, high = min(self.rates), max(self.rates)
    if self.frames == 1 or high <= UNLIKE * low:
      return []
    return [
      f"{low:g} frames per second ({shown(self.slowest)}) and {high:g} ({shown(self.fastest)}) "
      f"stand in one dataset: from frame to frame the same motion is {high / low:.1f} times as "
      "large in the first; --fps=RATE brings all files to one rate"
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
    )


def contact_sheet(videos: Sequence[UInt8[np.ndarray, "T H W C"]]) -> Image.Image:
  """A grid of clips (rows) by frames (columns), both taken evenly."""
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
  """At most `most` of range(count), evenly spaced, the first and the last among them."""
  return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
