"""Stable Video Diffusion's autoencoder: latents of Stable Diffusion, one per 8x8 pixels."""

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

NETWORK = "vae_svd"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(vae_svd.Config):
  """The network's sizes, its weights, and how many frames are decoded together.

  Attributes:
    weights: published weights in safetensors (runs/weights.py); None: random weights, the same in
      every run, for tests and plans.
    frames: number of frames decoded together, as memory allows; None: all.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Codec:
  """Frozen; a pytree whose leaves are its weights, so that it can be an argument of a jitted step.

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
    """Ratio of the latents to the network's own output; gives them about unit variance."""
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
    """Latents, of about unit variance, of video in [-1, 1].

    Args:
      video: each frame is encoded alone.
      keys: one per row, to sample latents; None: their means.
    """
    _, t, h, w, c = video.shape
    self.latent_shape((t, h, w, c))
    mean, log_var = self._model().encode(video)
    if keys is None:
      return SCALING * mean
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    return SCALING * (mean + jnp.exp(0.5 * log_var) * noise)

  def decode(self, latent: Float[Array, "B T h w Z"]) -> Float[Array, "B T H W 3"]:
    """The approximate inverse; each group of `frames` frames is decoded independently."""
    decode, together = self._model().decode, self.config.frames or latent.shape[1]
    parts = [latent[:, i : i + together] for i in range(0, latent.shape[1], together)]
    return jnp.concatenate([decode(part / SCALING) for part in parts], 1)

  def _model(self) -> vae_svd.Model:
    model = nnx.eval_shape(lambda: vae_svd.Model(self.config, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, self.params)
    return nnx.merge(graphdef, state)
