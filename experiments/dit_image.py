"""The image DiT of Peebles & Xie 2023 (arXiv:2212.09748), for comparison with its Table 4.

  python -m videojax.launch --config=experiments/dit_image.py:XL/2 --workdir=runs/plan --mode=plan

The paper's: sizes S, B, L, XL and patches 2, 4, 8; 32x32x4 latents of 256x256 images; sine
positions, qkv bias, no qk-norm, adaLN-zero, a class table of 1001, learned variance (its channels
are computed, and dropped); AdamW 1e-4 without decay, batch 256, 400K steps; DDPM noise prediction.
Different: latents need an autoencoder that is not in the repository, so that Gaussian numbers of
their shape stand in for them; our VP schedule is continuous. Run: parameters and FLOPs
(--mode=plan), tests/models/test_dit.py; no training.
"""

from ml_collections import ConfigDict

from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.dit import DIT_IMAGE, SIZES


def get_config(arg: str = "S/2") -> ConfigDict:
  """arg: SIZE/PATCH, e.g. 'XL/2'; 'smoke': a tiny one, two steps, for tests."""
  smoke = arg == "smoke"
  variants = [f"{size}/{patch}" for size in SIZES for patch in (2, 4, 8)]
  check_choice("variant", arg, ("smoke", *variants))
  size, patch = ("nano", 8) if smoke else (arg.split("/")[0], int(arg.split("/")[1]))
  c = ConfigDict()
  c.total_steps = 2 if smoke else 400_000
  c.batch_size = 8 if smoke else 256
  c.model = dict(name="dit", patch=(1, patch, patch), **SIZES[size], **DIT_IMAGE)
  latent = dict(frames=1, height=32, width=32, channels=4, classes=1000)
  c.data = dict(latents=dict(name="random_latents", **latent))
  c.denoiser = dict(process="linear", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = dict(known_frames=0)
  c.optim = dict(learning_rate=1e-4, clip=0.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(
    splits=dict(latents={}),
    coherence_clips=0,
    clips=8 if smoke else 256,
    reference_clips=16 if smoke else 1024,
    batch_size=8,
  )
  return complete(c)
