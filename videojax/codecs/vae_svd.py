"""Stable Video Diffusion's autoencoder: latents of Stable Diffusion, one per 8x8 pixels."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax

from videojax.codecs.autoencoder import Autoencoder
from videojax.models import vae_svd
from videojax.settings import Count

NETWORK = "vae_svd"  # the file of the network in videojax/models/


@dataclasses.dataclass(frozen=True)
class Config(vae_svd.Config):
  """The network's sizes, its weights, and how many frames are decoded together.

  Attributes:
    weights: published weights in safetensors (runs/weights.py); None: random weights, the same in
      every run, for tests and plans.
    frames: number of frames decoded together, as memory allows; None: all.
  """

  weights: str | None = None
  frames: Count | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Codec(Autoencoder):
  """See Autoencoder; frames are encoded one by one, and each group of `frames` decoded alone."""

  network: ClassVar[Any] = vae_svd
