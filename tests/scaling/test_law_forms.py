"""Forms of laws against closed forms and published numbers."""

import numpy as np
import pytest
from scipy import optimize

from videojax.scaling.law_forms import (
  Additive,
  Power,
  fit_power,
  fit_rate,
  fit_survival,
  predictors,
)
from videojax.scaling.optimum import optimal_plan, optimum

# Yin et al. 2025 (arXiv:2411.17470): N in billions of parameters, T in billions of tokens; 0.0373
# and 0.0082 are amplitudes.
YIN = Additive(E=0.4856, A=0.0082, B=0.0373, alpha=0.3188, beta=0.2917)
HOFFMANN = Additive(1.69, 406.4, 410.7, 0.34, 0.28)


@pytest.mark.parametrize("params,tokens,loss", [(1.07, 10, 0.51266), (0.72, 140, 0.50352)])
def test_yins_law_makes_their_published_predictions(params, tokens, loss):
  assert abs(YIN.loss(params, tokens) - loss) < 1e-4


def test_yins_law_under_6nt_wants_3_35_billion_parameters_at_1e22():
  best = optimum(YIN, 1e22, 6e18)
  assert abs(YIN.a - 0.478) < 5e-4
  np.testing.assert_allclose(best.params, 3.35, rtol=2e-3)
  np.testing.assert_allclose(6e18 * best.params * best.tokens, 1e22, rtol=1e-9)


@pytest.mark.parametrize("flops", [1e18, 1e22, 1e26])
def test_optimum_under_6nd_is_the_closed_form(flops):
  g = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
  best = optimum(HOFFMANN, flops)
  size = g * (flops / 6) ** (0.28 / 0.62)
  np.testing.assert_allclose([best.params, best.tokens], [size, flops / 6 / size], rtol=1e-5)
  np.testing.assert_allclose(best.loss, HOFFMANN.loss(size, flops / 6 / size), rtol=1e-12)


def test_optimum_minimises_the_loss_under_the_callers_flops():
  # Attention: FLOPs per token grow with the square root of the size at a fixed context.
  count = lambda n, d: (6 * n + 3e5 * np.sqrt(n)) * d
  best = optimum(HOFFMANN, 1e20, count)
  np.testing.assert_allclose(count(best.params, best.tokens), 1e20, rtol=1e-9)
  loss = lambda log_n: HOFFMANN.loss(np.exp(log_n), 1e20 / count(np.exp(log_n), 1))
  expected = optimize.minimize_scalar(loss, bounds=(10, 40), method="bounded")
  np.testing.assert_allclose(best.loss, expected.fun, rtol=1e-10)
  assert best.params > 1.1 * optimum(HOFFMANN, 1e20).params


def test_optimum_of_draws_is_that_of_each_and_nan_where_there_is_none():
  draws = Additive(*(np.array([v, 1.02 * v, v]) for v in HOFFMANN.as_dict().values()))
  draws.A[2] = 0
  best = optimum(draws, 1e21)
  for r in (0, 1):
    np.testing.assert_allclose(best.params[r], optimum(draws.take(r), 1e21).params, rtol=1e-9)
  assert np.isnan(best.params[2])
  with pytest.raises(ValueError, match="no optimum at 1e.21 FLOP"):
    optimum(draws.take(2), 1e21)


def test_loss_of_draws_has_their_axis_first():
  draws = Additive(*(np.full(7, v) for v in HOFFMANN.as_dict().values()))
  found = draws.loss(np.ones((2, 1)) * 1e9, np.ones((1, 3)) * 1e10)
  assert found.shape == (7, 2, 3)
  np.testing.assert_allclose(found, HOFFMANN.loss(1e9, 1e10))


def test_saturation_in_sampling_steps_is_recovered():
  steps = np.array([4, 8, 16, 32, 64, 128])
  found = fit_power(steps, 2.5 + 30 * steps**-1.3)
  np.testing.assert_allclose([found.floor, found.k, found.gamma], [2.5, 30, 1.3], rtol=1e-5)
  np.testing.assert_allclose(found.at(256), 2.5 + 30 * 256**-1.3, rtol=1e-6)


def test_power_law_needs_as_many_points_as_it_has_numbers():
  with pytest.raises(ValueError, match="2 points are too few for the 3 coefficients"):
    fit_power([1, 2], [1, 2])
  with pytest.raises(ValueError, match="needs x > 0 and y > 0"):
    fit_power([1, 2, 4], [1, 0.5, 0], floor=0)


# Rates


def test_rate_through_two_budgets_is_the_line_between_their_logits():
  found = fit_rate([1e14, 1e16], [60, 12], [100, 100])
  logit = lambda p: np.log(p / (1 - p))
  gamma = (logit(0.6) - logit(0.12)) / np.log(100)
  np.testing.assert_allclose(found.gamma, gamma, rtol=1e-8)
  np.testing.assert_allclose(found.at(np.array([1e14, 1e16])), [0.6, 0.12], rtol=1e-8)
  # Binomial: variance of a logit is 1 / (n p (1 - p)).
  se = np.sqrt(1 / (100 * 0.6 * 0.4) + 1 / (100 * 0.12 * 0.88)) / np.log(100)
  np.testing.assert_allclose(np.diff(found.gamma_interval) / 2, 1.959964 * se, rtol=1e-5)
  low, high = found.interval(1e14)
  np.testing.assert_allclose(logit(high) - logit(low), 2 * 1.959964 / np.sqrt(24), rtol=1e-5)


@pytest.mark.parametrize("between_runs", [0.0, 0.6])
def test_interval_of_a_rate_covers_gamma_even_where_runs_differ_by_more_than_chance(between_runs):
  rng, flops = np.random.default_rng(0), np.repeat(np.geomspace(1e13, 1e16, 4), 4)
  centre, hits = np.log(flops).mean(), []
  for _ in range(200):
    eta = -1 - 0.3 * (np.log(flops) - centre) + between_runs * rng.normal(size=16)
    events = rng.binomial(256, 1 / (1 + np.exp(-eta)))
    low, high = fit_rate(flops, events, np.full(16, 256)).gamma_interval
    # Noise inside the logit flattens the mean's slope by about 1 / sqrt(1 + sd^2 (pi/8)).
    hits.append(low <= 0.3 / np.sqrt(1 + between_runs**2 * np.pi / 8) <= high)
  assert 0.9 <= np.mean(hits) < 1


def test_rate_that_never_happens_tells_no_exponent():
  with pytest.raises(ValueError, match="0 of 200 trials are events"):
    fit_rate([1e14, 1e16], [0, 0], [100, 100])
  with pytest.raises(ValueError, match="at least 2 budgets"):
    fit_rate([1e14, 1e14], [1, 2], [100, 100])
  with pytest.raises(ValueError, match="the likelihood has no maximum"):
    fit_rate([1e14, 1e16], [100, 0], [100, 100])


# Survival


def survival_clips(rng, hazards, clips, last):
  """First violated frame, or the clip's end, of clips with a hazard [budgets,frames]."""
  frames, violated = [], []
  for hazard in hazards:
    happens = rng.random((clips, last)) < 1 - np.exp(-hazard)
    violated.append(happens.any(1))
    frames.append(np.where(violated[-1], happens.argmax(1) + 1, last))
  return np.concatenate(frames), np.concatenate(violated)


def test_survival_with_constant_hazard_is_the_closed_form_of_two_budgets():
  frames = np.array([1, 2, 2, 5, 8, 8, 3, 8, 8, 8])
  violated = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 0], bool)
  flops = np.repeat([1e14, 1e16], [6, 4])
  found = fit_survival(flops, frames, violated, baseline="constant")
  # Each frame is a trial: 4 events in 26 frames, 2 in 27.
  hazards = [-np.log(1 - 4 / 26), -np.log(1 - 2 / 27)]
  np.testing.assert_allclose(found.gamma, np.log(hazards[0] / hazards[1]) / np.log(100), rtol=1e-7)
  for budget, hazard in zip((1e14, 1e16), hazards):
    np.testing.assert_allclose(found.curve(budget), np.exp(-hazard * np.arange(1, 9)), rtol=1e-7)


def test_exponent_of_survival_is_unbiased_where_hazard_grows_along_the_clip():
  rng, budgets = np.random.default_rng(1), np.geomspace(1e13, 1e16, 4)
  shape = np.linspace(0.02, 0.4, 13)
  hits, error = [], []
  for _ in range(100):
    hazards = (budgets[:, None] / 1e13) ** -0.25 * shape
    frames, violated = survival_clips(rng, hazards, 128, 13)
    found = fit_survival(np.repeat(budgets, 128), frames, violated)
    low, high = found.gamma_interval
    hits.append(low <= 0.25 <= high)
    error.append(found.gamma - 0.25)
  assert 0.9 <= np.mean(hits) < 1
  assert abs(np.mean(error)) < 3 * np.std(error) / 10
  # Who fails early is seen in frames of low hazard only: a constant one flattens gamma.
  constant = fit_survival(np.repeat(budgets, 128), frames, violated, baseline="constant")
  assert constant.gamma < found.gamma - 0.02


def test_clip_that_outlives_its_end_counts_as_censored_not_as_violated():
  frames, flops = np.full(40, 16), np.repeat([1e14, 1e16], 20)
  some = np.arange(40) % 20 < np.repeat([10, 3], 20)
  early = np.where(some, 4, 16)
  found = fit_survival(flops, early, some)
  np.testing.assert_allclose(found.curve(1e14)[[2, 3, 15]], [1, 0.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(found.curve(1e16)[-1], 0.85, rtol=1e-6)
  with pytest.raises(ValueError, match="2 budgets, 0 violations"):
    fit_survival(flops, frames, np.zeros(40, bool))


# Noise levels


def test_the_level_that_drives_coherence_has_r2_one_and_the_others_less():
  rng = np.random.default_rng(2)
  levels = np.exp(rng.normal(size=(12, 4))) * [1, 0.1, 1, 0]
  levels[:, 3] = levels[:, 0] + np.exp(rng.normal(size=12))
  dynamics = levels[:, 3] - levels[:, 0]
  found = predictors(0.3 * dynamics**0.7, levels)
  assert [p.name for p in found] == ["level 0", "level 1", "level 2", "level 3", "dynamics"]
  np.testing.assert_allclose([found[-1].r2, found[-1].slope], [1, 0.7], rtol=1e-9)
  assert max(p.r2 for p in found[:-1]) < 0.999 and found[0].n == 12
  expected = np.corrcoef(np.log(levels[:, 1]), np.log(dynamics))[0, 1] ** 2
  np.testing.assert_allclose(found[1].r2, expected)


def test_runs_without_a_positive_difference_are_left_out_and_counted():
  levels = np.array([[1.0, 2.0], [1.0, 3.0], [1.5, 5.0], [2.0, 1.0]])
  assert [p.n for p in predictors([1, 2, 3, 4], levels)] == [4, 4, 3]
  with pytest.raises(ValueError, match="dynamics: 2 runs with a positive loss and measure"):
    predictors([1, 2, 3, 4], levels - [[0, 0], [0, 0], [0, 4], [0, 0]])


# What will be served

SERVE = dict(clips_per_minute=12.0, steps=Power(0.0, 0.5, 1.0), forward=2, tokens_per_clip=1e4)


def test_with_nothing_to_serve_the_plan_is_the_training_optimum():
  plan = optimal_plan(HOFFMANN, 2.3, minutes=0, max_steps=400, **SERVE)
  assert plan.steps == 400 and plan.serve_flops == 0
  best = optimum(HOFFMANN, plan.train_flops)
  np.testing.assert_allclose(plan.params, best.params, rtol=1e-3)
  np.testing.assert_allclose(best.loss, 2.3 - 0.5 / 400, rtol=1e-9)


@pytest.mark.parametrize("minutes", [1e4, 1e6, 1e9])
def test_plan_is_the_cheapest_of_a_direct_search(minutes):
  plan = optimal_plan(HOFFMANN, 2.3, minutes=minutes, **SERVE)
  np.testing.assert_allclose(plan.quality, 2.3, rtol=1e-9)
  np.testing.assert_allclose(plan.train_flops, 6 * plan.params * plan.tokens, rtol=1e-9)
  np.testing.assert_allclose(
    plan.serve_flops, minutes * 12 * 2 * plan.steps * 2 * plan.params * 1e4, rtol=1e-9
  )

  def cost(log_n, steps):
    room = 2.3 - 1.69 - 0.5 / steps - 406.4 * np.exp(-0.34 * log_n)
    if room <= 0:
      return 1e60
    tokens = (410.7 / room) ** (1 / 0.28)
    return np.exp(log_n) * (6 * tokens + minutes * 12 * 2 * steps * 2 * 1e4)

  least = min(
    optimize.minimize_scalar(cost, bracket=(plan_n, plan_n + 0.01), args=(s,)).fun
    for s in range(1, 1001)
    for plan_n in [np.log(plan.params)]
    if cost(plan_n, s) < 1e60
  )
  np.testing.assert_allclose(plan.total_flops, least, rtol=1e-9)


def test_the_more_is_served_the_smaller_the_model_and_the_longer_its_training():
  plans = [optimal_plan(HOFFMANN, 2.3, minutes=m, **SERVE) for m in 10.0 ** np.arange(2, 11, 2)]
  params, tokens = np.array([(p.params, p.tokens) for p in plans]).T
  steps = np.array([p.steps for p in plans])
  assert (np.diff(params) < 0).all() and (np.diff(tokens) > 0).all()
  assert (np.diff(steps) <= 0).all() and steps[-1] < steps[0]


def test_plan_counts_flops_as_the_caller_does():
  count = dict(train=lambda n, d: 6 * n * d, forward=lambda n: 2 * n * 1e4)
  ours = optimal_plan(HOFFMANN, 2.3, minutes=1e6, **SERVE)
  theirs = optimal_plan(
    HOFFMANN, 2.3, minutes=1e6, clips_per_minute=12.0, steps=Power(7.0, 0.5, 1.0), **count
  )
  np.testing.assert_allclose(theirs.total_flops, ours.total_flops, rtol=1e-12)
  dear = optimal_plan(HOFFMANN, 2.3, minutes=1e6, guidance_branches=4, **SERVE)
  assert dear.params < ours.params and dear.total_flops > ours.total_flops


def test_quality_below_the_laws_end_cannot_be_planned():
  with pytest.raises(ValueError, match="no model reaches 1.69: with 1000 steps the law's lowest"):
    optimal_plan(HOFFMANN, 1.69, minutes=1, **SERVE)
