"""manifest.jsonl of generated clips: a line for each finished one."""

import json
import os
from pathlib import Path
from typing import Any

from videojax.errors import ConfigError
from videojax.io import files


class Manifest:
  """The lines of a manifest; a damaged one, such as the last one after a kill, is removed.

  Args:
    path: of the file, which need not exist.
  """

  def __init__(self, path: Path):
    self.path, self.lines = path, dict[str, dict[str, Any]]()  # by the clip's file
    if not path.exists():
      return
    text = files.read_text(path)
    kept = [line for line in text.split("\n") if self._read(line)]
    whole = "".join(f"{line}\n" for line in kept)
    if whole != text:
      print(f"{path}: damaged lines removed")
      files.write_text(path, whole)

  def _read(self, text: str) -> bool:
    """Keeps a line; returns whether it is one."""
    try:
      line = files.parse_json(text, self.path)
    except ConfigError:
      return False
    sound = isinstance(line, dict) and isinstance(line.get("file"), str)
    if sound:
      self.lines[line["file"]] = line
    return sound

  def has(self, file: str, settings: dict[str, Any]) -> bool:
    """Whether a clip with these settings has its line and its file."""
    line = self.lines.get(file, {})
    same = {key: line.get(key) for key in settings} == json.loads(json.dumps(settings))
    return same and (self.path.parent / file).is_file()

  def add(self, line: dict[str, Any]) -> None:
    """Appends a line, in one write."""
    text = json.dumps(files.finite(line), allow_nan=False) + "\n"
    try:
      descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
      try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
      finally:
        os.close(descriptor)
    except OSError as error:  # a full disk
      raise OSError(error.errno, error.strerror, str(self.path)) from None
    self.lines[line["file"]] = line
