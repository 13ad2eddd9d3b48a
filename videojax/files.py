"""Files that are whole or not there, and JSON of numbers that JSON has."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A file beside `path` to write to, which then takes its place by one rename.

  A reader sees the old file or the new one, never half of one; after an error the old one stays.
  """
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    yield temporary
    temporary.replace(path)
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


def finite(value: Any) -> Any:
  """NaN and infinity (a measure that is not defined) become null, NumPy's numbers Python's."""
  if isinstance(value, dict):
    return {str(k): finite(v) for k, v in value.items()}
  if hasattr(value, "tolist"):  # an array, or a number of NumPy's
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [finite(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
