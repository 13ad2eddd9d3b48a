"""How many different clips does a model need, and does more data help out of distribution?

  python -m videojax.launch --mode=sweep --config=experiments/scaling/data_size.py[:cpu] \\
    --workdir=runs/data_size

The model of worlds_isoflop at one width and budget, trained on 1,000, 10,000 or 100,000 clips, each
seen once per epoch, or on clips that never repeat. Three seeds.
Loss, error and seconds: not measured (docs/LOG.md, 2026-11-24: set up only).
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.scaling.cells import Cell, cells, product, vary


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  c = worlds_isoflop.get_config(arg)
  c.model.update(
    {"": dict(width=192, num_heads=6)}.get(arg, dict(width=48, num_heads=2, head_dim=24))
  )
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Number of clips by seed."""
  budget = {"": 2.56e15, "cpu": 2.4e12, "smoke": 1e10}[arg]
  clips = (1000, 10_000, 100_000, None)
  return cells(
    product(vary("budget", budget), vary("data.worlds.clips", *clips), vary("seed", 0, 1, 2))
  )


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json."""
  return worlds_isoflop.get_notes(arg) | {"title": "How many clips"}
