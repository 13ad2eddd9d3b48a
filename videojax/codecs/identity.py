"""Pixels as latents: the codec of models that are trained on pixels."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, Key

NETWORK = None  # it has no weights


@dataclasses.dataclass(frozen=True)
class Config:
  """No settings."""


@dataclasses.dataclass(frozen=True)
class Codec:
  """Leaves clips unchanged."""

  params: Any = None
  config: Any = Config()

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position in (t, h, w)."""
    return (1, 1, 1)

  @property
  def scaling(self) -> float:
    """Ratio of the latents to the network's own output."""
    return 1.0

  def latent_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(T,H,W,C) of a clip -> of its latent."""
    return shape

  def encode(
    self, video: Float[Array, "B T H W C"], keys: Key[Array, " B"] | None = None
  ) -> Float[Array, "B T H W C"]:
    return video

  def decode(self, latent: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    return latent
