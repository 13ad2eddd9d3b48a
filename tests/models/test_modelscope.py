import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_modelscope as golden
from tests.helpers import check_flops, filled, relative_error
from videojax.models import modelscope, unet_layers
from videojax.models.cond import Cond, drop
from videojax.runs import weights
from videojax.scaling import mup
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings
from videojax.specs import ModelSpec

BASE = dict(golden.SIZES, channels=golden.CHANNELS, dtype="float32")


def spec(**changes):
  return ModelSpec("modelscope", modelscope.Config(**{**BASE, **changes}))


# --- the reference ----------------------------------------------------------------------------

STORED = np.load(Path(golden.__file__).with_name("modelscope.npz"))
REFERENCE = spec(text=golden.TEXT)


def from_reference(model, value):
  """Our parameters, each from `value(name in the reference)`."""
  names = modelscope.names(model.config)

  def one(path, leaf):
    name, layout = names["/".join(key.key for key in path)]
    return jnp.asarray(weights.from_torch(value(name), layout, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(one, model.abstract_params)


def reference_shapes():
  shapes = (tuple(int(n) for n in s.strip("(),").split(",")) for s in STORED["shapes"])
  return dict(zip(STORED["names"].tolist(), shapes))


def reference_params():
  shapes = reference_shapes()
  return from_reference(REFERENCE, lambda name: golden.weight(name, shapes[name]))


def inputs(case):
  v = {name: jnp.asarray(x, jnp.float32) for name, x in golden.inputs(case).items()}
  mask = jnp.ones(v["text"].shape[:2], bool)
  return v["x"], v["t"][:, None], Cond(text=v["text"], text_mask=mask), v["probe"]


def test_every_tensor_of_the_reference_is_one_of_ours():
  names = [name for name, _ in modelscope.names(REFERENCE.config).values()]
  assert len(set(names)) == len(names) and set(names) == set(reference_shapes())


@pytest.mark.parametrize("case", golden.CASES)
def test_output_is_the_references(case):
  x, t, cond, _ = inputs(case)
  out = jax.jit(lambda p: REFERENCE.network(p)(x, t, cond))(reference_params())
  assert relative_error(out, STORED[f"{case} output"]) < 1e-5


def test_every_gradient_is_the_references():
  x, t, cond, probe = inputs("clip")
  loss = lambda p: (REFERENCE.network(p)(x, t, cond) * probe).sum()
  grads = jax.jit(jax.grad(loss))(reference_params())
  shapes = reference_shapes()
  directions = from_reference(REFERENCE, lambda n: golden.draw(f"{n} probe", shapes[n]))
  names = {path: name for path, (name, _) in modelscope.names(REFERENCE.config).items()}
  norm = dict(zip(STORED["names"].tolist(), STORED["norms"]))
  along = dict(zip(STORED["names"].tolist(), STORED["along"]))
  probes = by_path(directions)
  for path, g in by_path(grads).items():
    g, name = np.asarray(g, np.float64), names[path]
    assert abs(np.linalg.norm(g) - norm[name]) < 1e-4 * norm[name], path
    assert abs(np.vdot(g, probes[path]) - along[name]) < 1e-3 * norm[name], path


# --- behaviour --------------------------------------------------------------------------------

SHAPE = (2, 3, 4, 6, 4)
T = jnp.array([[300.0], [700.0]])
ONE_LEVEL = dict(multipliers=(1,))  # compiles in half the time


def clip(shape=SHAPE, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_output_is_float32_like_the_input_in_bfloat16_too():
  model = spec(dtype="bfloat16", **ONE_LEVEL)
  out = jax.eval_shape(lambda p: model.network(p)(clip(), T, Cond()), model.abstract_params)
  assert out.shape == SHAPE and out.dtype == jnp.float32


def test_temporal_convolutions_start_as_the_identity():
  conv = unet_layers.TemporalConv(16, 4, rngs=unet_layers.nnx.Rngs(0), dtype=jnp.float32)
  x = clip((1, 3, 4, 4, 16))
  np.testing.assert_array_equal(conv(x), x)


def test_remat_changes_neither_output_nor_gradients():
  params = filled(spec(**ONE_LEVEL).abstract_params)

  def run(remat):
    network = spec(remat=remat, **ONE_LEVEL).network
    loss = lambda p: jnp.square(network(p)(clip(), T, Cond())).mean()
    return jax.jit(jax.value_and_grad(loss))(params)

  assert relative_error(run("full"), run("none")) < 2e-5


def test_one_level_per_frame_equals_one_level_per_clip_where_they_agree():
  model = spec(**ONE_LEVEL)
  network = jax.jit(model.network(filled(model.abstract_params)))
  same = network(clip(), jnp.broadcast_to(T, (2, 3)), Cond())
  np.testing.assert_allclose(same, network(clip(), T, Cond()), atol=1e-5)


def test_dropped_text_says_nothing_and_given_text_something():
  x, t, cond, _ = inputs("clip")
  network = jax.jit(REFERENCE.network(reference_params()))
  other = dataclasses.replace(cond, text=jnp.flip(cond.text, 1) + 1)
  dropped, also = (network(x, t, drop(c, ("text",))) for c in (cond, other))
  np.testing.assert_array_equal(dropped, also)
  assert not np.allclose(network(x, t, cond), dropped, atol=1e-2)


def test_known_frames_move_the_output_and_unknown_ones_do_not():
  model = spec(known="last", **ONE_LEVEL)
  network = jax.jit(model.network(filled(model.abstract_params, 0.3)))
  mask = jnp.zeros((2, 3, 1, 1, 1)).at[:, :1].set(1.0)
  run = lambda known: network(clip(), T, Cond(known_mask=mask, known=known))
  known = clip(seed=5)
  np.testing.assert_array_equal(run(known), run(known.at[:, 1:].set(9.0)))
  assert jnp.abs(run(known) - run(known.at[:, 0].add(1.0))).max() > 1e-4


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(width=36), "width=36 is not divisible by groups=8"),
    (dict(multipliers=()), "one per level"),
    (dict(remat="some"), "no remat policy 'some'"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    modelscope.Config(**{**BASE, **changes, "head_dim": 4})


# --- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes,shape,levels",
  [
    (dict(text=16), (3, 8, 12, 4), 1),
    (dict(known="last", blocks=2), (4, 7, 6, 4), 4),
    (dict(text=16, multipliers=(1,)), (1, 4, 4, 4), 1),
  ],
)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels):
  check_flops(spec(**changes), shape, levels, length=5)


ROLES = {
  "conv_in/kernel": "input", "conv_out/kernel": "output", "conv_out/bias": "vector",
  "time/hidden/kernel": "hidden", "norm_out/scale": "vector",
  "transformer_in/proj_in/kernel": "hidden", "transformer_in/block/again/q/kernel": "hidden",
  "down/0/blocks/0/resnet/conv1/kernel": "hidden", "down/0/blocks/0/resnet/time/kernel": "hidden",
  "down/0/blocks/0/temp_conv/conv4/kernel": "hidden", "down/0/sampler/kernel": "hidden",
  "down/0/blocks/0/attention/block/cross/k/kernel": "input",
  "down/0/blocks/0/attention/block/cross/q/kernel": "hidden",
  "down/0/blocks/0/attention/block/ff/up/kernel": "hidden",
}  # fmt: skip


def test_mup_tells_inputs_outputs_and_hidden_parameters_apart():
  shapes = lambda m: {path: leaf.shape for path, leaf in by_path(m.abstract_params).items()}
  wide = REFERENCE.wider
  rules = mup.rules(wide.info, shapes(wide), shapes(wide.wider), 2.0)
  assert {path: rules[path].role for path in ROLES} == ROLES
  # PyTorch's starts already fall as 1 / sqrt(fan in); the head's has to fall faster.
  assert rules["down/0/sampler/kernel"][1:] == pytest.approx((1.0, 0.5))
  assert rules["conv_out/kernel"][1:] == pytest.approx((2**-0.5, 0.5))
  assert rules["conv_in/kernel"][1:] == pytest.approx((1.0, 1.0))


# --- meshes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "frames,sizes",
  [
    (4, dict(data=2, fsdp=2, seq=2)),
    pytest.param(3, dict(data=1, fsdp=2, seq=2, tensor=2), marks=pytest.mark.slow),
  ],
)
def test_mesh_does_not_show_in_loss_and_gradients(frames, sizes):
  """3 frames do not divide by seq=2."""
  model, b = REFERENCE, 4
  params = filled(model.abstract_params)
  x, t = clip((b, frames, 8, 4, 4)), jnp.array([[3.0], [250.0], [600.0], [999.0]])
  cond = Cond(text=clip((b, 5, 16), 1), text_mask=jnp.arange(20).reshape(b, 5) % 7 > 0)
  loss = lambda p, x, t, cond: jnp.square(model.network(p)(x, t, cond) - 1).mean()
  step = jax.jit(jax.value_and_grad(loss))
  want = step(params, x, t, cond)
  mesh = make_mesh(MeshConfig(**sizes))
  with jax.set_mesh(mesh):
    shardings = param_shardings(params, {p: i.axes for p, i in model.info.items()}, mesh)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    got = step(jax.device_put(params, shardings), *jax.device_put((x, t, cond), rows))
    got = jax.device_get(got)
  assert relative_error(got, jax.device_get(want)) < 1e-5


def test_the_published_config_names_diffusers_class_and_its_channels():
  sizes = dict(modelscope.SIZES["tiny"], channels=3, known="last")
  config = modelscope.published_config(modelscope.Config(**sizes))
  assert config["_class_name"] == "UNet3DConditionModel" and config["in_channels"] == 10
