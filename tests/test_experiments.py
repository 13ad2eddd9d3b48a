"""Every experiment builds, at full size, with its parameter count pinned; its smoke form runs."""

import importlib.util
from pathlib import Path

import jax
import pytest

from videojax.config import resolve
from videojax.program import make_update, parameters_by_part, task_products
from videojax.train import train

ROOT = Path(__file__).parent.parent
PARAMETERS = {
  "quickstart": 1322208, "real_video": 1322208, "papers/dit": 32_865_056,
  "papers/latte": 32_480_672, "papers/phyworld": 33_433_728,
}  # fmt: skip
NEEDS_DATA = ("real_video",)


def config(name, *arg):
  path = ROOT / "experiments" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(*arg)


def experiments():
  """All but the sweeps, which tests/test_sweeps.py looks at."""
  paths = (p.relative_to(ROOT / "experiments") for p in (ROOT / "experiments").rglob("*.py"))
  return sorted(
    str(p.with_suffix("")) for p in paths if p.name != "__init__.py" and p.parts[0] != "scaling"
  )


def test_every_experiment_is_pinned():
  assert experiments() == sorted(PARAMETERS)


@pytest.mark.parametrize("name", experiments())
def test_experiment_builds_with_its_parameter_count(name):
  e = resolve(config(name).to_dict())
  make_update(e)
  assert parameters_by_part(e.model)["total"] == PARAMETERS[name]
  if name not in NEEDS_DATA:
    for source in e.data:
      assert task_products(e, e.task(source))


@pytest.mark.parametrize("name", [n for n in experiments() if n not in NEEDS_DATA])
def test_smoke_form_runs(name, tmp_path):
  e = resolve(config(name, "smoke").to_dict())
  result = train(e, tmp_path / "run", devices=jax.devices()[:1])
  assert result.steps == 2 and result.frozen_loss.final > 0


def test_real_video_trains_on_a_dataset_of_clips(tmp_path):
  """Evaluation sets need not divide by the batch."""
  import numpy as np

  from data_pipelines.clips import write_clips

  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (12, 8, 16, 16, 3), np.uint8)
  examples = [{"video": v, "caption": "noise", "id": i} for i, v in enumerate(clips)]
  write_clips(
    tmp_path / "clips", {"train": examples[:9], "validation": examples[9:]},
    frames=8, height=16, width=16, fps=8.0, description="noise",
  )  # fmt: skip
  values = config("real_video", "smoke")
  values.data.clips.path = str(tmp_path / "clips")
  result = train(resolve(values.to_dict()), tmp_path / "run", devices=jax.devices()[:1])
  assert result.frozen_loss.clips == 3  # all of them, though 8 at a time were asked for
  assert result.coherence == {}
