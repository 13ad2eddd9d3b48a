"""A DiT with Wan 2.1's block, to time the training step at published sizes, on any devices.

python -m videojax.launch --mode=bench --config=experiments/bench/wan_1p3b_32k.py --workdir=DIR
python -m videojax.launch --mode=plan --topology=v5p:4x4x4 --config=... --workdir=DIR

The block: joint attention with RMS-normalised queries and keys and 3-D RoPE, cross-attention to 512
text tokens of the model's width, GELU mlp, adaLN; random latents of 16 channels, patch 1x2x2, bf16,
fp32 master weights and AdamW, no EMA (--config.ema='(0.1,)' adds one). On GPUs the blocks are
unrolled, because a loop copies the activations it keeps. Unlike in Wan, the text has the model's
width and umT5's projection is missing. Source of the sizes: Wan team 2025, arXiv:2503.20314, table
1.
"""

from ml_collections import ConfigDict

from videojax.config import complete
from videojax.models.attention import platform

SIZES = {
  "1.3B": dict(width=1536, depth=30, num_heads=12, mlp_ratio=8960 / 1536),
  "14B": dict(width=5120, depth=40, num_heads=40, mlp_ratio=13824 / 5120),
}


def config(
  size: dict, grid: tuple[int, int, int], *, clips_per_device: float, remat: str, text: int = 512
) -> ConfigDict:
  """The config for a model size and a token grid (frames, rows, columns)."""
  c = ConfigDict()
  c.total_steps = 1000
  c.batch_size = 1
  c.clips_per_device = clips_per_device
  gpu = platform() == "gpu"
  c.xla_flags = ("gpu_cublas",) if gpu else ()
  common = dict(name="dit", patch=(1, 2, 2), channels=16, modulation="shared")
  c.model = dict(text=size["width"], remat=remat, scan=not gpu, **common, **size)
  latent = dict(frames=grid[0], height=2 * grid[1], width=2 * grid[2], channels=16)
  words = dict(text_length=text, text_width=size["width"])
  c.data = dict(latents=dict(name="random_latents", fps=4.0, **latent, **words))
  c.denoiser = dict(prediction="velocity")
  c.objective = {}
  c.condition = {}
  c.optim = dict(learning_rate=1e-4)
  c.ema = ()
  c.mesh = dict(data=1, fsdp=-1)
  c.checkpoint = dict(save_every_steps=1000)
  c.evaluate = dict(splits=dict(latents={}), coherence_clips=0, batch_size=1)
  return complete(c)
