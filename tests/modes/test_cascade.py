import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.modes import finished_run
from videojax.modes.cascade import cascade, continued
from videojax.sharding import make_mesh
from videojax.train import train

pytestmark = pytest.mark.slow

QUICK = dict(total_steps=1, evaluate__coherence_clips=0)
# 4 frames, then 7 of the same size, then twice the size, by windows of 4.
BASE = tiny(**QUICK)
BETWEEN = tiny(
  **QUICK, model__patch=(1, 4, 4), data__worlds__frames=7, condition__masks=("sparse",),
  controls={"every": 2},
)  # fmt: skip
LARGER = tiny(
  **QUICK, model__patch=(1, 8, 8), model__known=None, model__volumes={"low": 3},
  model__scalars=("low_noise",), data__worlds__size=32, condition__known_frames=0,
  controls={"low": (1, 2, 2)}, sampler={"steps": 2, "window": 4, "stride": 2},
)  # fmt: skip


def example(e):
  task = e.task("worlds")
  return task, task.source.decode(stack_examples(task.source, range(2)))


def test_sparse_stage_is_given_the_clip_at_every_second_frame():
  task, given = example(BETWEEN)
  made = jax.random.normal(jax.random.key(0), (2, 4, 16, 16, 3))
  out = continued(task, given, made)
  np.testing.assert_array_equal(out["video"][:, ::2], made)
  _, cond = task.prepare({}, out)
  np.testing.assert_array_equal(cond.known_mask[0, :, 0, 0, 0], [1, 0, 1, 0, 1, 0, 1])


def test_low_resolution_stage_sees_the_enlarged_clip_without_noise():
  task, given = example(LARGER)
  made = jax.random.normal(jax.random.key(0), (2, 4, 16, 16, 3))
  _, cond = task.prepare({}, continued(task, given, made))
  np.testing.assert_array_equal(cond.volumes["low"], jnp.repeat(jnp.repeat(made, 2, 2), 2, 3))
  np.testing.assert_array_equal(cond.scalars["low_noise"], 0)


def test_clip_of_another_size_and_a_stage_that_takes_none_are_named():
  task, given = example(LARGER)
  with pytest.raises(ConfigError, match=r"makes clips of \(4, 8, 8\).*takes \(4, 16, 16\)"):
    continued(task, given, jnp.zeros((2, 4, 8, 8, 3)))
  task, given = example(BASE)
  with pytest.raises(ConfigError, match="takes volume 'low' or mask 'sparse'"):
    continued(task, given, jnp.zeros((2, 4, 16, 16, 3)))


def test_cascade_runs_end_to_end_and_measures_the_last_clip(tmp_path, capsys, monkeypatch):
  one = jax.devices()[:1]
  monkeypatch.setattr(finished_run, "make_mesh", lambda config: make_mesh(config, one))
  runs = {name: tmp_path / name for name in ("base", "between", "larger")}
  for e, run in zip((BASE, BETWEEN, LARGER), runs.values()):
    train(e, run, devices=one)
  (samples,) = (runs["between"] / "samples").glob("step*.npz")
  np.testing.assert_array_equal(np.load(samples)["given"], [1, 0, 1, 0, 1, 0, 1])
  cascade(LARGER, runs["larger"], [str(runs["base"]), str(runs["between"])])
  said = capsys.readouterr().out
  assert "clips of (7, 16, 16, 3)" in said and "clips of (7, 32, 32, 3)" in said
  written = json.loads((runs["larger"] / "cascade.json").read_text())
  assert written["measures"]["position_error_px"]["n"] > 0
  assert list((runs["larger"] / "samples" / "cascade").glob("*.webp"))
