"""Windows on Gaussian clips, whose exact denoiser is linear and known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from videojax.diffusion import multidiffusion as md
from videojax.diffusion import process as pr
from videojax.diffusion import samplers as sp

FRAMES, PROCESS = 14, pr.RectifiedFlow()


@functools.cache
def covariance(frames):
  """Of frames that stay alike for about 8 of them: a smooth stationary Gaussian process."""
  far = np.subtract.outer(np.arange(frames), np.arange(frames)) / 8.0
  return np.exp(-0.5 * far**2)


def gain(t, frames):
  """E[x0 | x_t] = gain x_t of such clips."""
  k = covariance(frames)
  return (1 - t) * k @ np.linalg.inv((1 - t) ** 2 * k + t**2 * np.eye(frames))


def exact(x, t, start=0):
  """The posterior means of a clip, or of a window, as long as x, from x alone."""
  alpha, sigma = 1 - t[0, 0], t[0, 0]
  size, modes = (jnp.asarray(v, jnp.float32) for v in np.linalg.eigh(covariance(x.shape[1])))
  seen = jnp.einsum("fm,bfhwc->bmhwc", modes, x)
  seen = seen / (alpha**2 * size + sigma**2).reshape(1, -1, 1, 1, 1)
  x0 = jnp.einsum("fm,m,bmhwc->bfhwc", modes, alpha * size, seen)
  return x0, jnp.einsum("fm,bmhwc->bfhwc", modes, sigma * seen)


def clips(batch=2, frames=FRAMES):
  return jax.random.normal(jax.random.key(0), (batch, frames, 2, 3, 1))


LEVEL = jnp.full((2, 1), 0.6)


@pytest.mark.parametrize("stride", [1, FRAMES])
def test_one_window_is_the_plain_denoiser(stride):
  long = md.windowed(exact, window=FRAMES, stride=stride)
  for got, want in zip(long(clips(), LEVEL), exact(clips(), LEVEL)):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("taper", [None, (1.0, 2.0, 3.0, 3.0, 2.0, 1.0)])
@pytest.mark.parametrize("stride, at_once", [(4, 1), (3, 2), (6, 4)])
def test_the_merged_clip_is_the_nearest_to_all_windows_in_least_squares(taper, stride, at_once):
  """14 frames: strides of 3 and 6 leave a last window that is nearer to the one before."""
  window, x = 6, np.asarray(clips(), np.float64).reshape(2, FRAMES, -1)
  rows, beliefs = [], []
  for start in md.starts(FRAMES, window, stride):
    root = np.sqrt(np.ones(window) if taper is None else taper)[:, None]
    rows.append(root * np.eye(FRAMES)[start : start + window])
    beliefs.append(root * (gain(0.6, window) @ x[:, start : start + window]))
  a, b = np.concatenate(rows), np.concatenate(beliefs, 1)
  want = np.stack([np.linalg.lstsq(a, each)[0] for each in b])
  long = md.windowed(exact, window=window, stride=stride, taper=taper, at_once=at_once)
  x0, noise = jax.jit(long)(clips(), LEVEL)
  np.testing.assert_allclose(x0.reshape(x.shape), want, atol=1e-5)
  np.testing.assert_allclose(0.4 * x0 + 0.6 * noise, clips(), atol=1e-5)


@pytest.mark.parametrize("frames, window, stride", [(14, 6, 4), (14, 6, 1), (15, 4, 4), (5, 5, 2)])
def test_weights_of_each_frame_sum_to_one(frames, window, stride):
  first = md.starts(frames, window, stride)
  assert first[0] == 0 and first[-1] == frames - window and (np.diff(first) <= stride).all()
  total = np.zeros(frames)
  for start, share in zip(
    first, md.weights(frames, window, stride, [1.0 + i for i in range(window)])
  ):
    total[start : start + window] += share
  np.testing.assert_allclose(total, 1, rtol=1e-6)


def jumps(denoise):
  """Mean square change between neighbouring frames of samples, [T-1]; the data's is about .0155."""
  noise = jax.random.normal(jax.random.key(1), (8, FRAMES, 16, 16, 1))
  sampler = sp.Sampler("heun", 12)
  x = jax.jit(lambda n: sp.sample(denoise, PROCESS, n, None, sampler))(noise)
  return np.square(np.diff(np.asarray(x), axis=1)).mean((0, 2, 3, 4))


TRIANGLE = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize("taper, seam", [(TRIANGLE, 1.05), (None, 1.35)])
def test_overlapping_windows_jump_at_their_borders_hardly_more_than_inside(taper, seam):
  """Windows 0-9 and 4-13: measured 1.02 times with a taper, 1.30 times with weights alike."""
  jump = jumps(md.windowed(exact, window=10, stride=4, taper=taper))
  border = [3, 9]  # where the second begins, and where the first ends
  assert jump[border].max() < seam * np.delete(jump, border).max()
  assert jump.max() < 2.1 * jumps(exact).max()


def test_windows_side_by_side_have_a_seam():
  jump = jumps(md.windowed(exact, window=7, stride=7))
  assert jump[6] > 100 * np.delete(jump, 6).max()


def test_a_window_is_told_where_it_begins_and_its_own_levels():
  """Frame numbers as a condition, and a noise level per frame, cut to the window."""
  number = jnp.broadcast_to(jnp.arange(14.0).reshape(1, -1, 1, 1, 1), clips().shape)

  def denoise(x, t, start):
    return md.window_of(number, start, 6), jnp.broadcast_to(t[:, :, None, None, None], x.shape)

  levels = jnp.broadcast_to(jnp.linspace(0.1, 0.9, 14), (2, 14))
  x0, noise = md.windowed(denoise, window=6, stride=4)(clips(), levels)
  np.testing.assert_allclose(x0, number, atol=1e-5)
  np.testing.assert_allclose(noise[:, :, 0, 0, 0], levels, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_windows():
  """Of the windows' inner numbers, a thousand times the clip's, only one window's are held."""

  def wide(x, t, start):
    inner = jnp.sort(jnp.broadcast_to(x[..., None], (*x.shape, 1000)), -1)
    return inner.mean(-1), x

  def temporary(frames):
    long = jax.jit(md.windowed(wide, window=4, stride=2))
    compiled = long.lower(jnp.zeros((1, frames, 8, 8, 1)), jnp.zeros((1, 1))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary(16) < 1.2 * temporary(6)


@pytest.mark.parametrize(
  "window, stride, words",
  [
    (15, 4, "window=15 must be between 1 and 14"),
    (6, 7, "stride=7 must be between 1 and window=6"),
    (6, 0, "stride=0"),
  ],
)
def test_windows_that_do_not_cover_the_clip_are_refused(window, stride, words):
  with pytest.raises(ValueError, match=words):
    md.windowed(exact, window=window, stride=stride)(clips(), LEVEL)


def test_weights_that_are_not_positive_are_refused():
  with pytest.raises(ValueError, match="numbers > 0"):
    md.windowed(exact, window=6, stride=4, taper=[0.0] * 6)(clips(), LEVEL)
