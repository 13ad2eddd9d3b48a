"""Pixels as latents: the codec of a model that is trained on clips themselves."""

import dataclasses

from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Codec:
  """encode and decode change nothing.

  Attributes:
    strides: pixels per latent position in (t, h, w).
    channels: of the latent per channel of the clip's 3; here the clip's own.
  """

  strides: tuple[int, int, int] = (1, 1, 1)

  def latent_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(T,H,W,C) of a clip -> of its latent."""
    return shape

  def encode(self, video: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    return video

  def decode(self, latent: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
    return latent
