"""Formats numbers for the page: plain text, with an en dash for a missing number."""

import math
from collections.abc import Callable, Iterable

from videojax.io.log import clock_text
from videojax.report.plotting import SI, rounded

NONE, SPACE = "\N{EN DASH}", "\N{NO-BREAK SPACE}"
MINUS = str.maketrans("-", "\N{MINUS SIGN}")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Number = float | int | None


def number(value: Number, digits: int = 3) -> str:
  """'0.0153', '1.2×10⁻⁵'."""
  if value is None or (isinstance(value, float) and not math.isfinite(value)):
    return NONE
  if isinstance(value, int):
    return f"{value:,}".translate(MINUS)
  if value and not 1e-4 <= abs(value) < 1e6:
    return scientific(value, digits)
  return f"{value:.{_decimals(value, digits)}f}".translate(MINUS)


def _decimals(value: float | int, digits: int) -> int:
  return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def scientific(value: Number, digits: int = 3) -> str:
  """'1.6×10¹⁴'. Superscript digits, not markup, so that text copied from the page is correct."""
  if value is None:
    return NONE
  mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
  mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
  power = "10" + str(int(exponent)).translate(RAISED)
  return power if mantissa == "1" else f"{mantissa.translate(MINUS)}×{power}"


def count(value: Number) -> str:
  """'1.21M' parameters or tokens."""
  return NONE if value is None else SI(rounded(value))


def percent(value: Number, digits: int = 1, *, sign: bool = False) -> str:
  """'2.4 %' of 0.024."""
  if value is None or not math.isfinite(value):
    return NONE
  text = f"{100 * value:+.{digits}f}" if sign else f"{100 * value:.{digits}f}"
  return f"{text.translate(MINUS)}{SPACE}%"


def plus_minus(value: Number, stderr: Number) -> str:
  """'0.01534 ± 0.00042': both with the decimals that give the error two digits."""
  if value is None or stderr is None or not stderr or not math.isfinite(stderr):
    return number(value)
  decimals = min(6, _decimals(stderr, 2))
  return f"{value:.{decimals}f}{SPACE}±{SPACE}{stderr:.{decimals}f}".translate(MINUS)


def interval(
  value: Number, low: Number, high: Number, form: Callable[[Number], str] = number
) -> str:
  """'0.44 [0.42, 0.47]'; without the brackets if there is no interval."""
  if low is None or high is None:
    return form(value)
  return f"{form(value)} [{form(low)}, {form(high)}]"


def duration(seconds: Number) -> str:
  """'48 s', '12 min', '3.4 h'."""
  return NONE if seconds is None else clock_text(seconds).replace(" ", SPACE)


def moment(iso: str) -> str:
  """'2026-11-24 10:40' of '2026-11-24T10:40:15Z'."""
  return iso[:16].replace("T", " ")


def plural(count: int, word: str) -> str:
  return f"{count} {word}{'' if count == 1 else 's'}"


def listed(items: Iterable[str], last: str = "and") -> str:
  """'a, b and c'."""
  *first, end = list(items) or [""]
  return f"{', '.join(first)} {last} {end}" if first else end


def words(key: str) -> str:
  """'learning rate' of 'optim.learning_rate'."""
  return key.split(".")[-1].replace("_", " ")
