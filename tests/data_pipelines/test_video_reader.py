"""What a film or an image looks like: shown as it is meant, or skipped with a reason."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from data_pipelines import video_colors, video_cut, video_reader


def cut(path: Path, pieces: Path, frames: int = 4, size: int = 32):
  """The record of a file, and the videos of its kept clips."""
  pieces.mkdir(exist_ok=True)
  cutting = video_cut.Cutting(frames, size, fps=None, stride=frames)
  record = video_cut.cut_file(path, path.name, pieces, cutting)
  stored = video_cut.open_frames(video_cut.frames_path(pieces, path.name), size)
  return record, [stored[c["rows"]] for c in record["clips"] if c["reason"] == "kept"]


@pytest.mark.parametrize(
  ("name", "codec", "text"),
  [
    ("v.avi", "mpeg4", b"Caf\xe9 \xfc"),
    ("v.mp4", "libx264", b"\xff\xfe\x80"),
    ("v.webm", "libvpx-vp9", b"\xc3"),
  ],
)
def test_a_title_in_an_old_encoding_does_not_hide_the_film(
  tmp_path: Path, numbered: Callable, name: str, codec: str, text: bytes
):
  title = "T" * 12
  with av.open(str(tmp_path / name), "w") as container:
    container.metadata["title"] = title
    stream = container.add_stream(codec, rate=24)
    stream.metadata["title"] = title
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    for frame in numbered(8):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
    container.mux(stream.encode())
  data = (tmp_path / name).read_bytes()
  assert title.encode() in data
  (tmp_path / name).write_bytes(data.replace(title.encode(), text.ljust(12)))
  record, videos = cut(tmp_path / name, tmp_path / "p")
  assert record["skipped"] is None and len(videos) == 2


def test_a_damaged_film_of_any_kind_is_skipped_by_name_or_cut(
  tmp_path: Path, write_video: Callable, numbered: Callable
):
  """Damaged headers and packets raise what they like inside PyAV; none of it gets out."""
  rng = np.random.default_rng(0)
  files = [
    write_video(tmp_path / "v.mp4", numbered(8), 24, "libx264", "yuv420p"),
    write_video(tmp_path / "v.webm", numbered(8), 24, "libvpx-vp9", "yuv420p"),
    write_video(tmp_path / "v.avi", numbered(8), 24, "mpeg4", "yuv420p"),
    write_video(tmp_path / "v.mkv", numbered(8)),
  ]
  Image.fromarray(numbered(1)[0]).save(tmp_path / "i.png")
  Image.fromarray(numbered(1)[0]).save(tmp_path / "i.jpg", exif=Image.Exif())
  for path in [*files, tmp_path / "i.png", tmp_path / "i.jpg"]:
    whole = path.read_bytes()
    for number in range(8):
      data = bytearray(whole)
      places = rng.integers(0, min(len(data), 2000 if number % 2 else len(data)), 8)
      for place in places:
        data[place] = rng.integers(256)
      path.write_bytes(data)
      record, videos = cut(path, tmp_path / f"p{number}", 1, 16)
      assert record["skipped"] or all(video.shape == (1, 16, 16, 3) for video in videos)


def test_time_stamps_that_jump_are_a_reason(
  tmp_path: Path, write_video: Callable, numbered: Callable
):
  for name, jump in (("back.mkv", -5.0), ("on.mkv", 1e6)):
    times = [10 + i / 24 for i in range(8)]
    write_video(tmp_path / name, numbered(8), 24, times_s=times)
    with video_reader.VideoFile(tmp_path / name) as video:
      real = video._decoded

      def late(real=real, jump=jump):
        for index, frame in enumerate(real()):
          frame.pts += round(jump * 1000) if index >= 4 else 0
          yield frame

      video._decoded = late
      with pytest.raises(video_reader.UnreadableError, match="jump by .* at frame 4"):
        list(video.pictures())


@pytest.mark.parametrize(
  ("matrix", "corners"),
  [
    ((1, 0, 0, 1), "RGBW"),
    ((0, 1, -1, 0), "BRWG"),
    ((-1, 0, 0, -1), "WBGR"),
    ((0, -1, 1, 0), "GWRB"),
    ((-1, 0, 0, 1), "GRWB"),
    ((2, 0, 0, -2), "BWRG"),
    ((0, 1, 1, 0), "RBGW"),
    ((0, -1, -1, 0), "WGBR"),
    ((0.71, 0.71, -0.71, 0.71), None),
    ((2, 0, 0, 1), None),
    ((1, 0.5, 0, 1), None),
    ((0, 0, 0, 0), None),
  ],
)
def test_a_mirrored_or_turned_film_is_shown_so_or_skipped(
  tmp_path: Path, write_video: Callable, matrix: tuple, corners: str | None
):
  frame = np.zeros((48, 48, 3), np.uint8)
  frame[:24, :24, 0] = frame[:24, 24:, 1] = frame[24:, :24, 2] = frame[24:, 24:] = 255
  path = write_video(tmp_path / "v.mp4", [frame], 24, "libx264", "yuv444p")
  data = bytearray(path.read_bytes())
  a, b, c, d = (round(value * 2**16) for value in matrix)
  place = data.find(b"tkhd") + 4 + 40
  data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
  path.write_bytes(data)
  record, videos = cut(path, tmp_path / "p", 1, 16)
  if corners is None:
    assert "not a multiple of 90 degrees" in record["skipped"]
    return
  names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}
  shown = [videos[0][0, y, x] > 128 for y in (3, 12) for x in (3, 12)]
  assert "".join(names[tuple(int(v) for v in colour)] for colour in shown) == corners


def test_the_white_of_hdr_is_white_and_its_greys_are_those_of_ordinary_video():
  pq = lambda nits: (
    ((0.8359375 + 18.8515625 * (y := (nits / 10000) ** 0.1593017578125)) / (1 + 18.6875 * y))
    ** 78.84375
  )
  grey = lambda value: np.full((1, 1, 3), value)
  shown = lambda value, curve, gamut: video_colors.to_ordinary(grey(value), curve, gamut)[0, 0]
  np.testing.assert_allclose(shown(pq(203), 16, 9), 255, atol=1)
  np.testing.assert_allclose(shown(pq(4000), 16, 9), 255)
  np.testing.assert_allclose(shown(pq(100), 16, 9), 255 * (100 / 203) ** (1 / 2.4), atol=1)
  np.testing.assert_allclose(shown(0.0, 16, 9), 0)
  np.testing.assert_allclose(shown(0.75, 18, 9), 255, atol=1)  # BT.2408: 203 nits
  np.testing.assert_allclose(shown(0.38, 18, 9), 255 * (26 / 203) ** (1 / 2.4), atol=2)
  for gamut in (9, 12):  # grey stays grey, and of ordinary curves its value
    np.testing.assert_allclose(shown(0.5, 1, gamut), 128, atol=1)
  red = np.array([[[0.5, 0.2, 0.2]]])
  wide = video_colors.to_ordinary(red, 1, 9)[0, 0].astype(int)
  assert wide[0] > 128 and wide[1] < 51  # what is less vivid in a wide gamut is more so here


@pytest.mark.parametrize(
  ("curve", "gamut", "matrix", "says"),
  [(16, 9, 9, None), (18, 9, 9, None), (14, 9, 9, None), (1, 1, 1, None), (8, 1, 1, "linear")]
  + [(17, 10, 1, "digital cinema"), (1, 11, 1, "primaries"), (16, 9, 14, "matrix")],
)
def test_colours_of_films_are_shown_right_or_are_a_reason(
  tmp_path: Path, curve: int, gamut: int, matrix: int, says: str | None
):
  """White of ten bits: 203 nits, 75 % of HLG, all of ordinary video."""
  white = {16: 0.5806888810416109, 18: 0.75}.get(curve, 1.0)
  with av.open(str(tmp_path / "v.mp4"), "w") as container:
    stream = container.add_stream("libx264", rate=10, options={"crf": "0"})
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p10le"
    context = stream.codec_context
    context.color_trc, context.color_primaries, context.color_range = curve, gamut, 1
    context.colorspace = matrix
    frame = av.VideoFrame(32, 32, "yuv420p10le")
    for plane, value in zip(frame.planes, (round((16 + 219 * white) * 4), 512, 512)):
      row = np.full((plane.height, plane.line_size // 2), value, np.uint16)
      plane.update(row.tobytes())
    frame.colorspace, frame.color_range = matrix, 1
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
  record, videos = cut(tmp_path / "v.mp4", tmp_path / "p", 1, 16)
  if says:
    assert says in record["skipped"]
  else:
    np.testing.assert_allclose(videos[0].astype(int), 254, atol=2)


def test_images_are_shown_in_srgb_or_are_a_reason(tmp_path: Path):
  def read(image: Image.Image, name: str, **options) -> np.ndarray | str:
    image.save(tmp_path / name, **options)
    record, videos = cut(tmp_path / name, tmp_path / "p", 1, 8)
    return record["skipped"] or videos[0][0, 4, 4].astype(int)

  grey = Image.new("RGB", (16, 16), (90, 120, 200))
  srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
  np.testing.assert_allclose(read(grey, "a.png", icc_profile=srgb), (90, 120, 200), atol=1)
  lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
  assert isinstance(read(grey, "b.png", icc_profile=lab), str)  # not of this image
  assert isinstance(read(grey, "c.png", icc_profile=b"damaged"), str)
  assert "CMYK without" in read(grey.convert("CMYK"), "d.jpg")
  deep = Image.fromarray(np.full((16, 16), 257 * 120, np.uint16))
  np.testing.assert_allclose(read(deep, "e.png"), 120)
  assert "an unknown range" in read(Image.new("F", (16, 16), 0.5), "f.tiff")
  film = [grey, Image.new("RGB", (16, 16), "red")]
  assert "2 pictures" in read(grey, "g.webp", save_all=True, append_images=film[1:])
  assert "2 pictures" in read(grey, "h.tiff", save_all=True, append_images=film[1:])


def test_pipes_are_never_opened(tmp_path: Path):
  os.mkfifo(tmp_path / "v.mp4")
  os.mkfifo(tmp_path / "i.png")
  for name in ("v.mp4", "i.png"):
    assert cut(tmp_path / name, tmp_path / "p", 1, 16)[0]["skipped"] == "not a regular file"


def test_a_playlist_is_no_film_again(tmp_path: Path, write_video: Callable, numbered: Callable):
  write_video(tmp_path / "a.ts", numbered(8), 24, "mpeg2video", "yuv420p")
  (tmp_path / "list.m3u8").write_text(
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n"
  )
  (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile a.ts\n")
  assert "a playlist (hls)" in cut(tmp_path / "list.m3u8", tmp_path / "p")[0]["skipped"]
  assert "a playlist (concat)" in cut(tmp_path / "list.ffconcat", tmp_path / "p")[0]["skipped"]


def test_an_image_in_tiles_is_not_shown_by_one_tile(tmp_path: Path):
  Image.new("RGB", (64, 64), "red").save(tmp_path / "a.avif")
  assert "AVIF image" in cut(tmp_path / "a.avif", tmp_path / "p", 1)[0]["skipped"]


def test_a_rate_that_no_film_has_is_a_reason(
  tmp_path: Path, write_video: Callable, numbered: Callable, monkeypatch: pytest.MonkeyPatch
):
  path = write_video(tmp_path / "v.mkv", numbered(1))
  real = video_reader.VideoFile.__init__

  def fast(self, path: Path) -> None:
    real(self, path)
    self.fps = 1e6

  monkeypatch.setattr(video_reader.VideoFile, "__init__", fast)
  assert "1e+06 frames per second" in cut(path, tmp_path / "p", 1)[0]["skipped"]
