"""Distances between two sets of feature vectors: Frechet, and polynomial-kernel MMD.

In float64 numpy, without a network: the caller computes the features (see fvd.py).

Shapes: N and M samples in the two sets, D features.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

BLOCKS = 10  # of the block jackknife


def _checked(x: np.ndarray, y: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
  """Both sets in float64. Raises ValueError if they are too small or not finite."""
  if min(len(x), len(y)) < least:
    raise ValueError(f"at least {least} samples of each set are needed, got {len(x)} and {len(y)}")
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if not (np.isfinite(x).all() and np.isfinite(y).all()):
    raise ValueError("the features are not finite")
  return x, y


def _root(x: np.ndarray) -> np.ndarray:
  """R with R^T R = the unbiased covariance of x, and at most D rows."""
  centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
  return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred


def frechet_distance(x: Shaped[np.ndarray, "N D"], y: Shaped[np.ndarray, "M D"]) -> float:
  """|m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2), of Gaussians fitted to the samples.

  With S_x = A^T A and S_y = B^T B the last trace is the nuclear norm of S_x^(1/2) S_y^(1/2), which
  is the sum of the singular values of A B^T. This needs no matrix square root and no complex
  numbers, and fewer samples than features are not a special case.

  Raises:
    ValueError: a set is too small or not finite.
  Source: Dowson & Landau 1982, eq. 4; Heusel et al. 2017 (arXiv:1706.08500), eq. 6.
  """
  x, y = _checked(x, y, 2)
  a, b = _root(x), _root(y)
  overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
  return float(np.square(x.mean(0) - y.mean(0)).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap)


class KernelDistance(NamedTuple):
  """An estimate and its standard error."""

  value: float
  stderr: float


def kernel_distance(
  x: Shaped[np.ndarray, "N D"], y: Shaped[np.ndarray, "M D"], blocks: int = BLOCKS
) -> KernelDistance:
  """Squared MMD under k(u, v) = (u.v / D + 1)^3: unbiased, so it may be negative.

  The standard error is a jackknife estimate that leaves out one of `blocks` interleaved blocks of
  both sets at a time. For equal distributions it is up to sqrt(2) too wide, because the estimate is
  quadratic there.

  Raises:
    ValueError: a set is too small or not finite.
  Source: Gretton et al. 2012, eq. 3; the kernel is from Binkowski et al. 2018 (arXiv:1801.01401).
  """
  x, y = _checked(x, y, 4)
  kernel = lambda u, v: (u @ v.T / x.shape[1] + 1) ** 3
  xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
  np.fill_diagonal(xx, 0)
  np.fill_diagonal(yy, 0)

  def estimate(i, j):
    """The estimate from the samples where the masks i and j are 1."""
    n, m = i.sum(), j.sum()
    within = i @ xx @ i / (n * (n - 1)) + j @ yy @ j / (m * (m - 1))
    return within - 2 * (i @ xy @ j) / (n * m)

  blocks = min(blocks, len(x), len(y))
  left_out = lambda n, b: (np.arange(n) % blocks != b).astype(np.float64)
  parts = np.array([estimate(left_out(len(x), b), left_out(len(y), b)) for b in range(blocks)])
  stderr = np.sqrt((blocks - 1) * np.square(parts - parts.mean()).mean())
  return KernelDistance(float(estimate(np.ones(len(x)), np.ones(len(y)))), float(stderr))
