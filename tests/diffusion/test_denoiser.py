"""The conversion table against each paper's own formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from videojax.diffusion import denoiser as dn
from videojax.diffusion import process as pr

NAMES = tuple(pr.PROCESSES)
SHAPE = (4, 2, 16, 16, 2)
T = jnp.array([[0.1], [0.4], [0.7], [0.9]])
ENDS = jnp.array([[0.0], [1e-6], [1 - 1e-6], [1.0]])


def clips(seed: int = 0) -> tuple[jax.Array, jax.Array]:
  keys = jax.random.split(jax.random.key(seed))
  return 0.5 * jax.random.normal(keys[0], SHAPE), jax.random.normal(keys[1], SHAPE)


def says(output):
  """A network that says this whatever it sees."""
  return lambda x, t, cond, *, key: output


def spaces(x0, n, alpha, sigma, sigma_data):
  """Every prediction from (x0, noise), each as its own paper writes it."""
  ratio = sigma / alpha  # EDM: x_t / alpha at this noise
  c_skip = sigma_data**2 / (ratio**2 + sigma_data**2)
  c_out = ratio * sigma_data / np.sqrt(ratio**2 + sigma_data**2)
  f = (x0 - c_skip * (x0 + ratio * n)) / c_out
  return {"data": x0, "noise": n, "v": alpha * n - sigma * x0, "velocity": n - x0, "edm": f}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_the_right_output_gives_back_the_data_and_the_noise(name, prediction):
  process, (x0, noise) = pr.make_process(name), clips()
  denoiser = dn.Denoiser(prediction, process, sigma_data=0.5)
  x_t = pr.add_noise(process, x0, noise, T)
  out = denoiser(says(denoiser.target(x0, noise, T)), x_t, T, None)
  np.testing.assert_allclose(out.x0, x0, atol=1e-4)
  np.testing.assert_allclose(out.noise, noise, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_the_target_is_what_its_paper_says(name, prediction):
  process, (x0, noise) = pr.make_process(name), clips()
  alpha, sigma = (np.asarray(v, np.float64) for v in pr.levels(process, T, x0))
  expected = spaces(np.asarray(x0), np.asarray(noise), alpha, sigma, 0.5)[prediction]
  target = dn.Denoiser(prediction, process, sigma_data=0.5).target(x0, noise, T)
  np.testing.assert_allclose(target, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_a_wrong_output_still_explains_the_noisy_clip(name, prediction):
  process, (x_t, output) = pr.make_process(name), clips()
  alpha, sigma = pr.levels(process, T, x_t)
  out = dn.Denoiser(prediction, process, sigma_data=0.5)(says(output), x_t, T, None)
  np.testing.assert_allclose(alpha * out.x0 + sigma * out.noise, x_t, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_nothing_is_larger_than_the_stated_bound_at_the_ends(name, prediction):
  process, (x_t, output) = pr.make_process(name), clips()
  out = dn.Denoiser(prediction, process, sigma_data=0.5, time_unit="edm")(
    says(output), x_t, ENDS, None
  )
  biggest = float(jnp.abs(x_t).max() + 80 * jnp.abs(output).max())
  assert max(float(jnp.abs(v).max()) for v in out) <= biggest / dn.EPSILON  # False for nan


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_v_of_a_variance_preserving_process_is_salimans_and_hos(name):
  process, (x_t, v) = pr.make_process(name), clips()
  alpha, sigma = pr.levels(process, T, x_t)
  out = dn.Denoiser("v", process)(says(v), x_t, T, None)
  np.testing.assert_allclose(out.x0, alpha * x_t - sigma * v, atol=1e-5)  # their section 4
  np.testing.assert_allclose(out.noise, sigma * x_t + alpha * v, atol=1e-5)  # appendix D


def test_velocity_of_rectified_flow_is_followed_to_both_ends():
  x_t, u = clips()
  out = dn.Denoiser("velocity", pr.RectifiedFlow())(says(u), x_t, T, None)
  t = pr.per_frame(T, x_t)
  np.testing.assert_allclose(out.x0, x_t - t * u, atol=1e-6)
  np.testing.assert_allclose(out.noise, x_t + (1 - t) * u, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_edm_prediction_is_karras_table_1_on_the_clip_over_alpha(name):
  process, (x0, noise), sd = pr.make_process(name), clips(), 0.5
  x_t = pr.add_noise(process, x0, noise, T)
  alpha, sigma = (np.asarray(v, np.float64) for v in pr.levels(process, T, x0))
  x, s, seen = np.asarray(x_t) / alpha, sigma / alpha, []

  def network(x, t, cond, *, key):
    seen.append((x, t))
    return jnp.tanh(x)

  out = dn.Denoiser("edm", process, sigma_data=sd, time_unit="edm")(network, x_t, T, None)
  c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / np.sqrt(s**2 + sd**2)
  c_in, c_noise = 1 / np.sqrt(s**2 + sd**2), np.log(s) / 4
  np.testing.assert_allclose(seen[0][0], c_in * x, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(seen[0][1], c_noise[:, :, 0, 0, 0], rtol=1e-4, atol=1e-5)
  expected = c_skip * x + c_out * np.tanh(c_in * x)
  np.testing.assert_allclose(out.x0, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", dn.PREDICTIONS)
def test_an_error_scales_between_any_two_spaces_as_stated(name, prediction):
  process, (x_t, output), sd = pr.make_process(name), clips(), 0.5
  levels = pr.levels(process, T, x_t)
  alpha, sigma = (np.asarray(v, np.float64) for v in levels)
  denoiser, off = dn.Denoiser(prediction, process, sigma_data=sd), 0.25
  first = denoiser(says(output), x_t, T, None)
  second = denoiser(says(output + off), x_t, T, None)
  delta = np.asarray(second.x0, np.float64) - first.x0  # at fixed x_t the noise moves against it
  errors = spaces(delta, -alpha / sigma * delta, alpha, sigma, sd)
  own = np.asarray(dn.error_scale(prediction, *levels, sd))
  for space in dn.PREDICTIONS:
    scale = np.asarray(dn.error_scale(space, *levels, sd)) / own
    expected = np.broadcast_to(scale * off, SHAPE)
    np.testing.assert_allclose(np.abs(errors[space]), expected, rtol=5e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", ["velocity", "edm"])
def test_the_network_sees_unit_variance(name, prediction):
  process, (x0, noise) = pr.make_process(name), clips()
  x_t = pr.add_noise(process, x0, noise, T)
  out = dn.Denoiser(prediction, process, sigma_data=0.5)(lambda x, t, cond, *, key: x, x_t, T, None)
  np.testing.assert_allclose(out.output.std(axis=(1, 2, 3, 4)), 1, atol=4 / np.sqrt(2 * 1024))


def test_variance_preserving_input_of_unit_data_is_not_scaled():
  x_t, _ = clips()
  out = dn.Denoiser("noise", pr.Linear())(lambda x, t, cond, *, key: x, x_t, T, None)
  np.testing.assert_allclose(out.output, x_t, rtol=1e-6)


def test_raw_input_is_x_t_itself_and_what_it_means_is_unchanged():
  process, (x0, noise) = pr.RectifiedFlow(), clips()
  x_t = pr.add_noise(process, x0, noise, T)
  denoiser = dn.Denoiser("velocity", process, sigma_data=0.5, input="raw")
  true = denoiser.target(x0, noise, T)
  seen = []
  out = denoiser(lambda x, t, cond, *, key: seen.append(x) or true, x_t, T, None)
  np.testing.assert_array_equal(seen[0], x_t)
  np.testing.assert_allclose(out.x0, x0, atol=1e-5)


def test_time_is_told_in_thousands_per_clip_and_per_frame():
  denoiser = dn.Denoiser("velocity", pr.RectifiedFlow())
  for t in (T, jnp.concatenate([T, 1 - T], axis=1)):
    np.testing.assert_allclose(denoiser.model_time(t), 1000 * t)


@pytest.mark.parametrize("unit", dn.TIME_UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_the_time_told_is_finite_and_rises_with_the_noise(name, unit):
  t = jnp.linspace(0, 1, 21)[None]
  told = np.asarray(dn.Denoiser("v", pr.make_process(name), time_unit=unit).model_time(t))
  assert np.isfinite(told).all() and (np.diff(told) > 0).all()


@pytest.mark.parametrize("shape", [(4, 2, 1, 1, 1), (4, 2, 16, 16, 1)])
@pytest.mark.parametrize("dtype", [bool, jnp.float32])
def test_known_content_replaces_the_guess_and_explains_the_noisy_clip(shape, dtype):
  process, (x_t, output), (values, _) = pr.Linear(), clips(), clips(1)
  mask = jax.random.bernoulli(jax.random.key(2), 0.5, shape)
  denoiser = dn.Denoiser("v", process)
  free = denoiser(says(output), x_t, T, None)
  out = denoiser(says(output), x_t, T, None, known=(mask.astype(dtype), values))
  alpha, sigma = pr.levels(process, T, x_t)
  np.testing.assert_array_equal(out.x0, jnp.where(mask, values, free.x0))
  np.testing.assert_allclose(alpha * out.x0 + sigma * out.noise, x_t, atol=1e-5)
  np.testing.assert_array_equal(out.output, output)


def test_levels_per_frame_equal_levels_per_clip_frame_by_frame():
  process, (x_t, output) = pr.Cosine(), clips()
  denoiser, t = (
    dn.Denoiser("velocity", process, sigma_data=0.5),
    jnp.concatenate([T, 1 - T], axis=1),
  )
  both = denoiser(says(output), x_t, t, None)
  for frame in range(2):
    alone = denoiser(says(output), x_t, t[:, frame : frame + 1], None)
    np.testing.assert_allclose(both.x0[:, frame], alone.x0[:, frame], rtol=1e-6)


def test_a_bfloat16_network_is_denoised_in_float32_and_gets_condition_and_key():
  x_t, output = clips()
  got = {}

  def network(x, t, cond, *, key):
    got.update(cond=cond, key=key)
    return output.astype(jnp.bfloat16)

  out = dn.Denoiser("edm", pr.Edm(), sigma_data=0.5)(network, x_t, T, "condition", key="key")
  assert {v.dtype for v in out} == {jnp.dtype("float32")}
  assert got == {"cond": "condition", "key": "key"}


def test_unknown_names_and_impossible_data_raise():
  with pytest.raises(ValueError, match="'velocity'"):
    dn.Denoiser("velocty", pr.RectifiedFlow())
  with pytest.raises(ValueError, match="time_unit"):
    dn.Denoiser("v", pr.RectifiedFlow(), time_unit="seconds")
  with pytest.raises(ValueError, match="input"):
    dn.Denoiser("v", pr.RectifiedFlow(), input="scaled")
  with pytest.raises(ValueError, match="sigma_data=0.0"):
    dn.Denoiser("v", pr.RectifiedFlow(), sigma_data=0.0)
