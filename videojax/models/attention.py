"""Scaled dot-product attention: one signature, the one place that chooses a kernel.

Shapes: B batch (any leading axes), S query tokens, L key tokens, K heads, E head dim.
"""

from typing import Any

import jax
from jaxtyping import Array, Bool, Float

KERNELS = ("auto", "xla", "cudnn")


def choose_kernel(kernel: str, *, platform: str, dtype: str, head_dim: int) -> str:
  """The kernel that will run: cuDNN's on a GPU in 16 bits, XLA's everywhere else.

  Raises:
    ValueError: if a kernel is asked for by name that cannot run here.
  """
  small = head_dim % 8 == 0 and head_dim <= 128  # more runs on Hopper alone
  fits_cudnn = platform == "gpu" and dtype in ("bfloat16", "float16") and small
  if kernel == "auto":
    return "cudnn" if fits_cudnn else "xla"
  if kernel == "cudnn" and not fits_cudnn:
    raise ValueError(
      "attention kernel 'cudnn' needs a GPU, a 16-bit dtype and a head dim divisible by 8, up to "
      f"128; here platform={platform}, dtype={dtype}, head dim={head_dim}: use 'auto' or 'xla'"
    )
  return kernel


def attention(
  q: Float[Array, "*B S K E"],
  k: Float[Array, "*B L K E"],
  v: Float[Array, "*B L K E"],
  mask: Bool[Array, "*B L"] | None = None,
  *,
  kernel: str = "auto",
) -> Float[Array, "*B S K E"]:
  """softmax(q k^T / sqrt(E)) v with fp32 softmax statistics.

  Args:
    q, k, v: queries, keys, values.
    mask: True where a key may be attended to.
    kernel: 'auto' or a name; see `choose_kernel`.
  Returns: as q.
  """
  chosen = choose_kernel(
    kernel, platform=jax.default_backend(), dtype=q.dtype.name, head_dim=q.shape[-1]
  )
  lead = q.shape[:-3]
  q, k, v = (x.reshape(-1, *x.shape[-3:]) for x in (q, k, v))  # [B,S,K,E]
  if mask is not None:
    mask = mask.reshape(-1, 1, 1, mask.shape[-1])  # [B,1,1,L]
  implementation: Any = chosen
  out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)
  return out.reshape(*lead, *out.shape[-3:])
