"""Distances between sets of features against closed forms, and what a result says of itself."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg

from videojax.measures import fvd, i3d
from videojax.measures.frechet import frechet_distance, kernel_distance

D = 6


def samples(seed, n, mean, covariance):
  """n samples whose own mean and covariance are exactly the given ones."""
  x = np.random.default_rng(seed).standard_normal((n, len(mean)))
  x -= x.mean(0)
  white = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1))).T
  return mean + white @ np.linalg.cholesky(covariance).T


def covariance_of(seed):
  root = np.random.default_rng(seed).standard_normal((D, D))
  return root @ root.T + 0.1 * np.eye(D)


def closed_form(mean_x, cov_x, mean_y, cov_y):
  """By symmetric matrix roots, which exist at any rank."""
  values, vectors = np.linalg.eigh(cov_x)
  root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
  overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0)).sum()
  return np.square(mean_x - mean_y).sum() + np.trace(cov_x + cov_y) - 2 * overlap


@pytest.mark.parametrize("n", (D + 1, 50))
def test_frechet_of_gaussians_that_commute_is_the_sum_over_their_axes(n):
  a, b = np.array([1, 4, 9, 0.25, 2, 1]), np.array([4, 1, 9, 2.25, 3, 0.5])
  x, y = samples(0, n, np.zeros(D), np.diag(a)), samples(1, n + 9, np.arange(D), np.diag(b))
  expected = np.square(np.arange(D)).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
  np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-12)


def test_frechet_is_that_of_scipys_matrix_root_where_that_exists():
  cov_x, cov_y = covariance_of(2), covariance_of(3)
  x, y = samples(4, 40, np.ones(D), cov_x), samples(5, 30, np.zeros(D), cov_y)
  root = scipy.linalg.sqrtm(cov_x @ cov_y)
  expected = D + np.trace(cov_x + cov_y) - 2 * np.trace(root).real
  np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-9)


@pytest.mark.parametrize("n,m", ((8, 5), (8, 60), (60, 5)))
def test_frechet_holds_with_fewer_samples_than_features(n, m):
  rng = np.random.default_rng(6)
  x = rng.standard_normal((n, 30)) @ rng.standard_normal((30, 30)) + 1
  y = rng.standard_normal((m, 30)) @ rng.standard_normal((30, 30))
  expected = closed_form(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
  np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-6)  # of the eigenvalues
  np.testing.assert_allclose(frechet_distance(y, x), frechet_distance(x, y), rtol=1e-12)
  np.testing.assert_allclose(frechet_distance(x, x), 0, atol=1e-9)


def test_float32_features_are_compared_in_float64():
  x = samples(7, 20, np.full(D, 1e3), 1e-4 * np.eye(D)).astype(np.float32)
  y = samples(8, 20, np.full(D, 1e3), 1e-4 * np.eye(D)).astype(np.float32)
  expected = frechet_distance(x.astype(np.float64), y.astype(np.float64))
  assert frechet_distance(x, y) == expected


def kernel_closed_form(mean_x, cov_x, mean_y, cov_y):
  """sum_j binom(3, j) D^-j |E x^(j) - E y^(j)|^2 over moment tensors of order j."""

  def moments(m, c):
    mixed = np.einsum("ij,k->ijk", c, m)
    third = np.einsum("i,j,k->ijk", m, m, m) + mixed
    third += mixed.transpose(0, 2, 1) + mixed.transpose(2, 0, 1)
    return m, np.outer(m, m) + c, third

  pairs = zip((3, 3, 1), moments(mean_x, cov_x), moments(mean_y, cov_y))
  d = len(mean_x)
  return sum(c / d**j * np.square(a - b).sum() for j, (c, a, b) in enumerate(pairs, 1))


@pytest.mark.parametrize("shift", (0.0, 0.5))
def test_kernel_distance_has_no_bias_and_its_standard_error_is_honest(shift):
  cov_x = covariance_of(9) / 4
  cov_y = cov_x if not shift else covariance_of(10) / 4
  mean_x, mean_y = np.full(D, 0.3), np.full(D, 0.3 + shift)
  rng = np.random.default_rng(11)
  draw = lambda n, mean, cov: rng.multivariate_normal(mean, cov, n)
  runs = [kernel_distance(draw(40, mean_x, cov_x), draw(30, mean_y, cov_y)) for _ in range(600)]
  value, stderr = np.array(runs).T
  error = value.std() / np.sqrt(len(value))
  assert abs(value.mean() - kernel_closed_form(mean_x, cov_x, mean_y, cov_y)) < 3.5 * error
  assert value.min() < 0 or shift  # an estimate that is never below 0 is biased
  ratio = np.sqrt(np.square(stderr).mean()) / value.std()
  low, high = (0.85, 1.2) if shift else (1.0, 1.6)  # sqrt 2 too wide where it is quadratic
  assert low < ratio < high, ratio


@pytest.mark.parametrize("distance", (frechet_distance, kernel_distance))
def test_features_that_cannot_be_compared_are_refused(distance):
  x = np.random.default_rng(12).standard_normal((9, D))
  for bad, message in ((x[:1], "at least"), (x * np.nan, "finite")):
    with pytest.raises(ValueError, match=message):
      distance(x, bad)


PROTOCOL = fvd.Protocol(
  resolution=(64, 48),
  frames=16,
  stride=2,
  split="test",
  clips=40,
  ema=True,
  network=fvd.NETWORK,
  pixels=224,
  weights=i3d.PUBLISHED,
  bn_epsilon=i3d.BN_EPSILON,
)


def test_only_224_pixel_logits_of_the_published_weights_are_called_fvd():
  assert PROTOCOL.name == "FVD"
  small = dataclasses.replace(PROTOCOL, pixels=64)
  assert small.name == "Frechet distance (16-frame 64-pixel I3D logits)"
  other = dataclasses.replace(PROTOCOL, weights="abc")
  assert other.name == "Frechet distance (16-frame 224-pixel I3D logits of weights abc)"
  other = dataclasses.replace(PROTOCOL, network="VideoMAE features", weights="abc")
  assert other.name == "Frechet distance (16-frame 224-pixel VideoMAE features)"


def test_a_result_says_its_floor_and_its_whole_protocol():
  rng = np.random.default_rng(13)
  real, generated = rng.standard_normal((80, D)), rng.standard_normal((40, D)) + 1
  result = fvd.compare(real, generated, PROTOCOL)
  text = str(result)
  for word in ("FVD", "real against real", "KVD", "N 40 clips of 16 frames", "stride 2", "64x48"):
    assert word in text
  for word in ("split test", "EMA", "I3D logits", "at 224 px", "no antialiasing", "epsilon 0.001"):
    assert word in text
  assert f"{result.floor:.4g}" in text
  assert result.distance > 3 * result.floor > 0
  assert result.kernel.value > 5 * abs(result.kernel_floor.value)
  lesser = dataclasses.replace(PROTOCOL, pixels=64)
  assert "FVD" not in str(dataclasses.replace(result, protocol=lesser))
  assert "KVD" not in str(dataclasses.replace(result, protocol=lesser))


def test_the_floor_is_of_real_clips_that_are_not_those_compared_with():
  rng = np.random.default_rng(14)
  real = rng.standard_normal((80, D))
  with pytest.raises(ValueError, match="as many again for the floor"):
    fvd.compare(real[:79], real[:40], PROTOCOL)
  with pytest.raises(ValueError, match="got 39 generated"):
    fvd.compare(real, real[:39], PROTOCOL)
