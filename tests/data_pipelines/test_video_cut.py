"""One video file: the frames that are picked, what shape they get, where the shots end."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import sample_videos, video_cut, video_reader

# The first frame of each shot but the first, found by eye in sheets of consecutive frames.
CUTS = {
  "bikes.mp4": [30, 76, 137, 187, 242],
  "bigbuckbunny.mp4": [],
  "carphone_pristine.mp4": [],
  "carphone_distorted.mp4": [],
}


def cut(path: Path, pieces: Path, frames: int = 4, size: int = 32, **changes):
  """The record of a file, and the videos of its kept clips."""
  pieces.mkdir(exist_ok=True)
  options = {"fps": None, "stride": frames} | changes
  record = video_cut.cut_file(path, path.name, pieces, video_cut.Cutting(frames, size, **options))
  stored = video_cut.open_frames(video_cut.frames_path(pieces, path.name), size)
  kept = [c for c in record["clips"] if c["reason"] == "kept"]
  return record, [stored[c["rows"]] for c in kept]


def reasons(record: dict) -> list[str]:
  return [clip["reason"] for clip in record["clips"]]


def number(frame: np.ndarray) -> int:
  """Which of the `numbered` frames this is: their brightness is 2 * (5 + number)."""
  return round(float(frame[-4:].mean()) / 2 - 5)


def sample(name: str) -> Path:
  try:
    return sample_videos.sample_videos() / name
  except ValueError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize("name", CUTS)
def test_the_cuts_that_an_eye_sees_are_found_and_no_others(name: str):
  with video_reader.VideoFile(sample(name)) as video:
    unlike = video_reader.CutScore()
    scores = np.array([unlike(picture.frame) for picture in video.pictures()])
  assert np.flatnonzero(video_reader.find_cuts(scores)).tolist() == CUTS[name]


@pytest.mark.parametrize(("fps", "stride"), [(None, 3), (8.0, 1)])
def test_no_clip_of_bikes_crosses_a_cut(tmp_path: Path, fps: float | None, stride: int):
  record, videos = cut(sample("bikes.mp4"), tmp_path / "p", 8, fps=fps, stride=stride)
  kept = [c for c in record["clips"] if c["reason"] == "kept"]
  assert len(kept) > 20 and len(kept) == len(videos)
  for clip in kept:
    inside = range(clip["start_frame"] + 1, clip["end_frame"])
    assert not set(inside) & set(CUTS["bikes.mp4"]), clip
    assert clip["shot"] == np.searchsorted(CUTS["bikes.mp4"], clip["start_frame"], "right")


def test_fast_motion_a_flicker_and_noise_are_no_cuts_but_two_cuts_close_together_are():
  rng = np.random.default_rng(0)
  score = rng.uniform(0.3, 0.5, 40)  # a whip pan
  assert not video_reader.find_cuts(score).any()
  score[20] = 1.6
  assert np.flatnonzero(video_reader.find_cuts(score)).tolist() == [20]
  calm = rng.uniform(0, 0.1, 40)
  assert not video_reader.find_cuts(calm).any()
  calm[[0, 10, 13, 39]] = 0.6  # the first frame has no frame before it
  assert np.flatnonzero(video_reader.find_cuts(calm)).tolist() == [10, 13, 39]
  for short in ([], [0.0], [0.0, 0.9]):
    assert video_reader.find_cuts(np.array(short)).sum() == (len(short) == 2)


@pytest.mark.parametrize(
  ("name", "codec", "pixels", "width", "height"),
  [
    ("lossless.mkv", "ffv1", "bgr0", 64, 48),
    ("h264.mp4", "libx264", "yuv420p", 64, 48),
    ("vp9.webm", "libvpx-vp9", "yuv420p", 64, 48),
    ("mpeg.avi", "mpeg4", "yuv420p", 64, 48),
    ("odd.mp4", "libx264", "yuv444p", 61, 45),
    ("portrait with ünïcode.mkv", "ffv1", "bgr0", 33, 57),
    ("gray.mkv", "ffv1", "gray", 64, 48),
    ("alpha.mkv", "ffv1", "bgra", 64, 48),
    ("tiny.mkv", "ffv1", "bgr0", 15, 18),
  ],
)
def test_every_frame_of_any_codec_and_shape_comes_in_order(
  tmp_path: Path, write_video: Callable, numbered: Callable, name, codec, pixels, width, height
):
  frames = numbered(24, height, width)
  if pixels == "gray":
    frames = [frame[..., 0] for frame in frames]
  if pixels == "bgra":
    frames = [np.dstack([frame, np.full_like(frame[..., 0], 99)]) for frame in frames]
  good = {} if codec == "ffv1" else {"b": "4000000"}
  path = write_video(tmp_path / name, frames, 24, codec, pixels, options=good)
  record, videos = cut(path, tmp_path / "p")
  assert record["skipped"] is None and reasons(record) == ["kept"] * 6
  assert [c["fps"] for c in record["clips"]] == [24.0] * 6
  read = np.concatenate(videos)
  assert read.shape == (24, 32, 32, 3)
  exact = codec == "ffv1"
  off = [abs(float(frame[-4:].mean()) - 2 * (5 + i)) for i, frame in enumerate(read)]
  assert max(off) < (0.6 if exact else 2.5)


@pytest.mark.parametrize(
  ("rate", "fps", "picked"),
  [
    (24, 8.0, [0, 3, 6, 9, 12, 15, 18, 21]),
    (30, 10.0, [0, 3, 6, 9, 12, 15, 18, 21]),
    (24, 12.0, list(range(0, 24, 2))),
    # k / 10 s times 24 is 0, 2.4, 4.8, 7.2, 9.6, 12, 14.4, 16.8, 19.2, 21.6 frames
    (24, 10.0, [0, 2, 5, 7, 10, 12, 14, 17]),
    # k / 30 s times 24 is 0, .8, 1.6, 2.4, 3.2, 4, ...: the fifth of each five shows one again
    (24, 30.0, [0, 1, 2, 2, 3, 4, 5, 6]),
  ],
)
def test_resampling_picks_the_frames_nearest_in_time(
  tmp_path: Path, write_video: Callable, numbered: Callable, rate: int, fps: float, picked: list
):
  path = write_video(tmp_path / "v.mkv", numbered(24), rate)
  record, videos = cut(path, tmp_path / "p", fps=fps)
  read = [number(frame) for frame in np.concatenate(videos)]
  assert read[: len(picked)] == picked
  assert all(clip["fps"] == fps and clip["source_fps"] == rate for clip in record["clips"])
  assert record["clips"][1]["start_s"] == pytest.approx(picked[4] / rate, abs=1e-3)
  assert (record["clips"][0]["start_frame"], record["clips"][0]["end_frame"]) == (0, picked[3] + 1)


@pytest.mark.parametrize(("name", "codec"), [("v.mkv", "ffv1"), ("v.mp4", "libx264")])
def test_a_variable_rate_is_resampled_by_its_timestamps(
  tmp_path: Path, write_video: Callable, numbered: Callable, name: str, codec: str
):
  times = [*np.arange(12) / 20, *(0.6 + np.arange(12) / 10)]  # 20 a second, then 10 a second
  frames = [np.minimum(4 * frame, 255) for frame in numbered(24)]
  pixels = "bgr0" if codec == "ffv1" else "yuv444p"
  path = write_video(tmp_path / name, frames, 20, codec, pixels, times_s=times)
  _, videos = cut(path, tmp_path / "p", fps=10.0)
  read = [round(float(frame[-4:].mean()) / 8 - 5) for frame in np.concatenate(videos)]
  assert read == [0, 2, 4, 6, 8, 10, *range(12, 22)]


def _circle(height: int, width: int, squeeze: float = 1.0) -> np.ndarray:
  """A white disc in the middle, `squeeze` times as wide as it is high."""
  y, x = np.mgrid[:height, :width] + 0.5
  radius = 0.35 * min(height, width * (1 / squeeze))
  inside = ((x - width / 2) / squeeze) ** 2 + (y - height / 2) ** 2 < radius**2
  return np.repeat(inside[..., None], 3, -1).astype(np.uint8) * 255


@pytest.mark.parametrize(
  ("height", "width", "aspect"),
  [(96, 160, None), (160, 96, None), (97, 131, None), (90, 90, Fraction(4, 3)), (20, 36, None)],
)
def test_a_circle_stays_a_circle_in_the_middle(
  tmp_path: Path, write_video: Callable, height: int, width: int, aspect: Fraction | None
):
  squeeze = 1.0 if aspect is None else 1 / float(aspect)  # as stored, in pixels that are not square
  frame = _circle(height, width, squeeze)
  options = {} if aspect is None else {"x264-params": f"sar={aspect}"}
  path = write_video(tmp_path / "v.mp4", [frame] * 2, 24, "libx264", "yuv444p", options=options)
  _, videos = cut(path, tmp_path / "p", 1, 48)
  weight = videos[0][0, ..., 0] / 255.0
  y, x = np.mgrid[:48, :48] + 0.5
  mass = weight.sum()
  centre = np.array([(weight * x).sum(), (weight * y).sum()]) / mass
  wide, high = np.sqrt(
    [(weight * (x - 24) ** 2).sum() / mass, (weight * (y - 24) ** 2).sum() / mass]
  )
  np.testing.assert_allclose(centre, 24, atol=0.6)  # the crop starts at a whole pixel
  assert wide / high == pytest.approx(1, abs=0.02)
  assert mass == pytest.approx(np.pi * (0.35 * 48) ** 2, rel=0.04)


def test_a_phone_that_was_held_upright_gives_an_upright_picture(
  tmp_path: Path, write_video: Callable
):
  frame = np.zeros((64, 64, 3), np.uint8)
  frame[:32, :32] = 255  # top left as stored
  path = write_video(tmp_path / "v.mp4", [frame] * 2, 24, "libx264", "yuv444p")
  data = bytearray(path.read_bytes())
  matrix = data.find(b"tkhd") + 4 + 40  # after version, times, id, duration, layer, volume
  turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]  # turn by 90 degrees clockwise
  data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
  path.write_bytes(data)
  _, videos = cut(path, tmp_path / "p", 1, 16)
  quarters = videos[0][0, ..., 0].reshape(2, 8, 2, 8).mean((1, 3))
  np.testing.assert_allclose(quarters, [[0, 255], [0, 0]], atol=12)


def test_scaling_down_averages_and_does_not_skip_pixels(tmp_path: Path, write_video: Callable):
  frame = np.zeros((128, 128, 3), np.uint8)
  frame[:, ::2] = 255  # stripes one pixel wide
  _, videos = cut(write_video(tmp_path / "v.mkv", [frame] * 2), tmp_path / "p", 1, 16)
  np.testing.assert_allclose(videos[0].astype(float), 127.5, atol=2)


def test_still_pieces_and_pieces_of_repeated_frames_are_dropped(
  tmp_path: Path, write_video: Callable, numbered: Callable
):
  moving = numbered(8)
  noise = np.random.default_rng(0).integers(-2, 3, (8, 48, 64, 3))
  still = list((moving[-1].astype(int) + noise).clip(0, 255).astype(np.uint8))
  record, _ = cut(write_video(tmp_path / "v.mkv", moving + still), tmp_path / "p")
  assert reasons(record) == ["kept", "kept", "still", "still"]
  record, _ = cut(tmp_path / "v.mkv", tmp_path / "q", fps=72.0)
  assert reasons(record)[:2] == ["slow"] * 2 and "kept" not in reasons(record)


def test_what_is_left_of_a_shot_is_a_line_of_the_manifest(
  tmp_path: Path, write_video: Callable, numbered: Callable
):
  bright = [255 - frame for frame in numbered(6)]
  record, _ = cut(write_video(tmp_path / "v.mkv", numbered(9) + bright), tmp_path / "p")
  assert [(c["shot"], c["start_frame"], c["end_frame"], c["reason"]) for c in record["clips"]] == [
    (0, 0, 4, "kept"),
    (0, 4, 8, "kept"),
    (0, 8, 9, "short"),
    (1, 9, 13, "kept"),
    (1, 13, 15, "short"),
  ]


def test_damaged_frames_are_in_no_clip(tmp_path: Path, write_video: Callable, numbered: Callable):
  rng = np.random.default_rng(0)
  frames = [np.maximum(f, rng.integers(0, 60, f.shape, np.uint8)) for f in numbered(48)]
  path = write_video(
    tmp_path / "v.mp4",
    frames,
    24,
    "libx264",
    "yuv420p",
    options={"g": "12", "bf": "0", "sc_threshold": "0"},
  )
  clean = dict(zip(*_starts(cut(path, tmp_path / "p", 1))))
  data = bytearray(path.read_bytes())
  middle = data.find(b"mdat") + (data.find(b"moov") - data.find(b"mdat")) * 3 // 8
  data[middle : middle + 600] = bytes(600)
  path.write_bytes(data)
  record, _ = cut(path, tmp_path / "q")
  assert reasons(record).count("kept") >= 6 and "broken" in reasons(record)
  starts, videos = _starts(cut(path, tmp_path / "r", 1))
  assert 24 <= len(videos) < 48 and starts[-1] > 1.9
  for start_s, video in zip(starts, videos):
    np.testing.assert_array_equal(video, clean[start_s])


def _starts(result: tuple[dict, list[np.ndarray]]) -> tuple[list[float], list[np.ndarray]]:
  record, videos = result
  return [c["start_s"] for c in record["clips"] if c["reason"] == "kept"], videos


def _truncated(path: Path, share: float) -> Path:
  path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
  return path


def test_files_that_give_nothing_say_why(tmp_path: Path, write_video: Callable, numbered: Callable):
  def reason(path: Path) -> str:
    record, videos = cut(path, tmp_path / "p")
    assert not videos and not record["clips"]
    return record["skipped"]

  h264 = {"fps": 24, "codec": "libx264", "pixels": "yuv420p"}
  fast = {"container_options": {"movflags": "faststart"}}
  (tmp_path / "empty.mp4").touch()
  (tmp_path / "text.mp4").write_text("hello world\n" * 100)
  (tmp_path / "notes.txt").write_text("hello world\n" * 100)
  (tmp_path / "subtitles.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhi\n")
  (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
  (tmp_path / "dead.mp4").symlink_to(tmp_path / "nowhere")
  assert reason(tmp_path / "empty.mp4") == "empty file"
  assert "not a video" in reason(tmp_path / "text.mp4")
  assert reason(tmp_path / "notes.txt") == "no video in it"
  assert reason(tmp_path / "subtitles.srt") == "no video in it"
  assert "not a video" in reason(tmp_path / "list.m3u8")
  assert "no such file" in reason(tmp_path / "dead.mp4")
  half = _truncated(write_video(tmp_path / "half.mp4", numbered(48), **h264), 0.5)
  assert "truncated" in reason(half)
  front = _truncated(write_video(tmp_path / "front.mp4", numbered(48), **h264, **fast), 0.7)
  assert "truncated" in reason(front)
  lossless = _truncated(write_video(tmp_path / "half.mkv", numbered(48)), 0.5)
  assert "of the 2.00 s that its header promises" in reason(lossless)


def test_images_are_clips_of_one_frame_only(tmp_path: Path):
  Image.fromarray(_circle(40, 64)).save(tmp_path / "i.png")
  record, _ = cut(tmp_path / "i.png", tmp_path / "p")
  assert "images make clips only with --frames=1" in record["skipped"]
  record, videos = cut(tmp_path / "i.png", tmp_path / "q", 1, 16)
  assert reasons(record) == ["kept"] and videos[0].shape == (1, 16, 16, 3)
  assert videos[0][0, 8, 8, 0] == 255 and videos[0][0, 0, 0, 0] == 0
  _truncated(tmp_path / "i.png", 0.5)
  record, _ = cut(tmp_path / "i.png", tmp_path / "r", 1, 16)
  assert record["skipped"] == "truncated or not an image"


def test_a_finished_file_is_not_read_again_unless_it_or_the_options_changed(
  tmp_path: Path, write_video: Callable, numbered: Callable
):
  path = write_video(tmp_path / "v.mkv", numbered(8))
  pieces = tmp_path / "p"
  first, _ = cut(path, pieces)
  done = pieces / f"{video_cut.key('v.mkv')}.json"
  done.write_text(json.dumps(first | {"shots": 77}))
  assert cut(path, pieces)[0]["shots"] == 77  # taken from the record
  assert cut(path, pieces, stride=2)[0]["shots"] == 1
  write_video(path, numbered(12))
  assert len(cut(path, pieces)[0]["clips"]) == 3
