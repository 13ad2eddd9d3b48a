import json

import pytest

from tests.helpers import tiny, tiny_dict
from videojax.config import EXECUTION, from_json, resolve, to_json
from videojax.errors import ConfigError
from videojax.runs import rundir


def test_resolved_config_survives_json():
  e = tiny(model__text="bytes", optim__clip=0.0, guidance__scale=2.0)
  assert from_json(json.loads(json.dumps(to_json(e)))) == e


@pytest.mark.parametrize(
  "key,nearest",
  [
    ("total_step", "total_steps"),
    ("model__widht", "width"),
    ("optim__learning_rat", "learning_rate"),
    ("evaluate__clip", "clips"),
    ("sampler__step", "steps"),
    ("mesh__tensors", "tensor"),
  ],
)
def test_misspelt_key_names_the_nearest_right_one(key, nearest):
  with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
    tiny(**{key: 1})


def test_misspelt_key_of_a_data_source_names_the_nearest_right_one():
  e = tiny(data__worlds__sise=16)
  with pytest.raises(ConfigError, match=r"data\.worlds has no key 'sise': did you mean 'size'"):
    e.task("worlds")


def test_missing_key_and_missing_section_are_named():
  values = tiny_dict()
  del values["model"]["width"]
  with pytest.raises(ConfigError, match="model lacks width"):
    resolve(values)
  values = tiny_dict()
  del values["optim"]
  with pytest.raises(ConfigError, match="optim"):
    resolve(values)


@pytest.mark.parametrize(
  "changes,words",
  [
    ({"model__name": "dut"}, "no architecture videojax/models/dut.py"),
    ({"model__name": "layers"}, "no architecture videojax/models/layers.py"),
    (
      {"data__worlds__name": "wurlds"},
      "no data source data_pipelines/wurlds.py: did you mean 'worlds'",
    ),
    ({"batch_size": 0}, "batch_size=0 must be >= 1"),
    ({"accumulate": 3}, "batch_size=8 is not divisible by accumulate=3"),
    ({"model__width": 33}, "width=33"),
    ({"model__volumes": 3}, "must give the channels of each by name"),
    ({"optim__schedule": "linear"}, "no schedule 'linear'"),
    ({"denoiser__process": "cosin"}, "did you mean 'cosine'"),
    ({"condition__known_frames": 3}, "known=2 and condition.known_frames=3 must be equal"),
    (
      {"condition__known_frames": 0, "data__worlds__known": 0},
      "known_frames=0 must be between 1 and 3",
    ),
    ({"model__known": None}, "set model.known='last'"),
    ({"ema": (0.5,)}, r"ema=\(0.5,\) must be .* in \(0, 0.28\)"),
  ],
)
def test_impossible_values_are_refused_with_names_and_values(changes, words):
  from videojax.runs.run_state import (
    make_update,
  )

  with pytest.raises(ValueError, match=words):
    e = tiny(**changes)
    e.task("worlds")
    make_update(e)


def test_a_config_with_a_setting_of_execution_that_went_is_read_and_no_other_unknown(
  monkeypatch,
):
  e = tiny()
  written = json.loads(json.dumps(to_json(e)))
  monkeypatch.setattr("videojax.config.EXECUTION", (*EXECUTION, "unrolled"))
  written["model"]["config"]["unrolled"] = True
  assert from_json(written) == e
  written["model"]["config"]["unknown"] = True
  with pytest.raises(ConfigError, match="no key 'unknown'"):
    from_json(written)


def test_a_new_run_writes_config_and_environment(tmp_path):
  e = tiny()
  rundir.open_run(tmp_path / "run", e)
  assert from_json(rundir.read_json(tmp_path / "run" / "config.json")) == e
  [start] = rundir.read_json(tmp_path / "run" / "environment.json")
  assert start["packages"]["jax"] and start["devices"]


def test_workdir_of_another_experiment_is_refused_with_the_differing_keys(tmp_path):
  rundir.open_run(tmp_path / "run", tiny())
  before = (tmp_path / "run" / "config.json").read_text()
  with pytest.raises(ConfigError, match="holds a different experiment") as error:
    rundir.open_run(tmp_path / "run", tiny(model__width=64, seed=1))
  assert "model.config.width: 32 there, 64 now" in str(error.value)
  assert "seed: 0 there, 1 now" in str(error.value)
  assert (tmp_path / "run" / "config.json").read_text() == before


def test_directory_that_holds_other_files_is_refused(tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  with pytest.raises(ConfigError, match="not empty and holds no run"):
    rundir.open_run(tmp_path, tiny())
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_mesh_remat_and_saving_may_change_and_the_change_is_recorded(tmp_path):
  rundir.open_run(tmp_path / "run", tiny())
  rundir.open_run(tmp_path / "run", tiny(model__remat="full", checkpoint__save_every_steps=3))
  changes = rundir.read_json(tmp_path / "run" / "config.json")["changes"]
  assert changes[0]["changed"]["model.config.remat"] == ["none", "full"]
  assert len(rundir.read_json(tmp_path / "run" / "environment.json")) == 2


def test_total_steps_may_grow_before_the_decay_and_never_shrink(tmp_path):
  decaying = dict(optim__schedule="wsd", optim__decay_fraction=0.5)
  rundir.open_run(tmp_path / "run", tiny(total_steps=10, **decaying))
  rundir.open_run(tmp_path / "run", tiny(total_steps=20, **decaying))
  with pytest.raises(ConfigError, match="cannot become 5"):
    rundir.open_run(tmp_path / "run", tiny(total_steps=5, **decaying))
  (tmp_path / "run" / "checkpoints" / "12").mkdir(parents=True)
  with pytest.raises(ConfigError, match="has decayed towards total_steps=20 since step 10"):
    rundir.open_run(tmp_path / "run", tiny(total_steps=40, **decaying))


def test_run_from_before_a_setting_existed_goes_on_with_its_default(tmp_path):
  e = tiny()
  rundir.open_run(tmp_path / "run", e)
  path = tmp_path / "run" / "config.json"
  written = rundir.read_json(path)
  for name in ("codec", "controls", "init_fresh"):
    del written[name]
  del written["condition"]["masks"], written["model"]["config"]["volumes"]
  path.write_text(json.dumps(written))
  assert rundir.read_config(tmp_path / "run") == to_json(e)
  rundir.check_run(tmp_path / "run", e)


def test_damaged_run_files_are_named(tmp_path):
  rundir.open_run(tmp_path / "run", tiny())
  (tmp_path / "run" / "config.json").write_text("{")
  with pytest.raises(ConfigError, match="config.json is damaged"):
    rundir.open_run(tmp_path / "run", tiny())


def test_the_measured_split_is_named_and_not_the_first_of_the_alphabet():
  splits = {"fast": {"split": "fast"}, "id": {"split": "id"}}
  with pytest.raises(ConfigError, match="evaluate.main must name one of fast, id"):
    tiny(evaluate__splits=splits)
  e = tiny(evaluate__splits=splits, evaluate__main="id")
  assert list(e.evaluate.splits) == list(to_json(e)["evaluate"]["splits"]) == ["id", "fast"]
  with pytest.raises(ConfigError, match="no evaluate.main 'ID'"):
    tiny(evaluate__splits=splits, evaluate__main="ID")
