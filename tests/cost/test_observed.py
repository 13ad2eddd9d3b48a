"""Published scores against size and date: what the law of them says, and what it cannot."""

import numpy as np
import pytest

from videojax.cost import observed
from videojax.cost.observed import FITTED, MODELS, errors, law, most_influential, pairs
from videojax.cost.published_systems import SYSTEMS


def test_sizes_are_those_of_the_cost_tables():
  known = {s.name.split(",")[0]: s.parameters.value for s in SYSTEMS if s.parameters}
  shared = [m for m in MODELS if m.name in known]
  assert len(shared) >= 7
  for model in shared:
    assert model.parameters.value == known[model.name]


def test_the_law_is_least_squares_and_its_intervals_are_students():
  from scipy import stats

  x, y = np.array([m.row for m in FITTED]), np.array([m.total for m in FITTED])
  np.testing.assert_allclose(law().coefficients, np.linalg.lstsq(x, y, rcond=None)[0])
  # The interval of size, from the regression on what date and prompts leave of size and total.
  other = np.delete(x, 1, 1)
  left = lambda v: v - other @ np.linalg.lstsq(other, v, rcond=None)[0]
  found = stats.linregress(left(x[:, 1]), left(y))
  freedom = len(y) - 4
  half = stats.t.ppf(0.975, freedom) * found.stderr * np.sqrt((len(y) - 2) / freedom)
  assert law().coefficients[1] == pytest.approx(found.slope)
  assert law().half[1] == pytest.approx(half)


def test_what_the_law_says_of_a_model_does_not_know_its_score():
  off = [law(m.name).says(m)[0] - m.total for m in FITTED]
  assert np.sqrt(np.mean(np.square(off))) == pytest.approx(errors())
  table = observed.observed_table()
  last = list(table.columns).index("what the law says")
  said = [float(cells[last].value.split()[0]) for cells in table.rows.values()]
  np.testing.assert_allclose(said, [law(m.name).says(m)[0] for m in MODELS], atol=0.051)


def test_prediction_intervals_hold_the_scores_that_they_did_not_know():
  held = [abs(law(m.name).says(m)[0] - m.total) <= law(m.name).says(m)[1] for m in FITTED]
  assert np.mean(held) >= 0.9


def test_one_row_decides_about_size_and_the_page_says_so():
  assert most_influential() == "CogVideo"
  every, rest = law().coefficients[1], law("CogVideo").coefficients[1]
  assert rest - every > law().half[1] / 2
  said = observed.conclusions()[0]
  assert f"{every:+.1f}" in said and f"{rest:+.1f}" in said and "cannot be concluded" in said


def test_models_of_one_family_differ_in_size_alone():
  for small, large in pairs():
    assert (small.family, small.released, small.extended) == (
      large.family, large.released, large.extended
    )  # fmt: skip
    assert small.parameters.value < large.parameters.value
