"""Splash attention, the TPU kernel, for any length and any head dim; interpreted on a CPU.

Shapes: B batch, S query tokens, L key tokens, K heads, E head dim.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from videojax.models.context import SAVED

LANES = 128  # length of TPU vectors; sequence lengths are padded to a multiple
BLOCK_Q, BLOCK_KV = 512, 1024


def splash(
  q: Float[Array, "B S K E"],
  k: Float[Array, "B L K E"],
  v: Float[Array, "B L K E"],
  ids_q: Int[Array, "B S"] | None,
  ids_k: Int[Array, "B L"] | None,
  *,
  interpret: bool,
) -> Float[Array, "B S K E"]:
  """Full attention between tokens of the same id; None: between all tokens.

  The kernel has no scale argument, so q is scaled. It needs whole blocks, so queries and keys are
  padded; padded keys have an id that no query has.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as sk
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as sm

  (_, s, heads, e), length = q.shape, k.shape[1]
  block_q, block_kv = (min(_up(n, LANES), most) for n, most in ((s, BLOCK_Q), (length, BLOCK_KV)))
  compute = next(c for c in (512, 384, 256, 128) if block_kv % c == 0)
  pad_q, pad_k = _up(s, block_q) - s, _up(length, block_kv) - length
  ids = None
  if pad_k or ids_k is not None:
    # Padded queries get the last query's id, since a row without keys would be NaN.
    zeros = lambda x: jnp.zeros(x.shape[:2], jnp.int32)
    ids_q = zeros(q) if ids_q is None else ids_q
    ids_k = zeros(k) if ids_k is None else ids_k
    ids = sk.SegmentIds(
      q=jnp.pad(ids_q, ((0, 0), (0, pad_q)), mode="edge"),
      kv=jnp.pad(ids_k, ((0, 0), (0, pad_k)), constant_values=-1),
    )
  rows = lambda x, pad: jnp.swapaxes(jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))), 1, 2)
  sizes = sk.BlockSizes(
    block_q=block_q, block_kv=block_kv, block_kv_compute=compute, block_q_dkv=block_q,
    block_kv_dkv=block_kv, block_kv_dkv_compute=compute, use_fused_bwd_kernel=True,
  )  # fmt: skip
  full = sm.FullMask((s + pad_q, length + pad_k))
  kernel: Any = sk.make_splash_mha(
    sm.MultiHeadMask([full] * heads), head_shards=1, q_seq_shards=1, block_sizes=sizes,
    residual_checkpoint_name=SAVED, interpret=interpret,
  )  # fmt: skip
  scaled = (q.astype(jnp.float32) * e**-0.5).astype(q.dtype)
  out = jax.vmap(kernel)(rows(scaled, pad_q), rows(k, pad_k), rows(v, pad_k), ids)  # [B,K,S,E]
  return jnp.swapaxes(out, 1, 2)[:, :s]


def _up(n: int, multiple: int) -> int:
  return -(-n // multiple) * multiple
