"""Every kernel and context parallelism computes the same attention, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import plain_attention
from videojax.models.attention import attention, choose_context, choose_kernel, compiling_for
from videojax.sharding import MeshConfig, make_mesh


def closed_form(q, k, v, lengths=None, segments=None):
  """The definition in float64, head by head."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  logits = np.einsum("...ske,...lke->...ksl", q, k) / np.sqrt(q.shape[-1])
  allowed = np.ones(logits.shape, bool)
  if lengths is not None:
    allowed &= np.arange(k.shape[-3]) < np.asarray(lengths)[..., None, None, None]
  if segments is not None:
    allowed &= np.asarray(segments)[..., None, :, None] == np.asarray(segments)[..., None, None, :]
  p = np.where(allowed, np.exp(logits - logits.max(-1, keepdims=True)), 0)
  return np.einsum("...ksl,...lke->...ske", p / p.sum(-1, keepdims=True), v)


def draw(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def value_and_grads(q, k, v, *args, mesh=None, **how):
  """The output, and gradients of a random projection of it."""
  (weights,) = draw(q.shape, seed=1)
  out = lambda q, k, v: attention(q, k, v, *args, **how)
  loss = lambda *x: (weights * out(*x)).sum()
  run = jax.jit(lambda *x: (out(*x), jax.grad(loss, (0, 1, 2))(*x)))
  if mesh is None:
    return run(q, k, v)
  with jax.set_mesh(mesh):
    return jax.device_get(run(q, k, v))


def agree(got, want, tolerance=2e-5):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    assert np.linalg.norm(np.asarray(a) - b) <= tolerance * np.linalg.norm(b)


COUNTED = {
  "plain": (None, None),
  "masked": (np.array([9, 24]), None),
  "packed": (None, np.repeat([[0, 0, 1], [3, 4, 4]], 8, axis=1)),
  "both": (np.array([19, 22]), np.repeat([[0, 0, 1], [3, 4, 4]], 8, axis=1)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_xla_is_the_definition(name):
  q, k, v = draw(*[(2, 24, 2, 16)] * 3)
  lengths, segments = COUNTED[name]
  lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
  segments = None if segments is None else jnp.asarray(segments, jnp.int32)
  got = attention(q, k, v, lengths, segments=segments, axes=("batch", "sequence"))
  np.testing.assert_allclose(got, closed_form(q, k, v, lengths, segments), atol=2e-6)


@pytest.mark.parametrize("keys", [24, 10])
@pytest.mark.parametrize("dtype,tolerance", [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
def test_xla_has_the_gradients_of_anothers_attention(keys, dtype, tolerance):
  q, k, v, g = draw((2, 24, 2, 16), *[(2, keys, 2, 16)] * 2, (2, 24, 2, 16))
  lengths = jnp.array([keys, 7], jnp.int32)
  ids = jnp.where(jnp.arange(keys)[None] < lengths[:, None], 0, -1)
  ours = lambda *x: attention(*x, lengths, axes=("batch", None), keys=None, kernel="xla")
  other = lambda *x: plain_attention(*x, None, ids)
  wanted, got = (
    jax.vjp(f, *(x.astype(kind) for x in (q, k, v)))[1](g.astype(kind))
    for f, kind in ((other, jnp.float32), (ours, dtype))
  )
  assert all(x.dtype == dtype for x in got)
  agree(jax.tree.map(lambda x: x.astype(jnp.float32), got), wanted, tolerance)


def test_a_query_that_may_attend_to_nothing_gets_zeros_and_moves_nothing():
  q, k, v = draw(*[(2, 6, 2, 8)] * 3)
  lengths = jnp.array([4, 0], jnp.int32)
  run = lambda *x: attention(*x, lengths, axes=("batch", None), kernel="xla")
  out, back = jax.vjp(run, q, k, v)
  for x in (out, *back(jnp.ones_like(out))):
    assert np.all(x[1] == 0) and np.any(x[0] != 0) and np.isfinite(x).all()


@pytest.mark.parametrize("context,heads", [("ulysses", 4), ("ring", 3)])
@pytest.mark.parametrize("name", COUNTED)
def test_context_parallelism_does_not_show(context, heads, name):
  q, k, v = draw(*[(2, 24, heads, 16)] * 3)
  lengths, segments = COUNTED[name]
  lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
  segments = None if segments is None else jnp.asarray(segments, jnp.int32)
  how = dict(axes=("batch", "sequence"), segments=segments)
  mesh = make_mesh(MeshConfig(data=2, seq=4))
  assert choose_context("auto", heads=heads, ways=4) == context
  agree(
    value_and_grads(q, k, v, lengths, mesh=mesh, **how), value_and_grads(q, k, v, lengths, **how)
  )


@pytest.mark.parametrize(
  "mesh,heads",
  [(MeshConfig(seq=8), 8), (MeshConfig(seq=2, tensor=4), 8), (MeshConfig(seq=2, tensor=2), 2)],
  ids=str,
)
def test_ring_asked_for_where_ulysses_would_do_and_heads_over_tensor(mesh, heads):
  q, k, v = draw(*[(2, 16, heads, 8)] * 3)
  mesh = make_mesh(mesh)
  want = value_and_grads(q, k, v, axes=("batch", "sequence"))
  for context in ("auto", "ring"):
    agree(value_and_grads(q, k, v, mesh=mesh, axes=("batch", "sequence"), context=context), want)


def test_leading_axes_that_are_both_sharded_are_not_merged():
  q, k, v = draw(*[(2, 4, 6, 2, 8)] * 3)  # [B,t,N,K,E]: attention within a frame
  axes = ("batch", "frames", "sequence")
  mesh = make_mesh(MeshConfig(data=2, seq=4))
  agree(value_and_grads(q, k, v, mesh=mesh, axes=axes), value_and_grads(q, k, v, axes=axes))
  with jax.set_mesh(mesh):
    text = jax.jit(lambda q, k, v: attention(q, k, v, axes=axes)).lower(q, k, v).compile().as_text()
  assert "all-gather" not in text and "all-to-all" not in text  # every frame is at home


def test_text_is_whole_on_every_device_that_has_a_piece_of_the_queries():
  q, k, v = draw((2, 16, 4, 8), (2, 5, 4, 8), (2, 5, 4, 8))
  lengths = jnp.asarray([5, 2], jnp.int32)
  how = dict(axes=("batch", "sequence"), keys=None)
  mesh = make_mesh(MeshConfig(data=2, seq=2, tensor=2))
  agree(
    value_and_grads(q, k, v, lengths, mesh=mesh, **how), value_and_grads(q, k, v, lengths, **how)
  )


@pytest.mark.parametrize("name", ["plain", "masked", "packed"])
@pytest.mark.parametrize("tokens", [24, 640])
def test_splash_interpreted_equals_xla(name, tokens):
  """The TPU's kernel, forward and backward, on lengths that are no multiple of its blocks."""
  q, k, v = draw(*[(2, tokens, 2, 64)] * 3)
  lengths, segments = COUNTED[name]
  spread = lambda x: jnp.asarray(np.repeat(x, -(-tokens // 24), -1)[:, :tokens])
  lengths = None if lengths is None else jnp.asarray(lengths * tokens // 24, jnp.int32)
  segments = None if segments is None else spread(segments).astype(jnp.int32)
  how = dict(axes=("batch", "sequence"), segments=segments)
  want = value_and_grads(q, k, v, lengths, kernel="xla", **how)
  agree(value_and_grads(q, k, v, lengths, kernel="splash", **how), want)


def test_splash_takes_text_of_another_length_and_runs_under_ulysses():
  q, k, v = draw((2, 48, 2, 32), (2, 5, 2, 32), (2, 5, 2, 32))
  lengths = jnp.asarray([5, 2], jnp.int32)
  how = dict(axes=("batch", "sequence"), keys=None)
  want = value_and_grads(q, k, v, lengths, kernel="xla", **how)
  agree(value_and_grads(q, k, v, lengths, kernel="splash", **how), want)
  k, v = draw(*[(2, 48, 2, 32)] * 2, seed=5)
  how = dict(axes=("batch", "sequence"))
  mesh = make_mesh(MeshConfig(data=2, seq=2), jax.devices()[:4])
  agree(
    value_and_grads(q, k, v, mesh=mesh, kernel="splash", **how),
    value_and_grads(q, k, v, kernel="xla", **how),
  )


def test_the_kernel_follows_the_platform_and_a_misfit_is_named():
  how = dict(dtype="bfloat16", head_dim=64)
  assert choose_kernel("auto", **how) == "xla"
  with compiling_for("tpu"):
    assert choose_kernel("auto", **how) == "splash"
  with compiling_for("gpu"):
    assert choose_kernel("auto", **how) == "cudnn"
    assert choose_kernel("auto", dtype="float32", head_dim=64) == "xla"
    with pytest.raises(ValueError, match="TPU"):
      choose_kernel("splash", **how)
    with pytest.raises(ValueError, match="no segments"):
      attention(
        *(x.astype(jnp.bfloat16) for x in draw(*[(1, 8, 1, 64)] * 3)),
        segments=jnp.zeros((1, 8), jnp.int32), axes=("batch", None),
      )  # fmt: skip
  with pytest.raises(ValueError, match="needs a GPU"):
    choose_kernel("cudnn", **how)
  with pytest.raises(ValueError, match="divisible by mesh.seq=4"):
    choose_context("ulysses", heads=6, ways=4)
