"""Compares a network with a reference whose outputs and gradients a make_*.py has stored."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.drawn import draw
from videojax.io.tensors import write
from videojax.runs import weights
from videojax.sharding import MeshConfig, by_path, make_mesh
from videojax.specs import ModelSpec

Names = Mapping[str, tuple[str, str]]  # path -> (name in the reference, layout there)


class Reference:
  """A reference's tensors: their names, shapes, and the norms and directions of gradients.

  Args:
    stored: the npz; its keys begin with `tag`.
    fill: (name, shape) -> the values that the reference was filled with.
  """

  def __init__(
    self, stored: Mapping[str, np.ndarray], model: ModelSpec, names: Names,
    fill: Callable[[str, tuple[int, ...]], np.ndarray], tag: str = "",
  ):  # fmt: skip
    of = lambda key: stored[f"{tag}{key}"]
    shapes = (tuple(int(n) for n in s.strip("(),").split(",") if n) for s in of("shapes"))
    self.shapes = dict(zip(of("names").tolist(), shapes))
    self.norms = dict(zip(of("names").tolist(), of("norms")))
    self.along = dict(zip(of("names").tolist(), of("along")))
    self.model, self.names, self.fill = model, names, fill

  def ours(self, value: Callable[[str], np.ndarray]) -> Any:
    """Our parameters, each from `value(name in the reference)`."""

    def one(path: Any, leaf: Any) -> jax.Array:
      name, layout = self.names["/".join(key.key for key in path)]
      return jnp.asarray(weights.from_torch(value(name), layout, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(one, self.model.abstract_params)

  @property
  def params(self) -> Any:
    return self.ours(lambda name: self.fill(name, self.shapes[name]))

  def there(self) -> dict[str, tuple[int, ...]]:
    """Names and shapes of our parameters in the reference."""
    ours = by_path(self.model.abstract_params)
    return {
      name: weights.there(layout, ours[path].shape, self.model.info[path].inputs)
      for path, (name, layout) in self.names.items()
    }

  def check_gradients(self, grads: Any, tolerance: float = 1e-4) -> None:
    """Compares each gradient's norm, and its part along one direction that shows a wrong layout."""
    probes = by_path(self.ours(lambda n: draw(f"{n} probe", self.shapes[n])))
    for path, g in by_path(grads).items():
      g, name = np.asarray(g, np.float64), self.names[path][0]
      norm = self.norms[name]
      if norm < 1e-9:  # zero, as of a bias that is added to all keys alike
        assert np.linalg.norm(g) < 1e-3, path
        continue
      assert abs(np.linalg.norm(g) - norm) < tolerance * norm, path
      assert abs(np.vdot(g, probes[path]) - self.along[name]) < 10 * tolerance * norm, path


def check_files(
  directory: Path, module: ModuleType, model: ModelSpec, params: Any, others: Sequence[str] = ()
) -> set[str]:
  """Files with either layout of names give the parameters that were written.

  Args: others: tensors in the original file that belong to other networks.
  Returns: the names in the original layout, if there are two.
  """
  params, paths, original = by_path(params), [directory / "published"], {}
  weights.save(paths[0], module, model.config, model.info, params)
  if "original" in getattr(module, "LAYOUTS", ()):
    original = module.names(model.config, "original")
    tensors = {
      name: weights.to_torch(np.asarray(params[path]), layout, model.info[path].inputs)
      for path, (name, layout) in original.items()
    }
    paths.append(directory / "original.safetensors")
    write(paths[1], tensors | {name: np.ones(2, np.float32) for name in others})
  mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  abstract = {p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for p, x in params.items()}
  for path in paths:
    have = weights.load(path, module, model.config, model.info, abstract)
    assert all((have[p] == params[p]).all() for p in params)
  return {name for name, _ in original.values()}
