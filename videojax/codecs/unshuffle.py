"""Space-to-depth: squares of pixels become channels of one position.

For small worlds, in place of an autoencoder. It is lossless and has no weights, so that a loss on
these latents is one on pixels, but the model sees fewer positions.
"""

import dataclasses

from jaxtyping import Array, Float, Key

from videojax import settings
from videojax.codecs import identity
from videojax.settings import Width

NETWORK = None  # it has no weights


@dataclasses.dataclass(frozen=True)
class Config:
  """The squares' size.

  Attributes:
    side: of a square, in pixels.
  """

  side: Width = 2

  def __post_init__(self):
    settings.check(self)


@dataclasses.dataclass(frozen=True)
class Codec(identity.Codec):
  """decode is the exact inverse of encode; with squares of one pixel both are the identity."""

  config: Config = Config()

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position in (t, h, w)."""
    return (1, self.config.side, self.config.side)

  def latent_shape(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(T,H,W,C) of a clip -> of its latent.

    Raises:
      ValueError: height or width is not a multiple of the side.
    """
    (t, h, w, c), n = shape, self.config.side
    if h % n or w % n:
      raise ValueError(f"a clip of {h}x{w} does not divide into squares of {n}x{n} pixels")
    return t, h // n, w // n, n * n * c

  def encode(
    self, video: Float[Array, "B T H W C"], keys: Key[Array, " B"] | None = None
  ) -> Float[Array, "B T h w Z"]:
    (b, *clip), n = video.shape, self.config.side
    t, h, w, z = self.latent_shape((clip[0], clip[1], clip[2], clip[3]))
    squares = video.reshape(b, t, h, n, w, n, -1).swapaxes(3, 4)  # [B,T,h,w,n,n,C]
    return squares.reshape(b, t, h, w, z)

  def decode(self, latent: Float[Array, "B T h w Z"]) -> Float[Array, "B T H W C"]:
    (b, t, h, w, _), n = latent.shape, self.config.side
    squares = latent.reshape(b, t, h, w, n, n, -1).swapaxes(3, 4)  # [B,T,h,n,w,n,C]
    return squares.reshape(b, t, n * h, n * w, -1)
