"""What takes its time says how far it is; what does not says nothing."""

import time

import pytest

from tests.helpers import tiny
from videojax.evaluate import Evaluator
from videojax.io import log
from videojax.sharding import MeshConfig, make_mesh


@pytest.fixture
def hurried(monkeypatch):
  monkeypatch.setattr(log, "EVERY_SECONDS", 0.05)


def test_long_phase_says_how_far_it_is_and_what_is_left(hurried, capsys):
  with log.phase("sampling", 4) as advance:
    time.sleep(0.08)
    advance(2)
    time.sleep(0.08)
  first, *_, last = capsys.readouterr().out.splitlines()
  assert first == "sampling: 0 s so far" and last == "sampling: 2 of 4, 0 s left"


def test_phase_shorter_than_ten_seconds_says_nothing(capsys):
  with log.phase("compiling"):
    pass
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_phase_of_a_run_speaks_as_the_run_does(tmp_path, hurried, capsys, quiet):
  how = dict(total_steps=2, start=0, tensorboard=False, writes=True, quiet=quiet)
  with log.Log(tmp_path, **how), log.phase("compiling"):
    time.sleep(0.08)
  assert capsys.readouterr().out == ("" if quiet else "compiling: 0 s so far\n")


def test_evaluation_says_how_many_clips_are_left(hurried, capsys, monkeypatch):
  evaluator = Evaluator(tiny(), make_mesh(MeshConfig()))
  monkeypatch.setattr(evaluator, "_decode", {"id": lambda rows: time.sleep(0.08)})
  for _ in evaluator.examples("id", 3 * evaluator.batch, "frozen loss"):
    pass
  assert f"frozen loss (id), clips: {evaluator.batch} of" in capsys.readouterr().out
