"""Prompts of worlds: what they ask for, and what is found in clips."""

import json

import numpy as np
import pytest

from data_pipelines import world_prompts, worlds
from data_pipelines.world_prompts import Found, asked, compare, found
from videojax.data import caption_text
from videojax.io import media


@pytest.fixture(scope="module")
def true():
  """(captions, clips in uint8) of a world of one and two discs."""
  source = worlds.Source(
    worlds.Config(size=64, frames=9, known=5, scenes=("one", "two"), split="id")
  )
  made = source.decode({"index": np.arange(48, dtype=np.uint32)})
  return [caption_text(row) for row in np.asarray(made["caption"])], media.to_uint8(
    np.asarray(made["video"])
  )


def test_true_clips_obey_their_captions_and_not_each_others(true):
  result = compare(true[0], [found(clip) for clip in true[1]])
  assert result["number"]["mean"] == result["color"]["mean"] == 1
  assert result["direction"]["mean"] > 0.97  # a diagonal's larger component can change its place
  chance = {name: result[name]["chance"] for name in ("number", "color", "direction")}
  assert 0.4 < chance["number"] < 0.6 and chance["color"] < 0.1 and chance["direction"] < 0.1


def test_what_is_asked_is_read_from_the_caption():
  text = "large red disc moves right fast, small blue disc moves up slow behind a bar"
  assert asked(text) == {"red": "right", "blue": "up"}
  with pytest.raises(ValueError, match="no caption of a world"):
    asked("a cat")


def test_a_clip_that_stands_still_reversed_or_empty_is_not_what_was_asked(true):
  caption, clip = next(pair for pair in zip(*true) if len(asked(pair[0])) == 1)
  score = lambda video: world_prompts.obeyed(asked(caption), found(video))
  assert score(clip) == dict(number=1, color=1, direction=1)
  assert score(clip[::-1])["direction"] == 0
  assert score(np.full_like(clip, 128)) == dict(number=0, color=0, direction=0)
  other = clip[..., [1, 2, 0]]  # another colour
  assert score(other) == dict(number=1, color=0, direction=0)
  both = np.concatenate([clip, clip], 1)
  assert score(both) == dict(number=0, color=1, direction=0)  # which of two moves right?


def test_a_single_clip_has_no_chance_and_no_error():
  result = compare(["small red disc moves up slow"], [Found(1, {"red": "up"})])
  assert result["color"] == {"mean": 1.0, "stderr": None, "chance": None}


def test_prompts_are_written_and_files_of_clips_checked(true, tmp_path, capsys):
  path = tmp_path / "prompts.jsonl"
  assert world_prompts.main([f"--write={path}", "--num=3", "--frames=9"]) == 0
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line["seed"] for line in lines] == [0, 1, 2] and asked(lines[0]["prompt"])
  with (tmp_path / "manifest.jsonl").open("w") as manifest:
    for i, (caption, clip) in enumerate(zip(*(of[:4] for of in true))):
      media.write_mp4(tmp_path / f"{i}.mp4", clip, fps=10.0)
      manifest.write(json.dumps({"file": f"{i}.mp4", "prompt": caption}) + "\n")
  assert world_prompts.main([f"--check={tmp_path}"]) == 0
  assert "color      1.000" in capsys.readouterr().out
  assert json.loads((tmp_path / "prompts.json").read_text())["clips"] == 4


def test_a_directory_without_clips_is_named(tmp_path, capsys):
  with pytest.raises(SystemExit):
    world_prompts.main([f"--check={tmp_path}"])
  assert "has no manifest.jsonl" in capsys.readouterr().err
