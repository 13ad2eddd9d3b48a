import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.golden import make_modelscope as golden
from tests.helpers import filled, tiny
from tests.models.test_modelscope import REFERENCE, reference_shapes
from videojax.errors import ConfigError
from videojax.models import modelscope
from videojax.runs import weights
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings
from videojax.task import ModelSpec
from videojax.train import train

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
  return weights.load(path, modelscope, REFERENCE.config, INFO, placed(), **kw)


def save(directory, params, **kw):
  return weights.save(directory, modelscope, REFERENCE.config, INFO, params, **kw)


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
  tensors = {n: golden.weight(n, s).astype(np.float32) for n, s in reference_shapes().items()}
  save_file(tensors, tmp_path / "unet.safetensors")
  abstract = placed(make_mesh(MeshConfig(data=1, fsdp=4, tensor=2)))
  got = weights.load(
    tmp_path / "unet.safetensors", modelscope, REFERENCE.config, INFO, abstract
  )  # fmt: skip
  for path, (name, layout) in modelscope.names(REFERENCE.config).items():
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


def test_image_models_weights_leave_what_goes_along_time_to_init_fresh(tmp_path):
  from videojax.models import video_ldm

  sizes = dict(width=8, multipliers=(1,), blocks=1, attends=(0,), head_dim=8, groups=4, channels=4)
  model = ModelSpec("video_ldm", video_ldm.Config(**sizes, text=16, dtype="float32"))
  image = ModelSpec("video_ldm", model.config.image)
  params = by_path(filled(image.abstract_params))
  weights.save(tmp_path, video_ldm, image.config, image.info, params)
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = {
    p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)
    for p, x in by_path(model.abstract_params).items()
  }
  take = lambda **kw: weights.load(tmp_path, video_ldm, model.config, model.info, abstract, **kw)
  with pytest.raises(ConfigError, match="named by init_fresh: .*temporal"):
    take()
  got = take(fresh=".*temporal")
  assert got.keys() == params.keys()
  for path, value in got.items():
    np.testing.assert_array_equal(value, params[path], err_msg=path)


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


MODEL = dict(
  name="modelscope", width=8, multipliers=(1,), blocks=1, head_dim=8, in_heads=1, groups=4,
  channels=3, known="last", dtype="float32",
)  # fmt: skip
FAST = dict(total_steps=1, model=MODEL, evaluate__coherence_clips=0)


def test_run_starts_from_published_weights_and_exports_them(tmp_path):
  from videojax.modes.finished_run import export

  e = tiny(**FAST)
  model = ModelSpec("modelscope", e.model.config)
  info, params = model.info, by_path(filled(model.abstract_params))
  weights.save(tmp_path / "published", modelscope, model.config, info, params)
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
  assert config["_class_name"] == "UNet3DConditionModel" and config["in_channels"] == 10


def test_export_without_a_published_layout_is_refused_before_anything_is_read(tmp_path):
  from videojax.modes.finished_run import export

  with pytest.raises(ConfigError, match="model 'dit' has no published layout.*modelscope.* have"):
    export(tiny(), tmp_path / "no_run")
  assert not (tmp_path / "no_run").exists()
