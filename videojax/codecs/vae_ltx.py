"""LTX-Video's autoencoder; latents are normalised per channel, by numbers among its weights."""

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from videojax.codecs.autoencoder import Autoencoder, Loaded, drawn
from videojax.models import vae_ltx

NETWORK = "vae_ltx"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, vae_ltx.Config):
  """The network's sizes, and where it is loaded from.

  Attributes:
    frames: bounds the encoder alone: clips are decoded as a whole, because the decoder sees later
      frames.
  """


class Codec(Autoencoder):
  """See Autoencoder."""

  network: ClassVar[Any] = vae_ltx

  @property
  def scaling(self) -> float:
    """1: the ratio differs between channels."""
    return 1.0

  @property
  def statistics(self) -> tuple[Array, Array]:
    return self.params["mean"], self.params["deviation"]

  def decode(
    self, latent: Float[Array, "B t h w Z"], keys: Key[Array, " B"] | None = None
  ) -> Float[Array, "B T H W 3"]:
    """The approximate inverse of `encode`.

    Args: keys: one per row, to mix noise into the latents first, as the published pipelines do.
    """
    shift, scale = self._broadcast(latent.shape[1])
    x = latent * scale + shift
    if keys is not None:
      share = vae_ltx.NOISE
      x = drawn((1 - share) * x, jnp.full_like(x, 2 * math.log(share)), keys)
    return self._tiled(lambda x: self._model().decode(x), x, (1, 1))
