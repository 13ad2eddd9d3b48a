"""Rate and distortion of classical codecs on clips of a world or of a dataset: table and figure.

  python -m videojax.report.rate_distortion --data=worlds --size=64 --frames=16 --out=DIR
  python -m videojax.report.rate_distortion --data=DATASET --split=validation --out=DIR

writes rate_distortion.csv, .png and .svg and prints the table with the BD-rates. DATASET is a
directory that `python -m data_pipelines.video_folder` has made. On worlds the exact position error
is measured, too.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from videojax import data
from videojax.io import log
from videojax.io.files import write_text
from videojax.io.media import to_uint8
from videojax.measures import rate_distortion as rd
from videojax.measures.classical_codecs import CODECS, FORMATS
from videojax.measures.distortion import position_error
from videojax.report import plotting

FLOOR = "true clips (floor)"
POSITION = "position_error_px"
LABELS = {"psnr_db": "PSNR (dB)", POSITION: "position error (pixels)"}


def draw(curves: Sequence[rd.Curve], floors: Mapping[str, float]) -> plotting.Panels:
  """PSNR against bits per pixel, a line per codec; beside it each further error that all have.

  Codecs whose names begin with the same word ('x264 4:4:4', 'x264 4:2:0') share a colour; a line is
  dashed where colour has half the resolution.

  Args:
    floors: error -> that of the true clips.
  """
  errors = [name for name in curves[0].points[0].errors if all(_has(c, name) for c in curves)]
  families = list(dict.fromkeys(_family(c) for c in curves))
  panels = plotting.Panels(1 + len(errors), height=3.6)
  for axes, y in zip(panels.axes, ("psnr_db", *errors)):
    for curve in curves:
      place = families.index(_family(curve)) % len(plotting.PALETTE)
      dash = "--" if curve.codec.endswith(" 4:2:0") else "-"
      rows = [row for row in rd.rows([curve]) if row[y] is not None and np.isfinite(row[y])]
      rows.sort(key=lambda row: row["bits_per_pixel"])
      panels.marks(
        axes, "setting", rows, "bits_per_pixel", y, of=curve.codec, label=curve.codec, ms=4,
        color=plotting.PALETTE[place], fmt=plotting.MARKERS[place] + dash,
      )  # fmt: skip
    axes.set(xlabel="bits per pixel", ylabel=LABELS.get(y, y))
    plotting.log_axis(axes, "x")
    if y in floors:
      panels.level(axes, FLOOR, y, floors[y], ls="--", lw=1.1, label=FLOOR)
    if y != "psnr_db":
      plotting.log_axis(axes, "y")
  panels.legend(columns=3)
  return panels


def _family(curve: rd.Curve) -> str:
  return curve.codec.split(" ")[0]


def _has(curve: rd.Curve, name: str) -> bool:
  return all(p.errors.get(name) is not None for p in curve.points)


def write(curves: Sequence[rd.Curve], floors: Mapping[str, float], out: Path) -> None:
  """Writes the table and the figure into a directory; see `draw`."""
  write_text(out / "rate_distortion.csv", rd.to_csv(curves))
  with plotting.styled():
    plotting.save(draw(curves, floors).figure, out, "rate_distortion")


def compared(curves: Sequence[rd.Curve]) -> str:
  """A line per curve after the first: its BD-rate against the first, or why it has none."""
  lines, anchor = [], curves[0]
  for test in curves[1:]:
    try:
      bd = rd.bd_rate(anchor, test)
    except ValueError as error:
      lines.append(str(error))
      continue
    lines.append(
      f"{test.codec} against {anchor.codec}: {100 * bd.change:+.1f} % of the rate at equal PSNR, "
      f"over {bd.low:.1f} to {bd.high:.1f} dB ({100 * bd.covered:.0f} % of the curves' range)"
    )
  return "\n".join(lines)


def measure(source: data.Source, clips: int) -> tuple[dict[str, list[rd.Curve]], dict[str, float]]:
  """Measures every classical codec on a fixed set of a source's clips.

  Returns: chroma format -> curves, and the errors of the true clips where their state is known.
  """
  rows = data.stack_examples(source, data.spread(source, clips).tolist())
  example = source.decode({key: jnp.asarray(row) for key, row in rows.items()})
  video, fps = to_uint8(np.asarray(example["video"])), float(example["fps"][0])
  errors: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
  if state := example.get("state"):
    extent = source.config.extent  # type: ignore[attr-defined]  # of every world
    errors[POSITION] = rd.motion(position_error(extent, fps), state)
  formats = [(c, name) for c in FORMATS for name, codec in CODECS.items() if c in codec.chroma]
  curves: dict[str, list[rd.Curve]] = {}
  with log.phase("classical codecs", len(formats)) as advance:
    for chroma, name in formats:
      curve = rd.classical(name, video, chroma=chroma, fps=fps, errors=errors)
      curves.setdefault(chroma, []).append(curve)
      advance(1)
  return curves, {name: float(np.nanmean(error(video))) for name, error in errors.items()}


def main(argv: list[str]) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m videojax.report.rate_distortion", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  add = parser.add_argument
  add("--data", required=True, help="'worlds', or the directory of a dataset of clips")
  add("--out", type=Path, required=True, help="directory of the table and the figure")
  add("--split", help="default: 'id' of worlds, 'validation' of a dataset")
  add("--clips", type=int, default=32, help="number of clips (default: %(default)s)")
  add("--size", type=int, help="height and width in pixels; a dataset's own by default")
  add("--frames", type=int, help="of a clip; a dataset's own by default")
  flags = parser.parse_args(argv)
  try:
    if flags.clips < 1:
      parser.error(f"--clips={flags.clips} must be at least 1")
    by_chroma, floors = measure(_source(flags), flags.clips)
    curves = [curve for group in by_chroma.values() for curve in group]
    write(curves, floors, flags.out)
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print(rd.to_text(curves))
  print("\n".join(compared(group) for group in by_chroma.values()))
  return 0


def _source(flags: argparse.Namespace) -> data.Source:
  if flags.data == "worlds":
    if not flags.size or not flags.frames:
      raise ValueError("--data=worlds needs --size and --frames")
    settings = {"size": flags.size, "frames": flags.frames, "split": flags.split or "id"}
  else:
    settings = {"path": flags.data, "split": flags.split or "validation"}
    settings |= {"size": flags.size} if flags.size else {}
    settings |= {"frames": flags.frames} if flags.frames else {}
  module = data.pipeline("worlds" if flags.data == "worlds" else "clips")
  return module.Source(module.Config(**settings))


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
