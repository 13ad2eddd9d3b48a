"""TAEHV: previews of latents of Wan 2.1, Wan 2.2 and HunyuanVideo 1.5, at a small part of the cost.

Its latents are those of the large autoencoder as its codec gives them: normalised.
"""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import taehv

NETWORK = "taehv"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, taehv.Config):
  """The network's sizes, and where it is loaded from."""


class Codec(Autoencoder):
  """See Autoencoder; latents are certain, so samples are their means."""

  network: ClassVar[Any] = taehv

  @property
  def certain(self) -> bool:
    return True

  def moments(
    self, video: Float[Array, "B T H W 3"]
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Latents of video in [-1, 1], and their log variance, -inf."""
    return super().moments((video + 1) / 2)  # the network's pixels are in [0, 1]

  def decode(self, latent: Float[Array, "B t h w Z"]) -> Float[Array, "B T H W 3"]:
    """The approximate inverse of `encode`."""
    return 2 * super().decode(latent) - 1
