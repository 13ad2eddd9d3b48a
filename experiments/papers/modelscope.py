"""ModelScopeT2V (Wang et al. 2023, arXiv:2308.06571): an image U-Net with temporal layers.

  python -m videojax.launch --config=experiments/papers/modelscope.py --workdir=runs/plan \\
    --mode=plan

The published U-Net: 1,411,233,860 parameters, diffusers' UNet3DConditionModel. 16 frames of
256x256, latents of 32x32x4; 77 text embeddings of width 1024 (OpenCLIP ViT-H/14); noise
prediction with latent diffusion's schedule; DDIM with 50 steps, eta 0, guidance scale 9. Trained on
images and videos together.
Differences: latents and text are Gaussian noise; a dropped text is zeros, in the paper an empty
prompt; batch size, learning rate and the share of images, one step in eight, are ours.
Verified: parameters, tests/test_experiments.py; not trained.

  python -m videojax.launch --config=experiments/papers/modelscope.py:cpu --workdir=runs/modelscope

Two CPU cores: a small U-Net of the same kind on the worlds of experiments/quickstart.py (8 frames
of 16x16 pixels, 8x8 latents of 12 channels, the first 2 given, so that motion can be measured),
with that file's objective. The worlds' captions are bytes and this model takes embeddings, so it
trains without text.
Expect, for ':cpu': frozen loss .187 (affine denoiser .801), position error 1.42 px (repeated frame
1.754), 398 s on two cores: docs/unets.md.
"""

from ml_collections import ConfigDict

from experiments.papers import on_worlds
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.modelscope import PUBLISHED, SIZES


def get_config(arg: str = "") -> ConfigDict:
  """arg '': the published size; 'cpu': for two cores; 'smoke': two steps, for tests."""
  check_choice("variant", arg, ("", "cpu", "smoke"))
  return _small(arg == "smoke") if arg else _paper()


def _paper() -> ConfigDict:
  c = ConfigDict()
  c.total_steps = 1_000_000
  c.batch_size = 64
  c.model = dict(name="modelscope", remat="full", **SIZES["1.4B"], **PUBLISHED)
  text = dict(text_length=77, text_width=PUBLISHED["text"])
  latent = dict(frames=16, height=32, width=32, channels=PUBLISHED["channels"], fps=8.0)
  images = {**latent, "frames": 1}
  c.data = dict(
    latents=dict(name="random_latents", weight=7, **latent, **text),
    images=dict(name="random_latents", weight=1, **images, **text),
  )
  c.denoiser = dict(process="scaled_linear", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = {}
  c.optim = dict(learning_rate=5e-5)
  c.guidance = dict(scale=9.0)
  c.sampler = dict(stepper="ddim", steps=50, eta=0.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(source="latents", splits=dict(latents={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  least = dict(width=8, multipliers=(1,), head_dim=8, in_heads=1, groups=4)
  model = dict(name="modelscope", known="last", **SIZES["nano"])
  return on_worlds(model, 1070, least if smoke else None, side=2)
