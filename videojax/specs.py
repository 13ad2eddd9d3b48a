"""Architectures and codecs with their sizes: finding their modules, building them, counting."""

import dataclasses
import functools
import importlib
import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from videojax.codecs import identity
from videojax.models.attention import compiling_for
from videojax.models.cond import Cond
from videojax.models.layers import ParamInfo, param_info
from videojax.scaling import flops
from videojax.scaling.flops import Product
from videojax.sharding import by_path

NO_MESH = jax.sharding.AbstractMesh((), ())
CODEC = "codec"  # key of the codec's parameters, which are frozen, beside the model's


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """An architecture with its sizes: the name of its module in videojax/models/, and its Config."""

  name: str
  config: Any

  @property
  def module(self) -> ModuleType:
    return importlib.import_module(f"videojax.models.{self.name}")

  @property
  def scan(self) -> bool:
    """Whether the blocks run in a compiled loop; blocks that differ in size cannot."""
    return getattr(self.config, "scan", False)

  def stream(self, shape: tuple[int, int, int, int]) -> int:
    """Number of activations passed between blocks for one clip [T,H,W,C], summed over blocks."""
    config = self.config
    if hasattr(config, "stream"):  # its blocks differ in size
      return config.stream(shape)
    tokens = math.prod(max(n // p, 1) for n, p in zip(shape, config.patch))
    return tokens * config.width * getattr(config, "depth", 1)

  @functools.cached_property
  def abstract(self) -> nnx.Module:
    """The model with shapes as parameters; nothing is allocated."""
    return nnx.eval_shape(lambda: self.module.Model(self.config, rngs=nnx.Rngs(0)))

  @functools.cached_property
  def info(self) -> dict[str, ParamInfo]:
    return param_info(self.abstract)

  def init(self, key: Key[Array, ""]) -> dict:
    """Fresh parameters as a nested dict; jittable."""
    return nnx.to_pure_dict(
      nnx.state(self.module.Model(self.config, rngs=nnx.Rngs(key)), nnx.Param)
    )

  @functools.cached_property
  def abstract_params(self) -> dict:
    return jax.eval_shape(lambda: self.init(jax.random.key(0)))

  def part(self, path: str) -> str:
    """The part that a parameter and its products are counted under: 'mlp', 'text', ..."""
    names, parts = path.split("/"), getattr(self.module, "PARTS", {})
    return next((parts[n] for n in names if n in parts), names[0])

  def products(self, x: jax.ShapeDtypeStruct, t: jax.ShapeDtypeStruct, cond: Cond) -> list[Product]:
    """The matrix products of one forward pass, with their parts; the arguments are shapes.

    They do not depend on kernel, parallelism or remat policy.
    """
    plain = dict(kernel="xla", context="auto", remat="none")
    plain = {name: value for name, value in plain.items() if hasattr(self.config, name)}
    config = dataclasses.replace(self.config, **plain)
    leaves, tree = jax.tree.flatten((x, t, cond))
    return _traced(ModelSpec(self.name, config), tuple(leaves), tree)

  @property
  def wider(self) -> "ModelSpec":
    """The same architecture twice as wide."""
    return ModelSpec(self.name, self.module.wider(self.config))

  def network(self, params: dict) -> Any:
    """The network with these parameters: (x, t, cond, key=) -> like x."""
    graphdef, state = nnx.split(self.abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


@functools.lru_cache(maxsize=1024)
def _traced(
  model: ModelSpec, leaves: tuple[jax.ShapeDtypeStruct, ...], tree: jax.tree_util.PyTreeDef
) -> list[Product]:
  x, t, cond = jax.tree.unflatten(tree, leaves)
  network = lambda params, x, t, cond: model.network(params)(x, t, cond)
  with compiling_for("cpu"), jax.sharding.use_abstract_mesh(NO_MESH):
    params = model.abstract_params
    parts = [model.part(path) for path in by_path(params)]
    return flops.trace(network, params, x, t, cond, parts=parts)


@dataclasses.dataclass(frozen=True)
class CodecSpec:
  """A codec with its settings: the name of its module in videojax/codecs/, and its Config."""

  name: str = "identity"
  config: Any = identity.Config()

  @property
  def module(self) -> ModuleType:
    return importlib.import_module(f"videojax.codecs.{self.name}")

  @functools.cached_property
  def network(self) -> ModelSpec | None:
    """The network that has the codec's weights; None: the codec has no weights."""
    name = self.module.NETWORK
    return None if name is None else ModelSpec(name, self.config)

  @property
  def info(self) -> dict[str, ParamInfo]:
    """ParamInfo of the codec's parameters, by their path beside the model's."""
    info = {} if self.network is None else self.network.info
    return {f"{CODEC}/{path}": value for path, value in info.items()}

  def init(self) -> dict:
    """Random parameters under the key CODEC, the same in every run; jittable."""
    return {} if self.network is None else {CODEC: self.network.init(jax.random.key(0))}

  @functools.cached_property
  def abstract_params(self) -> dict:
    return jax.eval_shape(self.init)

  def of(self, params: dict) -> Any:
    """The codec with its weights from `params`; with {}, only its shapes are available."""
    return self.module.Codec(params.get(CODEC), self.config)

  def encode_flops(self, shape: tuple[int, int, int, int]) -> int:
    """FLOPs of encoding one clip of this shape."""
    if self.network is None:
      return 0
    encode = lambda params, video: self.of(params).encode(video, None)
    video = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return flops.forward(flops.trace(encode, self.abstract_params, video))["total"]

  def decode_flops(self, shape: tuple[int, int, int, int]) -> int:
    """FLOPs of decoding one clip of this shape."""
    if self.network is None:
      return 0
    decode = lambda params, latent: self.of(params).decode(latent)
    latent = jax.ShapeDtypeStruct((1, *self.of({}).latent_shape(shape)), jnp.float32)
    return flops.forward(flops.trace(decode, self.abstract_params, latent))["total"]
