"""Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127): image to video.

  python -m videojax.launch --config=experiments/papers/svd.py --workdir=runs/plan --mode=plan

The published image-to-video U-Net: 1,524,623,082 parameters, diffusers'
UNetSpatioTemporalConditionModel. 14 frames of 576x1024, latents of 72x128x4. Its conditions are the
first frame's CLIP embedding (one token of width 1024), that frame's noisy latents in every frame,
and scalars: frames per second, amount of motion and the level of that noise. EDM's preconditioning
with c_out = -sigma / sqrt(sigma^2 + 1), ln(sigma) ~ N(.7, 1.6); Euler, 25 steps on Karras's grid
from sigma 700 to .002, guidance scale rising from 1 in the first frame to 3 in the last. In our
terms this is v-prediction on the variance-preserving path at the same sigma / alpha, with EDM's
c_noise: tests/models/test_svd.py compares the two. 'edm' is its negative.
Differences: latents and embeddings are Gaussian noise, scalars are constant; the first frame's
latents are scaled to unit variance, the published ones are not (5.5 times as large; codec vae_svd
makes them so), and theirs get the noise as pixels; scalars are dropped together with the other
conditions; batch size and learning rate are ours.
Verified: parameters, tests/models/test_svd.py; not trained.

  python -m videojax.launch --config=experiments/papers/svd.py:cpu --workdir=runs/svd

Two CPU cores: a small U-Net of the same kind on the worlds of experiments/quickstart.py (8 frames
of 16x16 pixels, 8x8 latents of 12 channels, the first 2 given, so that motion can be measured),
with that file's objective; its only condition is frames per second.
Expect, for ':cpu': frozen loss .172 (affine denoiser .801), position error 1.24 px (repeated frame
1.754), 358 s on two cores: docs/unets.md.
"""

from ml_collections import ConfigDict

from experiments.papers import on_worlds
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.svd import PUBLISHED, SIZES


def get_config(arg: str = "") -> ConfigDict:
  """arg '': the published size; 'cpu': for two cores; 'smoke': two steps, for tests."""
  check_choice("variant", arg, ("", "cpu", "smoke"))
  return _small(arg == "smoke") if arg else _paper()


def _paper() -> ConfigDict:
  c = ConfigDict()
  c.total_steps = 100_000
  c.batch_size = 64
  c.model = dict(name="svd", remat="full", **SIZES["1.5B"], **PUBLISHED)
  latent = dict(frames=14, height=72, width=128, channels=PUBLISHED["channels"], fps=7.0)
  given = dict(image_length=1, image_width=PUBLISHED["image"], scalars=dict(motion=127.0))
  c.data = dict(latents=dict(name="random_latents", **latent, **given))
  c.denoiser = dict(process="cosine", prediction="v", time_unit="edm")
  c.objective = dict(times="log_normal", mean=0.7, std=1.6, space="v")
  c.condition = {}
  c.optim = dict(learning_rate=3e-5)
  c.guidance = dict(scale=1.0, last=3.0)
  c.sampler = dict(steps=25, grid="karras", sigma_min=0.002, sigma_max=700.0, start="unit")
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(latents={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  least = dict(width=8, multipliers=(1,), head_dim=8, groups=4)
  model = dict(name="svd", known="last", scalars=("fps",), **SIZES["nano"])
  c = on_worlds(model, 1140, least if smoke else None, side=2)
  c.denoiser.time_unit = "edm"
  return c
