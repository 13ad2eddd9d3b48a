"""The whole of the scaling lab in minutes on two CPU cores: sweep, law, prediction, report.

  python -m videojax.launch --mode=sweep --config=experiments/scaling/worlds_smoke.py \\
    --workdir=runs/worlds_smoke

Discs in a box, as in experiments/quickstart.py, at four widths and two budgets; the third budget
is predicted before it runs. muP's learning rate, found at width 64. It shows the machinery: so
little compute makes no law of coherence, and two sizes too few seeds for one of the loss.
Hardware, time and result: docs/LOG.md.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.config import complete
from videojax.errors import check_choice
from videojax.scaling.cells import Cell, cells, chain, product, vary

BUDGETS, HELD_OUT = (1.5e11, 6e11), 2.4e12


def get_config(arg: str = "") -> ConfigDict:
  """arg 'smoke': a tiny model, for tests."""
  check_choice("variant", arg, ("", "smoke"))
  smoke = arg == "smoke"
  c = ConfigDict()
  c.total_steps = 2  # of a cell: what its budget buys
  c.batch_size = 8
  c.model = dict(
    name="dit", width=64, depth=2 if smoke else 4, num_heads=2, head_dim=32, patch=(8, 2, 2),
    channels=3, known="last", rope_theta=100.0, dtype="float32",
  )  # fmt: skip
  c.data = dict(
    worlds=dict(name="worlds", size=16, frames=8, known=2, fps=7.0, scenes=("one", "two"))
  )
  c.condition = dict(known_frames=2)
  c.denoiser = dict(prediction="data", sigma_data=0.3)
  c.objective = dict(space="velocity", times="logit_normal", mean=0.8, std=1.2)
  c.optim = dict(learning_rate=5e-3, schedule="wsd", warmup_steps=50, decay_fraction=0.2)
  c.mup_base_width = 64
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 10)
  c.steps_per_dispatch = 10
  c.checkpoint = dict(save_every_steps=100_000)
  c.log_every_steps = 50
  c.evaluate = dict(
    splits=dict(id=dict(split="id"), ood=dict(split="fast")),
    main="id",
    clips=4 if smoke else 128,
    coherence_clips=4 if smoke else 64,
    reference_clips=8 if smoke else 1024,
    batch_size=4 if smoke else 32,
  )
  return complete(c)


def get_sweep(arg: str = "") -> list[Cell]:
  """Four widths at two budgets; two of them at the held-out one."""
  scale = 1e-2 if arg == "smoke" else 1.0
  sizes = worlds_isoflop.sizes(24, 32, 48, 64)
  points = chain(
    product(vary("budget", *(scale * b for b in BUDGETS)), sizes),
    product(vary("budget", scale * HELD_OUT), sizes[2:]),
  )
  return cells(points, held_out=lambda point: point["budget"] == scale * HELD_OUT)


def get_notes(arg: str = "") -> dict[str, Any]:
  """What the report should know: the known frames determine the rest, so that E is 0."""
  return {"title": "Smoke test: moving discs on two CPU cores", "irreducible": 0.0}
