"""Norms and gelu, the operations between a transformer's matrix products, with custom gradients.

With automatic gradients, XLA on a GPU writes several fp32 activations per block to memory
(docs/LOG.md, 2026-11-26). These gradients save only the input and its statistics.

Shapes: B batch, t token frames, N tokens per frame, D width, K heads, E head dim.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, ArrayLike, Float

from videojax.models.layers import ONES, STATISTICS, lead, param, rotate, turn


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
  x: Float[Array, "*B D"],
  shift: Float[Array, " B #t D"] | None = None,
  scale: Float[Array, " B #t D"] | None = None,
  eps: float = 1e-6,
) -> Float[Array, "*B D"]:
  """Layer norm without learned parameters, in fp32; then x (1 + scale) + shift.

  Args:
    x: [B,t,N,D] if shift and scale are given.
    shift, scale: of adaLN, per clip or per frame (Peebles & Xie 2023).
    eps: added to the variance.
  """
  return _layer_norm(x, shift, scale, eps)[0]


def _layer_norm(
  x: Array, shift: Array | None, scale: Array | None, eps: float
) -> tuple[Array, Any]:
  y = x.astype(jnp.float32)
  mean = y.mean(-1, keepdims=True)
  inverse = jax.lax.rsqrt(jnp.square(y - mean).mean(-1, keepdims=True) + eps)
  mean, inverse = checkpoint_name((mean, inverse), STATISTICS)
  y = (y - mean) * inverse
  if shift is not None and scale is not None:
    y = y * (1 + scale[:, :, None].astype(jnp.float32)) + shift[:, :, None].astype(jnp.float32)
  mean, inverse = jax.lax.optimization_barrier((mean, inverse))
  return y.astype(x.dtype), (x, mean, inverse, shift, scale)


def _layer_norm_gradient(_: float, kept: Any, g: Array) -> tuple[Array | None, ...]:
  x, mean, inverse, shift, scale = kept
  # The barrier separates the sums over tokens from those over features: if they were fused, XLA
  # would write their common terms to memory in fp32.
  again = jax.lax.optimization_barrier(g)
  g, normal, shift_g, scale_g = g.astype(jnp.float32), (x - mean) * inverse, None, None
  if shift is not None and scale is not None:
    over = (2,) if shift.shape[1] > 1 else (1, 2)
    along = lambda y: y.sum(over).reshape(shift.shape).astype(shift.dtype)
    shift_g, scale_g = along(g), along(g * normal)
    g = again.astype(jnp.float32) * (1 + scale[:, :, None].astype(jnp.float32))
  mean_of = lambda y: y.mean(-1, keepdims=True)
  g = inverse * (g - mean_of(g) - normal * mean_of(g * normal))
  return g.astype(x.dtype), shift_g, scale_g


layer_norm.defvjp(_layer_norm, _layer_norm_gradient)


class RMSNorm(nnx.Module):
  """x / rms(x) * scale over the last axis; statistics in fp32 (Zhang & Sennrich 2019)."""

  def __init__(self, dim: int, *, rngs: nnx.Rngs):
    self.scale = param(rngs, ONES, (dim,), ("head_dim",))

  def __call__(
    self, x: Float[Array, "*B E"], angles: Float[ArrayLike, "t N half"] | None = None
  ) -> Float[Array, "*B E"]:
    """Normalises x, then rotates it, [B,t,N,K,E], by `angles`, if given (see `rotate`)."""
    angles = None if angles is None else jnp.asarray(angles)
    return _rms_norm(x, self.scale[...], angles)


@jax.custom_vjp
def _rms_norm(x: Array, scale: Array, angles: Array | None) -> Array:
  return _rms_norm_forward(x, scale, angles)[0]


def _rms_norm_forward(x: Array, scale: Array, angles: Array | None) -> tuple[Array, Any]:
  y = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)
  inverse = checkpoint_name(inverse, STATISTICS)
  y = y * lead(scale, y)
  # Rotation and scaling by a number commute; with the scaling last, XLA writes no fp32 in between.
  y = (y if angles is None else rotate(y, angles)) * inverse
  return y.astype(x.dtype), (x, inverse, scale, angles)


def _rms_norm_gradient(kept: Any, g: Array) -> tuple[Array | None, ...]:
  x, inverse, scale, angles = kept
  pieces = 1 if angles is None else 2
  cut = lambda y: jnp.split(y.astype(jnp.float32), pieces, -1)
  gs, xs = cut(g), cut(x)
  if angles is not None:
    gs = turn(gs[0], gs[1], -angles)
  # Over tokens first: on a GPU, sums over long columns of few features are slow.
  total = lambda y: jax.lax.optimization_barrier(y.sum(range(y.ndim - 2))).sum(0)
  scale_g = jnp.concatenate([total(g * y * inverse) for g, y in zip(gs, xs)])
  gs = [g * lead(s, g) for g, s in zip(gs, jnp.split(scale, pieces))]
  along = sum((g * y).sum(-1, keepdims=True) for g, y in zip(gs, xs)) / x.shape[-1]
  x_g = [inverse * g - inverse**3 * along * y for g, y in zip(gs, xs)]
  return jnp.concatenate(x_g, -1).astype(x.dtype), scale_g, None


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_gradient)


def gelu(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
  """The exact gelu: x times the normal CDF at x (Hendrycks & Gimpel 2016).

  Uses erf: jax.nn.gelu uses erfc, whose gradient takes five times as long on a CPU.
  """
  return 0.5 * x * (1 + jax.lax.erf(x / math.sqrt(2)))


@jax.custom_vjp
def gelu_tanh(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
  """The tanh approximation of gelu that transformers use.

  The gradient uses the equivalent sigmoid: if both shared one tanh, XLA on a GPU would write it to
  memory.
  """
  return jax.nn.gelu(x, approximate=True)


def _gelu_tanh_gradient(x: Array, g: Array) -> tuple[Array]:
  y, c = x.astype(jnp.float32), 2 * math.sqrt(2 / math.pi)
  share = jax.nn.sigmoid(c * (y + 0.044715 * y**3))  # gelu = x share
  slope = share + y * share * (1 - share) * c * (1 + 3 * 0.044715 * y**2)
  return ((slope * g).astype(x.dtype),)


gelu_tanh.defvjp(lambda x: (gelu_tanh(x), x), _gelu_tanh_gradient)
