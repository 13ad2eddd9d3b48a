"""Outputs and gradients of VideoCrafter's UNetModel, for tests/models/test_videocrafter.py.

  git clone https://github.com/AILab-CVC/VideoCrafter
  git -C VideoCrafter checkout 11bcd76fc62fb98b9715b994afe45b4fa081120c
  pip install torch==2.13.0 einops==0.8.1 opencv-python-headless pyyaml
  PYTHONPATH=VideoCrafter python -m tests.golden.make_videocrafter

Each published variant, small, with its own switches. Weights and inputs come from generators
seeded by their names, here and in the test, so that only results are stored. Computed in float64,
with the sines of noise level and frame rate in float32 as the reference has them. Of the published
sizes: how many parameters there are, and a digest of their names.
"""

import hashlib
from pathlib import Path

import numpy as np

from tests.golden.drawn import draw, gradients, weight

CHANNELS, TEXT, LENGTH = 4, 16, 5
# By our names. Widths divide by 32 groups and 8 heads come first, both fixed in the reference.
SIZES = {
  "512-v2": dict(
    width=32, multipliers=(1, 2), blocks=2, head_dim=8, groups=8,
    temporal_conv=True, scalars=("fps",),
  ),
  "1024-v1": dict(
    width=64, multipliers=(1,), blocks=1, head_dim=16, groups=16,
    temporal_conv=False, scalars=("fps",), reach=2,
  ),
  "512-v1": dict(
    width=32, multipliers=(1,), blocks=1, head_dim=8, groups=8, temporal_conv=False, reach=3
  ),
  "i2v-512": dict(
    width=32, multipliers=(1,), blocks=1, head_dim=16, groups=8,
    temporal_conv=True, scalars=("fps",), image_tokens=3,
  ),
}  # fmt: skip
IN_HEADS = 8
# B, T, H, W
CLIPS = {
  "512-v2": (2, 3, 4, 6), "1024-v1": (2, 5, 6, 3), "512-v1": (1, 3, 8, 4), "i2v-512": (2, 2, 5, 6),
}  # fmt: skip
IMAGES = {"1024-v1": (1, 1, 4, 5), "i2v-512": (2, 1, 4, 3)}
CONFIGS = {
  "512-v2": "t2v_512_v2", "1024-v1": "t2v_1024_v1", "512-v1": "t2v_512_v1", "i2v-512": "i2v_512_v1",
}  # fmt: skip
PREFIX = "model.diffusion_model."


def digest(names) -> str:
  return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def inputs(variant: str, shape: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
  """x and what its output is multiplied with [B,T,H,W,C], noise level, frame rate [B], tokens."""
  b, clip = shape[0], (*shape, CHANNELS)
  tokens = SIZES[variant].get("image_tokens", 0)
  return {
    "x": draw(f"{variant} x", clip), "probe": draw(f"{variant} probe", clip),
    "t": np.array([17.0, 801.0])[:b], "fps": np.array([8.0, 28.0])[:b],
    "text": draw(f"{variant} text", (b, LENGTH, TEXT)),
    "image": draw(f"{variant} image", (b, tokens, TEXT)),
  }  # fmt: skip


def reference(variant: str):
  import torch
  from lvdm.modules.networks import openaimodel3d

  s = SIZES[variant]
  with torch.no_grad():
    model = openaimodel3d.UNetModel(
      in_channels=CHANNELS, out_channels=CHANNELS, model_channels=s["width"],
      attention_resolutions=[2**n for n in range(len(s["multipliers"]) - 1)],
      num_res_blocks=s["blocks"], channel_mult=s["multipliers"], num_head_channels=s["head_dim"],
      transformer_depth=1, context_dim=TEXT, use_linear=True, temporal_conv=s["temporal_conv"],
      temporal_attention=True, temporal_selfatt_only=True, use_relative_position="reach" in s,
      use_causal_attention=False, temporal_length=s.get("reach"), addition_attention=True,
      use_image_attention="image_tokens" in s, fps_cond="scalars" in s,
    ).double().eval()  # fmt: skip
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(weight(PREFIX + name, tuple(tensor.shape))))
  model.dtype = torch.float64
  for module in model.modules():
    if isinstance(module, torch.nn.GroupNorm):
      module.num_groups = s["groups"]
      module.forward = torch.nn.GroupNorm.forward.__get__(module)  # else cast to float32
    if hasattr(module, "text_context_len"):
      module.text_context_len = LENGTH
  return model


def published(variant: str):
  """The U-Net of a published config, without numbers."""
  import torch
  import yaml
  from lvdm.modules.networks import openaimodel3d

  repository = Path(openaimodel3d.__file__).parents[3]
  text = (repository / "configs" / f"inference_{CONFIGS[variant]}.0.yaml").read_text()
  with torch.device("meta"):
    settings = yaml.safe_load(text)["model"]["params"]["unet_config"]["params"]
    return openaimodel3d.UNetModel(**settings)


def main() -> None:
  import torch
  from lvdm.modules.networks import openaimodel3d

  sines = openaimodel3d.timestep_embedding
  openaimodel3d.timestep_embedding = lambda *args, **kw: sines(*args, **kw).double()
  stored = {}
  for variant in SIZES:
    parameters = dict(published(variant).named_parameters())
    stored[f"{variant} parameters"] = np.array(sum(p.numel() for p in parameters.values()))
    stored[f"{variant} digest"] = np.array(digest(PREFIX + name for name in parameters))
    model = reference(variant)

    def run(shape, model=model, variant=variant):
      v = {k: torch.from_numpy(value) for k, value in inputs(variant, shape).items()}
      context = torch.cat([v["text"], v["image"]], 1)
      out = model(v["x"].permute(0, 4, 1, 2, 3), v["t"], context, fps=v["fps"])
      return out.permute(0, 2, 3, 4, 1), v["probe"]

    if variant in IMAGES:
      stored[f"{variant} image"] = run(IMAGES[variant])[0].detach().numpy().astype(np.float32)
    out, probe = run(CLIPS[variant])
    stored[f"{variant} clip"] = out.detach().numpy().astype(np.float32)
    (out * probe).sum().backward()
    stored |= gradients(model, f"{variant} ", prefix=PREFIX)
  np.savez_compressed(Path(__file__).with_name("videocrafter.npz"), **stored)


if __name__ == "__main__":
  main()
