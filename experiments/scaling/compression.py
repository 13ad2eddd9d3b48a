"""What compression buys: one DiT in pixels and in the latents of three codecs, at equal total FLOP.

  for codec in 2x4 4x4 4x8; do
    python -m videojax.launch --config=experiments/codec.py:$codec --workdir=runs/codecs/$codec
  done
  python -m videojax.launch --mode=sweep \\
    --config=experiments/scaling/compression.py:runs/codecs --workdir=runs/compression
  python -m videojax.report.compression --sweep=runs/compression --out=runs/compression/figure

The total of a cell is everything that was trained: the codec's own training, encoding in every
step, and the DiT. Each compression is given patches of whole columns in time and of single frames,
at one seed (`...:runs/codecs,forms`); the better form is in FORMS below and has three seeds.
"""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import codec, latent_worlds
from videojax.config import resolve
from videojax.errors import ConfigError, check_choice
from videojax.runs.program import Counts
from videojax.scaling.cells import Cell
from videojax.sweeps.schedule import override

TOTALS = (3e13, 6e13)  # FLOP
SEEDS = {TOTALS[0]: (0, 1, 2), TOTALS[1]: (0,)}
# Name -> codec of experiments/codec.py, None for pixels; the DiT's patch in its latents.
FORMS: dict[str, tuple[str | None, tuple[int, int, int]]] = {
  "pixels": (None, (17, 4, 4)),
  "2x4": ("2x4", (9, 1, 1)),
  "4x4": ("4x4", (5, 1, 1)),
  "4x8": ("4x8", (1, 1, 1)),
}
OTHERS: dict[str, tuple[str | None, tuple[int, int, int]]] = {
  "pixels_fine": (None, (17, 2, 2)),
  "pixels_frames": (None, (1, 8, 8)),
  "2x4_frames": ("2x4", (1, 2, 2)),
  "4x4_frames": ("4x4", (1, 2, 2)),
  "4x8_columns": ("4x8", (5, 1, 1)),
}


def get_config(arg: str = "runs/codecs") -> ConfigDict:
  """arg: directory of the codecs' runs; 'DIR,forms': the other patches; 'smoke'."""
  return latent_worlds.get_config("smoke" if arg == "smoke" else "4x8")


def get_sweep(arg: str = "runs/codecs") -> list[Cell]:
  """Every compression at equal totals."""
  if arg == "smoke":
    sizes = codec.sizes("smoke")
    return [Cell(f"smoke_seed{i}", {"seed": i, "total_steps": 2, "codec": sizes}) for i in range(4)]
  directory, _, which = arg.partition(",")
  check_choice("part", which, ("", "forms"))
  base, forms = get_config(arg).to_dict(), FORMS if not which else OTHERS
  points = [(total, seed) for total in TOTALS for seed in SEEDS[total]]
  points = points[:1] if which else points
  return [
    cell(base, name, Path(directory), total, seed) for total, seed in points for name in forms
  ]


def cell(base: dict[str, Any], name: str, codecs: Path, total: float, seed: int) -> Cell:
  """The run of a compression whose whole training, the codec's included, costs `total` FLOP."""
  which, patch = (FORMS | OTHERS)[name]
  sizes: dict[str, Any] = {"name": "identity"}
  if which is not None:
    sizes = codec.sizes(which) | {"weights": str(codecs / which)}
  model = {**base["model"], "patch": patch, "channels": sizes.get("channels", 3)}
  overrides = {"seed": seed, "model": model, "codec": sizes}
  if which is None:
    overrides["denoiser.sigma_data"] = 0.3  # of pixels; latents have unit variance
  e = resolve(override(base, overrides))
  task = e.task("worlds")
  spent = 0.0 if which is None else trained(codecs / which)
  steps = round((total - spent) / (e.batch_size * (Counts.of(task).flops + task.encode_flops)))
  if steps < 1:
    raise ConfigError(f"{name}: the codec alone took {spent:.3g} of {total:.3g} FLOP")
  return Cell(f"{name}_total{total:.2g}_seed{seed}", {**overrides, "total_steps": steps})


def trained(run: Path) -> float:
  """FLOP that training a codec took."""
  path = run / "result.json"
  if not path.exists():
    raise ConfigError(
      f"{run} has no finished codec: python -m videojax.launch "
      f"--config=experiments/codec.py:{run.name} --workdir={run}"
    )
  return float(json.loads(path.read_text())["flops"]["total"])


def get_notes(arg: str = "runs/codecs") -> dict[str, Any]:
  """Notes for sweep.json."""
  return {"title": "What compression buys"}
