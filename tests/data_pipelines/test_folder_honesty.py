"""The folder command says all that it does not read, and what it cannot go on from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines import video_cut, video_folder


def run(source: Path, out: Path, **changes: object) -> int:
  flags = {"frames": 4, "size": 32, "workers": 1} | changes
  return video_folder.main(
    [f"--source={source}", f"--out={out}", *(f"--{name}={value}" for name, value in flags.items())]
  )


def kept(out: Path) -> list[dict]:
  lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
  return [line for line in lines if line["reason"] == "kept"]


def test_linked_folders_are_read_once_and_what_is_not_read_is_named(
  tmp_path: Path, write_video, numbered, capsys: pytest.CaptureFixture
):
  source, other = tmp_path / "v", tmp_path / "other"
  write_video(source / "a.mkv", numbered(8))
  write_video(other / "b.mkv", numbered(8))
  (other / "captions.csv").write_text("file,caption\nb.mkv,linked\n")
  (source / "linked").symlink_to(other)
  (source / "again").symlink_to(other)
  (source / "up").symlink_to(tmp_path)
  (other / "loop").symlink_to(source)
  (source / "itself.mkv").symlink_to(source / "itself.mkv")
  (source / "dead.mkv").symlink_to(tmp_path / "nowhere")
  os.mkfifo(source / "pipe.mp4")
  assert run(source, tmp_path / "d", splits="train:1") == 0
  said = capsys.readouterr().out
  films = {line["file"]: line["caption"] for line in kept(tmp_path / "d")}
  assert films == {"a.mkv": "", "again/b.mkv": "linked"}
  for line in (
    "again/loop: a link to a folder that is already read as .",
    "linked: a link to a folder that is already read as again",
    "up/other: a link to a folder",
    "itself.mkv: cannot be read (Too many levels of symbolic links)",
    "dead.mkv: no such file",
    "pipe.mp4: not a regular file but a pipe",
  ):
    assert line in said
  assert run(source, tmp_path / "d", splits="train:1") == 0
  assert "is up to date" in capsys.readouterr().out
  write_video(other / "c.mkv", numbered(8))
  assert run(source, tmp_path / "d", splits="train:1") == 2
  assert "1 are new, changed or gone (again/c.mkv" in capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_named(
  tmp_path: Path, write_video, numbered, monkeypatch: pytest.MonkeyPatch, capsys
):
  source = tmp_path / "v"
  write_video(source / "a.mkv", numbered(8))
  write_video(source / "locked" / "b.mkv", numbered(8))
  real = Path.iterdir

  def locked(path: Path):
    if path.name == "locked":
      raise PermissionError(13, "Permission denied", str(path))
    return real(path)

  monkeypatch.setattr(Path, "iterdir", locked)
  assert run(source, tmp_path / "d", splits="train:1") == 0
  line = "locked: a folder that cannot be read (Permission denied)"
  assert line in capsys.readouterr().out
  assert "`locked`: a folder" in (tmp_path / "d" / "README.md").read_text()


def test_rates_that_differ_much_are_warned_of_on_the_console_and_the_card(
  tmp_path: Path, write_video, numbered, capsys: pytest.CaptureFixture
):
  for rate in (5, 24, 60):
    write_video(tmp_path / "v" / f"{rate}.mkv", numbered(12), rate)
  assert run(tmp_path / "v", tmp_path / "d", splits="train:1") == 0
  said, card = capsys.readouterr().out, (tmp_path / "d" / "README.md").read_text()
  for text in (said, card):
    assert "5 frames per second (5.mkv) and 60 (60.mkv)" in text and "--fps=RATE" in text
  assert run(tmp_path / "v", tmp_path / "e", splits="train:1", fps=20) == 0
  said, card = capsys.readouterr().out, (tmp_path / "e" / "README.md").read_text()
  assert "arning" not in said + card
  assert " slow: fewer than three quarters of its frames differ" in said


@pytest.mark.parametrize("text", ["", "null", "{}", "[]", '{"options": 1}'])
def test_a_damaged_record_of_a_dataset_is_named(
  tmp_path: Path, write_video, numbered, text: str, capsys: pytest.CaptureFixture
):
  write_video(tmp_path / "v" / "a.mkv", numbered(8))
  (tmp_path / "d").mkdir()
  (tmp_path / "d" / "video_folder.json").write_text(text)
  assert run(tmp_path / "v", tmp_path / "d") == 2
  assert "video_folder.json is damaged" in capsys.readouterr().err


def test_a_half_written_piece_is_cut_again(tmp_path: Path, write_video, numbered, capsys):
  write_video(tmp_path / "v" / "a.mkv", numbered(8))
  pieces = tmp_path / "d.partial" / "pieces"
  pieces.mkdir(parents=True)
  (pieces / f"{video_cut.key('a.mkv')}.json").write_text('{"name": "a.m')
  cutting = {"frames": 4, "size": 32, "fps": None, "stride": 4}
  (tmp_path / "d.partial" / "cutting.json").write_text(json.dumps(cutting))
  assert run(tmp_path / "v", tmp_path / "d", splits="train:1") == 0
  assert len(kept(tmp_path / "d")) == 2


def test_a_film_that_kills_its_worker_is_named(tmp_path: Path, write_video, numbered):
  """A stand-in for a decoder that crashes: the worker ends itself while it cuts one file."""
  for name in ("a.mkv", "b.mkv"):
    write_video(tmp_path / "v" / name, numbered(8))
  site = tmp_path / "site"
  site.mkdir()
  (site / "sitecustomize.py").write_text(
    "import os\n"
    "from data_pipelines import video_cut\n"
    "real = video_cut._read_video\n"
    "video_cut._read_video = lambda path, *a: "
    "os._exit(9) if path.name == 'b.mkv' else real(path, *a)\n"
  )
  flags = ["--frames=4", "--size=32", "--workers=2", f"--out={tmp_path / 'd'}"]
  done = subprocess.run(
    [sys.executable, "-m", "data_pipelines.video_folder", f"--source={tmp_path / 'v'}", *flags],
    capture_output=True, text=True, env=os.environ | {"PYTHONPATH": f"{site}:{os.getcwd()}"},
  )  # fmt: skip
  assert done.returncode == 2 and "Traceback" not in done.stderr
  assert "a worker process died" in done.stderr and "  b.mkv" in done.stderr
