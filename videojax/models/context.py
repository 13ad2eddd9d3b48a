"""Attention over a sequence on one device, or sharded over several, inside `jax.shard_map`.

Shapes: B batch, s tokens of one shard, S = n s tokens in all, l keys of one shard, K heads, E head
dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

Ids = Array | None  # [B,s] or [B,l]
AXIS = "seq"  # of the mesh
SAVED = "attention"  # remat policies may save the output and the residuals of the backward pass
_NEVER = -1e30  # the logit of a masked key; finite, so that no row is NaN


def ulysses(
  q: Float[Array, "B s K E"],
  k: Float[Array, "B s K E"],
  v: Float[Array, "B s K E"],
  ids_q: Int[Array, "B s"] | None,
  ids_k: Int[Array, "B s"] | None,
  *,
  kernel: Callable[..., Array],
) -> Float[Array, "B s K E"]:
  """Each device computes attention over whole sequences for some heads (Jacobs et al. 2023).

  Args:
    ids_q, ids_k: tokens attend where these are equal; None: everywhere; without ids_q, to all keys
      except those of id -1.
    kernel: (q, k, v, ids_q, ids_k) on [B,S,K/n,E].
  Source: DeepSpeed Ulysses, arXiv:2309.14509.
  """
  to_heads = functools.partial(
    jax.lax.all_to_all, axis_name=AXIS, split_axis=2, concat_axis=1, tiled=True
  )
  to_tokens = functools.partial(
    jax.lax.all_to_all, axis_name=AXIS, split_axis=1, concat_axis=2, tiled=True
  )
  whole = lambda ids: None if ids is None else jax.lax.all_gather(ids, AXIS, axis=1, tiled=True)
  return to_tokens(kernel(to_heads(q), to_heads(k), to_heads(v), whole(ids_q), whole(ids_k)))


def ring(ways: int) -> Callable[..., Array]:
  """Attention with keys and values passed around n = `ways` devices (Liu et al. 2023).

  The softmax is computed online. The backward pass sends keys and values around once more, together
  with their gradients, so that no device stores those of another one. A ring of one device is plain
  attention that does not store the logits, which is faster on a CPU. The output of a query that may
  not attend to any key is zero.
  Source: Ring Attention, arXiv:2310.01889; backward pass of the softmax from its log-sum-exp: Dao
  et al. 2022, arXiv:2205.14135, algorithm 4.
  Returns: (q, k, v, ids_q, ids_k) -> like q, each [B,s,...], see `ulysses`; in a ring of one, the
    number of keys may differ.
  """

  @jax.custom_vjp
  def attend(q: Array, k: Array, v: Array, ids_q: Ids, ids_k: Ids) -> Array:
    return _forward(q, k, v, ids_q, ids_k, ways)[0]

  def forward(q: Array, k: Array, v: Array, ids_q: Ids, ids_k: Ids) -> tuple[Array, Any]:
    saved = checkpoint_name(_forward(q, k, v, ids_q, ids_k, ways), SAVED)
    return saved[0], (q, k, v, ids_q, ids_k, *saved)

  def backward(saved: Any, g: Array) -> tuple[Array | None, ...]:
    q, k, v, ids_q, ids_k, out, lse = saved
    return *_backward(q, k, v, ids_q, ids_k, out, lse, g, ways), None, None

  attend.defvjp(forward, backward)
  return attend


def allowed(ids_q: Ids, ids_k: Int[Array, "B L"]) -> Array:
  """Attention mask [B,1,S,L]; without ids_q the same for all queries, [B,1,1,L]; see `ulysses`."""
  if ids_q is None:
    return (ids_k >= 0)[:, None, None]
  return ids_q[:, None, :, None] == ids_k[:, None, None, :]


def _pass_on(x: Array | None, ways: int) -> Array | None:
  """Sends x to the next device of the ring; returns the previous device's x."""
  if x is None or ways == 1:
    return x
  return jax.lax.ppermute(x, AXIS, [(i, (i + 1) % ways) for i in range(ways)])


def _logits(q: Array, k: Array, ids_q: Ids, ids_k: Ids) -> Float[Array, "B K s l"]:
  """Scaled logits for one shard of keys (l tokens) in fp32; masked where the ids differ."""
  scores = jnp.einsum("bske,blke->bksl", q, k, preferred_element_type=jnp.float32)
  scores = scores * q.shape[-1] ** -0.5
  if ids_k is None:
    return scores
  return jnp.where(allowed(ids_q, ids_k), scores, _NEVER)


def _weights(logits: Array, shift: Float[Array, "B K s"], ids_k: Ids) -> Float[Array, "B K s l"]:
  """exp(logits - shift); 0 where the ids differ, even in rows where all of them do."""
  p = jnp.exp(logits - shift[..., None])
  return p if ids_k is None else jnp.where(logits > _NEVER, p, 0.0)


def _forward(
  q: Array, k: Array, v: Array, ids_q: Ids, ids_k: Ids, ways: int
) -> tuple[Float[Array, "B s K E"], Float[Array, "B K s"]]:
  """The output and the log-sum-exp of every row."""
  b, s, heads, e = q.shape
  rows = lambda x: jnp.swapaxes(x, 1, 2)[..., None]  # [B,K,s] -> [B,s,K,1]

  def piece(carry: Any) -> Any:
    out, top, total, k, v, ids_k = carry
    logits = _logits(q, k, ids_q, ids_k)  # [B,K,s,l]
    new = jnp.maximum(top, logits.max(-1))
    p, keep = _weights(logits, new, ids_k), jnp.exp(top - new)
    add = jnp.einsum("bksl,blke->bske", p.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out * rows(keep) + add, new, total * keep + p.sum(-1), k, v, ids_k

  def turn(carry: Any, _: None) -> tuple[Any, None]:
    out, top, total, k, v, ids_k = carry
    return piece((out, top, total, *(_pass_on(x, ways) for x in (k, v, ids_k)))), None

  start = jnp.zeros((b, s, heads, e), jnp.float32), jnp.full((b, heads, s), _NEVER)
  carry = piece((*start, jnp.zeros((b, heads, s)), k, v, ids_k))
  (out, top, total, *_), _ = jax.lax.scan(turn, carry, None, length=ways - 1)
  total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)  # 0 in rows where all keys are masked
  return (out / rows(total)).astype(q.dtype), top + jnp.log(total)


def _backward(
  q: Array, k: Array, v: Array, ids_q: Ids, ids_k: Ids, out: Array, lse: Array, g: Array, ways: int
) -> tuple[Array, Array, Array]:
  """Gradients of q, k and v."""
  einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  delta = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(1, 2)  # [B,K,s]

  def turn(carry: Any, _: None) -> tuple[Any, None]:
    dq, k, v, ids_k, dk, dv = carry
    p = _weights(_logits(q, k, ids_q, ids_k), lse, ids_k)  # [B,K,s,l]
    dv = dv + einsum("bksl,bske->blke", p.astype(g.dtype), g)
    dp = einsum("bske,blke->bksl", g, v)
    ds = (p * (dp - delta[..., None]) * q.shape[-1] ** -0.5).astype(q.dtype)
    dq = dq + einsum("bksl,blke->bske", ds, k)
    dk = dk + einsum("bksl,bske->blke", ds, q)
    return (dq, *(_pass_on(x, ways) for x in (k, v, ids_k, dk, dv))), None

  zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
  # After n turns the keys and their gradients are back on their own device.
  (dq, _, _, _, dk, dv), _ = jax.lax.scan(
    turn, (zeros(q), k, v, ids_k, zeros(k), zeros(v)), None, length=ways
  )
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)
