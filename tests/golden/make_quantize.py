"""Codes, indices, losses and gradients of NVIDIA's FSQuantizer and LFQuantizer.

For tests/models/test_quantize.py.

  git clone https://github.com/NVIDIA/Cosmos-Tokenizer
  git -C Cosmos-Tokenizer checkout 3584ae752ce8ebdbe06a420bf60d7513c0e878cc
  pip install torch==2.13.0 einops==0.8.2 loguru
  PYTHONPATH=Cosmos-Tokenizer python -m tests.golden.make_quantize

Inputs come from generators seeded by their names (drawn.py), here and in the test. In float64.
"""

from pathlib import Path

import numpy as np

from tests.golden.drawn import draw

LEVELS = {"fsq video": (8, 8, 8, 5, 5, 5), "fsq small": (7, 4, 3)}
# The reference cuts logarithms at 1e-5; at this temperature no probability is below it.
BITS, TEMPERATURE, SPREAD = 4, 1.0, 0.1


def inputs(case: str) -> tuple[np.ndarray, np.ndarray]:
  """Numbers [B,T,H,W,D], and what their codes are multiplied by."""
  lfq = case == "lfq"
  shape = (1 if lfq else 2, 3, 4, 5, BITS if lfq else len(LEVELS[case]))
  return draw(f"{case} z", shape) * (SPREAD if lfq else 1.5), draw(f"{case} probe", shape)


def main() -> None:
  import torch
  from cosmos_tokenizer.modules.quantizers import FSQuantizer, LFQuantizer

  stored: dict[str, np.ndarray] = {}
  for case in (*LEVELS, "lfq"):
    z, probe = (torch.from_numpy(x) for x in inputs(case))
    z.requires_grad_()
    theirs = z.movedim(-1, 1)
    if case == "lfq":
      size = dict(codebook_size=2**BITS, codebook_dim=BITS, default_temp=TEMPERATURE)
      model = LFQuantizer(**size, entropy_loss=True)
      model.num_codebooks = 1  # which it reads, but does not set
      codes, loss, (indices, *_) = model(theirs)
      stored[f"{case} loss"] = loss.detach().numpy().reshape(())
    else:
      model = FSQuantizer(list(LEVELS[case]), dtype=torch.float64)
      indices, codes, loss = model(theirs)
    codes = codes.movedim(1, -1)
    ((codes * probe).sum() + loss.sum()).backward()
    stored |= {f"{case} codes": codes.detach().numpy(), f"{case} gradient": z.grad.numpy()}
    stored[f"{case} indices"] = indices.numpy()
  np.savez_compressed(Path(__file__).with_name("quantize.npz"), **stored)


if __name__ == "__main__":
  main()
