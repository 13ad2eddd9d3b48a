"""Coherence against the FLOP of training and of generating, by compression: table and figure.

  python -m videojax.report.compression --sweep=runs/compression --out=DIR

reads the finished runs of experiments/scaling/compression.py and of the codecs that they use, and
writes compression.csv, .png and .svg. Standard errors are over clips and over seeds together.
"""

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from videojax.errors import ConfigError
from videojax.io import files
from videojax.report import plotting
from videojax.scaling.cells import Row, read_sweep

MEASURES = {"position_error_px": "position error (pixels)", "permanence": "permanence (fraction)"}
TRAINING, GENERATING = "train_flops", "generate_flops_per_second"
LABELS = {TRAINING: "FLOP of training, codec included", GENERATING: "FLOP per second of video"}


@dataclasses.dataclass(frozen=True)
class Runs:
  """The runs of one compression at one total, which differ in their seeds.

  Attributes:
    name: of the compression; of its cells, without total and seed.
    seeds: number of runs.
    steps: of each.
    codec_flops, encode_flops, denoiser_flops: of training the codec, of encoding in the steps, and
      of training the denoiser.
    denoise_flops, decode_flops: of generating a second of video.
    means, errors: measure -> mean over clips and seeds, and its standard error.
    floors: measure -> of the codec's reconstructions; of pixels, of the true clips.
  """

  name: str
  seeds: int
  steps: int
  codec_flops: float
  encode_flops: float
  denoiser_flops: float
  denoise_flops: float
  decode_flops: float
  means: dict[str, float]
  errors: dict[str, float]
  floors: dict[str, float]

  @property
  def row(self) -> dict[str, Any]:
    """All numbers under one name each."""
    out: dict[str, Any] = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.type in (str, int, float)
    }
    out[TRAINING] = self.codec_flops + self.encode_flops + self.denoiser_flops
    out[GENERATING] = self.denoise_flops + self.decode_flops
    for measure in MEASURES:
      mean, error = self.means[measure], self.errors[measure]
      out |= {measure: mean, f"{measure}_stderr": error, f"{measure}_floor": self.floors[measure]}
      if math.isfinite(error):
        out |= {f"{measure}_low": mean - 2 * error, f"{measure}_high": mean + 2 * error}
    return out


def read(sweep: Path) -> list[Runs]:
  """The finished cells of a sweep, by compression and total.

  Raises:
    ConfigError: no cell has finished, or the run of a codec is missing.
  """
  groups: dict[str, list[Row]] = {}
  for row in read_sweep(sweep):
    if row.status == "finished":
      groups.setdefault(row.cell.name.rpartition("_seed")[0], []).append(row)
  if not groups:
    raise ConfigError(f"{sweep} has no finished cell yet")
  return [_runs(rows) for rows in groups.values()]


def _runs(rows: Sequence[Row]) -> Runs:
  first, main = rows[0].result, rows[0].config["evaluate"]["main"]
  clip = first["clip"]
  if clip is None:
    raise ConfigError(f"{rows[0].directory} is older than the record of what a clip costs")
  floors, spent = {m: first["coherence"][m]["floor"] for m in MEASURES}, 0.0
  weights = rows[0].config["codec"]["config"].get("weights")
  if weights is not None:
    made = files.read_json(Path(weights) / "result.json")
    spent, floors = made["flops"]["total"], {m: made["coherence"][m][main] for m in MEASURES}
  return Runs(
    name=rows[0].cell.name.rpartition("_total")[0], seeds=len(rows), steps=first["steps"],
    codec_flops=spent, encode_flops=float(clip["encode_flops"] * first["clips"]),
    denoiser_flops=first["flops"]["total"], denoise_flops=clip["denoise_flops"] / clip["seconds"],
    decode_flops=clip["decode_flops"] / clip["seconds"],
    means={m: statistics.fmean(r.result["coherence"][m][main] for r in rows) for m in MEASURES},
    errors={m: _error(rows, m, main) for m in MEASURES}, floors=floors,
  )  # fmt: skip


def _error(rows: Sequence[Row], measure: str, split: str) -> float:
  """Standard error of the mean over the runs: of the clips, which they share, and of the seeds."""
  clips = statistics.fmean(r.result["coherence_stderr"][measure][split] or 0.0 for r in rows)
  if len(rows) == 1:
    return clips
  seeds = statistics.variance(r.result["coherence"][measure][split] for r in rows) / len(rows)
  return math.hypot(clips, math.sqrt(seeds))


def draw(runs: Iterable[Runs]) -> plotting.Panels:
  """A row of axes per measure: against training, and against generating."""
  rows = [one.row for one in runs]
  names = list(dict.fromkeys(row["name"] for row in rows))
  panels = plotting.Panels(2 * len(MEASURES), height=2.9)
  for number, axes in enumerate(panels.axes):
    measure, x = list(MEASURES)[number // 2], (TRAINING, GENERATING)[number % 2]
    for place, name in enumerate(names):
      own = sorted((row for row in rows if row["name"] == name), key=lambda row: row[TRAINING])
      color = plotting.PALETTE[place % len(plotting.PALETTE)]
      panels.marks(
        axes, "mean of clips and seeds", own, x, measure, of=name, label=name, color=color,
        fmt=plotting.MARKERS[place % len(plotting.MARKERS)] + "-", ms=5,
      )  # fmt: skip
      panels.level(
        axes, f"floor of {name}", measure, own[0][f"{measure}_floor"], ls=":", lw=1.2, color=color,
        label=None if place else "without a model: true or reconstructed clips",
      )  # fmt: skip
    axes.set(xlabel=LABELS[x], ylabel=MEASURES[measure])
    plotting.log_axis(axes, "x", plotting.POWER)
    if measure == "position_error_px":
      plotting.log_axis(axes, "y")
  panels.legend(columns=5)
  return panels


def to_text(runs: Iterable[Runs]) -> str:
  """A line per compression and total."""
  head = f"{'compression':16s} {'training':>9s} {'of it codec':>11s} {'per second':>10s}  seeds"
  lines = [f"{head}  " + "  ".join(MEASURES)]
  for one in runs:
    row = one.row
    share = (one.codec_flops + one.encode_flops) / row[TRAINING]
    values = (f"{one.means[m]:.3f} +- {one.errors[m]:.3f}" for m in MEASURES)
    lines.append(
      f"{one.name:16s} {row[TRAINING]:9.2e} {share:11.0%} {row[GENERATING]:10.2e}  {one.seeds:5d}  "
      + "  ".join(values)
    )
  return "\n".join(lines)


def main(argv: list[str]) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m videojax.report.compression", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  parser.add_argument("--sweep", type=Path, required=True, help="directory of the sweep")
  parser.add_argument("--out", type=Path, required=True, help="directory of table and figure")
  flags = parser.parse_args(argv)
  try:
    runs = read(flags.sweep)
    with plotting.styled():
      panels = draw(runs)
      plotting.save(panels.figure, flags.out, "compression")
    files.write_text(flags.out / "compression.csv", panels.csv())
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print(to_text(runs))
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
