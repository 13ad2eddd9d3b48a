"""Case A: 1.3B, 480p, 81 frames: 32,760 tokens, one clip per device.

On 16 GiB chips: --config.mesh.seq=4 --config.clips_per_device=.25 --config.model.remat=full.
Measured on one H100: 1,918 ms per step, MFU .448 (docs/LOG.md, 2026-11-26).
"""

from ml_collections import ConfigDict

from experiments import bench


def get_config() -> ConfigDict:
  return bench.config(
    bench.SIZES["1.3B"], (21, 30, 52), clips_per_device=1.0, remat="attention_narrow"
  )
