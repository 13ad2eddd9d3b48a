import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import tiny
from videojax import optim
from videojax.optim import OptimConfig


def rates(total, **kw):
  schedule = optim.schedule(OptimConfig(learning_rate=2.0, **kw), total)
  return np.array([float(optim.rate_at(schedule, s)) for s in range(total + 1)])


def test_warmup_is_linear_and_reaches_the_peak():
  got = rates(10, warmup_steps=4)
  np.testing.assert_allclose(got[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
  assert (got[4:] == 2.0).all()


def test_wsd_is_constant_then_linear_to_zero():
  got = rates(10, schedule="wsd", decay_fraction=0.4)
  np.testing.assert_allclose(got, [2, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5, 0], atol=1e-6)


def test_cosine_is_half_way_in_the_middle_and_zero_at_the_end():
  got = rates(10, schedule="cosine")
  np.testing.assert_allclose(got[[0, 5, 10]], [2.0, 1.0, 0.0], atol=1e-6)


def test_wsd_before_its_decay_equals_a_constant_schedule_of_any_length():
  a, b = rates(100, schedule="wsd"), rates(50, schedule="wsd")
  np.testing.assert_array_equal(a[:40], b[:40])
  assert OptimConfig(1.0, schedule="wsd").decay_start(50) == 40
  assert OptimConfig(1.0).decay_start(50) == 50
  assert OptimConfig(1.0, schedule="cosine").decay_start(50) == 0


@pytest.mark.parametrize("sigma_rel,gamma", [(0.05, 16.97), (0.10, 6.94)])
def test_ema_exponents_are_the_published_ones(sigma_rel, gamma):
  # Karras et al. 2024, arXiv:2312.02696, section 3.1: sigma_rel .05 and .10 -> 16.97 and 6.94.
  assert optim.ema_gamma(sigma_rel) == pytest.approx(gamma, abs=0.005)


def test_power_ema_weighs_steps_by_t_to_the_gamma():
  gamma, values = 3.0, np.random.default_rng(0).standard_normal(50)
  average = 0.0
  for step, value in enumerate(values):
    beta = float(optim.ema_beta(jnp.int32(step), gamma))
    average = value + beta * (average - value)
  # Eq. 4's recursion is the discrete form of weights proportional to t^gamma.
  weights = np.array([float(t) for t in range(1, 51)])
  betas = (1 - 1 / weights) ** (gamma + 1)
  exact = sum((1 - betas[i]) * np.prod(betas[i + 1 :]) * values[i] for i in range(50))
  assert average == pytest.approx(exact, abs=1e-5)
  profile = np.array([(1 - betas[i]) * np.prod(betas[i + 1 :]) for i in range(50)])
  want = weights**gamma / (weights**gamma).sum()
  assert np.abs(profile - want).sum() < 0.1


def test_adamw_update_equals_the_formula():
  e = tiny(optim__weight_decay=0.1, optim__clip=0.0, optim__learning_rate=0.01)
  tx = optim.make_optimizer(e.optim, e.model.info)
  params = {"head": {"kernel": jnp.array([[2.0]]), "bias": jnp.array([2.0])}}
  grads = {"head": {"kernel": jnp.array([[0.5]]), "bias": jnp.array([0.5])}}
  updates, _ = tx.update(grads, tx.init(params), params)
  # First step: m / sqrt(v) = sign(g); weight decay on the matrix alone; the rate comes later.
  assert float(updates["head"]["kernel"][0, 0]) == pytest.approx(-(1 + 0.1 * 2), rel=1e-4)
  assert float(updates["head"]["bias"][0]) == pytest.approx(-1, rel=1e-4)


def test_muon_orthogonalises_every_matrix_of_a_stacked_kernel():
  e = tiny(optim__name="muon", optim__clip=0.0)
  rng = np.random.default_rng(0)
  params = {"blocks": {"attention": {"qkv": {"kernel": rng.standard_normal((2, 32, 3, 2, 16))}}}}
  params = optax.tree.cast(params, jnp.float32)
  tx = optim.make_optimizer(e.optim, e.model.info)
  grads = optax.tree.map(lambda p: p * 1e-3, params) if hasattr(optax.tree, "map") else params
  updates, _ = tx.update(grads, tx.init(params), params)
  update = np.asarray(updates["blocks"]["attention"]["qkv"]["kernel"])
  for layer in range(2):
    for which in range(3):
      singular = np.linalg.svd(update[layer, :, which].reshape(32, 32), compute_uv=False)
      assert singular.max() / np.median(singular) < 2.0
