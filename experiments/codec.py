"""A small causal autoencoder of moving discs, or of your clips, whose compression is the argument.

  python -m videojax.launch --config=experiments/codec.py:4x8 --workdir=runs/codec
  python -m videojax.launch --config=experiments/latent_worlds.py:4x8 --workdir=runs/latent \\
    --config.codec.weights=runs/codec

':4x8' merges 4 frames and 8x8 pixels into a latent position of 8 channels; also 2x4 and 4x4, and
4x8-fsq, whose channels take 5 values each. The world is quickstart's at 32 pixels and 17 frames.
The second command trains a DiT in its latents. ':4x8,DIR' trains on a dataset of clips that
data_pipelines has made, with 1 + 4 k frames, on which experiments/from_latents.py goes on.
Expect, for 4x8 on two cores: error .106 of the data's variance, PSNR 29.2 dB, discs within .22 px:
docs/LOG.md, 2026-11-28. The others: not measured.
"""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from videojax.config import complete
from videojax.errors import ConfigError, check_choice

VARIANTS = ("2x4", "4x4", "4x8", "4x8-fsq", "smoke")
WORLD = dict(name="worlds", size=32, frames=17, known=5, fps=14.0, scenes=("one", "two"))
SMOKE = dict(name="worlds", size=16, frames=5, known=2, scenes=("one",))


def sizes(arg: str) -> dict[str, Any]:
  """Settings of the network, of the run that trains it and of runs in its latents."""
  if arg == "smoke":
    return dict(name="vae_small", width=8, blocks=1, time=2, space=4, patch=2, channels=4)
  strides, _, codes = arg.partition("-")
  time, space = map(int, strides.split("x"))
  sizes = dict(name="vae_small", width=16, blocks=1, time=time, space=space, patch=4, channels=8)
  return sizes | (dict(codes="fsq", levels=(5,) * 8) if codes else {})


def held_out(dataset: Path) -> str:
  """The first split of a dataset that is not for training."""
  info = dataset / "dataset_info.json"
  if not info.is_file():
    raise ConfigError(f"{dataset} holds no clips: make some with `python -m data_pipelines.worlds`")
  names = [split["name"] for split in json.loads(info.read_text())["splits"]]
  found = [name for name in names if name != "train"]
  if "train" not in names or not found:
    raise ConfigError(f"{dataset} has the splits {', '.join(names)}: one must be train, one not")
  return found[0]


def get_config(arg: str = "4x8") -> ConfigDict:
  """arg: TIMExSPACE[,DIR]; 'smoke': two steps of a tiny network, for tests."""
  arg, _, clips = arg.partition(",")
  check_choice("compression", arg, VARIANTS)
  smoke = arg == "smoke"
  c = ConfigDict()
  c.total_steps = 2 if smoke else 2500
  c.batch_size = 2 if smoke else 8
  c.model = sizes(arg)
  c.data = dict(worlds=SMOKE if smoke else WORLD)
  c.reconstruct = dict(pixels=0.1, squares=1.0, kl=1e-5)
  c.optim = dict(learning_rate=2e-3, schedule="wsd", warmup_steps=50, decay_fraction=0.5)
  c.ema = (0.05,)
  c.checkpoint = dict(save_every_steps=500)
  splits, main = dict(id=dict(split="id"), ood=dict(split="fast")), "id"
  if clips:
    c.data = dict(clips=dict(name="clips", path=clips))
    main = held_out(Path(clips))
    splits = {main: dict(split=main)}
  c.evaluate = dict(
    splits=splits, main=main,
    clips=4 if smoke else 64, coherence_clips=4 if smoke else 64, batch_size=4 if smoke else 32,
  )  # fmt: skip
  return complete(c)
