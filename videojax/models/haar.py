"""The Haar transform of clips: neighbours along time, height and width become channels.

Shapes: B batch, T frames, H W height width, C channels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from videojax.models.causal import fold, unfold


def haar(x: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
  """One level: [B,T/2,H/2,W/2,8C], means and half differences of neighbours, earlier minus later.

  Bands lll, llh, lhl, .., hhh (low or high in t, h, w) of C channels each. Scaled so that lll is
  the mean of the eight: the orthonormal transform divided by sqrt(8).
  Source: CosmosPatchEmbed3d of diffusers, with `rescale`; Patcher3D of NVIDIA's Cosmos-Tokenizer.
  """
  return _butterflies(fold(x, (2, 2, 2), "thwc")) / 8


def unhaar(x: Float[Array, "B t h w D"]) -> Float[Array, "B T H W C"]:
  """The inverse of `haar`: [B,2t,2h,2w,D/8]."""
  return unfold(_butterflies(x), (2, 2, 2), "thwc")


def _butterflies(x: Float[Array, "B T H W C"]) -> Float[Array, "B T H W C"]:
  """Sum and difference of the halves of the channels, of the quarters, and of the eighths."""
  y = x.reshape(*x.shape[:-1], 2, 2, 2, -1)
  for axis in (4, 5, 6):
    a, b = jnp.split(y, 2, axis)
    y = jnp.concatenate([a + b, a - b], axis)
  return y.reshape(x.shape)
