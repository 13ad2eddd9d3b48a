"""Published pipelines' samplers, step by step: outputs of diffusers in tests/golden/schedulers.npz.

tests/golden/make_schedulers.py made them, with a formula in the network's place.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from videojax.diffusion.denoiser import Denoiser
from videojax.diffusion.process import Edm, RectifiedFlow, ScaledLinear
from videojax.diffusion.samplers import Sampler, sample

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "schedulers.npz")
STEPS = 8


def model(x, told):
  return x @ GOLDEN["mix"] + 0.5 * jnp.tanh(x) + told / (10 + jnp.abs(told))


def differences(name, denoiser, sampler, network=model):
  """Greatest errors of what the network is told and of x, relative to diffusers' at each step."""
  seen = []

  def denoise(x, t):
    told = denoiser.model_time(t)
    jax.debug.callback(lambda *now: seen.append(now), told[0, 0], x, ordered=True)
    call = lambda x, told, cond, key: network(x, told[:, :, None, None, None])
    return denoiser(call, x, t, None)

  go = jax.jit(lambda noise: sample(denoise, denoiser.process, noise, None, sampler))
  end = go(GOLDEN["noise"])
  jax.effects_barrier()
  told, xs = np.array([t for t, _ in seen]), np.array([*(x for _, x in seen), end])
  expected_told, expected = GOLDEN[f"{name}_told"], GOLDEN[name]
  assert told.shape == expected_told.shape and xs.shape == expected.shape
  spread = np.abs(expected).max(axis=(1, 2, 3, 4, 5))
  error = np.abs(xs - expected).max(axis=(1, 2, 3, 4, 5)) / spread
  return np.abs(told / expected_told - 1).max(), error.max()


def test_euler_takes_the_steps_of_diffusers_scheduler_for_stable_video_diffusion():
  # Its v, of x_t / S, is minus EDM's F for data of deviation 1.
  denoiser = Denoiser("edm", Edm(sigma_max=700.0), time_unit="edm")
  minus = lambda x, told: -model(x, told)
  errors = differences("euler", denoiser, Sampler("euler", STEPS, start="unit"), minus)
  assert max(errors) < 1e-5


def test_ddim_takes_the_steps_of_diffusers_scheduler():
  sampler = Sampler("ddim", STEPS, "leading", start="unit", end="process")
  assert max(differences("ddim", Denoiser("noise", ScaledLinear()), sampler)) < 1e-5


def test_dpm_solver_takes_the_steps_of_diffusers_scheduler():
  sampler = Sampler("dpm_solver", STEPS, "linspace", start="unit")
  assert max(differences("dpm_solver", Denoiser("noise", ScaledLinear()), sampler)) < 1e-5


def test_unipc_takes_the_steps_of_diffusers_scheduler():
  sampler = Sampler("unipc", STEPS, "linspace", start="unit")
  assert max(differences("unipc", Denoiser("noise", ScaledLinear()), sampler)) < 1e-5


def test_flow_matching_takes_the_steps_of_diffusers_scheduler():
  def raw(x, told):  # published networks see x_t, ours x_t over its deviation
    t = told / 1000
    return model(x * jnp.hypot(1 - t, t), told)

  denoiser = Denoiser("velocity", RectifiedFlow())
  assert max(differences("flow", denoiser, Sampler("euler", STEPS, shift=3.0), raw)) < 1e-5
