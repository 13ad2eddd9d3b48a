"""Wan 2.1's 1.3B on clips, with its autoencoder: 81 frames of 480x832, ':720p' of 720x1280.

  python -m videojax.launch --mode=plan --topology=v5e:1x1 --step=decode \\
    --config=experiments/bench/wan_1p3b_video.py:480p --workdir=DIR

Says what decoding a clip needs and how long it takes. Clips are decoded a latent frame at a time,
in bf16; their weights are random. Compiled numbers: docs/latents.md.
"""

from ml_collections import ConfigDict

from experiments import bench
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models import vae_wan

FRAMES, FPS = 81, 16.0
HEIGHTS = {"480p": (480, 832), "720p": (720, 1280)}


def get_config(arg: str = "480p") -> ConfigDict:
  check_choice("size", arg, HEIGHTS)
  height, width = HEIGHTS[arg]
  grid = (1 + FRAMES // 4, height // 16, width // 16)
  c = bench.config(bench.SIZES["1.3B"], grid, clips_per_device=1.0, remat="attention_dots")
  clip = dict(frames=FRAMES, height=height, width=width, channels=3, fps=FPS)
  c.data = dict(latents={**c.data.latents.to_dict(), **clip})
  c.codec = dict(name="vae_wan", frames=1, dtype="bfloat16", **vae_wan.SIZES["2.1"])
  return complete(c)
