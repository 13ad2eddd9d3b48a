"""Architectures and prediction targets at matched FLOPs: loss, coherence, and where they disagree.

  python -m videojax.launch --mode=sweep \\
    --config=experiments/scaling/architecture_matrix.py[:cpu] --workdir=runs/architecture_matrix

DiTs whose attention is joint over all tokens, or alternates between space and time (Latte), with
each prediction target: data, velocity, v, noise, EDM's F. The six video U-Nets in their small forms
(experiments/papers), which predict data, each at its own learning rate. Data, loss space and FLOP
accounting are those of worlds_isoflop; one budget determines each architecture's number of steps.
Loss, error and seconds: not measured (docs/LOG.md, 2026-11-24: set up only).
"""

import importlib
import importlib.util
from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.models.contract import architectures
from videojax.scaling.cells import Cell, Point, cells, chain, product, vary

ATTENTION = vary("model.attention", "joint", "alternating")
PREDICTIONS = vary("denoiser.prediction", "data", "velocity", "v", "noise", "edm")
# Those with a small form in experiments/papers/.
UNETS = tuple(
  name for name in architectures()
  if name != "dit" and importlib.util.find_spec(f"experiments.papers.{name}")
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  c = worlds_isoflop.get_config(arg)
  if arg != "":
    c.model.patch = (2, 4, 4)  # several tokens along time, for temporal attention
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """DiTs by attention and prediction, and the U-Nets."""
  budget = {"": 6.4e14, "cpu": 1.2e12, "smoke": 1e10}[arg]
  dits = product(ATTENTION, PREDICTIONS)
  return cells(product(vary("budget", budget), chain(dits, [unet(name, arg) for name in UNETS])))


def unet(name: str, arg: str) -> Point:
  """Overrides that replace the DiT with a U-Net."""
  small = importlib.import_module(f"experiments.papers.{name}")
  c = small.get_config("smoke" if arg == "smoke" else "cpu")
  model = c.model.to_dict() | ({} if arg else {"dtype": "bfloat16"})
  return {
    "model.name": name, "model": model, "codec": c.codec.to_dict(), "mup_base_width": None,
    "optim.learning_rate": c.optim.learning_rate, "denoiser.time_unit": c.denoiser.time_unit,
  }  # fmt: skip


def get_notes(arg: str = "") -> dict[str, Any]:
  """Notes for sweep.json."""
  return worlds_isoflop.get_notes(arg) | {"title": "Architectures by prediction target"}
