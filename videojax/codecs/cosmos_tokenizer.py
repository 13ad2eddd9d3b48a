"""NVIDIA's Cosmos tokenizers of video; CV's latents are normalised per channel and frame."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import cosmos_tokenizer
from videojax.models.quantize import FSQ

NETWORK = "cosmos_tokenizer"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, cosmos_tokenizer.Config):
  """The network's sizes, and where it is loaded from; its middle always sees the whole clip."""


class Codec(Autoencoder):
  """See Autoencoder; latents are certain, so samples are their means. DV's latents are codes."""

  network: ClassVar[Any] = cosmos_tokenizer

  @property
  def certain(self) -> bool:
    return True

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

  def _broadcast(self, frames: int) -> tuple[Array, Array]:

    def shaped(values: np.ndarray) -> Array:
      rows = values[np.minimum(np.arange(frames), len(values) - 1)]
      return jnp.asarray(rows, jnp.float32).reshape(1, frames, 1, 1, -1)

    mean, deviation = self.network.statistics(self.config)
    return shaped(mean), shaped(deviation)
