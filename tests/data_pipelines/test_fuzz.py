"""A thousand damaged inputs: each is read, or refused in one line that names it; nothing else."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines import captions, clips, video_cut
from videojax.errors import ConfigError

pytestmark = pytest.mark.slow
VALUES = [None, 0, -1, 1e308, "", "../..", [], {}, True, [None], "9" * 50, "{SPLIT}/x", "os.system"]
WORDS = [
  b"file", b"caption", b",", b"\n", b"\r\n", b'"', b"a.mp4", b"b.mp4", b"\xff", b"\xef\xbb\xbf",
  b"\0", b"{", b"}", b"[", b":", b"null", b"1e999", b"NaN", b"\xed\xa0\x80", b"\\ud800",
  b"\xff\xfe", b"x" * 200_000, b"[" * 10_000, b"file,caption\n",
  b'{"file":"a.mp4","caption":"x"}\n',
]  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
  """Some bytes changed, the end cut off, or a number made extreme."""
  changed = bytearray(data)
  kind = rng.randrange(3)
  if kind == 0:
    return data[: rng.randrange(1, len(data))]
  if kind == 1:
    start = rng.randrange(len(data))
    changed[start : start + 4] = rng.choice((b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"))
  else:
    reach = rng.choice((600, len(data)))
    for _ in range(rng.randrange(1, 20)):
      changed[rng.randrange(min(reach, len(data)))] = rng.randrange(256)
  return bytes(changed)


def test_tables_of_captions_are_read_or_named(tmp_path: Path):
  rng = random.Random(0)
  for number in range(400):
    name = rng.choice(("captions.csv", "captions.jsonl", "a.txt"))
    head = b"file,caption\n" if number % 2 and name == "captions.csv" else b""
    (tmp_path / name).write_bytes(head + b"".join(rng.choices(WORDS, k=rng.randrange(12))))
    try:
      found, _ = captions.read_captions(tmp_path, [name, "a.mp4"])
      assert all("\0" not in text and text.encode() is not None for text in found.values())
    except ConfigError as error:
      assert name in str(error) and "\n" not in str(error)


def test_films_and_images_are_cut_or_skipped(
  tmp_path: Path, write_video: Callable, numbered: Callable
):
  rng = random.Random(0)
  frames = numbered(8)
  formats = {
    "v.mp4": ("libx264", "yuv420p"), "v.webm": ("libvpx-vp9", "yuv420p"), "v.mkv": ("ffv1", "bgr0"),
    "v.avi": ("mpeg4", "yuv420p"), "v.ts": ("mpeg2video", "yuv420p"), "v.gif": ("gif", "rgb8"),
    "m.avi": ("mjpeg", "yuvj420p"), "v.mov": ("prores", "yuv422p10le"),
  }  # fmt: skip
  paths = [write_video(tmp_path / n, frames, 24, *codec) for n, codec in formats.items()]
  for name in ("i.png", "i.jpg", "i.webp", "i.tiff"):
    Image.fromarray(frames[0]).save(tmp_path / name)
    paths.append(tmp_path / name)
  (tmp_path / "p").mkdir()
  for path in paths:
    whole, length = path.read_bytes(), 1 if path.name[0] == "i" else 4
    for _ in range(30):
      path.write_bytes(damaged(whole, rng))
      cutting = video_cut.Cutting(length, 16, rng.choice((None, 10.0)), length)
      record = video_cut.cut_file(path, path.name, tmp_path / "p", cutting)
      assert record["skipped"] or record["clips"]
      assert not record["skipped"] or "\n" not in record["skipped"]


def _places(value: Any, path: tuple = ()) -> list[tuple]:
  items = value.items() if isinstance(value, dict) else enumerate(value)
  below = [(*path, key) for key, _ in items]
  for key in below:
    if isinstance(child := value[key[-1]], dict | list):
      below = below + _places(child, key)
  return below


def _other(text: bytes, rng: random.Random) -> bytes:
  """JSON with one value changed or gone."""
  value = json.loads(text)
  *path, last = rng.choice(_places(value))
  place = value
  for key in path:
    place = place[key]
  if rng.randrange(2):
    place[last] = rng.choice(VALUES)
  else:
    del place[last]
  return json.dumps(value).encode()


def test_stored_datasets_are_read_as_written_or_named(tmp_path: Path):
  rng = random.Random(0)
  videos = np.random.default_rng(0).integers(0, 255, (20, 2, 16, 16, 3), np.uint8)
  examples = [{"video": video, "caption": "", "id": i} for i, video in enumerate(videos)]
  size = {"frames": 2, "height": 16, "width": 16, "fps": 1.0, "description": ""}
  clips.write_clips(tmp_path / "whole", {"train": examples}, **size)
  for number in range(300):
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "c")
    path = rng.choice(sorted((tmp_path / "c").iterdir()))
    change = _other if path.suffix == ".json" and number % 2 else damaged
    path.write_bytes(change(path.read_bytes(), rng))
    try:
      source = clips.Source(clips.Config(str(tmp_path / "c")))
      read = [source[i]["video"] for i in range(len(source))]
      np.testing.assert_array_equal(read, videos)
    except ConfigError as error:
      assert str(tmp_path / "c") in str(error) and "\n" not in str(error)
    except ValueError as error:  # a setting: no such split
      assert str(tmp_path / "c") in str(error)
