"""Outputs and gradients of diffusers' AutoencoderKLHunyuanVideo and 15, for test_vae_hunyuan.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_vae_hunyuan

Weights and inputs come from generators seeded by their names (drawn.py), here and in the
test, so that only results are stored. Computed in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.drawn import draw, gradients, weight

SIZES: dict[str, dict[str, Any]] = {
  "13B": dict(widths=(8, 8, 12, 16), time=(False, True, True), blocks=1, groups=4, channels=3),
  "1.5": dict(
    widths=(8, 8, 16, 32, 32), time=(False, False, True, True), blocks=1, groups=None, channels=4
  ),
}
# version and case -> B T t h w, of a video and of its latent. Clips above 4 latents go in tiles.
# AutoencoderKLHunyuanVideo15 fails with B > 1.
CASES = {
  ("13B", "clip"): (2, 5, 2, 1, 2), ("13B", "image"): (1, 1, 1, 3, 1),
  ("13B", "long"): (1, 13, 4, 1, 1), ("13B", "tiles"): (1, 33, 9, 1, 1),
  ("13B", "rest"): (1, 25, 7, 1, 1),
  ("1.5", "clip"): (1, 5, 2, 1, 2), ("1.5", "image"): (1, 1, 1, 3, 1),
  ("1.5", "long"): (1, 13, 4, 1, 1),
}  # fmt: skip
TILED = ("tiles", "rest")
# Of a decoded video every third row and column is stored: it has pixels of all places in a patch.
SOME = (slice(None), slice(None), slice(None, None, 3), slice(None, None, 3))


def inputs(version: str, case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3]; latent [B,t,h,w,Z]; what moments and decoded video are multiplied by."""
  b, frames, t, h, w = CASES[version, case]
  side = 2 ** len(SIZES[version]["time"])
  video, latent = (b, frames, side * h, side * w, 3), (b, t, h, w, SIZES[version]["channels"])
  tag = f"{version} {case}"
  return {
    "video": draw(f"{tag} video", video), "latent": draw(f"{tag} latent", latent),
    "moments probe": draw(f"{tag} moments", (*latent[:-1], 2 * latent[-1])),
    "decoded probe": draw(f"{tag} decoded", (b, 4 * t - 3, *video[2:])),
  }  # fmt: skip


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Values of a tensor; gains are vectors with axes of size 1, not kernels."""
  return 1 + 0.1 * draw(name, shape) if name.endswith("gamma") else weight(name, shape)


def reference(version: str) -> Any:
  import torch
  from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15

  size = SIZES[version]
  how: dict[str, Any] = dict(
    latent_channels=size["channels"], block_out_channels=size["widths"],
    layers_per_block=size["blocks"], spatial_compression_ratio=2 ** len(size["time"]),
    temporal_compression_ratio=4,
  )  # fmt: skip
  if version == "13B":
    model = AutoencoderKLHunyuanVideo(norm_num_groups=size["groups"], **how)
  else:
    model = AutoencoderKLHunyuanVideo15(**how)
  with torch.no_grad():
    for name, tensor in model.double().eval().named_parameters():
      tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
  return model


def main() -> None:
  import torch

  stored: dict[str, np.ndarray] = {}
  models = {version: reference(version) for version in SIZES}
  for version, case in CASES:
    model, tag = models[version], f"{version} {case}"
    v = {k: torch.from_numpy(value) for k, value in inputs(version, case).items()}
    first, last = lambda x: x.movedim(-1, 1), lambda x: x.movedim(1, -1)
    with torch.set_grad_enabled(case == "clip"):
      posterior = model.encode(first(v["video"])).latent_dist
      moments = last(torch.cat([posterior.mean, posterior.logvar], 1))
      decoded = last(model.decode(first(v["latent"])).sample)
    for name, out in (("moments", moments), ("decoded", decoded[SOME])):
      stored[f"{tag} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  for version, model in models.items():
    stored |= gradients(model, f"{version} ")
  np.savez_compressed(Path(__file__).with_name("vae_hunyuan.npz"), **stored)


if __name__ == "__main__":
  main()
