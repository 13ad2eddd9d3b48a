import importlib
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.golden.drawn import weight
from tests.helpers import filled, tiny
from videojax.errors import ConfigError
from videojax.models.contract import architectures
from videojax.runs import weights
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings
from videojax.specs import ModelSpec
from videojax.train import train


def published():
  """Architectures with a published layout, and their tests, which know it."""
  for name, module in architectures().items():
    tests = importlib.import_module(f"tests.models.test_{name}")
    if hasattr(module, "names") and isinstance(getattr(tests, "REFERENCE", None), ModelSpec):
      yield name, module, tests


NAME, UNET, TESTS = next(published())
REFERENCE, reference_shapes = TESTS.REFERENCE, TESTS.reference_shapes
INFO = REFERENCE.info


@pytest.fixture(scope="module")
def params():
  return by_path(filled(REFERENCE.abstract_params))


def placed(mesh=None):
  """Shapes with shardings."""
  mesh = mesh or make_mesh(MeshConfig(data=1), jax.devices()[:1])
  shapes = REFERENCE.abstract_params
  shardings = param_shardings(shapes, {p: i.axes for p, i in INFO.items()}, mesh)
  with_sharding = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return by_path(jax.tree.map(with_sharding, shapes, shardings))


def load(path, **kw):
  return weights.load(path, UNET, REFERENCE.config, INFO, placed(), **kw)


def save(directory, params, **kw):
  return weights.save(directory, UNET, REFERENCE.config, INFO, params, **kw)


@pytest.fixture(scope="module")
def written(params, tmp_path_factory):
  directory = tmp_path_factory.mktemp("written")
  save(directory, params)
  return directory


def test_tensors_are_written_in_the_references_names_and_shapes(written):
  tensors = load_file(written / "diffusion_pytorch_model.safetensors")
  assert {name: x.shape for name, x in tensors.items()} == reference_shapes()


@pytest.mark.parametrize("shard_bytes", [weights.SHARD_BYTES, 200_000])
def test_what_was_written_is_read_back_equal(params, tmp_path, shard_bytes):
  files = save(tmp_path, params, shard_bytes=shard_bytes)
  assert any(str(f).endswith(".index.json") for f in files) == (shard_bytes == 200_000)
  got = load(tmp_path)
  assert got.keys() == params.keys()
  for path, value in params.items():
    np.testing.assert_array_equal(got[path], value, err_msg=path)


def test_weights_of_the_reference_are_read_straight_into_a_sharded_state(tmp_path):
  tensors = {n: weight(n, s).astype(np.float32) for n, s in reference_shapes().items()}
  save_file(tensors, tmp_path / "unet.safetensors")
  abstract = placed(make_mesh(MeshConfig(data=1, fsdp=4, tensor=2)))
  got = weights.load(
    tmp_path / "unet.safetensors", UNET, REFERENCE.config, INFO, abstract
  )  # fmt: skip
  for path, (name, layout) in UNET.names(REFERENCE.config).items():
    want = weights.from_torch(tensors[name], layout, got[path].shape)
    np.testing.assert_array_equal(got[path], want, err_msg=path)
    assert got[path].sharding == abstract[path].sharding
  assert any(not x.sharding.is_fully_replicated for x in got.values())


def test_missing_extra_and_misshapen_tensors_are_listed(written, tmp_path):
  tensors = load_file(written / "diffusion_pytorch_model.safetensors")
  tensors["one.more"] = tensors.pop("conv_in.bias")
  tensors["conv_out.bias"] = np.zeros(7, np.float32)
  save_file(tensors, tmp_path / "bad.safetensors")
  with pytest.raises(ConfigError) as error:
    load(tmp_path / "bad.safetensors")
  for words in (
    "missing: conv_in.bias", "extra: one.more", "misshapen: conv_out.bias (7,) there, (4,) here",
  ):  # fmt: skip
    assert words in str(error.value)


def test_parameters_that_start_fresh_may_have_any_shape_there(written, params, tmp_path):
  tensors = load_file(written / "diffusion_pytorch_model.safetensors")
  del tensors["conv_in.weight"], tensors["conv_in.bias"]
  save_file(tensors, tmp_path / "part.safetensors")
  assert params.keys() - load(tmp_path / "part.safetensors", fresh="conv_in/").keys() == {
    "conv_in/kernel", "conv_in/bias",
  }  # fmt: skip


@pytest.mark.parametrize(
  "layout,shape,inputs,there",
  [
    ("weight", (6, 2, 4), 1, (8, 6)),
    ("weight", (2, 4, 6), 2, (6, 8)),
    ("conv2d", (6, 5), 1, (5, 6, 1, 1)),
    ("weight", (1, 3, 3, 6, 5), 4, (5, 6, 3, 3)),
    ("weight", (3, 1, 1, 6, 5), 4, (5, 6, 3, 1, 1)),
    ("vector", (2, 4), 0, (8,)),
    ("table", (5, 3), 0, (5, 3)),
  ],
)
def test_layouts_are_pytorchs_and_turn_back(layout, shape, inputs, there):
  value = np.random.default_rng(0).standard_normal(shape)
  torch = weights.to_torch(value, layout, inputs)
  assert torch.shape == there == weights.there(layout, shape, inputs)
  np.testing.assert_array_equal(weights.from_torch(torch, layout, shape), value)
  if torch.ndim >= 2 and layout != "table":  # (out, in) of the first place of the kernel
    flat = value.reshape(-1, *there[1::-1])
    np.testing.assert_array_equal(torch.reshape(*there[:2], -1)[..., 0].T, flat[0])


SMALL = {**UNET.SIZES["tiny"], "multipliers": (1,)}
MODEL = dict(name=NAME, channels=3, known="last", dtype="float32", **SMALL)
FAST = dict(total_steps=1, model=MODEL, evaluate__coherence_clips=0)


@pytest.mark.slow
def test_run_starts_from_published_weights_and_exports_them(tmp_path):
  from videojax.modes.finished_run import export

  e = tiny(**FAST)
  model = ModelSpec(NAME, e.model.config)
  info, params = model.info, by_path(filled(model.abstract_params))
  weights.save(tmp_path / "published", UNET, model.config, info, params)
  e = tiny(
    **FAST, init_from=str(tmp_path / "published"), ema=(), optim={"learning_rate": 1e-30}
  )  # fmt: skip
  train(e, tmp_path / "run")
  export(e, tmp_path / "run")
  want = load_file(tmp_path / "published" / "diffusion_pytorch_model.safetensors")
  got = load_file(tmp_path / "run" / "published" / "diffusion_pytorch_model.safetensors")
  assert want.keys() == got.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], atol=1e-20, err_msg=name)
  config = json.loads((tmp_path / "run" / "published" / "config.json").read_text())
  assert config["in_channels"] == 10 and config == UNET.published_config(model.config)


def test_export_without_a_published_layout_is_refused_before_anything_is_read(tmp_path):
  from videojax.modes.finished_run import export

  said = f"model 'dit' has no published layout.*these have one: .*{NAME}"
  with pytest.raises(ConfigError, match=said):
    export(tiny(), tmp_path / "no_run")
  assert not (tmp_path / "no_run").exists()
