"""Wan's causal video autoencoders, 2.1 and 2.2; latents are normalised per channel."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax

from videojax.codecs.autoencoder import Autoencoder
from videojax.models import vae_wan
from videojax.settings import Count

NETWORK = "vae_wan"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(vae_wan.Config):
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
  """See Autoencoder."""

  network: ClassVar[Any] = vae_wan
