"""The same clips at increasing compute: an animation for screens, a strip of frames for print.

Letters: B clips, T frames, H W height and width of the arrays in samples/step*.npz.
"""

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videojax.errors import ConfigError

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, FAINT, PAPER, GIVEN = (24, 24, 24), (110, 110, 110), (255, 255, 255), (213, 94, 0)
TILE = 120  # least pixels per side; small clips are enlarged by an integer, without smoothing
ROWS = 3  # clips in the animation: the first ones, so that none were selected
STRIP_FRAMES = 8
GAP, HEAD, FOOT, LEFT = 8, 36, 20, 96
# What np.load raises for files that are truncated, corrupted, encrypted, or not npz.
DAMAGE = (
  OSError, ValueError, KeyError, EOFError, IndexError, TypeError, MemoryError, RuntimeError,
  zipfile.BadZipFile, zlib.error,
)  # fmt: skip
HELD_MS = 600  # extra duration of the last frame before the clip repeats


@dataclasses.dataclass(frozen=True)
class Samples:
  """The samples that a run saved.

  Attributes:
    video, truth: uint8 [B,T,H,W,3].
    captions: one per clip.
    fps: frames per second.
    given: [T], whether each frame was given to the model.
  """

  video: np.ndarray
  truth: np.ndarray
  captions: tuple[str, ...]
  fps: float
  given: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Column:
  """The samples of one compute budget, with the text above them."""

  label: str
  note: str
  samples: Samples


def read_samples(run: Path) -> Samples | None:
  """The newest samples of a run directory; None if there are none.

  Raises:
    ConfigError: the file is damaged, or is not what sample.py writes.
  """
  paths = sorted((run / "samples").glob("step*.npz"))
  if not paths:
    return None
  try:
    with np.load(paths[-1], allow_pickle=False) as file:
      made = Samples(
        np.asarray(file["video"]), np.asarray(file["truth"]),
        tuple(str(c) for c in np.atleast_1d(file["caption"])),
        float(np.ravel(file["fps"])[0]), tuple(bool(g) for g in file["given"]),
      )  # fmt: skip
  except DAMAGE as error:
    raise ConfigError(f"{paths[-1]} is damaged ({error}): remove it, or sample again") from None
  right = made.video.ndim == 5 and made.video.shape == made.truth.shape
  right = right and made.video.size > 0 and made.video.shape[-1] == 3
  right = right and len(made.given) == made.video.shape[1] and 0 < made.fps < math.inf
  if not right or made.video.dtype != np.uint8:
    raise ConfigError(
      f"{paths[-1]}: video {made.video.shape} {made.video.dtype} and truth {made.truth.shape} must "
      "both be uint8 [clips, frames, height, width, 3], given as long as their frames "
      f"({len(made.given)}) and fps a positive number ({made.fps})"
    )
  return made


def comparable(samples: Sequence[Samples]) -> bool:
  """Whether all have the same true clips, so that columns can be compared."""
  first = samples[0].truth
  return all(s.truth.shape == first.shape and (s.truth == first).all() for s in samples)


def animation(columns: Sequence[Column]) -> bytes:
  """An animated WebP: truth and all columns side by side in sync, a row per clip."""
  first = columns[0].samples
  pages = [_page(columns, frame) for frame in range(first.video.shape[1])]
  duration = [max(20, round(1000 / first.fps))] * len(pages)
  duration[-1] += HELD_MS
  out = io.BytesIO()
  pages[0].save(
    out, format="WEBP", save_all=True, append_images=pages[1:], duration=duration, loop=0,
    quality=88, method=4,
  )  # fmt: skip
  return out.getvalue()


def _page(columns: Sequence[Column], frame: int) -> Image.Image:
  first = columns[0].samples
  rows = min(ROWS, len(first.video))
  tile = _enlarged(first.video[0, 0])
  width, height = tile.width + GAP, tile.height + FOOT + GAP
  page = Image.new("RGB", (GAP + (1 + len(columns)) * width, HEAD + rows * height), PAPER)
  draw = ImageDraw.Draw(page)
  given = first.given[frame]
  heads = [("truth", "given" if given else "")]
  heads += [(c.label, "given" if given else c.note) for c in columns]
  for place, (label, note) in enumerate(heads):
    x = GAP + place * width
    draw.text((x, 3), label, INK, _font(14))
    draw.text((x, 20), note, GIVEN if given else FAINT, _font(11))
    for row in range(rows):
      clips = first.truth if place == 0 else columns[place - 1].samples.video
      _paste(page, clips[row, frame], (x, HEAD + row * height), given)
  for row in range(rows):
    text = first.captions[row] if row < len(first.captions) else ""
    at = (GAP, HEAD + row * height + tile.height + 3)
    draw.text(at, _shortened(text, page.width - 2 * GAP, _font(11)), FAINT, _font(11))
  return page


def strip(columns: Sequence[Column], clip: int = 0) -> Image.Image:
  """Frames of one clip from left to right; one row for the truth and one per column."""
  first = columns[0].samples
  frames = strip_frames(first)
  tile = _enlarged(first.video[clip, 0], least=84)
  width, height = tile.width + 4, tile.height + 6
  page = Image.new(
    "RGB", (LEFT + len(frames) * width + GAP, 24 + (1 + len(columns)) * height), PAPER
  )
  draw = ImageDraw.Draw(page)
  for place, frame in enumerate(frames):
    text = f"{frame / first.fps:.1f} s" + (" given" if first.given[frame] else "")
    ink = GIVEN if first.given[frame] else FAINT
    draw.text((LEFT + place * width, 6), text, ink, _font(12))
  rows = [("truth", "", first.truth), *((c.label, c.note, c.samples.video) for c in columns)]
  for row, (label, note, clips) in enumerate(rows):
    y = 24 + row * height
    draw.text((GAP, y + tile.height // 2 - 16), label, INK, _font(14))
    draw.text((GAP, y + tile.height // 2 + 2), note, FAINT, _font(11))
    for place, frame in enumerate(frames):
      at = (LEFT + place * width, y)
      _paste(page, clips[clip, frame], at, first.given[frame], least=84)
  return page


def strip_frames(samples: Samples) -> list[int]:
  """The last leading given frame and up to seven later frames, evenly spaced to the end."""
  last = samples.video.shape[1] - 1
  leading = (*samples.given, False).index(False)
  start = min(max(leading - 1, 0), last)
  return sorted({round(f) for f in np.linspace(start, last, STRIP_FRAMES)})


def _enlarged(frame: np.ndarray, least: int = TILE) -> Image.Image:
  scale = max(1, math.ceil(least / max(frame.shape[:2])))
  return Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1))


def _paste(
  page: Image.Image, frame: np.ndarray, at: tuple[int, int], given: bool, least: int = TILE
) -> None:
  tile = _enlarged(frame, least)
  page.paste(tile, at)
  if given:
    box = (at[0] - 2, at[1] - 2, at[0] + tile.width + 1, at[1] + tile.height + 1)
    ImageDraw.Draw(page).rectangle(box, outline=GIVEN, width=2)


def _font(size: int) -> Font:
  """The font that the figures use."""
  path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
  return ImageFont.truetype(str(path), size) if path.exists() else ImageFont.load_default(size)


def _shortened(text: str, width: int, font: Font) -> str:
  if font.getlength(text) <= width:
    return text
  while text and font.getlength(text + " ...") > width:
    text = text.rsplit(" ", 1)[0] if " " in text else text[:-1]
  return text + " ..."
