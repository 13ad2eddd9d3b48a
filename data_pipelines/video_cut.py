"""Stage one of `video_folder`: turns one file into frames at one rate and size, and lists of clips.

The frames of a file go to `<key>.frames` (raw uint8 [N,H,W,C], each frame once). The clips, as rows
of that array, go to `<key>.json`, which is written last: if it exists, the file is finished.
Shapes: T frames, H W height width, C channels, N kept frames of a file.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipelines import video_reader
from videojax.errors import ConfigError
from videojax.io import files

STILL_LEVELS = 16  # of 255; a pixel has changed if a channel differs by more
STILL_SHARE = 0.005  # a clip is still if never more than this share of pixels has changed
DISTINCT_SHARE = 0.75  # with fewer distinct frames the source is too slow for the frame rate
SLOWEST_FPS, FASTEST_FPS = 0.001, 1000.0
LARGEST_CLIP = 2**31 - 2**20  # bytes; the limit of a record in a dataset
IMAGE_FPS = 1.0  # for images, which have no frame rate


@dataclasses.dataclass(frozen=True)
class Cutting:
  """The settings that define a clip.

  Args:
    frames: T.
    size: height and width, in pixels.
    fps: frames per second; None: each file's average rate.
    stride: frames from the start of a clip to the start of the next.
  """

  frames: int
  size: int
  fps: float | None
  stride: int

  def __post_init__(self) -> None:
    for name in ("frames", "size", "stride"):
      if not 1 <= getattr(self, name) < 2**31:
        raise ConfigError(
          f"--{name} must be at least 1, got {getattr(self, name)} (most: 2**31 - 1)"
        )
    if self.fps is not None and not SLOWEST_FPS <= self.fps <= FASTEST_FPS:
      raise ConfigError(
        f"--fps must be above 0, from {SLOWEST_FPS:g} to {FASTEST_FPS:g}, got {self.fps}"
      )
    if (size := self.frames * self.size**2 * 3) > LARGEST_CLIP:
      raise ConfigError(
        f"--frames={self.frames} of --size={self.size} make clips of {size / 1e9:.1f} GB; "
        f"the most is {LARGEST_CLIP / 1e9:.1f} GB"
      )


@dataclasses.dataclass(frozen=True)
class Clip:
  """One line of the manifest: where a clip comes from, and whether it is kept.

  Args:
    file: path below the source folder.
    start_frame: its first decoded frame in the file, from 0.
    end_frame: one past its last frame.
    start_s: time of the first frame in the file, in seconds.
    source_fps: average frame rate of the file.
    fps: frame rate of the clip.
    shot: number of the shot in the file, from 0; -1: damaged frames.
    reason: 'kept', or why it was dropped: 'still', 'slow', 'short', 'broken'; later 'overlap'.
    rows: its frames, as rows of the stored frames.
  """

  file: str
  start_frame: int
  end_frame: int
  start_s: float
  source_fps: float
  fps: float
  shot: int
  reason: str
  rows: list[int]


def identity(path: Path) -> list[int]:
  """[bytes, modification time in ns], to detect changes; [-1, -1] for a dead link."""
  if not path.exists():
    return [-1, -1]
  status = path.stat()
  return [status.st_size, status.st_mtime_ns]


def key(name: str) -> str:
  """The stem of the names of a file's outputs."""
  return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def is_image(path: Path) -> bool:
  return path.suffix.lower() in video_reader.IMAGE_SUFFIXES


def cut_file(path: Path, name: str, pieces: Path, cutting: Cutting) -> dict[str, Any]:
  """Cuts one file, unless it was cut before.

  Args:
    path: the file.
    name: its path below the source folder.
    pieces: directory of the outputs.
    cutting: the settings that define a clip.

  Returns:
    {name, identity, cutting, skipped: reason or None, seconds, shots, clips: [Clip as dict]}.
  """
  done = pieces / f"{key(name)}.json"
  state = {"name": name, "identity": identity(path), "cutting": dataclasses.asdict(cutting)}
  if (finished := _finished(done)) and {k: finished.get(k) for k in state} == state:
    return finished
  frames = frames_path(pieces, name)
  partial = _partial(pieces, name)
  record = state | left_out(name, None)
  try:
    with partial.open("wb") as file:
      read = _read_image if is_image(path) else _read_video
      track = read(path, file, cutting)
    record |= {"seconds": track.seconds, "shots": int(track.shots.max()) + 1}
    record["clips"] = [dataclasses.asdict(c) for c in _clips(track, name, partial, cutting)]
  except video_reader.UnreadableError as error:
    partial.write_bytes(b"")
    record["skipped"] = str(error)
  partial.replace(frames)
  files.write_text(done, json.dumps(record))
  return record


def _finished(done: Path) -> dict[str, Any] | None:
  """The record of a file that was cut before; None if it is missing or damaged."""
  try:
    record = files.read_json(done)
  except ConfigError:
    return None
  return record if isinstance(record, dict) else None


def left_out(name: str, reason: str | None) -> dict[str, Any]:
  """The record of a file that is not cut (yet), with the reason if it is skipped."""
  return {"name": name, "skipped": reason, "seconds": 0.0, "shots": 0, "clips": []}


def frames_path(pieces: Path, name: str) -> Path:
  return pieces / f"{key(name)}.frames"


def _partial(pieces: Path, name: str) -> Path:
  return frames_path(pieces, name).with_suffix(".partial")


def is_begun(pieces: Path, name: str) -> bool:
  """Whether a process began to cut the file and did not finish."""
  return _partial(pieces, name).exists()


def open_frames(path: Path, size: int) -> np.ndarray:
  """The frames of a file, uint8 [N,H,W,C], memory-mapped."""
  if not path.stat().st_size:
    return np.zeros((0, size, size, 3), np.uint8)
  return np.memmap(path, np.uint8, "r").reshape(-1, size, size, 3)  # [N,H,W,C]


@dataclasses.dataclass(frozen=True)
class _Track:
  """A file sampled on the even grid of times start + k / fps, for K grid times.

  Args:
    rows: int [K]: row of the stored frame that is nearest to grid time k; -1: damaged.
    sources: int [K]: number of that frame among the decoded frames.
    times_s: float [K]: time of that frame.
    shots: int [K]: shot of that frame; -1: damaged.
    source_fps: average frame rate of the file.
    fps: frame rate of the grid.
    seconds: length of the file.
  """

  rows: np.ndarray
  sources: np.ndarray
  times_s: np.ndarray
  shots: np.ndarray
  source_fps: float
  fps: float
  seconds: float


def _read_image(path: Path, file: BinaryIO, cutting: Cutting) -> _Track:
  if cutting.frames != 1:
    raise video_reader.UnreadableError("an image; images make clips only with --frames=1")
  file.write(video_reader.read_image(path, cutting.size).tobytes())
  zero = np.zeros(1, np.int64)
  fps = cutting.fps or IMAGE_FPS
  return _Track(zero, zero, np.zeros(1), zero, fps, fps, 0.0)


def _read_video(path: Path, file: BinaryIO, cutting: Cutting) -> _Track:
  """Decodes a video once: writes the frames that the grid picks, and finds the shots."""
  with video_reader.VideoFile(path) as video:
    if video.fps > FASTEST_FPS:
      raise video_reader.UnreadableError(
        f"its header says {video.fps:g} frames per second, above the limit of {FASTEST_FPS:g}"
      )
    fps = cutting.fps or video.fps
    resize, unlike = video_reader.Resizer(cutting.size), video_reader.CutScore()
    index, time_s, sound, damages, score = [], [], [], [], []

    def watched() -> Iterator[video_reader.Picture]:
      for picture in video.pictures():
        score.append(unlike(picture.frame))
        index.append(picture.index)
        time_s.append(picture.time_s)
        sound.append(picture.sound)
        damages.append(picture.damages)
        yield picture

    rows, places, written = [], [], 0
    for place, picture, count in nearest(watched(), fps, 0.5 / video.fps):
      kept = picture.sound
      if kept:
        file.write(resize(picture.frame, video.pixel_aspect).tobytes())
      rows += [written if kept else -1] * count
      places += [place] * count
      written += kept
    shots = _shots(np.array(score), np.array(sound), np.array(damages))
  at = np.array(places)
  return _Track(
    rows=np.array(rows),
    sources=np.array(index)[at],
    times_s=np.array(time_s)[at],
    shots=shots[at],
    source_fps=video.fps,
    fps=fps,
    seconds=time_s[-1] - time_s[0] + 1 / video.fps,
  )


def nearest(
  pictures: Iterator[video_reader.Picture], fps: float, last_s: float
) -> Iterator[tuple[int, video_reader.Picture, int]]:
  """Finds the frames nearest to the times start + k / fps, k = 0, 1, ..., up to the last frame.

  Args:
    pictures: in order of time.
    fps: frame rate of the grid.
    last_s: how long the last frame is assumed to last, because its time may be rounded.

  Yields:
    (position in the stream, frame, number of grid times to which it is the nearest), if that
    number is not 0. Ties go to the earlier frame.
  """
  tie = 1e-6  # seconds
  place, last, start_s, taken = -1, None, 0.0, 0
  for picture in pictures:
    if last is None:
      start_s = picture.time_s
    else:
      middle_s = (last.time_s + picture.time_s) / 2 - start_s + tie
      until = int(np.floor(middle_s * fps)) + 1  # grid times 0 .. until-1 lie before the middle
      if until > taken:
        yield place, last, until - taken
        taken = until
    place, last = place + 1, picture
  if last is not None:
    until = int(np.floor((last.time_s - start_s + last_s - tie) * fps)) + 1
    if until > taken:
      yield place, last, until - taken


def _shots(score: np.ndarray, sound: np.ndarray, damages: np.ndarray) -> np.ndarray:
  """The number of each frame's shot; -1 for damaged frames."""
  starts = video_reader.find_cuts(score)
  starts[1:] |= (np.diff(damages) > 0) | (sound[1:] & ~sound[:-1])
  starts[0] = True
  starts &= sound
  return np.where(sound, np.cumsum(starts) - 1, -1)  # [N]


def _clips(track: _Track, name: str, frames: Path, cutting: Cutting) -> Iterator[Clip]:
  """Cuts every shot into windows of T frames; the remainder of a shot gets a line, too."""
  stored = open_frames(frames, cutting.size)
  edges = (np.flatnonzero(np.diff(track.shots)) + 1).tolist()
  for first, stop in zip([0, *edges], [*edges, len(track.shots)]):
    if track.shots[first] < 0:
      yield _clip(track, name, first, stop, "broken")
      continue
    start = first
    while start + cutting.frames <= stop:
      rows = track.rows[start : start + cutting.frames]
      yield _clip(track, name, start, start + cutting.frames, _fault(stored, rows))
      start += cutting.stride
    covered = start - cutting.stride + cutting.frames if start > first else first
    if covered < stop:
      yield _clip(track, name, covered, stop, "short")


def _clip(track: _Track, name: str, start: int, stop: int, reason: str) -> Clip:
  return Clip(
    file=name,
    start_frame=int(track.sources[start]),
    end_frame=int(track.sources[stop - 1]) + 1,
    start_s=round(float(track.times_s[start]), 6),
    source_fps=track.source_fps,
    fps=track.fps,
    shot=int(track.shots[start]),
    reason=reason,
    rows=track.rows[start:stop].tolist() if reason == "kept" else [],
  )


def _fault(stored: np.ndarray, rows: np.ndarray) -> str:
  """Why a clip is dropped, or 'kept'."""
  if len(rows) == 1:
    return "kept"
  if len(np.unique(rows)) < DISTINCT_SHARE * len(rows):
    return "slow"
  video = stored[rows].astype(np.int16)  # [T,H,W,C]
  changed = (np.abs(video[1:] - video[:1]) > STILL_LEVELS).any(axis=-1)  # [T-1,H,W]
  return "still" if changed.mean(axis=(1, 2)).max() <= STILL_SHARE else "kept"
