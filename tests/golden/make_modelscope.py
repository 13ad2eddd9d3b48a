"""Outputs and gradients of diffusers' UNet3DConditionModel, for tests/models/test_modelscope.py.

  pip install torch==2.13.0 diffusers==0.42.1
  python -m tests.golden.make_modelscope

Weights and inputs come from generators seeded by their names, here and in the test, so that only
results are stored. Computed in float64.
"""

from pathlib import Path

import numpy as np

from tests.golden.drawn import draw, gradients, weight

SIZES = dict(width=32, multipliers=(1, 2), blocks=1, head_dim=8, in_heads=8, groups=8)
CHANNELS, TEXT, LENGTH = 4, 16, 5
CASES = {"clip": (2, 3, 8, 12), "image of odd size": (1, 1, 7, 6)}  # B, T, H, W


def inputs(case: str) -> dict[str, np.ndarray]:
  """x and what its output is multiplied with [B,T,H,W,C], noise levels [B], text [B,L,TEXT]."""
  b, t, h, w = CASES[case]
  shape = (b, t, h, w, CHANNELS)
  return {
    "x": draw(f"{case} x", shape), "probe": draw(f"{case} probe", shape),
    "t": np.array([17.0, 801.5])[:b], "text": draw(f"{case} text", (b, LENGTH, TEXT)),
  }  # fmt: skip


def main() -> None:
  import torch
  from diffusers import UNet3DConditionModel

  cross, plain = ("CrossAttn{}Block3D", "{}Block3D")
  model = UNet3DConditionModel(
    block_out_channels=tuple(SIZES["width"] * m for m in SIZES["multipliers"]),
    down_block_types=(cross.format("Down"), plain.format("Down")),
    up_block_types=(plain.format("Up"), cross.format("Up")),
    layers_per_block=SIZES["blocks"], attention_head_dim=SIZES["head_dim"],
    norm_num_groups=SIZES["groups"], cross_attention_dim=TEXT,
    in_channels=CHANNELS, out_channels=CHANNELS,
  ).double().eval()  # fmt: skip
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
  stored = {}
  for case in CASES:
    v = {k: torch.from_numpy(value) for k, value in inputs(case).items()}
    out = model(v["x"].permute(0, 4, 1, 2, 3), v["t"], v["text"]).sample.permute(0, 2, 3, 4, 1)
    stored[f"{case} output"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      (out * v["probe"]).sum().backward()
  stored |= gradients(model)
  np.savez_compressed(Path(__file__).with_name("modelscope.npz"), **stored)


if __name__ == "__main__":
  main()
