"""Designs of sweeps: what they cost, what they expect, and the sweep that is written."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from tests.scaling.test_tune import BEST, runs
from videojax.errors import ConfigError
from videojax.scaling import design
from videojax.scaling.__main__ import widths_of
from videojax.scaling.design import (
  Design,
  ModelWidth,
  best,
  cells_of,
  designs,
  expect,
  from_nothing,
)
from videojax.scaling.law_forms import Additive
from videojax.scaling.optimum import optimum
from videojax.scaling.tune import fit_tuned

ISOFLOP = str(Path(__file__).parents[2] / "docs" / "isoflop_cpu" / "cells.csv")
PRIOR = from_nothing(1e15, 0.0)
WIDTHS = [
  ModelWidth({"model.width": 8 * k, "model.num_heads": k}, 200 * k**2) for k in range(1, 400)
]


def test_every_design_costs_the_budget_and_the_narrowest_comes_first():
  ranked = designs(1e15, PRIOR, 1e16)
  for one in ranked:
    cells = cells_of(one.design, PRIOR)
    assert sum(flops * seeds for flops, _, _, seeds in cells) == pytest.approx(1e15)
    assert sum(seeds for *_, seeds in cells) == one.design.cells
    for flops, n, d, _ in cells:
      assert n * d * PRIOR.coefficient == pytest.approx(flops)
  assert [one.half for one in ranked] == sorted(one.half for one in ranked)
  least = designs(1e15, PRIOR, 1e16, least=1e13)
  assert least and all(one.design.levels()[0][0] >= 1e13 for one in least)
  with pytest.raises(ConfigError, match="no design of 1e\\+15 FLOP has cells of at least 1e\\+15"):
    designs(1e15, PRIOR, 1e16, least=1e15)


def test_best_size_is_the_optimums():
  law = Additive(*(np.array([v]) for v in (0.5, 400.0, 2000.0, 0.34, 0.37)))
  n, d = best(law, 1e21 / 6)
  found = optimum(law.take(0), 1e21, 6.0)
  assert n[0] == pytest.approx(found.params, rel=1e-4)
  assert d[0] == pytest.approx(found.tokens, rel=1e-4)


@pytest.mark.parametrize("free", [False, True])
def test_gradient_is_that_of_the_log_loss(free):
  law = Additive(*(np.array([v]) for v in (0.5, 400.0, 2000.0, 0.34, 0.37)))
  n, d = np.array([1e7, 3e7, 1e8]), np.array([1e9, 4e9, 2e9])
  got = design._gradient(law, n, d, free)[0]
  x, y = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()

  def log_loss(theta):
    a = np.exp(theta[0]) * np.exp(-theta[1] * x)
    b = np.exp(theta[2]) * np.exp(-theta[3] * y)
    return np.log(np.exp(theta[4]) + a + b)

  start = np.log([400.0, 1, 2000.0, 1, 0.5])
  start[0] -= 0.34 * np.log(n).mean()
  start[2] -= 0.37 * np.log(d).mean()
  start[1], start[3] = 0.34, 0.37
  steps = 1e-6 * np.eye(5)[: 5 if free else 4]
  want = [(log_loss(start + h) - log_loss(start - h)) / 2e-6 for h in steps]
  np.testing.assert_allclose(got.T, want, rtol=1e-4, atol=1e-8)


def test_what_is_expected_follows_from_seeds_and_distance():
  one = Design(1e14, 3, 4.0, 5, 1)
  near, far = (expect(one, PRIOR, target) for target in (2e14, 1e16))
  assert near.form < far.form and near.law < far.law and near.half < far.half
  assert expect(Design(1e14, 3, 4.0, 5, 3), PRIOR, 1e16).law < far.law
  assert expect(one, PRIOR, 1e14).form == 0


@pytest.mark.slow
def test_made_sweeps_are_as_wide_as_expected_and_hold_the_run():
  one = designs(1e15, PRIOR, 1e16)[0]
  found = design.simulate(one.design, PRIOR, 1e16, 10)
  assert found["held"] >= 0.9
  assert 0.6 < found["half"] / one.half < 2


def test_written_sweep_has_the_designs_cells_and_holds_the_target_out(tmp_path, monkeypatch):
  base = tmp_path / "base.py"
  base.write_text("def get_config(arg=''):\n  return arg\n")
  path, one = tmp_path / "sweep.py", Design(1e14, 3, 4.0, 3, 2)
  path.write_text(design.sweep_file(one, PRIOR, 1e16, f"{base}:tiny", WIDTHS))
  names = runpy.run_path(str(path))
  assert names["get_config"]() == "tiny" and names["get_notes"]()["irreducible"] == 0.0
  made = names["get_sweep"]()
  assert [cell.budget for cell in made if cell.held_out] == [1e16]
  assert len(made) == one.cells + 1
  smallest = [cell for cell in made if cell.budget == pytest.approx(1e14 / 16, rel=0.01)]
  assert {cell.overrides["seed"] for cell in smallest} == {0, 1}
  widths = {width.overrides["model.width"]: width.params for width in WIDTHS}
  wanted = sorted(n for flops, n, _, _ in cells_of(one, PRIOR) if flops == pytest.approx(1e14 / 16))
  got = sorted({widths[cell.overrides["model.width"]] for cell in smallest})
  np.testing.assert_allclose(got, wanted, rtol=0.35)


def test_written_cells_have_the_best_learning_rate_and_batch_size_of_their_size_and_data(tmp_path):
  base = tmp_path / "base.py"
  base.write_text("def get_config(arg=''):\n  return arg\n")
  path, one, tuned = tmp_path / "sweep.py", Design(1e14, 3, 4.0, 3, 1), fit_tuned(runs())
  path.write_text(design.sweep_file(one, PRIOR, 1e16, str(base), WIDTHS, tuned))
  made = runpy.run_path(str(path))["get_sweep"]()
  assert len({cell.overrides["optim.learning_rate"] for cell in made}) == len(made)
  points = sorted(cells_of(one, PRIOR))
  for cell, (flops, n, d, _) in zip(made, points):
    rate, batch = BEST(n, d)
    assert cell.budget == pytest.approx(flops, rel=0.01)
    assert cell.overrides["optim.learning_rate"] == pytest.approx(rate, rel=0.01)
    size = cell.overrides["batch_size"]
    assert size & (size - 1) == 0 and abs(np.log2(max(batch, 1) / size)) <= 0.5


def test_widths_of_an_experiment_grow_with_whole_heads():
  found = widths_of("experiments/scaling/worlds_isoflop.py:cpu")
  assert [w.params for w in found] == sorted(w.params for w in found)
  by_width = {w.overrides["model.width"]: w for w in found}
  assert by_width[64].params == 353_952 and by_width[64].overrides["model.num_heads"] == 2
  for w in found:
    heads = w.overrides["model.num_heads"] * w.overrides["model.head_dim"]
    assert heads == w.overrides["model.width"] or w.overrides["model.width"] % heads < heads


def test_command_proposes_cells_from_a_pilot_and_writes_them_once(capsys, tmp_path):
  out = tmp_path / "sweep.py"
  flags = ["--budget=3.5e13", "--predict=7.68e13", "--irreducible=0", f"--pilot={ISOFLOP}"]
  write = ["--config=base.py:cpu", f"--write={out}"]
  design.main([*flags, *write], lambda config: WIDTHS)
  shown = capsys.readouterr().out
  assert "expected of one run of the best size at 7.68e+13 FLOP" in shown and str(out) in shown
  assert "runpy.run_path('base.py'), ['cpu']" in out.read_text()
  with pytest.raises(ConfigError, match="exists already"):
    design.main([*flags, *write], lambda config: WIDTHS)
  with pytest.raises(ConfigError, match="belong together"):
    design.main([*flags, "--config=base.py"], lambda config: WIDTHS)
  design.main([*flags, "--json"], lambda config: WIDTHS)
  found = json.loads(capsys.readouterr().out)
  assert sum(c["flops"] * c["seeds"] for c in found["cells"]) == pytest.approx(3.5e13)
