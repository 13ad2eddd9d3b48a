"""A video DiT on latents that `data_pipelines.encode` has made, with their captions.

  python -m videojax.launch --config=experiments/from_latents.py:LATENTS --workdir=runs/text \\
    --config.codec.weights=CODEC

LATENTS is the directory of the latents, whose card says the codec, sizes and text encoder; CODEC is
what encoded them, a run or published weights. Captions are read as bytes, unless their embeddings
are there. Three quarters of the clips are given nothing, the others their first latent frame, so
that the model makes clips from prompts alone, from a picture, or from both.
Measured so far, on 6,000 clips of worlds at 64 pixels: docs/LOG.md, 2026-11-28.
"""

import json
from pathlib import Path

from ml_collections import ConfigDict

from experiments import codec
from videojax.config import complete
from videojax.errors import ConfigError

CAPTION_BYTES = 80


def get_config(arg: str = "runs/data/latents") -> ConfigDict:
  """arg: directory of the latents."""
  card = Path(arg) / "latents.json"
  if not card.is_file():
    raise ConfigError(f"{arg} holds no latents: make some with `python -m data_pipelines.encode`")
  made = json.loads(card.read_text())
  main = codec.held_out(Path(arg))
  c = ConfigDict()
  c.total_steps = 10_000
  c.batch_size = 16
  c.codec = {"name": made["codec"]["name"], **made["codec"]["config"]}
  c.model = dict(
    name="dit", width=128, depth=4, num_heads=2, patch=(1, 2, 2), channels=made["latent"][3],
    known="last", rope_theta=100.0, text=made["text"]["width"] if made["text"] else "bytes",
  )  # fmt: skip
  c.data = dict(latents=dict(name="latents", path=arg, caption_bytes=CAPTION_BYTES))
  c.condition = dict(known_frames=1, masks=("none", "none", "none", "one"))
  c.denoiser = dict(prediction="data")
  c.objective = dict(space="velocity", times="logit_normal", mean=0.8, std=1.2)
  c.optim = dict(learning_rate=2e-3, schedule="wsd", warmup_steps=100, decay_fraction=0.5)
  c.ema = (0.05,)
  c.guidance = dict(scale=2.0)
  c.sampler = dict(steps=30)
  c.checkpoint = dict(save_every_steps=2000)
  c.evaluate = dict(
    splits={main: dict(split=main)}, main=main, clips=64,
    reference_clips=512, batch_size=32,
  )  # fmt: skip
  return complete(c)
