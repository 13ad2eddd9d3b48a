import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import check_flops, draw, filled
from videojax.models import make_a_video
from videojax.models.cond import Cond, drop
from videojax.scaling import mup
from videojax.sharding import by_path, path_name
from videojax.specs import ModelSpec

BASE = dict(
  width=8, multipliers=(1, 2), blocks=1, attends=(1,), head_dim=4, groups=4, channels=3,
  dtype="float32",
)  # fmt: skip
SHAPE = (2, 3, 4, 6, 3)
T = jnp.array([[300.0], [700.0]])
FULL = dict(text=6, scalars=("fps",), known="zeros")
LOW = dict(scalars=("fps", "low_noise"), volumes=dict(low=3))


def spec(**changes):
  return ModelSpec("make_a_video", make_a_video.Config(**{**BASE, **changes}))


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


# --- pseudo-3D layers -------------------------------------------------------------------------


def pseudo_conv(c_in, c_out):
  cfg, rngs = spec().config, make_a_video.nnx.Rngs(0)
  return make_a_video.PseudoConv(c_in, c_out, ("embed", None), cfg, rngs=rngs)


def test_pseudo_3d_convolution_is_the_sum_over_space_and_then_over_time():
  conv, x = pseudo_conv(2, 3), np.asarray(draw((1, 3, 4, 5, 2)))
  space, time = draw((1, 3, 3, 2, 3), 1), draw((3, 1, 1, 3, 3), 2)
  conv.within.kernel[...], conv.within.bias[...] = space, draw((3,), 3)
  conv.temporal.kernel[...], conv.temporal.bias[...] = time, draw((3,), 4)
  y = np.zeros((1, 3, 4, 5, 3)) + np.asarray(draw((3,), 3))
  for t, i, j, a, b in np.ndindex(3, 4, 5, 3, 3):
    if 0 <= i + a - 1 < 4 and 0 <= j + b - 1 < 5:
      y[0, t, i, j] += x[0, t, i + a - 1, j + b - 1] @ np.asarray(space)[0, a, b]
  want = np.zeros_like(y) + np.asarray(draw((3,), 4))
  for t, a in np.ndindex(3, 3):
    if 0 <= t + a - 1 < 3:
      want[0, t] += y[0, t + a - 1] @ np.asarray(time)[a, 0, 0]
  np.testing.assert_allclose(conv(jnp.asarray(x)), want, atol=1e-5)


def test_layers_along_time_start_as_the_identity():
  conv, x = pseudo_conv(4, 4), draw((1, 3, 4, 4, 4))
  np.testing.assert_array_equal(conv.temporal(x), x)
  attend = make_a_video.Attend(4, "time", spec().config, rngs=make_a_video.nnx.Rngs(0))
  np.testing.assert_array_equal(attend(x), x)


def test_attention_along_time_is_softmax_over_the_frames_of_a_place():
  attend = make_a_video.Attend(4, "time", spec().config, rngs=make_a_video.nnx.Rngs(0))
  heads, x = attend.heads, draw((1, 3, 2, 2, 4))
  heads.out.kernel[...] = draw((1, 4, 4), 1)
  y = np.asarray(attend.norm(x))[0, :, 1, 0]  # [T,C] of one place
  q, k, v = (y @ np.asarray(m.kernel[...])[:, 0] for m in (heads.q, heads.k, heads.v))
  weights = np.exp(q @ k.T / np.sqrt(4))
  out = weights / weights.sum(1, keepdims=True) @ v @ np.asarray(heads.out.kernel[...])[0]
  np.testing.assert_allclose(attend(x)[0, :, 1, 0] - x[0, :, 1, 0], out, atol=1e-5)


# --- the image model inside -------------------------------------------------------------------

VIDEO, IMAGE = spec(**FULL), spec(temporal=False, **FULL)


def inflated(image):
  """The video model's own start, with these parameters of the image model."""
  own, start = by_path(image), jax.jit(VIDEO.init)(jax.random.key(0))
  one = lambda path, leaf: own.get(path_name(path), leaf)
  return jax.tree_util.tree_map_with_path(one, start)


def test_parameters_of_the_image_model_are_those_of_the_video_model_not_along_time():
  shapes = lambda m: {path: leaf.shape for path, leaf in by_path(m.abstract_params).items()}
  video = {path: shape for path, shape in shapes(VIDEO).items() if "temporal" not in path}
  assert video == shapes(IMAGE) and len(video) < len(shapes(VIDEO))


@pytest.mark.slow
def test_video_model_starts_as_the_image_model_of_each_frame_exactly():
  image, x, cond = filled(IMAGE.abstract_params), draw(SHAPE), cond_of(VIDEO)
  video = jax.jit(VIDEO.network(inflated(image)))(x, T, cond)
  np.testing.assert_array_equal(video, jax.jit(IMAGE.network(image))(x, T, cond))


def test_image_model_treats_every_frame_alone():
  x, cond = draw(SHAPE), dataclasses.replace(cond_of(IMAGE), known_mask=jnp.ones((2, 3, 1, 1, 1)))
  network = jax.jit(IMAGE.network(filled(IMAGE.abstract_params, 0.2)))
  other = network(x.at[:, 1].add(1.0), T, cond) - network(x, T, cond)
  assert jnp.abs(other[:, 1]).max() > 1e-2
  np.testing.assert_array_equal(other[:, ::2], 0.0)


def test_an_image_is_the_image_models_whatever_the_layers_along_time_are():
  params, x, cond = filled(VIDEO.abstract_params), draw((2, 1, 4, 6, 3)), cond_of(VIDEO)
  cond = dataclasses.replace(cond, known_mask=jnp.zeros((2, 1, 1, 1, 1)), known=x)
  without = lambda tree: {
    k: without(v) if isinstance(v, dict) else v for k, v in tree.items() if "temporal" not in k
  }
  image = jax.jit(IMAGE.network(without(params)))(x, T, cond)
  np.testing.assert_array_equal(jax.jit(VIDEO.network(params))(x, T, cond), image)


# --- behaviour --------------------------------------------------------------------------------


def test_every_condition_says_something_and_nothing_once_dropped():
  cond, x = cond_of(VIDEO), draw(SHAPE)
  network = jax.jit(VIDEO.network(filled(VIDEO.abstract_params, 0.2)))
  for name, other in (
    ("text", dataclasses.replace(cond, text=-cond.text)),
    ("scalars", dataclasses.replace(cond, scalars={"fps": 3 * cond.scalars["fps"]})),
  ):
    assert jnp.abs(network(x, T, cond) - network(x, T, other)).max() > 1e-4
    dropped, also = (network(x, T, drop(c, (name,))) for c in (cond, other))
    np.testing.assert_array_equal(dropped, also)
  later = dataclasses.replace(cond, known=cond.known.at[:, 1:].set(9.0))
  np.testing.assert_array_equal(network(x, T, cond), network(x, T, later))
  first = dataclasses.replace(cond, known=cond.known.at[:, 0].add(1.0))
  moved = jnp.abs(network(x, T, cond) - network(x, T, first))
  assert moved[:, 0].max() > 1e-4 and moved[:, 2].max() > 1e-6  # along time it is seen


ONE_LEVEL = dict(multipliers=(1,), attends=(0,))


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(groups=3), "width=8 is not divisible by groups=3"),
    (dict(attends=(2,)), "must be levels, 0 to 1"),
    (dict(attends=(), text=4), "no level attends to it"),
    (dict(remat="some"), "no remat policy 'some'"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    spec(**changes)


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes,shape,levels",
  [
    (FULL, (3, 8, 6, 3), 3),
    (dict(temporal=False, text=6, blocks=2), (3, 7, 6, 3), 1),
    (dict(text=6), (1, 8, 6, 3), 1),
    (dict(**ONE_LEVEL, **LOW), (4, 4, 4, 3), 1),
  ],
)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels):
  check_flops(spec(**changes), shape, levels, length=5)


ROLES = {
  "conv_in/within/kernel": "input", "conv_in/temporal/kernel": "hidden",
  "conv_out/within/kernel": "output", "conv_out/within/bias": "vector",
  "time/hidden/kernel": "hidden", "scalars/fps/out/kernel": "hidden",
  "scalars/fps/hidden/kernel": "input", "norm_out/scale": "vector",
  "down/0/blocks/0/conv1/within/kernel": "hidden", "down/0/blocks/0/time/kernel": "hidden",
  "down/1/blocks/0/conv1/temporal/kernel": "hidden", "down/0/sampler/within/kernel": "hidden",
  "down/1/blocks/0/temporal_attention/heads/out/kernel": "hidden",
  "down/1/blocks/0/cross/heads/k/kernel": "input",
}  # fmt: skip


def test_mup_tells_roles_apart_and_leaves_the_identity_along_time():
  shapes = lambda m: {path: leaf.shape for path, leaf in by_path(m.abstract_params).items()}
  wide = VIDEO.wider
  rules = mup.rules(wide.info, shapes(wide), shapes(wide.wider), 2.0)
  assert {path: rules[path].role for path in ROLES} == ROLES
  identities = [r for path, r in rules.items() if path.endswith("temporal/kernel")]
  assert identities and {r.init for r in identities} == {1.0}
  assert rules["down/1/blocks/0/conv1/temporal/kernel"].rate == 0.5


@pytest.mark.parametrize(
  "size,changes,parameters",
  [
    ("decoder", dict(text=768, scalars=("fps",)), 2_781_912_097),
    ("decoder", dict(text=768, scalars=("fps",), known="zeros"), 2_781_930_529),
    ("sr_l", LOW, 843_948_193),
    ("sr_h", dict(temporal=False, scalars=("low_noise",), volumes=dict(low=3)), 253_804_995),
  ],
)
def test_parameters_of_the_stages_are_those_that_the_experiment_states(size, changes, parameters):
  cfg = make_a_video.Config(**make_a_video.SIZES[size], **make_a_video.PUBLISHED, **changes)
  leaves = jax.tree.leaves(ModelSpec("make_a_video", cfg).abstract_params)
  assert sum(leaf.size for leaf in leaves) == parameters
