"""Functions with gradients of their own: value and gradients are those of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from videojax.models import layers
from videojax.models.elementwise import RMSNorm, gelu_tanh, layer_norm


def agree(own, plain, *arguments, tolerance=2e-6):
  """Both are the same function, with the same gradients along a random direction."""
  value = plain(*arguments)
  g = jax.random.normal(jax.random.key(9), value.shape)
  numbers = tuple(range(len(arguments)))
  loss = lambda f: lambda *x: (g * f(*x)).sum()
  got, want = (jax.jit(jax.grad(loss(f), numbers))(*arguments) for f in (own, plain))
  for a, b in zip((own(*arguments), *got), (value, *want), strict=True):
    assert np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b)


def draw(*shapes):
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [jax.random.normal(k, shape) + 0.3 for k, shape in zip(keys, shapes)]


def with_params(module, **values):
  """The module with these parameters."""
  graphdef, params = nnx.split(module)
  nnx.replace_by_pure_dict(params, values)
  return nnx.merge(graphdef, params)


def plain_norm(x, shift=None, scale=None):
  y = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return y if shift is None else y * (1 + scale[:, :, None]) + shift[:, :, None]


@pytest.mark.parametrize("levels", [1, 3], ids=["clip", "frame"])
def test_modulated_layer_norm_has_the_formulas_gradients(levels):
  x, shift, scale = draw((2, 3, 5, 16), (2, levels, 16), (2, levels, 16))
  agree(layer_norm, plain_norm, x, shift, scale)


def test_layer_norm_alone_has_the_formulas_gradients():
  agree(layer_norm, plain_norm, *draw((4, 7, 16)))


@pytest.mark.parametrize("turned", [True, False])
def test_rms_norm_and_rotation_have_the_gradients_of_one_after_the_other(turned):
  norm = RMSNorm(12, rngs=nnx.Rngs(0))
  angles = layers.rope_angles((2, 3, 2), 12, 1e2) if turned else None

  def own(x, scale):
    return with_params(norm, scale=scale)(x, angles)

  def plain(x, scale):
    y = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale.reshape(1, 1, 1, 1, -1)
    return layers.rotate(y, angles) if turned else y

  agree(own, plain, *draw((2, 2, 6, 3, 12), (12,)))


def test_gelu_has_the_tanhs_gradient():
  agree(gelu_tanh, lambda x: jax.nn.gelu(x, approximate=True), *draw((4, 64)))


def test_parts_of_a_product_are_the_product_cut():
  linear = layers.Linear(
    (8,), (3, 2, 5), ("embed", None, "heads", "head_dim"), rngs=nnx.Rngs(0), dtype=jnp.float32
  )
  of = lambda kernel, bias: with_params(linear, kernel=kernel, bias=bias)
  agree(
    lambda x, *params: jnp.stack(of(*params).parts(x), 2), lambda x, *params: of(*params)(x),
    *draw((2, 4, 8), (8, 3, 2, 5), (3, 2, 5)),
  )  # fmt: skip


def test_what_a_narrow_policy_keeps_is_not_wider_than_what_it_is_of():
  """Of an mlp: the second product, not the first."""
  up, down = draw((8, 32), (32, 8))
  policy = layers.remat_policy("attention_narrow")
  mlp = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ up) @ down), policy=policy)
  (x,) = draw((4, 8))
  residuals = jax.vjp(mlp, x)[1]
  shapes = [leaf.shape for leaf in jax.tree.leaves(residuals)]
  assert shapes.count((4, 8)) == 2 and (4, 32) not in shapes
