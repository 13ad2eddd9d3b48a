"""CogVideoX's video autoencoder."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax

from videojax.codecs.autoencoder import Autoencoder
from videojax.models import vae_cogvideox
from videojax.settings import Count

NETWORK = "vae_cogvideox"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(vae_cogvideox.Config):
  """The network's sizes, its weights, and how many frames are processed together.

  Attributes:
    weights: published weights in safetensors (runs/weights.py); None: random weights, the same in
      every run, for tests and plans.
    frames: even number of latent frames processed together; None: all. It changes the result, by
      about 1.5 % of the range between the published 2 and all.
  """

  weights: str | None = None
  frames: Count | None = vae_cogvideox.FRAMES

  def __post_init__(self):
    super().__post_init__()
    if self.frames is not None and self.frames % 2:
      raise ValueError(
        f"frames={self.frames} must be even: of an odd number of latents after the first chunk one "
        "would be decoded to a single frame; 2 is what the published programs take"
      )


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
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
