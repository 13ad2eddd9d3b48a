"""Guidance against its published formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from videojax.diffusion import denoiser as dn
from videojax.diffusion import process as pr
from videojax.diffusion.guidance import guided

PROCESS = pr.Edm()
SHAPE = (3, 2, 4, 4, 1)
X = jax.random.normal(jax.random.key(0), SHAPE)
OUTPUTS = jax.random.normal(jax.random.key(1), (2, *SHAPE))  # [conditional, unconditional]
T = PROCESS.t_from_log_snr(-2 * jnp.log(jnp.array([[0.1], [1.0], [9.0]])))  # sigma .1, 1, 9
DENOISER = dn.Denoiser("edm", PROCESS, sigma_data=0.5)
MASK = jnp.zeros((3, 2, 1, 1, 1), bool).at[:, 0].set(True)


def denoise(x, t, cond, known=None):
  return DENOISER(lambda x, t, cond, *, key: cond["output"], x, t, cond, known=known)


@jax.jit
def branches():
  return jax.vmap(lambda cond: denoise(X, T, cond))({"output": OUTPUTS})


def branch(i):
  return jax.tree.map(lambda v: np.asarray(v[i]), branches())


def guide(**kwargs):
  return jax.jit(guided(denoise, {"output": OUTPUTS}, process=PROCESS, **kwargs))(X, T)


def explains(x0, noise):
  alpha, sigma = pr.levels(PROCESS, T, X)
  np.testing.assert_allclose(alpha * x0 + sigma * noise, X, atol=1e-4)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_scale_1_is_the_conditional_exactly(rescale):
  beliefs = lambda x, t, cond: (cond, 2 * cond)
  both = guided(beliefs, OUTPUTS, process=PROCESS, scale=1.0, rescale=rescale)
  x0, noise = jax.jit(both)(X, T)
  np.testing.assert_array_equal(x0, OUTPUTS[0])
  np.testing.assert_array_equal(noise, 2 * OUTPUTS[0])


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_guidance_extrapolates_from_the_unconditional(scale):
  x0, noise = guide(scale=scale)
  expected = branch(1).x0 + scale * (branch(0).x0 - branch(1).x0)
  np.testing.assert_allclose(x0, expected, atol=2e-6)
  explains(x0, noise)


def test_scale_rises_linearly_from_the_first_frame_to_the_last():
  x0, noise = guide(scale=1.0, last=2.5)
  for frame, scale in enumerate((1.0, 2.5)):
    expected = branch(1).x0 + scale * (branch(0).x0 - branch(1).x0)
    np.testing.assert_allclose(x0[:, frame], expected[:, frame], atol=2e-6)
  explains(x0, noise)


def test_temporal_guidance_goes_from_frames_alone_through_the_unconditional():
  frames = jax.random.normal(jax.random.key(2), SHAPE)
  alone = lambda x, t, cond: denoise(x, t, {"output": frames})
  image = np.asarray(denoise(X, T, {"output": frames}).x0)
  x0, noise = guide(scale=1.0, temporal=0.0, alone=alone)
  np.testing.assert_allclose(x0, image + branch(0).x0 - branch(1).x0, atol=5e-6)
  x0, noise = guide(scale=3.0, temporal=2.0, alone=alone)
  expected = image + 2 * (branch(1).x0 - image) + 3 * (branch(0).x0 - branch(1).x0)
  np.testing.assert_allclose(x0, expected, atol=2e-5)
  explains(x0, noise)
  with pytest.raises(ValueError, match="needs a denoiser of frames alone"):
    guide(scale=1.0, temporal=2.0)


def test_guiding_the_data_is_guiding_the_output():
  mixed = OUTPUTS[1] + 3.0 * (OUTPUTS[0] - OUTPUTS[1])
  np.testing.assert_allclose(guide(scale=3.0)[1], denoise(X, T, {"output": mixed}).noise, atol=2e-5)


def test_outside_the_interval_the_conditional_is_left_alone():
  x0, noise = guide(scale=3.0, interval=(0.3, 3.0))
  full = guide(scale=3.0)
  np.testing.assert_allclose(x0[::2], branch(0).x0[::2], rtol=1e-6)
  np.testing.assert_allclose(noise[::2], branch(0).noise[::2], rtol=1e-6)
  np.testing.assert_array_equal(x0[1], full[0][1])


def test_the_whole_interval_holds_pure_noise():
  process, t = pr.RectifiedFlow(), jnp.ones((3, 1))
  velocity = dn.Denoiser("velocity", process)
  ends = lambda x, t, cond: velocity(lambda x, t, cond, *, key: cond, x, t, cond)
  x0, _ = guided(ends, OUTPUTS, process=process, scale=2.0)(X, t)
  np.testing.assert_allclose(x0, X - (2 * OUTPUTS[0] - OUTPUTS[1]), atol=1e-5)


@pytest.mark.parametrize("phi", [0.5, 1.0])
def test_rescaling_moves_the_contrast_to_the_conditionals(phi):
  x0, noise = guide(scale=4.0, rescale=phi)
  plain, axes = guide(scale=4.0)[0], (1, 2, 3, 4)
  expected = phi * branch(0).x0.std(axes) + (1 - phi) * plain.std(axes)  # Lin et al., section 3.4
  np.testing.assert_allclose(x0.std(axes), expected, rtol=1e-5)
  explains(x0, noise)


def test_known_content_survives_rescaling():
  values = 2 * X
  known = lambda x, t, cond: denoise(x, t, cond, known=(MASK, values))
  x0, noise = guided(
    known, {"output": OUTPUTS}, process=PROCESS, scale=4.0, rescale=1.0, known=(MASK, values)
  )(X, T)
  np.testing.assert_array_equal(x0[:, 0], values[:, 0])
  explains(x0, noise)


@pytest.mark.parametrize("field", [{"interval": (2.0, 1.0)}, {"rescale": 1.5}])
def test_impossible_guidance_names_the_field(field):
  with pytest.raises(ValueError, match=next(iter(field))):
    guide(scale=2.0, **field)
