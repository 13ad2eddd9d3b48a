"""Outputs and gradients of diffusers' AutoencoderKLWan, for models/test_vae_wan.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_vae_wan

Weights and inputs come from generators seeded by their names (drawn.py), here and in the
test, so that only results are stored. Computed in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.drawn import draw, gradients, weight

_LEVELS = dict(multipliers=(1, 2, 4, 4), time=(False, True, True), blocks=1)
SIZES: dict[str, dict[str, Any]] = {
  "2.1": dict(_LEVELS, width=8, decoder_width=8, shortcuts=False, channels=4),
  "2.2": dict(_LEVELS, width=8, decoder_width=16, shortcuts=True, channels=6),
}
# version and case -> B T t h w, of a video and of its latent
CASES = {
  ("2.1", "clip"): (1, 13, 4, 2, 3), ("2.1", "image"): (2, 1, 1, 1, 3),
  ("2.1", "odd"): (1, 7, 2, 1, 2),  # two frames too many: they are dropped
  ("2.2", "clip"): (1, 13, 4, 2, 1), ("2.2", "image"): (2, 1, 1, 1, 1),
}  # fmt: skip


def stride(version: str) -> int:
  return 8 * (2 if SIZES[version]["shortcuts"] else 1)


def inputs(version: str, case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3]; latent [B,t,h,w,Z]; what moments and decoded video are multiplied by."""
  b, frames, t, h, w = CASES[version, case]
  s, latent = stride(version), (b, t, h, w, SIZES[version]["channels"])
  video, tag = (b, frames, s * h, s * w, 3), f"{version} {case}"
  decoded = (b, 4 * t - 3, *video[2:])
  moments = (*latent[:-1], 2 * latent[-1])
  return {
    "video": draw(f"{tag} video", video), "latent": draw(f"{tag} latent", latent),
    "moments probe": draw(f"{tag} moments", moments),
    "decoded probe": draw(f"{tag} decoded", decoded),
  }  # fmt: skip


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Values of a tensor; gains are vectors with axes of size 1, not kernels."""
  return 1 + 0.1 * draw(name, shape) if name.endswith("gamma") else weight(name, shape)


def reference(version: str) -> Any:
  import torch
  from diffusers import AutoencoderKLWan

  size = SIZES[version]
  folded = 12 if size["shortcuts"] else 3
  model = AutoencoderKLWan(
    base_dim=size["width"], decoder_base_dim=size["decoder_width"], z_dim=size["channels"],
    dim_mult=list(size["multipliers"]), num_res_blocks=size["blocks"],
    temperal_downsample=list(size["time"]), is_residual=size["shortcuts"],
    patch_size=2 if size["shortcuts"] else None, in_channels=folded, out_channels=folded,
    scale_factor_spatial=stride(version),
  ).double().eval()  # fmt: skip
  with torch.no_grad():
    for name, tensor in model.named_parameters():
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
    posterior = model.encode(first(v["video"])).latent_dist
    moments = last(torch.cat([posterior.mean, posterior.logvar], 1))
    decoded = last(model.decode(first(v["latent"])).sample)
    for name, out in (("moments", moments), ("decoded", decoded)):
      stored[f"{tag} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  for version, model in models.items():
    stored |= gradients(model, f"{version} ")
  np.savez_compressed(Path(__file__).with_name("vae_wan.npz"), **stored)


if __name__ == "__main__":
  main()
