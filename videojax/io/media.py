"""Writes clips as files to watch: mp4 with PyAV, animated WebP grids with Pillow."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from videojax.errors import ConfigError
from videojax.io.files import replacing

INK, PAPER, GIVEN = (32, 32, 32), (255, 255, 255), (214, 120, 20)
LEAST_TILE = 128  # pixels; small clips are enlarged by an integer factor, without smoothing


def to_uint8(video: Float[np.ndarray, "... H W C"]) -> UInt8[np.ndarray, "... H W C"]:
  """[-1,1] -> 0..255."""
  return np.round((np.clip(np.asarray(video), -1, 1) + 1) * 127.5).astype(np.uint8)


def check_writer() -> None:
  """Raises ConfigError if mp4 cannot be written: at the start of a run, not at its end."""
  if importlib.util.find_spec("av") is None:
    raise ConfigError("PyAV, which writes a run's samples, is not installed: pip install av")


def write_mp4(path: Path, frames: UInt8[np.ndarray, "T H W 3"], *, fps: float) -> None:
  """Writes H.264 at near-lossless quality, atomically."""
  import av  # only here: not on every accelerator machine

  scale = max(1, math.ceil(LEAST_TILE / min(frames.shape[1:3])))
  frames = frames.repeat(scale, 1).repeat(scale, 2)
  frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]  # yuv420p: even sizes
  with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
    stream = container.add_stream("libx264", rate=round(fps) or 1, options={"crf": "12"})
    stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
    container.mux(stream.encode())


def read_mp4(path: Path) -> UInt8[np.ndarray, "T H W 3"]:
  """The frames of a file that `write_mp4` wrote, as large as they are there."""
  import av

  with av.open(str(path)) as container:
    return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def grid_frames(
  video: UInt8[np.ndarray, "B T H W C"],
  truth: UInt8[np.ndarray, "B T H W C"] | None,
  captions: list[str],
  *,
  given: Sequence[bool] | np.ndarray,
  made: str = "sample",
) -> list[Image.Image]:
  """One picture per frame: a cell per clip, with truth left of sample and the caption below.

  Args:
    given: [T] or [B,T], whether the model was given each frame; such frames have a coloured border.
    made: what the clips are, above each.
  """
  scale = max(1, math.ceil(LEAST_TILE / video.shape[2]))
  height, width = video.shape[2] * scale, video.shape[3] * scale
  font, gap, head = ImageFont.load_default(11), 6, 16
  panels = [("truth", truth), (made, video)] if truth is not None else [(made, video)]
  cell_w = len(panels) * (width + gap) + gap
  lines = [_wrap(c, cell_w - 2 * gap, font) for c in captions]
  foot = 13 * max((len(line) for line in lines), default=0) + gap
  cell_h = head + height + foot + gap
  columns = max(1, min(len(video), round(math.sqrt(len(video) * cell_h / cell_w * 1.6))))
  rows = math.ceil(len(video) / columns)
  given = np.broadcast_to(np.asarray(given), video.shape[:2])  # [B,T]
  pages = []
  for t in range(video.shape[1]):
    page = Image.new("RGB", (columns * cell_w, rows * cell_h), PAPER)
    draw = ImageDraw.Draw(page)
    for i in range(len(video)):
      x0, y0 = (i % columns) * cell_w, (i // columns) * cell_h
      for p, (name, clips) in enumerate(panels):
        x, y = x0 + gap + p * (width + gap), y0 + head
        draw.text((x, y0 + 2), f"{name} {'(given)' if given[i, t] else ''}", INK, font)
        tile = clips[i, t].repeat(scale, 0).repeat(scale, 1)
        page.paste(Image.fromarray(tile if tile.shape[-1] == 3 else tile[..., 0]), (x, y))
        if given[i, t]:
          draw.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=GIVEN, width=2)
      for k, line in enumerate(lines[i]):
        draw.text((x0 + gap, y0 + head + height + 3 + 13 * k), line, INK, font)
    pages.append(page)
  return pages


def write_grid(
  path: Path,
  video: UInt8[np.ndarray, "B T H W C"],
  truth: UInt8[np.ndarray, "B T H W C"] | None,
  captions: list[str],
  *,
  fps: float,
  given: Sequence[bool] | np.ndarray,
  made: str = "sample",
) -> None:
  """Writes `grid_frames` as a looping WebP animation; the last frame stays half a second longer."""
  pages = grid_frames(video, truth, captions, given=given, made=made)
  duration = [round(1000 / fps)] * len(pages)
  duration[-1] += 500
  with replacing(path) as temporary:
    pages[0].save(
      temporary, format="WEBP", save_all=True, append_images=pages[1:], duration=duration,
      loop=0, quality=90,
    )  # fmt: skip


def _wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
  lines, line = [], ""
  for word in text.split():
    longer = f"{line} {word}".strip()
    if line and font.getlength(longer) > width:
      lines.append(line)
      line = word
    else:
      line = longer
  return [*lines, line] if line else lines
