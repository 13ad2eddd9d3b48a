"""Samplers on Gaussian data, where the denoiser and the path of the ODE are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from videojax.diffusion import process as pr
from videojax.diffusion import samplers as sp
from videojax.diffusion.objective import row_noise

MEAN, STD = 0.7, 0.5
SHAPE = (2, 2, 4, 4, 1)
NAMES = tuple(pr.PROCESSES)
NOISE = jax.random.normal(jax.random.key(0), SHAPE)


def exact(process):
  """E[x0 | x_t] and E[noise | x_t] for data N(MEAN, STD^2)."""

  def denoise(x, t):
    alpha, sigma = pr.levels(process, t, x)
    offset = (x - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)
    return MEAN + alpha * STD**2 * offset, sigma * offset

  return denoise


def run(process, sampler, noise=NOISE, keys=None, denoise=None):
  denoise = denoise or exact(process)
  return jax.jit(lambda n, k: sp.sample(denoise, process, n, k, sampler))(noise, keys)


def error(process, sampler, end=(1.0, 0.0)):
  """Greatest distance from the ODE's closed form: offsets scale as the marginal's std."""

  @jax.jit
  def run_and_start(noise):
    t = sampler.times(process)[0]
    x = sp.sample(exact(process), process, noise, None, sampler)
    return x, process.alpha(t), process.sigma(t)

  x, alpha, sigma = (np.float64(v) for v in run_and_start(NOISE))
  return np.abs(x - solution((alpha, sigma), end)).max()


def solution(start, end):
  """The ODE's, from sigma NOISE at one (alpha, sigma) to another."""
  (alpha, sigma), (alpha_end, sigma_end) = start, end
  offset = sigma * np.float64(NOISE) - alpha * MEAN
  gain = ((alpha_end * STD) ** 2 + sigma_end**2) / ((alpha * STD) ** 2 + sigma**2)
  return alpha_end * MEAN + np.sqrt(gain) * offset


def error_where_the_last_step_begins(process, sampler):
  """As `error`, before the step to the data, which is of first order."""
  seen = []

  def denoise(x, t):
    jax.debug.callback(lambda *now: seen.append(now), t[0, 0], x, ordered=True)
    return exact(process)(x, t)

  run(process, sampler, denoise=denoise)
  jax.effects_barrier()
  start, end = (
    (np.float64(process.alpha(t)), np.float64(process.sigma(t))) for t, _ in seen[:: len(seen) - 1]
  )
  return np.abs(seen[-1][1] - solution(start, end)).max()


@pytest.mark.parametrize(
  "name, grid",
  [
    ("rectified_flow", "uniform"),
    ("linear", "quadratic"),  # even steps of sigma near the data, where it is the root of t
    ("edm", "uniform"),
  ],
)
@pytest.mark.parametrize("stepper, order", [("euler", 1), ("heun", 2)])
def test_a_sampler_converges_to_the_ode_at_its_order(name, grid, stepper, order):
  process = pr.make_process(name)
  coarse, fine = (error(process, sp.Sampler(stepper, steps, grid)) for steps in (32, 96))
  assert abs(np.log(coarse / fine) / np.log(3) - order) < 0.25, (coarse, fine)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stepper, order", [("dpm_solver", 2), ("unipc", 3)])
def test_a_multistep_sampler_converges_at_its_order_in_the_log_snr(name, stepper, order):
  process = pr.make_process(name)
  grid = lambda steps: sp.Sampler(stepper, steps, "log_snr", sigma_min=0.1, sigma_max=10.0)
  coarse, fine = (error_where_the_last_step_begins(process, grid(n)) for n in (24, 48))
  assert abs(np.log2(coarse / fine) - order) < 0.25, (coarse, fine)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stepper", ["heun", "dpm_solver", "unipc"])
def test_a_shifted_log_snr_grid_ends_at_the_odes_solution(name, stepper):
  assert error(pr.make_process(name), sp.Sampler(stepper, 64, "log_snr", shift=2.0)) < 0.01


@pytest.mark.parametrize("stepper", ["heun", "dpm_solver", "unipc"])
def test_a_run_to_the_end_of_the_process_stops_at_its_least_noise(stepper):
  process, sampler = pr.Edm(sigma_min=0.5), sp.Sampler(stepper, 96, end="process")
  assert error(process, sampler, end=(1.0, 0.5)) < 0.004
  assert error(process, sampler) > 0.1


def test_a_unit_start_has_the_spread_of_noised_data_of_variance_1():
  process, sampler = pr.Edm(), sp.Sampler("euler", 1, start="unit")
  got = run(process, sampler, denoise=lambda x, t: (x, x))
  np.testing.assert_allclose(got, np.sqrt(1 + 80.0**2) * NOISE, rtol=1e-6)
  got = run(pr.Linear(), sampler, denoise=lambda x, t: (x, x))
  np.testing.assert_allclose(got, NOISE, rtol=1e-6)


def numpy_heun(sigmas, x):
  """Karras et al. 2022, Algorithm 1, as printed, for data N(MEAN, STD^2)."""
  slope = lambda x, s: (x - MEAN) * s / (s**2 + STD**2)
  for here, there in zip(sigmas[:-1], sigmas[1:]):
    d = slope(x, here)
    x_next = x + (there - here) * d
    if there != 0:
      x_next = x + (there - here) * (d + slope(x_next, there)) / 2
    x = x_next
  return x


@pytest.mark.parametrize("grid", ["uniform", "karras"])
def test_heun_on_edm_is_karras_algorithm_1(grid):
  i, low, high = np.arange(18), 0.002 ** (1 / 7), 80 ** (1 / 7)
  sigmas = np.append((high + i / 17 * (low - high)) ** 7, 0)
  expected = numpy_heun(sigmas, 80 * np.asarray(NOISE, np.float64))
  got = run(pr.Edm(), sp.Sampler("heun", 18, grid))
  np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.parametrize("stepper", ["euler", "heun"])
def test_rectified_flow_is_integrated_in_t(stepper):
  x = np.asarray(NOISE, np.float64)

  def velocity(x, t):
    offset = (x - (1 - t) * MEAN) / (((1 - t) * STD) ** 2 + t**2)
    return t * offset - MEAN - (1 - t) * STD**2 * offset

  for here, there in zip(np.arange(10, 0, -1) / 10, np.arange(9, -1, -1) / 10):
    u = velocity(x, here)
    if stepper == "heun" and there > 0:
      u = (u + velocity(x + (there - here) * u, there)) / 2
    x = x + (there - here) * u
  np.testing.assert_allclose(run(pr.RectifiedFlow(), sp.Sampler(stepper, 10)), x, atol=2e-5)


def test_ddim_is_the_published_update_of_a_variance_preserving_process():
  process, x = pr.Linear(), np.asarray(NOISE, np.float64)
  t = np.linspace(1, 0, 9)
  alpha = np.exp(-0.25 * t**2 * 19.9 - 0.05 * t)
  x = np.sqrt(1 - alpha[0] ** 2) * x
  for a, b in zip(alpha[:-1], alpha[1:]):
    eps = np.sqrt(1 - a**2) * (x - a * MEAN) / (a**2 * STD**2 + 1 - a**2)
    x = b * (x - np.sqrt(1 - a**2) * eps) / a + np.sqrt(1 - b**2) * eps  # Song et al., Eq. 12
  np.testing.assert_allclose(run(process, sp.Sampler("ddim", 8)), x, atol=1e-4)


def test_ddim_without_noise_is_euler():
  ddim, euler = (run(pr.RectifiedFlow(), sp.Sampler(name, 7)) for name in ("ddim", "euler"))
  np.testing.assert_array_equal(ddim, euler)


def ancestral_variance(steps):
  """Of the last sample on a Karras grid, as published: Song et al. 2021, Eq. 12 and 16, eta = 1."""
  low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
  ratio = np.append(np.linspace(high, low, steps) ** 7, 0)
  alpha, sigma = 1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)
  variance = sigma[0] ** 2
  for a, s, a1, s1 in zip(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]):
    fresh = (s1 / s) ** 2 * (1 - a**2 / a1**2)
    gain = (a1 * a * STD**2 + np.sqrt(s1**2 - fresh) * s) / ((a * STD) ** 2 + s**2)
    variance = gain**2 * variance + fresh
  return variance


def test_ancestral_ddim_has_the_variance_of_its_published_recursion():
  sampler = sp.Sampler("ddim", 6, "karras", eta=1.0)
  keys = jax.random.split(jax.random.key(3), 2)
  noise = jax.random.normal(jax.random.key(4), (2, 8, 32, 32, 1))
  got = np.var(run(pr.Linear(), sampler, noise, keys), ddof=1)
  assert abs(got / ancestral_variance(6) - 1) < 4 * np.sqrt(2 / noise.size)
  np.testing.assert_allclose(ancestral_variance(1000), STD**2, rtol=0.02)  # the data's own


def test_where_data_shrinks_ancestral_steps_are_videocrafters():
  """Its sampler's update in float64: fresh noise by the alphas alone, the data's scale apart."""
  steps, scale_b, keys = 5, 0.3, jax.random.split(jax.random.key(5), 2)
  process = pr.make_process("scaled_linear", data_scale=scale_b)
  sampler = sp.Sampler("ddim", steps, "leading", eta=1.0, start="unit", end="process")
  k = np.arange(steps)[::-1] * (1000 // steps) + 1
  a = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
  scale = np.append(np.linspace(1, scale_b, 400), np.full(600, scale_b))
  x = np.asarray(NOISE, np.float64)
  for i, (here, there) in enumerate(zip(k, np.append(k[1:], 0))):
    root = np.sqrt(1 - a[here])
    eps = root * (x - np.sqrt(a[here]) * scale[here] * MEAN)
    eps /= a[here] * scale[here] ** 2 * STD**2 + 1 - a[here]
    x0 = (x - root * eps) / np.sqrt(a[here]) / scale[here]
    std = np.sqrt((1 - a[there]) / (1 - a[here]) * (1 - a[here] / a[there]))
    fresh = row_noise(jax.vmap(jax.random.fold_in, (0, None))(keys, i), NOISE)
    kept = np.sqrt(1 - a[there] - std**2) * eps
    x = np.sqrt(a[there]) * scale[there] * x0 + kept + std * np.asarray(fresh)
  np.testing.assert_allclose(run(process, sampler, NOISE, keys), x, atol=2e-5)


def test_fresh_noise_belongs_to_the_row():
  sampler, keys = sp.Sampler("ddim", 5, eta=1.0), jax.random.split(jax.random.key(7), 2)
  go = jax.jit(lambda n, k: sp.sample(exact(pr.Linear()), pr.Linear(), n, k, sampler))
  whole, rows = go(NOISE, keys), jnp.array([1, 1])
  np.testing.assert_array_equal(go(NOISE[rows], keys[rows]), whole[rows])
  assert float(jnp.abs(go(NOISE[rows], keys) - whole[rows]).max()) > 0.01


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", sp.GRIDS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_fall_from_noise_and_never_reach_zero_noise(name, grid, shift):
  process = pr.make_process(name)
  for steps in (1, 20):
    sampler = sp.Sampler(steps=steps, grid=grid, shift=shift)
    t = np.asarray(sampler.times(process))
    assert t.shape == (steps,) and t[0] <= 1 and t[-1] >= 0
    assert (np.diff(t) < 0).all()
    assert float(process.sigma(t[-1])) > 0


def test_shifted_uniform_times_are_the_published_ones():
  t = np.linspace(1, 0, 21)[:-1]
  got = sp.Sampler(steps=20, shift=3.0).times(pr.RectifiedFlow())
  np.testing.assert_allclose(got, 3 * t / (1 + 2 * t), rtol=1e-5)


@pytest.mark.parametrize("stepper", ["euler", "heun", "dpm_solver", "unipc"])
def test_the_denoiser_is_called_as_often_as_stated_and_never_without_noise(stepper):
  process, sampler, seen = pr.RectifiedFlow(), sp.Sampler(stepper, 4), []

  def denoise(x, t):
    jax.debug.callback(lambda t: seen.append(float(t[0, 0])), t)
    return exact(process)(x, t)

  jax.block_until_ready(run(process, sampler, denoise=denoise))
  jax.effects_barrier()
  assert len(seen) == sampler.evaluations and min(seen) > 0


@pytest.mark.parametrize(
  "name, stepper",
  [
    ("rectified_flow", "heun"),
    ("cosine", "heun"),
    ("edm", "euler"),
    ("linear", "ddim"),
    ("rectified_flow", "unipc"),
    ("cosine", "dpm_solver"),
    ("scaled_linear", "unipc"),
  ],
)
def test_what_the_denoiser_knows_comes_out_untouched(name, stepper):
  process = pr.make_process(name)
  truth = jax.random.normal(jax.random.key(8), SHAPE)

  def denoise(x, t):
    alpha, sigma = pr.levels(process, t, x)
    return truth, (x - alpha * truth) / sigma

  np.testing.assert_array_equal(run(process, sp.Sampler(stepper, 5), denoise=denoise), truth)


@pytest.mark.parametrize(
  "field",
  [
    {"stepper": "rk4"},
    {"grid": "linear"},
    {"start": "zero"},
    {"end": "noise"},
    {"steps": 0},
    {"steps": 1000, "grid": "leading"},
    {"eta": 2.0},
    {"sigma_min": 0.0},
  ],
)
def test_an_impossible_sampler_names_the_field(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    sp.Sampler(**field)


def test_noise_without_a_stepper_or_keys_for_it_raises():
  with pytest.raises(ValueError, match="eta=0.5"):
    sp.Sampler("heun", eta=0.5)
  with pytest.raises(ValueError, match="keys"):
    run(pr.Linear(), sp.Sampler("ddim", 5, eta=1.0))
