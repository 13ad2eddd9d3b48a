"""With --beam the command makes the dataset that one machine makes, or says why it does not."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import clips, video_cut, video_folder

SPLITS = "train:0.7,validation:0.3"


def run(source: object, out: object, *more: str, size: int = 32) -> int:
  flags = [f"--source={source}", f"--out={out}", "--frames=4", f"--size={size}", "--workers=1"]
  return video_folder.main([*flags, f"--splits={SPLITS}", *more])


def examples(dataset: Path) -> list[dict]:
  builder = tfds.builder_from_directory(dataset)
  return [e | {"split": s} for s in builder.info.splits for e in builder.as_data_source(s)]


def assert_same(dataset: Path, wanted: Path) -> None:
  """The same files, and in the shards (whose bytes differ from run to run) the same examples."""
  names = sorted(path.name for path in wanted.iterdir())
  assert sorted(path.name for path in dataset.iterdir()) == names
  for name in names:
    if "array_record" not in name:
      assert (dataset / name).read_bytes() == (wanted / name).read_bytes(), name
  got, want = examples(dataset), examples(wanted)
  assert len(got) == len(want)
  for one, other in zip(got, want):
    for feature in other:
      np.testing.assert_array_equal(one[feature], other[feature])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video, numbered) -> Path:
  folder = tmp_path_factory.mktemp("videos")
  write_video(folder / "a.mkv", numbered(20))
  write_video(folder / "sub dir" / "b ü[1].mp4", numbered(21, first=30), 30, "libx264", "yuv420p")
  (folder / "a.txt").write_text("a block that moves\n")
  (folder / "sub dir" / "captions.csv").write_text('file,caption\nb ü[1].mp4,"ünder"\n')
  (folder / "broken.mp4").write_text("hello " * 100)
  (folder / ".hidden.mp4").write_text("hello")
  return folder


@pytest.fixture
def few_clips_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(clips, "SHARD_BYTES", 3 * 4 * 32 * 32 * 3)


@pytest.fixture
def wanted(tmp_path: Path, videos: Path, few_clips_a_shard) -> Path:
  """What one machine makes of them, in several shards."""
  assert run(videos, tmp_path / "wanted") == 0
  assert len(list((tmp_path / "wanted").glob("*train*"))) == 3
  return tmp_path / "wanted"


def test_beam_makes_the_dataset_that_one_machine_makes(
  tmp_path: Path, videos: Path, wanted: Path, capsys: pytest.CaptureFixture
):
  pytest.importorskip("apache_beam", reason="needs the extra `beam`")
  assert run(videos, tmp_path / "d", "--beam") == 0
  assert "skipped files:\n  broken.mp4: truncated or not a video" in capsys.readouterr().out
  assert_same(tmp_path / "d", wanted)
  assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "wanted"]
  assert run(videos, tmp_path / "d") == 0  # with or without Beam it is the same dataset
  assert run(videos, wanted, "--beam") == 0
  assert capsys.readouterr().out.count("is up to date") == 2


def test_an_interrupted_beam_command_goes_on_where_it_stopped(
  tmp_path: Path, videos: Path, wanted: Path, monkeypatch: pytest.MonkeyPatch
):
  pytest.importorskip("apache_beam", reason="needs the extra `beam`")
  in_process = ("--beam", "--", "--runner=FnApiRunner")
  with monkeypatch.context() as patch:
    patch.setattr(clips, "write_clips", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(Exception, match="division by zero"):
      run(videos, tmp_path / "d", *in_process)
  monkeypatch.setattr(video_cut, "_read_video", None)  # every file is cut already
  assert run(videos, tmp_path / "d", *in_process) == 0
  assert_same(tmp_path / "d", wanted)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
  """The folder behind the URLs bucket://, which only Beam's functions can open."""
  pytest.importorskip("apache_beam", reason="needs the extra `beam`")
  from apache_beam.io.localfilesystem import LocalFileSystem
  from apache_beam.options.pipeline_options import PipelineOptions

  root = tmp_path_factory.mktemp("bucket")
  disk = LocalFileSystem(PipelineOptions([]))

  def near(path):
    if isinstance(path, list):
      return [near(one) for one in path]
    return path.replace("bucket://", f"{root}/") if isinstance(path, str) else path

  class Bucket(LocalFileSystem):
    @classmethod
    def scheme(cls) -> str:
      return "bucket"

    def split(self, path: str) -> tuple[str, str]:
      return path.rpartition("/")[0], path.rpartition("/")[2]

    def match(self, patterns, limits=None) -> list:
      results = disk.match(near(patterns), limits)
      for file in (file for result in results for file in result.metadata_list):
        file.path = file.path.replace(f"{root}/", "bucket://")
      return results

  for name in ("open", "create", "mkdirs", "exists", "rename", "delete", "size", "last_updated"):
    act = getattr(disk, name)
    method = lambda self, *paths, act=act, **more: act(*map(near, paths), **more)
    setattr(Bucket, name, method)
  yield root  # Beam finds the class among the living ones, so as long as this goes on


def test_source_and_out_may_be_urls(
  tmp_path: Path, videos: Path, wanted: Path, bucket: Path, capsys: pytest.CaptureFixture
):
  shutil.copytree(videos, bucket / videos.name)
  places, runner = (f"bucket://{videos.name}", "bucket://out/d"), ("--", "--runner=FnApiRunner")
  assert run(*places, "--beam", *runner) == 0
  said = capsys.readouterr().out
  assert "broken.mp4: truncated or not a video" in said and "written to bucket://out/d (" in said
  files = [path for path in (bucket / "out").rglob("*") if path.is_file()]
  assert {path.parent.name for path in files} == {"d"}  # nothing unfinished is left
  record = json.loads((wanted / "video_folder.json").read_text())
  ours = json.loads((bucket / "out" / "d" / "video_folder.json").read_text())
  assert ours.keys() == record.keys() and ours["files"].keys() == record["files"].keys()
  shutil.copy(wanted / "video_folder.json", bucket / "out" / "d")  # but for times of change
  assert_same(bucket / "out" / "d", wanted)
  (bucket / "out" / "d" / "video_folder.json").write_text(json.dumps(ours))
  assert run(*places, "--beam") == 0
  assert capsys.readouterr().out.startswith("bucket://out/d is up to date")
  assert run(*places, "--beam", size=16) == 2
  assert "bucket://out/d was made with other options" in capsys.readouterr().err
  (bucket / "mine").mkdir()
  (bucket / "mine" / "thesis.tex").touch()
  assert run(places[0], "bucket://mine", "--beam") == 2
  assert "--out: bucket://mine is not a dataset of video_folder" in capsys.readouterr().err
  assert run("bucket://nowhere", places[1], "--beam") == 2
  assert "--source: bucket://nowhere has no files in it" in capsys.readouterr().err


def test_a_mistake_is_one_message_and_nothing_is_written(
  tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture
):
  pytest.importorskip("apache_beam", reason="needs the extra `beam`")
  assert run(videos, tmp_path / "d", "--beam", "--", "--runner=NoSuch") == 2
  assert "Unexpected pipeline runner: NoSuch" in capsys.readouterr().err
  assert run(videos, tmp_path / "d[1]", "--beam") == 2
  assert "d[1]: Beam interprets *, ? and [ as patterns" in capsys.readouterr().err
  assert run("nowhere:/", tmp_path / "d", "--beam") == 2
  assert "--source: no directory" in capsys.readouterr().err
  assert run("nosuch://x", tmp_path / "d", "--beam") == 2
  assert "nosuch://x" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_without_beam_its_extra_is_named(
  tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  assert run(videos, tmp_path / "d", "--beam") == 2
  assert "pip install 'videojax[beam]'" in capsys.readouterr().err
  for source, more in ((videos, ["--", "--runner=DirectRunner"]), ("gs://bucket/videos", [])):
    with pytest.raises(SystemExit):
      run(source, tmp_path / "d", *more)
    assert "--beam" in capsys.readouterr().err.splitlines()[-1]
  assert not list(tmp_path.iterdir())
