"""VideoCrafter's attentions: along time with distances, and to an image beside the text.

Shapes: B batch, T frames, S tokens of a frame, D width, K heads, E head dim, L text tokens, I image
tokens.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from videojax.models import layers, unet
from videojax.models.attention import attention
from videojax.models.context import SAVED
from videojax.sharding import constrain


def from_zero(layer: Any) -> Any:
  """The same layer with a kernel that starts at zero."""
  kernel, zeros = layer.kernel, jnp.zeros_like(layer.kernel[...])
  layer.kernel = nnx.Param(zeros, axes=kernel.axes, inputs=kernel.inputs, start=layers.ZEROS)
  return layer


class DistanceAttention(unet.Attention):
  """Attention along time, with a vector for each distance on top of keys and one of values.

  Source: Shaw et al. 2018, arXiv:1803.02155, Eq. 3 and 4. Distances beyond `reach` count as it.
  """

  def __init__(self, width: int, heads: int, head_dim: int, reach: int, *, rngs: Any, **kw: Any):
    super().__init__(width, heads, head_dim, width, rngs=rngs, **kw)
    rows = 2 * reach + 1
    start = layers.normal(math.sqrt(2 / (rows + head_dim)))  # Glorot's spread, as the reference's
    table = lambda: layers.param(rngs, start, (rows, head_dim), (None, "head_dim"))
    self.key_distance, self.value_distance, self.reach = table(), table(), reach

  def __call__(
    self,
    x: Float[Array, "*B T D"],
    axes: tuple[str | None, ...],
    text: Any = None,
  ) -> Float[Array, "*B T D"]:
    own = (*axes, "act_heads", None)
    q, k, v = (constrain(y(x), *own) for y in (self.q, self.k, self.v))  # [*B,T,K,E]
    frame = np.arange(x.shape[-2])
    apart = np.clip(frame[None] - frame[:, None], -self.reach, self.reach) + self.reach  # [T,T]
    tables = (self.key_distance, self.value_distance)
    k_apart, v_apart = (table[...].astype(x.dtype)[apart] for table in tables)  # two [T,T,E]
    logits = jnp.einsum("...qhe,...khe->...hqk", q, k, preferred_element_type=jnp.float32)
    logits += jnp.einsum("...qhe,qke->...hqk", q, k_apart, preferred_element_type=jnp.float32)
    p = jax.nn.softmax(logits / math.sqrt(q.shape[-1])).astype(x.dtype)  # [*B,K,T,T]
    y = jnp.einsum("...hqk,...khe->...qhe", p, v) + jnp.einsum("...hqk,qke->...qhe", p, v_apart)
    return self.out(checkpoint_name(constrain(y, *own), SAVED))


class ImageAttention(unet.Attention):
  """From the tokens of a frame to the text and, with the same queries, to an image; their sum."""

  def __init__(
    self, width: int, heads: int, head_dim: int, source: int, tokens: int, *, rngs: Any, **kw: Any
  ):
    super().__init__(width, heads, head_dim, source, rngs=rngs, **kw)
    like = dict(bias=False, init=unet.FAN_IN, rngs=rngs, dtype=kw["dtype"])
    axes, shape = ("embed", "heads", "head_dim"), (heads, head_dim)
    self.k_image, self.v_image = (layers.Linear((source,), shape, axes, **like) for _ in range(2))
    self.tokens = tokens

  def __call__(
    self,
    x: Float[Array, "B T S D"],
    axes: tuple[str | None, ...],
    text: Float[Array, "B N text"] | None = None,
  ) -> Float[Array, "B T S D"]:
    assert text is not None
    text, image = text[:, : -self.tokens], text[:, -self.tokens :]  # [B,L,text], [B,I,text]
    q = self.q(x)  # [B,T,S,K,E]

    def attend(k: Array, v: Array) -> Array:
      k, v = (jnp.broadcast_to(y[:, None], (*q.shape[:2], *y.shape[1:])) for y in (k, v))
      how: dict[str, Any] = dict(axes=axes, kernel=self.kernel, context=self.context)
      return attention(q, k, v, keys=None, **how)

    y = attend(self.k(text), self.v(text)) + attend(self.k_image(image), self.v_image(image))
    return self.out(y)


class Transformer(unet.Transformer):
  """The shared one with this model's attentions, and an end that starts at zero."""

  def __init__(
    self, cfg: Any, channels: int, heads: int, over: Literal["space", "time"], *, rngs: nnx.Rngs
  ):
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), how=(cfg.kernel, cfg.context))
    args, text = (channels, heads, cfg.head_dim, cfg.groups, over), cfg.text or 0
    super().__init__(*args, text=text, **kw)
    size = (heads * cfg.head_dim, heads, cfg.head_dim)
    if over == "time" and cfg.reach:
      self.block.attention = DistanceAttention(*size, cfg.reach, **kw)
      self.block.again = DistanceAttention(*size, cfg.reach, **kw)
    if over == "space" and cfg.image_tokens:
      self.block.cross = ImageAttention(*size, text, cfg.image_tokens, **kw)
    from_zero(self.proj_out)
