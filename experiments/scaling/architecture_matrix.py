"""Architectures by what they predict, at matched FLOPs: loss, coherence, and what they disagree on.

  python -m videojax.launch --mode=sweep \\
    --config=experiments/scaling/architecture_matrix.py[:cpu] --workdir=runs/architecture_matrix

Attention joint over all tokens, or alternating between frames and places (Latte), by prediction:
data, velocity, v, noise, EDM's F. Width, depth, data, loss space and steps' FLOPs are those of
worlds_isoflop, so that one budget buys each architecture the steps it can pay. A new architecture
is a line in ARCHITECTURES. Hardware, time and result: docs/LOG.md.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.scaling import worlds_isoflop
from videojax.scaling.cells import Cell, cells, product, vary

ARCHITECTURES = vary("model.attention", "joint", "alternating")
PREDICTIONS = vary("denoiser.prediction", "data", "velocity", "v", "noise", "edm")


def get_config(arg: str = "") -> ConfigDict:
  """arg: as in worlds_isoflop."""
  c = worlds_isoflop.get_config(arg)
  if arg != "":
    c.model.patch = (2, 4, 4)  # several tokens along time, for attention along it
  return c


def get_sweep(arg: str = "") -> list[Cell]:
  """Architecture by prediction."""
  budget = {"": 6.4e14, "cpu": 1.2e12, "smoke": 1e10}[arg]
  return cells(product(vary("budget", budget), ARCHITECTURES, PREDICTIONS))


def get_notes(arg: str = "") -> dict[str, Any]:
  """What the report should know."""
  return worlds_isoflop.get_notes(arg) | {"title": "Architectures by what they predict"}
