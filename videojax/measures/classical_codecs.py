"""Classical video codecs beside the neural ones: clips -> bits and what a decoder makes of them.

The encoders are those of PyAV's wheel: x264, x265 and SVT-AV1, each at a slow preset and tuned for
PSNR, which is what it is judged by here. One clip is one stream: a key frame and no other that is
not a cut. Pictures are coded with 10 bits per sample: rounding RGB to 8-bit YCbCr and back costs as
much as a codec at 49 to 52 dB, with 10 bits (4:4:4) it costs nothing.

What is counted: all bytes of the packets that the decoder needs, with start codes and with the
parameter sets, which the encoders send in the stream. Not counted: a container, and two things that
encoders write and no decoder needs: x264's message with its version and options (650 bytes, more
than a small clip), and AV1's temporal delimiters (two bytes a frame), which containers drop.

x264 and SVT-AV1 give the same bytes each time. x265 4.2 does not, not even on one thread: at every
preset from 'slow' on, the size of a clip differs by up to 2 % between runs.

Shapes: N clips, T frames, H W height width.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from jaxtyping import Int, UInt8

from videojax.errors import check_choice

FORMATS = {"444": "yuv444p10le", "420": "yuv420p10le"}  # chroma -> FFmpeg's pixel format
SCALING = "BICUBIC"  # of colour in 4:2:0; PyAV's default costs a decibel on worlds
LEAST = 16  # pixels of a side that every encoder takes


@dataclasses.dataclass(frozen=True)
class Codec:
  """An encoder as it is run, and its decoder.

  Attributes:
    encoder, decoder: names of FFmpeg.
    standard: the name FFmpeg's bitstream filters know it by.
    preset: as the encoder names it.
    options: further options of the encoder.
    chroma: names in FORMATS that it can write.
    crf: lowest and highest value of its quality setting; a low one gives many bits.
    qualities: values that span the useful rates.
    unneeded: types of NAL unit or OBU that no decoder needs.
    headers: types of NAL unit or OBU that describe the stream, such as parameter sets.
    coarse: a side below `coarse` pixels is padded to half of it or all of it; 0: none is.
  """

  encoder: str
  decoder: str
  standard: str
  preset: str
  options: Mapping[str, str]
  chroma: tuple[str, ...]
  crf: tuple[int, int]
  qualities: tuple[int, ...]
  unneeded: str
  headers: str
  coarse: int = 0

  def padded(self, side: int) -> int:
    """The side that is coded: even, at least LEAST, and none that the encoder fails at."""
    if side < self.coarse:
      return -(-side // (self.coarse // 2)) * (self.coarse // 2)
    return max(LEAST, side + side % 2)


CODECS = {
  "x264": Codec(
    encoder="libx264", decoder="h264", standard="h264", preset="veryslow",
    options={"tune": "psnr"}, chroma=("444", "420"), crf=(-12, 51),
    qualities=(4, 10, 16, 22, 28, 34, 40, 46), unneeded="6", headers="7-8",
  ),
  "x265": Codec(
    encoder="libx265", decoder="hevc", standard="hevc", preset="veryslow",
    options={"tune": "psnr", "x265-params": "log-level=none:info=0:pools=1:frame-threads=1"},
    chroma=("444", "420"), crf=(0, 51), qualities=(4, 10, 16, 22, 28, 34, 40, 46), unneeded="39-40",
    headers="32-34",
    coarse=64,  # x265 4.2 writes beyond its memory for widths of 33 to 63
  ),
  "svt-av1": Codec(
    encoder="libsvtav1", decoder="libdav1d", standard="av1", preset="2",
    options={"svtav1-params": "tune=1:lp=1"}, chroma=("420",), crf=(1, 63),
    qualities=(4, 12, 20, 30, 40, 50, 60), unneeded="2", headers="1",
  ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Clips after a codec.

  Attributes:
    bits: of each clip's stream [N].
    header_bits: the part of `bits` that describes the stream (parameter sets) [N].
    size: (height, width) that were coded; their padding's bits are in `bits`.
    video: the decoded clips, without the padding.
  """

  bits: Int[np.ndarray, " N"]
  header_bits: Int[np.ndarray, " N"]
  size: tuple[int, int]
  video: UInt8[np.ndarray, "N T H W 3"]


def encode(
  name: str, clips: UInt8[np.ndarray, "N T H W 3"], crf: int, *, chroma: str, fps: float = 25.0
) -> Encoded:
  """Encodes and decodes each clip as a stream of its own.

  Args:
    name: in CODECS.
    crf: the encoder's constant rate factor.
    chroma: in FORMATS; '420' halves the resolution of colour.
    fps: frames per second. The encoders' rate control knows it: a CRF means fewer bits per frame at
      a higher rate.
  Raises:
    ValueError: no such codec or chroma, the encoder cannot write it, or a CRF out of its range.
  """
  check_choice("classical codec", name, CODECS)
  codec = CODECS[name]
  check_choice(f"chroma format of {name}", chroma, codec.chroma)
  low, high = codec.crf
  if not low <= crf <= high:
    raise ValueError(f"{name} has no CRF {crf}: it must be in {low}..{high}")
  height, width = clips.shape[2:4]
  size = codec.padded(height), codec.padded(width)
  around = ((0, 0), (0, 0), (0, size[0] - height), (0, size[1] - width), (0, 0))
  streams = [
    packets(codec, clip, crf, chroma=chroma, fps=fps) for clip in np.pad(clips, around, mode="edge")
  ]
  video = np.stack([decode(codec, stream) for stream in streams])
  if video.shape[1] != clips.shape[1]:
    raise RuntimeError(f"{name} gave {video.shape[1]} frames back of {clips.shape[1]}")
  return Encoded(
    bits=np.array([count_bits(stream) for stream in streams]),
    header_bits=np.array([_header_bits(codec, stream) for stream in streams]),
    size=size,
    video=np.ascontiguousarray(video[:, :, :height, :width]),
  )


def packets(
  codec: Codec, clip: UInt8[np.ndarray, "T H W 3"], crf: int, *, chroma: str, fps: float
) -> list[av.Packet]:
  """The stream of one clip, without what no decoder needs."""
  # SVT-AV1 reports its settings on standard error unless this asks it for errors only.
  os.environ.setdefault("SVT_LOG", "1")
  rate = Fraction(fps).limit_denominator(1001)
  context = av.CodecContext.create(codec.encoder, "w")
  assert isinstance(context, av.VideoCodecContext)
  context.height, context.width, context.pix_fmt = *clip.shape[1:3], FORMATS[chroma]
  context.framerate, context.time_base = rate, 1 / rate
  context.gop_size = len(clip)
  context.thread_count = 1  # the same bits on every machine
  context.options = {"preset": codec.preset, "crf": str(crf), **codec.options}
  written = []
  for time, picture in enumerate(clip):
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
    frame = frame.reformat(format=FORMATS[chroma], interpolation=SCALING)
    frame.pts, frame.time_base = time, context.time_base
    written += context.encode(frame)
  return _without(codec, codec.unneeded, written + context.encode(None))


def decode(codec: Codec, stream: Sequence[av.Packet]) -> UInt8[np.ndarray, "T H W 3"]:
  """The clip that a decoder makes of a stream."""
  context = av.CodecContext.create(codec.decoder, "r")
  assert isinstance(context, av.VideoCodecContext)
  frames = [frame for packet in stream for frame in context.decode(packet)]
  frames += context.decode(None)
  return np.stack([_rgb(frame) for frame in frames])


def _rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
  """The picture of a decoded frame.

  A decoder may say where samples of colour lie (at the left, in H.264), but the encoder's frames
  had them in the middle: heeding it would shift colour by a quarter of a pixel.
  """
  if frame.format.name == FORMATS["420"]:
    frame = av.VideoFrame.from_ndarray(frame.to_ndarray(), frame.format.name)
  return frame.reformat(format="rgb24", interpolation=SCALING).to_ndarray()


def count_bits(stream: Sequence[av.Packet]) -> int:
  """Bits of all packets."""
  return 8 * sum(packet.size for packet in stream)


def _header_bits(codec: Codec, stream: Sequence[av.Packet]) -> int:
  return count_bits(stream) - count_bits(_without(codec, codec.headers, stream))


def _without(codec: Codec, types: str, stream: Sequence[av.Packet]) -> list[av.Packet]:
  """A stream without the units of these types ('6', '7-8'); `stream` is unchanged."""
  keep = BitStreamFilterContext(f"filter_units=remove_types={types}", codec.standard)
  out = []
  for packet in stream:
    copy = av.Packet(bytes(packet))  # the filter empties what it is given
    copy.pts, copy.dts = packet.pts, packet.dts
    out += keep.filter(copy)
  return out + keep.filter(None)
