"""Tensors from generators seeded by their names: the same here and in a reference."""

import zlib
from typing import Any

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Any tensor of the reference's shape: kernels keep variances, gains are about one."""
  if len(shape) > 1:
    return draw(name, shape) / np.sqrt(np.prod(shape[1:]))
  return 0.1 * draw(name, shape) + name.endswith("weight")


def gradients(model: Any, tag: str = "", prefix: str = "") -> dict[str, np.ndarray]:
  """What is stored of a PyTorch module's gradients (parity.Reference reads it).

  Names, shapes, norms, and each gradient along one direction of its space: any wrong layout shows.

  Args: tag: of the keys. prefix: of the names. Parameters without a gradient are left out.
  """
  named = {prefix + name: p.grad for name, p in model.named_parameters()}
  grads = {name: g.numpy() for name, g in named.items() if g is not None}
  along = [np.vdot(g, draw(f"{name} probe", g.shape)) for name, g in grads.items()]
  return {
    f"{tag}names": np.array(list(grads)),
    f"{tag}shapes": np.array([str(g.shape) for g in grads.values()]),
    f"{tag}norms": np.array([np.linalg.norm(g) for g in grads.values()]),
    f"{tag}along": np.array(along),
  }
