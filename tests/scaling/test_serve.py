"""serve: the plan that scaling/optimum.py makes, from tables, as a command."""

import json

import numpy as np
import pytest

from videojax.scaling.__main__ import main
from videojax.scaling.law_forms import Additive, Power
from videojax.scaling.optimum import optimal_plan

LAW = Additive(1.69, 406.4, 410.7, 0.34, 0.28)


@pytest.fixture
def tables(tmp_path):
  """Runs that obey LAW with 7 FLOP per parameter and token, and a saturation of .5 / steps."""
  n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
  rows = [f"{a:.17g},{b:.17g},{7 * a * b:.17g},{LAW.loss(a, b):.17g}" for a, b in zip(n, d)]
  runs, steps = tmp_path / "runs.csv", tmp_path / "steps.csv"
  runs.write_text("\n".join(["params,tokens,flops,loss", *rows]))
  steps.write_text("\n".join(["steps,loss", *(f"{s},{2 + 0.5 / s}" for s in (1, 2, 5, 20, 100))]))
  return runs, steps


def run(tables, capsys, *more):
  runs, steps = tables
  code = main(
    ["serve", str(runs), f"--steps={steps}", "--quality=2.3", "--clips-per-minute=12",
     "--tokens-per-clip=1e4", *more]
  )  # fmt: skip
  return code, *capsys.readouterr()


def test_command_finds_the_plan_of_the_law_behind_the_table(tables, capsys):
  code, out, _ = run(tables, capsys, "--minutes=1e6", "--json")
  assert code == 0
  (found,) = json.loads(out)
  want = optimal_plan(
    LAW, 2.3, minutes=1e6, clips_per_minute=12, steps=Power(2.0, 0.5, 1.0), train=7.0,
    forward=7 / 3, tokens_per_clip=1e4,
  )  # fmt: skip
  assert found["steps"] == want.steps
  assert found["params"] == pytest.approx(want.params, rel=1e-2)
  assert found["total_flops"] == pytest.approx(want.total_flops, rel=1e-3)


def test_the_more_is_served_the_smaller_the_model(tables, capsys):
  _, out, _ = run(tables, capsys, "--minutes=1", "--minutes=1e6", "--minutes=1e9", "--json")
  sizes = [plan["params"] for plan in json.loads(out)]
  assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[-1]
  _, shown, _ = run(tables, capsys, "--minutes=1e6")
  assert "parameters" in shown and "to serve" in shown


def test_a_quality_out_of_reach_is_a_line(tables, capsys):
  code, _, error = run(tables, capsys, "--minutes=1", "--quality=1.6")
  assert code == 1 and "no model reaches 1.6" in error
