"""Stable Video Diffusion's autoencoder: latents of Stable Diffusion, one per 8x8 pixels."""

import dataclasses
from typing import Any, ClassVar

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import vae_svd

NETWORK = "vae_svd"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, vae_svd.Config):
  """The network's sizes, and where it is loaded from.

  Attributes:
    frames: number of frames decoded together, apart from others; None: all. It changes the result.
  """


class Codec(Autoencoder):
  """See Autoencoder; frames are encoded one by one, and each group of `frames` decoded alone."""

  network: ClassVar[Any] = vae_svd
