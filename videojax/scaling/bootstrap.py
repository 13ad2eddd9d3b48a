"""Draws bootstrap resamples, fits the additive law to all of them together, and makes intervals.

A law is y = offset + c_0 + sum_j c_j exp(-e_j x_j), with coefficients c >= 0 and x_j the logarithm
of parameters, data or FLOPs: the loss at N parameters and D tokens, or a single power law.

Letters: R resamples (or starts), n rows, k exponents, m coefficients (k, one more with c_0).
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from videojax.errors import ConfigError

Array = np.ndarray
Scalar = float | int | np.number

EXPONENTS = (0.01, 5.0)  # bounds; below 0.01 a power looks like a constant
PASSES = 3  # weights 1/y^2 lower the law by 1.5 sd^2; from the second pass they are 1/fitted^2
DELTA = 1e-3  # threshold of Huber's loss on log residuals: Hoffmann et al. 2022, eq. 3
SCALE = 1e4  # multiplies the sum of Huber losses, about 1e-3: unscaled, searches stop too early
GRADIENT = 1e-6  # gradient tolerance of a search, as a share of the largest gradient (n DELTA)
AGREE = 1e-6  # relative difference of objectives below which two starts found the same minimum
LEVERAGE = 0.99  # cap of the leverage h where a residual is divided by 1 - h
RESAMPLES = (40, 100_000)  # least and most; fewer than 40 have no 2.5 % quantile


def check_resamples(bootstrap: int) -> None:
  """Raises ConfigError if this number of resamples gives no interval."""
  few, many = RESAMPLES
  if bootstrap != 0 and not few <= bootstrap <= many:
    raise ConfigError(
      f"bootstrap={bootstrap} must be 0 (no intervals), or {few} to {many} resamples"
    )


@dataclass(frozen=True)
class Fits:
  """R fits of one law to n rows."""

  exponents: Array  # [R,k]
  coefficients: Array  # [R,m], the constant last
  fitted: Array  # [R,n]
  objective: Array  # [R]
  converged: Array  # [R]
  at_bounds: Array  # [R], whether a coefficient is 0 or an exponent is at its bound
  agreement: float  # share of the starts that reached the best minimum
  warm: Any  # warm start for the fits of resamples


def _at_bounds(exponents: Array, c: Array) -> Array:
  """`Fits.at_bounds` [R]; the coefficients c are in units of the loss at the middle of the data."""
  low, high = EXPONENTS
  edge = (exponents <= low * 1.001) | (exponents >= high * 0.999)
  return edge.any(-1) | (c <= 1e-9 * c.sum(-1, keepdims=True)).any(-1)


def nonnegative(gram: Array, projection: Array) -> Array:
  """argmin over c >= 0 of c'Gc - 2p'c, for gram [...,m,m] and projection [...,m].

  Same result as Lawson & Hanson's NNLS (scipy.optimize.nnls), found by trying every support: for
  m <= 3 and many problems this is cheaper than an active-set loop per problem.
  """
  scale = np.sqrt(np.einsum("...ii->...i", gram)) + 1e-300
  gram, projection = gram / (scale[..., :, None] * scale[..., None, :]), projection / scale
  best, value = np.zeros_like(projection), np.zeros(projection.shape[:-1])
  m = gram.shape[-1]
  for support in itertools.chain(*(itertools.combinations(range(m), s) for s in range(1, m + 1))):
    index = np.array(support)
    block = gram[..., index[:, None], index] + 1e-14 * np.eye(len(index))
    solution = np.linalg.solve(block, projection[..., index, None])[..., 0]
    reached = -np.einsum("...i,...i->...", solution, projection[..., index])
    better = (solution >= 0).all(-1) & (reached < value)
    full = np.zeros_like(projection)
    full[..., index] = solution
    best, value = np.where(better[..., None], full, best), np.where(better, reached, value)
  return best / scale


def _project(exponents: Array, x: Array, y: Array, w: Array, constant: bool):
  """(best coefficients [R,m] at given exponents, fitted values, objectives, columns [R,n,m])."""
  columns = np.exp(-exponents[:, None, :] * x.T)  # [R,n,k]
  if constant:
    columns = np.concatenate([columns, np.ones((*columns.shape[:2], 1))], -1)  # [R,n,m]
  weighted = columns * w[..., None]
  c = nonnegative(weighted.swapaxes(1, 2) @ columns, np.einsum("rnm,rn->rm", weighted, y))
  fitted = np.einsum("rnm,rm->rn", columns, c)
  return c, fitted, (w * (y - fitted) ** 2).sum(-1), columns


def _jacobian(exponents: Array, x: Array, c: Array, columns: Array) -> Array:
  """d fitted / d (coefficients, exponents) [R,n,m+k]; 0 for a coefficient that is 0."""
  k = exponents.shape[-1]
  return np.concatenate(
    [columns * (c > 0)[:, None, :], -x.T * columns[..., :k] * c[:, None, :k]], -1
  )


def _step(exponents, x, c, columns, w, residual, damping) -> Array:
  """Damped Gauss-Newton step in the exponents, with coefficients projected out (Kaufman 1975)."""
  m = c.shape[-1]
  full = _jacobian(exponents, x, c, columns)  # [R,n,m+k]
  weighted = full * w[..., None]
  gram = weighted.swapaxes(1, 2) @ full
  diagonal = np.einsum("rii->ri", gram)
  scale = np.where(diagonal > 0, np.sqrt(diagonal), 1.0)
  gram = gram / (scale[:, :, None] * scale[:, None, :])
  gram += np.eye(gram.shape[-1]) * np.where(diagonal > 0, 1e-13, 1.0)[:, None, :]
  cross = gram[:, :m, m:]
  schur = gram[:, m:, m:] - cross.swapaxes(1, 2) @ np.linalg.solve(gram[:, :m, :m], cross)
  schur += np.eye(exponents.shape[-1]) * damping[:, None, None]
  gradient = np.einsum("rnk,rn->rk", weighted[..., m:], residual) / scale[:, m:]
  return np.linalg.solve(schur, gradient[..., None])[..., 0] / scale[:, m:]


def _search(exponents: Array, x: Array, y: Array, w: Array, constant: bool):
  """Levenberg-Marquardt in the exponents only, for all R fits together."""
  damping, done = np.full(len(y), 1e-3), np.zeros(len(y), bool)
  c, fitted, cost, columns = _project(exponents, x, y, w, constant)
  for _ in range(100):
    step = _step(exponents, x, c, columns, w, y - fitted, damping)
    tried = np.clip(exponents + np.clip(step, -0.5, 0.5), *EXPONENTS)
    new = _project(tried, x, y, w, constant)
    better = new[2] < cost
    done |= (np.abs(tried - exponents) < 1e-7).all(-1) | (damping > 1e8)
    done |= better & (new[2] > cost * (1 - 1e-10))
    pairs = zip((tried, *new), (exponents, c, fitted, cost, columns))
    exponents, c, fitted, cost, columns = (
      np.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs
    )
    damping = np.where(better, np.maximum(damping * 0.2, 1e-9), damping * 5)
    if done.all():
      break
  return exponents, c, fitted, cost, done


def _best_of_grid(x: Array, y: Array, w: Array, constant: bool) -> tuple[Array, float]:
  """Best exponents [1,k] from the 8 best points of a grid, and the share of the 8 that agree."""
  axis = np.geomspace(0.03, 3.0, 12)
  grid = np.stack(np.meshgrid(*[axis] * len(x), indexing="ij"), -1).reshape(-1, len(x))
  spread = lambda a: np.repeat(a, len(grid), 0)
  cost = _project(grid, x, spread(y), spread(w), constant)[2]
  grid = grid[np.argsort(cost)[:8]]
  exponents, _, _, cost, _ = _search(grid, x, spread(y), spread(w), constant)
  agree = cost <= cost.min() * (1 + AGREE) + 1e-20 * (w * y**2).sum()
  return exponents[[np.argmin(cost)]], float(agree.mean())


def variable_projection(
  x: Array, y: Array, counts: Array, *, constant: bool, offset: Scalar = 0.0, warm=None
) -> Fits:
  """Fits with an inner NNLS for the coefficients and an outer search over the exponents.

  Residuals are relative, (y - fitted) / fitted, so that small and large losses count equally.

  Args:
    x: [k,n] logarithms. y: [R,n], positive. counts: [R,n], how often each row was drawn.
    constant: whether to fit c_0. offset: the known part of y.
    warm: `Fits.warm` of an earlier fit, the start of every search; None: a grid search (R = 1).
  Source: Golub & Pereyra 1973; for this law Czech et al. 2026, arXiv:2603.22339. Differences:
    relative residuals, analytic Gauss-Newton steps instead of Nelder-Mead.
  """
  centre = x.mean(1, keepdims=True)
  x, w, rest, agreement = x - centre, counts / y**2, y - offset, 1.0
  if warm is None:
    exponents, agreement = _best_of_grid(x, rest, w, constant)
  else:
    exponents = np.tile(warm, (len(y), 1))
  for _ in range(PASSES):
    exponents, c, fitted, cost, done = _search(exponents, x, rest, w, constant)
    w = counts / np.maximum(offset + fitted, 1e-3 * y) ** 2
  bounds = _at_bounds(exponents, c)
  c[:, : len(x)] *= np.exp(exponents * centre[:, 0])
  return Fits(exponents, c, offset + fitted, cost, done, bounds, agreement, exponents[0])


def leverage(fits: Fits, x: Array) -> Array:
  """Diagonal [n] of the first fit's linearised hat matrix; its sum counts the free parameters."""
  centre = x.mean(1, keepdims=True)
  k, m = len(x), fits.coefficients.shape[1]
  c = fits.coefficients[:1].copy()
  c[:, :k] *= np.exp(-fits.exponents[:1] * centre[:, 0])
  columns = np.exp(-fits.exponents[:1, None, :] * (x - centre).T)
  columns = np.concatenate([columns, np.ones((1, x.shape[1], m - k))], -1)
  full = _jacobian(fits.exponents[:1], x - centre, c, columns)[0] / fits.fitted[0][:, None]
  if not np.isfinite(full).all():
    raise ConfigError(
      "no law fits these rows: its coefficients overflow floating point. Are the units right?"
    )
  u, s, _ = np.linalg.svd(full / np.maximum(np.linalg.norm(full, axis=0), 1e-300), False)
  return (u[:, s > 1e-10 * s[0]] ** 2).sum(1)


def _huber(theta: Array, x: Array, log_y: Array, counts: Array, log_offset: float):
  """Sum of Huber losses of log residuals, and its gradient; theta: log c [m], exponents [k]."""
  k, m = len(x), len(theta) - len(x)
  terms = np.full((m + 1, x.shape[1]), log_offset)
  terms[:m] = theta[:m, None]
  terms[:k] -= theta[m:, None] * x
  top = terms.max(0)
  share = np.exp(terms - top)
  total = share.sum(0)
  residual = top + np.log(total) - log_y
  size = np.abs(residual)
  loss = np.where(size <= DELTA, 0.5 * residual**2, DELTA * (size - 0.5 * DELTA))
  share *= counts * np.clip(residual, -DELTA, DELTA) / total
  return float(counts @ loss), np.concatenate([share[:m].sum(1), -(share[:k] * x).sum(1)])


def _descend(theta: Array, inverse_hessian: Array | None, *data):
  """Runs BFGS from theta: (end point, objective, converged, scaled inverse Hessian).

  Not L-BFGS-B: its threaded linear algebra is 10 times slower when it must share the cores.
  """
  warm = inverse_hessian
  if warm is not None and not (np.isfinite(warm).all() and (np.linalg.eigvalsh(warm) > 0).all()):
    inverse_hessian = None  # the first fit ended at a bound
  arrived = GRADIENT * data[2].sum() * DELTA * SCALE
  scaled = lambda theta: tuple(SCALE * part for part in _huber(theta, *data))
  options = dict(maxiter=1000, gtol=arrived, hess_inv0=inverse_hessian)
  found = minimize(scaled, theta, jac=True, method="BFGS", options=options)
  converged = bool(np.abs(found.jac).max() <= 100 * arrived)
  return found.x, float(found.fun) / SCALE, converged, (found.hess_inv + found.hess_inv.T) / 2


def _huber_from_grid(k: int, constant: bool, data: tuple):
  """The best of 20 descents from the best grid points, and the share of descents that agree."""
  # A grid of theta, for y with geometric mean 1 and centred x, where no term is much above 1.
  logs, exponents = np.linspace(-4, 0, 6), np.array([0.1, 0.3, 0.6, 1.0, 1.6])
  axes = [logs] * (k + constant) + [exponents] * k
  grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
  values = np.array([_huber(theta, *data)[0] for theta in grid])
  ends = [_descend(theta, None, *data) for theta in grid[np.argsort(values)[:20]]]
  best = min(ends, key=lambda end: end[1])
  return best, float(np.mean([end[1] <= best[1] * (1 + AGREE) + 1e-12 for end in ends]))


def huber(
  x: Array, y: Array, counts: Array, *, constant: bool, offset: Scalar = 0.0, warm=None
) -> Fits:
  """Huber's loss (DELTA) on log residuals, summed: Hoffmann et al. 2022, approach 3.

  Args: as for `variable_projection`. Scaling the sum and centring x make every start converge.
  """
  k, m = len(x), len(x) + constant
  centre, unit = x.mean(1, keepdims=True), np.exp(np.log(y).mean())
  log_offset = np.log(offset / unit) if offset > 0 else -np.inf
  data = lambda r: (x - centre, np.log(y[r] / unit), counts[r], log_offset)
  agreement = 1.0
  if warm is None:
    best, agreement = _huber_from_grid(k, constant, data(0))
    ends = [best]
  else:
    theta, inverse_hessian, old_unit = warm
    theta = theta - np.log(unit / old_unit) * (np.arange(m + k) < m)
    ends = [_descend(theta, inverse_hessian, *data(r)) for r in range(len(y))]
  theta, objective, converged = (np.array([end[i] for end in ends]) for i in (0, 1, 2))
  exponents, c = theta[:, m:], np.exp(theta[:, :m])
  bounds = _at_bounds(exponents, c)
  columns = np.exp(-exponents[:, None, :] * (x - centre).T)  # [R,n,k]
  fitted = np.einsum("rnk,rk->rn", columns, c[:, :k]) + c[:, k:].sum(1, keepdims=True)
  with np.errstate(over="ignore"):  # the search is not bounded: a resample may diverge
    c[:, :k] *= np.exp(exponents * centre[:, 0])
  converged &= np.isfinite(c).all(-1)
  warm = (theta[0], ends[0][3], unit)
  return Fits(
    exponents, c * unit, offset + fitted * unit, objective, converged, bounds, agreement, warm
  )


@dataclass(frozen=True)
class Groups:
  """How a resample groups the rows; [n] each."""

  strata: Array  # rows are drawn within their stratum (a budget)
  cells: Array  # rows of a cell (the seeds of one setting) are drawn together
  relative_error: Array  # standard error of the loss over the loss; 0 where unknown


def draw_rows(rng: np.random.Generator, groups: Groups, resamples: int) -> Array:
  """How often each row was drawn [R,n]: whole cells, with replacement, within each stratum.

  Strata of a single cell are one stratum: alone, its resample is itself, without variance.
  """
  counts = np.zeros((resamples, len(groups.cells)))
  size = {k: len(np.unique(groups.cells[groups.strata == k])) for k in np.unique(groups.strata)}
  strata = np.array([k if size[k] > 1 else -1 for k in groups.strata])
  for stratum in np.unique(strata):
    inside = np.flatnonzero(strata == stratum)
    _, cell = np.unique(groups.cells[inside], return_inverse=True)
    n = int(np.max(cell)) + 1
    counts[:, inside] = rng.multinomial(n, np.full(n, 1 / n), resamples)[:, cell]
  return counts


def draw_wild(
  rng: np.random.Generator, groups: Groups, resamples: int, fitted: Array, y: Array, hat: Array,
  power: float = 1.0,
) -> Array:  # fmt: skip
  """Losses [R,n]: fitted exp(v r / (1 - h)^power), r log residual, h leverage, v normal per cell.

  The design is kept, each row keeps its own noise scale, and the division corrects for residuals
  being smaller than errors (power 1: HC3). Source: Wu 1986; Davidson & Flachaire 2008.
  """
  residual = np.log(y / fitted) / (1 - np.minimum(hat, LEVERAGE)) ** power
  _, cell = np.unique(groups.cells, return_inverse=True)
  return fitted * np.exp(residual * rng.normal(size=(resamples, int(np.max(cell)) + 1))[:, cell])


def perturb(rng: np.random.Generator, groups: Groups, y: Array) -> Array:
  """Losses [R,n] with their measurement error added."""
  return y * np.exp(groups.relative_error * rng.normal(size=y.shape))


def resampled(
  x: Array, y: Array, groups: Groups, *, robust: bool, floor: float | None, kind: str,
  resamples: int, seed: int,
) -> tuple[Fits, Fits | None, Array]:  # fmt: skip
  """(fit of y [n] at x [k,n], fits of its resamples or None if there are none, leverages [n]).

  Args: robust: use `huber`. floor: the known constant; None: fitted. kind: "rows" or "wild".
  """
  engine, rng, n = huber if robust else variable_projection, np.random.default_rng(seed), len(y)
  fit = lambda y, counts, warm=None: engine(
    x, y, counts, constant=floor is None, offset=floor or 0.0, warm=warm
  )
  first = fit(y[None], np.ones((1, n)))
  hat = leverage(first, x)
  if not resamples:
    return first, None, hat
  if kind == "rows":
    counts, many = draw_rows(rng, groups, resamples), np.tile(y, (resamples, 1))
  else:
    counts = np.ones((resamples, n))
    many = draw_wild(rng, groups, resamples, first.fitted[0], y, hat)
  return first, fit(perturb(rng, groups, many), counts, first.warm), hat


def interval(draws: Array, level: float = 0.95) -> tuple[Any, Any]:
  """Percentile interval (low, high) over the first axis; ignores NaN draws."""
  tail = (1 - level) / 2
  low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
  return low, high
