"""TAEHV: previews of latents of Wan 2.1, Wan 2.2 and HunyuanVideo 1.5, at a small part of the cost.

Its latents are those of the large autoencoder as its codec gives them: normalised.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float

from videojax.codecs.autoencoder import Autoencoder
from videojax.models import taehv
from videojax.settings import Count

NETWORK = "taehv"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(taehv.Config):
  """The network's sizes, its weights, and how many frames are processed together.

  Attributes:
    weights: published weights in safetensors (runs/weights.py); None: random weights, the same in
      every run, for tests and plans.
    frames: number of latent frames processed together after the first, as memory allows; None: all.
      The result is the same.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Codec(Autoencoder):
  """See Autoencoder; latents are certain, so samples are their means."""

  network: ClassVar[Any] = taehv

  def moments(
    self, video: Float[Array, "B T H W 3"]
  ) -> tuple[Float[Array, "B t h w Z"], Float[Array, "B t h w Z"]]:
    """Latents of video in [-1, 1], and their log variance, -inf."""
    return super().moments((video + 1) / 2)  # the network's pixels are in [0, 1]

  def decode(self, latent: Float[Array, "B t h w Z"]) -> Float[Array, "B T H W 3"]:
    """The approximate inverse of `encode`."""
    return 2 * super().decode(latent) - 1
