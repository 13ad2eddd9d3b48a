"""A video DiT in the latents of experiments/codec.py, of the same compression.

  python -m videojax.launch --config=experiments/latent_worlds.py:4x8 --workdir=runs/latent \\
    --config.codec.weights=runs/codec

The model sees 5 x 4 x 4 positions of 8 channels for ':4x8', one token each. 5 of the 17 frames are
given, which are two latent frames. Measures are of decoded clips, and positions in pixels.
Expect, for 4x8 on two cores: frozen loss .105 in latents (affine denoiser .466), position error
1.9 px (repeated frame 3.2, the codec's own .22): docs/LOG.md, 2026-11-28. The others: not measured.
"""

from ml_collections import ConfigDict

from experiments import codec
from videojax.config import complete
from videojax.errors import check_choice


def get_config(arg: str = "4x8") -> ConfigDict:
  """arg: as in codec.py; set codec.weights to the run that trained it."""
  check_choice("compression", arg, codec.VARIANTS)
  smoke, sizes = arg == "smoke", codec.sizes(arg)
  c = ConfigDict()
  c.total_steps = 2 if smoke else 4000
  c.batch_size = 2 if smoke else 8
  c.model = dict(
    name="dit", width=32 if smoke else 128, depth=2 if smoke else 4, num_heads=2, patch=(1, 1, 1),
    channels=sizes["channels"], known="last", rope_theta=100.0,
  )  # fmt: skip
  c.codec = sizes
  c.data = dict(worlds=codec.SMOKE if smoke else codec.WORLD)
  c.denoiser = dict(prediction="data")
  c.objective = dict(space="velocity", times="logit_normal", mean=0.8, std=1.2)
  c.optim = dict(learning_rate=3.5e-3, schedule="wsd", warmup_steps=50, decay_fraction=1.0)
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 30)
  c.checkpoint = dict(save_every_steps=600)
  c.evaluate = dict(
    splits=dict(id=dict(split="id"), ood=dict(split="fast")), main="id",
    clips=4 if smoke else 64, coherence_clips=4 if smoke else 64,
    reference_clips=8 if smoke else 512, batch_size=4 if smoke else 32,
  )  # fmt: skip
  return complete(c)
