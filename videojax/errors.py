"""Errors for users: each message says what is wrong, where, and what to do."""

import difflib
import importlib
from collections.abc import Iterable


class ConfigError(ValueError):
  """A setting is invalid; shown without a traceback."""


class NotFiniteError(ArithmeticError):
  """A loss, a clip or a measure is NaN or infinite; shown without a traceback."""


def require_extra(module: str, extra: str) -> None:
  """Raises ConfigError, with the command to install it, if an optional package is missing."""
  try:
    importlib.import_module(module)
  except ModuleNotFoundError:
    raise ConfigError(
      f"{module} is not installed; install it with: pip install 'videojax[{extra}]'"
    ) from None


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
  """Raises ValueError, naming the choices and the nearest one, if `value` is not among them."""
  choices = sorted(choices)
  if value in choices:
    return
  near = difflib.get_close_matches(value, choices, n=1)
  hint = f" (did you mean '{near[0]}'?)" if near else ""
  raise ValueError(f"no {what} '{value}'{hint}; available: {', '.join(choices) or 'none'}")
