"""Processes against their papers' formulas, in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from videojax.diffusion import process as pr

NAMES = tuple(pr.PROCESSES)
# The levels of the frozen loss: log-SNR_i = 2 ln((1 - t_i) / t_i), t_i = (i + .5) / 16.
FROZEN_T = (np.arange(16) + 0.5) / 16
FROZEN_LOG_SNR = 2 * np.log((1 - FROZEN_T) / FROZEN_T)


def published(name: str, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(alpha, sigma) as printed in the papers, default settings."""
  if name == "rectified_flow":
    return 1 - t, t
  if name == "cosine":
    return np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
  if name == "linear":  # Song et al. 2021, Eq. 33
    log_alpha = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
    return np.exp(log_alpha), np.sqrt(1 - np.exp(2 * log_alpha))
  if name == "scaled_linear":  # Rombach et al. 2022; log-linear between its thousand steps
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    snr = np.exp(np.interp(1000 * t, np.arange(1000), np.log(kept / (1 - kept))))
    return np.sqrt(snr / (1 + snr)), np.sqrt(1 / (1 + snr))
  low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)  # Karras et al. 2022, Eq. 5
  return np.ones_like(t), (high + (1 - t) * (low - high)) ** 7


@pytest.mark.parametrize("name", NAMES)
def test_alpha_and_sigma_are_the_published_ones(name):
  process, t = pr.make_process(name), np.linspace(0.001, 0.999, 33)
  alpha, sigma = published(name, t)
  np.testing.assert_allclose(process.alpha(t), alpha, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(process.sigma(t), sigma, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_is_twice_the_log_of_alpha_over_sigma_and_falls(name):
  process, t = pr.make_process(name), np.linspace(0.001, 0.999, 33)
  alpha, sigma = published(name, t)
  log_snr = np.asarray(process.log_snr(t))
  np.testing.assert_allclose(log_snr, 2 * np.log(alpha / sigma), rtol=1e-5, atol=3e-5)
  assert (np.diff(log_snr) < 0).all()
  ends = np.asarray(process.log_snr(np.linspace(0, 1, 33)))[[0, -1]]
  assert ends[0] >= log_snr[0] and ends[1] <= log_snr[-1]  # infinite perhaps, never nan


@pytest.mark.parametrize("name", NAMES)
def test_t_from_log_snr_inverts_log_snr(name):
  process = pr.make_process(name)
  t = np.linspace(0.01, 0.99, 33).astype(np.float32)
  np.testing.assert_allclose(process.t_from_log_snr(process.log_snr(t)), t, atol=2e-6)
  log_snr = np.linspace(-8.5, 8.5, 33)
  t = np.asarray(process.t_from_log_snr(log_snr))
  back = np.asarray(process.log_snr(t))
  rounding = np.abs(process.log_snr(np.nextafter(t, 1)) - back)  # t has no digits beyond this
  assert (np.abs(back - log_snr) < 1e-5 + rounding).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_frozen_levels_lie_inside_every_process_but_the_noisiest_of_scaled_linear(name):
  t = np.asarray(pr.make_process(name).t_from_log_snr(FROZEN_LOG_SNR))
  assert (np.diff(t) > 0).all() and t[0] > 0 and t[-2] < 1
  assert (t[-1] < 1) == (name != "scaled_linear")


def test_the_frozen_levels_are_rectified_flows_own_t():
  t = pr.RectifiedFlow().t_from_log_snr(FROZEN_LOG_SNR)
  np.testing.assert_allclose(t, FROZEN_T, atol=1e-6)


@pytest.mark.parametrize("name", ["rectified_flow", "cosine", "linear"])
def test_t_0_is_exactly_the_data(name):
  process = pr.make_process(name)
  assert (float(process.alpha(0.0)), float(process.sigma(0.0))) == (1.0, 0.0)


@pytest.mark.parametrize("name", ["rectified_flow", "cosine"])
def test_t_1_is_exactly_the_noise(name):
  process = pr.make_process(name)
  assert (float(process.alpha(1.0)), float(process.sigma(1.0))) == (0.0, 1.0)


@pytest.mark.parametrize("name", ["cosine", "linear", "scaled_linear"])
def test_variance_is_preserved(name):
  process, t = pr.make_process(name), np.linspace(0, 1, 33)
  np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, atol=5e-7)


@pytest.mark.parametrize("data_scale", [1.0, 0.7, 0.3])
def test_scaled_data_is_noised_as_videocrafter_does(data_scale):
  process, k = pr.make_process("scaled_linear", data_scale=data_scale), np.arange(1000)
  kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
  scale = np.concatenate([np.linspace(1, data_scale, 400), np.full(600, data_scale)])
  alpha, sigma = scale * np.sqrt(kept), np.sqrt(1 - kept)  # q_sample
  np.testing.assert_allclose(process.alpha(k / 1000), alpha, rtol=1e-4)
  np.testing.assert_allclose(process.sigma(k / 1000), sigma, rtol=1e-4)
  np.testing.assert_allclose(process.log_snr(k / 1000), 2 * np.log(alpha / sigma), atol=2e-4)


@pytest.mark.parametrize("data_scale", [0.7, 0.3])
def test_log_snr_of_scaled_data_is_that_of_alpha_and_sigma_falls_and_inverts(data_scale):
  process = pr.make_process("scaled_linear", data_scale=data_scale)
  t = np.linspace(0, 1, 777).astype(np.float32)  # between the steps too
  log_snr = np.asarray(process.log_snr(t))
  ratio = np.asarray(process.alpha(t), np.float64) / np.asarray(process.sigma(t))
  np.testing.assert_allclose(log_snr, 2 * np.log(ratio), atol=1e-5)
  assert (np.diff(log_snr) < 0).all()
  np.testing.assert_allclose(process.t_from_log_snr(log_snr), t, atol=2e-6)
  shifted = pr.shift_times(process, t[50:500], 2.0)
  np.testing.assert_allclose(process.log_snr(shifted), log_snr[50:500] - 2 * np.log(2), atol=1e-4)


def test_linear_is_the_continuous_form_of_ddpms_thousand_betas():
  alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # Ho et al. 2020
  steps = np.array([100, 300, 500, 800, 1000])
  log_alpha_bar = 2 * np.log(pr.Linear().alpha(steps / 1000))
  np.testing.assert_allclose(log_alpha_bar, np.log(alpha_bar[steps - 1]), rtol=0.01)


def test_edm_at_18_even_times_is_the_published_grid():
  sigma = pr.Edm().sigma(np.linspace(1, 0, 18))
  first = [80.0, 57.586, 40.785, 28.374, 19.352, 12.910, 8.401, 5.315, 3.257]
  np.testing.assert_allclose(sigma[:9], first, rtol=1e-3)
  np.testing.assert_allclose(sigma[-1], 0.002, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_noised_data_has_the_mean_and_variance_of_the_process(name):
  process, mean, std = pr.make_process(name), 0.7, 0.5
  keys = jax.random.split(jax.random.key(0))
  x = mean + std * jax.random.normal(keys[0], (3, 4, 32, 32, 3))
  t = jnp.array([[0.1], [0.5], [0.9]])
  x_t = np.asarray(pr.add_noise(process, x, jax.random.normal(keys[1], x.shape), t))
  alpha, sigma = published(name, np.asarray(t)[:, 0])
  variance, count = (alpha * std) ** 2 + sigma**2, x[0].size
  z_mean = (x_t.mean((1, 2, 3, 4)) - alpha * mean) / np.sqrt(variance / count)
  z_variance = (x_t.var((1, 2, 3, 4)) / variance - 1) / np.sqrt(2 / count)
  assert (np.abs(z_mean) < 4).all() and (np.abs(z_variance) < 4).all()


def test_each_frame_gets_its_own_level():
  x, noise = jnp.ones((2, 3, 1, 1, 1)), jnp.zeros((2, 3, 1, 1, 1))
  t = jnp.array([[0.0, 0.25, 1.0], [0.5, 0.5, 0.5]])
  x_t = pr.add_noise(pr.RectifiedFlow(), x, noise, t)
  np.testing.assert_array_equal(x_t[..., 0, 0, 0], 1 - t)


@pytest.mark.parametrize("shape", [(2,), (2, 2), (1, 3), (2, 3, 1)])
def test_times_of_another_shape_raise(shape):
  with pytest.raises(Exception, match=r"\[B, 1\]|type"):
    pr.per_frame(jnp.zeros(shape), jnp.zeros((2, 3, 4, 4, 1)))


def test_resolution_shift_is_the_root_of_the_ratio_of_positions():
  assert pr.resolution_shift(4096, 1024) == 2.0
  assert pr.resolution_shift(64, 64) == 1.0
  with pytest.raises(ValueError, match="n0=0"):
    pr.resolution_shift(64, 0)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_shift_of_rectified_flow_is_the_published_map(shift):
  t = np.linspace(0, 1, 33)
  expected = shift * t / (1 + (shift - 1) * t)  # Esser et al. 2024, Eq. 23
  np.testing.assert_allclose(pr.shift_times(pr.RectifiedFlow(), t, shift), expected, atol=3e-7)


@pytest.mark.parametrize("name", NAMES)
def test_shift_lowers_the_log_snr_by_twice_its_log(name):
  process, t = pr.make_process(name), np.linspace(0.05, 0.7, 33)
  shifted = pr.shift_times(process, t, 2.0)
  np.testing.assert_allclose(
    process.log_snr(shifted), process.log_snr(t) - 2 * np.log(2), atol=1e-4
  )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [0.3, 5.0])
def test_shifted_times_stay_in_range_and_in_order(name, shift):
  t = np.asarray(pr.shift_times(pr.make_process(name), np.linspace(0, 1, 33), shift))
  assert t.min() >= 0 and t.max() <= 1 and (np.diff(t) >= 0).all()


def test_an_unknown_process_or_field_is_named_with_the_choices():
  with pytest.raises(ValueError, match="did you mean 'cosine'.*rectified_flow"):
    pr.make_process("cosin")
  with pytest.raises(ValueError, match="beta_max"):
    pr.make_process("linear", beta_maximum=1.0)
  with pytest.raises(ValueError, match="available: none"):
    pr.make_process("cosine", rho=7.0)


@pytest.mark.parametrize(
  "name, fields",
  [
    ("linear", {"beta_min": 3.0, "beta_max": 1.0}),
    ("scaled_linear", {"beta_min": 0.1}),
    ("scaled_linear", {"data_scale": 1.1}),
    ("edm", {"sigma_min": 0.0}),
    ("edm", {"rho": 0.0}),
  ],
)
def test_impossible_processes_raise(name, fields):
  with pytest.raises(ValueError, match=next(iter(fields))):
    pr.make_process(name, **fields)
