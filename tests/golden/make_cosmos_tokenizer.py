"""Outputs and gradients of the Cosmos tokenizers, for tests/models/test_cosmos_tokenizer.py.

  git clone https://github.com/NVIDIA/Cosmos-Tokenizer
  git -C Cosmos-Tokenizer checkout 3584ae752ce8ebdbe06a420bf60d7513c0e878cc
  pip install torch==2.13.0 diffusers==0.42.1 einops==0.8.2 loguru
  PYTHONPATH=Cosmos-Tokenizer python -m tests.golden.make_cosmos_tokenizer

CV from diffusers' AutoencoderKLCosmos, DV from NVIDIA's own code. Weights and inputs come from
generators seeded by their names (drawn.py), here and in the test, so that only results are stored.
Computed in float64.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.drawn import draw, gradients, weight

_CODES = (8, 8, 8, 5, 5, 5)


def _size(space: int, time: int, codes: tuple[int, ...] = (), **changes: Any) -> dict[str, Any]:
  return dict(
    width=4, multipliers=(2, 4, 4), decoder_multipliers=(2, 4, 4), space=space, time=time,
    blocks=1, inner=5, channels=len(codes) or 5, levels=codes,
  ) | changes  # fmt: skip


SIZES = {
  "CV4x8x8": _size(1, 0, decoder_multipliers=(2, 4)), "CV8x8x8": _size(1, 1),
  "CV8x16x16": _size(2, 1), "DV4x8x8": _size(1, 0, _CODES), "DV8x16x16": _size(2, 1, _CODES),
}  # fmt: skip
# size and case -> B T h w of a video in latent positions, B t h w of a latent
CASES = {
  ("CV8x8x8", "clip"): ((1, 17, 2, 3), (1, 2, 1, 3)),
  ("CV8x8x8", "image"): ((2, 1, 1, 3), (2, 1, 3, 1)),
  ("CV8x8x8", "long"): ((1, 25, 1, 1), (1, 4, 1, 1)),
  ("CV4x8x8", "clip"): ((1, 9, 1, 2), (1, 3, 2, 1)),
  ("CV8x16x16", "clip"): ((1, 9, 3, 1), (1, 2, 1, 1)),
  ("DV4x8x8", "clip"): ((1, 5, 3, 2), (1, 2, 1, 3)),
  ("DV8x16x16", "clip"): ((2, 9, 1, 2), (1, 2, 1, 1)),
}  # fmt: skip


def strides(size: str) -> tuple[int, int]:
  """Of frames, and of height and width."""
  return 4 * 2 ** SIZES[size]["time"], 4 * 2 ** SIZES[size]["space"]


def inputs(size: str, case: str) -> dict[str, np.ndarray]:
  """video [B,T,H,W,3], latent [B,t,h,w,Z], and what the results are multiplied by."""
  ((b, frames, h, w), latent), (n, side), tag = CASES[size, case], strides(size), f"{size} {case}"
  z = SIZES[size]["channels"]
  decoded = latent[0], 1 + n * (latent[1] - 1), side * latent[2], side * latent[3], 3
  return {
    "video": draw(f"{tag} video", (b, frames, side * h, side * w, 3)),
    "latent": draw(f"{tag} latent", (*latent, z)),
    "encoded probe": draw(f"{tag} encoded", (b, 1 + (frames - 1) // n, h, w, z)),
    "decoded probe": draw(f"{tag} decoded", decoded),
  }  # fmt: skip


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Values of a tensor; those before the quantiser are large, so that codes differ."""
  return weight(name, shape) * (3 if name.startswith("quant_conv") else 1)


def reference(size: str) -> Any:
  import torch

  s, (frames, side) = SIZES[size], strides(size)
  if s["levels"]:
    from cosmos_tokenizer.networks import configs, discrete_video

    how = configs.discrete_video | dict(
      channels=s["width"], channels_mult=list(s["multipliers"]), num_res_blocks=s["blocks"],
      z_channels=s["inner"], levels=list(s["levels"]), embedding_dim=s["channels"],
      spatial_compression=side, temporal_compression=frames,
    )  # fmt: skip
    model = discrete_video.CausalDiscreteVideoTokenizer(**how)
    model.quantizer.dtype = torch.float64
  else:
    from diffusers import AutoencoderKLCosmos

    down, up = ([s["width"] * m for m in s[f"{key}multipliers"]] for key in ("", "decoder_"))
    model = AutoencoderKLCosmos(
      latent_channels=s["channels"], encoder_block_out_channels=(s["width"], *down),
      decode_block_out_channels=(*up, up[-1]), num_layers=s["blocks"],
      spatial_compression_ratio=side, temporal_compression_ratio=frames,
    )  # fmt: skip
  model = model.double().eval()
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(fill(name, tuple(tensor.shape))))
  return model


def main() -> None:
  import torch

  stored: dict[str, np.ndarray] = {}
  models = {size: reference(size) for size in SIZES}
  for size, case in CASES:
    model, tag = models[size], f"{size} {case}"
    v = {k: torch.from_numpy(value) for k, value in inputs(size, case).items()}
    first, last = lambda x: x.movedim(-1, 1), lambda x: x.movedim(1, -1)
    encoded, decoded = model.encode(first(v["video"])), model.decode(first(v["latent"]))
    if SIZES[size]["levels"]:
      indices, encoded, _ = encoded
      stored[f"{tag} indices"] = indices.numpy()
    else:
      encoded, decoded = encoded.latent_dist.mode(), decoded.sample
    encoded, decoded = last(encoded), last(decoded)
    for name, out in (("encoded", encoded), ("decoded", decoded)):
      stored[f"{tag} {name}"] = out.detach().numpy().astype(np.float32)
    if case == "clip":
      ((encoded * v["encoded probe"]).sum() + (decoded * v["decoded probe"]).sum()).backward()
  for size, model in models.items():
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    stored[f"{size} unused"] = np.array(idle, str)  # convolutions of NVIDIA's samplers
    stored |= gradients(model, f"{size} ")
  np.savez_compressed(Path(__file__).with_name("cosmos_tokenizer.npz"), **stored)


if __name__ == "__main__":
  main()
