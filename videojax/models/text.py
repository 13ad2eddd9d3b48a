"""A small text encoder that is trained with the model: bytes -> one transformer block -> tokens.

It suffices for the captions of simulated worlds; large runs use precomputed embeddings instead.
Shapes: B batch, L text tokens (bytes), D width, K heads, E head dim.
"""

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from videojax.models.attention import attention
from videojax.models.elementwise import gelu_tanh, layer_norm
from videojax.models.layers import Linear, normal, param, sincos_1d


class ByteEncoder(nnx.Module):
  """UTF-8 bytes [B,L] -> contextual embeddings [B,L,D]."""

  MLP_RATIO = 4

  def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs, dtype: DTypeLike):
    d, k, e = width, num_heads, width // num_heads
    self.table = param(rngs, normal(0.02), (256, d), ("vocab", "embed"))
    self.qkv = Linear(
      (d,), (3, k, e), ("embed", None, "heads", "head_dim"), rngs=rngs, dtype=dtype, bias=False
    )
    self.out = Linear((k, e), (d,), ("heads", "head_dim", "embed"), rngs=rngs, dtype=dtype)
    hidden = self.MLP_RATIO * d
    self.up = Linear((d,), (hidden,), ("embed", "mlp"), rngs=rngs, dtype=dtype)
    self.down = Linear((hidden,), (d,), ("mlp", "embed"), rngs=rngs, dtype=dtype)
    self.dtype = dtype

  def __call__(self, text: UInt8[Array, "B L"], lengths: Int[Array, " B"]) -> Float[Array, "B L D"]:
    length, width = text.shape[1], self.table.shape[1]
    x = self.table[...].astype(self.dtype)[text]  # [B,L,D]
    x = x + 0.02 * sincos_1d(np.arange(length), width).astype(self.dtype)[None]
    q, k, v = self.qkv.parts(layer_norm(x))  # each [B,L,K,E]
    x = x + self.out(attention(q, k, v, lengths, axes=("batch", None), kernel="xla"))
    x = x + self.down(gelu_tanh(self.up(layer_norm(x))))
    return layer_norm(x)
