"""Outputs and gradients of diffusers' AutoencoderKLCogVideoX, for models/test_vae_cogvideox.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_vae_cogvideox

Weights and inputs come from generators seeded by their names (drawn.py), here and in the
test, so that only results are stored. Computed in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.drawn import draw, weight

SIZE: dict[str, Any] = dict(
  widths=(8, 12, 12, 16), time=(True, True, False), blocks=1, groups=4, channels=3, scaling=0.7
)
# case -> B T t h w, of a video and of its latent, and how many latents are processed together
CASES: dict[str, tuple[tuple[int, ...], int | None]] = {
  "clip": ((1, 17, 5, 1, 2), 2), "image": ((2, 1, 1, 3, 1), 2), "two": ((1, 5, 2, 1, 1), 2),
  "even": ((1, 16, 4, 1, 1), 2), "rest": ((1, 29, 7, 1, 1), 2), "whole": ((1, 17, 5, 1, 1), None),
  "four": ((1, 33, 9, 1, 1), 4),
}  # fmt: skip
# Of a decoded video every third row and column is stored: it has pixels of all places in a patch.
SOME = (slice(None), slice(None), slice(None, None, 3), slice(None, None, 3))


def inputs(case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3]; latent [B,t,h,w,Z]; what moments and decoded video are multiplied by."""
  (b, frames, t, h, w), _ = CASES[case]
  video, latent = (b, frames, 8 * h, 8 * w, 3), (b, t, h, w, SIZE["channels"])
  decoded = (b, 4 * t - 3 if t % 2 else 4 * t, *video[2:])
  return {
    "video": draw(f"{case} video", video), "latent": draw(f"{case} latent", latent),
    "moments probe": draw(f"{case} moments", (*latent[:-1], 2 * latent[-1])),
    "decoded probe": draw(f"{case} decoded", decoded),
  }  # fmt: skip


def reference() -> Any:
  import torch
  from diffusers import AutoencoderKLCogVideoX

  model = AutoencoderKLCogVideoX(
    block_out_channels=SIZE["widths"], layers_per_block=SIZE["blocks"],
    norm_num_groups=SIZE["groups"], latent_channels=SIZE["channels"],
  ).double().eval()  # fmt: skip
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
  return model


def main() -> None:
  import torch

  stored, model = dict[str, np.ndarray](), reference()
  for case, (_, together) in CASES.items():
    model.num_latent_frames_batch_size = together or 1000
    model.num_sample_frames_batch_size = 4 * (together or 1000)
    v = {k: torch.from_numpy(value) for k, value in inputs(case).items()}
    first, last = lambda x: x.movedim(-1, 1), lambda x: x.movedim(1, -1)
    posterior = model.encode(first(v["video"])).latent_dist
    moments = last(torch.cat([posterior.mean, posterior.logvar], 1))
    decoded = last(model.decode(first(v["latent"])).sample)
    for name, out in (("moments", moments), ("decoded", decoded[SOME])):
      stored[f"{case} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
  stored["names"] = np.array(list(grads))
  stored["shapes"] = np.array([str(g.shape) for g in grads.values()])
  stored["norms"] = np.array([np.linalg.norm(g) for g in grads.values()])
  # Each gradient along one direction of its space: any wrong layout shows.
  stored["along"] = np.array([np.vdot(g, draw(f"{n} probe", g.shape)) for n, g in grads.items()])
  np.savez_compressed(Path(__file__).with_name("vae_cogvideox.npz"), **stored)


if __name__ == "__main__":
  main()
