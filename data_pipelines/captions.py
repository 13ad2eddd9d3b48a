"""Captions of a folder of videos: a .txt beside the file, or a captions.jsonl / captions.csv."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

TABLES = ("captions.jsonl", "captions.csv")


def read_captions(source: Path, names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
  """Finds the caption of each file.

  A .txt with the stem of another file in its folder is that file's caption and goes before the
  tables; a table's `file` column is relative to the table's folder.

  Args:
    source: the folder.
    names: the files below it, as POSIX paths.

  Returns:
    (caption by file, '' where there is none, of all files that are no captions themselves; files
    that a table names but that do not exist).

  Raises:
    ValueError: a table lacks a column, or a line of it is no JSON.
  """
  names = list(names)
  tables = {name for name in names if PurePosixPath(name).name in TABLES}
  texts = {name for name in names if name.endswith(".txt")}
  captions: dict[str, str] = {}
  for table in sorted(tables):
    folder = PurePosixPath(table).parent
    for file, caption in _rows(source / table):
      captions[str(folder / file)] = caption.strip()
  lost = sorted(set(captions) - set(names))
  beside = {
    name: text
    for name in names
    if name not in tables | texts
    and (text := str(PurePosixPath(name).with_suffix(".txt"))) in texts
  }
  for name, text in beside.items():
    captions[name] = (source / text).read_text("utf-8-sig", errors="replace").strip()
  media = dict.fromkeys(sorted(set(names) - tables - set(beside.values())), "")
  return media | {k: v for k, v in captions.items() if k in media}, lost


def _rows(table: Path) -> Iterator[tuple[str, str]]:
  """(file, caption) of each row."""
  with table.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
    rows = _json_rows(table, lines) if table.suffix == ".jsonl" else csv.DictReader(lines)
    try:
      for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {"file", "caption"} <= set(row):
          raise ValueError(f"{table}, row {number}: wanted the columns `file` and `caption`")
        yield str(row["file"]), str(row["caption"] or "")
    except csv.Error as error:
      raise ValueError(f"{table} cannot be read: {error}") from error


def _json_rows(table: Path, lines: Iterable[str]) -> Iterator[object]:
  for number, line in enumerate(lines, 1):
    if line.strip():
      try:
        yield json.loads(line)
      except json.JSONDecodeError as error:
        raise ValueError(f"{table}, line {number}: no JSON ({error})") from error
