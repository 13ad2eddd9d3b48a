"""Laws of the best learning rate and batch size."""

import json

import numpy as np
import pytest

from videojax.errors import ConfigError
from videojax.scaling.__main__ import main
from videojax.scaling.run_table import Table
from videojax.scaling.tune import fit_tuned

# Published: lr = 1.79 N^-.713 D^.307 and batch = .58 D^.571 tokens (Li et al. 2025,
# arXiv:2503.04715).
SIZES, DATA = (2e8, 4e8, 1e9), (4e9, 2e10, 1e11)
CURVATURE = np.array([[0.006, -0.002], [-0.002, 0.005]])
BEST = lambda n, d: np.array([1.79 * n**-0.713 * d**0.307, 0.58 * d**0.571])


def runs(noise=0.0, seed=0, cubic=0.0, settings=None):
  """Runs on a grid around nominal values, whose loss is a parabola about the best ones."""
  rng = np.random.default_rng(seed)
  rows = []
  for n, d in settings or [(n, d) for n in SIZES for d in DATA]:
    for rate in 1e-3 * 2.0 ** np.arange(-4, 5):
      for batch in 4e5 * 2.0 ** np.arange(-4, 5):
        off = np.log([rate, batch] / BEST(n, d))
        log_loss = off @ CURVATURE @ off + cubic * off.sum() ** 3 + noise * rng.normal()
        loss = (1.8 + 400 * n**-0.34 + 400 * d**-0.28) * np.exp(log_loss)
        rows.append((n, d, loss, rate, batch))
  names = ("params", "tokens", "loss", "learning_rate", "batch_size")
  return Table.of(**{name: list(column) for name, column in zip(names, zip(*rows))})


def test_exact_parabolas_give_the_published_law_exactly():
  law = fit_tuned(runs())
  np.testing.assert_allclose(law.exponents()[..., 0], [[-0.713, 0.307], [0, 0.571]], atol=1e-8)
  np.testing.assert_allclose(law.best(7e9, 1.4e11), BEST(7e9, 1.4e11), rtol=1e-7)
  np.testing.assert_allclose(law.curvature, CURVATURE, rtol=1e-7)
  assert law.excess([2.0, 1.0]) == pytest.approx(0.006 * np.log(2) ** 2)
  assert (law.settings, law.runs) == (9, 9 * 20) and not law.warnings


def test_intervals_hold_the_law_under_noise():
  held = []
  for seed in range(60):
    law = fit_tuned(runs(noise=0.002, seed=seed))
    value, half = np.moveaxis(law.exponents(), -1, 0)
    held.append(abs(value - [[-0.713, 0.307], [0, 0.571]]) <= half)
    best, factor = law.best(4e9, 4e11), law.factor(4e9, 4e11)
    held.append(abs(np.log(best / BEST(4e9, 4e11))) <= np.log(factor)[:, None] + 0 * half)
  assert 0.88 <= np.mean(held) <= 0.99


def test_far_runs_on_which_the_loss_is_no_parabola_do_not_bend_the_law():
  law = fit_tuned(runs(cubic=2e-5))
  np.testing.assert_allclose(law.exponents()[..., 0], [[-0.713, 0.307], [0, 0.571]], atol=0.05)
  assert (law.factor(1e9, 1e11) < 1.6).all()


def test_an_axis_that_does_not_vary_has_no_exponent():
  law = fit_tuned(runs(settings=[(n, 2e10) for n in SIZES]))
  assert law.axes == ("params",)
  assert law.exponents()[0, 0, 0] == pytest.approx(-0.713, abs=0.02)


@pytest.mark.parametrize(
  "table, names, why",
  [
    (runs(settings=[(1e8, 2e9), (2e8, 4e9), (4e8, 8e9)]), (), "rise together"),
    (runs(), ("momentum",), "no column 'momentum'"),
    (Table.of(params=[1, 2], tokens=[1, 2], loss=[1, 2]), (), "no hyperparameter varies"),
    (runs().rows(np.arange(729) % 60 == 0), (), "unknowns: run more values"),
    (runs().rows(np.arange(729) // 9 % 9 < 2), (), "do not determine a parabola"),
    (
      Table.of(params=[1e6] * 9, tokens=[1e8] * 9, learning_rate=list(np.geomspace(1e-4, 1, 9)),
               loss=list(np.exp(-np.arange(9.0) ** 2 / 90))),
      (), "no lowest value in learning_rate",
    ),
  ],
)  # fmt: skip
def test_runs_that_do_not_determine_the_law_are_refused_in_words(table, names, why):
  with pytest.raises(ConfigError, match=why):
    fit_tuned(table, names)


def test_a_best_value_beyond_those_tried_is_warned_of():
  table = runs()
  rates = np.array(table.cells["learning_rate"], float)
  law = fit_tuned(table.rows(rates < 2.1e-3), ["learning_rate", "batch_size"])
  assert "best learning_rate of" in law.warnings[0] and "values further out" in law.warnings[0]


def test_the_command_prints_the_law_and_its_json(tmp_path, capsys):
  path = tmp_path / "runs.csv"
  table = runs(noise=1e-3)
  rows = zip(*table.cells.values())
  path.write_text("\n".join(",".join(map(str, row)) for row in [table.cells.keys(), *rows]) + "\n")
  assert main(["tune", str(path), "--at=1e9,1e11"]) == 0
  said = capsys.readouterr().out
  assert "best learning_rate = " in said and "it depends on size" in said
  assert main(["tune", str(path), "--at=1e9,1e11", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["laws"]["batch_size"]["exponents"]["tokens"]["value"] == pytest.approx(
    0.571, abs=0.05
  )
  assert found["at"][0]["learning_rate"]["value"] == pytest.approx(BEST(1e9, 1e11)[0], rel=0.1)
  assert main(["tune", str(path), "--at=1e9"]) == 1
  assert "two numbers: N,D" in capsys.readouterr().err
