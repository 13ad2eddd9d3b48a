"""Outputs and gradients of diffusers' AutoencoderKLLTXVideo, for models/test_vae_ltx.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_vae_ltx

Weights and inputs come from generators seeded by their names (drawn.py), here and in the
test, so that only results are stored. Computed in float64, but for what the class itself rounds.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.drawn import draw, weight

SIZE: dict[str, Any] = dict(
  widths=(8, 16, 16, 32, 64), blocks=(1, 2, 1, 1, 1),
  steps=("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
  decoder_width=32, decoder_blocks=(1, 2, 1, 1), channels=6,
)  # fmt: skip
# case -> B T t h w, of a video and of its latent
CASES = {"clip": (2, 9, 2, 1, 2), "image": (1, 1, 1, 3, 1), "long": (1, 25, 4, 1, 1)}
LEVELS = {"clip": (0.05, 0.3), "image": (0.05,), "long": (0.0,)}
# Of a decoded video every third row and column is stored: it has pixels of all places in a patch.
SOME = (slice(None), slice(None), slice(None, None, 3), slice(None, None, 3))
UNTOUCHED = ("latents_mean", "latents_std")  # tensors that no output depends on


def inputs(case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3]; latent [B,t,h,w,Z]; what moments and decoded video are multiplied by."""
  b, frames, t, h, w = CASES[case]
  video, latent = (b, frames, 32 * h, 32 * w, 3), (b, t, h, w, SIZE["channels"])
  return {
    "video": draw(f"{case} video", video), "latent": draw(f"{case} latent", latent),
    "level": np.array(LEVELS[case]),
    "moments probe": draw(f"{case} moments", (*latent[:-1], 2 * latent[-1])),
    "decoded probe": draw(f"{case} decoded", (b, 8 * t - 7, *video[2:])),
  }  # fmt: skip


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Values of a tensor; the unit of noise levels keeps its own."""
  if name.endswith("scale_multiplier"):
    return np.array(1000.0)
  if name.endswith("scale_shift_table"):
    return 0.3 * draw(name, shape)
  return weight(name, shape)


def reference() -> Any:
  import torch
  from diffusers import AutoencoderKLLTXVideo

  ups = len(SIZE["decoder_blocks"]) - 1
  model = AutoencoderKLLTXVideo(
    latent_channels=SIZE["channels"], block_out_channels=SIZE["widths"],
    down_block_types=("LTXVideo095DownBlock3D",) * 4, downsample_type=SIZE["steps"],
    layers_per_block=SIZE["blocks"], spatio_temporal_scaling=(True,) * 4,
    decoder_block_out_channels=tuple(SIZE["decoder_width"] // 2**i for i in reversed(range(ups))),
    decoder_layers_per_block=SIZE["decoder_blocks"][::-1],
    decoder_spatio_temporal_scaling=(True,) * ups, decoder_inject_noise=(False,) * (ups + 1),
    upsample_residual=(True,) * ups, upsample_factor=(2,) * ups, timestep_conditioning=True,
    spatial_compression_ratio=32, temporal_compression_ratio=8,
  ).double().eval()  # fmt: skip
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
  return model


def main() -> None:
  import torch

  stored, model = dict[str, np.ndarray](), reference()
  for case in CASES:
    v = {k: torch.from_numpy(value) for k, value in inputs(case).items()}
    first, last = lambda x: x.movedim(-1, 1), lambda x: x.movedim(1, -1)
    posterior = model.encode(first(v["video"])).latent_dist
    moments = last(torch.cat([posterior.mean, posterior.logvar], 1))
    decoded = last(model.decode(first(v["latent"]), v["level"]).sample)
    for name, out in (("moments", moments), ("decoded", decoded[SOME])):
      stored[f"{case} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
  grads |= {name: np.zeros(SIZE["channels"]) for name in UNTOUCHED}
  stored["names"] = np.array(list(grads))
  stored["shapes"] = np.array([str(g.shape) for g in grads.values()])
  stored["norms"] = np.array([np.linalg.norm(g) for g in grads.values()])
  # Each gradient along one direction of its space: any wrong layout shows.
  stored["along"] = np.array([np.vdot(g, draw(f"{n} probe", g.shape)) for n, g in grads.items()])
  np.savez_compressed(Path(__file__).with_name("vae_ltx.npz"), **stored)


if __name__ == "__main__":
  main()
