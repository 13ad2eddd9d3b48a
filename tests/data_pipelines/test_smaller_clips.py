"""Variants of a dataset of clips."""

import numpy as np
import pytest

from data_pipelines import clips, smaller_clips


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  out = tmp_path_factory.mktemp("data") / "clips"
  rng = np.random.default_rng(0)
  examples = [
    {"video": rng.integers(0, 256, (5, 12, 12, 3), np.uint8), "caption": f"clip {i} é", "id": 3 * i,
     "fps": 4.0 + i} for i in range(7)
  ]  # fmt: skip
  splits = {"train": examples[:5], "validation": examples[5:]}
  clips.write_clips(out, splits, frames=5, height=12, width=12, fps=5.0, description="Noise.")
  return out, examples


def test_a_variant_has_the_same_clips_scaled_by_area(source, tmp_path, capsys):
  directory, examples = source
  out = tmp_path / "small"
  flags = [f"--source={directory}", f"--out={out}", "--size=6", "--frames=3"]
  assert smaller_clips.main(flags) == 0
  assert "5 clips of train, 2 clips of validation" in capsys.readouterr().out
  for split, wanted in (("train", examples[:5]), ("validation", examples[5:])):
    read = clips.Source(clips.Config(str(out), split))
    assert len(read) == len(wanted) and read.shape == (3, 6, 6, 3)
    for row, want in zip(map(read.__getitem__, range(len(read))), wanted):
      blocks = want["video"][:3].reshape(3, 6, 2, 6, 2, 3).mean((2, 4))
      assert np.abs(row["video"] - blocks).max() <= 1  # Pillow rounds rows, then columns
      assert row["id"] == want["id"] and row["fps"] == want["fps"]
      assert bytes(row["caption"]).rstrip(b"\0").decode() == want["caption"]


def test_sizes_that_do_not_divide_keep_the_mean():
  flat = np.full((2, 7, 7, 3), 77, np.uint8)
  np.testing.assert_array_equal(smaller_clips.scaled(flat, 5), np.full((2, 5, 5, 3), 77))


@pytest.mark.parametrize(
  "flags,words",
  [
    (["--size=24"], "clips of 12x12 pixels"),
    (["--size=6", "--frames=9"], "clips of 5 frames, but frames=9"),
    (["--size=6", "--source=nowhere"], "no directory nowhere"),
  ],
)
def test_what_cannot_be_made_is_said_in_words(source, tmp_path, flags, words, capsys):
  given = [f"--source={source[0]}", f"--out={tmp_path / 'o'}", *flags]
  assert smaller_clips.main(given) == 2
  assert words in capsys.readouterr().err and not (tmp_path / "o").exists()
