"""Captions of worlds as prompts, and whether generated clips show what they ask for.

  python -m data_pipelines.world_prompts --write=prompts.jsonl --size=64 --frames=17 --known=5
  python -m videojax.launch --mode=generate --workdir=RUN --prompts=prompts.jsonl --out=DIR
  python -m data_pipelines.world_prompts --check=DIR

The first command writes captions of clips that training never shows; the last one finds the discs
in the generated files, compares them with the prompts and writes DIR/prompts.json.

Shapes: T frames, H W height and width.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from data_pipelines import worlds
from data_pipelines.world_config import PALETTE, SIZES, Config
from videojax.data import caption_text
from videojax.errors import ConfigError
from videojax.io import files, media

WAYS = "right", "left", "down", "up"
DISC = re.compile(rf"({'|'.join(SIZES)}) ({'|'.join(PALETTE)}) disc moves ({'|'.join(WAYS)})")
FRAMES = 5  # over which a direction is measured: later, discs may have bounced
SMALLEST = 0.5  # of the area of the smallest disc; less is not a disc


@dataclasses.dataclass(frozen=True)
class Found:
  """The discs of a clip.

  Attributes:
    number: of discs, in most frames.
    ways: colours that are there in most frames -> the way that the disc moves at first; None if
      there are several discs of this colour, or it is not there at first.
  """

  number: int
  ways: dict[str, str | None]


def asked(caption: str) -> dict[str, str]:
  """Colour -> way of the discs of a caption; raises ValueError if it is none of a world's."""
  discs = DISC.findall(caption)
  if not discs:
    raise ValueError(f"{caption!r} is no caption of a world, such as 'large red disc moves up'")
  return {color: way for _, color, way in discs}


def found(
  video: UInt8[np.ndarray, "T H W 3"],
  extent: float = Config.extent,
  radius: float = Config.radius[0],
) -> Found:
  """Finds the discs of a clip.

  A pixel belongs to the colour that it is nearest to, or to the background; connected pixels of a
  colour are a disc if they are as many as half of the smallest disc's.

  Args: extent, radius: side of the world and its smallest radius, in the same units.
  """
  pixels = video.astype(np.float32) / 127.5 - 1
  per_unit = video.shape[2] / extent
  least = SMALLEST * np.pi * (radius * per_unit) ** 2
  colors = np.array(list(PALETTE.values()), np.float32)  # [6,3], of squared length 3
  near = pixels @ colors.T  # [T,H,W,6]; above 1.5, nearer to the colour than to the grey 0
  mine = (near == near.max(-1, keepdims=True)) & (near > 1.5)
  centers = {name: _centers(mine[..., i], least) for i, name in enumerate(PALETTE)}
  counts = np.array([[len(frame) for frame in of] for of in centers.values()])  # [6,T]
  there = (counts > 0).mean(1) > 0.5
  ways = {name: _way(of) for (name, of), here in zip(centers.items(), there) if here}
  return Found(int(np.bincount(counts.sum(0)).argmax()), ways)


def _centers(mine: np.ndarray, least: float) -> list[list[tuple[float, float]]]:
  """Centres (x, y) of the discs of each frame."""
  out = []
  for frame in mine:
    labels, number = ndimage.label(frame)
    areas = ndimage.sum_labels(frame, labels, np.arange(1, number + 1))
    places = ndimage.center_of_mass(frame, labels, np.arange(1, number + 1))
    out.append([(x, y) for area, (y, x) in zip(areas, places) if area >= least])
  return out


def _way(frames: Sequence[Sequence[tuple[float, float]]]) -> str | None:
  """The word for the direction over the first frames; see Found."""
  first = frames[:FRAMES]
  if len(first) < 2 or any(len(centers) != 1 for centers in first):
    return None
  times = np.arange(len(first)) - (len(first) - 1) / 2
  x, y = times @ np.array([centers[0] for centers in first])
  if abs(x) >= abs(y):
    return "right" if x > 0 else "left"
  return "down" if y > 0 else "up"


def obeyed(ways: Mapping[str, str], clip: Found) -> dict[str, float]:
  """Whether the clip has the number of discs and exactly the colours that are asked for, and the
  share of the discs asked for that move as asked; a disc that is not there does not."""
  right = [clip.ways.get(color) == way for color, way in ways.items()]
  return {
    "number": float(clip.number == len(ways)),
    "color": float(set(clip.ways) == set(ways)),
    "direction": float(np.mean(right)),
  }


def compare(prompts: Sequence[str], clips: Sequence[Found]) -> dict[str, Any]:
  """Means over clips with standard errors, and by chance: each clip with the other prompts."""
  asks = [asked(prompt) for prompt in prompts]
  own = [obeyed(*pair) for pair in zip(asks, clips)]
  others = [
    obeyed(ask, clip) for i, ask in enumerate(asks) for j, clip in enumerate(clips) if i != j
  ]
  out: dict[str, Any] = {"clips": len(clips)}
  for name in ("number", "color", "direction"):
    values = np.array([row[name] for row in own])
    chance = float(np.mean([row[name] for row in others])) if others else None
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    out[name] = {"mean": float(values.mean()), "stderr": error, "chance": chance}
  return out


def check(directory: Path) -> dict[str, Any]:
  """Compares the clips of a directory of `--mode=generate` with their prompts."""
  path = directory / "manifest.jsonl"
  if not path.exists():
    raise ConfigError(f"{directory} has no manifest.jsonl: make clips with --mode=generate")
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  if not lines:
    raise ConfigError(f"{path} has no lines")
  clips = [found(media.read_mp4(directory / line["file"])) for line in lines]
  result = compare([line["prompt"] for line in lines], clips)
  files.write_json(directory / "prompts.json", result)
  return result


def write(path: Path, config: Config, number: int) -> None:
  """Writes the captions of a split's first clips as prompts, with seeds 0, 1, ..."""
  source = worlds.Source(config)
  made = source.decode({"index": np.arange(number, dtype=np.uint32)})
  captions = [caption_text(row) for row in np.asarray(made["caption"])]
  lines = [json.dumps({"prompt": text, "seed": i}) + "\n" for i, text in enumerate(captions)]
  files.write_text(path, "".join(lines))


def main(argv: list[str]) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.world_prompts", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument("--write", type=Path, metavar="FILE.jsonl", help="write prompts")
  what.add_argument("--check", type=Path, metavar="DIR", help="check generated clips")
  add = parser.add_argument
  add("--num", type=int, default=64, help="number of prompts (default: %(default)s)")
  add("--size", type=int, default=64, help="of the world, pixels (default: %(default)s)")
  add("--frames", type=int, default=17, help="of its clips (default: %(default)s)")
  add("--known", type=int, default=5, help="of its clips (default: %(default)s)")
  add("--split", default="id", help="of the world (default: %(default)s)")
  add("--scenes", default="one,two", help="comma separated (default: %(default)s)")
  flags = parser.parse_args(argv)
  try:
    if flags.write:
      config = Config(
        size=flags.size, frames=flags.frames, known=flags.known, split=flags.split,
        scenes=tuple(flags.scenes.split(",")),
      )  # fmt: skip
      write(flags.write, config, flags.num)
      print(flags.write)
      return 0
    result = check(flags.check)
  except (ValueError, OSError) as error:
    parser.error(str(error))
  for name in ("number", "color", "direction"):
    cell = result[name]
    around = "" if cell["stderr"] is None else f" +- {cell['stderr']:.3f}"
    chance = "" if cell["chance"] is None else f"   by chance {cell['chance']:.3f}"
    print(f"{name:10s} {cell['mean']:.3f}{around}{chance}")
  print(flags.check / "prompts.json")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
