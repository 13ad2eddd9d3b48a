"""Little videos that the tests make themselves."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def _write_video(
  path: Path,
  frames: Sequence[np.ndarray],
  fps: int = 24,
  codec: str = "ffv1",
  pixels: str = "bgr0",
  times_s: Sequence[float] | None = None,
  options: dict[str, str] | None = None,
  container_options: dict[str, str] | None = None,
) -> Path:
  """Encodes uint8 [H,W,3] (or [H,W,4], or [H,W]) frames; `times_s` makes the rate variable."""
  path.parent.mkdir(parents=True, exist_ok=True)
  layout = {2: "gray", 3: "rgb24"}[frames[0].ndim] if frames[0].shape[-1] != 4 else "rgba"
  with av.open(str(path), "w", options=container_options or {}) as container:
    stream = container.add_stream(codec, rate=fps, options=options or {})
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = pixels
    clock = Fraction(1, 1000) if times_s is not None else Fraction(1, fps)
    stream.codec_context.time_base = clock
    for number, pixels_of_frame in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_of_frame), format=layout)
      frame.time_base = clock
      frame.pts = number if times_s is None else round(times_s[number] * 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
  return _write_video


@pytest.fixture(scope="session")
def numbered() -> Callable[..., list[np.ndarray]]:
  """Frames that say which they are: brightness 2 * (first + number), and a block that moves."""

  def make(count: int, height: int = 48, width: int = 64, first: int = 5) -> list[np.ndarray]:
    frames = np.full((count, height, width, 3), 0, np.uint8)
    for number, frame in enumerate(frames):
      frame[:] = 2 * (first + number)
      x = width // 4 + (3 * number) % (width // 2)
      frame[height // 3 : height // 2, x : x + width // 8] = (
        255  # keeps the picture from being still
      )
    return list(frames)

  return make
