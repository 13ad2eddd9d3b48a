"""Outputs and gradients of TAEHV, for tests/models/test_taehv.py.

  git clone https://github.com/madebyollin/taehv
  git -C taehv checkout 1f14a568f24bf8811e0a0ac601613e04fc1581e8
  pip install torch==2.13.0 tqdm
  PYTHONPATH=taehv python -m tests.golden.make_taehv

Weights and inputs come from generators seeded by their names (drawn.py), here and in the test, so
that only results are stored. Computed in float64. The reference's widths are fixed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.drawn import draw, gradients, weight

CHANNELS = {"wan2.1": 16, "wan2.2": 48, "hunyuan1.5": 32}
# version and case -> B T H W of a video, t h w of a latent
CASES = {
  ("wan2.1", "clip"): (1, 5, 16, 8, 2, 1, 2), ("wan2.1", "image"): (2, 1, 8, 24, 1, 3, 1),
  ("wan2.1", "odd"): (1, 7, 8, 8, 4, 1, 1),
  ("wan2.2", "clip"): (1, 9, 16, 16, 2, 1, 1), ("hunyuan1.5", "clip"): (1, 5, 16, 32, 2, 1, 1),
}  # fmt: skip


def inputs(version: str, case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3] in [0,1], latent [B,t,h,w,Z], and what the results are multiplied by."""
  b, frames, height, width, t, h, w = CASES[version, case]
  z, side, tag = CHANNELS[version], 8 if version == "wan2.1" else 16, f"{version} {case}"
  encoded = (b, -(-frames // 4), height // side, width // side, z)
  return {
    "video": 1 / (1 + np.exp(-draw(f"{tag} video", (b, frames, height, width, 3)))),
    "latent": 2 * draw(f"{tag} latent", (b, t, h, w, z)),
    "encoded probe": draw(f"{tag} encoded", encoded),
    "decoded probe": draw(f"{tag} decoded", (b, 4 * t - 3, side * h, side * w, 3)),
  }  # fmt: skip


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Values of a tensor, so that no layer vanishes and pixels lie on both sides of 0 and 1."""
  return 0.1 * draw(name, shape) if len(shape) == 1 else 1.3 * weight(name, shape)


def reference(version: str) -> Any:
  import torch
  from taehv import TAEHV

  size: dict[str, Any] = {} if version == "wan2.1" else dict(patch_size=2)
  model = TAEHV(None, latent_channels=CHANNELS[version], **size).double()
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
  return model


def main() -> None:
  import torch

  stored: dict[str, np.ndarray] = {}
  models = {version: reference(version) for version in CHANNELS}
  for version, case in CASES:
    model, tag = models[version], f"{version} {case}"
    v = {k: torch.from_numpy(value) for k, value in inputs(version, case).items()}
    theirs, ours = lambda x: x.movedim(-1, 2), lambda x: x.movedim(2, -1)
    encoded = ours(model.encode_video(theirs(v["video"]), show_progress_bar=False))
    decoded = ours(model.decode_video(theirs(v["latent"]), show_progress_bar=False))
    for name, out in (("encoded", encoded), ("decoded", decoded)):
      stored[f"{tag} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((encoded * v["encoded probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  for version, model in models.items():
    stored |= gradients(model, f"{version} ")
  np.savez_compressed(Path(__file__).with_name("taehv.npz"), **stored)


if __name__ == "__main__":
  main()
