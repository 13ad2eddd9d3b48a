"""Encoders of T5 v1.1 and umT5: the text encoders of most open video models.

A transformer with RMS norms before each layer, no biases, a gated mlp, and attention whose only
positions are a learned bias per head and distance.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1; the gated mlp: Shazeer 2020,
arXiv:2002.05202; umT5: Chung et al. 2023, arXiv:2304.09151. The computation and all parameters are
those of transformers' T5EncoderModel and UMT5EncoderModel (5.24.0), and of the encoder in Wan 2.1.

Shapes: B batch, L text tokens, D width, K heads, E head dim, F hidden units of the mlp.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int32

from videojax import settings
from videojax.errors import check_choice
from videojax.models import diffusers_names, layers
from videojax.models.elementwise import RMSNorm, gelu_tanh
from videojax.models.layers import Linear, normal, param
from videojax.models.unet import in_order, numbered
from videojax.models.unet_layers import Keys
from videojax.settings import Count, Depth, Width
from videojax.sharding import constrain

BUCKETS, FAR = 32, 128  # distances from FAR on share the last bucket of their direction


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    vocab: rows of the table of tokens; often more than the tokenizer has tokens.
    width: D.
    depth: number of blocks.
    num_heads: K.
    head_dim: E; K E may differ from D.
    hidden: F.
    positions: which blocks have a bias of their own: 'first' (T5: the others use the first one's)
      or 'every' (umT5).
    dtype: of matmuls; parameters and the residual stream stay fp32. There is no float16, in which
      the published encoders overflow.
  """

  vocab: Count
  width: Width
  depth: Depth
  num_heads: Width
  head_dim: Width
  hidden: Width
  positions: str
  dtype: str = "float32"

  def __post_init__(self):
    settings.check(self)
    check_choice("positions", self.positions, ("first", "every"))
    check_choice("dtype", self.dtype, ("float32", "bfloat16"))


_XXL = dict(width=4096, depth=24, num_heads=64, head_dim=64, hidden=10240)
SIZES = {
  # The published ones, with 4.8 and 5.7 billion parameters.
  "t5_xxl": dict(_XXL, vocab=32128, positions="first"),
  "umt5_xxl": dict(_XXL, vocab=256384, positions="every"),
  # For a CPU, and for tests; ours. The table is that of ByT5, whose tokens are bytes.
  "nano": dict(
    vocab=384, width=64, depth=2, num_heads=4, head_dim=16, hidden=128, positions="every"
  ),
  "tiny": dict(vocab=384, width=16, depth=2, num_heads=2, head_dim=8, hidden=32, positions="every"),
}


def buckets(distance: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
  """Bucket of each distance to another token: its position minus one's own.

  The first half is for tokens before and at one's own position, the second half for those after.
  Distances below 8 have buckets of their own, longer ones share buckets up to FAR.
  """
  half, n = BUCKETS // 2, np.abs(distance)
  exact = half // 2
  # log2, which is exact for powers of two: a bucket begins there.
  along = np.log2(np.maximum(n, exact) / exact) / np.log2(FAR / exact)
  shared = np.minimum(exact + (along * (half - exact)).astype(int), half - 1)
  return np.where(n < exact, n, shared) + half * (distance > 0)


class Positions(nnx.Module):
  """What attention adds to the logits of each head, by the distance between two tokens."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    start = normal(cfg.width**-0.5)
    self.table = param(rngs, start, (BUCKETS, cfg.num_heads), (None, "heads"))

  def __call__(self, length: int) -> Float[Array, "K L L"]:
    bucket = buckets(np.arange(1 - length, length))  # [2L-1]
    bias = self.table[...].astype(jnp.float32)[bucket].T  # [K,2L-1]
    # Not all L^2 buckets, which would be a constant of megabytes in each block's program.
    position = jnp.arange(length)
    return bias[:, position[None] - position[:, None] + length - 1]  # [K,L,L]


class Attention(nnx.Module):
  """Self-attention without 1/sqrt(E), which T5's initial weights contain."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    d, heads = cfg.width, (cfg.num_heads, cfg.head_dim)
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), bias=False)
    into = lambda std: Linear((d,), heads, ("embed", "heads", "head_dim"), init=normal(std), **kw)
    self.q = into((d * cfg.head_dim) ** -0.5)
    self.k, self.v = into(d**-0.5), into(d**-0.5)
    back = normal((cfg.num_heads * cfg.head_dim) ** -0.5)
    self.o = Linear(heads, (d,), ("heads", "head_dim", "embed"), init=back, **kw)

  def __call__(
    self, x: Float[Array, "B L D"], bias: Float[Array, "K L L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    q, k, v = self.q(x), self.k(x), self.v(x)  # [B,L,K,E]
    # The kernels of attention.py take no bias. A caption is short enough for all of its logits.
    logits = jnp.einsum("bqke,blke->bkql", q, k, preferred_element_type=jnp.float32)  # [B,K,L,L]
    logits = constrain(logits + bias[None], "batch", "act_heads", None, None)
    logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    shares = jax.nn.softmax(logits, -1).astype(v.dtype)
    return self.o(jnp.einsum("bkql,blke->bqke", shares, v))  # [B,L,D]


class MLP(nnx.Module):
  """gelu(x W_gate) * x W_up, then back to the width."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    d, f = cfg.width, cfg.hidden
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype), bias=False)
    self.gate = Linear((d,), (f,), ("embed", "mlp"), init=normal(d**-0.5), **kw)
    self.up = Linear((d,), (f,), ("embed", "mlp"), init=normal(d**-0.5), **kw)
    self.down = Linear((f,), (d,), ("mlp", "embed"), init=normal(f**-0.5), **kw)

  def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    return self.down(gelu_tanh(self.gate(x)) * self.up(x))


class Block(nnx.Module):
  """Attention and mlp, each on the normalised sum of all before."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.positions = Positions(cfg, rngs=rngs) if cfg.positions == "every" else None
    self.norm1, self.norm2 = (RMSNorm(cfg.width, rngs=rngs) for _ in range(2))
    self.attention, self.mlp = Attention(cfg, rngs=rngs), MLP(cfg, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B L D"], bias: Float[Array, "K L L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    x = x + self.attention(self.norm1(x), bias, mask)
    return x + self.mlp(self.norm2(x))


class Model(nnx.Module):
  """Tokens [B,L] -> contextual embeddings [B,L,D], in fp32.

  A token that the mask leaves out changes no other token. Its own embedding is not zero: some video
  models set it to zero afterwards, others attend to it. Those that encode without a mask, as
  CogVideoX does, are given one that is true everywhere.
  """

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, Keys(rngs.params())
    self.table = param(rngs, normal(1.0), (cfg.vocab, cfg.width), ("vocab", "embed"))
    self.positions = Positions(cfg, rngs=rngs) if cfg.positions == "first" else None
    self.blocks: Any = numbered(Block(cfg, rngs=rngs) for _ in range(cfg.depth))
    self.norm_out = RMSNorm(cfg.width, rngs=rngs)

  def __call__(
    self, tokens: Int32[Array, "B L"], mask: Bool[Array, "B L"]
  ) -> Float[Array, "B L D"]:
    # The residual stream stays fp32: it grows to where bfloat16 would lose what a block adds.
    x = self.table[...][tokens].astype(jnp.float32)  # [B,L,D]
    x = constrain(x, "batch", None, None)
    bias = None if self.positions is None else self.positions(tokens.shape[1])  # [K,L,L]
    for block in in_order(self.blocks):
      bias = bias if block.positions is None else block.positions(tokens.shape[1])
      x = constrain(block(x, bias, mask), "batch", None, None)
    return self.norm_out(x)


# --- published weights ------------------------------------------------------------------------

# Our paths -> names in transformers, and in Wan's own file, applied in order.
LAYOUTS = {
  "diffusers": (
    (r"^table$", "shared/weight"),
    (r"^positions", "blocks/0/positions"),
    (r"^blocks", "encoder/block"),
    (r"^norm_out", "encoder/final_layer_norm"),
    (r"/norm1/", "/layer/0/layer_norm/"),
    (r"/norm2/", "/layer/1/layer_norm/"),
    (r"/positions/table", "/attention/relative_attention_bias/weight"),
    (r"/attention/", "/layer/0/SelfAttention/"),
    (r"/mlp/gate/", "/mlp/wi_0/"),
    (r"/mlp/up/", "/mlp/wi_1/"),
    (r"/mlp/down/", "/mlp/wo/"),
    (r"/mlp/", "/layer/1/DenseReluDense/"),
    (r"/(kernel|scale)$", "/weight"),
    (r"/", "."),
  ),
  "original": (
    (r"^table$", "token_embedding/weight"),
    (r"^norm_out", "norm"),
    (r"\bpositions/table", "pos_embedding/embedding/weight"),
    (r"/attention/", "/attn/"),
    (r"/mlp/gate/", "/ffn/gate/0/"),
    (r"/mlp/up/", "/ffn/fc1/"),
    (r"/mlp/down/", "/ffn/fc2/"),
    (r"/(kernel|scale)$", "/weight"),
    (r"/", "."),
  ),
}
OTHER_PARTS = ("decoder.", "lm_head.")
# Tied in the reference, so a file that has both has the same tensor twice.
COPIES = {"encoder.embed_tokens.weight": "shared.weight"}


def names(cfg: Config, layout: str = "diffusers") -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in one of LAYOUTS, and its layout there (runs/weights.py)."""

  def kind(path: str, inputs: int) -> str:
    return "weight" if inputs else "table" if path.endswith("table") else "vector"

  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  renamed = lambda path: diffusers_names.renamed(path, LAYOUTS[layout])
  return {path: (renamed(path), kind(path, i.inputs)) for path, i in info.items()}
