"""Case B: 1.3B, 480p, 17 frames: 7,800 tokens, two clips per device; ':half' has one.

Measured on one H100: 432 ms per step, MFU .444; ':half' 240 ms, .399 (docs/LOG.md, 2026-11-26).
"""

from ml_collections import ConfigDict

from experiments import bench
from videojax.errors import check_choice


def get_config(arg: str = "") -> ConfigDict:
  check_choice("variant", arg, ("", "half"))
  clips = 1.0 if arg == "half" else 2.0
  return bench.config(bench.SIZES["1.3B"], (5, 30, 52), clips_per_device=clips, remat="none")
