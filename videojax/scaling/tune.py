"""python -m videojax.scaling tune TABLE.csv: laws of the best learning rate and batch size.

Near its lowest value the loss of runs of one size and data is a parabola in the logs x [K] of their
hyperparameters, and the best values are powers of size and data:

  log L = u(N, D) + (x - best)' H (x - best),   best = P (1, log N, log D)

This is linear in u, H and H P, so one least-squares fit gives all of them: a response surface (Box
& Wilson 1951) that all sizes share. Only the lowest quarter of the runs of each size and data
enters, as parabolas hold only there. Intervals are those of a jackknife over sizes and data, since
the misfit of a parabola is common to the runs of one.

The table has the columns params,tokens,loss and one per hyperparameter; `budget`, where there is
one, says which runs of a size share their data. `report` writes such a table (cells.csv).

Letters: n runs, G settings (pairs of size and data), K hyperparameters, Z terms of the powers.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from videojax.errors import ConfigError
from videojax.io.files import finite
from videojax.scaling.command import Parser, positive
from videojax.scaling.run_table import COLLINEAR, Table, read_table

Array = np.ndarray

# Share of each setting's runs, and their least number: of the shares tried on the 1,911 runs of
# Step Law (Li et al. 2025, arXiv:2503.04715) this one predicts larger settings best (docs/laws.md).
NEAR, LEAST = 0.25, 5
KEYS = {"learning_rate": "optim.learning_rate", "batch_size": "batch_size"}  # column -> setting
AXES = ("params", "tokens")


@dataclass(frozen=True)
class Tuned:
  """How the best hyperparameters depend on size and data.

  Attributes:
    names: [K].
    axes: those of params and tokens that vary.
    middle: [len(axes)], logs at which the powers are 1.
    powers: [K,Z], P: the log of the best value at the middle, then one exponent per axis.
    deviations: [G,K,Z], of P without one setting from their mean.
    curvature: [K,K], H.
    scatter: standard deviation of the log loss about the fit.
    settings, runs: G, and how many runs were fitted.
    warnings: sentences.
  """

  names: tuple[str, ...]
  axes: tuple[str, ...]
  middle: Array
  powers: Array
  deviations: Array
  curvature: Array
  scatter: float
  settings: int
  runs: int
  warnings: tuple[str, ...] = ()

  def _terms(self, params: float, tokens: float) -> Array:
    at = {"params": params, "tokens": tokens}
    return np.append(1.0, np.log([at[name] for name in self.axes]) - self.middle)

  def best(self, params: float, tokens: float) -> Array:
    """The best value of each hyperparameter [K]."""
    return np.exp(self.powers @ self._terms(params, tokens))

  def overrides(self, params: float, tokens: float) -> dict[str, float | int]:
    """The best values as settings of an experiment; the batch size is a power of two."""
    found: dict[str, float | int] = {}
    for name, value in zip(self.names, self.best(params, tokens)):
      if name == "batch_size":
        found[KEYS[name]] = 2 ** max(0, round(float(np.log2(value))))
      elif name in KEYS:
        found[KEYS[name]] = float(f"{value:.3g}")
    return found

  def factor(self, params: float, tokens: float) -> Array:
    """Ends of the 95 % interval of `best`, as factors of it [K]; NaN with too few settings."""
    return np.exp(self._half(self.deviations @ self._terms(params, tokens)))

  def exponents(self) -> Array:
    """(value, half width of its 95 % interval) of each exponent [K, Z - 1, 2]."""
    return np.stack([self.powers[:, 1:], self._half(self.deviations[..., 1:])], -1)

  def _half(self, deviations: Array) -> Array:
    """Half of the 95 % interval of a quantity whose jackknife deviations [G, ...] these are."""
    freedom = self.settings - self.powers.shape[1]
    if freedom < 1:
      return np.full(deviations.shape[1:], np.nan)
    variance = (self.settings - 1) / self.settings * (deviations**2).sum(0)
    return np.sqrt(variance) * stats.t.ppf(0.975, freedom)

  def excess(self, factors: Sequence[float] | Array) -> float:
    """Log loss above the lowest where each hyperparameter is a factor off its best value."""
    off = np.log(np.asarray(factors, float))
    return float(off @ self.curvature @ off)


def fit_tuned(table: Table, names: Sequence[str] = (), target: str = "loss") -> Tuned:
  """Fits the law of the best hyperparameters.

  Args:
    table: columns of `AXES`, `target` and the hyperparameters; optionally `budget`.
    names: of hyperparameters; by default those of `KEYS` that vary.
  Raises:
    ConfigError: the runs do not determine the law; says what is missing.
  """
  names = tuple(names) or tuple(k for k in KEYS if k in table and len(set(table.numbers(k))) > 1)
  if not names:
    raise ConfigError(f"{table.path}: no hyperparameter varies ({', '.join(KEYS)}): name a column")
  table.require(*AXES, target, *names)
  columns = np.stack([table.numbers(name) for name in (*AXES, target, *names)])
  table = table.rows(~np.isnan(columns).any(0))
  logs = {name: np.log(table.numbers(name)) for name in (*AXES, target, *names)}
  group = _settings(table)
  near = _lowest(logs[target], group)
  logs, group = (
    {k: v[near] for k, v in logs.items()},
    np.unique(group[near], return_inverse=True)[1],
  )
  points, loss = np.stack([logs[name] for name in names], 1), logs[target]  # [n,K], [n]
  axes, middle, terms = _terms(logs, group)
  count, (k, z) = int(np.max(group)) + 1, (len(names), terms.shape[1])
  unknown = count + k * (k + 1) // 2 + k * z
  if len(loss) <= unknown:
    raise ConfigError(
      f"{table.path}: {len(loss)} runs near the best of {count} settings, but {unknown} unknowns: "
      f"run more values of {' and '.join(names)}"
    )
  centre = points.mean(0)
  powers, curvature, scatter = _surface(points - centre, loss, terms, group)
  if np.linalg.eigvalsh(curvature)[0] <= 0:
    raise ConfigError(
      f"{table.path}: the loss has no lowest value in {' and '.join(names)}: "
      "try values further apart"
    )
  powers[:, 0] += centre
  without = []
  for one in range(count) if count > z else ():
    keep = group != one
    _, rest = np.unique(group[keep], return_inverse=True)
    out = _surface(points[keep] - centre, loss[keep], terms[keep], rest)[0]
    out[:, 0] += centre
    without.append(out)
  spread = np.array(without).reshape(-1, k, z)
  law = Tuned(
    names, axes, middle, powers, spread - spread.mean(0) if len(spread) else spread, curvature,
    scatter, count, len(loss),
  )  # fmt: skip
  return Tuned(**{**law.__dict__, "warnings": tuple(_beyond(law, terms, points, group))})


def _settings(table: Table) -> Array:
  """Which runs share size and data [n]: by `budget`, else by tokens to two digits."""
  data = "budget" if "budget" in table and not table.empty("budget").all() else "tokens"
  shared = table.text("budget").astype(str) if data == "budget" else np.array(
    [f"{v:.1e}" for v in table.numbers("tokens")]
  )  # fmt: skip
  both = np.stack([table.text("params").astype(str), shared])
  _, group = np.unique(both, axis=1, return_inverse=True)
  return group.reshape(-1)


def _lowest(loss: Array, group: Array) -> Array:
  """The runs [n] of lowest loss of each setting."""
  near = np.zeros(len(loss), bool)
  for one in np.unique(group):
    members = np.flatnonzero(group == one)
    near[members[np.argsort(loss[members])[: max(LEAST, int(NEAR * len(members)))]]] = True
  return near


def _terms(logs: dict[str, Array], group: Array) -> tuple[tuple[str, ...], Array, Array]:
  """(axes that vary, their middle, terms of the powers [n,Z]), from each setting's mean logs."""
  means = np.array([np.bincount(group, logs[a]) / np.bincount(group) for a in AXES]).T  # [G,2]
  varies = [i for i in range(2) if np.ptp(means[:, i]) > 0.05]
  if len(varies) == 2 and abs(np.corrcoef(means.T)[0, 1]) > COLLINEAR:
    raise ConfigError(
      "size and data rise together in all settings, so their exponents cannot be told apart: run a "
      "size with other data"
    )
  middle = means[:, varies].mean(0)
  rows = means[group][:, varies] - middle
  return tuple(AXES[i] for i in varies), middle, np.concatenate([np.ones((len(rows), 1)), rows], 1)


def _surface(x: Array, loss: Array, terms: Array, group: Array) -> tuple[Array, Array, float]:
  """(P [K,Z], H [K,K], scatter) of points x [n,K]."""
  k, z = x.shape[1], terms.shape[1]
  pairs = [(i, j) for i in range(k) for j in range(i, k)]
  squares = np.stack([x[:, i] * x[:, j] for i, j in pairs], 1)
  crossed = (x[:, :, None] * terms[:, None, :]).reshape(len(x), k * z)
  design = np.concatenate([np.eye(group.max() + 1)[group], squares, crossed], 1)
  found, _, rank, _ = np.linalg.lstsq(design, loss, rcond=None)
  if rank < design.shape[1]:
    raise ConfigError(
      "the runs near the best of their settings do not determine a parabola: run at least three "
      "values of each hyperparameter around the best one"
    )
  bends, slopes = found[-len(pairs) - k * z : -k * z], found[-k * z :].reshape(k, z)
  curvature = np.zeros((k, k))
  for value, (i, j) in zip(bends, pairs):
    curvature[i, j] += value / 2
    curvature[j, i] += value / 2
  freedom = max(1, len(loss) - design.shape[1])
  scatter = float(np.sqrt(((loss - design @ found) ** 2).sum() / freedom))
  return -np.linalg.lstsq(2 * curvature, slopes, rcond=None)[0], curvature, scatter


def _beyond(law: Tuned, terms: Array, points: Array, group: Array) -> list[str]:
  """Warnings of best values beyond the values that were tried."""
  best = terms @ law.powers.T  # [n,K]
  out = []
  for i, name in enumerate(law.names):
    ends = [(points[group == g, i].min(), points[group == g, i].max()) for g in np.unique(group)]
    at = [best[group == g, i][0] for g in np.unique(group)]
    wrong = sum(not low <= b <= high for (low, high), b in zip(ends, at))
    if wrong:
      out.append(
        f"the best {name} of {wrong} of {law.settings} settings lies beyond the values near their "
        "lowest losses: try values further out"
      )
  return out


def tuned_json(law: Tuned, at: Sequence[tuple[float, float]] = ()) -> dict[str, Any]:
  """The law, and the best values at pairs of parameters and data, as plain numbers."""
  said = law.exponents()
  found: dict[str, Any] = {
    "settings": law.settings, "runs": law.runs, "scatter": law.scatter,
    "middle": dict(zip(law.axes, np.exp(law.middle).tolist())),
    "laws": {
      name: {
        "at_middle": float(np.exp(law.powers[i, 0])),
        "exponents": {
          axis: {"value": float(v), "low": float(v - half), "high": float(v + half)}
          for axis, (v, half) in zip(law.axes, said[i])
        },
        "twice": law.excess([2.0 if j == i else 1.0 for j in range(len(law.names))]),
      }
      for i, name in enumerate(law.names)
    },
    "at": [
      {"params": n, "tokens": d} | {
        name: {"value": float(v), "low": float(v / f), "high": float(v * f)}
        for name, v, f in zip(law.names, law.best(n, d), law.factor(n, d))
      }
      for n, d in at
    ],
    "warnings": list(law.warnings),
  }  # fmt: skip
  return finite(found)


def main(arguments: Sequence[str]) -> None:
  """Prints the law of the best hyperparameters of a table of runs."""
  parser = Parser("tune", __doc__)
  add = parser.add_argument
  add("table", type=Path, help="CSV: params,tokens,loss and the hyperparameters; budget")
  add("--of", default="", help=f"their columns; by default those of {','.join(KEYS)} that vary")
  add("--target", default="loss", help="column of the measure")
  add("--at", type=_pair, action="append", default=[], metavar="N,D", help="best values there")
  add("--json", action="store_true", help="print only JSON")
  told = parser.parse_args(arguments)
  table = read_table(told.table, (*AXES, told.target))
  found = tuned_json(fit_tuned(table, [n for n in told.of.split(",") if n], told.target), told.at)
  if told.json:
    print(json.dumps(found, indent=1))
  else:
    _show(found)


def _pair(text: str) -> tuple[float, float]:
  parts = text.split(",")
  if len(parts) != 2:
    raise argparse.ArgumentTypeError(f"{text!r} must be two numbers: N,D")
  return positive(parts[0]), positive(parts[1])


def _span(low: float | None, high: float | None) -> str:
  return "[no interval: too few settings]" if low is None else f"[{low:.3g}, {high:.3g}]"


def _show(found: dict[str, Any]) -> None:
  console = Console(highlight=False, soft_wrap=True)
  for name, law in found["laws"].items():
    powers = "".join(
      f" x ({axis} / {found['middle'][axis]:.3g})^{e['value']:.3g} {_span(e['low'], e['high'])}"
      for axis, e in law["exponents"].items()
    )
    console.print(f"best {name} = {law['at_middle']:.3g}{powers}", markup=False)
    console.print(f"  twice or half of it raises the loss by {np.expm1(law['twice']):.2%}")
    size = law["exponents"].get("params")
    if name == "learning_rate" and size and size["low"] is not None:
      same = size["low"] <= 0 <= size["high"]
      console.print(
        "  it does not depend measurably on size, as with muP" if same
        else "  it depends on size: set it per size, or use muP (mup_base_width)"
      )  # fmt: skip
  for best in found["at"]:
    values = (
      f"{name} {best[name]['value']:.4g} {_span(best[name]['low'], best[name]['high'])}"
      for name in found["laws"]
    )
    console.print(
      f"at {best['params']:.4g} parameters and {best['tokens']:.4g} tokens: " + ", ".join(values),
      markup=False,
    )
  console.print(
    f"{found['runs']} runs near the best of {found['settings']} settings; brackets are 95 % "
    "intervals",
    markup=False,
  )
  for warning in found["warnings"]:
    console.print(f"warning: {warning}", markup=False)
