"""Reads real video files frame by frame: decoding, damage, resizing without distortion, shot cuts.

Needs PyAV (whose wheel contains the codecs: no ffmpeg binary) and Pillow.
Shapes: H W height width, C channels.
"""

import contextlib
import dataclasses
import datetime
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageCms, ImageOps

from data_pipelines import video_colors
from data_pipelines.unreadable import (
  AV_ERRORS,
  PIL_ERRORS,
  UnreadableError,
  av_errors,
  check_file,
)

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"))
SIGNATURE_SIDE = 32  # pixels; insensitive to noise and small motion
CUT_FLOOR = 0.12  # of 0 to 2; in bikes.mp4 the weakest cut scores 0.32, motion alone up to 0.12
CUT_RATIO = 3.0  # a cut stands out from its neighbours, fast motion does not
CUT_WINDOW = 8  # frames on either side
BACK_S, GAP_S = 1.0, 3600.0  # the largest plausible jumps of a time stamp, backward and forward
PLAYLISTS = frozenset(("concat", "dash", "hls", "imf", "sdp"))
HEIF = frozenset(("avif", "heic", "heim", "heis", "heix", "mif1"))
WHOLE = 0.9  # of the duration in the header; a file with less is truncated
# A title in a legacy encoding must not prevent decoding; PyAV 19 and later always read it.
METADATA: dict[str, Any] = (
  {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
)


@dataclasses.dataclass(frozen=True)
class Picture:
  """One decoded frame.

  Args:
    index: its number among the decoded frames of the file.
    time_s: its presentation time.
    frame: the frame as decoded.
    sound: False from a decoding error to the next key frame.
    damages: decoding errors so far; between frames that differ in it, something is missing.
  """

  index: int
  time_s: float
  frame: av.VideoFrame
  sound: bool
  damages: int


class VideoFile:
  """An open video file; a context manager.

  Args:
    path: any file.

  Raises:
    UnreadableError: it is empty, damaged, or not a video.
  """

  def __init__(self, path: Path):
    check_file(path)
    with av_errors("truncated or not a video"):
      # A playlist must not make us download the files that it names.
      options = {"protocol_whitelist": "file"}
      self._container = av.open(str(path.resolve()), options=options, **METADATA)
    with contextlib.ExitStack() as closed_on_error:
      closed_on_error.callback(self.close)
      with av_errors("truncated or not a video"):
        self._read_header()
      closed_on_error.pop_all()

  def _read_header(self) -> None:
    """Finds the video stream and its frame rate."""
    if not self._container.streams:
      raise UnreadableError("truncated or not a video (no streams in it)")
    kind = self._container.format.name
    if kind in PLAYLISTS:  # its videos would occur twice, perhaps in two splits
      raise UnreadableError(f"a playlist ({kind}), not a video")
    if self._container.metadata.get("major_brand") in HEIF:  # its streams are tiles of the picture
      raise UnreadableError("a HEIF or AVIF image; convert it to PNG or JPEG")
    pictures = [s for s in self._container.streams.video if not _is_cover(s)]
    if not pictures or kind == "tty":  # tty draws any .txt as a video
      raise UnreadableError("no video in it")
    self.stream = pictures[0]
    if not self.stream.codec_context:
      raise UnreadableError("its codec is unknown")
    rate = self.stream.average_rate or self.stream.guessed_rate
    if not rate:
      raise UnreadableError("no frame rate in it")
    self.fps, self.pixel_aspect = float(rate), float(self.stream.sample_aspect_ratio or 1)

  def close(self) -> None:
    self._container.close()

  def __enter__(self) -> "VideoFile":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def pictures(self) -> Iterator[Picture]:
    """Yields its frames in order of time.

    Raises:
      UnreadableError: no frame can be decoded, its colours cannot be converted, its time stamps
        jump, or the file is shorter than its header says.
    """
    index, damages, sound = -1, 0, True
    start_s: float | None = None
    time_s = end_s = 0.0
    for frame in self._decoded():
      if frame is None or frame.is_corrupt:
        # All frames up to the next key frame are predicted from the damaged one.
        damages, sound = damages + 1, False
      elif frame.key_frame:
        sound = True
      if frame is None:
        continue
      index += 1
      last_s, time_s = time_s, end_s if frame.time is None else float(frame.time)
      if start_s is None:
        start_s = time_s
        if reason := video_colors.refusal(frame):
          raise UnreadableError(reason)
      elif not -BACK_S <= time_s - last_s <= GAP_S:
        raise UnreadableError(
          f"its time stamps jump by {time_s - last_s:.0f} s at frame {index}: it is damaged, or "
          "joined from several files"
        )
      elif time_s <= last_s:  # two frames at the same time: use the first
        time_s = last_s
        continue
      unit_s = float(frame.time_base or 0)
      length_s = frame.duration * unit_s or 1 / self.fps
      end_s = time_s + length_s
      yield Picture(index, time_s, frame, sound, damages)
    self._check_whole(start_s, end_s)

  def _decoded(self) -> Iterator[av.VideoFrame | None]:
    """Yields frames, and None for packets that cannot be decoded."""
    packets = self._container.demux(self.stream)
    while True:
      try:
        packet = next(packets)
      except StopIteration:
        return
      except AV_ERRORS:
        yield None
        return
      try:
        frames = packet.decode()
      except AV_ERRORS:
        yield None
        continue
      yield from frames

  def _check_whole(self, start_s: float | None, end_s: float) -> None:
    if start_s is None:
      raise UnreadableError("none of its frames can be decoded")
    promised_s = self._promised_s()
    if promised_s and end_s - start_s < WHOLE * promised_s - 1 / self.fps:
      raise UnreadableError(
        f"truncated: {end_s - start_s:.2f} s of the {promised_s:.2f} s that its header promises"
      )

  def _promised_s(self) -> float | None:
    """The stream's duration according to the file, in seconds; None if it does not say."""
    if self.stream.duration and self.stream.time_base:
      return float(self.stream.duration * self.stream.time_base)
    if "DURATION" in self.stream.metadata:  # Matroska, per stream
      with contextlib.suppress(ValueError):
        clock = datetime.time.fromisoformat(self.stream.metadata["DURATION"][:15])
        return (clock.hour * 60 + clock.minute) * 60 + clock.second + clock.microsecond / 1e6
    if self._container.duration and len(self._container.streams) == 1:
      return self._container.duration / av.time_base
    return None


def _is_cover(stream: av.VideoStream) -> bool:
  return bool(stream.disposition & av.stream.Disposition.attached_pic)


class Resizer:
  """Scales frames by area until the shorter side is `size`, crops the centre, turns them upright.

  Pixels that are not square are made square; the aspect is kept to within half a pixel. Rotation
  and mirroring flags are applied. HDR and wide gamuts become BT.709. Transparency is ignored.

  Args:
    size: height and width of the result, in pixels.
  """

  def __init__(self, size: int):
    self.size = size
    self._scaler = av.video.reformatter.VideoReformatter()  # keeps its filters between frames

  def __call__(self, frame: av.VideoFrame, pixel_aspect: float) -> UInt8[np.ndarray, "size size 3"]:
    """The frame as a square.

    Raises:
      UnreadableError: it cannot be scaled, or its display matrix is not a combination of quarter
        turns and mirroring.
    """
    wide, high = frame.width * pixel_aspect, frame.height
    scale = self.size / min(wide, high)
    width = max(self.size, round(wide * scale))
    height = max(self.size, round(high * scale))
    foreign = video_colors.is_foreign(frame)
    with av_errors("its frames cannot be scaled"):
      scaled = self._scaler.reformat(
        frame,
        width=width,
        height=height,
        format="rgb48le" if foreign else "rgb24",
        interpolation="AREA",
      ).to_ndarray()  # [H,W,C]
    left, top = (width - self.size) // 2, (height - self.size) // 2
    square = scaled[top : top + self.size, left : left + self.size]  # [size,size,C]
    if foreign:
      square = video_colors.to_ordinary(square / 65535, frame.color_trc, frame.color_primaries)
    return np.ascontiguousarray(_upright(square, frame))


def _upright(square: UInt8[np.ndarray, "S S 3"], frame: av.VideoFrame) -> np.ndarray:
  """The square, rotated and mirrored as the frame's display matrix says.

  The matrix [[a,b,u],[c,d,v],[x,y,w]] displays the stored pixel (x,y) at (a x + c y, b x + d y).
  """
  matrix = video_colors.side_data(frame).get("DISPLAYMATRIX")
  if matrix is None:
    if frame.rotation:
      raise UnreadableError("it is displayed rotated, by a matrix that PyAV cannot read")
    return square
  a, b, u, c, d, v = np.frombuffer(matrix, "=i4")[:6] / 2**16
  turned = max(abs(b), abs(c)) > max(abs(a), abs(d))
  right, down = (c, b) if turned else (a, d)
  rest = (a, d, u, v) if turned else (b, c, u, v)
  if not abs(right) or max(abs(abs(down) - abs(right)), *map(abs, rest)) > 0.01 * abs(right):
    raise UnreadableError(
      "it is displayed stretched, tilted, or at an angle that is not a multiple of 90 degrees"
    )
  shown = square.swapaxes(0, 1) if turned else square
  return shown[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]


def read_image(path: Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
  """An image file's centre square, upright, in sRGB, scaled by area to `size` pixels.

  Raises:
    UnreadableError: it is empty, damaged, not a single image, or its colours are unknown.
  """
  check_file(path)
  try:
    with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
      pictures = getattr(opened, "n_frames", 1)
      if pictures > 1 and opened.format != "MPO":  # phones append copies to the picture
        raise UnreadableError(f"{pictures} pictures in one file; only single images are read")
      image = _to_srgb(ImageOps.exif_transpose(opened))
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))
  except UnreadableError:
    raise
  except Image.DecompressionBombError as error:
    raise UnreadableError(f"the image is too large ({error})") from error
  except PIL_ERRORS as error:
    raise UnreadableError("truncated or not an image") from error


def _to_srgb(image: Image.Image) -> Image.Image:
  """The image in sRGB, converted with its colour profile if it has one."""
  if image.mode.startswith("I;16"):  # Pillow would clip it
    image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
  elif image.mode in ("I", "F"):
    raise UnreadableError(f"its pixel values have an unknown range (mode {image.mode})")
  profile = image.info.get("icc_profile")
  if profile and image.mode not in ("L", "CMYK", "LAB"):
    image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
  if not profile:
    if image.mode == "CMYK":
      raise UnreadableError("CMYK without a colour profile: its colours are unknown")
    return image.convert("RGB")
  given, wanted = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
  shown = ImageCms.profileToProfile(image, given, wanted, outputMode="RGB")
  assert shown is not None  # None only for in-place conversion
  return shown


class CutScore:
  """Difference between a frame and the previous one, layout plus colours: from 0 (same) to 2.

  Layout: mean absolute difference on a 16 x 16 grid. Colours: half the L1 distance between the
  RGB histograms, which motion within a shot does not change.
  """

  def __init__(self) -> None:
    self._scaler = av.video.reformatter.VideoReformatter()
    self._last: tuple[np.ndarray, np.ndarray] | None = None

  def __call__(self, frame: av.VideoFrame) -> float:
    with av_errors("its frames cannot be scaled"):
      small = self._scaler.reformat(
        frame, width=SIGNATURE_SIDE, height=SIGNATURE_SIDE, format="rgb24", interpolation="AREA"
      ).to_ndarray()
    half = SIGNATURE_SIDE // 2
    layout = small.reshape(half, 2, half, 2, 3).mean((1, 3)) / 255  # [16,16,3]
    colours = _histogram(small.reshape(-1, 3))
    last, self._last = self._last, (layout, colours)
    if last is None:
      return 0.0
    return float(np.abs(layout - last[0]).mean() + np.abs(colours - last[1]).sum() / 2)


def _histogram(colours: UInt8[np.ndarray, "N 3"]) -> Float[np.ndarray, "64"]:
  """Shares of 4 x 4 x 4 RGB bins; each colour is interpolated between the 8 bins around it.

  Thus a picture that brightens a little does not jump from one bin to the next.
  """
  place = colours / 85.0  # 0..3
  low = np.minimum(place.astype(np.int64), 2)  # [N,3]
  near = np.stack([low + 1 - place, place - low])  # [2,N,3]: the weights of bins low and low+1
  total = np.zeros(64)
  for corner in np.ndindex(2, 2, 2):
    weights = near[corner, :, range(3)].prod(axis=0)  # [N]
    total += np.bincount((low + corner) @ np.array([16, 4, 1]), weights, 64)
  return total / len(colours)


def find_cuts(scores: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
  """Marks the first frame of each shot except the first shot.

  A cut is a score above a floor and above a multiple of its neighbours' median: in fast motion the
  neighbours are high as well. Fades and dissolves are not detected.

  Args:
    scores: of each frame against the previous one; the first score is ignored.
  """
  if len(scores) < 2:
    return np.zeros(len(scores), bool)
  padded = np.pad(scores.astype(np.float64), CUT_WINDOW, constant_values=np.nan)
  padded[CUT_WINDOW] = np.nan  # the first frame has no previous frame
  around = np.lib.stride_tricks.sliding_window_view(padded, 2 * CUT_WINDOW + 1).copy()  # [N,17]
  around[:, CUT_WINDOW] = np.nan  # a score is not its own neighbour
  known = ~np.isnan(around).all(axis=1)
  local = np.zeros(len(scores))
  local[known] = np.nanmedian(around[known], axis=1)  # [N]
  cuts = (scores > CUT_FLOOR) & (scores > CUT_RATIO * local)
  cuts[0] = False
  return cuts
