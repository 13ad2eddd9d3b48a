import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_videocrafter as golden
from tests.helpers import check_flops, draw, filled, relative_error
from videojax.models import videocrafter
from videojax.models.cond import Cond, drop
from videojax.runs import weights
from videojax.scaling import mup
from videojax.sharding import by_path
from videojax.specs import ModelSpec

BASE = dict(
  width=16, multipliers=(1,), blocks=1, head_dim=8, in_heads=2, groups=8, temporal_conv=True,
  channels=4, dtype="float32",
)  # fmt: skip


def spec(**changes):
  return ModelSpec("videocrafter", videocrafter.Config(**{**BASE, **changes}))


# --- the reference ----------------------------------------------------------------------------

STORED = np.load(Path(golden.__file__).with_name("videocrafter.npz"))
REFERENCE = {
  variant: spec(**sizes, in_heads=golden.IN_HEADS, channels=golden.CHANNELS, text=golden.TEXT)
  for variant, sizes in golden.SIZES.items()
}


def from_reference(model, value):
  """Our parameters, each from `value(name in the reference)`."""
  names = videocrafter.names(model.config)

  def one(path, leaf):
    name, layout = names["/".join(key.key for key in path)]
    return jnp.asarray(weights.from_torch(value(name), layout, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(one, model.abstract_params)


def by_name(variant, what):
  return dict(zip(STORED[f"{variant} names"].tolist(), STORED[f"{variant} {what}"].tolist()))


def reference_shapes(variant):
  shapes = by_name(variant, "shapes")
  return {name: tuple(int(n) for n in s.strip("(),").split(",")) for name, s in shapes.items()}


def reference_params(variant):
  shapes = reference_shapes(variant)
  return from_reference(REFERENCE[variant], lambda name: golden.weight(name, shapes[name]))


def inputs(variant, shape):
  config = REFERENCE[variant].config
  v = {name: jnp.asarray(x, jnp.float32) for name, x in golden.inputs(variant, shape).items()}
  whole = lambda tokens: jnp.ones(tokens.shape[:2], bool)
  cond = Cond(text=v["text"], text_mask=whole(v["text"]))
  if config.scalars:
    cond = dataclasses.replace(cond, scalars={"fps": v["fps"]})
  if config.image_tokens:
    cond = dataclasses.replace(cond, image=v["image"], image_mask=whole(v["image"]))
  return v["x"], v["t"][:, None], cond, v["probe"]


@pytest.mark.parametrize("variant", REFERENCE)
def test_every_tensor_of_the_reference_is_one_of_ours_in_its_shape(variant):
  model = REFERENCE[variant]
  names, ours = videocrafter.names(model.config), by_path(model.abstract_params)
  there = lambda path, layout: weights.there(layout, ours[path].shape, model.info[path].inputs)
  shapes = {name: there(path, layout) for path, (name, layout) in names.items()}
  assert len(shapes) == len(names) and shapes == reference_shapes(variant)


CASES = [("512-v2", "clip"), ("512-v1", "clip"), *((variant, "image") for variant in golden.IMAGES)]


@pytest.mark.parametrize("variant,case", CASES)
def test_output_is_the_references(variant, case):
  x, t, cond, _ = inputs(variant, {"clip": golden.CLIPS, "image": golden.IMAGES}[case][variant])
  out = jax.jit(lambda p: REFERENCE[variant].network(p)(x, t, cond))(reference_params(variant))
  assert relative_error(out, STORED[f"{variant} {case}"]) < 1e-5


SLOW = [pytest.param(variant, marks=pytest.mark.slow) for variant in ("512-v2", "512-v1")]


@pytest.mark.parametrize("variant", ["1024-v1", "i2v-512", *SLOW])
def test_output_and_every_gradient_are_the_references(variant):
  model = REFERENCE[variant]
  x, t, cond, probe = inputs(variant, golden.CLIPS[variant])

  def loss(p):
    out = model.network(p)(x, t, cond)
    return (out * probe).sum(), out

  grads, out = jax.jit(jax.grad(loss, has_aux=True))(reference_params(variant))
  assert relative_error(out, STORED[f"{variant} clip"]) < 1e-5
  shapes, names = reference_shapes(variant), videocrafter.names(model.config)
  probes = by_path(from_reference(model, lambda n: golden.draw(f"{n} probe", shapes[n])))
  norms, along = by_name(variant, "norms"), by_name(variant, "along")
  for path, g in by_path(grads).items():
    g, (name, _) = np.asarray(g, np.float64), names[path]
    assert abs(np.linalg.norm(g) - norms[name]) < 1e-4 * norms[name], path
    assert abs(np.vdot(g, probes[path]) - along[name]) < 1e-3 * norms[name], path


PARAMETERS = {
  "512-v2": 1_413_284_420, "1024-v1": 1_146_536_516,
  "512-v1": 1_144_485_956, "i2v-512": 1_438_843_460,
}  # fmt: skip


@pytest.mark.parametrize("variant", PARAMETERS)
def test_published_sizes_have_the_published_parameters_by_the_published_names(variant):
  sizes = {**videocrafter.SIZES[variant], **videocrafter.PUBLISHED}
  model = ModelSpec("videocrafter", videocrafter.Config(**sizes))
  count = sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params))
  assert count == PARAMETERS[variant] == STORED[f"{variant} parameters"]
  names = [name for name, _ in videocrafter.names(model.config).values()]
  assert golden.digest(names) == STORED[f"{variant} digest"]


# --- behaviour --------------------------------------------------------------------------------

SHAPE = (2, 3, 4, 6, 4)
T = jnp.array([[300.0], [700.0]])
ATTENDS = dict(multipliers=(1, 1))  # one level has no attention but in the middle
ALL = dict(text=16, image_tokens=3, scalars=("fps",), reach=2)


def clip(shape=SHAPE, seed=0):
  return draw(shape, seed)


def conditions(b=2, length=5, **changes):
  cond = Cond(
    text=clip((b, length, 16), 1), text_mask=jnp.arange(b * length).reshape(b, length) % 7 > 0,
    image=clip((b, 3, 16), 2), image_mask=jnp.ones((b, 3), bool),
    scalars={"fps": jnp.linspace(8.0, 28.0, b)},
  )  # fmt: skip
  return dataclasses.replace(cond, **changes)


@pytest.fixture(scope="module")
def network():
  """With every condition, compiled once."""
  model = spec(**ALL)
  run = jax.jit(model.network(filled(model.abstract_params, 0.3)))
  return lambda cond, x=None, t=T: run(clip() if x is None else x, t, cond)


def test_the_output_and_every_branch_start_at_zero():
  params = by_path(spec(**ALL).init(jax.random.key(0)))
  ends = re.compile("conv_out/kernel|.*/(resnet/conv2|temp_conv/conv4|proj_out)/kernel")
  zero = {path for path in params if path.endswith("kernel") and not np.any(params[path])}
  assert zero == {path for path in params if ends.fullmatch(path)} and len(zero) > 10


def test_one_level_per_frame_equals_one_level_per_clip_where_they_agree(network):
  same = network(conditions(), t=jnp.broadcast_to(T, (2, 3)))
  np.testing.assert_allclose(same, network(conditions()), atol=1e-4)


CHANGED = {
  "text": dict(text=clip((2, 5, 16), 7)),
  "image": dict(image=clip((2, 3, 16), 7)),
  "scalars": dict(scalars={"fps": jnp.array([12.0, 3.0])}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_dropped_condition_says_nothing_and_a_given_one_something(network, name):
  cond, other = conditions(), conditions(**CHANGED[name])
  dropped, also = (network(drop(c, (name,))) for c in (cond, other))
  np.testing.assert_array_equal(dropped, also)
  assert jnp.abs(network(cond) - network(other)).max() > 1e-3
  assert jnp.abs(network(cond) - dropped).max() > 1e-3


def test_a_dropped_frame_rate_leaves_the_noise_levels_embedding_alone():
  model = spec(scalars=("fps",))
  params = filled(model.abstract_params)
  plain = {name: p for name, p in params.items() if name != "scalars"}
  nothing = Cond(scalars={"fps": jnp.full(2, jnp.nan)})
  dropped = jax.jit(model.network(params).embed)(T, nothing)
  np.testing.assert_array_equal(dropped, jax.jit(spec().network(plain).embed)(T, Cond()))


def test_text_and_image_tokens_do_not_trade_places(network):
  """The same three tokens say something else as an image than as text."""
  cond = conditions()
  swapped = conditions(image=cond.text[:, :3], text=cond.text.at[:, :3].set(cond.image))
  assert jnp.abs(network(cond) - network(swapped)).max() > 1e-3


def test_frames_are_told_apart_by_distance_only_where_it_has_a_reach():
  """Without distances attention along time does not see the order of frames."""

  def moved(reach):
    model = spec(temporal_conv=False, reach=reach)
    network = jax.jit(model.network(filled(model.abstract_params, 0.3)))
    order, x = jnp.array([2, 0, 1]), clip()
    return jnp.abs(network(x, T, Cond())[:, order] - network(x[:, order], T, Cond())).max()

  assert moved(None) < 1e-4 and moved(2) > 1e-3


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(width=36), "width=36 is not divisible by groups=8"),
    (dict(multipliers=(2, 4)), "1 first"),
    (dict(image_tokens=4), "so set text"),
    (dict(reach=0), "reach=0"),
    (dict(remat="some"), "no remat policy 'some'"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    videocrafter.Config(**{**BASE, "head_dim": 4, **changes})


def test_another_number_of_image_tokens_is_named():
  model, cond = spec(**ALL), conditions(image=clip((2, 4, 16)), image_mask=jnp.ones((2, 4), bool))
  with pytest.raises(ValueError, match="4 image tokens, not 3"):
    jax.eval_shape(lambda p: model.network(p)(clip(), T, cond), model.abstract_params)


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes,shape,levels",
  [
    (dict(**ALL, **ATTENDS), (3, 8, 12, 4), 1),
    (dict(text=16, known="last", blocks=2, **ATTENDS), (4, 7, 6, 4), 4),
    (dict(**ALL, temporal_conv=False), (1, 4, 4, 4), 1),
  ],
)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels):
  check_flops(spec(**changes), shape, levels, length=5)


ROLES = {
  "conv_in/kernel": "input", "conv_out/kernel": "output", "conv_out/bias": "vector",
  "time/hidden/kernel": "hidden", "scalars/fps/out/kernel": "hidden",
  "transformer_in/block/again/q/kernel": "hidden",
  "transformer_in/block/again/key_distance": "vector",
  "down/0/blocks/0/resnet/conv1/kernel": "hidden", "down/0/sampler/kernel": "hidden",
  "down/0/blocks/0/temp_conv/conv4/kernel": "hidden",
  "down/0/blocks/0/attention/block/cross/k_image/kernel": "input",
  "down/0/blocks/0/attention/block/cross/q/kernel": "hidden",
  "down/0/blocks/0/attention/block/ff/up/kernel": "hidden",
}  # fmt: skip


def test_mup_tells_inputs_outputs_and_hidden_parameters_apart():
  shapes = lambda m: {path: leaf.shape for path, leaf in by_path(m.abstract_params).items()}
  wide = spec(**ALL, **ATTENDS).wider
  rules = mup.rules(wide.info, shapes(wide), shapes(wide.wider), 2.0)
  assert {path: rules[path].role for path in ROLES} == ROLES
