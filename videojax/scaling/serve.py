"""Finds the model, training and number of sampling steps that serve minutes of video most cheaply.

  python -m videojax.scaling serve TABLE.csv --quality=Q --minutes=V --steps=STEPS.csv \
    --clips-per-minute=CLIPS --tokens-per-clip=T [--target=loss] [--branches=2] [--irreducible=E]

TABLE.csv lists runs (params, tokens, flops and the measure, as for `fit`) and gives the law of the
measure. STEPS.csv has the columns `steps` and the measure, for one model sampled with several
numbers of steps, and gives the excess due to a finite number. FLOPs per parameter and token are the
median of TABLE.csv; a forward pass is a third of a training step. Method: scaling/optimum.py.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from videojax.io.files import finite
from videojax.scaling.command import Parser, count, positive
from videojax.scaling.fit import DATA, fit_table
from videojax.scaling.law_forms import Additive, fit_power
from videojax.scaling.optimum import Plan, optimal_plan
from videojax.scaling.run_table import read_table

COLUMNS = {
  "minutes": "minutes", "params": "parameters", "tokens": "tokens", "steps": "steps",
  "train_flops": "FLOP to train", "serve_flops": "to serve", "total_flops": "in total",
}  # fmt: skip


def plans(flags: argparse.Namespace) -> list[dict[str, float | int]]:
  """The cheapest plan for each number of minutes.

  Raises:
    ValueError: a table cannot be read or fitted, or no model reaches the quality.
  """
  runs = read_table(flags.table, ("params", flags.data, "flops", flags.target))
  fit = fit_table(
    runs, target=flags.target, data=flags.data, irreducible=flags.irreducible, bootstrap=0
  )
  sampled = read_table(flags.steps, ("steps", flags.target))
  steps = fit_power(sampled.numbers("steps"), sampled.numbers(flags.target))
  assert isinstance(fit.law, Additive)
  per_parameter = fit.flops_coefficient
  found = []
  for minutes in flags.minutes:
    plan: Plan = optimal_plan(
      fit.law, flags.quality, minutes=minutes, clips_per_minute=flags.clips_per_minute,
      steps=steps, train=per_parameter, forward=per_parameter / 3,
      tokens_per_clip=flags.tokens_per_clip, guidance_branches=flags.branches,
    )  # fmt: skip
    found.append({"minutes": minutes, **dataclasses.asdict(plan), "total_flops": plan.total_flops})
  return found


def main(arguments: list[str]) -> None:
  """Prints a line per number of minutes; with --json, prints only JSON."""
  parser = Parser("serve", __doc__)
  add = parser.add_argument
  add("table", type=Path, help="CSV of runs, as for `fit`")
  add("--quality", type=positive, required=True, help="the measure to reach, e.g. a loss")
  add(
    "--minutes",
    type=positive,
    action="append",
    required=True,
    help="minutes of video to serve; repeatable",
  )
  add("--steps", type=Path, required=True, help="CSV: steps and the measure of one model")
  add("--clips-per-minute", type=positive, required=True)
  add("--tokens-per-clip", type=positive, required=True)
  add("--target", default="loss", help="column of the measure, in both tables")
  add("--data", choices=DATA, default="tokens", help="column used as D")
  add("--branches", type=count, default=2,
      help="network calls per step: 2 with guidance of any scale, whatever its interval and its "
      "range over frames; 3 with temporal guidance; 1 without guidance")  # fmt: skip
  add("--irreducible", help="E of the law: a number, or 'free'")
  add("--json", action="store_true", help="print only JSON")
  flags = parser.parse_args(arguments)
  found = plans(flags)
  if flags.json:
    print(json.dumps(finite(found), indent=1))
    return
  shown = Table(*COLUMNS.values(), box=None)
  for row in found:
    shown.add_row(*(f"{row[name]:.4g}" for name in COLUMNS))
  Console(highlight=False, soft_wrap=True).print(shown)
