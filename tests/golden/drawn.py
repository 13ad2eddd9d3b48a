"""Tensors from generators seeded by their names: the same here and in a reference."""

import zlib

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Any tensor of the reference's shape: kernels keep variances, gains are about one."""
  if len(shape) > 1:
    return draw(name, shape) / np.sqrt(np.prod(shape[1:]))
  return 0.1 * draw(name, shape) + name.endswith("weight")
