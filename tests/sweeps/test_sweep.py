"""A sweep: what it skips, resumes, records, shares, refuses, and in which order it predicts."""

import json
import math

import jax
import numpy as np
import pytest

from tests.helpers import tiny_dict
from videojax.errors import ConfigError
from videojax.runs.rundir import read_json
from videojax.scaling.cells import Cell, cells, chain, part_of, product, read_sweep, vary, zipped
from videojax.sweeps import sweep as runner
from videojax.sweeps.schedule import (
  in_order,
  make_job,
  own_share,
  statement,
  time_left,
  trunk_of,
  write_sweep,
)
from videojax.sweeps.sweep import sweep
from videojax.train import Preempted, train

pytestmark = pytest.mark.slow

ONE = jax.devices()[:1]
BASE = tiny_dict(
  evaluate__coherence_clips=0, evaluate__clips=2, evaluate__reference_clips=4,
  evaluate__batch_size=2, optim__schedule="wsd", optim__decay_fraction=0.5,
  checkpoint__save_every_steps=100, batch_size=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  from videojax.sharding import make_mesh

  monkeypatch.setattr(runner, "make_mesh", lambda config: make_mesh(config, ONE))


def test_combinators_make_the_product_the_zip_and_the_chain():
  a, b = vary("x", 1, 2), vary("y", 3, 4)
  assert product(a, b) == [{"x": 1, "y": 3}, {"x": 1, "y": 4}, {"x": 2, "y": 3}, {"x": 2, "y": 4}]
  assert zipped(a, b) == [{"x": 1, "y": 3}, {"x": 2, "y": 4}]
  assert chain(a, b) == [{"x": 1}, {"x": 2}, {"y": 3}, {"y": 4}]
  with pytest.raises(ValueError, match="equal lengths"):
    zipped(a, vary("y", 1, 2, 3))


def test_cells_are_named_after_what_distinguishes_them():
  points = product(vary("budget", 4e13), zipped(vary("model.width", 32, 64), vary("h", 2, 4)))
  made = cells(points, held_out=lambda p: p["model.width"] == 64)
  assert [c.name for c in made] == ["width32", "width64"]  # the heads follow from the width
  assert [c.held_out for c in made] == [False, True] and made[0].budget == 4e13
  with pytest.raises(ValueError, match="equal"):
    cells([{"a": 1}, {"a": 1}])


def test_part_of_reads_i_colon_j_and_refuses_what_holds_no_cell():
  assert range(10)[part_of("2:4", 10)] == range(2, 4) and range(10)[part_of(None, 10)] == range(10)
  for wrong in ("3", "a:b", "10:", "4:4"):
    with pytest.raises(ValueError, match="--cells"):
      part_of(wrong, 10)


def test_a_budget_buys_as_many_steps_as_its_flops_pay_for():
  job = make_job(BASE, Cell("c", {}, budget=1e9))
  per_step = job.flops / job.experiment.total_steps
  assert abs(job.flops - 1e9) <= per_step / 2
  with pytest.raises(ConfigError, match="cell c: budget=1 FLOP is less than one step"):
    make_job(BASE, Cell("c", {}, budget=1.0))
  with pytest.raises(ConfigError, match="cell c: .*did you mean 'width'"):
    make_job(BASE, Cell("c", {"model.widht": 3}))
  with pytest.raises(ConfigError, match="no section 'modle'"):
    make_job(BASE, Cell("c", {"modle.width": 3}))


POINTS = product(vary("total_steps", 8, 4), vary("seed", 0, 1))


def test_longer_cells_follow_shorter_ones_and_take_only_what_is_new():
  jobs = [make_job(BASE, cell) for cell in cells(POINTS)]
  ordered = [(j.experiment.seed, j.experiment.total_steps) for j in in_order(jobs)]
  assert ordered == [(0, 4), (0, 8), (1, 4), (1, 8)]
  assert own_share(jobs[0], jobs) == 1 - 2 / 8  # the short one's trunk ends at step 2
  assert own_share(jobs[2], jobs) == 1


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """Five cells, one of which diverges, and two held out; and what the console said."""
  workdir = tmp_path_factory.mktemp("sweep") / "w"
  points = chain(
    POINTS, [{"total_steps": 4, "optim.learning_rate": 1e30}],
    [{"total_steps": 16, "seed": 0}, {"total_steps": 16, "seed": 1}],
  )  # fmt: skip
  made = cells(points, held_out=lambda p: p["total_steps"] == 16)
  patch = pytest.MonkeyPatch()
  from videojax.sharding import make_mesh

  patch.setattr(runner, "make_mesh", lambda config: make_mesh(config, ONE))
  patch.setattr(runner, "predict", lambda *a: pytest.fail("no cell has a budget"))
  sweep(BASE, made, workdir)
  patch.undo()
  return workdir, made


def test_a_failed_cell_costs_itself_and_stays_on_record(swept):
  rows = {row.cell.name: row for row in read_sweep(swept[0])}
  status = [row.status for row in rows.values()]
  assert status.count("failed") == 1 and status.count("finished") == 6
  (failed,) = (row for row in rows.values() if row.status == "failed")
  assert failed.cell.overrides["optim.learning_rate"] == 1e30 and "not finite" in failed.why


def test_a_cell_from_a_trunk_equals_the_cell_alone(swept, tmp_path):
  workdir, made = swept
  (cell,) = (c for c in made if c.overrides == {"total_steps": 8, "seed": 1})
  job = make_job(BASE, cell)
  jobs = [make_job(BASE, c) for c in made]
  assert trunk_of(job, jobs, workdir)[1] == 2
  alone = train(job.experiment, tmp_path / "alone", devices=ONE, quiet=True)
  assert read_json(workdir / "cells" / cell.name / "result.json")["params_sha256"] == (
    alone.params_sha256
  )


def test_a_finished_sweep_runs_nothing_again(swept, monkeypatch, capsys):
  monkeypatch.setattr(runner, "train", lambda *a, **k: pytest.fail("a cell ran again"))
  sweep(BASE, swept[1], swept[0])
  assert "7 cells, 0 to run" in capsys.readouterr().out


def test_another_sweep_in_the_directory_is_refused_and_nothing_changes(swept):
  before = (swept[0] / "sweep.json").read_text()
  other = [make_job(BASE, cell) for cell in cells(vary("total_steps", 4, 6))]
  with pytest.raises(ConfigError, match="holds another sweep"):
    write_sweep(swept[0], other, {})
  assert (swept[0] / "sweep.json").read_text() == before


def test_a_time_limit_saves_the_running_cell_and_the_next_call_goes_on(tmp_path):
  made = cells(vary("seed", 0, 1))
  with pytest.raises(Preempted, match="the time limit before cell seed0"):
    sweep(BASE, made, tmp_path / "w", max_seconds=0.0)
  clock = iter([0.0, 1.0])  # the limit passes once the first cell has begun
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runner.time, "perf_counter", lambda: next(clock, 1e9))
    with pytest.raises(Preempted, match="cell seed0: stopped by the time limit after step 1"):
      sweep(BASE, made, tmp_path / "w", max_seconds=10.0)
  assert [row.status for row in read_sweep(tmp_path / "w")] == ["started", "waiting"]
  sweep(BASE, made, tmp_path / "w")
  assert [row.status for row in read_sweep(tmp_path / "w")] == ["finished", "finished"]


def test_held_out_cells_wait_for_the_others_and_for_a_prediction(tmp_path, monkeypatch, capsys):
  asked = []

  def predict(workdir, budget):
    rows = {row.cell.name: row.status for row in read_sweep(workdir)}
    asked.append((budget, rows))
    (workdir / "predictions").mkdir()
    (workdir / "predictions" / f"{budget:.4g}.json").write_text("{}")
    return "sealed"

  monkeypatch.setattr(runner, "predict", predict)
  monkeypatch.setattr(runner, "report", lambda workdir: "page")
  made = cells(vary("budget", 2e8, 4e8, 8e8), held_out=lambda p: p["budget"] == 8e8)
  sweep(BASE, made, tmp_path / "w", part=slice(2, 3))
  assert "held-out cells wait for the others" in capsys.readouterr().out and not asked
  sweep(BASE, made, tmp_path / "w")
  (budget, status), *again = asked
  assert budget == 8e8 and not again
  assert list(status.values()) == ["finished", "finished", "waiting"]
  assert read_sweep(tmp_path / "w")[2].status == "finished"


def test_held_out_cells_do_not_run_under_a_damaged_prediction(tmp_path, monkeypatch, capsys):
  predictions = tmp_path / "w" / "predictions"

  def predict(workdir, budget):
    predictions.mkdir(exist_ok=True)
    (predictions / f"{budget:.4g}.json").write_text("{}")  # no seal
    return "written"

  monkeypatch.setattr(runner, "predict", predict)
  monkeypatch.setattr(runner, "report", lambda workdir: "page")
  monkeypatch.setattr(runner, "train", lambda e, run, **how: runner.files.write_json(
    run / "failed.json", {"why": "stopped"}))  # fmt: skip
  made = cells(vary("budget", 2e8, 4e8, 8e8), held_out=lambda p: p["budget"] == 8e8)
  predictions.parent.mkdir()
  write_sweep(predictions.parent, [make_job(BASE, cell) for cell in made], {})
  predict(predictions.parent, 8e8)
  sweep(BASE, made, predictions.parent)
  assert "in place of a damaged one: 8e+08.json cannot be read" in capsys.readouterr().out
  with pytest.raises(ConfigError, match="8e[+]08.json.*budget8e[+]08.*too late"):
    sweep(BASE, made, predictions.parent)


@pytest.mark.parametrize("budget", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["../c", "a/b", "", "a\0b"])
def test_a_cell_of_no_budget_or_no_directory_is_refused(budget, name):
  with pytest.raises(ConfigError, match="cell c: budget="):
    Cell("c", {}, budget)
  with pytest.raises(ConfigError, match="its name"):
    Cell(name, {})


def test_notes_of_another_form_are_refused_before_anything_runs(tmp_path):
  job = make_job(BASE, Cell("c", {}))
  for notes in ({"price": "two"}, {"onset": [1]}, {"irreducible": math.inf}, {"title": None}):
    with pytest.raises(ConfigError, match=f"get_notes.*{next(iter(notes))}"):
      write_sweep(tmp_path / "w", [job], notes)
  assert not (tmp_path / "w").exists()


def test_the_statement_names_flops_tokens_and_what_trunks_save(tmp_path):
  jobs = [make_job(BASE, cell) for cell in cells(POINTS)]
  said = statement(jobs, tmp_path)
  assert (
    f"{sum(j.flops for j in jobs):.3g} FLOP" in said and f"{sum(j.tokens for j in jobs):,}" in said
  )
  own = sum(j.flops for j in jobs) - 2 * jobs[0].flops * 2 / 8
  assert f"({own:.3g} to compute" in said


def test_time_left_fits_a_cost_per_cell_and_per_flop():
  work = [1e9, 2e9, 4e9, 8e9]
  seconds = [3 + w / 1e9 for w in work]
  assert time_left(work, seconds[:2]) == pytest.approx(sum(seconds[2:]))
  assert time_left(work, seconds) == 0 and math.isfinite(time_left(work, seconds[:1]))


def test_sweep_json_holds_what_was_planned(swept):
  written = json.loads((swept[0] / "sweep.json").read_text())
  for row in read_sweep(swept[0]):
    if row.status == "finished":
      plan, result = written["planned"][row.cell.name], row.result
      assert plan["params"] == result["parameters"]["total"] and plan["tokens"] == result["tokens"]
      assert np.isclose(plan["flops"], result["flops"]["total"])
