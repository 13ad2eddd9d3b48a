"""The image DiT of Peebles & Xie 2023 (arXiv:2212.09748), for comparison with its Table 4.

  python -m videojax.launch --config=experiments/papers/dit.py:XL/2 --workdir=runs/plan --mode=plan

As in the paper: sizes S, B, L, XL and patches 2, 4, 8; 32x32x4 latents of 256x256 images; sine
positions, qkv bias, no qk-norm, adaLN-zero, a class table of 1001, learned variance (its channels
are computed and dropped); AdamW 1e-4 without decay, batch 256, 400K steps; DDPM noise prediction.
Differences: latents need an autoencoder that is not in the repository, so Gaussian noise of their
shape replaces them; our VP schedule is continuous. Verified: parameters and FLOPs (--mode=plan),
tests/models/test_dit.py; not trained.

  python -m videojax.launch --config=experiments/papers/dit.py:cpu --workdir=runs/dit

Two CPU cores, minutes: the same architecture and objective, width 128 and depth 4, on 16x16 pixels
instead of latents, without classes: single frames of worlds with one or two discs, evaluated on
those of another seed. Learning rate and its schedule are ours. 3,000 steps of 16 images teach more
than the statistics of each pixel; samples are patches of the right colours, not yet discs.
Expect: frozen loss .617 +- .015 (affine denoiser .799); images have no motion error; seconds are
not measured: docs/LOG.md, 2026-11-24, PhyWorld.
"""

from ml_collections import ConfigDict

from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.dit import DIT_IMAGE, SIZES

PUBLISHED = [f"{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (2, 4, 8)]


def get_config(arg: str = "S/2") -> ConfigDict:
  """arg: SIZE/PATCH, e.g. 'XL/2'; 'cpu': for two cores; 'smoke': two steps, for tests."""
  check_choice("variant", arg, ("cpu", "smoke", *PUBLISHED))
  return _small(arg == "smoke") if arg in ("cpu", "smoke") else _paper(*arg.split("/"))


def _paper(size: str, patch: str) -> ConfigDict:
  c = ConfigDict()
  c.total_steps = 400_000
  c.batch_size = 256
  c.model = dict(name="dit", patch=(1, int(patch), int(patch)), **SIZES[size], **DIT_IMAGE)
  latent = dict(frames=1, height=32, width=32, channels=4, classes=1000)
  c.data = dict(latents=dict(name="random_latents", **latent))
  c.denoiser = dict(process="linear", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = {}
  c.optim = dict(learning_rate=1e-4, clip=0.0)
  c.checkpoint = dict(save_every_steps=10_000)
  c.evaluate = dict(splits=dict(latents={}), coherence_clips=0, batch_size=8)
  return complete(c)


def _small(smoke: bool) -> ConfigDict:
  c = ConfigDict()
  c.total_steps = 2 if smoke else 3000
  c.batch_size = 8 if smoke else 16
  size = SIZES["nano" if smoke else "micro"]
  like_paper = {**DIT_IMAGE, "channels": 3, "classes": None}
  c.model = dict(name="dit", patch=(1, 2, 2), dtype="float32", **size, **like_paper)
  world = dict(name="worlds", size=16, frames=1, known=0, scenes=("one", "two"))
  c.data = dict(images=world)
  c.denoiser = dict(process="linear", prediction="noise")
  c.objective = dict(times="uniform", space="noise")
  c.condition = {}
  c.optim = dict(learning_rate=3e-3, schedule="wsd", warmup_steps=50, decay_fraction=1.0)
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 50)
  c.checkpoint = dict(save_every_steps=1000)
  c.evaluate = dict(
    splits=dict(unseen=dict(seed=1)),
    coherence_clips=0,
    clips=8 if smoke else 256,
    reference_clips=16 if smoke else 1024,
    batch_size=8 if smoke else 64,
  )
  return complete(c)
