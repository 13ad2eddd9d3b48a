"""Intervals beyond the rows: their parts in closed form, and what they hold if a law is wrong."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.scaling.synthetic import inside, sweep
from videojax.scaling import calibrate, calibration
from videojax.scaling.bootstrap import interval
from videojax.scaling.calibration import PUBLIC, Ahead, Evidence, Prior
from videojax.scaling.fit import extrapolated, fit_table
from videojax.scaling.fit_command import main
from videojax.scaling.run_table import read_table

CHINCHILLA = str(Path(__file__).parent / "data" / "chinchilla.csv")
PRIOR = Prior(growth=0.1, scatter=1.0, freedom=1e6, weight=1.0, rows=0.5, unit=1.0, source="here")


def ahead(error, law=0.0, run=0.01, drop=0.0):
  k = len(error)
  return Ahead(1.0, np.array(error), np.full(k, law), np.full(k, drop), run)


def evidence(**changes):
  return Evidence(**{"run": 0.01, "freedom": 10**6, "chi2": 0.0, "groups": 0, **changes})


def test_without_evidence_the_misfit_is_the_priors():
  assert evidence().misfit(PRIOR) == 1.0
  assert evidence(groups=2, chi2=5.0).misfit(PRIOR) == 1.0  # two groups have no freedom left


def test_misfit_is_the_weighted_mean_of_prior_extrapolations_and_groups():
  # An error of 2 scales weighs 1 beside the prior's 1; the one before it, of 1 scale, weighs 1/2.
  late, early = ahead([0.02, -0.02]), ahead([0.01])
  assert evidence(ahead=(early, late)).misfit(PRIOR) ** 2 == pytest.approx((1 + 4 + 0.5) / 2.5)
  # 4.5 groups leave 2 degrees of freedom, of weight 1/2 each; chi^2 is 3 per degree of freedom.
  grouped = evidence(groups=4, chi2=4.5)
  assert grouped.misfit(PRIOR) ** 2 == pytest.approx((1 + 0.75 * 3) / 1.75)


def test_an_extrapolation_is_judged_by_law_run_and_form_together():
  one = ahead([0.05], law=0.03, run=0.04, drop=0.5)
  scale = np.sqrt(0.03**2 + 0.04**2 + 0.05**2)
  assert one.scale(PRIOR) == pytest.approx([scale])
  assert one.scale(PRIOR, misfit=2.0) == pytest.approx([np.sqrt(scale**2 + 0.1**2 - 0.05**2)])


def test_half_width_is_students_quantile_of_the_parts():
  wide = calibration.width(evidence(freedom=5), np.array([0.02]), np.array([0.3]), prior=PRIOR)
  assert wide.beyond(0.8) == pytest.approx(stats.t.ppf(0.9, 5) * 0.03)
  together = np.sqrt(0.02**2 + 0.03**2 + 0.01**2)
  assert wide.half(0.8) == pytest.approx(stats.t.ppf(0.9, 5) * together)
  within = calibration.width(evidence(), np.zeros(1), np.array([-0.3]), prior=PRIOR)
  assert within.form == 0  # no error of form within the rows


def test_the_bracket_that_is_printed_is_the_one_that_is_checked_on_tables():
  table, beyond = sweep("right form", np.random.default_rng(2))
  fit = fit_table(table, bootstrap=60)
  z, scale, freedom = calibrate.Cut("t", extrapolated(fit, beyond), fit.evidence).standard(PUBLIC)
  at = [beyond.numbers(name) for name in ("params", "tokens", "flops")]
  ends = np.log(fit.predict_interval(*at, run=True, level=0.8) / fit.predict(*at))
  np.testing.assert_allclose(ends[1], stats.t.ppf(0.9, freedom) * scale, rtol=1e-12)
  np.testing.assert_allclose(ends[0], -ends[1], rtol=1e-12)


def test_an_interval_widens_by_squares_on_each_side():
  low, high = calibration.widen(np.exp(-0.3), np.exp(0.1), 1.0, 0.4)
  assert np.log([low, high]) == pytest.approx([-0.5, np.hypot(0.1, 0.4)])


def test_scatter_is_a_normal_sample_s_deviation_whatever_its_outliers():
  rng = np.random.default_rng(0)
  sample = 0.02 * rng.normal(size=20_000)
  sample[:500] = 5.0
  assert calibration.robust_scatter(sample, 5) == pytest.approx(0.02, rel=0.05)
  assert calibration.robust_scatter(np.array([1.0, 1.0, 1.0]), 2) == pytest.approx(1.4826 * 3**0.5)


def test_groups_of_budgets_scatter_as_chance_says_or_more():
  rng = np.random.default_rng(1)
  level = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 8)
  found = [calibration.between_budgets(rng.normal(size=40), level) for _ in range(400)]
  assert {groups for _, groups in found} == {5}
  # chi^2 of 5 groups over the variance within, whose 35 degrees of freedom lift the mean by 35/33
  assert np.mean([chi2 for chi2, _ in found]) == pytest.approx(5 * 35 / 33, rel=0.1)
  shifted = rng.normal(size=40) + np.repeat([2.0, -1.0, -2.0, -1.0, 2.0], 8)
  assert calibration.between_budgets(shifted, level)[0] > 50
  # Budgets of one row each are taken together by fours.
  assert calibration.between_budgets(rng.normal(size=9), np.arange(9.0))[1] == 2


def test_cuts_leave_three_budgets_below_and_one_above():
  assert calibration.cuts([1.0, 2.0, 3.0]) == []
  assert calibration.cuts([1.0, 2.0, 4.0, 8.0, 16.0]) == [4.0, 8.0]
  near = [*np.linspace(1, 1.1, 4), 2.0, 2.1, 4.0]
  assert calibration.cuts(near) == [pytest.approx(1.1), 2.1][:2]


def test_within_the_rows_the_laws_interval_is_the_bootstraps():
  table, _ = sweep("right form", np.random.default_rng(2))
  fit = fit_table(table, bootstrap=60)
  at = [table.numbers(name)[:7] for name in ("params", "tokens", "flops")]
  np.testing.assert_allclose(
    fit.predict_interval(*at), interval(fit.predict_draws(*at)), rtol=1e-12
  )


def test_intervals_grow_with_the_distance_and_with_a_misfit_seen_inside_the_table():
  table = read_table(CHINCHILLA)
  fit = fit_table(table, drop_highest=5, bootstrap=40)
  flops = 1e22 * np.array([1, 10, 100])
  form = fit.width(1e9, flops / 6e9, flops).form
  assert (np.diff(form) > 0).all() and form[0] >= 0
  n, d = table.numbers("params"), table.numbers("tokens")
  # A law that bends: beyond 3e20 FLOP the loss falls by 3 % a decade more than the form can say.
  bent = np.maximum(np.log10(table.numbers("flops") / 3e20), 0) ** 2
  wrong = type(table)({**table.cells, "loss": fit.law.loss(n, d) * np.exp(-0.03 * bent)},
                      table.lines, table.path)  # fmt: skip
  assert fit_table(wrong, bootstrap=40).evidence.misfit() > 2 * fit.evidence.misfit()


@pytest.mark.slow
@pytest.mark.parametrize(
  "kind,least,alone", [("wrong form", 0.95, 0.93), ("heavy noise", 0.9, 0.95)]
)
def test_intervals_hold_runs_at_four_and_ten_times_the_compute(kind, least, alone):
  rng = np.random.default_rng(3)
  held = np.stack([inside(kind, rng, bootstrap=40)[0] for _ in range(15)]).mean((0, 2))
  assert held[0] >= least and held[3] <= alone


@pytest.mark.slow
def test_the_prior_is_learned_from_tables_and_checked_on_those_left_out():
  rng = np.random.default_rng(4)
  cuts = []
  for i in range(3):
    table, _ = sweep("wrong form", rng)
    cuts += calibrate.cuts_of(table, f"table {i}", bootstrap=40)
  prior = calibrate.learn(cuts, "three made tables")
  assert 0.2 < prior.growth / PUBLIC.growth < 5 and prior.source == "three made tables"
  checked = calibrate.left_out(cuts)
  assert set(checked) == {"table 0", "table 1", "table 2"}
  assert [c.level for c in checked["table 0"]] == list(calibrate.LEVELS)
  # The score is the width where everything is inside, and more where something is not.
  for rows in checked.values():
    for row in rows:
      assert row.score >= row.width and (row.share < 1 or row.score == pytest.approx(row.width))


def test_command_says_where_a_predictions_width_comes_from_and_seals_it_once(capsys, tmp_path):
  sealed = tmp_path / "sealed.json"
  flags = ["--bootstrap=40", "--run=1e9,1e12,6e21", "--at=1e24", f"--seal={sealed}"]
  main([CHINCHILLA, *flags])
  shown = capsys.readouterr().out
  assert "a run of 1e+09 parameters and 1e+12 tokens (6e+21 FLOP)" in shown
  assert "sd: sampling" in shown and "beyond the rows the law may be wrong by" in shown
  with pytest.raises(ValueError, match="a sealed prediction is never replaced"):
    main([CHINCHILLA, *flags])
  with pytest.raises(ValueError, match="--run predicts from N and D, which power does not"):
    main([CHINCHILLA, "--method=power", "--run=1e9,1e12"])
