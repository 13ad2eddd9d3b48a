"""The first frames of a picture or a film, cut as `video_folder` cuts training clips.

Shapes: T frames, S height and width.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipelines import video_cut, video_reader
from videojax.errors import ConfigError


def read_picture(path: Path, size: int) -> UInt8[np.ndarray, "1 S S 3"]:
  """A picture as a clip of one frame: its centre square, scaled to `size` pixels.

  Raises:
    ConfigError: the file is not a picture, or cannot be read; the message names it.
  """
  if not video_cut.is_image(path):
    kinds = ", ".join(sorted(video_reader.IMAGE_SUFFIXES))
    raise ConfigError(f"{path} is not a picture ({kinds})")
  try:
    return video_reader.read_image(path, size)[None]
  except video_reader.UnreadableError as error:
    raise ConfigError(f"{path} cannot be read: {error}") from error


def read_film(path: Path, frames: int, size: int, fps: float) -> UInt8[np.ndarray, "T S S 3"]:
  """The first frames of a film at the times k / fps: their centre squares, scaled to `size` pixels.

  Raises:
    ConfigError: the film is shorter, too slow for `fps` (as for training clips), damaged there, or
      cannot be read; the message names it.
  """
  try:
    with video_reader.VideoFile(path) as video:
      found = list(itertools.islice(_frames(video, size, fps), frames))
  except video_reader.UnreadableError as error:
    raise ConfigError(f"{path} cannot be read: {error}") from error
  if len(found) < frames:
    raise ConfigError(
      f"{path} is too short: {len(found)} of {frames} frames, at {fps:g} frames per second"
    )
  if len({place for place, _ in found}) < video_cut.DISTINCT_SHARE * frames:
    raise ConfigError(f"{path} has too few frames per second: the clips have {fps:g}")
  return np.stack([frame for _, frame in found])


def _frames(
  video: video_reader.VideoFile, size: int, fps: float
) -> Iterator[tuple[int, UInt8[np.ndarray, "S S 3"]]]:
  """Yields (place in the film, frame) of each time k / fps."""
  resize = video_reader.Resizer(size)
  for place, picture, count in video_cut.nearest(video.pictures(), fps, 0.5 / video.fps):
    if not picture.sound:
      raise video_reader.UnreadableError(f"frame {picture.index} is damaged")
    yield from [(place, resize(picture.frame, video.pixel_aspect))] * count
