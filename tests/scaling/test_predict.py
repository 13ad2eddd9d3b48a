"""Predictions: sealed, never replaced, made before the fact, and right as often as they say."""

import errno
import json
import math
import shutil
from pathlib import Path

import pytest

from tests.scaling import make_sweep as made
from tests.scaling.make_sweep import World, finish, isoflop_cells, make, write
from videojax.errors import ConfigError
from videojax.scaling.cells import cells, product, vary
from videojax.scaling.predict import main, predict, score
from videojax.scaling.sealed import seal, unpredicted, verify, write_first
from videojax.scaling.sweep_groups import load

HELD_OUT = 1.024e16
WORLD = World()
LONG_AGO, LATER = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"


def sweep_in(directory, *, world=WORLD, **keys):
  return make(directory, isoflop_cells(), world=world, samples=False, **keys)


def run_held_out(directory, *, world=WORLD, started=LATER):
  """The held-out cells run, and start at the given time."""
  for cell in isoflop_cells():
    if cell.held_out:
      finish(directory, cell, world, samples=False)
      write(directory / "cells" / cell.name / "environment.json", [{"time": started}])


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
  """A sweep whose largest budget was predicted and then run."""
  directory = sweep_in(tmp_path_factory.mktemp("sweep"), irreducible=0)
  path = predict(directory, HELD_OUT)
  run_held_out(directory)
  return directory, path


@pytest.mark.slow
def test_intervals_hold_the_losses_of_cells_that_run_afterwards(tmp_path):
  inside, width = [], []
  for seed in range(10):
    world = World(seed_sd=0.02 + 0.004 * seed, alpha=0.5 + 0.03 * seed, beta=1.05 - 0.03 * seed)
    directory = sweep_in(tmp_path / str(seed), world=world, irreducible=0)
    predict(directory, HELD_OUT, draws=300)
    run_held_out(directory, world=world)
    rows = score(load(directory))["cells"]
    inside += [row["inside"] for row in rows]
    width += [
      (r["predicted"]["high"] - r["predicted"]["low"]) / r["predicted"]["mean"] for r in rows
    ]
  assert len(inside) == 30
  assert sum(inside) >= 25  # 95 % of 30 is 28.5; three cells of a sweep share one law
  assert max(width) < 0.6


def test_predicted_loss_is_that_of_the_law_behind_the_cells(predicted):
  content = json.loads(predicted[1].read_text())
  assert len(content["cells"]) == 3
  for cell in content["cells"].values():
    truth = WORLD.loss(cell["params"], cell["tokens"])
    assert cell["low"] < truth < cell["high"]
    assert cell["mean"] == pytest.approx(truth, rel=0.05)
  best = content["series"][0]["best"]
  assert best["params_low"] < best["params"] < best["params_high"]
  assert best["mean"] <= min(cell["mean"] for cell in content["cells"].values()) * 1.001


def test_fit_uses_finished_cells_of_smaller_budgets_only(tmp_path):
  directory = make(
    tmp_path, isoflop_cells(), samples=False, irreducible=0,
    failed=lambda cell: cell.name == "budget4e+13_width48_seed0",
  )  # fmt: skip
  content = json.loads(predict(directory, 2.56e15).read_text())
  budgets = {name.split("_")[0] for name in content["from"]}
  assert budgets == {"budget4e+13", "budget1.6e+14", "budget6.4e+14"}
  assert "budget4e+13_width48_seed0" not in content["from"]
  assert content["cells"] == {}  # none of that budget is held out


def test_short_cells_are_left_out_where_the_sweep_says_so(tmp_path):
  directory = sweep_in(tmp_path, irreducible=0, least_steps=500)
  used = json.loads(predict(directory, HELD_OUT).read_text())["from"]
  short = [c.name for c in isoflop_cells() if made.plan(c)["total_steps"] < 500]
  assert short and not set(short) & used.keys()


@pytest.mark.slow
def test_irreducible_loss_is_known_or_fitted_as_asked(tmp_path):
  fitted = json.loads(predict(sweep_in(tmp_path / "free"), HELD_OUT).read_text())
  assert fitted["irreducible"] is None and fitted["series"][0]["law"]["E_fitted"]
  path = predict(sweep_in(tmp_path / "known"), HELD_OUT, irreducible=0.001)
  assert json.loads(path.read_text())["series"][0]["law"]["E"]["value"] == 0.001


def test_seal_breaks_when_one_character_changes(predicted, tmp_path):
  text = predicted[1].read_text()
  assert verify(predicted[1]) == ""
  copy = tmp_path / "1.024e+16.json"
  for place in range(60, len(text) - 100, len(text) // 25):
    if text[place].isdigit():
      copy.write_text(text[:place] + str(9 - int(text[place])) + text[place + 1 :])
      assert "1.024e+16.json" in verify(copy)
  copy.write_text(json.dumps(json.loads(text)))  # the same content in another layout
  assert verify(copy) == ""
  copy.write_text(text[:100])
  assert "cannot be read" in verify(copy)


def test_prediction_is_never_replaced(predicted):
  before = predicted[1].read_bytes()
  with pytest.raises(ValueError, match=r"1\.024e\+16\.json.*never replaced"):
    predict(predicted[0], HELD_OUT)
  assert predicted[1].read_bytes() == before


def test_prediction_after_the_fact_is_refused(tmp_path):
  directory = sweep_in(tmp_path, irreducible=0)
  run_held_out(directory)
  with pytest.raises(
    ValueError, match="no longer be predicted.*width256|width256.*no longer be predicted"
  ):
    predict(directory, HELD_OUT)
  assert not (directory / "predictions").exists()


def test_score_compares_with_what_came_and_with_the_last_best_loss(predicted):
  scored = score(load(predicted[0]))
  assert scored["warnings"] == [] and scored["unpredicted"] == []
  losses = {
    row.cell.name: row.value("loss")[0] for row in load(predicted[0]).rows if row.cell.held_out
  }
  last = min(g.value("loss")[0] for g in load(predicted[0]).groups if g.budget == 2.56e15)
  for row in scored["cells"]:
    measured = losses[row["cell"]]
    assert row["measured"] == measured
    assert row["error"] == pytest.approx(row["predicted"]["mean"] / measured - 1)
    assert row["baseline_error"] == pytest.approx(last / measured - 1)
    assert not row["late"]
    assert abs(row["error"]) < row["baseline_error"]
  assert {row["measure"] for row in scored["coherence"]} >= {"color_drift@id", "permanence@fast"}


def test_what_is_wrong_with_a_prediction_is_said(tmp_path):
  directory = sweep_in(tmp_path, irreducible=0)
  path = predict(directory, HELD_OUT, draws=100)
  run_held_out(directory, started=LONG_AGO)
  text = path.read_text()
  path.write_text(text.replace('"mean": 0.00', '"mean": 0.01', 1))
  used = directory / "cells" / "budget4e+13_width64_seed1" / "result.json"
  used.write_text(used.read_text() + " ")
  (path.parent / "other.json").write_text("{}")
  warnings = "\n".join(score(load(directory))["warnings"])
  assert "seal of 1.024e+16.json is broken" in warnings
  assert "dated after the start of budget1.024e+16_width256_seed0" in warnings
  assert "since changed or disappeared: budget4e+13_width64_seed1" in warnings
  assert "other.json is not a prediction" in warnings


def test_held_out_cell_without_prediction_is_named(tmp_path):
  directory = sweep_in(tmp_path)
  run_held_out(directory)
  assert "budget1.024e+16_width384_seed0" in score(load(directory))["unpredicted"]


def test_each_series_is_predicted_from_its_own_cells(tmp_path):
  points = product(
    vary("budget", 4e13, 1.6e14, 6.4e14), vary("model.name", "dit", "unet"),
    vary("model.width", 64, 96, 128, 192),
  )  # fmt: skip
  held = cells(points, held_out=lambda p: p["budget"] > 2e14)
  make(tmp_path, held, world=World(factors={"unet": 1.5}, seed_sd=0.001), samples=False,
       irreducible=0)  # fmt: skip
  content = json.loads(predict(tmp_path, 6.4e14).read_text())
  dit, unet = (content["cells"][f"budget6.4e+14_name{m}_width128"] for m in ("dit", "unet"))
  assert unet["mean"] / dit["mean"] == pytest.approx(1.5, rel=0.05)
  assert {part["series"] for part in content["series"]} == {"dit", "unet"}


def test_command_prints_every_cell_and_the_seal(tmp_path, capsys):
  directory = sweep_in(tmp_path)
  main([str(directory), "--budget=1.024e16", "--irreducible=0"])
  out = capsys.readouterr().out
  content = json.loads((directory / "predictions" / "1.024e+16.json").read_text())
  assert "budget1.024e+16_width512_seed0" in out and content["sha256"] == seal(content)
  assert content["sha256"] in out


@pytest.mark.parametrize(
  "spoil,says",
  [
    (lambda d: (d / "sweep.json").unlink(), "holds no sweep"),
    (lambda d: (d / "sweep.json").write_text('{"cells": [{"nam'), "sweep.json is damaged"),
    (lambda d: (d / "sweep.json").write_text('{"cells": [{"nam": 1}]}'), "sweep.json is damaged"),
    (lambda d: write(d / "sweep.json", {"cells": []}), "no cells"),
    (lambda d: (d / "cells/budget4e+13_width48_seed0/result.json").write_text("{"), "damaged"),
    (lambda d: write(d / "cells/budget4e+13_width48_seed0/result.json", {"steps": 1}), "it lacks"),
  ],
)
def test_damage_is_named(tmp_path, spoil, says):
  directory = sweep_in(tmp_path)
  spoil(directory)
  with pytest.raises(ValueError, match=says):
    predict(directory, HELD_OUT)


def test_too_little_to_predict_from_is_named(tmp_path):
  nothing = make(tmp_path / "a", isoflop_cells(), finished=lambda cell: False)
  with pytest.raises(ValueError, match="no finished cell .*waiting"):
    predict(nothing, HELD_OUT)
  with pytest.raises(ValueError, match="no finished cell to fit"):
    predict(sweep_in(tmp_path / "b"), 1e12)
  unplanned = sweep_in(tmp_path / "c", irreducible=0)
  notes = json.loads((unplanned / "sweep.json").read_text())
  write(unplanned / "sweep.json", {k: v for k, v in notes.items() if k != "planned"})
  with pytest.raises(ValueError, match="planned"):
    predict(unplanned, HELD_OUT)
  with pytest.raises(ValueError, match="--budget=-1"):
    predict(unplanned, -1.0)


# --- files that are damaged, and disks that are full ----------------------------------------------


def full_disk(monkeypatch):
  """After 100 characters nothing more can be written."""

  def write_text(self, text, *args, **kwargs):
    with open(self, "w") as file:
      file.write(text[:100])
    raise OSError(errno.ENOSPC, "No space left on device", str(self))

  monkeypatch.setattr(type(Path()), "write_text", write_text)


@pytest.fixture(scope="module")
def sealed(predicted, tmp_path_factory):
  """A sweep that was predicted and whose held-out cells have not run; the prediction's text."""
  some = [cell for cell in isoflop_cells() if cell.overrides["model.width"] >= 256]
  directory = make(tmp_path_factory.mktemp("sealed"), some, samples=False)
  write(directory / "predictions" / "1.024e+16.json", json.loads(predicted[1].read_text()))
  return directory, predicted[1].read_text()


@pytest.fixture
def unfitted(sealed, monkeypatch):
  """What `predict` fits, without fitting it; a test may change it."""
  content = json.loads(sealed[1])
  del content["sha256"]
  monkeypatch.setattr("videojax.scaling.predict._content", lambda *a: content)
  return content


def test_a_prediction_on_a_full_disk_is_not_there_and_is_made_when_there_is_room(
  tmp_path, monkeypatch, unfitted
):
  directory = sweep_in(tmp_path, irreducible=0)
  with monkeypatch.context() as patch:
    full_disk(patch)
    with pytest.raises(OSError, match="No space left"):
      predict(directory, HELD_OUT)
  assert list((directory / "predictions").iterdir()) == []
  assert unpredicted(directory, HELD_OUT) == "there was none"
  assert verify(predict(directory, HELD_OUT)) == ""
  assert unpredicted(directory, HELD_OUT) == ""


def other_budget(text):
  content = json.loads(text) | {"budget": 5e15}
  return json.dumps(content | {"sha256": seal(content)})


def without_a_cell(text):
  content = json.loads(text)
  content["cells"].pop("budget1.024e+16_width512_seed0")
  return json.dumps(content | {"sha256": seal(content)})


SPOILT = {
  "cut": lambda text: text[: len(text) // 2],
  "empty": lambda text: "",
  "list": lambda text: "[]",
  "null": lambda text: "null",
  "number": lambda text: "7",
  "no seal": lambda text: "{}",
  "changed": lambda text: text.replace('"mean": 0.0', '"mean": 0.1', 1),
  "infinite": lambda text: text.replace('"mean": 0.0', '"mean": 1e999, "was": 0.0', 1),
  "null mean": lambda text: text.replace('"mean": 0.0', '"mean": null, "was": 0.0', 1),
  "nested": lambda text: "[" * 100_000,
  "another budget": other_budget,
  "a cell is missing": without_a_cell,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_damaged_prediction_is_replaced_before_the_fact_only(sealed, unfitted, kind):
  directory, text = sealed
  path, cells = directory / "predictions" / "1.024e+16.json", directory / "cells"
  begun = cells / "budget1.024e+16_width256_seed0"
  path.write_text(SPOILT[kind](text))
  try:
    write(begun / "failed.json", {"why": "Diverged: step 3"})
    for ask in (unpredicted, predict):
      with pytest.raises(ConfigError, match=r"1\.024e\+16\.json.*width256_seed0\), so a new"):
        ask(directory, HELD_OUT)
    assert path.read_text() == SPOILT[kind](text)
  finally:
    shutil.rmtree(begun)
  assert "1.024e+16.json" in unpredicted(directory, HELD_OUT)
  assert verify(predict(directory, HELD_OUT)) == ""
  path.write_text(text)


def test_a_second_process_does_not_replace_the_first_ones_prediction(sealed):
  path = sealed[0] / "predictions" / "1.024e+16.json"
  with pytest.raises(ConfigError, match="another process"):
    write_first(path, "{}")
  assert path.read_text() == sealed[1]
  assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_law_without_a_finite_number_is_no_prediction(sealed, unfitted, value):
  path = sealed[0] / "predictions" / "1.024e+16.json"
  path.unlink()
  unfitted["cells"]["budget1.024e+16_width256_seed0"]["mean"] = value
  with pytest.raises(ConfigError, match=r"no prediction.*mean is None, not a finite number"):
    predict(sealed[0], HELD_OUT)
  assert not path.exists()
  path.write_text(sealed[1])
