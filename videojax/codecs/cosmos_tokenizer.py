"""NVIDIA's Cosmos tokenizers of video; CV's latents are normalised per channel and frame."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from videojax.codecs.autoencoder import Autoencoder
from videojax.models import cosmos_tokenizer
from videojax.models.quantize import FSQ
from videojax.settings import Count

NETWORK = "cosmos_tokenizer"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(cosmos_tokenizer.Config):
  """The network's sizes, its weights, and how many frames are processed together.

  Attributes:
    weights: published weights in safetensors (runs/weights.py); None: random weights, the same in
      every run, for tests and plans.
    frames: number of latent frames processed together after the first, as memory allows; None: all.
      The result is the same. The network's middle always sees the whole clip.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Codec(Autoencoder):
  """See Autoencoder; latents are certain, so samples are their means. DV's latents are codes."""

  network: ClassVar[Any] = cosmos_tokenizer

  def moments(
    self, video: Float[Array, "B T H W 3"]
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Scaled latents of video in [-1, 1], and their log variance, -inf."""
    _, t, h, w, c = video.shape
    frames = self.latent_shape((t, h, w, c))[0]
    latent, log_var = self._model().encode(video, self.config.frames)
    shift, scale = self._of_frames(frames)
    return (latent - shift) / scale, log_var

  def decode(self, latent: Float[Array, "B t h w Z"]) -> Float[Array, "B T H W 3"]:
    """The approximate inverse of `encode`."""
    shift, scale = self._of_frames(latent.shape[1])
    return self._model().decode(latent * scale + shift, self.config.frames)

  def tokens(self, video: Float[Array, "B T H W 3"]) -> Int[Array, "B t h w"]:
    """Indices of DV's codes.

    Raises:
      ValueError: the tokenizer is continuous.
    """
    return self._quantizer.indices_of(self.encode(video))

  def from_tokens(self, tokens: Int[Array, "B t h w"]) -> Float[Array, "B T H W 3"]:
    """The approximate inverse of `tokens`."""
    return self.decode(self._quantizer.codes_of(tokens))

  @property
  def _quantizer(self) -> FSQ:
    if not self.config.levels:
      raise ValueError("a continuous Cosmos tokenizer (CV) has no tokens: use a discrete one (DV)")
    return FSQ(self.config.levels)

  def _of_frames(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean, deviation) of the network's latents, to broadcast over [B,t,h,w,Z]."""

    def shaped(values: np.ndarray) -> np.ndarray:
      rows = values[np.minimum(np.arange(frames), len(values) - 1)]
      return rows.astype(np.float32).reshape(1, frames, 1, 1, -1)

    mean, deviation = self.network.statistics(self.config)
    return shaped(mean), shaped(deviation)
