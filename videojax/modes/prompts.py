"""What clips are asked for: the lines of a prompts file, or the flags of one clip."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from videojax import settings
from videojax.errors import ConfigError
from videojax.io import files

SEEDS = 2**32  # seeds are below; a key takes 32 bits
MOST = 2**20  # clips of one line
FILES = ("image", "video", "last")


@dataclasses.dataclass(frozen=True)
class Row:
  """One clip that is asked for.

  Attributes:
    prompt: what it shows; '': nothing is said.
    negative: what guidance leads away from.
    seed: of its noise.
    image, video: the picture that is its first frame, or the film that it continues.
    last: the picture that is its last frame.
    place: where it was asked for; '': on the command line.
  """

  prompt: str = ""
  negative: str = ""
  seed: int = 0
  image: Path | None = None
  video: Path | None = None
  last: Path | None = None
  place: str = ""

  @property
  def where(self) -> str:
    """The beginning of an error's text."""
    return f"{self.place}: " if self.place else ""


KEYS = ("prompt", "negative", "seed", "num", *FILES)


def rows_of(prompts: Path | None, flags: Mapping[str, Any]) -> list[Row]:
  """The clips asked for: each line gives `num` of them, with the seeds seed, seed + 1, ...

  Args:
    prompts: a file with one JSON object per line, whose keys are KEYS; None: one line, the flags.
    flags: those of KEYS that the command line gives; of lines, the values where a line has none.
  Raises:
    ConfigError: a line is malformed; the message has its number.
  """
  if prompts is None:
    return _clips({**flags}, "")
  if "prompt" in flags:
    raise ConfigError("give --prompts=FILE or --prompt=TEXT, not both")
  if prompts.suffix != ".jsonl":
    raise ConfigError(f"--prompts={prompts} must be a .jsonl file: one JSON object per line")
  begins = lambda values: bool({"image", "video"} & values.keys())
  rest = {k: v for k, v in flags.items() if k not in ("image", "video")}
  rows = [
    row
    for place, line in _lines(prompts)
    for row in _clips({**(rest if begins(line) else flags), **line}, place)
  ]
  if not rows:
    raise ConfigError(f"{prompts} has no lines")
  return rows


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  """(place, object) of each line that is not empty; names of files are relative to its folder."""
  # Not splitlines: JSON texts may contain other line separators.
  for number, text in enumerate(files.read_text(path).split("\n"), 1):
    if not text.strip():
      continue
    place = f"{path}, line {number}"
    line = files.parse_json(text, place)
    if not isinstance(line, dict):
      raise ConfigError(f'{place}: wanted an object such as {{"prompt": "..."}}')
    for key in line:
      if key not in KEYS:
        raise ConfigError(f"{place}: " + settings.unknown(key, list(KEYS), "the line"))
    line = {key: value for key, value in line.items() if value is not None}
    beside = {k: path.parent / _text(line[k], k, f"{place}: ") for k in FILES if k in line}
    yield place, line | beside


def _clips(values: dict[str, Any], place: str) -> list[Row]:
  """The clips of one line."""
  row = Row(place=place)
  num, seed = values.pop("num", 1), values.pop("seed", 0)
  for name, value, least, most in (("num", num, 1, MOST), ("seed", seed, 0, SEEDS - 1)):
    if type(value) is not int or not least <= value <= most:
      raise ConfigError(f"{row.where}{name} must be a whole number from {least} to {most}")
  if seed + num > SEEDS:
    raise ConfigError(f"{row.where}the last seed, seed + num - 1, must be below {SEEDS}")
  for name in ("prompt", "negative"):
    values[name] = _text(values.get(name, ""), name, row.where).strip()  # as training captions are
  paths: dict[str, Any] = {name: Path(values[name]) for name in FILES if values.get(name)}
  if "image" in paths and "video" in paths:
    raise ConfigError(f"{row.where}a clip begins with an image or a video, not with both")
  row = dataclasses.replace(row, prompt=values["prompt"], negative=values["negative"], **paths)
  return [dataclasses.replace(row, seed=seed + i) for i in range(num)]


def _text(value: Any, name: str, where: str) -> str:
  """The text; raises ConfigError if the value is none, or cannot be encoded."""
  if not isinstance(value, str):
    raise ConfigError(f"{where}{name} must be text, not {value!r}")
  if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
    raise ConfigError(f"{where}{name} has a null byte or half a character in it")
  return value
