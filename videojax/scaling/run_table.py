"""Tables of runs, and the rows that a law is fitted to."""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videojax.errors import ConfigError
from videojax.io.files import read_text
from videojax.scaling.bootstrap import Groups, Scalar

Array = np.ndarray

COLUMNS = ("params", "tokens", "flops", "loss")
# Valid range of parameters, tokens, FLOPs and measures, whose logarithms are fitted.
SMALLEST, LARGEST = 1e-30, 1e60
FLOPS = (0.05, 500.0)  # plausible per parameter and token; language models: 6, small video: 40
FAR = 1e4  # factor beyond the rows' FLOPs from which an optimum gets a warning
COLLINEAR = 0.99  # correlation of log N and log D above which alpha and beta are not identifiable


@dataclass(frozen=True)
class Table:
  """Columns of n rows; cells are text or numbers, parsed on use."""

  cells: Mapping[str, Sequence[Any] | Array]  # n per column
  lines: Array  # [n], line number of each row in its file, for messages
  path: str

  @classmethod
  def of(cls, **columns: Sequence[Any] | Array) -> "Table":
    """A table in memory, from one sequence of n per column."""
    n = {name: len(column) for name, column in columns.items()}
    if len(set(n.values())) > 1:
      raise ConfigError(f"columns of different lengths: {n}")
    return cls(columns, np.arange(1, 1 + next(iter(n.values()), 0)), "table")

  def __len__(self) -> int:
    return len(self.lines)

  def __contains__(self, name: str) -> bool:
    return name in self.cells

  def require(self, *names: str) -> None:
    """Raises ConfigError, listing the existing columns, if one of these is missing."""
    for name in names:
      if name not in self.cells:
        raise ConfigError(f"{self.path}: no column '{name}', but {', '.join(self.cells)}")

  def text(self, name: str) -> Array:
    """A column as text [n]."""
    self.require(name)
    return np.array([str(cell) for cell in self.cells[name]], object)

  def empty(self, name: str) -> Array:
    """Which cells of a column are empty [n]."""
    return np.array([cell.strip() in ("", "None") for cell in self.text(name)], bool)

  def numbers(self, name: str) -> Array:
    """A column as positive numbers [n]; NaN for empty cells.

    Raises:
      ConfigError: a cell is not a positive number; the message has the line of the first one.
    """
    values = np.full(len(self), np.nan)
    for i in np.flatnonzero(~self.empty(name)):
      cell, where = self.cells[name][int(i)], f"{self.path}, line {self.lines[i]}: {name} is"
      try:
        values[i] = float(cell)
      except ValueError:
        comma = " (a decimal comma? write a point)" if "," in str(cell) else ""
        raise ConfigError(f"{where} '{cell}', not a number{comma}") from None
      if not SMALLEST <= values[i] <= LARGEST:
        raise ConfigError(
          f"{where} {cell}; it must be positive and finite ({SMALLEST:g} to {LARGEST:g})"
        )
    return values

  def rows(self, keep: Array) -> "Table":
    """The rows where keep [n] is true."""
    index = np.flatnonzero(keep)
    cells = {name: [column[int(i)] for i in index] for name, column in self.cells.items()}
    return Table(cells, self.lines[index], self.path)


def read_table(path: str | Path, columns: Sequence[str] = COLUMNS) -> Table:
  """Reads a CSV file with a header; lines that begin with # are comments.

  What spreadsheets save is read, too: tabs between cells, UTF-16 with a byte order mark, and, where
  decimals have commas, semicolons between cells.

  Args: columns: required columns.
  Raises:
    ConfigError: the file cannot be read, a column is missing or duplicated, a row is too short or
      too long (with its line), or there are no rows.
  """
  rows, lines, mark = [], [], ""
  for number, line in enumerate(_lines(Path(path)), 1):
    if line.strip() and not line.startswith("#"):
      mark = mark or next((m for m in ";\t" if m in line and "," not in line), ",")
      try:
        cells = next(csv.reader([line], delimiter=mark, skipinitialspace=True))
        rows.append([_decimal(cell) for cell in cells] if mark == ";" else cells)
      except csv.Error as error:  # a cell of more than 131,072 characters
        raise ConfigError(f"{path}, line {number}: {error}") from None
      lines.append(number)
  if len(rows) < 2:
    raise ConfigError(f"{path}: empty table ({'a header and no rows' if rows else 'no header'})")
  header = [name.strip() for name in rows[0]]
  _check_header(path, header)
  for row, number in zip(rows[1:], lines[1:]):
    if len(row) != len(header):
      comma = len(row) > len(header) and " (decimal commas? write points)" or ""
      raise ConfigError(
        f"{path}, line {number}: {len(row)} cells, but {len(header)} columns{comma}"
      )
  table = Table(dict(zip(header, zip(*rows[1:]))), np.array(lines[1:]), str(path))
  table.require(*columns)
  return table


def _decimal(cell: str) -> str:
  """A number's decimal comma as a point; other cells as they are."""
  return (
    cell.replace(",", ".") if re.fullmatch(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", cell) else cell
  )


def _lines(path: Path) -> list[str]:
  """The lines of a text file; raises ConfigError for a spreadsheet's own format."""
  try:
    text = read_text(path, utf16=True)
  except ConfigError as error:
    raise ConfigError(f"{error}: a table is a CSV file in UTF-8 (Excel: 'CSV UTF-8')") from None
  if "\0" in text:
    raise ConfigError(f"{path} is not text: a table is a CSV file in UTF-8 (Excel: 'CSV UTF-8')")
  return text.splitlines()


def _check_header(path: str | Path, header: Sequence[str]) -> None:
  twice = sorted({name for name in header if header.count(name) > 1})
  if twice:
    raise ConfigError(f"{path}: column '{twice[0]}' appears {header.count(twice[0])} times")


@dataclass(frozen=True)
class Rows:
  """The n rows to fit, and the rows left out."""

  table: Table
  y: Array
  flops: Array
  params: Array  # NaN if the method does not use it
  tokens: Array  # D, in its own unit; NaN if the method does not use it
  groups: Groups
  held_out: Table
  outliers: dict[str, Any]  # the rule, and the lines it dropped
  copies: Array  # lines of the rows left out because they repeat an earlier one


def select(
  table: Table,
  target: str,
  columns: Sequence[str],
  *,
  drop_highest: int,
  holdout_above: Scalar | None,
) -> Rows:
  """Rows to fit: those with a target that are not held out, without the drop_highest highest.

  Args: columns: names of N and D; empty for a law in FLOPs only.
  """
  table.require("flops", target, *columns)
  table, copies = _distinct(table.rows(~table.empty(target)), target, columns)
  held = np.zeros(len(table), bool)
  if holdout_above is not None:
    if not 0 <= holdout_above < np.inf:
      raise ConfigError(f"holdout_above={holdout_above} must be a number of FLOP")
    held = table.numbers("flops") > holdout_above
  rest, held_out, outliers = table.rows(~held), table.rows(held), {"rule": "none", "dropped": []}
  y = rest.numbers(target)
  if drop_highest:
    if not 0 < drop_highest < len(y):
      raise ConfigError(f"drop_highest={drop_highest}, but there are {len(y)} rows")
    limit = np.sort(y)[-drop_highest]
    rule = f"kept {target} < {limit:g}: the {drop_highest} highest of {len(y)} dropped"
    outliers = {"rule": rule, "dropped": rest.lines[y >= limit]}
    rest, y = rest.rows(y < limit), y[y < limit]
  nothing = np.full(len(y), np.nan)
  axes = [_told(rest, name) for name in ("flops", *columns)]
  params, tokens = axes[1:] if columns else (nothing, nothing)
  return Rows(rest, y, axes[0], params, tokens, _groups(rest, y, axes), held_out, outliers, copies)


def _distinct(table: Table, target: str, columns: Sequence[str]) -> tuple[Table, Array]:
  """(rows without copies, the copies' lines): repeats differ, so equal rows are one run."""
  said = np.stack([table.numbers(name) for name in ("flops", target, *columns)], 1)
  if "seed" in table:  # losses may be rounded: of two seeds they may agree
    seeds = np.unique(table.text("seed").astype(str), return_inverse=True)[1]
    said = np.concatenate([said, seeds.reshape(-1, 1)], 1)
  _, first = np.unique(said, axis=0, return_index=True)
  keep = np.isin(np.arange(len(said)), first) | np.isnan(said).any(1)
  return table.rows(keep), table.lines[~keep]


def _told(table: Table, name: str) -> Array:
  values = table.numbers(name)
  if np.isnan(values).any():
    line = table.lines[np.isnan(values)][0]
    raise ConfigError(f"{table.path}, line {line}: {name} is empty")
  return values


def _groups(table: Table, y: Array, axes: Sequence[Array]) -> Groups:
  """Groups for resampling: strata are budgets, cells are the seeds of one setting."""
  strata, cells = np.zeros(len(y), int), np.arange(len(y))
  if "budget" in table:
    strata = np.unique(table.text("budget").astype(str), return_inverse=True)[1].reshape(-1)
  if "seed" in table:
    cells = np.unique(np.stack([strata, *axes]), axis=1, return_inverse=True)[1].reshape(-1)
  error = np.nan_to_num(table.numbers("stderr")) / y if "stderr" in table else np.zeros(len(y))
  return Groups(strata, cells, error)


def coefficients(method: str, floor: float | None) -> int:
  """How many coefficients a method fits; floor: the known one, or None."""
  return {"isoflop": 6, "power": 2}.get(method, 4) + (floor is None and method != "isoflop")


def check(rows: Rows, method: str, floor: float | None, data: str) -> list[str]:
  """Warnings about the design; raises ConfigError if it does not determine the law."""
  n = len(rows.y)
  needed = coefficients(method, floor)
  if n < needed:
    raise ConfigError(f"{n} rows, but {method} has {needed} coefficients to fit")
  if floor is not None and floor >= rows.y.min():
    raise ConfigError(f"irreducible={floor:g}, but the lowest measured is {rows.y.min():g}")
  warnings = []
  if len(rows.copies):
    warnings.append(
      f"{len(rows.copies)} rows repeat others (line {rows.copies[0]} is the first) to the last "
      "digit, so they are copies of runs and left out"
    )
  warnings += _other_units(rows) if data == "tokens" else []
  if n == needed:
    warnings.append(f"{n} rows for {needed} coefficients: the fit cannot be judged")
  axes = {"params": rows.params, "tokens": rows.tokens}
  for name, values in {"flops": rows.flops}.items() if method == "power" else axes.items():
    distinct = len(np.unique(values))
    if distinct < 2:
      raise ConfigError(f"{name} is the same in every row, so it has no exponent")
    if distinct < 3:
      warnings.append(f"too few sizes: {name} has {distinct} values, an exponent needs 3")
  additive = method not in ("power", "isoflop")
  if additive and np.corrcoef(np.log(rows.params), np.log(rows.tokens))[0, 1] > COLLINEAR:
    warnings.append("N and D rise together in all rows: alpha and beta cannot be told apart")
  return warnings


def levels(table: Table) -> Array:
  """FLOPs of each row's budget [n]: the mean of the rows that share it.

  Without a column of budgets, rows share one if their FLOPs lie in the same fifth of a decade.
  """
  flops = table.numbers("flops")
  fifth = np.floor(5 * np.log10(flops / flops.min()) + 0.5)
  budget = table.text("budget").astype(str) if "budget" in table else fifth
  _, budget = np.unique(budget, return_inverse=True)
  return (np.bincount(budget, flops) / np.bincount(budget))[budget]


def too_far(table: Table, budgets: Sequence[float]) -> list[str]:
  """Warnings about budgets, in FLOP, far beyond the rows; raises ConfigError for an invalid one."""
  for flops in budgets:
    if not 0 < flops < np.inf:
      raise ConfigError(f"--at={flops} must be a positive number of FLOP")
  rows = table.numbers("flops")
  span = f"{rows.min():.3g} to {rows.max():.3g} FLOP"
  far = [at for at in budgets if not rows.min() / FAR <= at <= rows.max() * FAR]
  return [f"{at:.3g} FLOP is more than {FAR:g} times beyond the rows ({span})" for at in far]


def _other_units(rows: Rows) -> list[str]:
  """Warns of FLOPs that do not match parameters and tokens (NaN for a law in FLOPs only)."""
  c = float(np.median(rows.flops / (rows.params * rows.tokens)))
  if np.isnan(c) or FLOPS[0] <= c <= FLOPS[1]:
    return []
  return [
    f"flops are {c:.3g} x params x tokens (usual: 6 to 50): is one of the three columns in another "
    "unit, such as PFLOP, millions of parameters or thousands of tokens?"
  ]
