"""Prompts, pictures and films as the examples that a model was trained on: its conditions.

Shapes: B rows, T frames, H W height width, C channels.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, UInt8

from videojax import settings
from videojax.controls import MADE
from videojax.data import encode_caption, stack_examples
from videojax.errors import ConfigError
from videojax.modes.prompts import Row
from videojax.task import Task

FIRST = "first"  # the volume that repeats the first frame on all frames


@dataclasses.dataclass(frozen=True)
class Given:
  """The known frames of a clip.

  Attributes:
    mask: [T], which frames they are.
    frames: those frames.
  """

  mask: Bool[np.ndarray, " T"]
  frames: UInt8[np.ndarray, "N H W C"]

  def clip(self) -> UInt8[np.ndarray, "T H W C"]:
    """A clip that holds each known frame until the next one; zeros if no frame is known.

    Held, because a codec may mix neighbouring frames.
    """
    nothing = np.zeros((1, *self.frames.shape[1:]), np.uint8)
    return np.concatenate([nothing, self.frames])[np.cumsum(self.mask)]


class Examples:
  """Makes decoded examples, as a source's `decode` would, from rows.

  Args:
    task: of the model.
  Attributes:
    embedded: text -> its embedding, of all texts of the rows, if the model reads embeddings.
  Raises:
    ConfigError: the model takes a condition that cannot be given here.
  """

  def __init__(self, task: Task):
    self.task, self.fps = task, task.fps
    self.embedded: Mapping[str, Mapping[str, np.ndarray]] = {}
    self.omitted = _omitted(task)
    self._given: dict[tuple[Path | None, ...], Given] = {}  # by the files that it is read from

  @functools.cached_property
  def text_bytes(self) -> int:
    """Length of the text that the model was trained on, in bytes."""
    example = jax.eval_shape(self.task.source.decode, stack_examples(self.task.source, [0]))
    return example["caption"].shape[-1]

  def check(self, rows: Sequence[Row]) -> None:
    """Raises ConfigError if the model does not take what a row says in words; says what is cut."""
    takes, without = self.task.model.config.text, self.task.condition.drop > 0
    for row in rows:
      if not takes and (row.prompt or row.negative):
        raise ConfigError(f"{row.where}the model takes no text: leave the prompt out")
      if takes and not row.prompt and not without:
        raise ConfigError(
          f"{row.where}the model was never trained without text (condition.drop=0): give a prompt"
        )
    texts = texts_of(rows)
    long = sum(len(text.encode()) > self.text_bytes for text in texts) if takes == "bytes" else 0
    if long:
      print(
        f"{long} of {len(texts)} texts are longer than the {self.text_bytes} bytes that the model "
        "reads, and are cut there"
      )

  def given(self, row: Row) -> Given:
    """The known frames of a row; rows of the same files share them.

    Raises:
      ConfigError: a file cannot be read, or the model does not take these frames.
    """
    files = (row.image, row.video, row.last)
    if files not in self._given:
      self._given[files] = self._read(row)
    return self._given[files]

  def _read(self, row: Row) -> Given:
    (frames, height, width, channels), where = self.task.source.shape, row.where
    lead, last = self._leading(row)
    mask = np.arange(frames) < lead
    if not lead:
      return Given(mask, np.zeros((0, height, width, channels), np.uint8))
    if height != width or channels != 3:
      raise ConfigError(
        f"{where}pictures are cut to squares of three channels, but the model's clips are "
        f"{height}x{width}x{channels}"
      )
    reader = settings.module(
      "data_pipelines", "first_frames", "reader", ("read_film", "read_picture")
    )
    try:
      if row.video is not None:
        parts = [reader.read_film(row.video, lead, height, self.fps)]
      else:
        parts = [reader.read_picture(row.image, height)]
      if last:
        parts.append(reader.read_picture(row.last, height))
        mask[-1] = True
    except ConfigError as error:
      raise ConfigError(f"{where}{error}") from error
    return Given(mask, np.concatenate(parts))

  def _leading(self, row: Row) -> tuple[int, bool]:
    """(number of leading frames, whether the last one too) that the model is given for a row."""
    config, last = self.task.model.config, row.last is not None
    most = math.inf if row.video is not None else int(row.image is not None)
    pictured = any(name == FIRST for name, _ in config.volumes)
    if config.known is None or self.task.source.shape[0] == 1:
      if (most > 0) != pictured or last:
        takes = "a first frame: give --image or --video" if pictured else "no known frames"
        raise ConfigError(f"{row.where}the model takes {takes}" + " and no last one" * last)
      return int(most > 0), False
    masks = _masks(self.task)
    least = int(most > 0 or pictured)
    fits = [lead for lead, end in masks.values() if end == last and least <= lead <= most]
    if not fits:
      words = " or ".join(_words(*mask) for mask in masks.values()) or "only parts of frames"
      raise ConfigError(f"{row.where}the model makes clips from {words}")
    return max(fits), last

  def of(self, rows: Sequence[Row], given: Sequence[Given], negative: bool) -> dict[str, Any]:
    """The examples of rows.

    Args:
      rows, given: B of each.
      negative: whether any row of the whole command has a negative prompt.
    """
    seeds = np.array([row.seed for row in rows], np.uint32)  # the keys of the noise
    clips = np.stack([g.clip() for g in given]).astype(np.float32) / 127.5 - 1  # [B,T,H,W,C]
    out: dict[str, Any] = {"id": seeds, "video": clips}
    for name, value in self.omitted.items():
      out[name] = np.broadcast_to(value, (len(rows), *value.shape))
    if self.task.model.config.known is not None:
      mask = np.stack([g.mask for g in given]).astype(np.float32)
      out["known_mask"] = mask.reshape(*mask.shape, 1, 1, 1)
    if self.task.model.config.text is not None:
      out |= self.text([row.prompt for row in rows])
      if negative:
        out["negative"] = self.text([row.negative for row in rows])
    return out

  def text(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The text fields of examples, under their names in `Source.decode`."""
    if self.task.model.config.text != "bytes":
      rows = [self.embedded[text] for text in texts]
      return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {"caption": np.stack([encode_caption(t.encode(), self.text_bytes) for t in texts])}


def texts_of(rows: Sequence[Row]) -> set[str]:
  """The texts of all rows."""
  return {text for row in rows for text in (row.prompt, row.negative) if text}


def _masks(task: Task) -> dict[str, tuple[int, bool]]:
  """Masks of leading and last frames that were trained -> (leading frames, whether the last)."""
  known = task.condition.known_frames or 0
  all_of = {"start": (known, False), "one": (1, False), "none": (0, False), "ends": (known, True)}
  return {name: mask for name, mask in all_of.items() if name in task.condition.masks}


def _words(lead: int, last: bool) -> str:
  if not lead:
    return "no frame"
  flag = "--image or --video" if lead == 1 else "--video"
  frames = "the first frame" if lead == 1 else f"the first {lead} frames"
  return f"{frames} ({flag})" + " and the last (--last)" * last


def _omitted(task: Task) -> dict[str, np.ndarray]:
  """The conditions that rows cannot give, dropped, without the axis of rows; `fps` is the data's.

  Raises:
    ConfigError: the model was never trained without one of them.
  """
  config, c = task.model.config, task.condition
  if "image" in config.uses:
    raise ConfigError("the model takes embeddings of an image, and there is no encoder for them")
  made = (FIRST, MADE[FIRST])  # from the first frame
  scalars = [name for name in config.scalars if name not in (*made, "fps")]
  volumes = [(name, channels) for name, channels in config.volumes if name not in made]
  absent = [] if c.drop or c.drop_each else [*scalars, *(name for name, _ in volumes)]
  absent += ["label"] if config.classes and not c.drop else []
  if absent:
    raise ConfigError(
      f"the model takes {', '.join(absent)}, which a prompt does not give, and was never trained "
      "without (condition.drop=0)"
    )
  out = {name: np.float32(np.nan) for name in scalars} | {"fps": np.float32(task.fps)}
  out |= {name: np.zeros((*task.latent_shape[:3], n), np.float32) for name, n in volumes}
  return {k: np.asarray(v) for k, v in out.items()} | (
    {"label": np.asarray(-1, np.int32)} if config.classes else {}
  )
