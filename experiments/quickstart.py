"""A video DiT that learns moving discs on two CPU cores, in minutes.

  python -m videojax.launch --config=experiments/quickstart.py --workdir=runs/quickstart

One or two discs of six colours in a box, 8 frames of 16x16 at 7 frames per second; the model is
given two frames and continues them. A patch is 2x2 pixels in all frames: 64 tokens per clip. The
model predicts the clean clip; the loss is on the velocity, with noise levels drawn towards high
noise, where motion is decided.
Expect, on two cores: frozen loss .098 (affine denoiser .801), position error .65 px (.37 of that of
the repeated frame), 152 s of training: README, three seeds; docs/LOG.md, 2026-11-22.
"""

from ml_collections import ConfigDict

from videojax.config import complete
from videojax.errors import check_choice


def get_config(arg: str = "") -> ConfigDict:
  """arg 'smoke': two steps of a tiny model, for tests."""
  check_choice("variant", arg, ("", "smoke"))
  smoke = arg == "smoke"
  c = ConfigDict()
  c.total_steps = 2 if smoke else 5000
  c.batch_size = 2 if smoke else 8
  c.model = dict(
    name="dit",
    width=32 if smoke else 128,
    depth=2 if smoke else 4,
    num_heads=2,
    patch=(8, 2, 2),
    channels=3,
    known="last",
    rope_theta=100.0,  # the grid is 8 wide: slower rotations would carry no information
    dtype="float32",
  )
  c.data = dict(
    worlds=dict(name="worlds", size=16, frames=8, known=2, fps=7.0, scenes=("one", "two"))
  )
  c.condition = {}
  c.denoiser = dict(prediction="data", sigma_data=0.3)
  c.objective = dict(space="velocity", times="logit_normal", mean=0.8, std=1.2)
  c.optim = dict(learning_rate=3.5e-3, schedule="wsd", warmup_steps=50, decay_fraction=1.0)
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 30)
  c.checkpoint = dict(save_every_steps=600)
  c.evaluate = dict(
    splits=dict(id=dict(split="id"), ood=dict(split="fast")),
    main="id",
    clips=4 if smoke else 64,
    coherence_clips=4 if smoke else 64,
    reference_clips=8 if smoke else 1024,
    batch_size=4 if smoke else 32,
  )
  return complete(c)
