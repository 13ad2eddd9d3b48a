"""Files that are whole or not there, and JSON of numbers that JSON has."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videojax.errors import ConfigError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A file beside `path` to write to, which then takes its place by one rename.

  A reader sees the old file or the new one, never half of one; after an error the old one stays.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    yield temporary
    temporary.replace(path)
  except OSError as error:
    error.filename = error.filename or str(path)  # a full disk's error names no file
    raise
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
  """Writes a text file, its directory too."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary:
    temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
  """Writes JSON of `finite(value)`."""
  write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
  """Reads a JSON file.

  Raises:
    ConfigError: it is not there, cannot be read, or is not JSON; the file is named.
  """
  return parse_json(read_text(path), path)


def parse_json(text: str, where: Path | str) -> Any:
  """The value of JSON text; NaN and infinity, which JSON has not, are refused.

  Raises:
    ConfigError: it is not JSON; `where` is named.
  """

  def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

  try:
    return json.loads(text, parse_constant=refuse)
  except RecursionError:
    raise ConfigError(f"{where} is damaged (nested too deeply)") from None
  except ValueError as error:
    raise ConfigError(f"{where} is damaged ({error})") from None


def read_text(path: Path) -> str:
  """Reads a UTF-8 text file, with or without a byte order mark.

  Raises:
    ConfigError: it is missing, not a file, not readable, or not UTF-8; the message names it.
  """
  try:
    if path.exists() and not path.is_file():  # a pipe would wait for ever
      raise ConfigError(f"{path} is not a regular file")
    return path.read_bytes().decode("utf-8-sig")
  except FileNotFoundError:
    raise ConfigError(f"{path} is not there") from None
  except UnicodeDecodeError as error:
    line = error.object.count(b"\n", 0, error.start) + 1
    raise ConfigError(
      f"{path} is not UTF-8 text (line {line}, byte {error.start}); save it as UTF-8"
    ) from None
  except (OSError, ValueError) as error:  # ValueError: a null byte in the name
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(
      f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    ) from None


def finite(value: Any) -> Any:
  """NaN and infinity (a measure that is not defined) become null, NumPy's numbers Python's."""
  if isinstance(value, dict):
    return {str(k): finite(v) for k, v in value.items()}
  if hasattr(value, "tolist"):  # an array, or a number of NumPy's
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [finite(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
