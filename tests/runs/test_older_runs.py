"""Runs that an older version began: its configs, checkpoints and records are still understood.

tests/data/older was made by commit 13c422a: a run that ended after step 4 of 8, what it came to
where nothing stopped it, and a sweep that lacks the last of its four cells.
"""

import json
import shutil
from pathlib import Path

import pytest

from videojax import launch

pytestmark = pytest.mark.slow

OLDER = Path(__file__).parents[1] / "data" / "older"
EXPERIMENT = f"--config={OLDER / 'experiment.py'}"


def numbers(line):
  values = json.loads(line)
  return [values[name] for name in ("step", "loss", "grad_norm", "x0_mse")]


def same(ours, theirs):
  """The same run, up to what another processor rounds otherwise."""
  assert ours["parameters"] == theirs["parameters"] and ours["flops"] == theirs["flops"]
  assert ours["frozen_loss"]["final"] == pytest.approx(theirs["frozen_loss"]["final"], rel=1e-4)


def test_an_older_run_goes_on_from_its_checkpoint_to_the_same_end(tmp_path):
  run = shutil.copytree(OLDER / "dit", tmp_path / "dit")
  assert launch.main(["launch", EXPERIMENT, f"--workdir={run}"]) == 0
  before = (OLDER / "dit" / "metrics.jsonl").read_text().splitlines()
  wanted = (OLDER / "dit_metrics.jsonl").read_text().splitlines()
  lines = (run / "metrics.jsonl").read_text().splitlines()
  assert len(before) == 4 and lines[:4] == before and len(lines) == len(wanted) == 8
  for line, want in zip(lines[4:], wanted[4:]):
    assert numbers(line) == pytest.approx(numbers(want), rel=1e-4)
  result = json.loads((run / "result.json").read_text())
  same(result, json.loads((OLDER / "dit_result.json").read_text()))


def test_an_older_sweep_is_finished_and_reported_without_running_its_cells_again(tmp_path):
  sweep = shutil.copytree(OLDER / "sweep", tmp_path / "sweep")
  assert launch.main(["launch", "--mode=sweep", EXPERIMENT, f"--workdir={sweep}"]) == 0
  cells = sorted(path.name for path in (sweep / "cells").iterdir())
  finished = sorted(path.name for path in (OLDER / "sweep" / "cells").iterdir())
  assert len(cells) == 4 and len(finished) == 3
  for name in finished:
    record = Path("cells", name, "result.json")
    assert (sweep / record).read_bytes() == (OLDER / "sweep" / record).read_bytes()
  (last,) = set(cells) - set(finished)
  result = json.loads((sweep / "cells" / last / "result.json").read_text())
  same(result, json.loads((OLDER / "cell_result.json").read_text()))
  assert (sweep / "report" / "index.html").exists()
