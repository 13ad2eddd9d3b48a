"""A patch discriminator of clips, for training autoencoders; nothing else uses it.

Strided convolutions without norms, each of whose outputs judges one patch: of about 22 pixels and,
at the first frames fewer, 7 frames. As in pix2pix (Isola et al. 2017, arXiv:1611.07004), along time
as well and with the hinge loss of VQGAN's (Esser et al. 2021, arXiv:2012.09841).

Shapes: B batch, T frames, H W height width, C channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from videojax.models.causal import GRID, CausalConv, Stream
from videojax.models.unet import in_order, numbered
from videojax.sharding import constrain

KERNEL, STRIDES = (3, 4, 4), (1, 2, 2)
LAYERS = 3


class Critic(nnx.Module):
  """Clips -> a score of each patch, high where it looks real.

  Args: width: channels of the first layer; doubled by each further one.
  """

  def __init__(self, channels: int, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    sizes = [channels, *(width * 2**i for i in range(LAYERS))]
    axes = [("patch", "embed"), *[("embed", None)] * (LAYERS - 1)]
    self.layers = numbered(
      CausalConv(a, b, KERNEL, names, strides=STRIDES, before="first", rngs=rngs, dtype=dtype)
      for a, b, names in zip(sizes, sizes[1:], axes)
    )
    self.score = CausalConv(sizes[-1], 1, (1, 1, 1), ("embed", "patch"), rngs=rngs, dtype=dtype)

  def __call__(self, video: Float[Array, "B T H W C"]) -> Float[Array, "B T h w 1"]:
    x, stream = constrain(video, *GRID, None), Stream()
    for layer in in_order(self.layers):
      x = jax.nn.leaky_relu(layer(x, stream), 0.2)  # [B,T,H/2,W/2,C]
    return self.score(x, stream).astype(jnp.float32)


def hinge(real: Float[Array, "B ..."], made: Float[Array, "B ..."]) -> Float[Array, " B"]:
  """The discriminator's loss of each row; 0 if real scores are above 1 and made ones below -1."""
  mean = lambda x: x.reshape(len(x), -1).mean(1)
  return 0.5 * (mean(jax.nn.relu(1 - real)) + mean(jax.nn.relu(1 + made)))
