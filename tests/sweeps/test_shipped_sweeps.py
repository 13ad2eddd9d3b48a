"""The sweeps that are shipped: each cell is an experiment that can run; the smallest one runs."""

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from videojax.errors import ConfigError
from videojax.runs.program import Counts, check_loss
from videojax.scaling.cells import read_sweep
from videojax.scaling.sealed import verify
from videojax.sweeps.schedule import make_job, override

ROOT = Path(__file__).parents[2]
VARIANTS = {
  "worlds_smoke": ("", "smoke"), "worlds_isoflop": ("", "cpu", "smoke"),
  "lr_width": ("", "cpu", "smoke"), "tuning": ("", "cpu", "smoke"),
  "head_size": ("", "cpu", "smoke"),
  "patch_size": ("", "cpu", "smoke"), "data_size": ("", "cpu", "smoke"),
  "architecture_matrix": ("", "cpu", "smoke"), "compression": ("smoke",),
}  # fmt: skip


def jobs(name, variant):
  module = importlib.import_module(f"experiments.scaling.{name}")
  base = module.get_config(variant).to_dict()
  return [make_job(base, cell) for cell in module.get_sweep(variant)]


def test_every_sweep_is_looked_at():
  found = {p.stem for p in (ROOT / "experiments" / "scaling").glob("*.py")} - {"__init__"}
  assert found == set(VARIANTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_cell_of_every_variant_can_run(name):
  traced = set()
  for variant in VARIANTS[name]:
    made = jobs(name, variant)
    assert len({job.cell.name for job in made}) == len(made) >= 4
    for job in made:
      e = job.experiment
      # What differs only in length, seed and optimizer is traced once.
      same = repr(replace(e, total_steps=1, seed=0, optim=made[0].experiment.optim))
      if same not in traced:
        check_loss(e, {source: e.task(source) for source in e.data})
        traced.add(same)
      if job.cell.budget is not None:  # at most half a step off
        step = job.flops / job.experiment.total_steps
        assert abs(job.flops - job.cell.budget) <= step / 2 * 1.001


def test_isoflop_brackets_every_budget_with_five_widths_and_holds_the_largest_out():
  made = jobs("worlds_isoflop", "")
  budgets = sorted({job.cell.budget for job in made})
  assert len(budgets) == 5 and {j.cell.budget for j in made if j.cell.held_out} == {budgets[-1]}
  for budget in budgets[:-1]:
    widths = {j.experiment.model.config.width for j in made if j.cell.budget == budget}
    seeds = {j.experiment.seed for j in made if j.cell.budget == budget}
    assert len(widths) == 5 and seeds == ({0, 1, 2} if budget in budgets[:2] else {0})
  # The occluder is measured, and never in the training mixture.
  e = made[0].experiment
  assert "occluder" in e.evaluate.splits
  assert "occluder" not in e.data["worlds"].settings["scenes"]


def test_lr_width_has_each_learning_rate_with_and_without_mup_at_every_width_but_the_base():
  cells = [(j.experiment.mup_base_width, j.experiment.model.config.width) for j in jobs(
    "lr_width", "cpu")]  # fmt: skip
  assert {c: cells.count(c) for c in set(cells)} == {
    (32, 32): 6, (32, 64): 6, (32, 128): 6, (None, 64): 6, (None, 128): 6
  }  # fmt: skip


@pytest.mark.slow
def test_compressions_cost_the_same_with_their_codecs(tmp_path):
  module = importlib.import_module("experiments.scaling.compression")
  for name, flops in {"2x4": 7e12, "4x4": 6e12, "4x8": 5e12}.items():
    (tmp_path / name).mkdir()
    (tmp_path / name / "result.json").write_text(json.dumps({"flops": {"total": flops}}))
  base = module.get_config(str(tmp_path)).to_dict()
  made = [make_job(base, cell) for cell in module.get_sweep(str(tmp_path))]
  assert len(made) == 4 * 4
  for job in made:
    total = float(job.cell.name.split("_total")[1].split("_")[0])
    e = job.experiment
    spent = module.trained(tmp_path / job.cell.name.split("_")[0]) if e.codec.network else 0
    step = e.batch_size * (Counts.of(e.task("worlds")).flops + e.task("worlds").encode_flops)
    assert abs(spent + e.total_steps * step - total) <= step
  with pytest.raises(ConfigError, match="no finished codec"):
    module.get_sweep(str(tmp_path / "none"))


def test_overrides_leave_the_base_as_it_was():
  base = {"a": {"b": 1}}
  assert override(base, {"a.b": 2}) == {"a": {"b": 2}} and base == {"a": {"b": 1}}


@pytest.mark.slow
def test_worlds_smoke_runs_from_cells_to_a_scored_prediction_in_six_minutes(tmp_path):
  """The machinery on two cores; so little compute makes no law of coherence."""
  workdir, clock = tmp_path / "sweep", time.perf_counter()
  config = ROOT / "experiments" / "scaling" / "worlds_smoke.py"
  # As a user runs it: the suite's 8 fake devices and missing optimizations would be measured else.
  ours = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "PJRT_NPROC", "JAX_COMPILATION_CACHE_DIR")
  environment = {k: v for k, v in os.environ.items() if k not in ours}
  arguments = ["--mode=sweep", f"--config={config}", f"--workdir={workdir}"]
  subprocess.run(
    [sys.executable, "-m", "videojax.launch", *arguments], cwd=ROOT, env=environment, check=True
  )
  seconds = time.perf_counter() - clock
  rows = read_sweep(workdir)
  assert [row.status for row in rows] == ["finished"] * len(rows)
  (prediction,) = (workdir / "predictions").glob("*.json")
  verify(prediction)
  page = (workdir / "report" / "index.html").read_text()
  report = json.loads((workdir / "report" / "report.json").read_text())
  held_out = [row.cell.name for row in rows if row.cell.held_out]
  assert held_out and all(name in page for name in held_out) and report
  # A cell goes on from the same width's smaller one, and counts its seconds too.
  steps = {row.cell.overrides["model.width"]: row.result["seconds"]["step"] for row in rows}
  print(f"worlds_smoke: {seconds:.0f} s, training alone {sum(steps.values()):.0f}")
  assert seconds <= max(360, 3 * sum(steps.values()))  # the second on a slower machine
