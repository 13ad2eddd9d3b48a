"""Small experiments and filled parameters that several tests use."""

import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from videojax.config import Experiment, resolve
from videojax.models import context
from videojax.models.cond import Cond
from videojax.scaling import flops
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings, path_name
from videojax.specs import ModelSpec

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


# Data with nothing to simulate, of TINY's shape; to set as `data`.
RANDOM_LATENTS = {
  "latents": {"name": "random_latents", "frames": 4, "height": 16, "width": 16, "channels": 3}
}


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


def write_config(path: Path, values: dict[str, Any]) -> None:
  """A config file for `python -m videojax.launch --config=`."""
  path.write_text(
    "from ml_collections import ConfigDict\nfrom videojax.config import complete\n\n\n"
    f"def get_config():\n  return complete(ConfigDict({values!r}))\n"
  )


def _copy(value: Any) -> Any:
  return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def filled(params: Any, scale: float = 0.1) -> Any:
  """Every parameter, the zero-initialised ones too, from a generator seeded by its path."""

  def one(path, leaf):
    rng = np.random.default_rng(zlib.crc32(path_name(path).encode()))
    return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(one, params)


def draw(shape: tuple[int, ...], seed: int = 0) -> Any:
  """Standard normal numbers."""
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def relative_error(got: Any, want: Any) -> float:
  """Largest difference of any leaf, relative to that leaf's norm."""

  def one(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)

  return max(jax.tree.leaves(jax.tree.map(one, got, want)))


def together(tree: Any) -> dict[str, Any]:
  """Leaves by path; mixing factors as one: each is a number, and its gradient can cancel."""
  leaves = by_path(tree)
  factors = [leaves.pop(path) for path in sorted(leaves) if path.endswith(("factor", "merge/s"))]
  return leaves | ({"factors": np.stack(factors)} if factors else {})


def inputs_of(
  config: Any, shape: tuple[int, ...], levels: int = 1, length: int = 0, rows: int = 1
) -> tuple[Any, Any, Cond]:
  """(x, t, cond) as shapes: clips of the shape (T, H, W, C) with every condition of the config.

  Args:
    levels: of noise, per clip.
    length: of text and image tokens.
  """
  of = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((rows, *shape), dtype)
  cond: dict[str, Any] = {}
  if config.text:
    cond["text"] = (
      of(length, dtype=jnp.uint8) if config.text == "bytes" else of(length, config.text)
    )
    cond["text_mask"] = of(length, dtype=bool)
  if "image" in config.uses:
    tokens = getattr(config, "image_tokens", length)
    cond["image"] = of(tokens, getattr(config, "image", config.text))
    cond["image_mask"] = of(tokens, dtype=bool)
  if config.classes:
    cond["label"] = of(dtype=jnp.int32)
  if config.known:
    cond |= dict(known_mask=of(shape[0], 1, 1, 1), known=of(*shape))
  cond["scalars"] = {name: of() for name in config.scalars}
  cond["volumes"] = {name: of(*shape[:3], channels) for name, channels in config.volumes}
  return of(*shape), of(levels), Cond(**cond)


def products_of(model: ModelSpec, shape: tuple[int, ...], levels: int = 1, length: int = 0) -> Any:
  """The products of a network's forward pass of one clip."""
  return model.products(*inputs_of(model.config, shape, levels, length))


def count_jaxpr(jaxpr: Any) -> int:
  """FLOPs of every dot_general and convolution of a jaxpr; a scan's body times its length.

  Of any jaxpr, a gradient's too, and by other code than scaling/flops.py's.
  """
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contract, _), _ = eqn.params["dimension_numbers"]
      depth = np.prod([eqn.invars[0].aval.shape[i] for i in contract], dtype=int)
      total += 2 * int(np.prod(eqn.outvars[0].aval.shape, dtype=int) * depth)
    elif eqn.primitive.name == "conv_general_dilated":
      kernel = eqn.invars[1].aval.shape
      out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
      per_output = int(np.prod(kernel, dtype=int)) // out_features
      total += 2 * int(np.prod(eqn.outvars[0].aval.shape, dtype=int)) * per_output
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    items = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr"))
    inner = (getattr(item, "jaxpr", item) for item in items)
    total += times * sum(count_jaxpr(each) for each in inner if hasattr(each, "eqns"))
  return total


def check_flops(model: ModelSpec, shape: tuple[int, ...], levels: int = 1, length: int = 0):
  """The traced FLOPs are what the jaxprs of a forward and a backward pass have.

  Attention must not compute again in the backward pass: the fixture `nothing_computed_again`.
  """
  inputs = inputs_of(model.config, shape, levels, length)
  loss = lambda p, x, t, cond: jnp.square(model.network(p)(x, t, cond)).sum()
  count = lambda f: count_jaxpr(jax.make_jaxpr(f)(model.abstract_params, *inputs).jaxpr)
  products, forward = model.products(*inputs), count(loss)
  assert flops.forward(products)["total"] == forward
  # A gradient's jaxpr counts the zeros that a strided convolution puts between its outputs.
  if getattr(model.config, "multipliers", (1,)) == (1,):
    assert flops.backward(products) == count(jax.grad(loss)) - forward


def check_mesh(model: ModelSpec, params: Any, coder: Any, video: Any) -> None:
  """A mesh of eight devices does not show in latents and video.

  Args: coder: parameters -> codec.
  """

  def run(params: Any, video: Any) -> tuple[Any, Any]:
    latent = coder(params).encode(video)
    return latent, coder(params).decode(latent)

  want = jax.jit(run)(params, video)
  mesh = make_mesh(MeshConfig(data=2, fsdp=2, seq=2))
  with jax.set_mesh(mesh):
    axes = {path: info.axes for path, info in model.info.items()}
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    placed = jax.device_put(params, param_shardings(params, axes, mesh))
    got = jax.device_get(jax.jit(run)(placed, jax.device_put(video, rows)))
  assert relative_error(got, jax.device_get(want)) < 1e-5


def plain_attention(q: Any, k: Any, v: Any, ids_q: Any = None, ids_k: Any = None) -> Any:
  """Attention by another's code, whose backward pass computes nothing again."""
  mask = None if ids_k is None else context.allowed(ids_q, ids_k)
  return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
