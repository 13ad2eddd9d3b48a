"""Latents of Stable Diffusion's space, 8x8 pixels each, by Stable Video Diffusion's autoencoder."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from videojax.models import vae_svd
from videojax.models.vae_svd import SCALING
from videojax.settings import Count

NETWORK = "vae_svd"  # videojax/models/: what its weights are of


@dataclasses.dataclass(frozen=True)
class Config(vae_svd.Config):
  """The network's sizes and, beside them:

  Attributes:
    weights: published ones in safetensors (runs/weights.py); None: random ones, the same in every
      run, which serve tests and plans.
    frames: decoded together, as many as memory allows; None: all.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Codec:
  """Frozen; a pytree whose leaves are its weights, so that it is an argument of a compiled step.

  Attributes:
    params: of vae_svd.Model, a nested dict.
    config: its sizes.
  """

  params: Any
  config: Config

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position in (t, h, w)."""
    return (1, self.config.stride, self.config.stride)

  @property
  def scaling(self) -> float:
    """Latents over what the network itself makes: by this they have about unit variance."""
    return SCALING

  def latent_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(T,H,W,3) of a clip -> of its latent.

    Raises:
      ValueError: height or width is not a multiple of the stride.
    """
    t, h, w, _ = shape
    s = self.config.stride
    if h % s or w % s:
      raise ValueError(f"a clip of {h}x{w} does not divide into latent positions of {s}x{s} pixels")
    return t, h // s, w // s, self.config.channels

  def encode(
    self, video: Float[Array, "B T H W 3"], keys: Key[Array, " B"] | None = None
  ) -> Float[Array, "B T h w Z"]:
    """Latents of video in [-1, 1], of about unit variance: means, or samples where there are keys.

    Args:
      video: each frame is encoded alone.
      keys: one per row.
    """
    _, t, h, w, c = video.shape
    self.latent_shape((t, h, w, c))
    mean, log_var = self._model().encode(video)
    if keys is None:
      return SCALING * mean
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    return SCALING * (mean + jnp.exp(0.5 * log_var) * noise)

  def decode(self, latent: Float[Array, "B T h w Z"]) -> Float[Array, "B T H W 3"]:
    """The inverse, nearly; `frames` at a time, which then do not see each other."""
    decode, together = self._model().decode, self.config.frames or latent.shape[1]
    parts = [latent[:, i : i + together] for i in range(0, latent.shape[1], together)]
    return jnp.concatenate([decode(part / SCALING) for part in parts], 1)

  def _model(self) -> vae_svd.Model:
    model = nnx.eval_shape(lambda: vae_svd.Model(self.config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, self.params)
    return nnx.merge(graphdef, state)
