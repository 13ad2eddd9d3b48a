"""Small experiments and filled parameters that several tests use."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from videojax.config import Experiment, resolve
from videojax.models import context
from videojax.sharding import path_name

TINY: dict[str, Any] = {
  "total_steps": 4,
  "batch_size": 8,
  "model": {
    "name": "dit", "width": 32, "depth": 2, "num_heads": 2, "patch": (2, 4, 4), "channels": 3,
    "known": "last", "dtype": "float32",
  },
  "data": {"worlds": {"name": "worlds", "size": 16, "frames": 4, "known": 2, "scenes": ("one",)}},
  "denoiser": {"prediction": "velocity"},
  "objective": {},
  "condition": {"known_frames": 2},
  "optim": {"learning_rate": 1e-3},
  "sampler": {"steps": 2},
  "checkpoint": {"save_every_steps": 2},
  "evaluate": {
    "splits": {"id": {"split": "id"}}, "clips": 4, "coherence_clips": 4, "reference_clips": 16,
    "batch_size": 4,
  },
}  # fmt: skip


def tiny(**overrides: Any) -> Experiment:
  """TINY with dotted overrides, dots written as '__': tiny(model__depth=4)."""
  return resolve(tiny_dict(**overrides))


def tiny_dict(**overrides: Any) -> dict[str, Any]:
  values = _copy(TINY)
  for dotted, value in overrides.items():
    *path, last = dotted.split("__")
    below = values
    for name in path:
      below = below.setdefault(name, {})
    below[last] = value
  return values


def _copy(value: Any) -> Any:
  return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def filled(params: Any, scale: float = 0.1) -> Any:
  """Every parameter, the zero-initialised ones too, from a generator seeded by its path."""

  def one(path, leaf):
    rng = np.random.default_rng(zlib.crc32(path_name(path).encode()))
    return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(one, params)


def relative_error(got: Any, want: Any) -> float:
  """Largest difference of any leaf, relative to that leaf's norm."""

  def one(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)

  return max(jax.tree.leaves(jax.tree.map(one, got, want)))


def plain_attention(q: Any, k: Any, v: Any, ids_q: Any = None, ids_k: Any = None) -> Any:
  """Attention by another's code, whose backward pass computes nothing again."""
  mask = None if ids_k is None else context.allowed(ids_q, ids_k)
  return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
