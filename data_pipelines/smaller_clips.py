"""A smaller variant of a dataset of clips, so that films are decoded once, at the largest size.

  python -m data_pipelines.video_folder --source=FILMS --out=runs/data/512 --frames=17 --size=512
  python -m data_pipelines.smaller_clips --source=runs/data/512 --out=runs/data/256 --size=256
  python -m data_pipelines.smaller_clips --source=runs/data/512 --out=runs/data/1 --size=512 \\
    --frames=1

Clips keep their splits, ids, captions and frame rates; frames are scaled by area, and the leading
ones are kept. A run trains on several variants as a mixture, one per batch: `data` with a name for
each.

Shapes: T frames, S height and width, C channels.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines import clips
from videojax.data import caption_text
from videojax.errors import ConfigError
from videojax.io.log import phase


def scaled(video: UInt8[np.ndarray, "T S S 3"], size: int) -> UInt8[np.ndarray, "T s s 3"]:
  """The frames, each pixel the mean of the area that it covers."""
  resize = lambda frame: Image.fromarray(frame).resize((size, size), Image.Resampling.BOX)
  return np.stack([np.asarray(resize(frame)) for frame in video])


def make(source: Path, out: Path, size: int, frames: int | None = None) -> dict[str, int]:
  """Writes the variant; returns the number of clips per split.

  Args:
    source: directory of a dataset of square clips.
    out: directory that does not exist yet.
    size: height and width, at most the source's.
    frames: number of leading frames; None: all.
  Raises:
    ConfigError: `source` is no such dataset or too small, or `out` exists.
  """
  info = clips.open_clips(source).info
  sources = {
    split: clips.Source(clips.Config(str(source), split, frames, caption_bytes=clips.LONGEST))
    for split in info.splits
  }
  length, height, width, _ = next(iter(sources.values())).shape
  if height != width or not 0 < size <= height:
    raise ConfigError(f"--size={size}: {source} has clips of {height}x{width} pixels")
  total = sum(map(len, sources.values()))
  with phase("scaling, clips", total) as advance:

    def examples(of: clips.Source) -> Iterator[dict[str, Any]]:
      for i in range(len(of)):
        row = of[i]
        advance(1)
        yield {
          "video": scaled(row["video"], size), "caption": caption_text(row["caption"]),
          "id": int(row["id"]), "fps": float(row["fps"]),
        }  # fmt: skip

    return clips.write_clips(
      out, {split: examples(of) for split, of in sources.items()}, frames=length, height=size,
      width=size, fps=float(info.metadata["fps"]),
      description=f"{info.description} Scaled from {height} to {size} pixels.",
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.smaller_clips", allow_abbrev=False,
    description="Makes a smaller variant of a dataset of clips.",
  )  # fmt: skip
  parser.add_argument("--source", type=Path, required=True, help="directory of a dataset of clips")
  parser.add_argument("--out", type=Path, required=True, help="directory that does not exist yet")
  parser.add_argument("--size", type=int, required=True, help="height and width in pixels")
  parser.add_argument("--frames", type=int, help="leading frames of each clip (default: all)")
  flags = parser.parse_args(argv)
  try:
    counts = make(flags.source, flags.out, flags.size, flags.frames)
  except (ValueError, OSError) as error:
    print(f"smaller_clips: {error}", file=sys.stderr)
    return 2
  print(f"wrote {flags.out}: " + ", ".join(f"{n} clips of {s}" for s, n in counts.items()))
  return 0


if __name__ == "__main__":
  sys.exit(main())
