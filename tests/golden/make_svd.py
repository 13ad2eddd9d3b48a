"""Outputs and gradients of diffusers' UNetSpatioTemporalConditionModel, for models/test_svd.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_svd

Weights and inputs come from generators seeded by their names (drawn.py), here and in the
test, so that only results are stored. Computed in float64. The reference calls every input a clip;
for the image its image_only_indicator is set to one, as where it was trained.
"""

from pathlib import Path

import numpy as np

from tests.golden.drawn import draw, gradients, weight

SIZES = dict(width=64, multipliers=(1, 2), blocks=1, head_dim=16, groups=32)
CHANNELS, IMAGE, LENGTH = 4, 16, 3
SCALARS = ("fps", "motion", "augmentation")
CASES = {"clip": (2, 3, 8, 12), "clip of odd size": (1, 2, 7, 6), "image": (1, 1, 4, 6)}  # B T H W


def inputs(case: str) -> dict[str, np.ndarray]:
  """x, the first frame's latents and the output's factors [B,T,H,W,C]; t [B]; ids [B,3]; image."""
  b, t, h, w = CASES[case]
  shape = (b, t, h, w, CHANNELS)
  first = np.broadcast_to(draw(f"{case} first", (b, 1, h, w, CHANNELS)), shape)
  return {
    "x": draw(f"{case} x", shape), "probe": draw(f"{case} probe", shape), "first": first,
    "t": np.array([-1.2, 1.5])[:b], "image": draw(f"{case} image", (b, LENGTH, IMAGE)),
    "ids": np.array([[6.0, 127.0, 0.02], [23.0, 40.0, 0.5]])[:b],
  }  # fmt: skip


def main() -> None:
  import torch
  from diffusers import UNetSpatioTemporalConditionModel
  from diffusers.models.resnet import AlphaBlender

  cross, plain = ("CrossAttn{}BlockSpatioTemporal", "{}BlockSpatioTemporal")
  widths = tuple(SIZES["width"] * m for m in SIZES["multipliers"])
  model = UNetSpatioTemporalConditionModel(
    block_out_channels=widths, num_attention_heads=tuple(w // SIZES["head_dim"] for w in widths),
    down_block_types=(cross.format("Down"), plain.format("Down")),
    up_block_types=(plain.format("Up"), cross.format("Up")),
    layers_per_block=SIZES["blocks"], cross_attention_dim=IMAGE,
    in_channels=2 * CHANNELS, out_channels=CHANNELS,
  ).double().eval()  # fmt: skip
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
  alpha = AlphaBlender.get_alpha
  of_image = lambda self, indicator, ndims: alpha(self, torch.ones_like(indicator), ndims)
  stored = {}
  for case in CASES:
    v = {k: torch.from_numpy(np.array(value)) for k, value in inputs(case).items()}
    x = torch.cat([v["x"], v["first"]], -1).permute(0, 1, 4, 2, 3)
    AlphaBlender.get_alpha = of_image if case == "image" else alpha
    out = model(x, v["t"], v["image"], v["ids"]).sample.permute(0, 1, 3, 4, 2)
    stored[f"{case} output"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      (out * v["probe"]).sum().backward()
  stored |= gradients(model)
  np.savez_compressed(Path(__file__).with_name("svd.npz"), **stored)


if __name__ == "__main__":
  main()
