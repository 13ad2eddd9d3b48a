"""PhyWorld's own measure, the error of a clip's mean velocity: as published, and corrected.

As published (evaluate.py of its code): a ball is the set of pixels of its colour (red: R > 127,
G < 127, B < 127), its x is their mean column times 10 / W, and its velocity is the difference of x
over .1 s. Frames count from the fourth on, while every ball is truly whole in the picture; the
error is |mean velocity - true mean velocity|. A ball without pixels is placed at x = 10 (of two
balls, the red one at 0).

Its pixel error: the paper draws column i at 10 i / (W - 1) but reads it back as 10 i / W, so that
every velocity reads too small by v / W: by .0098 on average for v = 1 to 4 at 256 pixels. True
clips drawn and read in this way give .0098 (published: .010); corrected, .0003.

Corrected here: columns are read as they were drawn; a pixel counts in proportion to its coverage,
not as all or nothing; a ball that vanished has no velocity, so its clip has no error (count these).
The measured quantity stays the paper's. tests/data_pipelines/test_phyworld.py has both floors.

Source: Kang et al. 2024, arXiv:2411.02385, and its code, github.com/phyworld/phyworld (ee0e473).

Shapes: B clips, T frames, H W height width, M balls.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from videojax.errors import check_choice

EXTENT = 10.0
READINGS = ("published", "corners", "centres")
KNOWN = 3  # frames at the start that are never judged; a constant in the paper, too

Video = Float[np.ndarray, "T H W 3"]


def published_x(video: Video, balls: int) -> Float[np.ndarray, "T M"]:
  """Each ball's x in world units as the paper's parser reads it, including its scale error."""
  red, green, blue = np.moveaxis(np.round((np.clip(video, -1, 1) + 1) * 127.5), -1, 0)  # [T,H,W]
  masks = [(red > 127) & (green < 127) & (blue < 127), (red < 127) & (green < 127) & (blue > 127)]
  column = np.arange(video.shape[2])
  x = np.empty((len(video), balls))
  for ball, mask in enumerate(masks[:balls]):
    area = mask.sum((1, 2))
    mean = (mask * column).sum((1, 2)) / np.maximum(area, 1)
    gone = 0.0 if balls == 2 and ball == 0 else EXTENT
    x[:, ball] = np.where(area > 0, mean * EXTENT / video.shape[2], gone)
  return x


def mended_x(video: Video, balls: int, reading: str) -> Float[np.ndarray, "T M"]:
  """Each ball's x in world units: the coverage-weighted mean column, NaN if the ball vanished.

  Args:
    video: in [-1,1], white with a red and a blue ball.
    balls: M.
    reading: where column i was drawn: 'corners', at 10 i / (W - 1), or 'centres', 10 (i + .5) / W.
  """
  check_choice("reading", reading, READINGS[1:])
  width = video.shape[2]
  column = (
    np.arange(width) / (width - 1) if reading == "corners" else (np.arange(width) + 0.5) / width
  )
  x = np.empty((len(video), balls))
  for ball, channel in enumerate((2, 0)[:balls]):  # a red ball removes blue, a blue one red
    cover = np.clip((1 - video[..., channel].astype(np.float64)) / 2, 0, 1)  # [T,H,W]
    cover = cover * _near(cover > 0.5)  # faint traces far from the ball do not belong to it
    mass = cover.sum((1, 2))
    mean = (cover * column).sum((1, 2)) / np.maximum(mass, 1e-9)
    x[:, ball] = np.where(mass > 0, mean * EXTENT, np.nan)
  return x


def _near(mask: np.ndarray) -> np.ndarray:
  """Mask [T,H,W] dilated by one pixel: True where the 3x3 neighbourhood contains a True."""
  for axis in (1, 2):
    pad = [(0, 0)] * 3
    pad[axis] = (1, 1)
    wide, size = np.pad(mask, pad), mask.shape[axis]
    mask = np.any([wide.take(range(i, i + size), axis) for i in range(3)], axis=0)
  return mask


def velocity_error(
  x: Float[np.ndarray, "T M"], state: Mapping[str, Any], fps: float
) -> tuple[float, float]:
  """|mean velocity - true mean velocity|, averaged over balls, before and after the contact.

  Args:
    x: positions that a parser read, world units.
    state: the simulator's state of this clip (docs/shapes.md).
    fps: frames per second.

  Returns:
    The paper's vel_error (for two balls pre_vel_error), and post_vel_error; world units/s. NaN if
    no two consecutive frames are judged, or a ball has vanished.
  """
  position, radius = np.asarray(state["position"], np.float64), np.asarray(state["radius"])
  inside = (position >= radius[:, None]) & (position <= EXTENT - radius[:, None])
  judged = inside.all((1, 2)) & (np.arange(len(x)) >= KNOWN)  # [T]
  contact = np.asarray(state["contact"])[:, 0]
  errors = []
  for count in (0, 1):
    frame = judged & (contact == count)
    pair = frame[1:] & frame[:-1]
    speed, true = (np.diff(a, axis=0)[pair] * fps for a in (x, position[..., 0]))
    mean = np.abs(speed.mean(0) - true.mean(0)).mean() if pair.any() else np.nan
    errors.append(float(mean))
  return errors[0], errors[1]


def velocity_errors(
  video: Float[np.ndarray, "B T H W 3"], state: Mapping[str, Any], fps: float, reading: str
) -> Float[np.ndarray, "B 2"]:
  """`velocity_error` of each clip, read as 'published', or corrected for 'corners' or 'centres'."""
  check_choice("reading", reading, READINGS)
  balls, rows = np.shape(state["radius"])[1], []
  for i, clip in enumerate(np.asarray(video)):
    x = published_x(clip, balls) if reading == "published" else mended_x(clip, balls, reading)
    rows.append(velocity_error(x, {k: np.asarray(v)[i] for k, v in state.items()}, fps))
  return np.array(rows)
