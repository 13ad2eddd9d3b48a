"""IsoFLOP parabolas: the size of lowest loss at each budget, and a power law through these sizes.

Approach 2 of Hoffmann et al. 2022. A parabola is only the second-order part of the law, so the
minima of wide, off-centre or drifting grids are biased (Czech et al. 2026, arXiv:2603.22339);
`warnings` reports such grids.

Letters: R resamples, n rows, G budgets.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from videojax.errors import ConfigError
from videojax.scaling.bootstrap import Scalar, variable_projection
from videojax.scaling.law_forms import Law, Number, Power
from videojax.scaling.optimum import Optimum

Array = np.ndarray

SIZES = 5  # fewest per budget that leave a parabola two degrees of freedom
SAME = 1.1  # rows whose FLOPs differ by a smaller factor share a budget, if there is no such column
CENTRED = 0.25  # how far a minimum may lie from the grid's middle, in half widths in log N
# A parabola fits 3 coefficients to about 5 rows. Measured coverage of 95 % intervals of a: .84 with
# residuals over (1 - h)^.5 (HC2), .95 with .75, 1.00 with 1 (HC3).
WILD_POWER = 0.75
LOG_LIMITS = (-700.0, 700.0)  # resampled parabolas may be so flat that their power laws overflow
FREE_FLOOR = 4  # fewest budgets for which the floor of the loss at the minima is fitted


@dataclass(frozen=True)
class IsoFlop(Law):
  """Best N = k_params C^a, best D = k_tokens C^b, and their loss, floor + k C^-gamma."""

  a: Number
  b: Number
  k_params: Number
  k_tokens: Number
  floor: Number
  k: Number
  gamma: Number

  def at(self, flops: Number) -> Any:
    """Loss of the best model at C; [R, *shape] for draws."""
    return Power(self.floor, self.k, self.gamma).at(flops)

  def optimum(self, flops: Scalar) -> Optimum:
    """The best N, D and their loss at a budget."""
    size, data = (
      np.exp(np.clip(np.log(k) + exponent * np.log(flops), *LOG_LIMITS))
      for k, exponent in ((self.k_params, self.a), (self.k_tokens, self.b))
    )
    return Optimum(size, data, self.at(flops))


@dataclass(frozen=True)
class Minimum:
  """The minimum of one budget's parabolas."""

  flops: float
  params: float  # NaN if the parabola opens downwards
  tokens: float
  loss: float
  curvature: float  # of the parabola, in log N
  sizes: int  # number of model sizes
  offset: float  # of the minimum from the middle of the grid, in half widths in log N


@dataclass(frozen=True)
class Parabolas:
  """Fits of all budgets, for R resamples."""

  law: IsoFlop  # [R]
  minima: list[Minimum]  # of the first resample
  fitted: Array  # [n], of the first resample; NaN where no parabola was fitted
  leverage: Array  # [n]
  valid: Array  # [R], whether at least two budgets have a minimum


def budgets(flops: Array) -> Array:
  """The budget [n] of each row, for a table without that column: chains of gaps below SAME."""
  order = np.argsort(flops)
  new = np.diff(np.log(flops[order])) > np.log(SAME)
  group = np.empty(len(flops), int)
  group[order] = np.concatenate([[0], np.cumsum(new)])
  for g in range(group.max() + 1):
    low, high = flops[group == g].min(), flops[group == g].max()
    if high > low * SAME**2:
      raise ConfigError(
        f"isoflop needs budgets: FLOPs range from {low:.3g} to {high:.3g} without a gap; "
        "add a column 'budget', or use variable_projection"
      )
  return group


class Parabola(NamedTuple):
  """Least-squares fit of c0 + c1 u + c2 u^2, where u = (x - middle) / unit lies in [-1,1]."""

  middle: float
  unit: float
  design: Array  # [n,3]
  inverse: Array  # [3,n]: coefficients = inverse @ y
  c: Array  # [R,3]

  @property
  def vertex(self) -> Array:
    """x of the minimum [R]; NaN if the parabola opens downwards."""
    return self.middle + self.unit * self.turn

  @property
  def turn(self) -> Array:
    """u of the minimum [R]."""
    return -self.c[:, 1] / np.where(self.c[:, 2] > 0, 2 * self.c[:, 2], np.nan)

  @property
  def least(self) -> Array:
    """y at the minimum [R]."""
    return self.c[:, 0] + self.c[:, 1] * self.turn / 2

  @property
  def curvature(self) -> Array:
    """d2y / dx2 [R]."""
    return 2 * self.c[:, 2] / self.unit**2

  @property
  def fitted(self) -> Array:
    """y at the points [R,n]."""
    return self.c @ self.design.T

  @property
  def leverage(self) -> Array:
    """Of the points [n]."""
    return (self.design * self.inverse.T).sum(1)


def parabola(x: Array, y: Array) -> Parabola:
  """Fits y [R,n] at x [n]."""
  middle, unit = (x.min() + x.max()) / 2, np.ptp(x) / 2
  u = (x - middle) / unit
  design = np.stack([np.ones_like(u), u, u**2], -1)
  inverse = np.linalg.pinv(design)
  return Parabola(middle, unit, design, inverse, y @ inverse.T)


def _line(x: Array, y: Array) -> tuple[Array, Array]:
  """Slope, and value at x = 0, [R] of a line through y [R,G] against x [G]; ignores NaN in y."""
  use = np.isfinite(y)
  count = np.maximum(use.sum(-1, keepdims=True), 1)
  y0 = np.where(use, y, 0)
  dx = np.where(use, x - (use * x).sum(-1, keepdims=True) / count, 0)  # [R,G]
  spread = (dx**2).sum(-1)
  slope = (dx * y0).sum(-1) / np.where(spread > 0, spread, np.nan)
  return slope, ((y0 - use * slope[:, None] * x) / count).sum(-1)


def _loss_at_minima(log_c: Array, loss: Array, floor: float | None) -> tuple[Power, Array]:
  """floor + k C^-gamma [R] through the losses [R,G] at the minima; whether there are two [R]."""
  use = np.isfinite(loss) & (loss > 0)
  enough = use.sum(-1) >= 2
  if not enough.any():
    raise ConfigError("fewer than 2 budgets have a minimum: the parabolas open downwards")
  y, counts = np.where(use, loss, 1.0), np.where(enough[:, None], use, 1.0)
  free = floor is None and len(log_c) >= FREE_FLOOR
  known = None if free else (floor or 0.0)
  engine = lambda y, counts, warm: variable_projection(
    log_c[None], y, counts, constant=free, offset=known or 0.0, warm=warm
  )
  first = [np.argmax(use.sum(-1))]
  warm = engine(y[first], counts[first], None).warm
  return Power.of(engine(y, counts, warm), known), enough


def fit_isoflop(
  params: Array, tokens: Array, flops: Array, budget: Array, y: Array, floor: float | None
) -> Parabolas:
  """Fits a parabola per budget, and power laws through their minima.

  The parabola is fitted to the loss or, if the floor is known, to log(loss - floor), which is
  closer to a parabola if the law spans decades.

  Args: params, tokens, flops, budget [n]; y [R,n]; floor of the loss; None: fitted.
  """
  back = lambda value: value if floor is None else floor + np.exp(value)
  if floor is not None:
    y = np.log(np.maximum(y - floor, 1e-3 * y))
  fitted, hat = np.full(y.shape[1], np.nan), np.zeros(y.shape[1])
  minima, columns = [], []
  rows = [np.flatnonzero(budget == g) for g in np.unique(budget)]
  for i in sorted(rows, key=lambda i: np.median(flops[i])):
    sizes = len(np.unique(params[i]))
    if sizes < 3:
      continue
    x, c = np.log(params[i]), float(np.exp(np.log(flops[i]).mean()))
    curve = parabola(x, y[:, i])
    log_n, log_d = curve.vertex, parabola(np.log(tokens[i]), y[:, i]).vertex
    loss, fitted[i], hat[i] = back(curve.least), back(curve.fitted[0]), curve.leverage
    best = (float(np.exp(log_n[0])), float(np.exp(log_d[0])), float(loss[0]))
    bend, offset = float(curve.curvature[0]), float(curve.turn[0])
    minima.append(Minimum(c, *best, bend, sizes, offset))
    columns.append((log_n, log_d, loss))
  if len(minima) < 2:
    raise ConfigError(
      f"isoflop needs 2 budgets with 3 model sizes each; of {len(rows)} budgets "
      f"{len(minima)} have them"
    )
  log_c = np.log([m.flops for m in minima])  # [G]
  log_n, log_d, loss = np.array(columns).transpose(1, 2, 0)  # [R,G]
  (a, k_n), (b, k_d) = (_line(log_c, column) for column in (log_n, log_d))
  power, enough = _loss_at_minima(log_c, loss, floor)
  k_n, k_d = (np.exp(np.clip(k, *LOG_LIMITS)) for k in (k_n, k_d))
  law = IsoFlop(a, b, k_n, k_d, power.floor, power.k, power.gamma)
  return Parabolas(law, minima, fitted, hat, enough & np.isfinite(a) & np.isfinite(b))


def warnings(minima: list[Minimum], skipped: int) -> list[str]:
  """Warnings about the grid of model sizes."""
  found, at = [], lambda m: f"budget {m.flops:.3g}"
  if skipped:
    found.append(f"too few sizes: {skipped} budgets have fewer than 3 model sizes and are left out")
  for m in minima:
    if not np.isfinite(m.offset):
      found.append(f"{at(m)}: wrong curvature, the loss has no minimum in N; it is left out")
    elif abs(m.offset) > 1:
      found.append(f"{at(m)}: minimum beyond the edge of the grid ({m.offset:+.2f} half widths)")
    elif abs(m.offset) > CENTRED:
      found.append(f"{at(m)}: off-centre grid, minimum {m.offset:+.2f} half widths from its middle")
    if m.sizes < SIZES:
      found.append(f"{at(m)}: too few sizes for a parabola ({m.sizes}; {SIZES} leave 2 to spare)")
  inside = [m for m in minima if np.isfinite(m.offset)]
  if len(inside) < 3:
    found.append("2 budgets: they determine a power law exactly, so its fit cannot be judged")
  slope, _ = _line(np.log([m.flops for m in inside]), np.array([[m.offset for m in inside]]))
  drift = float(slope[0]) * np.log(inside[-1].flops / inside[0].flops)
  if abs(drift) > CENTRED:
    found.append(
      f"drifting grid: its middle moves by {-drift:+.2f} half widths against the minima over the "
      "budgets, which biases the exponents"
    )
  return found
