"""Sweeps made from known laws, right and wrong ones, to count what intervals hold.

  python -m tests.scaling.synthetic [TRIALS]

prints, for every kind of sweep, the share of runs at 4 and at 10 times the largest budget that lie
in their 95 %, 80 % and 50 % intervals, and in the 95 % interval of a bootstrap alone.
"""

import sys

import numpy as np

from videojax.scaling.bootstrap import interval
from videojax.scaling.fit import fit_table
from videojax.scaling.run_table import Table

KINDS = ("right form", "wrong form", "drifting optimum", "heavy noise", "three budgets")
FAR = (4.0, 10.0)
SIZES = np.geomspace(1 / 3, 3, 5)  # of a budget's models, around the law's best


def sweep(kind, rng, noise=0.007):
  """(table of a sweep, table of runs beyond it): a random law, 5 budgets of 5 sizes."""
  alpha, beta = rng.uniform(0.25, 0.5, 2)
  floor = rng.choice([0.0, rng.uniform(0.3, 2.0)])
  q = np.exp(rng.choice([-1, 1]) * rng.uniform(0.3, 0.7)) if kind == "wrong form" else 1.0
  broken = rng.uniform(0.1, 0.3) if kind == "wrong form" and rng.random() < 0.5 else 0.0
  drift = rng.choice([-1, 1]) * rng.uniform(0.003, 0.01) if kind == "drifting optimum" else 0.0

  def loss(n, d):
    size, data = (n / 1e7) ** -alpha, (d / 1e8) ** -beta
    if broken:  # the data's exponent falls by this share beyond the middle of the sweep
      data = data * (1 + (d / 1e8) ** 2) ** (broken * beta / 2)
    rest = (size ** (1 / q) + data ** (1 / q)) ** q
    # Larger models are trained further from their best learning rate, or nearer to it.
    return floor + rest * (1 + drift * np.log(n / 1e5))

  def noisy(y):
    wide = rng.standard_t(2, y.shape) if kind == "heavy noise" else rng.normal(size=y.shape)
    return y * np.exp(noise * wide)

  def runs(budget):
    middle = 1e7 * (budget / 6e15) ** (beta / (alpha + beta))
    n = middle * SIZES
    d = budget / (6 * n)
    return [n, d, np.full(5, budget), noisy(loss(n, d)), np.full(5, budget)]

  budgets = 6e15 * np.geomspace(1 / 16, 16, 5)
  if kind == "three budgets":
    budgets = budgets[:3]
  names = ("params", "tokens", "flops", "loss", "budget")
  tables = []
  for chosen in (budgets, budgets[-1] * np.array(FAR)):
    columns = np.concatenate([np.stack(runs(budget)) for budget in chosen], 1)
    tables.append(Table.of(**dict(zip(names, columns))))
  return tables


def inside(kind, rng, bootstrap=100):
  """Whether each run beyond a sweep lies in its intervals, and these intervals' log widths [4,10].

  Rows: 95, 80 and 50 %, then the 95 % interval of the bootstrap with scattered residuals alone.
  """
  table, beyond = sweep(kind, rng)
  fit = fit_table(table, bootstrap=bootstrap)
  at = [beyond.numbers(name) for name in ("params", "tokens", "flops")]
  ends = [fit.predict_interval(*at, run=True, level=level) for level in (0.95, 0.8, 0.5)]
  draws = fit.predict_draws(*at)
  ends.append(interval(draws * np.exp(rng.choice(fit.scatter, draws.shape))))
  y = beyond.numbers("loss")
  return (
    np.array([(low <= y) & (y <= high) for low, high in ends]),
    np.array([np.log(high / low) for low, high in ends]),
  )


def main(trials):
  for kind in KINDS:
    rng = np.random.default_rng(0)
    held, wide = (np.stack(v) for v in zip(*(inside(kind, rng) for _ in range(trials))))
    for i, far in enumerate(FAR):
      part = slice(5 * i, 5 * i + 5)
      shares, widths = held[:, :, part].mean((0, 2)), wide[:, :, part].mean((0, 2))
      print(f"{kind:18s} {far:3g} x  " + "  ".join(f"{s:.3f}" for s in shares),
            f"  width {widths[0]:.3f}, alone {widths[3]:.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
  main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
