"""Scaled dot-product attention: one signature, and the only place that chooses its implementation.

A kernel computes attention on one device: splash on TPUs, cuDNN's on GPUs in 16 bits, XLA's
everywhere. Where the mesh shards the tokens of a sequence, context parallelism combines the shards:
'ulysses' exchanges tokens for heads with an all-to-all, 'ring' passes keys and values around
(context.py).

Shapes: B batch (any leading axes), S query tokens, L key tokens, K heads, E head dim.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
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
  """Chooses kernels for this platform ('tpu', 'gpu', 'cpu') in place of the process's own."""
  token = _compiling_for.set(platform)
  try:
    yield
  finally:
    _compiling_for.reset(token)


def platform() -> str:
  """The platform that programs are compiled for."""
  return _compiling_for.get() or jax.default_backend()


def choose_kernel(kernel: str, *, dtype: str, head_dim: int) -> str:
  """The kernel that will run; 'auto': splash on a TPU, cuDNN's on a GPU in 16 bits, else XLA's.

  Raises:
    ValueError: the requested kernel cannot run here.
  """
  check_choice("attention kernel", kernel, KERNELS)
  here = platform()
  small = head_dim % 8 == 0 and head_dim <= 128  # a larger head dim runs only on Hopper
  fits_cudnn = here == "gpu" and dtype in ("bfloat16", "float16") and small
  if kernel == "auto":
    return "splash" if here == "tpu" else "cudnn" if fits_cudnn else "xla"
  if kernel == "cudnn" and not fits_cudnn:
    raise ValueError(
      "attention kernel 'cudnn' needs a GPU, a 16-bit dtype and a head dim divisible by 8, up to "
      f"128; here platform={here}, dtype={dtype}, head dim={head_dim}: use 'auto' or 'xla'"
    )
  if kernel == "splash" and here == "gpu":
    raise ValueError("attention kernel 'splash' is for TPUs: use 'auto', 'cudnn' or 'xla'")
  return kernel


def choose_context(context: str, *, heads: int, ways: int) -> str:
  """The context parallelism of a sequence in `ways` shards; 'auto': 'ulysses' if it is possible.

  Args:
    context: 'auto' or a name.
    heads: number of heads on one device.
    ways: number of shards, which must divide the heads for 'ulysses'.
  Raises:
    ValueError: 'ulysses' is requested but not possible.
  """
  check_choice("context parallelism", context, CONTEXTS)
  if context == "ulysses" and heads % ways:
    raise ValueError(
      f"context='ulysses' needs heads divisible by mesh.seq={ways}, but each device has {heads}: "
      "use 'ring', or other sizes"
    )
  if context == "auto":
    return "ring" if heads % ways else "ulysses"
  return context


def describe(context: str, *, kernel: str, heads: int, mesh: Mesh | AbstractMesh) -> str:
  """The chosen implementation in words, such as 'splash, ulysses over seq=4'.

  Args:
    context: from the config.
    kernel: the chosen kernel.
    heads: number of the model's heads.
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
    lengths: number of keys, from the first, that may be attended to; None: all.
    axes: logical axis names (sharding.RULES) of q's axes except the last two: leading axes, and S.
    keys: logical axis name of L; by default self-attention: L is sharded as S is.
    segments: if several clips are packed in a sequence, the number of each token's clip: tokens
      attend only within their clip (self-attention only).
    kernel, context: 'auto' or a name; see `choose_kernel`, `choose_context`.
  Returns: like q.
  Raises:
    ValueError: the kernel or context does not support this.
  """
  chosen = choose_kernel(kernel, dtype=q.dtype.name, head_dim=q.shape[-1])
  if chosen == "cudnn" and segments is not None:
    raise ValueError(
      "attention kernel 'cudnn' supports lengths, but no segments of packed clips: use kernel='xla'"
    )
  ids = segments
  if lengths is not None:
    shape = (*lengths.shape, k.shape[-3])  # [*B,L]
    counts = jax.lax.broadcasted_iota(jnp.int32, shape, lengths.ndim) < lengths[..., None]
    ids = jnp.where(counts, jnp.zeros(shape, jnp.int32) if segments is None else segments, -1)
  how: Callable[..., Array] = functools.partial(_by_kernel, kernel=chosen)
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


def _on_rows(
  how: Callable[..., Array],
  q: Array,
  k: Array,
  v: Array,
  ids_q: Array | None,
  ids_k: Array | None,
) -> Array:
  """Calls `how` on [B,S|L,K,E] and ids [B,S|L], with all leading axes merged into one."""
  fold = lambda x, kept: None if x is None else x.reshape(-1, *x.shape[x.ndim - kept :])
  out = how(*(fold(x, 3) for x in (q, k, v)), *(fold(ids, 1) for ids in (ids_q, ids_k)))
  return out.reshape(q.shape)


def _by_kernel(
  q: Array, k: Array, v: Array, ids_q: Array | None, ids_k: Array | None, *, kernel: str
) -> Array:
  """Attention between tokens of equal id; without ids_q, to all keys except those of id -1."""
  if kernel == "splash":
    out = splash(q, k, v, ids_q, ids_k, interpret=platform() == "cpu")
  elif kernel == "cudnn":
    out = _cudnn(q, k, v, None if ids_k is None else (ids_k >= 0).sum(-1, dtype=jnp.int32))
  else:
    return parallel.ring(1)(q, k, v, ids_q, ids_k)  # all keys are on this device
  return checkpoint_name(out, parallel.SAVED)


def _cudnn(q: Array, k: Array, v: Array, lengths: Array | None) -> Array:
  """Attention to the first `lengths` keys; None: to all keys.

  The kernel's gradients need even numbers of tokens: odd numbers are padded to a multiple of eight.
  Padded keys are masked.
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
