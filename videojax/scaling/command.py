"""Command lines of python -m videojax.scaling: a mistake gives one line that names the flag."""

import argparse
import math
from typing import NoReturn

from videojax.errors import ConfigError


class Parser(argparse.ArgumentParser):
  """An argument parser that raises ConfigError for mistakes; --help shows `description`."""

  def __init__(self, command: str, description: str | None):
    super().__init__(
      f"python -m videojax.scaling {command}", description=description, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip

  def error(self, message: str) -> NoReturn:
    raise ConfigError(f"{message}; see --help")


def positive(text: str) -> float:
  """Parses a flag's value as a positive, finite number."""
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 < value < math.inf:
    raise argparse.ArgumentTypeError(f"{text!r} must be a positive, finite number")
  return value


def count(text: str) -> int:
  """Parses a flag's value as a whole number of at least 1."""
  if not text.isdecimal() or not 1 <= len(text) <= 9 or not int(text):
    raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
  return int(text)
