"""The small causal autoencoder that trains here; its latents' statistics are among its weights."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
from jaxtyping import Array

from videojax.codecs.autoencoder import Autoencoder
from videojax.models import vae_small
from videojax.settings import Count

NETWORK = "vae_small"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(vae_small.Config):
  """The network's sizes, its weights, and how many frames are processed together.

  Attributes:
    weights: directory of the run that trained it; None: random weights, the same in every run, for
      tests and plans.
    frames: number of latent frames processed together after the first, as memory allows; None: all.
      The result is the same.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Codec(Autoencoder):
  """See Autoencoder."""

  network: ClassVar[Any] = vae_small

  @property
  def statistics(self) -> tuple[Array, Array]:
    found = self.params["statistics"]
    return found["mean"], found["deviation"]
