"""Levels against scipy's distributions, weights against the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from videojax.diffusion import denoiser as dn
from videojax.diffusion import objective as ob
from videojax.diffusion import process as pr

NAMES = tuple(pr.PROCESSES)
SHAPE = (4, 2, 3, 3, 2)
T = jnp.array([[0.1], [0.4], [0.7], [0.9]])
KEYS = ob.row_keys(jax.random.key(0), 7, jnp.arange(4))
MANY = ob.row_keys(jax.random.key(1), 0, jnp.arange(4000))


def clips(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(x0, noise, output)."""
  keys = jax.random.split(jax.random.key(seed), 3)
  x0, noise, output = (jax.random.normal(key, SHAPE) for key in keys)
  return 0.5 * x0, noise, output


def says(output):
  return lambda x, t, cond, *, key: output


def shrink(x, t, cond, *, key):
  return 0.5 * x


def float64_levels(process, t=T):
  alpha, sigma = process.alpha(t), process.sigma(t)
  return np.asarray(alpha, np.float64)[:, 0], np.asarray(sigma, np.float64)[:, 0]


# ---- noise levels ----


def logit_normal(mean, std):
  return lambda t: scipy.stats.norm(mean, std).cdf(np.log(t / (1 - t)))


@pytest.mark.parametrize(
  "times, name, shift, cdf",
  [
    ("uniform", "cosine", 1.0, lambda t: t),
    ("logit_normal", "linear", 1.0, logit_normal(0.5, 1.2)),
    ("log_normal", "rectified_flow", 1.0, logit_normal(0.5, 1.2)),
    ("logit_normal", "rectified_flow", 3.0, logit_normal(0.5 + np.log(3), 1.2)),
    ("uniform", "rectified_flow", 3.0, lambda t: t / (3 - 2 * t)),
  ],
)
def test_times_follow_their_law(times, name, shift, cdf):
  objective = ob.Objective(times=times, mean=0.5, std=1.2, shift=shift)
  t = objective.sample_times(pr.make_process(name), MANY, frames=2)
  assert t.shape == (4000, 1)
  assert scipy.stats.kstest(np.asarray(t)[:, 0], cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_log_normal_times_have_edms_law_of_noise_under_every_process(name, shift):
  process = pr.make_process(name)
  objective = ob.Objective(times="log_normal", mean=-1.2, std=1.2, shift=shift)
  log_sigma = -0.5 * process.log_snr(objective.sample_times(process, MANY, frames=2))
  law = scipy.stats.norm(-1.2 + np.log(shift), 1.2)
  assert scipy.stats.kstest(np.asarray(log_sigma)[:, 0], law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", ["linear", "edm"])
def test_shifted_uniform_times_do_not_pile_up_at_the_noisiest_level(name):
  t = ob.Objective(times="uniform", shift=3.0).sample_times(pr.make_process(name), MANY, frames=2)
  assert float((t >= 1).mean()) < 0.002 and float(t.max()) > 0.999


def test_a_rows_key_is_folded_with_step_and_row():
  key = jax.random.key(3)
  expected = jax.random.fold_in(jax.random.fold_in(key, 7), 5)
  keys = ob.row_keys(key, 7, jnp.array([2, 5]))
  assert jax.random.key_data(keys[1]).tolist() == jax.random.key_data(expected).tolist()


def test_old_style_keys_draw_the_same_as_typed_ones():
  old = jax.vmap(jax.random.key_data)(KEYS)
  draw = lambda keys: ob.Objective().sample_times(pr.RectifiedFlow(), keys, frames=2)
  np.testing.assert_array_equal(draw(old), draw(KEYS))


def test_levels_per_frame_are_one_per_temporal_patch():
  objective = ob.Objective(per_frame=True)
  t = np.asarray(objective.sample_times(pr.RectifiedFlow(), KEYS, frames=6, frames_per_level=2))
  assert t.shape == (4, 6)
  np.testing.assert_array_equal(t[:, ::2], t[:, 1::2])
  assert len(np.unique(t)) == 12
  ob.check_levels(t, 2)
  with pytest.raises(ValueError, match="temporal patch of 3"):
    ob.check_levels(t, 3)
  with pytest.raises(ValueError, match="whole number"):
    ob.check_levels(t, 4)
  with pytest.raises(ValueError, match="frames=6"):
    objective.sample_times(pr.RectifiedFlow(), KEYS, frames=6, frames_per_level=4)


def test_traced_levels_pass_the_check():
  jax.jit(lambda t: ob.check_levels(t, 2) or t)(jnp.arange(4.0)[None])


# ---- weights ----


@pytest.mark.parametrize("name", ["rectified_flow", "edm"])
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
@pytest.mark.parametrize("space", dn.PREDICTIONS)
def test_the_loss_is_the_squared_error_in_its_space(name, prediction, space):
  process, (x0, noise, output), sd = pr.make_process(name), clips(), 0.5
  denoiser = dn.Denoiser(prediction, process, sigma_data=sd)
  # Small enough a floor is no floor at these levels.
  objective = ob.Objective(space=space, min_sigma=1e-3)
  loss, _ = objective.loss_at(denoiser, says(output), x0, noise, T, None)
  out = denoiser(says(output), pr.add_noise(process, x0, noise, T), T, None)
  asked = dn.Denoiser(space, process, sigma_data=sd)
  error = asked.target(out.x0, out.noise, T) - asked.target(x0, noise, T)
  # In the noise's space under Edm's high noise the explicit difference cancels in float32.
  np.testing.assert_allclose(loss, (error**2).mean((1, 2, 3, 4)), rtol=2e-3)


@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_in_its_own_space_the_output_is_compared_as_it_is(prediction):
  (x0, noise, output), process = clips(), pr.RectifiedFlow()
  t = jnp.array([[0.0], [1e-6], [1 - 1e-6], [1.0]])
  denoiser = dn.Denoiser(prediction, process, sigma_data=0.5)
  loss, _ = ob.Objective(space=prediction).loss_at(denoiser, says(output), x0, noise, t, None)
  expected = ((output - denoiser.target(x0, noise, t)) ** 2).mean((1, 2, 3, 4))
  np.testing.assert_array_equal(loss, expected)


def test_velocity_weighs_predicted_data_by_one_over_t_squared_down_to_the_floor():
  t = jnp.array([0.0, 0.05, 0.3, 1.0])
  weight = ob.Objective(space="velocity", min_sigma=0.1).weight("data", 1 - t, t, 1.0)
  np.testing.assert_allclose(weight, 1 / np.maximum(t, 0.1) ** 2, rtol=1e-6)


def test_edm_weighs_predicted_data_as_karras_table_1():
  sigma, sd = jnp.array([0.15, 0.5, 3.0, 80.0]), 0.5
  weight = ob.Objective(space="edm").weight("data", jnp.ones(4), sigma, sd)
  np.testing.assert_allclose(weight, (sigma**2 + sd**2) / (sigma * sd) ** 2, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_min_snr_weights_are_the_published_ones(name):
  alpha, sigma = float64_levels(pr.make_process(name))
  snr = alpha**2 / sigma**2
  expected = {  # Hang et al. 2023
    "data": np.minimum(snr, 5),
    "noise": np.minimum(snr, 5) / snr,
    "v": np.minimum(snr, 5) / (snr + 1),
  }
  assert (snr > 5).any() and (snr < 5).any()
  for prediction, weights in expected.items():
    objective = ob.Objective(weighting="min_snr", gamma=5.0)
    got = objective.weight(prediction, jnp.asarray(alpha), jnp.asarray(sigma), 1.0)
    np.testing.assert_allclose(got, weights, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_min_snr_is_one_weight_of_the_data_error_whatever_is_predicted(name, prediction):
  process, (x0, noise, output) = pr.make_process(name), clips()
  denoiser = dn.Denoiser(prediction, process, sigma_data=0.5)
  loss, aux = ob.Objective(weighting="min_snr").loss_at(denoiser, says(output), x0, noise, T, None)
  alpha, sigma = float64_levels(process)
  expected = np.minimum(alpha**2 / sigma**2, 5) * aux["x0_mse"]
  np.testing.assert_allclose(loss, expected, rtol=2e-3)


@pytest.mark.parametrize("weighting", ob.WEIGHTINGS)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_the_loss_is_finite_at_both_ends(prediction, weighting):
  (x0, noise, output) = clips()
  t = jnp.array([[0.0], [1e-6], [1 - 1e-6], [1.0]])
  denoiser = dn.Denoiser(prediction, pr.Cosine(), sigma_data=0.5)
  for space in ("data", "noise", "edm"):
    objective = ob.Objective(space=space, weighting=weighting)
    loss, aux = objective.loss_at(denoiser, says(output), x0, noise, t, None)
    assert np.isfinite(loss).all() and np.isfinite(aux["x0_mse"]).all()


# ---- the loss of a clip ----


def test_a_clips_loss_does_not_depend_on_its_batch():
  x0, _, _ = clips()
  denoiser = dn.Denoiser("velocity", pr.RectifiedFlow(), sigma_data=0.5)
  known = jnp.zeros((4, 2, 1, 1, 1), bool).at[1:, 0].set(True)
  some = jnp.array([3, 1, 1, 0])  # other neighbours, other places
  draw = jax.jit(
    lambda x0, keys, known: ob.Objective(per_frame=True).loss(
      denoiser, shrink, x0, keys, None, known=known
    )
  )
  loss = lambda rows: draw(x0[rows], KEYS[rows], known[rows])
  whole, aux = loss(jnp.arange(4))
  part, part_aux = loss(some)
  np.testing.assert_allclose(part, whole[some], rtol=1e-6)
  np.testing.assert_array_equal(part_aux["t"], aux["t"][some])


def test_the_network_gets_keys_of_its_own_row_by_row():
  x0, _, _ = clips()
  got = []

  def network(x, t, cond, *, key):
    got.append(key)
    return x

  @jax.jit
  def keys_seen(x0, keys):
    ob.Objective().loss(dn.Denoiser("v", pr.RectifiedFlow()), network, x0, keys, None)
    return jax.random.key_data(got[0])

  seen = {tuple(k) for k in np.asarray(keys_seen(x0, KEYS)).tolist()}
  assert len(seen) == 4
  assert not seen & {tuple(k) for k in np.asarray(jax.random.key_data(KEYS)).tolist()}


@pytest.mark.parametrize("shape", [(4, 2, 1, 1, 1), (4, 2, 3, 3, 1)])
def test_known_positions_do_not_enter_and_the_mean_is_over_the_others(shape):
  x0, noise, output = clips()
  known = jax.random.bernoulli(jax.random.key(5), 0.4, shape)
  known = known.at[:, 0].set(True).at[:, 1, 0, 0].set(False)
  denoiser, objective = dn.Denoiser("velocity", pr.RectifiedFlow()), ob.Objective()
  loss, aux = objective.loss_at(denoiser, says(output), x0, noise, T, None, known=known)
  wild = jnp.where(known, 1e3, output)
  again, _ = objective.loss_at(denoiser, says(wild), x0, noise, T, None, known=known)
  np.testing.assert_array_equal(loss, again)
  unknown = ~np.broadcast_to(known, SHAPE)
  error = np.asarray(output - (noise - x0)) ** 2
  expected = [error[row][unknown[row]].mean() for row in range(4)]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(aux["x0_mse"], np.array(expected) * T[:, 0] ** 2, rtol=1e-4)


def test_a_clip_that_is_all_known_costs_nothing():
  x0, noise, output = clips()
  known = jnp.zeros((4, 2, 1, 1, 1), bool).at[2].set(True)
  denoiser = dn.Denoiser("velocity", pr.RectifiedFlow())
  loss, _ = ob.Objective().loss_at(denoiser, says(output), x0, noise, T, None, known=known)
  assert loss[2] == 0 and (loss[jnp.array([0, 1, 3])] > 0).all()


def test_a_network_that_says_nothing_loses_the_variance_of_the_target():
  x0 = jnp.broadcast_to(0.5, (4000, 2, 1, 1, 1))
  silent = lambda x, t, cond, *, key: jnp.zeros_like(x)
  denoiser = dn.Denoiser("velocity", pr.RectifiedFlow())
  loss, _ = ob.Objective().loss(denoiser, silent, x0, MANY, None)
  # E (n - x)^2 = 1 + 1/4; (n - x)^2 has variance 2 + 4 / 4
  np.testing.assert_allclose(loss.mean(), 1.25, atol=4 * np.sqrt(3 / x0.size))


@pytest.mark.parametrize(
  "field",
  [{"times": "normal"}, {"space": "x0"}, {"weighting": "snr"}, {"std": 0.0}, {"gamma": -1.0}],
)
def test_an_impossible_objective_names_the_field(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    ob.Objective(**field)
