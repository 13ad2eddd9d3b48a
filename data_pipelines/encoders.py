"""The frozen networks that `encode` runs: a codec's encoder and a text encoder, on this machine.

Shapes: B batch, T H W of clips, t h w Z of latents, L text tokens, D their width.
"""

import dataclasses
import hashlib
import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from data_pipelines.clips import to_float
from data_pipelines.latent_files import CodecCard, TextCard
from videojax import settings
from videojax.codecs.cached import config_json
from videojax.config import from_json
from videojax.errors import ConfigError
from videojax.io import schema
from videojax.io.integrity import params_sha256
from videojax.io.tokenizer import Tokenizer
from videojax.models import t5
from videojax.runs import rundir, weights
from videojax.runs.program import load_codec
from videojax.runs.run_state import with_shardings
from videojax.scaling import flops
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings, path_name, put_batch
from videojax.specs import CODEC, CodecSpec, ModelSpec

FOR_TESTS = "nano", "tiny"  # names of SIZES that are not published
# What --text names -> the size in t5.SIZES that is published under this name.
TEXT_ENCODERS = {"t5": "t5_xxl", "umt5": "umt5_xxl"}


def mesh_for(batch: int) -> Mesh:
  """This process's devices, as many as divide a batch; parameters are sharded over them, too."""
  devices = jax.local_devices()
  ways = math.gcd(batch, len(devices))
  return make_mesh(MeshConfig(data=1, fsdp=ways), devices[:ways])


# --- codecs -----------------------------------------------------------------------------------


def codecs(codec: str, path: str | None) -> list[CodecSpec]:
  """The codecs that --codec and --weights can mean: a published one has several sizes.

  Raises:
    ConfigError: there is no such run or codec, it has no weights, or they are not given.
  """
  run = Path(codec)
  if (run / "checkpoints").is_dir():
    return [_of_run(run, path)]
  try:
    module = settings.module("videojax.codecs", codec, "codec", ("Config", "Codec"))
  except ValueError as error:
    raise ConfigError(f"--codec: {codec} is no run directory, and {error}") from None
  if module.NETWORK is None:
    raise ConfigError(f"--codec={codec} has no weights and costs nothing: nothing to cache")
  if path is None:
    raise ConfigError(f"--codec={codec} needs --weights=PATH, its published weights")
  network = importlib.import_module(f"videojax.models.{module.NETWORK}")
  sizes = {name: size for name, size in network.SIZES.items() if name not in FOR_TESTS}
  shared = getattr(network, "PUBLISHED", {})
  configs = [module.Config(**{**shared, **size, "weights": path}) for size in sizes.values()]
  if not configs:
    raise ConfigError(f"--codec={codec} has no published sizes: give the run that trained it")
  return [CodecSpec(codec, config) for config in configs]


def _of_run(run: Path, path: str | None) -> CodecSpec:
  if path is not None:
    raise ConfigError(f"--weights={path}: {run} has weights of its own; leave this out")
  e = from_json(rundir.read_config(run))
  if not e.learns_codec:
    raise ConfigError(f"--codec: {run} has trained {e.model.name}, which is no autoencoder")
  module = settings.module("videojax.codecs", e.model.name, "codec", ("Config", "Codec"))
  return CodecSpec(e.model.name, module.Config(**vars(e.model.config), weights=str(run)))


class ClipEncoder:
  """A codec with its weights on the devices of a mesh.

  Args:
    candidates: see `codecs`; the first whose tensors are those of the weights is taken.
    shape: (T,H,W,3) of the clips.
    mesh: of the devices.
  Attributes:
    stochastic: whether the codec gives a distribution, and not one latent.
    latent: (t,h,w,Z).
    card: what it is.

  Raises:
    ConfigError: the weights fit none of the candidates, or the clips do not fit the codec.
  """

  def __init__(self, candidates: Sequence[CodecSpec], shape: tuple[int, int, int, int], mesh: Mesh):
    self.spec, params = _loaded(candidates, mesh)
    try:
      self.latent = self.spec.of({}).latent_shape(shape)
    except ValueError as error:
      raise ConfigError(f"--codec: {error}") from None
    self._params, self._mesh = {CODEC: params}, mesh
    codec = self.spec.of({})
    self.stochastic = hasattr(codec, "moments") and not codec.certain
    self._moments = jax.jit(self._of)
    self.card: CodecCard = {
      "name": self.spec.name,
      "config": config_json(self.spec.config),
      "params_sha256": params_sha256(params),
      "flops_per_clip": self.spec.encode_flops(shape),
    }

  def _of(self, params: dict, video: jax.Array) -> dict[str, jax.Array]:
    codec = self.spec.of(params)
    if not self.stochastic:
      return {"mean": codec.encode(to_float(video))}
    return dict(zip(("mean", "log_var"), codec.moments(to_float(video))))

  def __call__(self, video: UInt8[np.ndarray, "B T H W 3"]) -> dict[str, np.ndarray]:
    """`mean` and, if stochastic, `log_var`, each float32 [B,t,h,w,Z]."""
    placed = put_batch(video, self._mesh, len(video))
    return jax.device_get(self._moments(self._params, placed))


def _placed(spec: CodecSpec | ModelSpec, mesh: Mesh) -> dict:
  """Shapes of a network's parameters, with their shardings on a mesh."""
  axes, abstract = {path: info.axes for path, info in spec.info.items()}, spec.abstract_params
  return with_shardings(abstract, param_shardings(abstract, axes, mesh))


def _loaded(candidates: Sequence[CodecSpec], mesh: Mesh) -> tuple[CodecSpec, dict]:
  """The first candidate that the weights fit, and its parameters."""
  errors = []
  for spec in candidates:
    try:
      return spec, load_codec(spec, _placed(spec, mesh)[CODEC], mesh)
    except ConfigError as error:
      errors.append(error)
  raise errors[0]


# --- text -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TextOptions:
  """A text encoder, by the flags of `encode`.

  Attributes:
    text: 't5' or 'umt5'.
    text_weights: safetensors, or a directory with them; its config.json has the sizes, which are
      those of the XXL encoder where there is none.
    tokenizer: the file that belongs to the weights.
    length: L; longer captions are cut.
  """

  text: str
  text_weights: str
  tokenizer: str
  length: settings.Count

  def __post_init__(self) -> None:
    settings.check(self)


class Published(TypedDict):
  """What a config.json of transformers says of an encoder's sizes."""

  vocab_size: int
  d_model: int
  num_layers: int
  num_heads: int
  d_kv: int
  d_ff: int


class TextEncoder:
  """T5 or umT5 with its tokenizer, on the devices of a mesh.

  Attributes:
    card: what it is.

  Raises:
    ConfigError: weights or tokenizer are missing, damaged, or do not fit each other.
  """

  def __init__(self, options: TextOptions, mesh: Mesh):
    path, tokenizer = Path(options.text_weights), Path(options.tokenizer)
    self.config, self.length, self._mesh = _text_config(options.text, path), options.length, mesh
    self._tokenizer = Tokenizer.read(tokenizer)
    self._tokenizer.check_table(self.config.vocab)
    spec = ModelSpec("t5", self.config)
    abstract = _placed(spec, mesh)
    have = weights.load(path, spec.module, spec.config, spec.info, by_path(abstract))
    self._params = jax.tree_util.tree_map_with_path(lambda p, _: have[path_name(p)], abstract)
    run = lambda params, tokens, mask: spec.network(params)(tokens, mask)
    self._run = jax.jit(run)
    row = jax.ShapeDtypeStruct((1, self.length), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, self.length), jnp.bool_)
    products = flops.trace(run, abstract, row, mask)
    self.card: TextCard = {
      "name": options.text,
      "config": config_json(self.config),
      "params_sha256": params_sha256(self._params),
      "tokenizer_sha256": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
      "length": self.length,
      "width": self.config.width,
      "flops_per_clip": flops.forward(products)["total"],
    }

  def __call__(self, captions: Sequence[str]) -> tuple[list[Float[np.ndarray, "_ D"]], int]:
    """Embeddings of each caption's own tokens, and how many captions were cut."""
    ids, mask, cut = self._tokenizer.encode(captions, self.length)  # [B,L]
    place = lambda x: put_batch(x, self._mesh, len(captions))
    found = jax.device_get(self._run(self._params, place(ids), place(mask)))  # [B,L,D]
    return [row[:n] for row, n in zip(found, mask.sum(1))], cut


def _text_config(name: str, path: Path) -> t5.Config:
  """The sizes of an encoder: of its config.json, or the published ones."""
  size: dict[str, Any] = dict(t5.SIZES[TEXT_ENCODERS[name]])
  file = (path if path.is_dir() else path.parent) / "config.json"
  if file.exists():
    read = schema.read_as(file, Published)
    size |= dict(
      vocab=read["vocab_size"], width=read["d_model"], depth=read["num_layers"],
      num_heads=read["num_heads"], head_dim=read["d_kv"], hidden=read["d_ff"],
    )  # fmt: skip
  try:
    return t5.Config(**size)
  except ValueError as error:
    raise ConfigError(f"{file}: {error}") from None
