"""Latte (Ma et al. 2024, arXiv:2401.03048): a DiT whose blocks alternate between space and time.

  python -m videojax.launch --config=experiments/papers/latte.py:XL/2 --workdir=runs/plan \\
    --mode=plan

As in the paper: sizes S, B, L, XL (DiT's) and patches 2, 4, 8; 16 frames of 256x256, 32x32x4
latents each; variant 1, which alternates blocks within frames and blocks along time; sine
positions, qkv bias, no qk-norm, adaLN-zero, learned variance (its channels are computed and
dropped); unconditional, or with the 101 classes of UCF-101 (':XL/2,ucf101'); AdamW 1e-4 without
decay, 8 x 5 clips, DDPM noise prediction, at most 1M steps (the limit in its configuration).
Differences: as in experiments/papers/dit.py, latents are Gaussian noise and our VP schedule is
continuous; temporal sine positions are added before the first block, in Latte after it; adaLN runs
once per clip, while Latte's code repeats it for every frame and position: 3,725.7 GFLOP per clip,
not 3,785.9. Gradients are clipped from the start, in Latte from step 100K.
Verified: parameters (673.68M, the published number) and FLOPs, tests/test_experiments.py; not
trained.

  python -m videojax.launch --config=experiments/papers/latte.py:cpu --workdir=runs/latte

Two CPU cores, minutes: the same architecture at width 64 and depth 4, on the worlds of
experiments/quickstart.py (8 frames of 16x16 pixels, the first 2 given, so that motion can be
measured), with that file's objective.
Expect: frozen loss .190, velocity error 1.72 world units/s (repeated frame 2.34), permanence .58;
seconds are not measured: docs/LOG.md, 2026-11-24, PhyWorld.
"""

from ml_collections import ConfigDict

from experiments import quickstart
from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.dit import DIT_IMAGE, SIZES

PUBLISHED = [f"{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (2, 4, 8)]
LATTE = {**DIT_IMAGE, "classes": None, "attention": "alternating"}


def get_config(arg: str = "S/2") -> ConfigDict:
  """arg: SIZE/PATCH or SIZE/PATCH,ucf101; 'cpu': for two cores; 'smoke': two steps, for tests."""
  variants = ("cpu", "smoke", *PUBLISHED, *(f"{name},ucf101" for name in PUBLISHED))
  check_choice("variant", arg, variants)
  return _small(arg == "smoke") if arg in ("cpu", "smoke") else _paper(*arg.split(","))


def _paper(name: str, data: str | None = None) -> ConfigDict:
  size, patch = name.split("/")
  classes = 101 if data == "ucf101" else None
  c = ConfigDict()
  c.total_steps = 1_000_000
  c.batch_size = 40
  settings = {**SIZES[size], **LATTE, "classes": classes}
  c.model = dict(name="dit", patch=(1, int(patch), int(patch)), **settings)
  latent = dict(frames=16, height=32, width=32, channels=4, classes=classes, fps=8.0)
  c.data = dict(latents=dict(name="random_latents", **latent))
  c.denoiser = dict(process="linear", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = {}
  c.optim = dict(learning_rate=1e-4, clip=0.1)
  c.sampler = dict(stepper="ddim", steps=250, eta=1.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(latents={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  """On the quickstart's world, with its objective and measures."""
  c = quickstart.get_config("smoke" if smoke else "")
  c.total_steps = 2 if smoke else 3000
  c.batch_size = 2 if smoke else 4
  like_paper = {**LATTE, "channels": 3, "known": "last"}
  sizes = dict(width=32 if smoke else 64, depth=2 if smoke else 4, num_heads=2)
  c.model = dict(name="dit", patch=(1, 2, 2), dtype="float32", **sizes, **like_paper)
  c.optim.learning_rate = 2.5e-3
  return complete(c)
