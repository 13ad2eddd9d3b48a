"""14B, 720p, 81 frames: 75,600 tokens; a quarter of a clip per device, as published for TPUs.

MaxDiffusion's README: 36.0 s per step on 4 v5p chips, global batch 1, sequence over 4 chips, full
remat. Here it is compiled for pods, not measured: docs/pods.md.
"""

from ml_collections import ConfigDict

from experiments import bench


def get_config() -> ConfigDict:
  c = bench.config(bench.SIZES["14B"], (21, 45, 80), clips_per_device=0.25, remat="full")
  c.mesh.fsdp, c.mesh.seq = -1, 4
  return c
