"""Lumiere (Bar-Tal et al. 2024, arXiv:2401.12945): a U-Net that downsamples in time and space.

  python -m videojax.launch --config=experiments/papers/lumiere.py --workdir=runs/plan --mode=plan

Forms, as arguments: '' text to video, 80 frames of 128x128 at 16 fps in one pass; 'given', the same
with parts of the clip given (7 channels: image to video, inpainting, cinemagraphs); 'image', the
image model that '' inflates; 'ssr', to 1024x1024, 16 frames at a time, which
diffusion/multidiffusion.py joins into long clips.

The paper gives no table of sizes, and its image model, an Imagen-like model at 128x128, is not
public. We use the published table of Imagen's 64x64 U-Net (Saharia et al. 2022, arXiv:2205.11487:
512 channels times 1, 2, 3, 4, three blocks per level, attention at 32 and 16 pixels): 2,877,197,315
parameters, 3,611,510,787 with temporal layers. Imagen's own has 2 B. Of ours, 0.60 B are
feed-forward layers of the transformers, which Imagen's attention does not have; the rest of the
difference is due to blocks of ModelScope's U-Net instead of Imagen's. The ssr model, Imagen's 128
channels times 1, 2, 4, 8 with four blocks per level, has 545,857,923 (Imagen's super-resolution
models: 0.6 B and 0.4 B).

Objective and sampler are not in the paper. Ours: cosine schedule, v-prediction with the error
measured on the noise, as in Imagen Video (Ho et al. 2022, arXiv:2210.02303); 256 ancestral steps,
guidance scale 8.
Differences: clips and text are Gaussian noise, with 128 embeddings of T5-XXL's width; batch size
and learning rate are ours.
As in the paper, only the temporal layers are trained: with the EMA weights of a run of 'image',
  --config.init_from=RUN --config.init_fresh='.*temporal' --config.optim.freeze='(?!.*temporal)'
Verified: parameters, tests/test_experiments.py; not trained.

  python -m videojax.launch --config=experiments/papers/lumiere.py:cpu --workdir=runs/lumiere

Two CPU cores: a small model on the worlds of experiments/quickstart.py (8 frames of 16x16 pixels,
the first 2 given, so that motion can be measured; 2 frames of 4x4 at the coarsest level), with that
file's objective, without text, with all parameters trained from scratch. A small super-resolution
model: 4 frames of 32x32 pixels (cpu_ssr), applied to all 8 frames of the base model in windows of 4
with stride 2:

  python -m videojax.launch --config=experiments/papers/lumiere.py:cpu_ssr --workdir=runs/ssr
  python -m videojax.launch --config=experiments/papers/lumiere.py:cpu_ssr --workdir=runs/ssr \\
    --mode=cascade --after=runs/lumiere

Expect, for ':cpu': frozen loss .123 (affine denoiser .801), position error 1.20 px (repeated frame
1.754), 413 s on two cores: docs/unets.md. ':cpu_ssr': .089 (.792), seconds not measured.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.papers import on_worlds
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.lumiere import PUBLISHED, SIZES

# Form -> size, frames, height and width, changes to the model.
FORMS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
  "": ("base", 80, 128, dict()),
  "given": ("base", 80, 128, dict(known="zeros")),
  "image": ("base", 1, 128, dict(temporal=False)),
  "ssr": ("ssr", 16, 1024, dict(scalars=("low_noise",), volumes=dict(low=3))),
}


def get_config(arg: str = "") -> ConfigDict:
  """arg '' or another of FORMS; for two cores 'cpu', 'cpu_ssr'; 'smoke': two steps, for tests."""
  check_choice("variant", arg, (*FORMS, "cpu", "cpu_ssr", "smoke"))
  if arg == "cpu_ssr":
    return _ssr()
  return _paper(arg) if arg in FORMS else _small(arg == "smoke")


def _paper(form: str) -> ConfigDict:
  size, frames, side, changes = FORMS[form]
  c = ConfigDict()
  c.total_steps = 1_000_000
  c.batch_size = 64
  c.model = dict(name="lumiere", remat="full", **SIZES[size], **PUBLISHED, **changes)
  clip = dict(frames=frames, height=side, width=side, channels=PUBLISHED["channels"], fps=16.0)
  text = dict(text_length=128, text_width=PUBLISHED["text"])
  c.data = dict(clips=dict(name="random_latents", **clip, **text))
  c.denoiser = dict(process="cosine", prediction="v")
  c.objective = dict(times="uniform", space="noise")
  c.condition = {}
  if form == "given":
    c.condition = dict(known_frames=1, masks=("start", "repaint", "canvas"))
  if form == "ssr":
    c.controls = dict(low=(1, 8, 8))
  c.optim = dict(learning_rate=1e-4)
  c.guidance = dict(scale=8.0)
  c.sampler = dict(stepper="ddim", steps=256, eta=1.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(clips={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  least = dict(width=8, multipliers=(1,), attends=0, head_dim=8, groups=4)
  model = dict(name="lumiere", known="last", **SIZES["nano"])
  return on_worlds(model, 2000, least if smoke else None)


def _ssr() -> ConfigDict:
  takes = dict(scalars=("low_noise",), volumes=dict(low=3))
  c = on_worlds(dict(name="lumiere", **SIZES["nano"], **takes), 400, size=32, frames=4, known=2)
  c.batch_size = 4
  c.condition.known_frames = 0
  c.controls.low = (1, 2, 2)
  c.objective.mean = 0.0  # only fine detail is left to generate
  c.sampler.update(window=4, stride=2)
  return c
