"""Make-A-Video (Singer et al. 2022, arXiv:2209.14792): an image cascade with temporal layers.

  python -m videojax.launch --config=experiments/papers/make_a_video.py --workdir=runs/plan \\
    --mode=plan

Stages, as arguments: '' the decoder, 16 frames of 64x64; 'interpolation', 16 -> 76 frames, every
fifth given with a mask; 'sr_l', to 256x256; 'sr_h', to 768x768 within each frame.

The sizes are DALL-E 2's (Ramesh et al. 2022, Table 3), because the paper's are not known to us.
Parameters: decoder 2,781,912,097 (2,136,846,851 without temporal layers), interpolation
2,781,930,529, sr_l 843,948,193 (681,691,523 without temporal layers), sr_h 253,804,995: 6.66 B
together. Later papers list about 9.7 B for Make-A-Video. Missing here are the prior and the
decoder's text transformer; they are part of DALL-E 2's 1 B and 3.5 B, and its two upsamplers have
0.7 B and 0.3 B. The rest is unknown.
Differences: the decoder attends to one Gaussian embedding, in the paper to CLIP's embedding of an
image; clips are Gaussian noise; batch size and learning rate are ours. The paper draws the same
noise for all frames in sr_h; here each frame has its own. Frame skips do not vary.
Verified: parameters, tests/test_experiments.py; not trained.

  python -m videojax.launch --config=experiments/papers/make_a_video.py:cpu \\
    --workdir=runs/make_a_video

Two CPU cores: a small decoder on the worlds of experiments/quickstart.py (8 frames of 16x16 pixels,
the first 2 given, so that motion can be measured), with that file's objective, without text.

A small cascade: 4 frames of 8x8 pixels at 3.5 fps, the first 2 given (cpu_decoder); 7 frames at
7 fps, every second one given (cpu_interpolation); 16x16 pixels (cpu_sr):

  for stage in decoder interpolation sr; do python -m videojax.launch \\
    --config=experiments/papers/make_a_video.py:cpu_$stage --workdir=runs/mav_$stage; done
  python -m videojax.launch --config=experiments/papers/make_a_video.py:cpu_sr \\
    --workdir=runs/mav_sr --mode=cascade --after=runs/mav_decoder,runs/mav_interpolation

Expect, for ':cpu': frozen loss .197 (affine denoiser .801), position error 1.70 px (repeated frame
1.754), 421 s on two cores: docs/unets.md. The cascade's stages: .129, .021 and .091; the whole
cascade: 1.18 px, seconds not measured.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.papers import on_worlds
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.make_a_video import PUBLISHED, SIZES

CLIP = 768  # width of ViT-L/14's embedding
LOW = dict(scalars=("fps", "low_noise"), volumes=dict(low=3))
FRAME = dict(temporal=False, scalars=("low_noise",), volumes=dict(low=3))
# Stage -> size, frames, height and width, inputs of the model.
STAGES: dict[str, tuple[str, int, int, dict[str, Any]]] = {
  "": ("decoder", 16, 64, dict(scalars=("fps",), text=CLIP)),
  "interpolation": ("decoder", 76, 64, dict(scalars=("fps",), text=CLIP, known="zeros")),
  "sr_l": ("sr_l", 16, 256, LOW),
  "sr_h": ("sr_h", 16, 768, FRAME),
}

# Stage of the small cascade -> world, steps.
CASCADE: dict[str, tuple[dict[str, Any], int]] = {
  "cpu_decoder": (dict(size=8, frames=4, known=2, fps=3.5), 3000),
  "cpu_interpolation": (dict(size=8, frames=7, known=3, fps=7.0), 1200),
  "cpu_sr": (dict(size=16, frames=7, known=3, fps=7.0), 600),
}


def get_config(arg: str = "") -> ConfigDict:
  """arg '': the decoder; another stage; for two cores 'cpu' or one of CASCADE; 'smoke': 2 steps."""
  check_choice("variant", arg, (*STAGES, *CASCADE, "cpu", "smoke"))
  if arg in CASCADE:
    return _stage(arg)
  return _paper(arg) if arg in STAGES else _small(arg == "smoke")


def _paper(stage: str) -> ConfigDict:
  size, frames, side, takes = STAGES[stage]
  c = ConfigDict()
  c.total_steps = 1_000_000
  c.batch_size = 64
  c.model = dict(name="make_a_video", remat="full", **SIZES[size], **PUBLISHED, **takes)
  text = dict(text_length=1, text_width=CLIP)
  clip = dict(frames=frames, height=side, width=side, channels=PUBLISHED["channels"], fps=4.0)
  c.data = dict(clips=dict(name="random_latents", **clip, **text))
  c.denoiser = dict(process="cosine", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = {}
  if stage == "interpolation":
    c.condition = dict(known_frames=1, masks=("sparse",))
    c.controls = dict(every=5)
  elif stage:
    c.controls = dict(low=(1, 4, 4) if stage == "sr_l" else (1, 3, 3))
  c.optim = dict(learning_rate=1e-4)
  c.sampler = dict(stepper="ddim", steps=50, eta=0.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(clips={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  least = dict(width=8, multipliers=(1,), attends=(0,), head_dim=8, groups=4)
  model = dict(name="make_a_video", known="last", scalars=("fps",), **SIZES["nano"])
  return on_worlds(model, 1080, least if smoke else None)


def _stage(stage: str) -> ConfigDict:
  world, steps = CASCADE[stage]
  model = {"name": "make_a_video", **SIZES["nano"], "multipliers": (1, 2), "attends": (1,)}
  fill = "last" if stage == "cpu_decoder" else "zeros"
  takes = LOW if stage == "cpu_sr" else dict(known=fill, scalars=("fps",))
  c = on_worlds({**model, **takes}, steps, **world)
  c.condition.known_frames = 0 if stage == "cpu_sr" else world["known"]
  if stage == "cpu_interpolation":
    c.condition.masks = ("sparse",)
    c.controls.every = 2
  if stage == "cpu_sr":
    c.controls.low = (1, 2, 2)
    c.objective.mean = 0.0  # only fine detail is left to generate
  return c
