import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_quantize as golden
from tests.helpers import draw, relative_error
from videojax.models.quantize import FSQ, LFQ, codebook_use

STORED = np.load(Path(golden.__file__).with_name("quantize.npz"))


def quantizer(case):
  if case == "lfq":
    return LFQ(golden.BITS, temperature=golden.TEMPERATURE)
  return FSQ(golden.LEVELS[case])


@pytest.mark.parametrize("case", [*golden.LEVELS, "lfq"])
def test_codes_indices_loss_and_gradients_are_the_references(case):
  z, probe = (jnp.asarray(x, jnp.float32) for x in golden.inputs(case))

  def total(z):
    codes, indices, loss = quantizer(case).quantize(z)
    return (codes * probe).sum() + loss, (codes, indices, loss)

  (codes, indices, loss), gradient = jax.jit(lambda z: jax.grad(total, has_aux=True)(z)[::-1])(z)
  assert relative_error(codes, STORED[f"{case} codes"]) < 1e-6
  assert relative_error(gradient, STORED[f"{case} gradient"]) < 1e-5
  want = STORED[f"{case} indices"]
  if case == "lfq":  # there the first bit counts most
    want = sum((want >> i & 1) << golden.BITS - 1 - i for i in range(golden.BITS))
    assert abs(loss - STORED["lfq loss"]) < 1e-5
  np.testing.assert_array_equal(indices, want)


@pytest.mark.parametrize("q", [FSQ((4, 3, 2)), FSQ((5,)), FSQ((8, 8, 8, 5, 5, 5)), LFQ(7), LFQ(1)])
def test_indices_and_codes_are_a_bijection_over_the_whole_codebook(q):
  everything = jnp.arange(q.number)
  codes = q.codes_of(everything)
  np.testing.assert_array_equal(q.indices_of(codes), everything)
  assert len(np.unique(codes, axis=0)) == q.number and jnp.abs(codes).max() == 1


def test_the_first_number_of_a_code_counts_least():
  levels = (4, 3, 2)
  values = [(np.arange(n) - n // 2) / (n // 2) for n in levels]
  want = [code[::-1] for code in itertools.product(*values[::-1])]
  np.testing.assert_allclose(FSQ(levels).codes_of(jnp.arange(24)), want)
  np.testing.assert_array_equal(LFQ(3).codes_of(jnp.array([1, 4])), [[1, -1, -1], [-1, -1, 1]])


@pytest.mark.parametrize("level", [2, 3, 4, 5, 8])
def test_fsq_reaches_each_level_and_no_other_and_keeps_the_order(level):
  z = jnp.linspace(-9, 9, 2001)[:, None]
  q = FSQ((level,))
  codes, indices, loss = q.quantize(z)
  assert loss == 0 and (jnp.diff(codes[:, 0]) >= 0).all()
  np.testing.assert_array_equal(np.unique(indices), np.arange(level))
  np.testing.assert_array_equal(q.codes_of(indices), codes)  # exact, not but for rounding
  half = (level - 1) * 1.001 / 2
  low, high = q.bound(z)[0, 0], q.bound(z)[-1, 0]
  assert high - low == pytest.approx(2 * half, rel=1e-4)
  assert q.bound(jnp.zeros((1, 1))) == pytest.approx(0, abs=1e-6)


def test_gradients_pass_through_the_rounding_as_if_it_were_not_there():
  z, probe = draw((7, 3), 1), draw((7, 3), 2)
  q = FSQ((8, 5, 4))
  plain = lambda z: (q.bound(z) / jnp.array([[4.0, 2.0, 2.0]]) * probe).sum()
  got = jax.grad(lambda z: (q.quantize(z)[0] * probe).sum())(z)
  np.testing.assert_allclose(got, jax.grad(plain)(z), rtol=1e-6)
  lfq = LFQ(3, entropy=0.0, commitment=0.0)
  np.testing.assert_array_equal(jax.grad(lambda z: (lfq.quantize(z)[0] * probe).sum())(z), probe)


# --- the loss of LFQ ----------------------------------------------------------------------------


def plain_entropy_loss(q, z):
  """By its definition: a softmax over all codes."""
  codes = np.array(list(itertools.product([-1, 1], repeat=q.bits)), np.float64)
  logits = -np.square(np.asarray(z, np.float64)[:, None] - codes[None]).sum(-1) / q.temperature
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  entropy = lambda p: -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
  return entropy(p).mean() - entropy(p.mean(0))


@pytest.mark.parametrize("bits, temperature", [(1, 1.0), (3, 1.0), (4, 0.3), (5, 0.01)])
def test_entropy_loss_is_that_of_a_softmax_over_all_codes(bits, temperature):
  q, z = LFQ(bits, temperature=temperature), 0.3 * draw((50, bits))
  assert q.entropy_loss(z) == pytest.approx(plain_entropy_loss(q, z), abs=1e-5)


def test_entropy_loss_is_least_for_confident_and_evenly_used_codes():
  q = LFQ(4)
  loss = lambda codes: float(q.entropy_loss(codes))
  everything = q.codes_of(jnp.arange(16))
  assert loss(everything) == pytest.approx(-4 * np.log(2), abs=1e-5)  # the least there is
  assert loss(0.0 * everything) == pytest.approx(0, abs=1e-5)  # even, but not confident
  assert loss(everything[:1]) == pytest.approx(0, abs=1e-5)  # confident, but one code
  assert loss(everything[:4]) == pytest.approx(-2 * np.log(2), abs=1e-5)
  gradient = jax.grad(q.entropy_loss)(jnp.concatenate([everything, 1e-4 * everything]))
  assert jnp.isfinite(gradient).all()
  step = 1e-3 * draw((16, 4))
  assert q.entropy_loss(step - 0.01 * jax.grad(q.entropy_loss)(step)) < q.entropy_loss(step)


def test_commitment_pulls_numbers_to_their_codes():
  q = LFQ(2, entropy=0.0)
  z = jnp.array([[0.5, -2.0]])
  loss, gradient = jax.value_and_grad(lambda z: q.quantize(z)[2])(z)
  assert loss == pytest.approx(0.25 * (0.25 + 1) / 2)
  np.testing.assert_allclose(gradient, 0.25 * (z - jnp.array([[1.0, -1.0]])))


def test_eighteen_bits_fit_into_memory():
  q, z = LFQ(18), jax.ShapeDtypeStruct((4096, 18), jnp.float32)
  memory = jax.jit(jax.grad(q.entropy_loss)).lower(z).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 0.05 * 4 * 4096 * q.number


def test_use_of_the_codebook_is_a_share_and_a_perplexity():
  share, perplexity = codebook_use(jnp.array([[0, 0], [3, 3]]), 8)
  assert share == 0.25 and perplexity == pytest.approx(2)
  share, perplexity = codebook_use(jnp.arange(64000).reshape(10, -1), 64000)
  assert share == 1 and perplexity == pytest.approx(64000, rel=1e-4)


def test_codebooks_that_cannot_be_are_refused_in_words():
  with pytest.raises(ValueError, match="levels=\\(8, 1\\) must be two or more"):
    FSQ((8, 1))
  with pytest.raises(ValueError, match="more than indices count"):
    FSQ((1024,) * 4)
  with pytest.raises(ValueError, match="bits=25 must be <= 24"):
    LFQ(25)
