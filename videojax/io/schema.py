"""Checks the form of JSON that is read again against a type; errors name the place that differs.

Types: dataclasses and TypedDicts (unknown keys are ignored), `dict[str, T]`, `list[T]`, unions,
None, bool, int, float (any finite number), str, Any.
"""

import dataclasses
import functools
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videojax.errors import ConfigError
from videojax.io.files import read_json

LARGEST = sys.float_info.max
# Types without inner types: (description, predicate). (In Python, a bool is an int.)
LEAVES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
  type(None): ("null", lambda v: v is None),
  bool: ("true or false", lambda v: isinstance(v, bool)),
  int: (
    "a whole number",
    lambda v: isinstance(v, int) and not isinstance(v, bool) and abs(v) < 2**63,
  ),
  float: (
    "a finite number",
    lambda v: isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGEST,
  ),
  str: ("text", lambda v: isinstance(v, str)),
}
UNIONS = (typing.Union, types.UnionType)


def read_as(path: Path, form: Any) -> Any:
  """Reads a JSON file and checks its form.

  Raises:
    ConfigError: it cannot be read, or has another form; the message names file and place.
  """
  value = read_json(path)
  check_form(value, form, path)
  return value


def check_form(value: Any, form: Any, where: Path | str) -> None:
  """Raises ConfigError, naming the first place that differs, if a value does not have this form."""
  wrong = _wrong(value, form, "")
  if wrong:
    raise ConfigError(f"{where} is damaged, or from another version: {wrong}")


def _wrong(value: Any, form: Any, at: str) -> str:
  """What is wrong with a value, or ''; `at` is its place, '' for the whole document."""
  origin, args = typing.get_origin(form), typing.get_args(form)
  if form is Any:
    return ""
  if origin in UNIONS:
    found = [_wrong(value, one, at) for one in args]
    return "" if "" in found else found[0]
  if dataclasses.is_dataclass(form) or typing.is_typeddict(form):
    return _wrong_keys(value, form, at)
  if origin is not None and issubclass(origin, Mapping | Sequence):
    kind: Any = dict if issubclass(origin, Mapping) else list
    if not isinstance(value, kind):
      return _differs(value, "an object" if kind is dict else "a list", at)
    inside = value.items() if kind is dict else enumerate(value)
    holds = _leaf(args[-1])  # so that long lists of numbers need no call of _wrong for each
    doubtful = ((k, v) for k, v in inside if holds is None or not holds(v))
    return next(filter(None, (_wrong(v, args[-1], _below(at, k)) for k, v in doubtful)), "")
  words, holds = LEAVES[form]
  return "" if holds(value) else _differs(value, words, at)


def _leaf(form: Any) -> Callable[[Any], bool] | None:
  """The predicate of a type without inner types; None for other types."""
  if form in LEAVES:
    return LEAVES[form][1]
  each = [_leaf(one) for one in typing.get_args(form)] if typing.get_origin(form) in UNIONS else []
  known = [one for one in each if one is not None]
  return (lambda v: any(one(v) for one in known)) if known and len(known) == len(each) else None


def _wrong_keys(value: Any, form: Any, at: str) -> str:
  if not isinstance(value, dict):
    return _differs(value, "an object", at)
  hints = type_hints(form)
  if missing := sorted(_required(form) - value.keys()):
    return f"{at or 'it'} lacks {', '.join(missing)}"
  known = ((name, hint) for name, hint in hints.items() if name in value)
  return next(filter(None, (_wrong(value[n], hint, _below(at, n)) for n, hint in known)), "")


type_hints = functools.cache(typing.get_type_hints)  # of a dataclass or TypedDict


@functools.cache
def _required(form: Any) -> set[str]:
  if typing.is_typeddict(form):
    return set(form.__required_keys__)
  missing = dataclasses.MISSING
  fields = dataclasses.fields(form)
  return {f.name for f in fields if f.default is missing and f.default_factory is missing}


def _below(at: str, key: str | int) -> str:
  return f"{at}[{key}]" if isinstance(key, int) else f"{at}.{key}" if at else key


def _differs(value: Any, wanted: str, at: str) -> str:
  shown = repr(value)
  return f"{at or 'it'} is {shown if len(shown) <= 60 else shown[:57] + '...'}, not {wanted}"
