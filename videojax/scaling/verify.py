"""python -m videojax.scaling verify FILE ...: whether sealed predictions are as they were written.

Of a sweep (`predict`) or of a table (`fit --seal`). A seal is a SHA-256 of the content: it shows
changes of the file, and nothing about when it was made; commit or publish the file for that.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from videojax.errors import ConfigError
from videojax.io.schema import read_as
from videojax.scaling.command import Parser
from videojax.scaling.sealed import file_sha256, seal


class SealedFit(TypedDict):
  """What `fit --seal` writes; `table` is the SHA-256 of the table."""

  date: str
  table: str
  options: dict[str, Any]
  fit: dict[str, Any]
  sha256: str


class Sealed(TypedDict):
  date: str
  sha256: str


def check(path: Path, table: Path | None) -> str:
  """A sentence about a file whose seal holds.

  Raises:
    ConfigError: it does not, the file cannot be read, or the table is another one.
  """
  content = read_as(path, Sealed)
  if content["sha256"] != seal(content):
    raise ConfigError(f"the seal of {path} is broken: the file was changed after it was written")
  if table is not None and read_as(path, SealedFit)["table"] != file_sha256(table):
    raise ConfigError(f"{path} was made from another table than {table}, which may have changed")
  from_it = f", from {table} as it is" if table else ""
  return f"{path}: as it was written on {content['date']}{from_it}"


def main(arguments: Sequence[str]) -> None:
  """Checks files; the first that is not as it was written is an error."""
  parser = Parser("verify", __doc__)
  parser.add_argument("files", type=Path, nargs="+", help="predictions/*.json, or of fit --seal")
  parser.add_argument("--table", type=Path, help="the table that a fit was made from")
  told = parser.parse_args(arguments)
  for file in told.files:
    print(check(file, told.table))
