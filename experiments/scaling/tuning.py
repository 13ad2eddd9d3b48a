"""Learning rate by batch size at three sizes and two budgets: how do the best values grow?

  python -m videojax.launch --mode=sweep --config=experiments/scaling/tuning.py:cpu \\
    --workdir=runs/tuning
  python -m videojax.scaling tune runs/tuning/report/cells.csv

Two CPU cores: widths 16, 32, 64 of the model of worlds_isoflop:cpu at 3e11 FLOP, and two of them at
1.2e12, five learning rates and two batch sizes each. One H100 (no arg): widths 64, 128, 256 at 4e13
and 1.6e14 FLOP. muP as in worlds_isoflop, so the best learning rate should not depend on the width.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.scaling.cells import Cell, cells, chain, product, vary

# budget -> widths
SIZES = {
  "": {4e13: (64, 128, 256), 1.6e14: (64, 128, 256)},
  "cpu": {3e11: (16, 32, 64), 1.2e12: (24, 64)},
  "smoke": {3e9: (16,)},
}
RATES, BATCHES = {"": 1e-2, "cpu": 5e-3, "smoke": 5e-3}, {"": (32, 128), "cpu": (4, 16)}


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  c = worlds_isoflop.get_config(arg)
  c.evaluate.coherence_clips = 0
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Size and budget by batch size by learning rate, at factors of 2.5."""
  rates = vary("optim.learning_rate", *(float(f"{RATES[arg] * 2.5**i:.3g}") for i in range(-2, 3)))
  batches = vary("batch_size", *BATCHES.get(arg, (8,)))
  grids = (
    product(vary("budget", budget), worlds_isoflop.sizes(*widths), batches, rates)
    for budget, widths in SIZES[arg].items()
  )
  return cells(chain(*grids))


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json."""
  return {"title": "Learning rate and batch size", "irreducible": 0.0}
