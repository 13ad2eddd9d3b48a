"""The whole scaling workflow in minutes on two CPU cores: sweep, law, prediction, report.

  python -m videojax.launch --mode=sweep --config=experiments/scaling/worlds_smoke.py \\
    --workdir=runs/worlds_smoke

The model and world of worlds_isoflop:cpu at four widths and two budgets; the third budget is
predicted before it runs. It only demonstrates the workflow: this little compute gives no law of
coherence, and one seed is too few for a law of the loss. Expect 302 s on two cores, measured with
one cell more (docs/LOG.md, 2026-11-24); loss and error: not kept.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.errors import check_choice
from videojax.scaling.cells import Cell, cells, chain, product, vary

BUDGETS, HELD_OUT = (1e11, 4e11), 1.6e12


def get_config(arg: str = "") -> ConfigDict:
  """arg 'smoke': a tiny model, for tests."""
  check_choice("variant", arg, ("", "smoke"))
  c = worlds_isoflop.get_config(arg or "cpu")
  if not arg:
    c.sampler.steps = 10
    c.evaluate.update(dict(clips=64, coherence_clips=64, batch_size=32))
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Four widths at two budgets; one width at the held-out budget."""
  scale = 1e-2 if arg == "smoke" else 1.0
  sizes = worlds_isoflop.sizes(24, 32, 48, 64)
  points = chain(
    product(vary("budget", *(scale * b for b in BUDGETS)), sizes),
    product(vary("budget", scale * HELD_OUT), sizes[2:3]),
  )
  return cells(points, held_out=lambda point: point["budget"] == scale * HELD_OUT)


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json; E is 0, because the known frames determine the rest."""
  return {"title": "Smoke test: moving discs on two CPU cores", "irreducible": 0.0}
