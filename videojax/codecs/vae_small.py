"""The small causal autoencoder that trains here; its latents' statistics are among its weights."""

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import vae_small

NETWORK = "vae_small"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, vae_small.Config):
  """The network's sizes, and the run that trained it."""


class Codec(Autoencoder):
  """See Autoencoder."""

  network: ClassVar[Any] = vae_small

  @property
  def certain(self) -> bool:
    return self.config.quantizer is not None

  @property
  def statistics(self) -> tuple[Array, Array]:
    found = self.params["statistics"]
    return found["mean"], found["deviation"]
