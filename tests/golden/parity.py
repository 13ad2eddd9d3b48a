"""Compares a network with a reference whose outputs and gradients a make_*.py has stored."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.golden.drawn import draw
from videojax.runs import weights
from videojax.sharding import by_path
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
