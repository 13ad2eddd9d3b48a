"""What codecs with a network share: shapes, sampling, statistics of latents, any length of clip.

A network has `encode(video, frames) -> mean, log variance` and `decode(latent, frames)`; its file
says by what the latents are shifted and scaled (`statistics`) to have zero mean and unit variance,
or the codec finds it among the weights.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from videojax.codecs.tiles import in_tiles
from videojax.settings import Count


@dataclasses.dataclass(frozen=True)
class Loaded:
  """Settings of every codec with a network; its Config adds them to the network's sizes.

  Attributes:
    weights: published weights in safetensors (runs/weights.py), or the directory of the run that
      trained the network; None: random weights, the same in every run, for tests and plans.
    frames: number of latent frames processed together after the first, as memory allows; None: all.
      The result is the same, unless the codec's Config says otherwise.
    tile: latent positions along a side of the tiles that frames are cut into (tiles.py), if a whole
      frame does not fit into memory; None: whole frames. The result differs a little.
  """

  weights: str | None = None
  frames: Count | None = None
  tile: Count | None = None


@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """Frozen; a pytree whose leaves are its weights, so that it can be an argument of a jitted step.

  A codec is a subclass that names its network.

  Attributes:
    params: of the network, a nested dict.
    config: its sizes, `weights` and `frames`.
    network: the network's file.
    certain: whether latents are no distribution; then their log variance says nothing.
  """

  params: Any
  config: Any
  network: ClassVar[Any]

  def __init_subclass__(cls) -> None:
    jax.tree_util.register_dataclass(cls, data_fields=["params"], meta_fields=["config"])

  @property
  def certain(self) -> bool:
    return False

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position in (t, h, w); in time after the first frame if it is above 1."""
    return self.config.strides

  @property
  def scaling(self) -> float:
    """Ratio of the latents to the network's own output, if it is one number."""
    return float(1 / np.ravel(self.statistics[1])[0])

  @property
  def statistics(self) -> tuple[Any, Any]:
    """(mean, deviation) [Z] of the network's latents."""
    return self.network.statistics(self.config)

  def _broadcast(self, frames: int) -> tuple[Array, Array]:
    """The statistics of latents with this number of frames, to broadcast over [B,t,h,w,Z]."""
    shaped = lambda values: jnp.asarray(values, jnp.float32).reshape(1, 1, 1, 1, -1)
    mean, deviation = self.statistics
    return shaped(mean), shaped(deviation)

  def latent_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(T,H,W,3) of a clip -> of its latent; see the function."""
    return latent_shape(self.config, shape)

  def moments(
    self, video: Float[Array, "B T H W 3"]
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Mean and log variance of the scaled latents of video in [-1, 1]."""
    _, t, h, w, c = video.shape
    frames = self.latent_shape((t, h, w, c))[0]
    encode = lambda x: self._model().encode(x, self.config.frames)
    mean, log_var = self._tiled(encode, video, self.strides[1:])
    shift, scale = self._broadcast(frames)
    return (mean - shift) / scale, log_var - 2 * jnp.log(scale)

  def encode(
    self, video: Float[Array, "B T H W 3"], keys: Key[Array, " B"] | None = None
  ) -> Float[Array, "B t h w Z"]:
    """Latents, of about unit variance, of video in [-1, 1].

    Args: keys: one per row, to sample latents; None: their means.
    """
    mean, log_var = self.moments(video)
    return mean if keys is None or self.certain else drawn(mean, log_var, keys)

  def decode(self, latent: Float[Array, "B t h w Z"]) -> Float[Array, "B T H W 3"]:
    """The approximate inverse of `encode`."""
    shift, scale = self._broadcast(latent.shape[1])
    decode = lambda x: self._model().decode(x, self.config.frames)
    return self._tiled(decode, latent * scale + shift, (1, 1))

  def _tiled(self, run: Callable[[Array], Any], x: Array, unit: tuple[int, int]) -> Any:
    """Applies the network to whole frames or to their tiles; see `in_tiles`."""
    return run(x) if self.config.tile is None else in_tiles(run, x, self.config.tile, unit)

  def _model(self) -> Any:
    model = nnx.eval_shape(lambda: self.network.Model(self.config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, self.params)
    return nnx.merge(graphdef, state)


def latent_shape(config: Any, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
  """(T,H,W,3) of a clip -> of its latent.

  Args: config: has strides (pixels per latent position in t, h, w) and channels.
  Raises:
    ValueError: height or width is not a multiple of the stride, or frames are left over in time.
  """
  (t, h, w, _), (i, j, k) = shape, config.strides
  if h % j or w % k:
    raise ValueError(f"a clip of {h}x{w} does not divide into latent positions of {j}x{k} pixels")
  if (t - 1) % i:
    low = 1 + (t - 1) // i * i
    raise ValueError(
      f"a clip of {t} frames does not fit a codec that merges {i} frames after the first: use "
      f"1 + {i} k frames, e.g. {low} or {low + i}"
    )
  return 1 + (t - 1) // i, h // j, w // k, config.channels


def in_use(config: Any) -> Any:
  """The sizes of a trained network without its discriminator, which only its training uses."""
  return dataclasses.replace(config, critic=None) if getattr(config, "critic", None) else config


def drawn(
  mean: Float[Array, "B t h w Z"], log_var: Float[Array, "B t h w Z"], keys: Key[Array, " B"]
) -> Float[Array, "B t h w Z"]:
  """One sample of each row's latents; a row's noise is its key's."""
  noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
  return mean + jnp.exp(0.5 * log_var) * noise
