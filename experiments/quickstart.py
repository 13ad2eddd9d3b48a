"""A video DiT that learns moving discs on two CPU cores, in minutes.

python -m videojax.launch --config=experiments/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict

from videojax.config import complete


def get_config(arg: str = "") -> ConfigDict:
  """arg 'smoke': two steps of a tiny model, for tests."""
  smoke = arg == "smoke"
  c = ConfigDict()
  c.total_steps = 2 if smoke else 1500
  c.batch_size = 2 if smoke else 8
  c.seed = 0
  c.model = dict(
    name="dit", width=32 if smoke else 128, depth=2 if smoke else 4, num_heads=2,
    patch=(8, 2, 2), channels=3, known="last", dtype="float32",
  )  # fmt: skip
  c.data = dict(
    worlds=dict(name="worlds", size=16, frames=8, known=2, fps=7.0, scenes=("one", "two"))
  )  # fmt: skip
  c.condition = dict(known_frames=2)
  c.denoiser = dict(prediction="edm", sigma_data=0.3)
  c.objective = dict(space="v", times="logit_normal")
  c.optim = dict(learning_rate=2.5e-3, schedule="wsd", warmup_steps=50, decay_fraction=1.0)
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 30)
  c.checkpoint = dict(save_every_steps=500)
  c.evaluate = dict(
    splits=dict(id=dict(split="id"), ood=dict(split="fast")),
    clips=4 if smoke else 64, coherence_clips=4 if smoke else 64,
    reference_clips=8 if smoke else 1024, batch_size=4 if smoke else 32,
  )  # fmt: skip
  return complete(c)
