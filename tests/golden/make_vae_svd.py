"""Outputs and gradients of diffusers' AutoencoderKLTemporalDecoder, for models/test_vae_svd.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_vae_svd

Weights and inputs come from generators seeded by their names (drawn.py), here and in the
test, so that only results are stored. Computed in float64.
"""

from pathlib import Path

import numpy as np

from tests.golden.drawn import draw, gradients, weight

SIZES = dict(width=64, multipliers=(1, 2), blocks=2, groups=32)
CHANNELS = 4
CASES = {"clip": (2, 3, 8, 12), "image": (1, 1, 6, 4)}  # B T H W


def inputs(case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3]; latent [B,T,H/2,W/2,4]; what moments and decoded video are multiplied by."""
  b, t, h, w = CASES[case]
  latent = (b, t, h // 2, w // 2, CHANNELS)
  return {
    "video": draw(f"{case} video", (b, t, h, w, 3)), "latent": draw(f"{case} latent", latent),
    "moments probe": draw(f"{case} moments", (*latent[:-1], 2 * CHANNELS)),
    "decoded probe": draw(f"{case} decoded", (b, t, h, w, 3)),
  }  # fmt: skip


def main() -> None:
  import torch
  from diffusers import AutoencoderKLTemporalDecoder

  levels = len(SIZES["multipliers"])
  model = AutoencoderKLTemporalDecoder(
    block_out_channels=tuple(SIZES["width"] * m for m in SIZES["multipliers"]),
    down_block_types=("DownEncoderBlock2D",) * levels, layers_per_block=SIZES["blocks"],
    latent_channels=CHANNELS,
  ).double().eval()  # fmt: skip
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
  stored = {}
  for case, (b, t, _, _) in CASES.items():
    v = {k: torch.from_numpy(value) for k, value in inputs(case).items()}
    fold = lambda x: x.flatten(0, 1).permute(0, 3, 1, 2)
    unfold = lambda x, b=b, t=t: x.permute(0, 2, 3, 1).unflatten(0, (b, t))
    posterior = model.encode(fold(v["video"])).latent_dist
    moments = unfold(torch.cat([posterior.mean, posterior.logvar], 1))
    decoded = unfold(model.decode(fold(v["latent"]), num_frames=t).sample)
    for name, out in (("moments", moments), ("decoded", decoded)):
      stored[f"{case} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  stored |= gradients(model)
  np.savez_compressed(Path(__file__).with_name("vae_svd.npz"), **stored)


if __name__ == "__main__":
  main()
