"""A prediction's file: its schema, its seal, and the check whether a valid one exists."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from videojax.errors import ConfigError
from videojax.io.files import replacing
from videojax.io.schema import read_as
from videojax.scaling.cells import Row
from videojax.scaling.sweep_groups import Sweep, budget_of, load

SCHEMA = 1


class Span(TypedDict):
  mean: float
  low: float
  high: float


class PredictedCell(Span):
  params: float
  tokens: float
  flops: float
  last_best_loss: float


class Best(TypedDict):
  """The best size of a budget and its loss; null for ends that the draws do not have."""

  mean: float
  low: float | None
  high: float | None
  params: float
  params_low: float | None
  params_high: float | None


class NoBest(TypedDict):
  mean: None
  why: str


class PredictedSeries(TypedDict):
  series: str
  law: dict[str, Any]
  best: Best | NoBest
  last_best_loss: float
  coherence: dict[str, Span]


Prediction = TypedDict("Prediction", {
  "schema": int, "date": str, "budget": float, "irreducible": float | None,
  "cells": dict[str, PredictedCell], "series": list[PredictedSeries], "from": dict[str, str],
  "sha256": str,
})  # fmt: skip


def seal(content: Mapping[str, Any]) -> str:
  """SHA-256 of everything except the seal itself, in a canonical form."""
  rest = {k: v for k, v in content.items() if k != "sha256"}
  text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def verify(path: Path | str) -> str:
  """'' if the prediction is unchanged since it was written; otherwise what is wrong with it."""
  path = Path(path)
  try:
    content = read_as(path, Prediction)
  except ConfigError as error:
    return f"{path.name} cannot be read ({error})"
  if content["sha256"] != seal(content):
    return f"the seal of {path.name} is broken: the file was changed after it was written"
  return ""


def path_of(directory: Path, budget: float | int) -> Path:
  return directory / "predictions" / f"{budget:.4g}.json"


def unpredicted(directory: Path, budget: float | int) -> str:
  """Why a budget still needs a prediction (no file, or a damaged one); '' if it has a valid one.

  Raises:
    ConfigError: the prediction is damaged and one of its cells has started, so that a new one
      would be made after results exist.
  """
  path = path_of(directory, budget)
  if not path.exists():
    return "there was none"
  sweep = load(directory)
  asked = [row for row in sweep.rows if row.cell.held_out and same_budget(row, sweep, budget)]
  wrong = verify(path) or _misses(path, asked, budget)
  begun = [row.cell.name for row in asked if row.status != "waiting"]
  if wrong and begun:
    raise ConfigError(
      f"{path}: {wrong}. Cells that it predicts have started ({', '.join(begun)}), so a new "
      "prediction would come too late. Restore the file as it was written"
    )
  return f"in place of a damaged one: {wrong}" if wrong else ""


def _misses(path: Path, asked: Sequence[Row], budget: float | int) -> str:
  """Why a sealed prediction does not cover a budget and its cells; '' if it does."""
  content = read_as(path, Prediction)
  if not math.isclose(content["budget"], budget, rel_tol=1e-3):
    return f"{path.name} is for another budget, {content['budget']:.4g} FLOP"
  missing = [row.cell.name for row in asked if row.cell.name not in content["cells"]]
  return f"{path.name} has no prediction for {', '.join(missing)}" if missing else ""


def write_first(path: Path, text: str) -> None:
  """Writes a file atomically; raises ConfigError if another process has written it already."""
  with replacing(path) as temporary:
    temporary.write_text(text)
    try:
      os.link(temporary, path)  # unlike a rename, it fails if the file exists
    except FileExistsError:
      raise ConfigError(f"{path} has been written by another process") from None
    except OSError as error:
      if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
        raise  # otherwise the file system has no hard links, and the rename has to suffice


def same_budget(row: Row, sweep: Sweep, budget: float | int) -> bool:
  return math.isclose(budget_of(row, sweep.notes), budget, rel_tol=1e-3)
