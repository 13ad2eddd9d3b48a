"""The codecs that `encode` runs, on this machine's devices.

Shapes: B batch, T H W of clips, t h w Z of latents.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from data_pipelines.clips import to_float
from data_pipelines.latent_files import CodecCard
from videojax import settings
from videojax.codecs.autoencoder import in_use
from videojax.codecs.cached import config_json
from videojax.config import from_json
from videojax.errors import ConfigError
from videojax.io.integrity import params_sha256
from videojax.runs import rundir
from videojax.runs.program import load_codec
from videojax.runs.run_state import placed
from videojax.sharding import put_batch
from videojax.specs import CODEC, CodecSpec

FOR_TESTS = "nano", "tiny"  # names of SIZES that are not published


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
  return CodecSpec(e.model.name, module.Config(**vars(in_use(e.model.config)), weights=str(run)))


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


def _loaded(candidates: Sequence[CodecSpec], mesh: Mesh) -> tuple[CodecSpec, dict]:
  """The first candidate that the weights fit, and its parameters."""
  errors = []
  for spec in candidates:
    try:
      return spec, load_codec(spec, placed(spec, mesh)[CODEC], mesh)
    except ConfigError as error:
      errors.append(error)
  raise errors[0]
