"""Atomic writing of files, and JSON without NaN and infinity."""

import codecs
import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from videojax.errors import ConfigError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """Yields the path of a temporary file beside `path`, which is renamed to `path` at the end.

  A reader sees the old file or the new one, never a part; after an error the old one remains.
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
  """Writes a text file, creating its directory if missing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with replacing(path) as temporary:
    temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
  """Writes `finite(value)` as JSON."""
  write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
  """Reads a JSON file.

  Raises:
    ConfigError: the file is missing, cannot be read, or is not JSON; the message names it.
  """
  return parse_json(read_text(path), path)


def parse_json(text: str, where: Path | str) -> Any:
  """Parses JSON text; NaN and infinity, which are not JSON, are refused.

  Raises:
    ConfigError: the text is not JSON; the message names `where`.
  """

  def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

  try:
    return json.loads(text, parse_constant=refuse)
  except RecursionError:
    raise ConfigError(f"{where} is damaged (nested too deeply)") from None
  except ValueError as error:
    raise ConfigError(f"{where} is damaged ({error})") from None


def read_text(path: Path, *, utf16: bool = False) -> str:
  """Reads a UTF-8 text file, with or without a byte order mark; `utf16`: also UTF-16 with one.

  Raises:
    ConfigError: the file is missing, not regular, not readable or not UTF-8; the message names it.
  """
  try:
    if path.exists() and not path.is_file():  # reading a pipe would block forever
      raise ConfigError(f"{path} is not a regular file")
    content = path.read_bytes()
    wide = utf16 and content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return content.decode("utf-16" if wide else "utf-8-sig")
  except FileNotFoundError:
    raise ConfigError(f"{path} does not exist") from None
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
  """Converts NaN and infinity (undefined measures) to None, and NumPy's values to Python's."""
  if isinstance(value, dict):
    return {str(k): finite(v) for k, v in value.items()}
  if hasattr(value, "tolist"):  # a NumPy array or scalar
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [finite(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
