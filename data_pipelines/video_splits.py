"""Assigns the clips of a folder of videos to splits; no frame is ever in two splits."""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

from data_pipelines import video_cut
from videojax.errors import ConfigError

BY_FILE = "whole files, ordered by a hash of their names"
BY_PART = (
  "few files, so each file's clips are divided in time, in the order of the splits: "
  "splits share scenes, never frames"
)
ONE = "one split"


def parse_splits(text: str) -> dict[str, float]:
  """'train:0.9,validation:0.1' -> {'train': 0.9, 'validation': 0.1}.

  Raises:
    ConfigError: the text has another form, a share is not positive, or the sum is not 1.
  """
  shares = {}
  for part in text.split(","):
    match = re.fullmatch(r"\s*([a-z][a-z0-9_]*)\s*:\s*([0-9.]+(?:e-?\d+)?)\s*", part)
    if not match or match[1] in shares or match[1] == "all":  # 'all' is reserved by tfds
      raise ConfigError(f"splits={text!r}: wanted name:share,..., as in train:0.9,validation:0.1")
    try:
      shares[match[1]] = float(match[2])
    except ValueError:
      raise ConfigError(f"splits={text!r}: {match[2]} is not a number") from None
  if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
    raise ConfigError(f"splits={text!r}: the shares must be positive and sum to 1")
  return shares


def assign(
  files: Sequence[Sequence[video_cut.Clip]], shares: Mapping[str, float]
) -> tuple[list[tuple[video_cut.Clip, str | None]], str]:
  """Assigns every kept clip to a split; drops clips that would share frames with a later split.

  Args:
    files: the clips of each file, in order of time, including dropped ones.
    shares: split -> share of the files or clips.

  Returns:
    ([(clip, its split or None if dropped)], the rule in words).

  Raises:
    ConfigError: a split would get no clip.
  """
  if len(shares) == 1:
    pairs, rule = [_all_in(clips, *shares) for clips in files], ONE
  elif sum(any(c.reason == "kept" for c in clips) for clips in files) * min(shares.values()) >= 1:
    pairs, rule = _by_file(files, shares), BY_FILE
  else:
    pairs, rule = [_by_part(clips, shares) for clips in files], BY_PART
  assigned = list(itertools.chain.from_iterable(pairs))
  empty = set(shares) - {split for _, split in assigned}
  if empty:
    raise ConfigError(
      f"split {sorted(empty)[0]!r} would have no clips: give it a larger share, choose a smaller "
      "--stride (clips then overlap), or make one split: --splits=train:1"
    )
  return assigned, rule


def _all_in(clips: Sequence[video_cut.Clip], split: str) -> list[tuple[video_cut.Clip, str | None]]:
  return [(clip, split if clip.reason == "kept" else None) for clip in clips]


def _bounds(count: int, shares: Mapping[str, float]) -> list[int]:
  """The end index of each split among `count` items; each gets at least one if there are enough."""
  if count < len(shares):
    return [count] * len(shares)
  bounds = [0]
  for number, share in enumerate(itertools.accumulate(shares.values()), 1):
    most = count - (len(shares) - number)
    bounds.append(min(max(int(share * count + 0.5), bounds[-1] + 1), most))
  return bounds[1:-1] + [count]


def _by_file(
  files: Sequence[Sequence[video_cut.Clip]], shares: Mapping[str, float]
) -> list[list[tuple[video_cut.Clip, str | None]]]:
  useful = [clips[0].file for clips in files if any(c.reason == "kept" for c in clips)]
  order = sorted(useful, key=video_cut.key)
  split_of: dict[str, str] = {}
  first = 0
  for split, stop in zip(shares, _bounds(len(order), shares)):
    split_of |= dict.fromkeys(order[first:stop], split)
    first = stop
  return [
    [(clip, split_of[clip.file] if clip.reason == "kept" else None) for clip in clips]
    for clips in files
  ]


def _by_part(
  clips: Sequence[video_cut.Clip], shares: Mapping[str, float]
) -> list[tuple[video_cut.Clip, str | None]]:
  # Still and slow pieces count, too, so that two encodings of a video are divided identically.
  whole = [clip for clip in clips if clip.reason in ("kept", "still", "slow")]
  bounds = _bounds(len(whole), shares)
  split_of: dict[int, tuple[str, float]] = {}  # start -> split, and where the next split starts
  first = 0
  for split, stop in zip(shares, bounds):
    limit = whole[stop].start_frame if stop < len(whole) else float("inf")
    split_of |= {clip.start_frame: (split, limit) for clip in whole[first:stop]}
    first = stop
  pairs: list[tuple[video_cut.Clip, str | None]] = []
  for clip in clips:
    if clip.reason != "kept":
      pairs.append((clip, None))
      continue
    split, limit = split_of[clip.start_frame]
    if clip.end_frame > limit:
      pairs.append((dataclasses.replace(clip, reason="overlap", rows=[]), None))
    else:
      pairs.append((clip, split))
  return pairs
