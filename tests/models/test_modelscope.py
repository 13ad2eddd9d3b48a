import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_modelscope as golden
from tests.helpers import check_flops, draw, relative_error
from videojax.models import modelscope, unet_layers
from videojax.models.cond import Cond, drop
from videojax.runs import weights
from videojax.scaling import mup
from videojax.sharding import by_path
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


@pytest.mark.slow
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


def test_temporal_convolutions_start_as_the_identity():
  conv = unet_layers.TemporalConv(16, 4, rngs=unet_layers.nnx.Rngs(0), dtype=jnp.float32)
  x = draw((1, 3, 4, 4, 16))
  np.testing.assert_array_equal(conv(x), x)


def test_dropped_text_says_nothing_and_given_text_something():
  x, t, cond, _ = inputs("clip")
  network = jax.jit(REFERENCE.network(reference_params()))
  other = dataclasses.replace(cond, text=jnp.flip(cond.text, 1) + 1)
  dropped, also = (network(x, t, drop(c, ("text",))) for c in (cond, other))
  np.testing.assert_array_equal(dropped, also)
  assert not np.allclose(network(x, t, cond), dropped, atol=1e-2)


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


# --- published weights -----------------------------------------------------------------------


def test_the_published_config_names_diffusers_class_and_its_channels():
  sizes = dict(modelscope.SIZES["tiny"], channels=3, known="last")
  config = modelscope.published_config(modelscope.Config(**sizes))
  assert config["_class_name"] == "UNet3DConditionModel" and config["in_channels"] == 10
