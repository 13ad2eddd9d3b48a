"""The best use of a budget under a law: for training alone, and for training plus serving.

Letters: N parameters, D data (tokens, pixels or seconds of video), S sampling steps, R bootstrap
draws, G points of a grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from videojax.errors import ConfigError
from videojax.scaling.bootstrap import Scalar
from videojax.scaling.law_forms import Additive, Law, Number, Power

Array = np.ndarray
Flops = Scalar | Callable  # the coefficient c of c N D, or a function of N and D

LOG_RANGE = (-30.0, 90.0)  # of the search for log N and log D, wide enough for any units


@dataclass(frozen=True)
class Optimum(Law):
  """The best use of a budget: numbers, or one per draw [R]."""

  params: Number
  tokens: Number
  loss: Number


def best_size(law: Additive, product: Number) -> Any:
  """N of lowest loss with N D = product, in closed form (Hoffmann et al. 2022, eq. 4).

  Args: law: one with A, B > 0, or R draws of it, whose [R] broadcast with `product`.
  """
  ratio = law.alpha * law.A / (law.beta * law.B)
  return (ratio * product**law.beta) ** (1 / (law.alpha + law.beta))


def _tokens_at(params: Array, flops: Scalar, count: Callable) -> Array:
  """D (shape of params) with FLOPs(N, D) = flops, by bisection in log D; FLOPs must rise with D."""
  low, high = (np.full(params.shape, end) for end in LOG_RANGE)
  for _ in range(60):
    middle = (low + high) / 2
    over = count(params, np.exp(middle)) > flops
    low, high = np.where(over, low, middle), np.where(over, middle, high)
  return np.exp(low)


def _loss(draws: Additive, params: Array, tokens: Array) -> Array:
  """Loss [R,...] of R draws, each at its own N and D [R,...]."""
  E, A, B, alpha, beta = (value[:, None] for value in draws.as_dict().values())
  return E + A * params**-alpha + B * tokens**-beta


def _zoom(value: Callable, centre: Array, half: float) -> Array:
  """Minimum [R] of value ([R,41] -> [R,41]) within centre [R] +- half, to within half / 20^5."""
  for width in half * 20.0 ** -np.arange(5):
    around = centre[:, None] + np.linspace(-width, width, 41)
    at = np.argmin(value(around), -1)
    centre = np.take_along_axis(around, at[:, None], -1)[:, 0]
  return centre


def optimum(law: Additive, flops: Scalar, flops_of: Flops = 6.0) -> Optimum:
  """The N and D of lowest loss with FLOPs(N, D) = flops, for a law or for each of its draws.

  Args:
    flops: of the whole training.
    flops_of: training FLOPs as a function of arrays N and D, or the c of c N D. (6 is for language
      models; a video model, whose attention grows with the square of a clip's tokens, may need 8
      times that.)
  Returns: the optimum; NaN for a draw that has none, for example because its A or B is 0.
  Raises:
    ConfigError: the law itself has no optimum.
  """
  count, step = _flops_function(flops_of), 0.05
  draws = type(law)(*(np.atleast_1d(value) for value in law.as_dict().values()))
  log_n = np.arange(*LOG_RANGE, step)  # [G]
  at = np.argmin(draws.loss(np.exp(log_n), _tokens_at(np.exp(log_n), flops, count)), -1)  # [R]
  none = (at == 0) | (at == len(log_n) - 1)
  if np.ndim(law.alpha) == 0 and none.any():
    raise ConfigError(f"no optimum at {flops:.3g} FLOP: this law's loss has no minimum in N")
  value = lambda x: _loss(draws, np.exp(x), _tokens_at(np.exp(x), flops, count))
  best = _zoom(value, log_n[at], step)
  best, loss = np.where(none, np.nan, best), value(best[:, None])[:, 0]
  found = Optimum(np.exp(best), _tokens_at(np.exp(best), flops, count), loss)
  return found if np.ndim(law.alpha) else found.take(0)


def _flops_function(flops: Flops) -> Callable:
  return flops if callable(flops) else lambda params, tokens: flops * params * tokens


@dataclass(frozen=True)
class Plan:
  """A model, its training and its sampling."""

  params: float
  tokens: float
  steps: int
  quality: float  # the law's loss plus the excess due to a finite number of steps
  train_flops: float
  serve_flops: float

  @property
  def total_flops(self) -> float:
    return self.train_flops + self.serve_flops


def optimal_plan(
  law: Additive,
  target: Scalar,
  *,
  minutes: Scalar,
  clips_per_minute: Scalar,
  steps: Power,
  forward: Scalar | Callable,
  train: Flops = 6.0,
  tokens_per_clip: Scalar = 1.0,
  guidance_branches: int = 2,
  max_steps: int = 1000,
) -> Plan:
  """The plan with the fewest FLOPs for training and for serving `minutes` of video at a quality.

  Minimises train(N, D) + minutes clips_per_minute S guidance_branches forward(N) over N, D and S
  with loss(N, D) + k S^-kappa <= target: Sardana et al. 2024 (arXiv:2401.00448), eq. 3, with S.

  Args:
    law: of the quality, for infinitely many steps. target: the quality, in the same unit.
    steps: q(S) = q_inf + k S^-kappa, in the law's unit; q_inf is not used.
    forward: FLOPs of one network evaluation on one clip, as a function of N (an array); or the c
      of c N tokens_per_clip.
    train: like flops_of of `optimum`.
  Raises:
    ConfigError: no model reaches the target, or the law's A or B is 0.
  """
  excess = steps.at(np.arange(1, max_steps + 1)) - steps.floor  # [S]
  if target <= law.E + excess[-1] or min(law.A, law.B) <= 0:
    raise ConfigError(
      f"no model reaches {target:g}: with {max_steps} steps the law's lowest loss is "
      f"{law.E + excess[-1]:g}; and its A and B ({law.A:g}, {law.B:g}) must be above 0"
    )
  index = np.flatnonzero(target > law.E + excess)
  one_clip = forward if callable(forward) else lambda n: forward * n * tokens_per_clip
  clips = minutes * clips_per_minute * guidance_branches
  serve = lambda n: clips * (index[:, None] + 1) * one_clip(n)
  plans = _cheapest(law, target - law.E - excess[index], _flops_function(train), serve)
  n, d, trained, served = (float(v) for v in plans[:, np.argmin(plans[2] + plans[3])])
  s = index[np.argmin(plans[2] + plans[3])]
  return Plan(n, d, int(s) + 1, float(law.loss(n, d) + excess[s]), trained, served)


def _cheapest(law: Additive, room: Array, train: Callable, serve: Callable) -> Array:
  """(N, D, train and serve FLOPs) [4,S] of lowest sum, with A / N^alpha + B / D^beta = room [S]."""
  room = room[:, None]
  least = np.log(law.A / room) / law.alpha  # log of the N that needs infinite data

  def at(log_excess: Array) -> tuple[Array, Array]:
    """N and D [S,...] at log N = least + exp(log_excess)."""
    ratio = np.exp(log_excess)
    spent = room * -np.expm1(-law.alpha * ratio)  # the loss left for the data term
    return np.exp(least + ratio), (law.B / spent) ** (1 / law.beta)

  def costs(log_excess: Array) -> Array:
    params, tokens = at(log_excess)
    return np.stack([train(params, tokens), serve(params)])

  grid = np.log(np.geomspace(1e-4, 40, 300))
  total = lambda log_excess: costs(log_excess).sum(0)
  start = grid[np.argmin(total(np.tile(grid, (len(room), 1))), -1)]
  best = _zoom(total, start, grid[1] - grid[0])[:, None]
  return np.concatenate([np.stack(at(best)), costs(best)])[..., 0]
