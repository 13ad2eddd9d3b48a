"""Files of a run directory that are not what was written: named, and no more than that is lost."""

import copy
import itertools
import json
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from tests.helpers import tiny
from videojax.config import flatten, to_json
from videojax.errors import ConfigError
from videojax.evaluate import Evaluator
from videojax.io.log import Log
from videojax.runs import rundir
from videojax.state import TrainState
from videojax.train import finished_steps, initial_loss

DAMAGED = [b"", b"5", b"null", b'"x"', b"\xff\xfe", b"{", b"[" * 10**5, b'{"a": NaN}']


def test_damaged_lines_of_the_metrics_are_left_out_and_counted(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  sound = [json.dumps({"step": step, "loss": 0.5}).encode() for step in (1, 2, 3)]
  bad = [b"\xff\xfe{", b"null", b"[1]", b'"step"', b'{"step": null}', b'{"loss": 1}', b"[" * 10**5]
  lines = [sound[0], *bad, sound[1], sound[2], b'{"step": 4, "lo']  # the last is cut by a kill
  path.write_bytes(b"\n".join(lines))
  with Log(tmp_path, total_steps=9, start=2, tensorboard=False, writes=True):
    pass
  assert path.read_bytes() == b"\n".join([*sound[:2], b""])
  assert f"{path}: removed {len(bad)} damaged lines" in capsys.readouterr().out


def test_metrics_that_are_no_file_are_named(tmp_path):
  (tmp_path / "metrics.jsonl").mkdir()
  with pytest.raises(ConfigError, match=r"metrics\.jsonl is not a regular file"):
    Log(tmp_path, total_steps=9, start=2, tensorboard=False, writes=True)


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_record_of_earlier_starts_is_named_and_moved_aside(tmp_path, capsys, content):
  rundir.open_run(tmp_path, tiny())
  path = tmp_path / "environment.json"
  path.write_bytes(content)
  rundir.open_run(tmp_path, tiny())
  assert len(rundir.read_json(path)) == 1
  assert (tmp_path / "environment.damaged").read_bytes() == content
  assert f"{path} is" in capsys.readouterr().out


@pytest.mark.parametrize("content", [*DAMAGED, b"{}", b"[]", b'{"steps": "4"}'])
def test_damaged_result_is_named_and_the_run_not_taken_for_finished(tmp_path, capsys, content):
  (tmp_path / "result.json").write_bytes(content)
  assert finished_steps(tmp_path) is None
  assert f"{tmp_path / 'result.json'} is" in capsys.readouterr().out


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("content", [*DAMAGED, b"{}", b"[]", b'{"frozen_loss": 1.0}',
                                     b'{"frozen_loss": null, "evaluate": {}}'])  # fmt: skip
def test_damaged_initial_loss_is_named_and_measured_again_where_it_can_be(
  tmp_path, capsys, content, step
):
  path = tmp_path / "initial.json"
  path.write_bytes(content)
  evaluator = Evaluator.__new__(Evaluator)  # nothing compiled
  evaluator.config = tiny().evaluate
  evaluator.frozen_loss = lambda _: SimpleNamespace(mean=0.25)
  state = TrainState(step=jnp.int32(step), trainable={}, frozen={}, opt_state={}, ema={})
  value = initial_loss(tmp_path, evaluator, state)
  assert f"{path} is" in capsys.readouterr().out
  assert value == 0.25 if step == 0 else value != value


def test_config_of_any_other_form_is_refused_by_name(tmp_path):
  path, experiment = tmp_path / "config.json", tiny()
  sound = to_json(experiment)
  for content in DAMAGED:
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
      rundir.check_run(tmp_path, tiny())
  values = itertools.cycle([None, -1.5, "x", [[1]], {"x": 1}])
  for dotted, value in zip([*flatten(sound), *sound, "changes"], values):
    written = copy.deepcopy(sound)
    *way, last = dotted.split(".")
    below = written
    for key in way:
      below = below[key]
    below[last] = value
    path.write_text(json.dumps(written))
    try:
      rundir.check_run(tmp_path, experiment)
    except ConfigError as error:
      assert str(tmp_path) in str(error)
