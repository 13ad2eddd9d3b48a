"""Rate and distortion of video codecs: curves of neural and classical ones, compared honestly.

A `Point` is a codec at one setting: all the bits of a set of clips, and the distance of what is
decoded from these clips. A `Curve` is a codec over its settings. `classical` measures an encoder of
`classical_codecs`; for a neural codec, take the bits from `code_length` and call `point` with the
decoded clips:

  symbols, rounded = quantize(latents, step=0.5, mean=mean, deviation=deviation)
  point("step 0.5", latent_bits(symbols, 0.5), truth, to_uint8(decode(rounded)))

Shapes: N clips, T frames, H W height width.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import av
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.interpolate import PchipInterpolator

from videojax.errors import check_choice
from videojax.measures import distortion
from videojax.measures.classical_codecs import CODECS, encode

Clips = UInt8[np.ndarray, "N T H W 3"]
# What is measured of the decoded clips besides PSNR and SSIM: name -> one number per clip.
Errors = Mapping[str, Callable[[Clips], Float[np.ndarray, " N"]]]
FEWEST = 4  # points of a curve for BD-rate, as in VCEG-M33


@dataclasses.dataclass(frozen=True)
class Point:
  """A codec at one setting, over a set of clips.

  Attributes:
    setting: such as 'crf 22' or 'step 0.5'.
    bits_per_pixel: all bits of all clips / (N T H W): per pixel of one frame, not per colour.
    header_bits: mean per clip of the part that describes the stream; None: the codec has none.
    psnr_db: of the squared error averaged over all clips, pixels and colours; infinite if exact.
    ssim: mean over clips, frames and R, G, B.
    errors: name -> mean over the clips where it is defined; None: it is for none.
  """

  setting: str
  bits_per_pixel: float
  header_bits: float | None
  psnr_db: float
  ssim: float
  errors: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Curve:
  """A codec over its settings.

  Attributes:
    codec: its name in tables and figures.
    detail: everything else that the numbers depend on: versions, preset, chroma, padding.
    clips: N, T, H, W of the set.
    points: in the order they were measured.
  """

  codec: str
  detail: str
  clips: tuple[int, int, int, int]
  points: Sequence[Point]


class BdRate(NamedTuple):
  """Mean difference of rate at equal quality.

  Attributes:
    change: rate of the test codec / rate of the anchor - 1, in the mean of the logarithm: -0.2
      means a fifth fewer bits.
    low, high: the interval of quality that both curves cover, and over which the mean is.
    covered: that interval's share of all qualities that either curve reaches.
  """

  change: float
  low: float
  high: float
  covered: float


def point(
  setting: str,
  bits: Int[np.ndarray, " streams"] | Float[np.ndarray, " streams"],
  truth: Clips,
  decoded: UInt8[np.ndarray, "..."],
  *,
  header_bits: Int[np.ndarray, " streams"] | None = None,
  errors: Errors | None = None,
) -> Point:
  """Measures a codec at one setting.

  Args:
    bits: of each clip's stream, headers included.
    decoded: what the decoder makes of the streams.
    header_bits: the part of `bits` that describes the stream.
    errors: further measures of the decoded clips; see `motion`.
  Raises:
    ValueError: shapes differ, or the frames are too small for SSIM.
  """
  if truth.shape != decoded.shape or len(bits) != len(truth):
    raise ValueError(
      f"{setting}: the true clips are {truth.shape}, the decoded ones {decoded.shape}, with the "
      f"bits of {len(bits)} clips: they must agree"
    )
  return Point(
    setting=setting,
    bits_per_pixel=float(np.sum(bits) / math.prod(truth.shape[:4])),
    header_bits=None if header_bits is None else float(np.mean(header_bits)),
    psnr_db=distortion.psnr(truth, decoded),
    ssim=float(distortion.ssim(truth, decoded).mean()),
    errors={name: _defined_mean(error(decoded)) for name, error in (errors or {}).items()},
  )


def _defined_mean(numbers: Float[np.ndarray, " N"]) -> float | None:
  numbers = numbers[~np.isnan(numbers)]
  return float(numbers.mean()) if len(numbers) else None


def motion(
  error: distortion.MotionError, state: distortion.State
) -> Callable[[Clips], Float[np.ndarray, " N"]]:
  """An error of motion against the simulator's state of the true clips, for `Errors`."""
  return lambda decoded: error(decoded.astype(np.float32) / 127.5 - 1, state)


def classical(
  name: str,
  clips: Clips,
  *,
  chroma: str,
  fps: float,
  crfs: Sequence[int] | None = None,
  errors: Errors | None = None,
) -> Curve:
  """The curve of a classical codec.

  Args:
    name, chroma, fps: as in `classical_codecs.encode`.
    crfs: its settings; those of CODECS by default.
    errors: as in `point`.
  Raises:
    ValueError: as `encode` and `point`.
  """
  check_choice("classical codec", name, CODECS)
  codec, points, size = CODECS[name], [], clips.shape[2:4]
  for crf in crfs or codec.qualities:
    out = encode(name, clips, crf, chroma=chroma, fps=fps)
    size = out.size
    points.append(
      point(f"crf {crf}", out.bits, clips, out.video, header_bits=out.header_bits, errors=errors)
    )
  library = ".".join(map(str, av.library_versions["libavcodec"]))
  padding = "" if size == clips.shape[2:4] else f", padded to {size[0]}x{size[1]}"
  detail = (
    f"{codec.encoder} of PyAV {av.__version__} (libavcodec {library}), preset {codec.preset}, "
    f"tuned for PSNR, 4:{chroma[1]}:{chroma[2]} with 10 bits, {fps:g} frames/s{padding}"
  )
  label = f"{name} 4:{chroma[1]}:{chroma[2]}"
  return Curve(label, detail, clips.shape[:4], points)


# --- comparison ---------------------------------------------------------------------------------


def bd_rate(anchor: Curve, test: Curve, quality: str = "psnr_db") -> BdRate:
  """Bjontegaard's delta rate of `test` against `anchor`.

  The logarithm of the rate is interpolated over quality and averaged over the interval that both
  curves cover. Bjontegaard (VCEG-M33, 2001) interpolates with a cubic through four points; this
  does so piecewise and monotonically (PCHIP), as the common test conditions of JCT-VC do
  (JCTVC-L1100). Exact points, whose PSNR is infinite, are left out.

  Args:
    quality: 'psnr_db' or 'ssim'.
  Raises:
    ValueError: a curve has fewer than four points or does not rise, or they share no quality.
  """
  (rate_a, of_a), (rate_t, of_t) = _ascending(anchor, quality), _ascending(test, quality)
  low, high = max(of_a[0], of_t[0]), min(of_a[-1], of_t[-1])
  if not low < high:
    spans = [f"{c.codec} {of[0]:.4g} to {of[-1]:.4g}" for c, of in ((anchor, of_a), (test, of_t))]
    raise ValueError(f"no {quality} is reached by both curves ({', '.join(spans)}): no BD-rate")
  mean_a, mean_t = (
    float(PchipInterpolator(of, np.log(rate)).integrate(low, high)) / (high - low)
    for of, rate in ((of_a, rate_a), (of_t, rate_t))
  )
  either = max(of_a[-1], of_t[-1]) - min(of_a[0], of_t[0])
  return BdRate(math.expm1(mean_t - mean_a), float(low), float(high), float((high - low) / either))


def _ascending(curve: Curve, quality: str) -> tuple[np.ndarray, np.ndarray]:
  """(rates, qualities) in ascending order, of the points whose quality is finite."""
  pairs = sorted((p.bits_per_pixel, getattr(p, quality)) for p in curve.points)
  pairs = [pair for pair in pairs if math.isfinite(pair[1])]
  if len(pairs) < FEWEST:
    raise ValueError(
      f"{curve.codec} has {len(pairs)} points with a finite {quality}: BD-rate needs {FEWEST}"
    )
  rate, of = np.array(pairs).T
  if rate[0] <= 0 or np.any(np.diff(rate) <= 0) or np.any(np.diff(of) <= 0):
    raise ValueError(
      f"{curve.codec}: {quality} does not rise with the rate at every point "
      f"({', '.join(f'{q:.4g} at {r:.3g}' for r, q in pairs)} bits/pixel): no BD-rate"
    )
  return rate, of


# --- tables -------------------------------------------------------------------------------------


def rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
  """A row per point, with the units in the names of columns; None where there is no number."""
  return [
    {
      "codec": curve.codec, "setting": p.setting, "bits_per_pixel": p.bits_per_pixel,
      "header_bits_per_clip": p.header_bits, "psnr_db": p.psnr_db, "ssim": p.ssim, **p.errors,
    }
    for curve in curves
    for p in curve.points
  ]  # fmt: skip


def to_csv(curves: Sequence[Curve]) -> str:
  """`rows` as CSV, with each codec's detail and the size of the set."""
  details = {c.codec: {"clips": "x".join(map(str, c.clips)), "detail": c.detail} for c in curves}
  table = [row | details[row["codec"]] for row in rows(curves)]
  out = io.StringIO()
  names = list(dict.fromkeys(name for row in table for name in row))
  writer = csv.DictWriter(out, names, lineterminator="\n")
  writer.writeheader()
  writer.writerows(table)
  return out.getvalue()


def to_text(curves: Sequence[Curve]) -> str:
  """`rows` in aligned columns, below a line about each codec."""
  about = [f"{c.codec}: {c.detail}; {'x'.join(map(str, c.clips))} (N T H W)" for c in curves]
  table = rows(curves)
  names = list(dict.fromkeys(name for row in table for name in row))
  cells = [names, *([_cell(name, row.get(name)) for name in names] for row in table)]
  widths = [max(map(len, column)) for column in zip(*cells)]
  aligned = ["  ".join(text.rjust(width) for text, width in zip(row, widths)) for row in cells]
  return "\n".join([*about, "", *aligned]) + "\n"


def _cell(name: str, value: Any) -> str:
  if value is None or isinstance(value, str):
    return value or "-"
  digits = {"header_bits_per_clip": 0, "psnr_db": 2}.get(name, 4)
  return f"{value:.{digits}f}"
