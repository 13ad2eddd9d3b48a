"""LTX-Video's autoencoder; latents are normalised per channel, by numbers among its weights."""

import dataclasses
import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from videojax.codecs.autoencoder import Autoencoder, drawn
from videojax.models import vae_ltx
from videojax.settings import Count

NETWORK = "vae_ltx"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(vae_ltx.Config):
  """The network's sizes, its weights, and how many frames are encoded together.

  Attributes:
    weights: published weights in safetensors (runs/weights.py); None: random weights, the same in
      every run, for tests and plans.
    frames: number of latent frames encoded together after the first, as memory allows; None: all.
      The result is the same. Clips are always decoded as a whole, because the decoder sees later
      frames.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
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
    shift, scale = self._broadcast()
    x = latent * scale + shift
    if keys is not None:
      share = vae_ltx.NOISE
      x = drawn((1 - share) * x, jnp.full_like(x, 2 * math.log(share)), keys)
    return self._model().decode(x)
