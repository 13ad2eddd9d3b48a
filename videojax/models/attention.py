"""Scaled dot-product attention: one signature, the one place that chooses how it is computed.

A kernel computes the attention of what one device holds: splash on TPUs, cuDNN's on GPUs in 16
bits, XLA's everywhere. Where the mesh splits the tokens of a sequence, a context parallelism makes
the whole of it from the pieces: 'ulysses' trades tokens for heads by all-to-all, 'ring' passes keys
and values around (context.py).

Shapes: B batch (any leading axes), S query tokens, L key tokens, K heads, E head dim.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from videojax.errors import check_choice
from videojax.models import context as parallel
from videojax.models.splash import splash
from videojax.sharding import spec

KERNELS = ("auto", "xla", "cudnn", "splash")
CONTEXTS = ("auto", "ulysses", "ring")

_compiling_for: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "platform", default=None
)


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
  """Kernels of another platform than this process runs on ('tpu', 'gpu', 'cpu'), to compile for."""
  token = _compiling_for.set(platform)
  try:
    yield
  finally:
    _compiling_for.reset(token)


def platform() -> str:
  """The platform that programs are made for."""
  return _compiling_for.get() or jax.default_backend()


def choose_kernel(kernel: str, *, dtype: str, head_dim: int) -> str:
  """The kernel that will run: splash on a TPU, cuDNN's on a GPU in 16 bits, else XLA's.

  Raises:
    ValueError: if a kernel is asked for by name that cannot run here.
  """
  check_choice("attention kernel", kernel, KERNELS)
  here = platform()
  small = head_dim % 8 == 0 and head_dim <= 128  # more runs on Hopper alone
  fits_cudnn = here == "gpu" and dtype in ("bfloat16", "float16") and small
  if kernel == "auto":
    return "splash" if here == "tpu" else "cudnn" if fits_cudnn else "xla"
  if kernel == "cudnn" and not fits_cudnn:
    raise ValueError(
      "attention kernel 'cudnn' needs a GPU, a 16-bit dtype and a head dim divisible by 8, up to "
      f"128; here platform={here}, dtype={dtype}, head dim={head_dim}: use 'auto' or 'xla'"
    )
  if kernel == "splash" and here == "gpu":
    raise ValueError("attention kernel 'splash' is a TPU's: use 'auto', 'cudnn' or 'xla'")
  return kernel


def choose_context(context: str, *, heads: int, ways: int) -> str:
  """The context parallelism of a sequence in `ways` pieces: 'ulysses' where it divides the heads.

  Args:
    context: 'auto' or a name.
    heads: on one device.
  Raises:
    ValueError: 'ulysses' is asked for and there are too few heads.
  """
  check_choice("context parallelism", context, CONTEXTS)
  if context == "ulysses" and heads % ways:
    raise ValueError(
      f"context='ulysses' needs heads divisible by mesh.seq={ways}; a device has {heads}: use "
      "'ring', or other sizes"
    )
  if context == "auto":
    return "ring" if heads % ways else "ulysses"
  return context


def describe(context: str, *, kernel: str, heads: int, mesh: Any) -> str:
  """What was chosen, for people: 'splash, ulysses over seq=4'.

  Args:
    context: the config's.
    kernel: that was chosen.
    heads: of the model.
  """
  ways, tensor = mesh.shape["seq"], mesh.shape["tensor"]
  if ways == 1:
    return kernel
  local = heads // tensor if heads % tensor == 0 else heads
  how = choose_context(context, heads=local, ways=ways)
  return f"{'xla' if how == 'ring' else kernel}, {how} over seq={ways}"


def attention(
  q: Float[Array, "*B S K E"],
  k: Float[Array, "*B L K E"],
  v: Float[Array, "*B L K E"],
  lengths: Int[Array, "*B"] | None = None,
  *,
  axes: tuple[str | None, ...],
  keys: str | None = "as queries",
  segments: Int[Array, "*B S"] | None = None,
  kernel: str = "auto",
  context: str = "auto",
) -> Float[Array, "*B S K E"]:
  """softmax(q k^T / sqrt(E)) v with fp32 softmax statistics.

  Args:
    q, k, v: queries, keys, values.
    lengths: this many keys, from the first, may be attended to; None: all.
    axes: logical names (sharding.RULES) of q's axes but the last two: the leading ones, and S.
    keys: that of L; by default self-attention: L is split as S is.
    segments: number of the clip that a token belongs to, where several are packed in a sequence:
      attention stays within each (self-attention only).
    kernel, context: 'auto' or a name; see `choose_kernel`, `choose_context`.
  Returns: as q.
  Raises:
    ValueError: a kernel or context that cannot do this.
  """
  chosen = choose_kernel(kernel, dtype=q.dtype.name, head_dim=q.shape[-1])
  if chosen == "cudnn" and segments is not None:
    raise ValueError(
      "attention kernel 'cudnn' takes lengths only, no segments of packed clips: use kernel='xla'"
    )
  ids = segments
  if lengths is not None:
    shape = (*lengths.shape, k.shape[-3])  # [*B,L]
    counts = jax.lax.broadcasted_iota(jnp.int32, shape, lengths.ndim) < lengths[..., None]
    ids = jnp.where(counts, jnp.zeros(shape, jnp.int32) if segments is None else segments, -1)
  how: Any = functools.partial(_by_kernel, kernel=chosen)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return _on_rows(how, q, k, v, segments, ids)
  own = spec((*axes, "act_heads", None), q.shape, mesh)
  other = own
  if keys != "as queries":
    other = spec((*axes[:-1], keys, "act_heads", None), k.shape, mesh)
  elif own[-3] is not None:
    ways, tensor = mesh.shape["seq"], mesh.shape["tensor"] if own[-2] else 1
    if choose_context(context, heads=q.shape[-2] // tensor, ways=ways) == "ring":
      how = parallel.ring(ways)
    else:
      how = functools.partial(parallel.ulysses, kernel=how)
  rows = lambda s: PartitionSpec(*s[:-2])
  mapped = jax.shard_map(
    functools.partial(_on_rows, how),
    in_specs=(own, other, other, rows(own), rows(other)), out_specs=own, check_vma=False,
  )  # fmt: skip
  return mapped(q, k, v, segments, ids)


def _on_rows(how: Any, q: Array, k: Array, v: Array, ids_q: Any, ids_k: Any) -> Array:
  """`how` on [B,S|L,K,E] and ids [B,S|L]: leading axes are folded into one."""
  fold = lambda x, kept: None if x is None else x.reshape(-1, *x.shape[x.ndim - kept :])
  out = how(*(fold(x, 3) for x in (q, k, v)), *(fold(ids, 1) for ids in (ids_q, ids_k)))
  return out.reshape(q.shape)


def _by_kernel(q: Array, k: Array, v: Array, ids_q: Any, ids_k: Any, *, kernel: str) -> Array:
  """Attention where ids are equal; without ids_q, to every key but those of id -1."""
  if kernel == "splash":
    out = splash(q, k, v, ids_q, ids_k, interpret=platform() == "cpu")
  elif kernel == "cudnn":
    out = _cudnn(q, k, v, None if ids_k is None else (ids_k >= 0).sum(-1, dtype=jnp.int32))
  else:
    return parallel.ring(1)(q, k, v, ids_q, ids_k)  # all keys are this device's
  return checkpoint_name(out, parallel.SAVED)


def _cudnn(q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
  """To the first `lengths` keys; None: to all.

  The kernel's gradients want even numbers of tokens: odd ones are padded, to eight; padded keys do
  not count.
  """
  queries, keys = q.shape[1], k.shape[1]
  if lengths is None and keys % 2:
    lengths = jnp.full(k.shape[:1], keys, jnp.int32)
  padded = lambda x: (
    jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, 0))) if x.shape[1] % 2 else x
  )
  out = jax.nn.dot_product_attention(
    padded(q), padded(k), padded(v), key_value_seq_lengths=lengths, implementation="cudnn"
  )
  return out[:, :queries]
