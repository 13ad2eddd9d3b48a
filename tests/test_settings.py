"""What a setting may be, over all settings of all architectures, codecs and data sources."""

import dataclasses
import functools
import importlib
import json
import math
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import filled, tiny, tiny_dict
from tests.test_experiments import experiments
from videojax import launch, settings
from videojax.config import NAMED, SECTIONS, Experiment, build, from_json, resolve, to_json
from videojax.data import Loader
from videojax.errors import ConfigError
from videojax.models.cond import Cond
from videojax.runs import rundir
from videojax.sample import GuidanceConfig

ROOT = Path(__file__).parent.parent


def modules(package, members):
  folder = ROOT / package.replace(".", "/")
  found = (importlib.import_module(f"{package}.{p.stem}") for p in sorted(folder.glob("*.py")))
  return [m for m in found if all(hasattr(m, member) for member in members)]


CONFIGS = [Experiment, *SECTIONS.values()] + [
  m.Config for package, _, members in NAMED.values() for m in modules(package, members)
]


def words(cls):
  return cls.__module__ if cls.__name__ == "Config" else cls.__name__


def kinds(hint):
  """The plain types that an annotation allows."""
  args = typing.get_args(hint)
  if typing.get_origin(hint) in (typing.Union, type(int | str)):
    return {kind for arg in args for kind in kinds(arg)}
  return {settings.plain(hint)}


@pytest.mark.parametrize("cls", CONFIGS, ids=words)
def test_no_setting_takes_what_is_not_finite_or_of_another_type(cls):
  wrong = {
    float: (math.nan, math.inf, -math.inf, "text", "nan", True, [1.0], 10**400),
    int: (math.nan, 1.5, True, "3", 10**30, -(10**30), [1]),
    bool: (1, 0, "yes", None),
    str: (1, 2.0, True, [], "a\0b", "\ud800"),
  }
  asked = 0
  for name, hint in settings.hints(cls).items():
    allowed = kinds(hint)
    if len(allowed - {type(None)}) != 1 or not allowed & wrong.keys():
      continue
    (kind,) = allowed & wrong.keys()
    for value in wrong[kind]:
      with pytest.raises(ValueError, match=rf"^{name}=.* must be "):
        settings.checked(cls, {name: value})
      asked += 1
  assert asked or not [
    f for f in dataclasses.fields(cls) if f.init and kinds(f.type) & wrong.keys()
  ]


@pytest.mark.parametrize("cls", CONFIGS, ids=words)
def test_tuples_take_no_wrong_item_and_no_wrong_number_of_them(cls):
  for name, hint in settings.hints(cls).items():
    if typing.get_origin(hint) is not tuple:
      continue
    with pytest.raises(ValueError, match=f"^{name}="):
      settings.checked(cls, {name: {}})
    with pytest.raises(ValueError, match=f"^{name}="):
      settings.checked(cls, {name: [math.nan] * 3})


def test_an_error_names_the_whole_key_the_value_and_what_it_may_be():
  for change, said in {
    "optim__learning_rate": "optim.learning_rate=-1 must be > 0",
    "sampler__eta": "sampler.eta=-1 must be in [0, 1]",
    "model__width": "model.width=-1 must be >= 1",
    "evaluate__coherence_clips": "evaluate.coherence_clips=-1 must be >= 0",
    "seed": "seed=-1 must be >= 0",
  }.items():
    with pytest.raises(ConfigError) as error:
      tiny(**{change: -1})
    assert str(error.value).replace("-1.0", "-1") == said


def test_a_section_that_is_no_dict_is_named():
  for section in (*SECTIONS, "model", "codec", "data"):
    with pytest.raises(ConfigError, match=section):
      resolve({**tiny_dict(), section: 3})


@pytest.mark.parametrize(
  "section,name", [("model", "layers"), ("codec", "a.b"), ("data__worlds", "video_folder")]
)
def test_a_helper_file_is_no_module_of_its_kind(section, name):
  with pytest.raises(ConfigError, match=f"name='{name}'"):
    tiny(**{f"{section}__name": name}).task("worlds")


# --- infinity ---------------------------------------------------------------------------------


def test_a_run_with_an_infinite_setting_goes_on(tmp_path):
  e = tiny(guidance__scale=2.0, guidance__interval=(0.5, math.inf))
  rundir.open_run(tmp_path / "run", e)
  rundir.check_run(tmp_path / "run", e)
  assert from_json(rundir.read_json(tmp_path / "run" / "config.json")) == e
  assert json.loads(json.dumps(to_json(e), allow_nan=False))


def test_guidance_acts_at_every_level_by_its_default():
  """At pure noise sigma / alpha is infinite under most processes."""
  assert GuidanceConfig().interval == (0.0, math.inf)


# --- indices that cannot be wrong loudly ------------------------------------------------------


def test_a_label_that_the_model_does_not_have_is_not_the_null_label():
  e = tiny(model__classes=10, model__known=None, condition__known_frames=0)
  params = filled(e.model.abstract_params)
  network = e.model.network(params)
  x, t = jnp.ones((1, 4, 16, 16, 3)), jnp.full((1, 1), 500.0)
  of = lambda label: np.asarray(network(x, t, Cond(label=jnp.array([label], jnp.int32))))
  assert np.isfinite(of(9)).all() and np.isfinite(of(-1)).all()
  for label in (10, 11, 1000):
    assert np.isnan(of(label)).all()


def test_text_that_is_padded_on_the_left_is_the_same_text():
  e = tiny(model__text=8, model__known=None, condition__known_frames=0)
  network = e.model.network(filled(e.model.abstract_params))
  x, t = jnp.ones((1, 4, 16, 16, 3)), jnp.full((1, 1), 500.0)
  words = jnp.arange(24.0).reshape(1, 3, 8) / 24
  nothing = jnp.full((1, 2, 8), 7.0)
  right = Cond(text=jnp.concatenate([words, nothing], 1), text_mask=jnp.arange(5)[None] < 3)
  left = Cond(text=jnp.concatenate([nothing, words], 1), text_mask=jnp.arange(5)[None] >= 2)
  np.testing.assert_array_equal(network(x, t, left), network(x, t, right))
  assert not np.array_equal(
    network(x, t, left), network(x, t, Cond(text=left.text, text_mask=right.text_mask))
  )


def test_more_classes_in_the_data_than_in_the_model_are_refused():
  data = {"name": "random_latents", "frames": 4, "height": 8, "width": 8, "channels": 3}
  values = tiny_dict(model__classes=10, model__known=None, condition__known_frames=0)
  for classes in (10, 11):
    values["data"] = {"r": {**data, "classes": classes}}
    if classes == 10:
      resolve(values).task("r")
      continue
    with pytest.raises(ConfigError, match=r"data has 11 classes, but model\.classes=10"):
      resolve(values).task("r")


# --- seeds ------------------------------------------------------------------------------------


def test_seeds_read_different_clips_of_endless_data():
  class Endless:
    shape, finite = (1, 1, 1, 1), False
    __len__ = lambda self: 2**31 - 1

    def __getitem__(self, index):
      assert (np.min(index) >= 0) and np.max(index) < 2**31 - 1
      return {"index": np.asarray(index)}

    def decode(self, carried):
      return carried

  def clips(seed, start=0):
    loader = Loader({"a": Endless()}, [1], batch_size=256, seed=seed)
    return set(next(loader.batches(start))[1]["index"].tolist())

  seeds = (0, 1, 42, 1023, 1024, 42 + 5 * 1024, 2**31, 2**32 - 1)
  first = [clips(seed) for seed in seeds]
  assert len(set.union(*first)) == 256 * len(seeds)
  # 8,192 steps of 256 clips are what lies between the beginnings of two seeds.
  assert not clips(0, 2**13) & (clips(1) | clips(42)) and not clips(0, 2**13) & clips(0)
  assert clips(0) == set(range(256))  # as it was for seeds below 1024


# --- what only evaluation uses ----------------------------------------------------------------


@pytest.mark.parametrize(
  "changes,said",
  [
    ({"sampler__window": 2}, "sampler.stride=0 must be between 1 and window=2"),
    ({"sampler__window": 2, "sampler__stride": 3}, "sampler.stride=3 must be between 1 and"),
    ({"sampler__stride": 3}, "sampler.stride=3 needs window"),
    ({"sampler__window": 8, "sampler__stride": 4}, "sampler.window=8 must be between 1 and 4"),
    ({"optim__freeze": "("}, r"optim.freeze='\(' must be a regular expression"),
    ({"init_fresh": "["}, r"init_fresh='\[' must be a regular expression"),
    ({"optim__clip": -1.0}, "optim.clip=-1.0 must be >= 0"),
  ],
)
def test_settings_that_cannot_work_are_refused_with_the_config(changes, said):
  with pytest.raises(ConfigError, match=said):
    tiny(**changes).task("worlds")


def test_what_only_sampling_uses_is_traced_before_the_first_step(tmp_path):
  """Windows of three frames, of a model whose patches have two."""
  from videojax.train import train

  e = tiny(sampler__window=3, sampler__stride=1)
  with pytest.raises(ConfigError, match=r"by windows of 3 frames \(sampler\.window\): patch"):
    train(e, tmp_path / "run", devices=jax.devices()[:1])
  assert not (tmp_path / "run" / "config.json").exists()


def test_a_state_that_no_device_can_hold_is_refused_before_it_is_made(tmp_path):
  from videojax.train import train

  e = tiny(model__width=2**17, model__depth=8)
  with pytest.raises(ConfigError, match=r"need [\d,.]+ GiB on each device"):
    train(e, tmp_path / "run", devices=jax.devices()[:1])


# --- the command line -------------------------------------------------------------------------


def leaves(config, prefix=""):
  for name, value in config.items():
    if isinstance(value, dict) and value:
      yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def another(value, hint):
  """A value of the same kind, as text and as it is read."""
  if isinstance(value, bool):
    return str(not value), not value
  if isinstance(value, int | float):
    return repr(value + 1), value + 1
  if isinstance(value, str):
    return "other", "other"
  if isinstance(value, tuple):
    return "(3, 4)", (3, 4)
  if isinstance(value, dict):
    return "{'a': 1}", {"a": 1}
  kind = next(iter(kinds(hint) - {type(None)})) if hint is not None else str
  return ("7", 7) if kind in (int, float) else ("other", "other")


SHIPPED = experiments() + [
  f"scaling/{p.stem}" for p in sorted((ROOT / "experiments" / "scaling").glob("[a-z]*.py"))
]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_setting_of_every_experiment_can_be_changed_on_the_command_line(name, monkeypatch):
  from videojax.config import settings_of

  monkeypatch.chdir(ROOT)
  path = f"experiments/{name}.py"
  for form in ("", ":smoke") if "smoke" in Path(path).read_text() else ("",):
    start = ["launch", f"--config={path}{form}", "--workdir=none"]
    before = launch.parse(start).config
    same, other, want = [], [], {}
    for key, value in leaves(before):
      cls = settings_of(key, before)
      hint = settings.hints(cls).get(key.rpartition(".")[2]) if cls else None
      text, new = another(value, hint)
      same.append(f"--config.{key}={value}")
      other.append(f"--config.{key}={text}")
      want[key] = new
    assert resolve(launch.parse([*start, *same]).config) == resolve(before)
    found = launch.parse([*start, *other]).config
    for key, value in want.items():
      assert functools.reduce(dict.__getitem__, key.split("."), found) == value, key


def test_an_override_that_is_no_setting_or_no_value_says_what_there_is(monkeypatch):
  monkeypatch.chdir(ROOT)
  start = ["launch", "--config=experiments/quickstart.py:smoke", "--workdir=none"]
  for override, *said in (
    ("data.clips.directory=X", "--config.data.clips.directory", "it has worlds"),
    ("optim.learing_rate=1", "did you mean 'learning_rate' or", "OptimConfig in videojax/optim.py"),
    ("batch_size=many", "--config.batch_size=many must be a whole number and >= 1"),
    ("model.patch=3", "model.patch=(3,) must be a tuple of 3 values"),
    ("model.scalars={}", "--config.model.scalars={} must be a tuple"),
    ("total_steps.x=1", "total_steps is a single value, 2"),
    ("optim=3", "--config.optim=3 must be a dict of settings"),
    ("model.text=True", "model.text=True must be text, or a whole number"),
    ("evaluate.fvd_weights={}", "evaluate.fvd_weights={} must be text, or None"),
  ):
    with pytest.raises(ConfigError) as error:
      resolve(launch.parse([*start, f"--config.{override}"]).config)
    assert all(word in str(error.value) for word in said), str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "text,said",
  [
    ("def get_config(\n", "it is not valid Python"),
    ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
    ("x = 1\n", "defines no get_config()"),
    ("def get_config():\n  return 3\n", "not a ConfigDict"),
    ("def get_config():\n  return 1 / 0\n", "line 2: ZeroDivisionError"),
    ("def get_config():\n  raise ValueError('of the file')\n", "line 2: of the file"),
    ("raise SystemExit(3)\n", "SystemExit"),
  ],
)
def test_an_experiment_file_that_cannot_run_is_named_with_its_line(text, said, tmp_path):
  path = tmp_path / "x.py"
  path.write_text(text)
  with pytest.raises(ConfigError) as error:
    launch.parse(["launch", f"--config={path}", "--workdir=none"])
  assert said in str(error.value) and str(path) in str(error.value)


def test_build_leaves_direct_construction_and_json_the_same_value():
  e = tiny(sampler__eta=0, optim__learning_rate=1)
  assert type(e.sampler.eta) is float and type(e.optim.learning_rate) is float
  with pytest.raises(ConfigError, match="optim=3 must be a dict of settings"):
    build(SECTIONS["optim"], 3, "optim")
