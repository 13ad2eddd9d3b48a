"""Align your Latents (Blattmann et al. 2023, arXiv:2304.08818): Stable Diffusion made temporal.

  python -m videojax.launch --config=experiments/papers/video_ldm.py --workdir=runs/plan --mode=plan

Stages, as arguments: '' text to 8 key frames of 40x64x4 latents (320x512 pixels); 'prediction',
with the first two of them given, or one, or none, each in a third of the clips; 'interpolation',
three frames between two, run twice (8 -> 29 -> 113 frames); 'upsampler', x4, on patches: latents of
4x4 pixels each, concatenated with the low-resolution pixels, as in Stable Diffusion's x4 upscaler.
Each stage trains only the temporal layers: `optim.freeze = "(?!.*temporal)"` (video_ldm.FREEZE)
matches exactly the image model, which `init_from` would load.

Parameters: key frames 1,298,032,362, of which 865,910,724 are Stable Diffusion 2.1's U-Net and
432,121,638 are trained; prediction and interpolation 1,307,284,202 each, 441,373,478 trained;
upsampler 740,488,746, 272,043,814 trained. If key frames and interpolation share one image model,
the total is 2.48 B, 1.15 B of them trained. The paper reports 4.1 B without the text encoder, 2.7 B
trained: its frozen 1.4 B are about this file's two image models (1.33 B) and an autoencoder; its
temporal layers are larger, we do not know how (ours have 3x1x1 kernels).
Differences: latents, text and the low resolution are Gaussian noise; batch size and learning rate
are ours. The autoencoder's decoder is not trained on video.
Verified: parameters, tests/test_experiments.py; not trained.

  python -m videojax.launch --config=experiments/papers/video_ldm.py:cpu --workdir=runs/video_ldm

Two CPU cores: a small U-Net on the worlds of experiments/quickstart.py (8 frames of 16x16 pixels,
8x8 latents of 12 channels, the first 2 given, so that motion can be measured), with that file's
objective, without text. There is no image model to start from, so all parameters are trained.
Expect, for ':cpu': frozen loss .191 (affine denoiser .801), position error 1.70 px (repeated frame
1.754), 379 s on two cores: docs/unets.md.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.papers import on_worlds
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.video_ldm import FREEZE, PUBLISHED, SIZES

LOW = dict(scalars=("low_noise",), volumes=dict(low=3))
# Stage -> size, (frames, height, width), inputs of the model, given frames.
STAGES: dict[str, tuple[str, tuple[int, int, int], dict[str, Any], dict[str, Any]]] = {
  "": ("sd21", (8, 40, 64), {}, dict(known_frames=0)),
  "prediction": (
    "sd21", (8, 40, 64), dict(known="zeros"),
    dict(known_frames=2, masks=("start", "one", "none")),
  ),
  "interpolation": (
    "sd21", (5, 40, 64), dict(known="zeros"), dict(known_frames=1, masks=("sparse",))
  ),
  "upsampler": ("x4", (8, 64, 64), LOW, dict(known_frames=0)),
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
  """arg '': key frames; another stage; 'cpu': for two cores; 'smoke': two steps, for tests."""
  check_choice("variant", arg, (*STAGES, "cpu", "smoke"))
  return _paper(arg) if arg in STAGES else _small(arg == "smoke")


def _paper(stage: str) -> ConfigDict:
  size, (frames, height, width), takes, given = STAGES[stage]
  c = ConfigDict()
  c.total_steps = 1_000_000
  c.batch_size = 64
  c.model = dict(name="video_ldm", remat="full", **SIZES[size], **PUBLISHED, **takes)
  text = dict(text_length=77, text_width=PUBLISHED["text"])
  latent = dict(frames=frames, height=height, width=width, channels=PUBLISHED["channels"])
  source = dict(name="random_latents", **latent, **text, fps=1.875)
  if stage == "upsampler":
    source |= dict(volumes=LOW["volumes"], scalars=dict(low_noise=0.1))
  c.data = dict(latents=source)
  c.denoiser = dict(process="scaled_linear", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = given
  c.controls = dict(every=4)
  c.optim = dict(learning_rate=1e-4, freeze=FREEZE)
  c.sampler = dict(stepper="ddim", steps=50, eta=0.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(latents={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  least = dict(width=8, multipliers=(1,), attends=(0,), head_dim=8, groups=4)
  model = dict(name="video_ldm", known="last", **SIZES["nano"])
  return on_worlds(model, 1175, least if smoke else None, side=2)
