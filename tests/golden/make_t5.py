"""Outputs and gradients of T5's and umT5's encoders, for tests/models/test_t5.py.

  git clone https://github.com/Wan-Video/Wan2.1
  git -C Wan2.1 checkout 9737cba9c1c3c4d04b33fcad41c111989865d315
  pip install torch==2.13.0 transformers==5.24.0 ftfy==6.3.1 regex
  python -m tests.golden.make_t5 Wan2.1

Those of transformers ("diffusers" names) and of Wan ("original" names). Weights and inputs come
from generators seeded by their names (drawn.py), here and in the test, so that only results are
stored. Computed in float64, but for the norms' statistics and Wan's softmax, which the references
have in float32. Of the published sizes: how many parameters there are, and a digest of their names.
"""

import hashlib
import importlib
import sys
import types
from pathlib import Path

import numpy as np

from tests.golden.drawn import draw, gradients, weight

SIZES = dict(vocab=48, width=24, depth=3, num_heads=4, head_dim=5, hidden=40)
POSITIONS = {"t5": "first", "umt5": "every"}
# Tokens in each caption, then padding: in 'far' some distances are in the last buckets.
LENGTHS = {"short": (9, 4, 1), "far": (170, 141)}
EVERY = {"short": 1, "far": 10}  # which tokens' outputs are stored
CASES = [(variant, layout) for variant in POSITIONS for layout in ("diffusers", "original")]


def inputs(case: str) -> dict[str, np.ndarray]:
  """tokens [B,L] int32, padding too; mask [B,L]; what the output [B,L,D] is multiplied by."""
  lengths = np.array(LENGTHS[case])
  shape = (len(lengths), max(lengths))
  tokens = (1000 * np.abs(draw(f"{case} tokens", shape))).astype(np.int32) % SIZES["vocab"]
  mask = np.arange(shape[1]) < lengths[:, None]
  return dict(tokens=tokens, mask=mask, probe=draw(f"{case} probe", (*shape, SIZES["width"])))


def digest(names) -> str:
  return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def of_transformers(variant: str, sizes: dict):
  import transformers

  config, model = {
    "t5": (transformers.T5Config, transformers.T5EncoderModel),
    "umt5": (transformers.UMT5Config, transformers.UMT5EncoderModel),
  }[variant]
  made = model(config(
    vocab_size=sizes["vocab"], d_model=sizes["width"], num_layers=sizes["depth"],
    num_heads=sizes["num_heads"], d_kv=sizes["head_dim"], d_ff=sizes["hidden"],
    feed_forward_proj="gated-gelu", attn_implementation="eager",
  ))  # fmt: skip
  assert made.shared.weight is made.encoder.embed_tokens.weight
  return made


def of_wan(variant: str, sizes: dict):
  import torch

  torch.cuda.current_device = lambda: 0  # Wan asks for it on import; everything here is on the CPU
  package = types.ModuleType("wan_modules")  # without its __init__, which imports all of Wan
  package.__path__ = [str(Path(sys.argv[1]) / "wan" / "modules")]
  sys.modules["wan_modules"] = package
  return importlib.import_module("wan_modules.t5").T5Encoder(
    vocab=sizes["vocab"], dim=sizes["width"], dim_attn=sizes["num_heads"] * sizes["head_dim"],
    dim_ffn=sizes["hidden"], num_heads=sizes["num_heads"], num_layers=sizes["depth"],
    num_buckets=32, shared_pos=POSITIONS[variant] == "first",
  )  # fmt: skip


MAKE = {"diffusers": of_transformers, "original": of_wan}


def results(variant: str, layout: str) -> dict[str, np.ndarray]:
  import torch

  model, stored = MAKE[layout](variant, SIZES).double().eval(), {}
  with torch.no_grad():
    for name, tensor in model.named_parameters():
      tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
  for case in LENGTHS:
    v = {name: torch.from_numpy(x) for name, x in inputs(case).items()}
    tokens, mask = v["tokens"].long(), v["mask"].long()
    out = model(tokens, mask)
    out = out if layout == "original" else out.last_hidden_state
    stored[case] = out[:, :: EVERY[case]].detach().numpy().astype(np.float32)
    if case == "far":
      (out * v["probe"]).sum().backward()
  stored |= gradients(model)
  return stored


def published(variant: str, layout: str) -> dict[str, np.ndarray]:
  import torch

  xxl = dict(width=4096, depth=24, num_heads=64, head_dim=64, hidden=10240)
  with torch.device("meta"):
    made = MAKE[layout](variant, dict(xxl, vocab={"t5": 32128, "umt5": 256384}[variant]))
    named = dict(made.named_parameters())
  count = sum(tensor.numel() for tensor in named.values())
  return {"xxl count": np.array(count), "xxl digest": np.array(digest(named))}


def main() -> None:
  stored = {}
  for variant, layout in CASES:
    found = results(variant, layout) | published(variant, layout)
    stored |= {f"{variant} {layout} {name}": value for name, value in found.items()}
  np.savez_compressed(Path(__file__).with_name("t5.npz"), **stored)


if __name__ == "__main__":
  main()
