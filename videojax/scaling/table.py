"""Tables of runs, and the rows of them that a law is fitted to."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videojax.scaling.bootstrap import Groups, Scalar

Array = np.ndarray

COLUMNS = ("params", "tokens", "flops", "loss")
COLLINEAR = 0.99  # correlation of log N and log D beyond which alpha and beta share one direction


@dataclass(frozen=True)
class Table:
  """Columns of n rows; cells are text or numbers and are read when they are used."""

  cells: Mapping[str, Any]  # a sequence of n each
  lines: Array  # [n], of each row in its file, for messages
  path: str

  @classmethod
  def of(cls, **columns: Any) -> "Table":
    """A table in memory: one sequence of n per column."""
    n = {name: len(column) for name, column in columns.items()}
    if len(set(n.values())) > 1:
      raise ValueError(f"columns of different lengths: {n}")
    return cls(columns, np.arange(1, 1 + next(iter(n.values()), 0)), "table")

  def __len__(self) -> int:
    return len(self.lines)

  def __contains__(self, name: str) -> bool:
    return name in self.cells

  def require(self, *names: str) -> None:
    """Raises ValueError, with the columns there are, if one is missing."""
    for name in names:
      if name not in self.cells:
        raise ValueError(f"{self.path}: no column '{name}'; there are: {', '.join(self.cells)}")

  def text(self, name: str) -> Array:
    """A column as text [n]."""
    self.require(name)
    return np.array([str(cell) for cell in self.cells[name]], object)

  def empty(self, name: str) -> Array:
    """Where a column says nothing [n]."""
    return np.array([cell.strip() in ("", "None") for cell in self.text(name)], bool)

  def numbers(self, name: str) -> Array:
    """A column as positive numbers [n]; NaN where it says nothing.

    Raises:
      ValueError: with the line, at the first cell that is not one.
    """
    values = np.full(len(self), np.nan)
    for i in np.flatnonzero(~self.empty(name)):
      cell, where = self.cells[name][int(i)], f"{self.path}, line {self.lines[i]}: {name} is"
      try:
        values[i] = float(cell)
      except ValueError:
        raise ValueError(f"{where} '{cell}', not a number") from None
      if not 0 < values[i] < np.inf:
        raise ValueError(f"{where} {cell}; it must be positive and finite")
    return values

  def rows(self, keep: Array) -> "Table":
    """The rows where keep [n] is true."""
    index = np.flatnonzero(keep)
    cells = {name: [column[int(i)] for i in index] for name, column in self.cells.items()}
    return Table(cells, self.lines[index], self.path)


def read_table(path: str | Path, columns: Sequence[str] = COLUMNS) -> Table:
  """Reads a CSV file with a header; lines that begin with # are comments.

  Args: columns: that must be there.
  Raises:
    ValueError: where one is missing (naming it and those there), a row is short or long (with its
      line), or there are no rows.
  """
  rows, lines = [], []
  with open(path, newline="") as file:
    for number, line in enumerate(file, 1):
      if line.strip() and not line.startswith("#"):
        rows.append(next(csv.reader([line], skipinitialspace=True)))
        lines.append(number)
  if len(rows) < 2:
    raise ValueError(f"{path}: empty table ({'a header and no rows' if rows else 'no header'})")
  header = [name.strip() for name in rows[0]]
  for row, number in zip(rows[1:], lines[1:]):
    if len(row) != len(header):
      raise ValueError(f"{path}, line {number}: {len(row)} cells, but {len(header)} columns")
  table = Table(dict(zip(header, zip(*rows[1:]))), np.array(lines[1:]), str(path))
  table.require(*columns)
  return table


@dataclass(frozen=True)
class Rows:
  """What is fitted, and what was left out: n rows."""

  table: Table
  y: Array
  flops: Array
  params: Array  # NaN where the method does not use it
  tokens: Array  # D, in its own unit; likewise
  groups: Groups
  held_out: Table
  outliers: dict[str, Any]  # the rule, and the lines it dropped


def select(
  table: Table,
  target: str,
  columns: Sequence[str],
  *,
  drop_highest: int,
  holdout_above: Scalar | None,
) -> Rows:
  """Rows to fit: those with a target, not held out, below the drop_highest highest of these.

  Args: columns: of N and D, none for a law in FLOPs alone.
  """
  table.require("flops", target, *columns)
  table = table.rows(~table.empty(target))
  held = np.zeros(len(table), bool)
  if holdout_above is not None:
    held = table.numbers("flops") > holdout_above
  rest, held_out, outliers = table.rows(~held), table.rows(held), {"rule": "none", "dropped": []}
  y = rest.numbers(target)
  if drop_highest:
    if not 0 < drop_highest < len(y):
      raise ValueError(f"drop_highest={drop_highest}, but there are {len(y)} rows")
    limit = np.sort(y)[-drop_highest]
    rule = f"kept {target} < {limit:g}: the {drop_highest} highest of {len(y)} dropped"
    outliers = {"rule": rule, "dropped": rest.lines[y >= limit]}
    rest, y = rest.rows(y < limit), y[y < limit]
  nothing = np.full(len(y), np.nan)
  axes = [_told(rest, name) for name in ("flops", *columns)]
  params, tokens = axes[1:] if columns else (nothing, nothing)
  return Rows(rest, y, axes[0], params, tokens, _groups(rest, y, axes), held_out, outliers)


def _told(table: Table, name: str) -> Array:
  values = table.numbers(name)
  if np.isnan(values).any():
    line = table.lines[np.isnan(values)][0]
    raise ValueError(f"{table.path}, line {line}: {name} is empty")
  return values


def _groups(table: Table, y: Array, axes: Sequence[Array]) -> Groups:
  """Strata are budgets; the seeds of one setting are one cell."""
  strata, cells = np.zeros(len(y), int), np.arange(len(y))
  if "budget" in table:
    strata = np.unique(table.text("budget").astype(str), return_inverse=True)[1].reshape(-1)
  if "seed" in table:
    cells = np.unique(np.stack([strata, *axes]), axis=1, return_inverse=True)[1].reshape(-1)
  error = np.nan_to_num(table.numbers("stderr")) / y if "stderr" in table else np.zeros(len(y))
  return Groups(strata, cells, error)


def check(rows: Rows, method: str, floor: float | None) -> list[str]:
  """Warnings about the design; ValueError where it cannot carry the law."""
  n = len(rows.y)
  needed = {"isoflop": 6, "power": 2}.get(method, 4) + (floor is None and method != "isoflop")
  if n < needed:
    raise ValueError(f"{n} rows, but {method} has {needed} numbers to fit")
  if floor is not None and floor >= rows.y.min():
    raise ValueError(f"irreducible={floor:g}, but the lowest measured is {rows.y.min():g}")
  warnings = []
  if n == needed:
    warnings.append(f"{n} rows for {needed} numbers: nothing is left to judge them by")
  axes = {"params": rows.params, "tokens": rows.tokens}
  for name, values in {"flops": rows.flops}.items() if method == "power" else axes.items():
    distinct = len(np.unique(values))
    if distinct < 2:
      raise ValueError(f"{name} is the same in every row: no exponent can be told")
    if distinct < 3:
      warnings.append(f"too few sizes: {name} has {distinct} values, an exponent needs 3")
  additive = method not in ("power", "isoflop")
  if additive and np.corrcoef(np.log(rows.params), np.log(rows.tokens))[0, 1] > COLLINEAR:
    warnings.append("N and D rise together in all rows: alpha and beta cannot be told apart")
  return warnings
