"""Wan's causal video autoencoders, 2.1 and 2.2; latents are normalised per channel."""

import dataclasses
from typing import Any, ClassVar

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import vae_wan

NETWORK = "vae_wan"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, vae_wan.Config):
  """The network's sizes, and where it is loaded from."""


class Codec(Autoencoder):
  """See Autoencoder."""

  network: ClassVar[Any] = vae_wan
