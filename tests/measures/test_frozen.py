import jax
import jax.numpy as jnp
import numpy as np
import pytest

from videojax.diffusion.process import make_process
from videojax.measures import frozen

SHAPE = (6, 3, 4, 4, 2)
UNKNOWN = np.array([0.0, 1.0, 1.0]).reshape(3, 1, 1, 1)


def clips(n=6, seed=0):
  return np.random.default_rng(seed).standard_normal((n, *SHAPE[1:])).astype(np.float32)


def errors_of(denoise, process="rectified_flow", x=None, ids=None):
  x = clips() if x is None else x
  ids = np.arange(len(x), dtype=np.uint32) if ids is None else ids
  unknown = jnp.asarray(UNKNOWN, jnp.float32)[None]
  return np.asarray(
    frozen.level_errors(denoise, make_process(process), jnp.asarray(x), jnp.asarray(ids), unknown)
  )


def test_levels_are_the_stated_log_snrs():
  assert frozen.LOG_SNR[0] == pytest.approx(2 * np.log((31 / 32) / (1 / 32)))
  np.testing.assert_allclose(frozen.LOG_SNR, -frozen.LOG_SNR[::-1])


def test_zero_model_scores_the_mean_square_of_unknown_frames():
  x = clips()
  got = errors_of(lambda x_t, t: jnp.zeros_like(x_t), x=x)
  want = np.square(x[:, 1:]).mean((1, 2, 3, 4))
  np.testing.assert_allclose(got, np.repeat(want[:, None], 16, 1), rtol=1e-5)
  np.testing.assert_allclose(frozen.zero_errors(x, UNKNOWN), got, rtol=1e-5)


def test_model_that_returns_its_input_scores_the_noise():
  # x_t / alpha = x0 + (sigma / alpha) n under every process: the error is sigma^2 / alpha^2.
  x = clips(64)
  for name in ("rectified_flow", "edm"):
    process = make_process(name)
    denoise = lambda x_t, t, p=process: x_t / p.alpha(t)[:, :, None, None, None]
    got = errors_of(denoise, name, x=x).mean(0)
    np.testing.assert_allclose(got, np.exp(-frozen.LOG_SNR), rtol=0.05)


def test_every_process_is_queried_at_the_same_signal_to_noise():
  seen = {}
  for name in ("rectified_flow", "cosine", "linear", "edm"):
    process = make_process(name)
    denoise = lambda x_t, t, p=process: x_t / p.alpha(t)[:, :, None, None, None]
    seen[name] = errors_of(denoise, name)
  for name, errors in seen.items():
    np.testing.assert_allclose(errors, seen["rectified_flow"], rtol=2e-3, err_msg=name)


def test_noise_is_keyed_by_example_and_level_whatever_the_batch():
  x, ids = clips(), np.array([9, 4, 7, 1, 2, 3], np.uint32)
  denoise = lambda x_t, t: 0.3 * x_t
  whole = errors_of(denoise, x=x, ids=ids)
  part = errors_of(denoise, x=x[2:4], ids=ids[2:4])
  np.testing.assert_allclose(part, whole[2:4], rtol=1e-5)
  assert np.abs(errors_of(denoise, x=x, ids=ids + 100) - whole).max() > 1e-3


def test_frozen_noise_is_these_numbers_for_ever():
  """A pinned value: changing it changes every published frozen loss."""
  noise = frozen.frozen_noise(jnp.array([5], jnp.uint32), (2,), jnp.int32(3))
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(20240229), 5), 3)
  np.testing.assert_array_equal(noise[0], jax.random.normal(key, (2,)))
  np.testing.assert_allclose(np.asarray(noise[0]), PINNED, rtol=1e-6)


PINNED = [0.517219066619873, -0.5152553915977478]


def test_streamed_statistics_equal_those_of_all_clips_at_once():
  x = clips(10, 3) * 2 + 1
  reference = frozen.fit_reference([x[:4], x[4:7], x[7:]], UNKNOWN)
  np.testing.assert_allclose(reference.mean, x.mean(0), atol=1e-6)
  np.testing.assert_allclose(reference.variance, x.var(0), rtol=1e-5)
  channels = x[:, 1:].reshape(-1, 2)
  assert reference.total == pytest.approx(channels.var(0).mean(), rel=1e-5)


def test_wiener_value_of_gaussian_pixels_is_the_closed_form():
  # Pixels N(m, s^2): the expected error is s^2 sigma^2 / (alpha^2 s^2 + sigma^2).
  x = 0.5 * clips(4000, 1) + 0.2
  reference = frozen.fit_reference([x], UNKNOWN)
  got = frozen.wiener_errors(x, reference, UNKNOWN).mean(0)
  ratio = np.exp(-frozen.LOG_SNR)
  np.testing.assert_allclose(got, 0.25 * ratio / (0.25 + ratio), rtol=0.02)


def test_wiener_is_the_expectation_over_noise_of_the_affine_denoiser():
  x = 0.5 * clips(200, 2)
  reference = frozen.fit_reference([x], UNKNOWN)
  mean, variance = (jnp.asarray(v, jnp.float32) for v in reference[:2])

  def affine(x_t, t):
    alpha, sigma = 1 - t[0, 0], t[0, 0]
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return mean[None] + gain[None] * (x_t - alpha * mean[None])

  want = frozen.wiener_errors(x, reference, UNKNOWN).mean(0)
  np.testing.assert_allclose(errors_of(affine, x=x).mean(0), want, rtol=0.03)


def test_summary_divides_by_the_variance_and_states_its_parts():
  errors = np.tile(np.linspace(0.1, 1.6, 16), (5, 1)) * np.arange(1, 6)[:, None]
  s = frozen.summarize(errors, 2.0)
  assert s.mean == pytest.approx(errors.mean() / 2)
  assert s.stderr == pytest.approx(errors.mean(1).std(ddof=1) / 2 / np.sqrt(5))
  assert s.dynamics == pytest.approx((errors[:, -1].mean() - errors[:, 0].mean()) / 2)
  assert s.velocity == pytest.approx((errors / np.maximum(frozen.T_LEVELS, 0.1) ** 2).mean())
  assert len(s.by_level) == 16 and len(s.per_example) == 5


def test_data_without_variance_is_refused():
  with pytest.raises(ValueError, match="no variance"):
    frozen.fit_reference([np.zeros(SHAPE)], UNKNOWN)
