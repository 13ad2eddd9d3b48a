"""VideoCrafter's attention layers: temporal with distance embeddings, and to a text and an image.

Shapes: B batch, T frames, S tokens of a frame, D width, K heads, E head dim, L text tokens, I image
tokens.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from videojax.models import layers, unet_layers
from videojax.models.attention import attention
from videojax.models.context import SAVED
from videojax.sharding import constrain


def from_zero(layer: Any) -> Any:
  """The same layer, with its kernel initialised to zero."""
  kernel, zeros = layer.kernel, jnp.zeros_like(layer.kernel[...])
  layer.kernel = nnx.Param(zeros, axes=kernel.axes, inputs=kernel.inputs, start=layers.ZEROS)
  return layer


class DistanceAttention(unet_layers.Attention):
  """Temporal attention with an embedding of the distance added to keys, and another to values.

  Source: Shaw et al. 2018, arXiv:1803.02155, Eq. 3 and 4. Distances are clipped to `reach`.
  """

  def __init__(self, cfg: Any, width: int, *, rngs: nnx.Rngs):
    super().__init__(cfg, width, width, rngs=rngs)
    rows, head_dim = 2 * cfg.reach + 1, cfg.head_dim
    start = layers.normal(math.sqrt(2 / (rows + head_dim)))  # Glorot's std, as in the reference
    table = lambda: layers.param(rngs, start, (rows, head_dim), (None, "head_dim"))
    self.key_distance, self.value_distance, self.reach = table(), table(), cfg.reach

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


class ImageAttention(unet_layers.Attention):
  """The sum of attention to the text and, with the same queries, to an image."""

  def __init__(self, cfg: Any, width: int, *, rngs: nnx.Rngs):
    super().__init__(cfg, width, cfg.text, rngs=rngs)
    kw: dict[str, Any] = dict(init=unet_layers.FAN_IN, rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    heads, axes = (width // cfg.head_dim, cfg.head_dim), ("embed", "heads", "head_dim")
    make = lambda: layers.Linear((cfg.text,), heads, axes, bias=False, **kw)
    self.k_image, self.v_image, self.tokens = make(), make(), cfg.image_tokens

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


class Transformer(unet_layers.Transformer):
  """unet_layers.Transformer with this model's attention layers; its output starts at zero."""

  def __init__(
    self, cfg: Any, channels: int, over: unet_layers.Over, *, heads: int | None = None,
    rngs: nnx.Rngs,
  ):  # fmt: skip
    super().__init__(cfg, channels, over, heads=heads, rngs=rngs)
    d = self.proj_in.kernel.shape[1]
    if over == "time" and cfg.reach:
      self.block.attention = DistanceAttention(cfg, d, rngs=rngs)
      self.block.again = DistanceAttention(cfg, d, rngs=rngs)
    if over == "space" and cfg.image_tokens:
      self.block.cross = ImageAttention(cfg, d, rngs=rngs)
    from_zero(self.proj_out)
