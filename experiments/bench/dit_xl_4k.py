"""Case C: DiT-XL's size on 16 latent frames of 32x32: 4,096 tokens, 128 text tokens.

Head dim 72 as published; ':head64' and ':head128' split the same width into 18 and 9 heads.
Measured on one H100: 476 ms per step, MFU .332; ':head64' 414 ms, .382; ':head128' 385 ms, .410
(docs/LOG.md, 2026-11-26).
"""

from ml_collections import ConfigDict

from experiments import bench
from videojax.errors import check_choice

HEADS = {"": 16, "head64": 18, "head128": 9}


def get_config(arg: str = "") -> ConfigDict:
  check_choice("variant", arg, HEADS)
  size = dict(width=1152, depth=28, num_heads=HEADS[arg], mlp_ratio=4.0)
  return bench.config(size, (16, 16, 16), clips_per_device=8.0, remat="none", text=128)
