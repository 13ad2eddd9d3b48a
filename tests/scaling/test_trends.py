"""Curves through few points: what they say beyond the points, and where they reach a value."""

import numpy as np
import pytest
from scipy import stats

from videojax.scaling.calibration import PUBLIC
from videojax.scaling.trends import power_line, rate_curve, survival_curve

FLOPS = np.geomspace(1e12, 1e14, 3)
FAR = 1e15


def error(c):
  return 0.02 + 50 * c**-0.15


def test_beyond_its_points_an_exact_line_is_as_wide_as_the_prior_says():
  line = power_line(FLOPS, error(FLOPS) - 0.02, np.full(3, 1e-9), offset=0.02)
  at = line.interval(FAR)
  half = stats.norm.ppf(0.975) * PUBLIC.growth * 0.15 * np.log(10)
  assert at["mean"] == pytest.approx(error(FAR))
  assert np.log((at["high"] - 0.02) / (at["mean"] - 0.02)) == pytest.approx(half, rel=1e-3)
  within = line.interval(3e13)
  assert within["high"] - within["low"] < 1e-6 * within["mean"]


def test_a_last_point_off_the_line_of_the_others_widens_the_prediction():
  flops = np.geomspace(1e12, 1e15, 4)
  straight = power_line(flops, error(flops) - 0.02, np.full(4, 0.01))
  bent = power_line(flops, (error(flops) - 0.02) * [1, 1, 1, 1.2], np.full(4, 0.01))
  assert straight.evidence.misfit() < 1 < 2 < bent.evidence.misfit()


def test_a_line_reaches_a_value_where_its_formula_says():
  line = power_line(FLOPS, error(FLOPS) - 0.02, np.full(3, 0.02), offset=0.02)
  at = line.reaches(0.4)
  assert at["mean"] == pytest.approx((0.38 / 50) ** (-1 / 0.15))
  assert at["low"] < at["mean"] < at["high"]
  assert line.reaches(0.02) is None and line.reaches(0.01) is None  # the floor and below
  unsure = power_line(FLOPS, error(FLOPS) - 0.02, np.full(3, 1.0), offset=0.02).reaches(0.4)
  assert unsure["high"] is None  # it may be flat


def test_a_value_far_beyond_the_points_is_reached_with_the_error_of_form():
  line = power_line(FLOPS, error(FLOPS) - 0.02, np.full(3, 1e-9), offset=0.02)
  at = line.reaches(0.02 + 50 * 1e20**-0.15)  # the points end at 1e14
  decades = 6 / (1 - 1.96 * PUBLIC.growth)  # to where a line that falls so much less is there
  assert np.log10(at["high"]) - 14 == pytest.approx(decades, rel=0.03)
  within = line.reaches(0.02 + 50 * 1e13**-0.15)
  assert within["high"] == pytest.approx(within["low"], rel=1e-6)


def test_the_onsets_interval_holds_the_truth():
  rng, truth, inside = np.random.default_rng(0), (0.38 / 50) ** (-1 / 0.15), []
  flops = np.geomspace(1e12, 1e14, 5)
  for _ in range(300):
    noisy = (error(flops) - 0.02) * np.exp(0.05 * rng.normal(size=5))
    at = power_line(flops, noisy, np.full(5, 0.05), offset=0.02).reaches(0.4)
    inside.append(at["low"] <= truth <= (at["high"] or np.inf))
  assert 0.92 <= np.mean(inside) <= 0.99


def test_a_rates_prediction_widens_with_the_distance():
  share = 1 / (1 + np.exp(-0.5 * np.log(FLOPS / 1e12)))
  near, far = (rate_curve(FLOPS, share, np.full(3, 1e-4), 10**6).interval(c) for c in (1e14, 1e18))
  half = lambda at: np.log(at["high"] / (1 - at["high"]) * (1 - at["mean"]) / at["mean"])
  assert half(near) < 0.1
  assert half(far) > 1.96 * PUBLIC.growth * 0.5 * np.log(1e4)


def test_survival_of_a_new_run_lies_in_its_interval():
  rng, last, clips = np.random.default_rng(1), 12, 128
  hazard = lambda c: 0.2 * (c / 1e13) ** -0.3

  def frames(c):
    return np.minimum(rng.geometric(1 - np.exp(-hazard(c)), clips) - 1, last).astype(float)

  inside = []
  for _ in range(100):
    at = survival_curve(list(FLOPS), [frames(c) for c in FLOPS], last).interval(2e14)
    inside.append(at["low"] <= frames(2e14).mean() <= at["high"])
    assert 0 <= at["low"] < at["mean"] < at["high"] <= last
  assert np.mean(inside) >= 0.9
