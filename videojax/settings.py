"""Validates settings: their types, ranges, and that they are finite.

A config is a frozen dataclass. Its annotations define which values each field may have, and
`check`, the first line of its `__post_init__`, enforces them:

  steps: Count = 50
  eta: Share = 0.0
  window: tuple[NonNegative, Annotated[float, Range(0, infinite=True)]] = (0.0, math.inf)
"""

import dataclasses
import difflib
import functools
import importlib
import math
import pathlib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from videojax.errors import ConfigError

T = TypeVar("T")

# Infinity in config.json and on the command line: JSON and Python have no literal for it.
INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "inf": math.inf, "-inf": -math.inf}


@dataclasses.dataclass(frozen=True)
class Range:
  """Bounds of a number.

  Attributes:
    low, high: bounds, inclusive unless open.
    open_low, open_high: whether a bound is open.
    infinite: whether infinity is allowed; otherwise a float must be finite.
  """

  low: float | int = -math.inf
  high: float | int = math.inf
  open_low: bool = False
  open_high: bool = False
  infinite: bool = False

  def holds(self, x: float | int) -> bool:
    above = x > self.low if self.open_low else x >= self.low
    below = x < self.high if self.open_high else x <= self.high
    return above and below and (self.infinite or not math.isinf(x))

  def __str__(self) -> str:
    if self.high in (math.inf, MOST):
      return f"> {self.low:g}" if self.open_low else f">= {self.low:g}"
    left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
    return f"in {left}{self.low:.16g}, {self.high:.16g}{right}"

  def says_to(self, x: float | int) -> str:
    """What `x`, which is out of range, must be; for an integer, only the bound that it crosses."""
    if isinstance(x, int) and x > self.high:
      return f"<= {self.high:.16g}"
    return f">= {self.low:.16g}" if isinstance(x, int) and x < self.low else str(self)


class Pattern:
  """Bound of text: it must be a valid regular expression."""


MOST = 2**31 - 1  # largest index in XLA
Count = Annotated[int, Range(1, MOST)]
Natural = Annotated[int, Range(0, MOST)]
Width = Annotated[int, Range(1, 2**17)]  # of one axis of a model or a clip
Depth = Annotated[int, Range(1, 1024)]  # number of layers, which are built one by one
Seed = Annotated[int, Range(0, 2**32 - 1)]  # a key takes 32 bits
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Regex = Annotated[str, Pattern()]


def check(config: Any) -> None:
  """Checks each field of a frozen dataclass against its annotation.

  Equal values of another type are converted to the annotated one: lists to tuples, integers to
  floats, NumPy scalars to Python's, 'Infinity' to the number.

  Raises:
    ValueError: a value has another type, is out of range, or is NaN; the message names the field,
      the value and what it must be.
  """
  for name, value in checked(type(config), vars(config)).items():
    object.__setattr__(config, name, value)


def checked(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """The values of the fields of `cls`, checked and converted as by `check`."""
  known = hints(cls)
  return {name: _checked(name, known[name], v) for name, v in values.items() if name in known}


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
  """Annotations of a dataclass's fields by name."""
  all_of = typing.get_type_hints(cls, include_extras=True)
  return {f.name: all_of[f.name] for f in dataclasses.fields(cls) if f.init}


def plain(hint: Any) -> Any:
  """The type of an annotation without its range."""
  return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _checked(name: str, hint: Any, value: Any) -> Any:
  try:
    return _as(hint, value)
  except _RefusedError as refused:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise ValueError(f"{name}={shown} must be {refused}") from None


def wanted(hint: Any) -> str:
  """The values that an annotation allows, in words."""
  try:
    _as(hint, object())
  except _RefusedError as refused:
    return str(refused)
  return "anything"


class _RefusedError(Exception):
  """A value is not allowed; the message says what it must be."""


def _as(hint: Any, value: Any) -> Any:
  """The value, converted to `hint`; raises _RefusedError if it is not allowed."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return _within(args[0], args[1:], value)
  if origin in (typing.Union, types.UnionType):
    return _one_of(args, value)
  if origin is tuple:
    return _tuple(args, value)
  if isinstance(origin, type) and issubclass(origin, Mapping):
    return _mapping(args, value)
  return _plain(hint, value)


def _within(hint: Any, bounds: Iterable[Any], value: Any) -> Any:
  limits = [b for b in bounds if isinstance(b, Range)]
  try:
    value = _plain(hint, value, any(limit.infinite for limit in limits))
  except _RefusedError as refused:
    raise _RefusedError(" and ".join([str(refused), *(str(limit) for limit in limits)])) from None
  for limit in limits:
    if not limit.holds(value):
      raise _RefusedError(limit.says_to(value))
  if any(isinstance(b, Pattern) for b in bounds):
    try:
      re.compile(value)
    except re.error as error:
      raise _RefusedError(f"a regular expression: {error}") from None
  return value


def _one_of(args: tuple[Any, ...], value: Any) -> Any:
  wanted = []
  for hint in args:
    try:
      return _as(hint, value)
    except _RefusedError as refused:
      wanted.append(str(refused))
  raise _RefusedError(", or ".join(wanted))


def _tuple(args: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
  several = len(args) == 2 and args[1] is Ellipsis
  if not isinstance(value, tuple | list) or not (several or len(value) == len(args)):
    raise _RefusedError("a tuple of values" if several else f"a tuple of {len(args)} values")
  each = [args[0]] * len(value) if several else args
  try:
    return tuple(_as(hint, item) for hint, item in zip(each, value))
  except _RefusedError as refused:
    raise _RefusedError(f"a tuple of values, each {refused}") from None


def _mapping(args: tuple[Any, ...], value: Any) -> dict[Any, Any]:
  if not isinstance(value, Mapping):
    raise _RefusedError("a dict of values, {'name': value}")
  try:
    return {_as(args[0], k): _as(args[1], v) for k, v in value.items()}
  except _RefusedError as refused:
    raise _RefusedError(f"a dict of values, each {refused}") from None


def _plain(hint: Any, value: Any, infinite: bool = False) -> Any:
  if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
    value = value.item()
  if hint is Any:
    return _finite(value)
  if hint is type(None):
    if value is None:
      return None
    raise _RefusedError("None")
  if hint is float:
    return _float(value, infinite)
  kinds = {int: "a whole number", bool: "True or False", str: "text"}
  if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
    raise _RefusedError(kinds.get(hint, "a dict of settings"))
  if hint is int and not -MOST - 1 <= value < 2**32:
    raise _RefusedError("a whole number of at most 32 bits")
  if hint is str and ("\0" in value or not _is_utf8(value)):
    raise _RefusedError("text without zero bytes or lone surrogates")
  return value


def _float(value: Any, infinite: bool) -> float:
  number = INFINITE.get(value, value) if isinstance(value, str) else value
  if isinstance(number, bool) or not isinstance(number, int | float):
    raise _RefusedError("a number")
  try:
    number = float(number)
  except OverflowError:
    raise _RefusedError("a finite number") from None
  if math.isnan(number) or (math.isinf(number) and not infinite):
    raise _RefusedError("a number" if infinite else "a finite number")
  return number


def _finite(value: Any) -> Any:
  """Checks a value of any type: no number in it is NaN or infinite."""
  inside: Iterable[Any] = ()
  if isinstance(value, Mapping):
    inside = value.values()
  elif isinstance(value, list | tuple):
    inside = value
  elif isinstance(value, float):
    _float(value, False)
  for item in inside:
    _finite(item)
  return value


def _is_utf8(text: str) -> bool:
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return True


def build(cls: type[T], values: Any, where: str) -> T:
  """`cls(**values)`, with errors for users.

  Args:
    where: the key of these settings; '': the experiment itself.
  Raises:
    ConfigError: a key is unknown (the nearest valid one is named) or missing, or the dataclass
      rejects a value.
  """
  what = where or "the config"
  if not isinstance(values, Mapping):
    raise ConfigError(f"{what}={values!r} must be a dict of settings")
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
  for key in values:
    if key not in fields:
      raise ConfigError(unknown(key, list(fields), what))
  missing = [
    name
    for name, f in fields.items()
    if f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
    and name not in values
  ]
  if missing:
    raise ConfigError(f"{what} lacks {', '.join(missing)}, which has no default")
  try:
    return cls(**checked(cls, values))
  except ValueError as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(named(where, error)) from error


def named(where: str, error: Exception) -> str:
  """An error's message after the key `where`; 'setting=...' becomes 'where.setting=...'."""
  if not re.match(r"\w+=", str(error)):
    return f"{where or 'the config'}: {error}"
  return f"{where}.{error}" if where else str(error)


def tuples(values: Mapping[Any, Any]) -> dict[Any, Any]:
  """Converts the lists of JSON to tuples."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def unknown(key: Any, known: list[str], where: str) -> str:
  close = [repr(name) for name in difflib.get_close_matches(str(key), known, n=3, cutoff=0.5)]
  hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(sorted(known))}"
  return f"{where} has no key {key!r}: {hint}"


def module(package: str, name: Any, noun: str, members: Iterable[str]) -> types.ModuleType:
  """The module `name` of a package: an architecture, a data source, a codec.

  Raises:
    ValueError: there is none, or it is a helper file that lacks one of these members.
  """
  folder = package.replace(".", "/")
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(f"name={name!r} must be the name of a file in {folder}/, without .py")
  path = f"{package}.{name}"
  try:
    found = importlib.import_module(path)
  except ModuleNotFoundError as error:
    if error.name != path:
      raise
    found = types.ModuleType(path)
  if all(hasattr(found, member) for member in members):
    return found
  there = [p.stem for p in pathlib.Path(importlib.import_module(package).__path__[0]).glob("*.py")]
  near = difflib.get_close_matches(name, there, n=1)
  hint = f": did you mean {near[0]!r}?" if near and near[0] != name else ""
  raise ValueError(f"name={name!r}: there is no {noun} {folder}/{name}.py{hint}")
