"""The best learning rate at each width, with muP and without: does it transfer across widths?

  python -m videojax.launch --mode=sweep --config=experiments/scaling/lr_width.py:cpu \\
    --workdir=runs/lr_width

Two CPU cores: widths 32, 64, 128 of the model of worlds_isoflop:cpu, six learning rates, 300 steps.
One H100 (no arg): widths 64 to 512 of the model of worlds_isoflop, 1,000 steps. The learning rate
is that of the narrowest width; muP divides it by width / narrowest width for hidden matrices.
Expect, for ':cpu': frozen loss .327 at width 128 (.332 at 64, .368 at 32) with muP, 10 min beside
other jobs: docs/LOG.md, 2026-11-24. Coherence and the H100 variant: not measured.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.scaling.cells import Cell, cells, chain, product, vary

BASE = {"": 64, "cpu": 32, "smoke": 32}


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  c = worlds_isoflop.get_config(arg)
  c.total_steps = {"": 1000, "cpu": 300, "smoke": 2}[arg]
  c.evaluate.coherence_clips = 0
  c.evaluate.clips = min(c.evaluate.clips, 64)
  c.mup_base_width = BASE[arg]
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Width by parametrisation by learning rate."""
  base = BASE[arg]
  widths = [base * m for m in ((1, 2, 4, 8) if arg == "" else (1, 2, 4))]
  rates = vary("optim.learning_rate", *(1.25e-3 * 2**i for i in range(2 if arg == "smoke" else 6)))
  at = worlds_isoflop.sizes
  # At the base width, muP changes nothing.
  return cells(
    chain(
      product(vary("mup_base_width", base), at(*widths), rates),
      product(vary("mup_base_width", None), at(*widths[1:]), rates),
    )
  )


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json."""
  return {"title": "The best learning rate at each width, with muP and without"}
