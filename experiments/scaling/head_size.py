"""Does the attention head dim matter at a fixed width and budget?

  python -m videojax.launch --mode=sweep --config=experiments/scaling/head_size.py[:cpu] \\
    --workdir=runs/head_size

The model of worlds_isoflop at one width, with head dims from 16 to 128. All cells have the same
matrix products and therefore the same number of steps. Three seeds.
Loss, error and seconds: not measured (docs/LOG.md, 2026-11-24: set up only).
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.scaling.cells import Cell, cells, product, vary, zipped


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  c = worlds_isoflop.get_config(arg)
  c.model.width = 256 if arg == "" else 64
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Head dim by seed."""
  budget, width = {"": (6.4e14, 256), "cpu": (1.2e12, 64), "smoke": (1e10, 64)}[arg]
  dims = (16, 32, 64, 128) if arg == "" else (8, 16, 32, 64)
  heads = zipped(
    vary("model.head_dim", *dims), vary("model.num_heads", *(width // dim for dim in dims))
  )
  return cells(product(vary("budget", budget), heads, vary("seed", 0, 1, 2)))


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json."""
  return worlds_isoflop.get_notes(arg) | {"title": "Attention head dims"}
