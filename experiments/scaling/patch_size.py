"""How large should a token's patch be? Patches in space and time at matched FLOPs.

  python -m videojax.launch --mode=sweep --config=experiments/scaling/patch_size.py[:cpu] \\
    --workdir=runs/patch_size

The model of worlds_isoflop at one width and two budgets. The patch determines the tokens per clip
and so the cost of a step; the number of steps follows from the budget. All losses are on the same
clips and noise, so they can be compared across patches; the sweep shows whether loss ranks patches
as coherence does. Loss, error and seconds: not measured (docs/LOG.md, 2026-11-24: set up only).
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.scaling.cells import Cell, cells, product, vary


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  return worlds_isoflop.get_config(arg)


def get_sweep(arg: str = "") -> list[Cell]:
  """Patch (frames, height, width) by budget."""
  budgets = {"": (6.4e14, 2.56e15), "cpu": (3e11, 1.2e12), "smoke": (1e10,)}[arg]
  patches = [(2, 8, 8), (2, 4, 4), (4, 4, 4), (16, 4, 4), (1, 8, 8)]
  if arg != "":
    patches = [(8, 2, 2), (4, 2, 2), (8, 4, 4), (2, 4, 4), (1, 4, 4)]
  return cells(product(vary("budget", *budgets), vary("model.patch", *patches)))


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json."""
  return worlds_isoflop.get_notes(arg) | {"title": "Patch size"}
