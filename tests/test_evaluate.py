import json

import jax
import numpy as np
import pytest

from tests.helpers import filled, tiny
from videojax.errors import ConfigError
from videojax.evaluate import Evaluator
from videojax.measures import fvd, i3d
from videojax.modes.finished_run import evaluate
from videojax.sharding import MeshConfig, make_mesh
from videojax.train import train


@pytest.fixture
def pixels_as_features(monkeypatch):
  """Mean colours of frames in place of I3D, whose weights and time a test has not."""
  monkeypatch.setattr(i3d, "load", lambda path=None: {"w": np.zeros(1, np.float32)})
  colours = lambda weights, clips, pixels: clips.mean((2, 3)).reshape(len(clips), -1)
  monkeypatch.setattr(fvd, "features", colours)
  monkeypatch.setattr(i3d, "MIN_FRAMES", 1)


def evaluator(**changes):
  e = tiny(mesh__data=1, **changes)
  return Evaluator(e, make_mesh(MeshConfig(data=1), jax.devices()[:1])), e


@pytest.mark.slow
def test_distance_has_its_floor_and_its_protocol_beside_it(pixels_as_features, tmp_path):
  e = tiny(total_steps=1, evaluate__fvd_clips=6, evaluate__coherence_clips=0)
  train(e, tmp_path / "run")
  evaluate(e, tmp_path / "run")
  written = json.loads((tmp_path / "run" / "evaluation.json").read_text())["fvd"]
  assert written["distance"] > written["floor"] >= 0
  protocol = written["protocol"]
  assert (protocol["clips"], protocol["split"], protocol["ema"]) == (6, "id", True)
  assert (protocol["frames"], protocol["resolution"]) == (4, [16, 16])


def test_clips_equal_to_the_real_ones_are_at_the_floor(pixels_as_features, monkeypatch):
  made, e = evaluator(evaluate__fvd_clips=8)
  monkeypatch.setattr(made, "generate", lambda params, example: example["video"])
  result = made.fvd(filled(e.model.abstract_params))
  assert result.distance < 3 * result.floor


def test_clips_too_short_for_i3d_are_named(monkeypatch):
  monkeypatch.setattr(i3d, "load", lambda path=None: {})
  made, e = evaluator(evaluate__fvd_clips=4)
  monkeypatch.setattr(made, "generate", lambda params, example: example["video"])

  def refuse(*_, **__):
    raise ValueError("too short")

  monkeypatch.setattr(fvd, "measure", refuse)
  with pytest.raises(ConfigError, match="evaluate.fvd_clips=4: too short"):
    made.fvd({})
