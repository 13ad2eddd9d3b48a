import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import check_flops, draw, filled
from videojax.errors import ConfigError
from videojax.models import video_ldm
from videojax.models.cond import Cond, drop
from videojax.optim import split_frozen
from videojax.runs import weights
from videojax.scaling import mup
from videojax.sharding import by_path, path_name
from videojax.specs import ModelSpec

BASE = dict(
  width=8, multipliers=(1, 2), blocks=1, attends=(0,), head_dim=4, groups=4, channels=3,
  dtype="float32",
)  # fmt: skip
SHAPE = (2, 3, 4, 6, 3)
T = jnp.array([[300.0], [700.0]])
LOW = dict(scalars=("low_noise",), volumes=dict(low=3))
ONE_LEVEL = dict(multipliers=(1,))


def spec(**changes):
  return ModelSpec("video_ldm", video_ldm.Config(**{**BASE, **changes}))


VIDEO, IMAGE = spec(text=6, known="zeros"), spec(text=6, temporal=False)


def cond_of(model, shape=SHAPE, length=5):
  """All the conditions that a model takes; the first frame is known."""
  cfg, b, fields = model.config, shape[0], {}
  if cfg.text:
    fields.update(text=draw((b, length, cfg.text), 1), text_mask=jnp.ones((b, length), bool))
  if cfg.known:
    mask = jnp.zeros((b, shape[1], 1, 1, 1)).at[:, :1].set(1.0)
    fields.update(known_mask=mask, known=draw(shape, 2))
  fields["scalars"] = {name: 4.0 + jnp.arange(b) for name in cfg.scalars}
  fields["volumes"] = {name: draw((*shape[:-1], c), 3) for name, c in cfg.volumes}
  return Cond(**fields)


def shapes(model):
  return {path: leaf.shape for path, leaf in by_path(model.abstract_params).items()}


# --- the image model inside -------------------------------------------------------------------


def with_image(image):
  """The video model's own start, with these parameters of the image model."""
  own, start = by_path(image), jax.jit(VIDEO.init)(jax.random.key(0))
  one = lambda path, leaf: own.get(path_name(path), leaf)
  return jax.tree_util.tree_map_with_path(one, start)


def with_share(params, s):
  """The same, with 1 - a = s in every layer along time."""
  one = lambda path, leaf: jnp.full_like(leaf, s) if path_name(path).endswith("/s") else leaf
  return jax.tree_util.tree_map_with_path(one, params)


def test_freeze_is_exactly_the_image_model():
  trained, frozen = split_frozen(VIDEO.abstract_params, video_ldm.FREEZE)
  assert {path: leaf.shape for path, leaf in by_path(frozen).items()} == shapes(IMAGE)
  assert all(path.startswith("temporal") or "/temporal_" in path for path in by_path(trained))


@pytest.mark.slow
def test_video_model_starts_as_the_image_model_of_each_frame_exactly_and_where_a_is_1():
  image, x, cond = filled(IMAGE.abstract_params), draw(SHAPE), cond_of(VIDEO)
  alone = dataclasses.replace(cond, known=None, known_mask=None)
  want = jax.jit(IMAGE.network(image))(x, T, alone)
  network = jax.jit(lambda p: VIDEO.network(p)(x, T, cond))
  np.testing.assert_array_equal(network(with_image(image)), want)
  layers_along_time = with_share(filled(VIDEO.abstract_params), 0.0)
  np.testing.assert_array_equal(network(layers_along_time), want)
  assert jnp.abs(network(with_share(layers_along_time, 0.1)) - want).max() > 1e-3


@pytest.mark.slow
def test_from_the_start_every_a_learns_and_then_every_layer_along_time():
  model = spec(known="zeros", **ONE_LEVEL)
  start, x, cond = jax.jit(model.init)(jax.random.key(0)), draw(SHAPE), cond_of(model)
  grad = jax.jit(jax.grad(lambda p: jnp.square(model.network(p)(x, T, cond) - 1).mean()))
  size = lambda tree: {path: float(jnp.abs(g).max()) for path, g in by_path(tree).items()}
  assert all(g > 0 for path, g in size(grad(start)).items() if path.endswith("/s"))
  later = size(grad(with_share(start, -1e-3)))
  assert all(g > 0 for path, g in later.items() if re.search("temporal", path)), later


@pytest.mark.parametrize("s,a,slope", [(0.0, 1.0, 1.0), (0.25, 0.75, 1.0), (-0.25, 0.75, -1.0),
                                       (1.5, 0.0, 1.0)])  # fmt: skip
def test_merge_is_a_z_plus_the_rest_of_the_other(s, a, slope):
  merge, z, z_t = video_ldm.Merge(rngs=video_ldm.nnx.Rngs(0)), draw((2, 3)), draw((2, 3), 1)
  merge.s[...] = jnp.array([s])
  np.testing.assert_allclose(merge(z, z_t), a * z + (1 - a) * z_t, atol=1e-6)
  graph, params = video_ldm.nnx.split(merge)
  grad = jax.grad(lambda p: video_ldm.nnx.merge(graph, p)(z, z_t).sum())(params)
  np.testing.assert_allclose(jax.tree.leaves(grad)[0], [slope * (z_t - z).sum()], rtol=1e-5)


def test_an_image_is_the_image_models_whatever_the_layers_along_time_are():
  params, x = filled(VIDEO.abstract_params), draw((2, 1, 4, 6, 3))
  cond = dataclasses.replace(cond_of(VIDEO, x.shape), known_mask=jnp.zeros((2, 1, 1, 1, 1)))
  alone = dataclasses.replace(cond, known=None, known_mask=None)
  image = split_frozen(params, video_ldm.FREEZE)[1]
  want = jax.jit(IMAGE.network(image))(x, T, alone)
  np.testing.assert_array_equal(jax.jit(VIDEO.network(params))(x, T, cond), want)


# --- layers along time ------------------------------------------------------------------------


def test_attention_along_time_sees_other_frames_and_their_order():
  attend = video_ldm.TemporalAttention(8, spec().config, rngs=video_ldm.nnx.Rngs(0))
  attend.merge.s[...] = jnp.array([0.5])
  x = draw((1, 3, 2, 2, 8))
  out = attend(x)
  moved = attend(x.at[0, 2, 1, 0].add(jnp.arange(8.0))) - out
  assert jnp.abs(moved[0, 0, 1, 0]).max() > 1e-2
  assert jnp.abs(attend(x[:, ::-1])[:, ::-1] - out).max() > 1e-2


def test_residual_block_along_time_is_two_convolutions_of_three_frames():
  conv = video_ldm.TemporalConv(8, spec().config, rngs=video_ldm.nnx.Rngs(0))
  conv.merge.s[...] = jnp.array([1.0])  # a = 0: z' = l_t(z)
  x, c = draw((1, 4, 2, 2, 8)), draw((1, 1, 32), 1)
  silu = lambda y: np.asarray(y) / (1 + np.exp(-np.asarray(y)))

  def along(layer, y):
    padded = np.pad(y, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    kernel = np.asarray(layer.kernel[...])[:, 0, 0]
    return sum(padded[:, i : i + 4] @ kernel[i] for i in range(3))

  y = along(conv.layer.conv1, silu(conv.layer.norm1(x)))
  y = y + (silu(c) @ np.asarray(conv.layer.time.kernel[...]))[:, :, None, None]
  y = along(conv.layer.conv2, silu(conv.layer.norm2(jnp.asarray(y, jnp.float32))))
  np.testing.assert_allclose(conv(x, c, None), np.asarray(x) + y, atol=1e-5)


# --- behaviour --------------------------------------------------------------------------------


def test_text_and_known_frames_say_something_and_nothing_once_dropped_or_unknown():
  cond, x = cond_of(VIDEO), draw(SHAPE)
  network = jax.jit(VIDEO.network(filled(VIDEO.abstract_params, 0.3)))
  other = dataclasses.replace(cond, text=-cond.text)
  assert jnp.abs(network(x, T, cond) - network(x, T, other)).max() > 1e-4
  dropped, also = (network(x, T, drop(c, ("text",))) for c in (cond, other))
  np.testing.assert_array_equal(dropped, also)
  later = dataclasses.replace(cond, known=cond.known.at[:, 1:].set(9.0))
  np.testing.assert_array_equal(network(x, T, cond), network(x, T, later))
  first = dataclasses.replace(cond, known=cond.known.at[:, 0].add(1.0))
  moved = jnp.abs(network(x, T, cond) - network(x, T, first))
  assert moved[:, 0].max() > 1e-4 and moved[:, 2].max() > 1e-5
  none = dataclasses.replace(cond, known_mask=jnp.zeros((2, 3, 1, 1, 1)))  # S = 0
  assert jnp.abs(network(x, T, cond) - network(x, T, none)).max() > 1e-4


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(groups=3), "width=8 is not divisible by groups=3"),
    (dict(attends=(2,)), "must be levels, 0 to 1"),
    (dict(temporal=False, known="zeros"), "only temporal layers see it"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    spec(**changes)


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes,shape,levels",
  [
    (dict(text=6, known="zeros"), (3, 7, 6, 3), 3),
    (dict(temporal=False, text=6, blocks=2), (3, 8, 6, 3), 1),
    (dict(text=6, known="zeros"), (1, 8, 6, 3), 1),
    (dict(known="zeros", **ONE_LEVEL, **LOW), (4, 4, 4, 3), 1),
  ],
)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels):
  check_flops(spec(**changes), shape, levels, length=5)


ROLES = {
  "conv_in/kernel": "input", "conv_out/kernel": "output", "conv_out/bias": "vector",
  "time/hidden/kernel": "hidden", "norm_out/scale": "vector", "temporal_known/0/kernel": "input",
  "temporal_known/1/kernel": "hidden", "down/0/sampler/kernel": "hidden",
  "down/0/blocks/0/temporal_conv/layer/conv1/kernel": "hidden",
  "down/0/blocks/0/temporal_conv/known/kernel": "hidden",
  "down/0/blocks/0/temporal_conv/merge/s": "vector",
  "down/0/blocks/0/temporal_attention/layer/block/again/q/kernel": "hidden",
  "down/0/blocks/0/attention/block/cross/k/kernel": "input",
}  # fmt: skip


def test_mup_tells_inputs_outputs_and_hidden_parameters_apart():
  wide = VIDEO.wider
  rules = mup.rules(wide.info, shapes(wide), shapes(wide.wider), 2.0)
  assert {path: rules[path].role for path in ROLES} == ROLES
  assert rules["temporal_known/1/kernel"][1:] == pytest.approx((1.0, 0.5))


@pytest.mark.parametrize(
  "size,changes,parameters",
  [
    ("sd21", dict(temporal=False), 865_910_724),  # Stable Diffusion 2.1's U-Net
    ("sd21", dict(), 1_298_032_362),
    ("sd21", dict(known="zeros"), 1_307_284_202),
    ("x4", LOW, 740_488_746),
  ],
)
def test_parameters_of_the_stages_are_those_that_the_experiment_states(size, changes, parameters):
  cfg = video_ldm.Config(**video_ldm.SIZES[size], **video_ldm.PUBLISHED, **changes)
  leaves = jax.tree.leaves(ModelSpec("video_ldm", cfg).abstract_params)
  assert sum(leaf.size for leaf in leaves) == parameters


# --- published weights -----------------------------------------------------------------------


def test_image_models_weights_leave_what_goes_along_time_to_init_fresh(tmp_path):
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
  with pytest.raises(ConfigError, match="name them with init_fresh: .*temporal"):
    take()
  got = take(fresh=".*temporal")
  assert got.keys() == params.keys()
  for path, value in got.items():
    np.testing.assert_array_equal(value, params[path], err_msg=path)
