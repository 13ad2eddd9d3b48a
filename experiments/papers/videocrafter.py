"""VideoCrafter 1 and 2 (Chen et al. 2023, arXiv:2310.19512; 2024, arXiv:2401.09047): latent U-Nets.

  python -m videojax.launch --config=experiments/papers/videocrafter.py --workdir=runs/plan \\
    --mode=plan

Forms, as arguments, named after the configs of github.com/AILab-CVC/VideoCrafter:

  form               parameters     pixels    convolutions   distances   fps  scale  image
                                              in time        in time                 tokens
  '' or '512-v2'  1,413,284,420   320x512     yes            no          yes   .7     no
  '1024-v1'       1,146,536,516   576x1024    no             16          yes   .3     no
  '512-v1'        1,144,485,956   320x512     no             16          no    no     no
  'i2v-512'       1,438,843,460   320x512     yes            no          yes   .7     16

16 frames, latents with an eighth of each side and 4 channels; 77 text embeddings of width 1024
(OpenCLIP ViT-H/14) and, for an image, a resampler's tokens from its CLIP tokens. Noise prediction
with latent diffusion's schedule; `scale` is the factor to which the data shrinks towards full
noise. DDIM with 50 steps, eta 1, guidance scale 12 with the frame rate kept in the unconditional
branch: 28 from text, 8 from an image. A fifth of the texts is dropped in training.
Differences: latents and tokens are Gaussian noise; a dropped text is zeros, in the paper an empty
prompt, and a dropped image a black one; the frame rate is dropped together with the text. Steps,
batch size and learning rate are ours.
Verified: parameters and outputs, tests/models/test_videocrafter.py; not trained.

  python -m videojax.launch --config=experiments/papers/videocrafter.py:cpu --workdir=runs/crafter

Two CPU cores: a small U-Net of the same kind on the worlds of experiments/quickstart.py (8 frames
of 16x16 pixels, 8x8 latents of 12 channels, the first 2 given, so that motion can be measured),
with that file's objective, conditioned on frames per second. The worlds' captions are bytes and
this model takes embeddings, so it trains without text.
Expect, for ':cpu': frozen loss .160 (affine denoiser .801), position error 1.25 px (repeated frame
1.754), 428 s on two cores: docs/unets.md.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.papers import on_worlds
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.videocrafter import PUBLISHED, SIZES

# Form -> latent height and width, frame rate, factor to which the data shrinks.
FORMS: dict[str, tuple[int, int, float, float]] = {
  "512-v2": (40, 64, 28.0, 0.7),
  "1024-v1": (72, 128, 28.0, 0.3),
  "512-v1": (40, 64, 28.0, 1.0),
  "i2v-512": (40, 64, 8.0, 0.7),
}


def get_config(arg: str = "") -> ConfigDict:
  """arg '' or another of FORMS; 'cpu': for two cores; 'smoke': two steps, for tests."""
  check_choice("variant", arg, ("", *FORMS, "cpu", "smoke"))
  return _small(arg == "smoke") if arg in ("cpu", "smoke") else _paper(arg or "512-v2")


def _paper(form: str) -> ConfigDict:
  height, width, fps, data_scale = FORMS[form]
  c = ConfigDict()
  c.total_steps = 100_000
  c.batch_size = 128
  c.model = dict(name="videocrafter", remat="full", **SIZES[form], **PUBLISHED)
  latent = dict(frames=16, height=height, width=width, channels=PUBLISHED["channels"], fps=fps)
  tokens: dict[str, Any] = dict(text_length=77, text_width=PUBLISHED["text"])
  if form == "i2v-512":
    tokens |= dict(image_length=SIZES[form]["image_tokens"], image_width=PUBLISHED["text"])
  c.data = dict(latents=dict(name="random_latents", **latent, **tokens))
  scale = dict(data_scale=data_scale)
  c.denoiser = dict(
    process="scaled_linear", process_settings=scale, prediction="noise", input="raw"
  )
  c.objective = dict(times="uniform", space="noise")
  c.condition = dict(drop=0.2)
  c.optim = dict(learning_rate=5e-5)
  c.guidance = dict(scale=12.0, drop=("text", "image"))
  c.sampler = dict(stepper="ddim", steps=50, eta=1.0, grid="leading", start="unit", end="process")
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(latents={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  least = dict(width=8, multipliers=(1,), head_dim=8, groups=4)
  model = dict(name="videocrafter", known="last", scalars=("fps",), **SIZES["nano"])
  return on_worlds(model, 1070, least if smoke else None, side=2)
