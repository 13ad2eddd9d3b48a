"""python -m videojax.scaling design --budget=FLOP --predict=FLOP: the best way to spend a sweep.

A design has some budgets at a constant ratio, some sizes per budget around the best one, and some
seeds at the two smallest budgets; all cells together cost --budget. For each design the interval of
one run of the best size at --predict is expected from three parts (scaling/calibration.py): the
law's sampling error, from the design's information matrix; the scatter of runs; and the error of
form, which falls with the largest budget. The narrowest design is shown, and what others expect.

Laws are drawn from --pilot, a table of earlier runs whose fit also says how runs scatter; without
it from a prior in which exponents lie between .25 and .5. --config=FILE[:arg] and --write=SWEEP.py
write the sweep of that experiment, with the model widths whose parameters are nearest, and the
predicted budget held out. --tuned=TABLE.csv gives each of its cells the learning rate and the batch
size (a power of two) that are best for its size and data, by the law that `tune` fits to that
table; without it those of the experiment stay, which muP scales with the width. --simulate=N makes
N sweeps of the chosen design, whose form is wrong by as much as the prior says, fits them, and
counts what their intervals hold.

Letters: n cells, G budgets, S sizes, R laws, p coefficients.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable
from scipy import stats

from videojax.errors import ConfigError
from videojax.io.files import finite
from videojax.scaling.calibration import PUBLIC
from videojax.scaling.command import Parser, count, positive
from videojax.scaling.fit import FREE, fit_table
from videojax.scaling.law_forms import Additive
from videojax.scaling.optimum import best_size
from videojax.scaling.run_table import Table, read_table
from videojax.scaling.sealed import write_first
from videojax.scaling.tune import AXES, Tuned, fit_tuned

Array = np.ndarray

BUDGETS, RATIOS = (2, 3, 4, 5, 6), (2.0, 3.0, 4.0, 6.0, 8.0)
SIZES, SEEDS = (3, 4, 5, 7), (1, 2, 3)
SPREAD = 3.0  # the largest size of a budget over its best one
LAWS = 24  # drawn from the pilot or the prior
EXPONENT_SD, LOG_SD = 0.15, 2.0  # what is known before a sweep, of exponents and log amplitudes
NOISE = 0.03  # scatter of runs without a pilot
SHOWN = 6


@dataclass(frozen=True)
class Design:
  """Budgets at a constant ratio up to `top`, with `sizes` sizes each, and seeds at two of them."""

  top: float  # FLOP of one cell of the largest budget
  budgets: int
  ratio: float
  sizes: int
  seeds: int

  def levels(self) -> list[tuple[float, int]]:
    """(FLOP, seeds) of each budget, ascending."""
    flops = [self.top * self.ratio ** (i + 1 - self.budgets) for i in range(self.budgets)]
    return [(c, self.seeds if i < 2 else 1) for i, c in enumerate(flops)]

  @property
  def cells(self) -> int:
    return sum(self.sizes * seeds for _, seeds in self.levels())

  @property
  def cost(self) -> float:
    return sum(self.sizes * seeds * c for c, seeds in self.levels())


class ModelWidth(NamedTuple):
  """A width of an experiment's model: the settings that make it, and its parameters."""

  overrides: Mapping[str, Any]
  params: int


@dataclass(frozen=True)
class Expected:
  """What a design's interval at the target is expected to be, as log standard deviations."""

  design: Design
  half: float  # of the 95 % interval of one run, over its prediction (log)
  law: float
  run: float
  form: float


@dataclass(frozen=True)
class Belief:
  """Laws that may hold, the scatter of runs about them, and FLOPs per parameter and datum."""

  laws: Additive  # [R]
  noise: float
  coefficient: float
  floor: float | None  # the known E; None: it is fitted


def from_pilot(table: Table, floor: float | None) -> Belief:
  """Laws that a table of earlier runs allows."""
  fit = fit_table(table, irreducible=FREE if floor is None else floor, bootstrap=200)
  draws, law = fit.draws, fit.law
  assert isinstance(draws, Additive) and isinstance(law, Additive)
  ok = np.flatnonzero((np.asarray(draws.A) > 0) & (np.asarray(draws.B) > 0))[: LAWS - 1]
  both = [np.append(getattr(law, k), np.asarray(getattr(draws, k))[ok]) for k in law.as_dict()]
  return Belief(Additive(*both), PUBLIC.scatter * fit.evidence.run, fit.flops_coefficient, floor)


def from_nothing(budget: float, floor: float | None) -> Belief:
  """Laws with exponents between .25 and .5, whose parts are alike at a best size near sqrt(C)."""
  rng = np.random.default_rng(0)
  alpha, beta = rng.uniform(0.25, 0.5, (2, LAWS))
  n = math.sqrt(budget / 6)
  E = np.full(LAWS, floor) if floor is not None else rng.uniform(0.3, 0.7, LAWS)
  return Belief(Additive(E, 0.3 * n**alpha, 0.3 * n**beta, alpha, beta), NOISE, 6.0, floor)


def best(laws: Additive, budget: float) -> tuple[Array, Array]:
  """N and D [R] of lowest loss with N D = budget, for each law."""
  n = best_size(laws, budget)
  return n, budget / n


def cells_of(design: Design, belief: Belief) -> list[tuple[float, float, float, int]]:
  """(FLOP, N, D, seeds) of every setting, around the sizes that the first law says are best."""
  first = Additive(*(np.atleast_1d(v)[:1] for v in belief.laws.as_dict().values()))
  out = []
  for flops, seeds in design.levels():
    middle = best(first, flops / belief.coefficient)[0][0]
    for n in middle * np.geomspace(1 / SPREAD, SPREAD, design.sizes):
      out.append((flops, float(n), float(flops / (belief.coefficient * n)), seeds))
  return out


def _gradient(laws: Additive, n: Array, d: Array, free: bool) -> Array:
  """d log L / d (log A, alpha, log B, beta[, log E]) [R,n,p], amplitudes at the points' middle."""
  at = lambda v: np.asarray(v)[:, None]
  a, b = at(laws.A) * n ** -at(laws.alpha), at(laws.B) * d ** -at(laws.beta)
  total = at(laws.E) + a + b
  x, y = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()
  parts = [a, -a * x, b, -b * y, *([at(laws.E) + 0 * a] if free else [])]
  return np.stack(parts, -1) / total[..., None]


def expect(design: Design, belief: Belief, target: float) -> Expected:
  """The interval of one run of the best size at `target` FLOP, as a mean over the prior's laws."""
  flops, n, d, seeds = (np.array(v) for v in zip(*cells_of(design, belief)))
  laws, free = belief.laws, belief.floor is None
  budget = target / belief.coefficient
  there = best(laws, budget)
  out = []
  for r in range(len(np.atleast_1d(laws.alpha))):
    law = Additive(*(np.asarray(v)[r : r + 1] for v in laws.as_dict().values()))
    # The target is the last point, so that its gradient is about the same middle.
    rows = _gradient(law, np.append(n, there[0][r]), np.append(d, there[1][r]), free)[0]
    known = np.diag([LOG_SD, EXPONENT_SD, LOG_SD, EXPONENT_SD, *([1.0] if free else [])]) ** 2
    information = np.linalg.inv(known) + (rows[:-1].T * (seeds / belief.noise**2)) @ rows[:-1]
    variance = float(rows[-1] @ np.linalg.solve(information, rows[-1]))
    top = law.loss(*(float(v[0]) for v in best(law, design.top / belief.coefficient)))
    end = law.loss(float(there[0][r]), float(there[1][r]))
    drop = max(float(np.log(top / end)[0]), 0.0)
    out.append((math.sqrt(variance), PUBLIC.growth * drop))
  sampling, form = np.mean(out, 0)
  freedom = max(1.0, min(PUBLIC.freedom, float(seeds.sum()) - (5 if free else 4)))
  scale = np.sqrt((np.array(out) ** 2).sum(1) + belief.noise**2).mean()
  half = float(stats.t.ppf(0.975, freedom) * scale)
  return Expected(design, half, float(sampling), belief.noise, float(form))


def designs(budget: float, belief: Belief, target: float, least: float = 0.0) -> list[Expected]:
  """All designs that cost `budget`, the narrowest interval first.

  Args: least: FLOP below which no cell is of use. target: of the prediction, beyond the sweep.
  Raises:
    ConfigError: no design has its smallest cells above `least`.
  """
  found = []
  for g in BUDGETS:
    for ratio in RATIOS:
      for sizes in SIZES:
        for seeds in SEEDS:
          unit = Design(1.0, g, ratio, sizes, seeds)
          design = Design(budget / unit.cost, g, ratio, sizes, seeds)
          enough = unit.cells >= (8 if belief.floor is None else 7)
          if enough and design.levels()[0][0] >= least and design.top <= target:
            found.append(expect(design, belief, target))
  if not found:
    raise ConfigError(
      f"no design of {budget:.3g} FLOP has cells of at least {least:.3g} FLOP and predicts "
      f"{target:.3g} FLOP: raise --budget, or lower --least"
    )
  return sorted(found, key=lambda one: one.half)


def simulate(design: Design, belief: Belief, target: float, trials: int) -> dict[str, float]:
  """Makes sweeps of a design under the prior's laws and counts what their intervals hold.

  The law is wrong by a normal share of its fall, of the prior's size. Returns: `held`, the share of
  95 % intervals of one run at `target` that hold its loss; `half`, their mean log half width.
  """
  rng = np.random.default_rng(0)
  made = [_trial(design, belief, target, trial, rng) for trial in range(trials)]
  held, half = np.mean(made, 0)
  return {"held": float(held), "half": float(half), "trials": trials}


def _trial(
  design: Design, belief: Belief, target: float, trial: int, rng: np.random.Generator
) -> tuple[bool, float]:
  """(whether the interval holds the run, its log half width) of one made sweep."""
  index = [trial % len(np.atleast_1d(belief.laws.alpha))]
  law = belief.laws.take(np.array(index))
  wrong = PUBLIC.growth * rng.normal()

  def fallen(flops: float) -> float:
    """Log of the fall of the lowest loss from the smallest budget's."""
    ends = (best(law, c / belief.coefficient) for c in (design.levels()[0][0], flops))
    first, last = (float(law.loss(n[0], d[0])[0]) for n, d in ends)
    return math.log(first / last)

  def measured(flops: float, n: float, d: float) -> float:
    # The error grows faster than the fall, or a fit would absorb it.
    bend = wrong * fallen(flops) ** 2 / max(fallen(target), 1e-9)
    return float(law.loss(n, d)[0]) * math.exp(bend + belief.noise * rng.normal())

  points = cells_of(design, belief)
  rows = [(n, d, c, measured(c, n, d), k, c) for c, n, d, seeds in points for k in range(seeds)]
  names = ("params", "tokens", "flops", "loss", "seed", "budget")
  table = Table.of(**{name: list(column) for name, column in zip(names, zip(*rows))})
  known = FREE if belief.floor is None else belief.floor
  fit = fit_table(table, irreducible=known, bootstrap=100)
  n, d = (float(v[0]) for v in best(law, target / belief.coefficient))
  low, high = fit.predict_interval(n, d, target, run=True)
  return bool(low <= measured(target, n, d) <= high), math.log(high / low) / 2


def sweep_file(
  design: Design,
  belief: Belief,
  target: float,
  config: str,
  widths: Sequence[ModelWidth],
  tuned: Tuned | None = None,
) -> str:
  """Text of an experiment file: the design's cells, and the best size at `target` held out.

  Args: config: FILE[:arg] of the base experiment. widths: of its model. tuned: its law of the best
    learning rate and batch size.
  """
  path, _, arg = config.partition(":")

  def settings(n: float, d: float) -> dict[str, Any]:
    nearest = min(widths, key=lambda one: abs(math.log(one.params / n)))
    return dict(nearest.overrides) | (tuned.overrides(n, d) if tuned else {})

  points: dict[str, dict[str, Any]] = {}
  for flops, n, d, seeds in cells_of(design, belief):
    for seed in range(seeds):
      point = {"budget": float(f"{flops:.3g}")} | settings(n, d) | {"seed": seed}
      points[repr(point)] = point  # two sizes may have the same nearest width
  last = best(belief.laws.take(np.array([0])), target / belief.coefficient)
  held_out = settings(*(float(v[0]) for v in last))
  points["held out"] = {"budget": target} | held_out | {"seed": 0}
  lines = "\n".join(f"  {point}," for point in points.values())
  return f'''"""A sweep that predicts {target:.3g} FLOP (python -m videojax.scaling design)."""

import runpy
from typing import Any

from ml_collections import ConfigDict

from videojax.scaling.cells import Cell, cells

BASE, ARGUMENTS = runpy.run_path({path!r}), {[arg] if arg else []}
POINTS: list[dict[str, Any]] = [
{lines}
]


def get_config(arg: str = "") -> ConfigDict:
  return BASE["get_config"](*ARGUMENTS)


def get_sweep(arg: str = "") -> list[Cell]:
  """Cells of the design; the last budget is predicted before it runs."""
  return cells(POINTS, held_out=lambda point: point["budget"] == {target!r})


def get_notes(arg: str = "") -> dict[str, Any]:
  return {{"title": "Prediction of {target:.3g} FLOP", "irreducible": {belief.floor!r}}}
'''


def main(arguments: Sequence[str], widths_of: Callable[[str], Sequence[ModelWidth]]) -> None:
  """Prints the design with the narrowest interval, its cells, and what others expect.

  Args: widths_of: the widths of an experiment's model, from FILE[:arg].
  """
  parser = Parser("design", __doc__)
  add = parser.add_argument
  add("--budget", type=positive, required=True, metavar="FLOP", help="of all cells together")
  add("--predict", type=positive, required=True, metavar="FLOP", help="of the run to predict")
  add("--pilot", type=Path, metavar="TABLE.csv", help="earlier runs: params,tokens,flops,loss")
  add("--irreducible", type=float, help="E of the law if it is known, e.g. 0")
  add("--least", type=positive, default=0.0, metavar="FLOP", help="of the smallest useful cell")
  add("--config", metavar="FILE[:arg]", help="the experiment of which to write a sweep")
  add("--write", type=Path, metavar="SWEEP.py", help="where to; the file must not exist")
  add("--tuned", type=Path, metavar="TABLE.csv", help="runs with learning_rate or batch_size")
  add("--simulate", type=count, default=0, metavar="N", help="sweeps to make and fit")
  add("--json", action="store_true", help="print only JSON")
  told = parser.parse_args(arguments)
  if (told.config is None) != (told.write is None):
    raise ConfigError("--config and --write belong together: what to sweep, and where to write it")
  if told.tuned and not told.write:
    raise ConfigError("--tuned sets the learning rate of the cells that --write writes: give both")
  tuned = fit_tuned(read_table(told.tuned, AXES)) if told.tuned else None
  if told.write and told.write.exists():
    raise ConfigError(f"{told.write} exists already")
  if told.pilot:
    belief = from_pilot(read_table(told.pilot), told.irreducible)
  else:
    belief = from_nothing(told.budget, told.irreducible)
  ranked = designs(told.budget, belief, told.predict, told.least)
  chosen = ranked[0].design
  found: dict[str, Any] = {
    "predict": told.predict, "noise": belief.noise, "coefficient": belief.coefficient,
    "designs": [asdict(one) | {"cells": one.design.cells} for one in ranked[:SHOWN]],
    "cells": [dict(zip(("flops", "params", "tokens", "seeds"), cell))
              for cell in cells_of(chosen, belief)],
  }  # fmt: skip
  if told.simulate:
    found["simulated"] = simulate(chosen, belief, told.predict, told.simulate)
  found = finite(found)
  if told.write:
    text = sweep_file(chosen, belief, told.predict, told.config, widths_of(told.config), tuned)
    write_first(told.write, text)
  if told.json:
    print(json.dumps(found, indent=1))
  else:
    _show(found, ranked)
    if told.write:
      print(f"{told.write}: run it with --mode=sweep --config={told.write} --workdir=DIR")


def _show(found: dict[str, Any], ranked: Sequence[Expected]) -> None:
  console = Console(highlight=False, soft_wrap=True)
  shown = RichTable(
    "budgets (FLOP of a cell)", "sizes", "seeds", "cells", "95 % interval", "sd: sampling",
    "one run", "distance", box=None,
  )  # fmt: skip
  for one in ranked[:SHOWN]:
    design = one.design
    budgets = ", ".join(f"{c:.2g}" for c, _ in design.levels())
    ends = f"-{1 - math.exp(-one.half):.1%} +{math.exp(one.half) - 1:.1%}"
    parts = (f"{sd:.1%}" for sd in (one.law, one.run, one.form))
    shown.add_row(budgets, *map(str, (design.sizes, design.seeds, design.cells)), ends, *parts)
  console.print(f"expected of one run of the best size at {found['predict']:.3g} FLOP:")
  console.print(shown)
  console.print("cells of the first (seeds at the two smallest budgets):")
  cells = RichTable("FLOP", "parameters", "data", "seeds", box=None)
  for cell in found["cells"]:
    cells.add_row(*(f"{cell[k]:.3g}" for k in ("flops", "params", "tokens")), str(cell["seeds"]))
  console.print(cells)
  if "simulated" in found:
    told = found["simulated"]
    console.print(
      f"{told['trials']} made sweeps: {told['held']:.0%} of the 95 % intervals hold the run; they "
      f"are -{1 - math.exp(-told['half']):.1%} +{math.exp(told['half']) - 1:.1%} wide on average"
    )
