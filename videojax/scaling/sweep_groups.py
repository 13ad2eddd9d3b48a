"""A sweep as reports use it: which settings vary, and groups of cells that differ only in the seed.

A setting that varies is one of
  budget   training FLOPs, or the steps of cells without a budget;
  size     what makes an architecture larger: width, depth, heads;
  tuned    the learning rate: of cells that differ only in it, the best one is used;
  series   anything else: laws and curves are drawn for each combination of values;
  seed     repeats.
A key determined by budget and size (a learning rate given per width) is none of these.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from videojax.errors import ConfigError
from videojax.scaling.cells import Row, distinct, read_notes, read_sweep

SIZES = ("model.width", "model.depth", "model.num_heads", "model.head_dim", "model.mlp_ratio")
TUNED = ("optim.learning_rate", "optim.muon_learning_rate")
LEVELS = 16  # noise levels of the frozen loss
LEAST, MOST = 1e-30, 1e60  # valid losses, parameters, tokens and FLOPs: their logarithms are drawn
Setting = tuple[tuple[str, Any], ...]  # (key, value) of some varied keys, in the sweep's order


@dataclasses.dataclass(frozen=True)
class Group:
  """Finished cells that differ only in the seed.

  Attributes:
    rows: the cells, sorted by seed.
    budget: in FLOP; for cells without one, their FLOPs to two digits.
    size, tuned, series: values of the varied keys of each role.
  """

  rows: tuple[Row, ...]
  budget: float
  size: Setting
  tuned: Setting
  series: Setting

  @property
  def name(self) -> str:
    return self.rows[0].cell.name

  @property
  def held_out(self) -> bool:
    return self.rows[0].cell.held_out

  @property
  def params(self) -> float:
    return float(self.rows[0].result["parameters"]["total"])

  @property
  def tokens(self) -> float:
    return float(self.rows[0].result["tokens"])

  @property
  def flops(self) -> float:
    return float(self.rows[0].result["flops"]["total"])

  @property
  def steps(self) -> int:
    return int(self.rows[0].result["steps"])

  def values(self, measure: str) -> np.ndarray:
    """The measure of each seed; see Row.value."""
    return np.array([row.value(measure)[0] for row in self.rows])

  def value(self, measure: str) -> tuple[float, float]:
    """(mean over seeds, its standard error).

    All seeds are evaluated on the same clips, so more seeds reduce the error due to seeds but not
    the error over clips.
    """
    pairs = np.array([row.value(measure) for row in self.rows])
    over_clips = pairs[:, 1].mean()
    if len(pairs) == 1:
      return float(pairs[0, 0]), float(over_clips)
    over_seeds = pairs[:, 0].std(ddof=1) / math.sqrt(len(pairs))
    return float(pairs[:, 0].mean()), float(math.hypot(np.nan_to_num(over_clips), over_seeds))

  def per_clip(self, measure: str) -> np.ndarray:
    """The measure of every clip, averaged over seeds; empty if the cells have not kept it."""
    kept = [per_clip(row, measure) for row in self.rows]
    if len({len(k) for k in kept}) != 1:
      return np.zeros(0)
    return np.mean(kept, axis=0)


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The contents of a sweep's directory.

  Attributes:
    directory: of the sweep.
    rows: all cells, in the sweep's order.
    notes: sweep.json. Optional keys: `planned` (cell -> params, tokens, flops, ...); `irreducible`,
      E of the law if it is known; `least_steps`, the fewest steps of a cell that the law is fitted
      to; `onset`, measure -> value below which its law holds; `price` per hour; `title` and
      `description` for the report.
    size_keys, tuned_keys, series_keys: the varied keys of each role.
  """

  directory: Path
  rows: tuple[Row, ...]
  notes: Mapping[str, Any]
  size_keys: tuple[str, ...]
  tuned_keys: tuple[str, ...]
  series_keys: tuple[str, ...]

  @cached_property
  def groups(self) -> tuple[Group, ...]:
    """Groups of finished cells, in the sweep's order."""
    found: dict[str, list[Row]] = {}
    for row in self.rows:
      if row.status == "finished":
        found.setdefault(identity(row), []).append(row)
    return tuple(self._group(rows) for rows in found.values())

  def _group(self, rows: list[Row]) -> Group:
    rows = sorted(rows, key=seed_of)
    return Group(
      rows=tuple(rows),
      budget=budget_of(rows[0], self.notes),
      size=setting(rows[0], self.size_keys),
      tuned=setting(rows[0], self.tuned_keys),
      series=setting(rows[0], self.series_keys),
    )

  @property
  def series(self) -> list[Setting]:
    """Every combination of series values among the finished cells."""
    return list(dict.fromkeys(group.series for group in self.groups))

  @property
  def irreducible(self) -> float | None:
    """E of the law if sweep.json gives it, else None."""
    known = self.notes.get("irreducible")
    return None if known is None else float(known)

  @property
  def splits(self) -> list[str]:
    """Names of the evaluation splits, in the config's order."""
    return list(self.groups[0].rows[0].config["evaluate"]["splits"])

  def tuned(self, series: Setting, *, held_out: bool = False) -> list[Group]:
    """Groups of one series at the best tuned values, sorted by budget and parameters.

    Args:
      series: values of the series keys.
      held_out: whether to include held-out cells.
    """
    best: dict[tuple[float, Setting], Group] = {}
    for group in self.groups:
      if group.series == series and (held_out or not group.held_out):
        at = (group.budget, group.size)
        if at not in best or _loss(group) < _loss(best[at]):
          best[at] = group
    return sorted(best.values(), key=lambda g: (g.budget, g.params))

  def for_law(self, series: Setting) -> list[Group]:
    """`tuned`, without cells that have fewer steps than sweep.json's `least_steps`."""
    least = self.notes.get("least_steps") or 0
    return [group for group in self.tuned(series) if group.steps >= least]

  def frontier(self, series: Setting, *, held_out: bool = False) -> list[Group]:
    """The group of lowest loss at each budget, smallest budget first."""
    best: dict[float, Group] = {}
    for group in self.tuned(series, held_out=held_out):
      if group.budget not in best or _loss(group) < _loss(best[group.budget]):
        best[group.budget] = group
    return [best[budget] for budget in sorted(best)]


def load(directory: Path) -> Sweep:
  """Reads a sweep's directory.

  Raises:
    ConfigError: this is not a sweep's directory, or a file in it is damaged.
  """
  directory = Path(directory)
  rows, notes = read_sweep(directory), read_notes(directory)
  if not rows:
    raise ConfigError(f"{directory / 'sweep.json'} has no cells")
  for row in rows:
    if row.status == "finished":
      _check(row)
  size, tuned, series = _roles(rows)
  return Sweep(directory, tuple(rows), notes, size, tuned, series)


def require_finished(sweep: Sweep) -> None:
  """Raises ConfigError, with the number of cells of each status, if no cell has finished."""
  if sweep.groups:
    return
  counts = {status: sum(r.status == status for r in sweep.rows) for status in STATUSES}
  raise ConfigError(
    f"{sweep.directory} has no finished cell ("
    + ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    + "): run the sweep first"
  )


STATUSES = {
  "finished": "ran to its end and was evaluated",
  "started": "is running, or was interrupted",
  "waiting": "has not been started",
  "failed": "ended with an error",
}


def _check(row: Row) -> None:
  """Raises ConfigError if a finished cell's record is not one that a run writes."""
  path, config = row.directory / "result.json", row.directory / "config.json"
  if not row.config:
    raise ConfigError(f"{config} is missing, although the cell has finished")
  if not row.config["evaluate"]["splits"] or not row.config["data"]:
    raise ConfigError(f"{config} is damaged: it has no evaluate.splits, or no data")
  result, loss = row.result, row.result["frozen_loss"]
  if loss is None:
    raise ConfigError(
      f"{path} is of an autoencoder, which has no frozen loss: laws and reports are about "
      "models of pixels or latents"
    )
  positive = {
    "frozen_loss.final": loss["final"], "parameters.total": result["parameters"].get("total"),
    "flops.total": result["flops"].get("total"), "tokens": result["tokens"],
    "steps": result["steps"], "clips": result["clips"],
  }  # fmt: skip
  for name, value in positive.items():
    if value is None or not LEAST <= value <= MOST:
      raise ConfigError(f"{path} is damaged: {name}={value} must be in [{LEAST:g}, {MOST:g}]")
  if len(loss["by_level"]) != LEVELS:
    raise ConfigError(f"{path} is damaged: frozen_loss.by_level must have {LEVELS} values")


def _roles(rows: Sequence[Row]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
  """Which keys vary, as (size, tuned, series)."""
  points = [{**row.cell.overrides, "budget": row.cell.budget} for row in rows]
  keys = dict.fromkeys(key for row in rows for key in row.cell.overrides)
  varied = [k for k in keys if k not in ("seed", "total_steps") and distinct(points, [k]) > 1]
  size = [k for k in varied if k in SIZES]
  # A key that budget, size and earlier keys determine is not a separate series.
  told, free = ["budget", *size], list[str]()
  for key in (k for k in varied if k not in size):
    if distinct(points, [*told, key]) > distinct(points, told):
      told.append(key)
      free.append(key)
  rates = lambda key: [r.cell.overrides[key] for r in rows if key in r.cell.overrides]
  tuned = [k for k in free if k in TUNED and all(map(_is_positive, rates(k)))]
  return tuple(size), tuple(tuned), tuple(k for k in free if k not in tuned)


def _is_positive(value: Any) -> bool:
  return isinstance(value, int | float) and value > 0


def identity(row: Row) -> str:
  """A key that is equal for cells that differ only in the seed."""
  rest = {k: v for k, v in row.cell.overrides.items() if k != "seed"}
  return json.dumps([row.cell.budget, rest], sort_keys=True)


def seed_of(row: Row) -> int:
  return int(row.cell.overrides.get("seed", row.config.get("seed", 0)))


def setting(row: Row, keys: Sequence[str]) -> Setting:
  return tuple((k, _hashable(row.cell.overrides[k])) for k in keys if k in row.cell.overrides)


def budget_of(row: Row, notes: Mapping[str, Any]) -> float:
  """The cell's budget, else its FLOPs to two digits; NaN if neither is known."""
  if row.cell.budget is not None:
    return float(row.cell.budget)
  if row.result:
    return float(f"{row.result['flops']['total']:.1e}")
  planned = notes.get("planned", {}).get(row.cell.name)
  return float(f"{planned['flops']:.1e}") if planned else math.nan


def describe(values: Setting) -> str:
  """'dit, patch 2x4x4, batch size 8'."""
  text = lambda v: "x".join(map(str, v)) if isinstance(v, tuple) else f"{v}"
  word = lambda key: "" if key.endswith(".name") else key.split(".")[-1].replace("_", " ") + " "
  return ", ".join(
    f"no {word(key).strip()}" if value is None else word(key) + text(value) for key, value in values
  )


def _hashable(value: Any) -> Any:
  if isinstance(value, dict):
    return tuple((k, _hashable(v)) for k, v in value.items())
  return tuple(_hashable(v) for v in value) if isinstance(value, list) else value


def _loss(group: Group) -> float:
  return group.value("loss")[0]


def per_clip(row: Row, measure: str) -> np.ndarray:
  """The measure of every clip of one cell; NaN where undefined, empty if not kept."""
  name, _, split = measure.partition("@")
  if name == "loss":
    loss = row.result["frozen_loss_by_split"].get(split, row.result["frozen_loss"])
    kept = loss.get("per_example", [])
  else:
    kept = row.result["coherence_per_example"].get(name, {}).get(split, [])
  return np.array([math.nan if v is None else v for v in kept], float)
