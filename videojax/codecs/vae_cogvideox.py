"""CogVideoX's video autoencoder."""

import dataclasses
from typing import Any, ClassVar

from videojax.codecs.autoencoder import Autoencoder, Loaded
from videojax.models import vae_cogvideox
from videojax.settings import Count

NETWORK = "vae_cogvideox"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(Loaded, vae_cogvideox.Config):
  """The network's sizes, its weights, and how many frames are processed together.

  Attributes:
    frames: even number of latent frames processed together; None: all. It changes the result, by
      about 1.5 % of the range between the published 2 and all.
  """

  frames: Count | None = vae_cogvideox.FRAMES

  def __post_init__(self):
    super().__post_init__()
    if self.frames is not None and self.frames % 2:
      raise ValueError(
        f"frames={self.frames} must be even: of an odd number of latents after the first chunk one "
        "would be decoded to a single frame; 2 is what the published programs take"
      )


class Codec(Autoencoder):
  """See Autoencoder."""

  network: ClassVar[Any] = vae_cogvideox

  def latent_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(T,H,W,3) of a clip -> of its latent.

    Raises:
      ValueError: height or width is not a multiple of the stride, or T is not 1 + 8k.
    """
    latent = super().latent_shape(shape)
    if latent[0] % 2 == 0:
      pair, t = 2 * self.strides[0], shape[0]
      raise ValueError(
        f"a clip of {t} frames has {latent[0]} latents, but an even number is decoded to another "
        f"number of frames: use 1 + {pair} k frames, e.g. {t - pair // 2} or {t + pair // 2}"
      )
    return latent
