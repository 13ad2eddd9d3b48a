"""Loss and coherence of a joint-attention video DiT against compute: isoFLOP, law, held-out budget.

  python -m videojax.launch --mode=sweep --config=experiments/scaling/worlds_isoflop.py \\
    --workdir=runs/worlds_isoflop [--max-seconds=520]

One H100, about 25 minutes: four budgets from 4e13 to 2.56e15 FLOP with five widths each; a budget
of 1.02e16 at two widths is predicted before it runs. Three seeds at the two smallest budgets.
World: one disc moving in any direction, or two that collide head-on; 16 frames of 32x32, 3 given,
so that the ideal loss is 0. Faster discs are out of distribution; an occluder appears only in
evaluation. muP: learning rate 1e-2 at width 128.

  --config=experiments/scaling/worlds_isoflop.py:cpu

Two CPU cores, about half an hour: the world of experiments/quickstart.py, 3e11 to 4.8e12 FLOP, and
a held-out budget of 1.92e13. Expect: frozen loss .0655 at the held-out budget, falling as C^-.27,
position error as C^-.19, 51 min on a busy machine: README; docs/LOG.md, 2026-11-24. The H100
variant: not measured.

  --config=experiments/scaling/worlds_isoflop.py:far

One more budget of the `cpu` sweep, 7.68e13 at two widths, 4 times its largest: docs/laws.md.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import quickstart
from videojax.config import complete
from videojax.errors import check_choice
from videojax.scaling.cells import Cell, Point, cells, chain, product, vary, zipped

VARIANTS = ("", "cpu", "far", "smoke")


def get_config(arg: str = "") -> ConfigDict:
  """arg '': for one H100; 'cpu', 'far': for two cores; 'smoke': the same in a few steps."""
  check_choice("variant", arg, VARIANTS)
  return _gpu() if arg == "" else _cpu(smoke=arg == "smoke")


def _gpu() -> ConfigDict:
  c = ConfigDict()
  c.total_steps = 1  # each cell's budget sets it
  c.batch_size = 64
  c.model = dict(
    name="dit", width=128, depth=6, num_heads=4, head_dim=32, patch=(2, 8, 8), channels=3,
    known="last", rope_theta=100.0,
  )  # fmt: skip
  c.data = dict(
    worlds=dict(name="worlds", size=32, frames=16, known=3, scenes=("one", "collision"))
  )
  c.condition = {}
  c.denoiser = dict(prediction="data", sigma_data=0.3)
  c.objective = dict(space="velocity", times="logit_normal", mean=1.0, std=1.2)
  c.optim = dict(learning_rate=1e-2, schedule="wsd", warmup_steps=50, decay_fraction=0.2)
  c.mup_base_width = 128
  c.ema = (0.05,)
  c.sampler = dict(steps=20)
  c.steps_per_dispatch = 10
  c.log_every_steps = 100
  c.checkpoint = dict(save_every_steps=20_000)
  splits = {
    "id": dict(split="id"), "fast": dict(split="fast"), "slow": dict(split="slow"),
    "occluder": dict(split="occluder"),
  }  # fmt: skip
  c.evaluate = dict(splits=splits, main="id", clips=256, coherence_clips=256, batch_size=256)
  return complete(c)


def _cpu(smoke: bool) -> ConfigDict:
  """The quickstart's world and objective; a smaller model, with muP, and a decay over a fifth."""
  c = quickstart.get_config("smoke" if smoke else "")
  c.total_steps = 1
  c.batch_size = 8
  c.model.update(dict(width=64, num_heads=2, head_dim=32))
  c.optim.update(dict(learning_rate=5e-3, decay_fraction=0.2))
  c.mup_base_width = 32  # where lr_width:cpu found 5e-3
  c.sampler.steps = 2 if smoke else 20
  c.steps_per_dispatch = 10
  c.log_every_steps = 50
  c.checkpoint.save_every_steps = 20_000
  c.evaluate.splits = dict(id=dict(split="id"), fast=dict(split="fast"))
  if not smoke:
    c.evaluate.update(dict(clips=128, coherence_clips=128, batch_size=64))
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Five widths per budget, three seeds at the two smallest budgets, and the held-out budget."""
  check_choice("variant", arg, VARIANTS)
  if arg == "far":
    return cells(product(vary("budget", 7.68e13), sizes(96, 64), vary("seed", 0)))
  if not arg:
    table = {
      4e13: (48, 64, 96, 128, 192), 1.6e14: (64, 96, 128, 192, 256),
      6.4e14: (96, 128, 192, 256, 384), 2.56e15: (128, 192, 256, 384, 512),
    }  # fmt: skip
    held_out, last = 1.02e16, (256, 384)
  else:
    scale = 1e-2 if arg == "smoke" else 1.0
    table = {
      scale * 3e11: (16, 24, 32, 48, 64), scale * 1.2e12: (24, 32, 48, 64, 96),
      scale * 4.8e12: (32, 48, 64, 96, 128),
    }  # fmt: skip
    held_out, last = scale * 1.92e13, (64, 96)
  small = sorted(table)[:2]
  points = chain(
    *(product(vary("budget", b), sizes(*widths), vary("seed", 0)) for b, widths in table.items()),
    *(product(vary("budget", b), sizes(*table[b]), vary("seed", 1, 2)) for b in small),
    product(vary("budget", held_out), sizes(*last), vary("seed", 0)),
  )
  return cells(points, held_out=lambda point: point["budget"] == held_out)


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json; E is 0, because the known frames determine the rest."""
  # Cells near copy_last's velocity error of 2.4 have not begun to learn motion: no law holds there.
  onset = {"velocity_error": 0.6 if arg == "" else 1.6}
  where = "two CPU cores" if arg in ("cpu", "far") else "one H100"
  return {"title": f"Moving discs on {where}", "irreducible": 0.0, "onset": onset}


def sizes(*widths: int) -> list[Point]:
  """Widths with heads of 32; width 48 has two heads of 24, and below 32 there is one head."""
  heads = [-(-width // 32) for width in widths]
  dims = [width // number for width, number in zip(widths, heads)]
  return zipped(
    vary("model.width", *widths), vary("model.num_heads", *heads), vary("model.head_dim", *dims)
  )
