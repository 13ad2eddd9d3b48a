"""Forms of the law of the lowest loss: each finds its own curve; weights follow their errors."""

import json

import numpy as np
import pytest

from tests.scaling.synthetic import sweep
from videojax.scaling.compare import FORMS, SHARPNESS, compare, lowest, main
from videojax.scaling.run_table import Table

FLOPS = np.geomspace(1e15, 1e19, 9)
AT = np.array([1e20, 1e21])


def table_of(curve):
  """A budget of three sizes at each of FLOPS, whose lowest loss is the curve's."""
  n = np.sqrt(FLOPS / 6)[:, None] * np.array([0.5, 1.0, 2.0])
  flops = np.repeat(FLOPS[:, None], 3, 1)
  loss = curve(flops) * np.array([1.03, 1.0, 1.03])
  columns = dict(params=n, tokens=flops / (6 * n), flops=flops, loss=loss, budget=flops)
  return Table.of(**{name: column.ravel() for name, column in columns.items()})


def bent(c):
  """A power whose exponent falls from .15 to .05 about 1e17, as `broken power` has it."""
  x = np.log(c / 1e17)
  return 3 * np.exp(-0.15 * x + 0.1 * SHARPNESS * np.logaddexp(0, x / SHARPNESS))


CURVES = {
  "power": lambda c: 40 * c**-0.08,
  "power with floor": lambda c: 1.5 + 900 * c**-0.2,
  "broken power": bent,
}


@pytest.mark.parametrize("name", CURVES)
def test_a_form_finds_the_curve_that_is_of_its_form(name):
  found = compare(table_of(CURVES[name]))
  by_name = {form.name: form for form in found.forms}
  np.testing.assert_allclose(by_name[name].curve(AT), CURVES[name](AT), rtol=0.01)
  if name != "broken power":  # which 3 to 6 budgets of an extrapolation cannot determine
    assert by_name[name].error < 1e-4 and found.splits == 5
    mean, spread = found.stacked(AT)
    np.testing.assert_allclose(mean, CURVES[name](AT), rtol=0.01)
    assert (spread < 0.02).all()


def test_weights_are_powers_of_the_error_inside_the_table():
  found = compare(table_of(CURVES["broken power"]))
  error = np.array([form.error for form in found.forms])
  weight = np.array([form.weight for form in found.forms])
  np.testing.assert_allclose(weight, error**-3 / (error**-3).sum())
  # A power through all of a flattening curve predicts too low a loss: measured over predicted > 1.
  assert next(form.bias for form in found.forms if form.name == "power") > 0.01


def test_a_known_floor_is_every_forms():
  found = compare(table_of(lambda c: 900 * c**-0.2), irreducible=0.0)
  assert "power with floor" not in {form.name for form in found.forms}
  for form in found.forms:
    assert form.curve(np.array([1e30]))[0] < 0.01, form.name


def test_without_budgets_to_judge_them_forms_weigh_the_same():
  table, _ = sweep("three budgets", np.random.default_rng(0))
  found = compare(table)
  assert found.splits == 0
  assert {form.weight for form in found.forms} == {1 / len(found.forms)}
  assert "3 budgets, a broken power needs 7" in found.why["broken power"]
  mean, _ = found.stacked(AT)
  logs = np.log([form.curve(AT) for form in found.forms])
  np.testing.assert_allclose(np.log(mean), logs.mean(0))


def test_the_weighted_mean_errs_less_than_the_worst_forms_beyond_wrong_laws():
  rng, errors = np.random.default_rng(1), []
  for _ in range(4):
    table, beyond = sweep("wrong form", rng)
    flops, loss = lowest(beyond)
    found = compare(table)
    each = [np.log(loss / form.curve(flops)) for form in found.forms]
    errors.append([np.log(loss / found.stacked(flops)[0]), *each][: 1 + len(FORMS)])
  assert all(np.abs(one[0]).mean() <= max(np.abs(e).mean() for e in one[1:]) for one in errors)


def test_command_shows_every_form_and_why_one_is_left_out(capsys, tmp_path):
  table, _ = sweep("right form", np.random.default_rng(2))
  path = tmp_path / "runs.csv"
  rows = [",".join(table.cells), *(",".join(map(str, row)) for row in zip(*table.cells.values()))]
  path.write_text("\n".join(rows))
  main([str(path), "--at=1e18", "--at=1e19"])
  shown = capsys.readouterr().out
  assert "weighted mean" in shown and "2 extrapolations inside the table" in shown
  assert "left out: broken power: 5 budgets, a broken power needs 7" in shown
  main([str(path), "--at=1e18", "--json"])
  found = json.loads(capsys.readouterr().out)
  assert sum(form["weight"] for form in found["forms"]) == pytest.approx(1)
  assert found["at"] == [1e18] and len(found["stacked"]) == 1
  frontier = compare(Table.of(flops=FLOPS, loss=CURVES["power"](FLOPS)))  # no sizes
  assert "no column 'params'" in frontier.why["parametric"]
