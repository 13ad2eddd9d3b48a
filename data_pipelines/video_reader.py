"""Real video files frame by frame: decoding, damage, resizing without distortion, shot cuts.

Needs PyAV (its wheel brings the codecs: no ffmpeg binary) and Pillow.
Alphabet: H W height width, C channels.
"""

import contextlib
import dataclasses
import datetime
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

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
SIGNATURE_SIDE = 32  # pixels; blind to noise and to small motion
CUT_FLOOR = 0.12  # of 0 to 2; in bikes.mp4 the calmest cut is 0.32, motion alone up to 0.12
CUT_RATIO = 3.0  # a cut stands out from its neighbourhood, fast motion does not
CUT_WINDOW = 8  # frames on either side
BACK_S, GAP_S = 1.0, 3600.0  # time stamps that jump further back or on are no film's
PLAYLISTS = frozenset(("concat", "dash", "hls", "imf", "sdp"))
HEIF = frozenset(("avif", "heic", "heim", "heis", "heix", "mif1"))
WHOLE = 0.9  # of the promised duration: less is a truncated file


@dataclasses.dataclass(frozen=True)
class Picture:
  """One decoded frame.

  Args:
    index: its place among the decoded frames of the file.
    time_s: its presentation time.
    frame: the frame as decoded.
    sound: False from a decoding error to the next key frame.
    damages: decoding errors so far; frames that differ in it do not follow each other.
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
    UnreadableError: it is empty, damaged, or no video.
  """

  def __init__(self, path: Path):
    check_file(path)
    with av_errors("truncated or not a video"):
      # A playlist in the folder must not make us fetch what it names; a title in an old encoding
      # must not keep us from the pictures.
      self._container = av.open(
        str(path.resolve()), options={"protocol_whitelist": "file"}, metadata_errors="replace"
      )
    with contextlib.ExitStack() as closed_on_error:
      closed_on_error.callback(self.close)
      with av_errors("truncated or not a video"):
        self._read_header()
      closed_on_error.pop_all()

  def _read_header(self) -> None:
    """Finds the stream and its rate."""
    if not self._container.streams:
      raise UnreadableError("truncated or not a video (no streams in it)")
    kind = self._container.format.name
    if kind in PLAYLISTS:  # the films that it names would be there twice, and in two splits
      raise UnreadableError(f"a playlist ({kind}), no film")
    if self._container.metadata.get("major_brand") in HEIF:  # its streams are tiles of the picture
      raise UnreadableError("a HEIF or AVIF image; convert it to PNG or JPEG")
    pictures = [s for s in self._container.streams.video if not _is_cover(s)]
    if not pictures or kind == "tty":  # tty draws any .txt as a video
      raise UnreadableError("no video in it")
    self.stream = pictures[0]
    if not self.stream.codec_context:
      raise UnreadableError("its codec is not known")
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
    """Its frames in order of time.

    Raises:
      UnreadableError: no frame could be decoded, its colours are not known, its time stamps jump,
        or the file ends before its header says.
    """
    index, damages, sound = -1, 0, True
    start_s: float | None = None
    time_s = end_s = 0.0
    for frame in self._decoded():
      if frame is None or frame.is_corrupt:
        # What follows is predicted from the damaged frame, up to the next key frame.
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
          f"its time stamps jump by {time_s - last_s:.0f} s at frame {index}: pieces of several "
          "files, or damaged"
        )
      elif time_s <= last_s:  # two frames at one time: the first is shown
        time_s = last_s
        continue
      unit_s = float(frame.time_base or 0)
      length_s = frame.duration * unit_s or 1 / self.fps
      end_s = time_s + length_s
      yield Picture(index, time_s, frame, sound, damages)
    self._check_whole(start_s, end_s)

  def _decoded(self) -> Iterator[av.VideoFrame | None]:
    """Frames; None stands for packets that could not be decoded."""
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
      raise UnreadableError("no frame of it can be decoded")
    promised_s = self._promised_s()
    if promised_s and end_s - start_s < WHOLE * promised_s - 1 / self.fps:
      raise UnreadableError(
        f"truncated: {end_s - start_s:.2f} s of the {promised_s:.2f} s that its header promises"
      )

  def _promised_s(self) -> float | None:
    """How long the file says this stream is, if it does."""
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
  """Scales frames by area so that the shorter side is `size`, crops the centre, turns upright.

  Pixels that are not square are made square, the aspect is kept to half a pixel; marks of rotation
  and mirroring are obeyed. HDR and wide gamuts become BT.709. Transparency is ignored.

  Args:
    size: height and width of the result, in pixels.
  """

  def __init__(self, size: int):
    self.size = size
    self._scaler = av.video.reformatter.VideoReformatter()  # keeps its filters between frames

  def __call__(self, frame: av.VideoFrame, pixel_aspect: float) -> UInt8[np.ndarray, "size size 3"]:
    """The frame as a square.

    Raises:
      UnreadableError: it cannot be scaled, or its display matrix is no quarter turn or mirror.
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
  """The square as the frame's display matrix wants it shown.

  The matrix [[a,b,u],[c,d,v],[x,y,w]] shows what is stored at (x,y) at (a x + c y, b x + d y).
  """
  matrix = video_colors.side_data(frame).get("DISPLAYMATRIX")
  if matrix is None:
    if frame.rotation:
      raise UnreadableError("it is displayed rotated, in a way that PyAV cannot read")
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
  """An image file, upright, in sRGB, its centre square scaled by area to `size` pixels.

  Raises:
    UnreadableError: it is empty, damaged, no image, several, or of unknown colours.
  """
  check_file(path)
  try:
    with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
      pictures = getattr(opened, "n_frames", 1)
      if pictures > 1 and opened.format != "MPO":  # phones put copies behind the picture
        raise UnreadableError(f"{pictures} pictures in one file; only single ones are read")
      image = _to_srgb(ImageOps.exif_transpose(opened))
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX, box=box))
  except UnreadableError:
    raise
  except Image.DecompressionBombError as error:
    raise UnreadableError(f"too large an image ({error})") from error
  except PIL_ERRORS as error:
    raise UnreadableError("truncated or not an image") from error


def _to_srgb(image: Image.Image) -> Image.Image:
  """The image in sRGB, by its colour profile where it has one."""
  if image.mode.startswith("I;16"):  # Pillow would clip it
    image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
  elif image.mode in ("I", "F"):
    raise UnreadableError(f"its pixel values have an unknown range (mode {image.mode})")
  profile = image.info.get("icc_profile")
  if profile and image.mode not in ("L", "CMYK", "LAB"):
    image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
  if not profile:
    if image.mode == "CMYK":
      raise UnreadableError("CMYK without a colour profile: its colours are not known")
    return image.convert("RGB")
  given, wanted = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
  shown = ImageCms.profileToProfile(image, given, wanted, outputMode="RGB")
  assert shown is not None  # it is not in place
  return shown


class CutScore:
  """How unlike the previous frame a frame is: 0 the same to 2, in layout plus in colours.

  Layout: mean absolute difference on a 16 x 16 grid. Colours: half the L1 distance between the
  RGB histograms, which motion within a shot leaves alone.
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
  """Shares of 4 x 4 x 4 RGB bins; a colour counts in the 8 bins around it, by nearness.

  So a whole picture that brightens a little does not jump from one bin to the next.
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
  """Marks the first frame of each shot but the first.

  A cut is a score above a floor and above a multiple of the median of its neighbours: in fast
  motion the neighbours are high as well. Fades and dissolves are no cuts here.

  Args:
    scores: of each frame against the one before it; the first one's is ignored.
  """
  if len(scores) < 2:
    return np.zeros(len(scores), bool)
  padded = np.pad(scores.astype(np.float64), CUT_WINDOW, constant_values=np.nan)
  padded[CUT_WINDOW] = np.nan  # the first frame has none before it
  around = np.lib.stride_tricks.sliding_window_view(padded, 2 * CUT_WINDOW + 1).copy()  # [N,17]
  around[:, CUT_WINDOW] = np.nan  # a score is not its own neighbour
  known = ~np.isnan(around).all(axis=1)
  local = np.zeros(len(scores))
  local[known] = np.nanmedian(around[known], axis=1)  # [N]
  cuts = (scores > CUT_FLOOR) & (scores > CUT_RATIO * local)
  cuts[0] = False
  return cuts
