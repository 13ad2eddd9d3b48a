"""Captions of a folder of videos: a .txt beside the file, or a captions.jsonl / captions.csv."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from videojax.errors import ConfigError
from videojax.io import files

TABLES = ("captions.jsonl", "captions.csv")
LONGEST = 2**17 - 1  # characters; also the csv module's limit for a cell
COLUMNS = ("file", "caption")


def read_captions(source: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
  """Finds the caption of each file.

  A .txt file with the same stem as another file in its folder is that file's caption and overrides
  the tables. A table's `file` column is relative to the table's folder.

  Args:
    source: the folder.
    names: the files below it, as POSIX paths.

  Returns:
    ({file: caption, '' if it has none}, for all files that are not captions themselves; files that
    a table lists but that do not exist or are captions).

  Raises:
    ConfigError: a table or text file cannot be read, a row of a table is malformed, or two rows
      name the same file. The message names the file and the row.
  """
  names = list(names)
  tables = {name for name in names if PurePosixPath(name).name in TABLES}
  texts = {name for name in names if name.endswith(".txt")}
  captions: dict[str, str] = {}
  places: dict[str, str] = {}
  for table in sorted(tables):
    for place, file, caption in _rows(source / table):
      name = str(PurePosixPath(table).parent / file)
      if name in places:
        raise ConfigError(f"{place}: {file!r} already has a caption, from {places[name]}")
      places[name], captions[name] = place, caption
  beside = {
    name: text
    for name in names
    if name not in tables | texts
    and (text := str(PurePosixPath(name).with_suffix(".txt"))) in texts
  }
  media = dict.fromkeys(sorted(set(names) - tables - set(beside.values())), "")
  lost = sorted(captions.keys() - media)
  for name, text in beside.items():
    captions[name] = _caption(files.read_text(source / text), str(source / text))
  return media | {k: v for k, v in captions.items() if k in media}, lost


def _rows(table: Path) -> Iterator[tuple[str, str, str]]:
  """Yields (place in the table, file, caption) of each row."""
  lines = io.StringIO(files.read_text(table), newline="")
  for place, row in (_json_rows if table.suffix == ".jsonl" else _csv_rows)(table, lines):
    if not isinstance(row, dict) or not set(COLUMNS) <= set(row):
      raise ConfigError(f"{place}: wanted the columns `file` and `caption`")
    file, caption = (row[name] for name in COLUMNS)
    if not isinstance(file, str) or not file:
      raise ConfigError(f"{place}: `file` is {_brief(file)}, wanted a path as text")
    yield place, file, _caption(caption, place)


def _json_rows(table: Path, lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
  for number, line in enumerate(lines, 1):
    if line.strip():
      place = f"{table}, line {number}"
      yield place, files.parse_json(line, place)


def _csv_rows(table: Path, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
  """Numbers rows as a spreadsheet does: the header is row 1, and empty rows count."""
  number, header = 0, None
  try:
    for number, row in enumerate(csv.reader(lines, strict=True), 1):
      place = f"{table}, row {number}"
      if header is None:
        header = row
        if any(header.count(name) != 1 for name in COLUMNS):
          raise ConfigError(
            f"{place}: wanted the columns `file` and `caption`, each once, separated by commas; "
            f"found {_brief(header)}"
          )
      elif row and len(row) != len(header):
        raise ConfigError(
          f"{place}: {len(row)} cells, wanted {len(header)}; put a caption that contains commas in "
          'double quotes ("...")'
        )
      elif row:
        yield place, dict(zip(header, row))
  except csv.Error as error:
    raise ConfigError(f"{table}, row {number + 1}: {error}") from None
  if header is None:
    raise ConfigError(f"{table} is empty: wanted the columns `file` and `caption`")


def _caption(text: object, place: str) -> str:
  """The stripped caption; raises ConfigError if `text` cannot be one."""
  if not isinstance(text, str):
    raise ConfigError(f"{place}: the caption is {_brief(text)}, wanted text")
  if len(text) > LONGEST:
    raise ConfigError(f"{place}: the caption has {len(text)} characters, over {LONGEST}")
  if "\0" in text:
    raise ConfigError(f"{place}: a null byte in the caption; is the file UTF-16? Save it as UTF-8")
  if any("\ud800" <= letter <= "\udfff" for letter in text):
    raise ConfigError(f"{place}: a lone surrogate (half a character) in the caption")
  return text.strip()


def _brief(value: object) -> str:
  text = repr(value)
  return text if len(text) <= 80 else f"{text[:80]}..."
