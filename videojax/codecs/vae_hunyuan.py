"""HunyuanVideo's causal video autoencoders, of 13B and 1.5."""

import dataclasses
from typing import Any, ClassVar

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import vae_hunyuan

NETWORK = "vae_hunyuan"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, vae_hunyuan.Config):
  """The network's sizes, its weights, and how many frames are processed together.

  Attributes:
    frames: number of latent frames processed together, as memory allows; None: all. With group
      norm (13B): tiles that overlap by a quarter and are blended, which is not what the whole clip
      gives; the published programs take 4. Without (1.5): after the first, with the same result.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.groups is not None and self.frames is not None and self.frames % 4:
      raise ValueError(
        f"frames={self.frames}: with group norm it must be a multiple of 4, because a quarter of a "
        "tile overlaps with the next one; 4 is what the published programs take"
      )


class Codec(Autoencoder):
  """See Autoencoder."""

  network: ClassVar[Any] = vae_hunyuan
