"""The colours of videos: HDR and wide gamuts become standard dynamic range (BT.709).

A brightness of 203 nits (HDR reference white, BT.2408) and everything above it becomes white.
Shapes: H W height width.
"""

from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

WHITE = 203.0  # nits
HLG_PEAK = 1000.0  # nits, of the reference display in BT.2100
GAMMA = 2.4  # of a standard display, BT.1886
PQ, HLG = 16, 18  # transfer curves; all such numbers are codes of ITU-T H.273
FOREIGN_CURVES = {8: "linear", 9: "logarithmic", 10: "logarithmic", 17: "digital cinema's"}
FOREIGN_GAMUTS = {10: "XYZ", 11: "digital cinema's"}
FOREIGN_MATRICES = {8, *range(10, 18)}  # FFmpeg before 8 misreads these
GAMUTS = {  # primaries -> linear RGB of BT.709; BT.2087 and Display P3
  9: np.array(
    [
      [1.660491, -0.587641, -0.072850],
      [-0.124550, 1.132900, -0.008349],
      [-0.018151, -0.100579, 1.118730],
    ]
  ),
  12: np.array(
    [
      [1.224940, -0.224940, 0.0],
      [-0.042057, 1.042057, 0.0],
      [-0.019638, -0.078636, 1.098274],
    ]
  ),
}


def side_data(frame: av.VideoFrame) -> dict[str, bytes]:
  """The side data of a frame by kind; {} if PyAV does not know one of the kinds."""
  try:
    found: Any = frame.side_data
  except ValueError:  # such as EXIF in PyAV 18
    return {}
  # By number: PyAV 18 iterates over the pieces, 19 over their kinds.
  return {piece.type.name: bytes(piece) for piece in map(found.__getitem__, range(len(found)))}


def refusal(frame: av.VideoFrame) -> str | None:
  """Why the colours of a frame cannot be converted correctly; None: they can."""
  curve, gamut, matrix = frame.color_trc, frame.color_primaries, frame.colorspace
  if curve in FOREIGN_CURVES:
    return f"its transfer curve is {FOREIGN_CURVES[curve]}"
  if gamut in FOREIGN_GAMUTS:
    return f"its colour primaries are {FOREIGN_GAMUTS[gamut]}"
  if matrix in FOREIGN_MATRICES:
    return f"its colour matrix (number {int(matrix)} of H.273) is not known"
  if {"DOVI_METADATA", "DOVI_RPU_BUFFER"} & set(side_data(frame)) and curve not in (
    1,
    14,
    15,
    PQ,
    HLG,
  ):
    return "Dolby Vision without a picture for other displays"
  return None


def is_foreign(frame: av.VideoFrame) -> bool:
  """Whether the frame is HDR or has a wide gamut."""
  return frame.color_trc in (PQ, HLG) or frame.color_primaries in GAMUTS


def to_ordinary(
  codes: Float[np.ndarray, "H W 3"], curve: int, primaries: int
) -> UInt8[np.ndarray, "H W 3"]:
  """Converts a picture to standard dynamic range and BT.709.

  Args:
    codes: code values of R'G'B' in [0,1].
    curve: H.273 code of the transfer curve.
    primaries: H.273 code of the colour primaries.

  Source: BT.2100-2, tables 4 (PQ) and 5 (HLG); BT.2408 (reference white).
  """
  if curve == PQ:
    root = codes ** (1 / 78.84375)
    light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    linear = 10000 / WHITE * light ** (1 / 0.1593017578125)
  elif curve == HLG:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])  # [H,W]
    linear = HLG_PEAK / WHITE * luminance[..., None] ** 0.2 * scene
  else:
    linear = codes**GAMMA
  if primaries in GAMUTS:
    linear = linear @ GAMUTS[primaries].T
  return np.round(255 * np.clip(linear, 0, 1) ** (1 / GAMMA)).astype(np.uint8)
