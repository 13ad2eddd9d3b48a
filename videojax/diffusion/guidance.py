"""Classifier-free guidance: per frame, in an interval of noise levels, rescaled, and temporal.

Shapes: B batch, T frames, H W height width, C channels.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from videojax.diffusion.denoiser import EPSILON, Known, impose_known
from videojax.diffusion.process import Process, levels, per_frame


def guided(
  denoise: Callable[..., tuple[Array, ...]],
  conds: Any,
  *,
  process: Process,
  scale: float,
  interval: tuple[float, float] = (0.0, math.inf),
  rescale: float = 0.0,
  last: float | None = None,
  temporal: float = 1.0,
  alone: Callable[..., tuple[Array, ...]] | None = None,
  known: Known | None = None,
) -> Callable[[Array, Array], tuple[Array, Array]]:
  """A denoiser with guidance from the unconditional towards the conditional estimate.

  The two branches are a separate axis under vmap, so that the batch keeps its sharding. Both are
  evaluated at every level, also outside the interval.

  Args:
    denoise: denoise(x_t, t, cond) -> (x0, noise, ...), x_t = alpha x0 + sigma noise.
    conds: pytree whose leaves are stacked on a new leading axis of 2: [conditional, unconditional].
    process: the denoiser's.
    scale: w of unconditional + w (conditional - unconditional); 1 is exactly the conditional.
    interval: (low, high]: levels, in sigma / alpha, where guidance acts; elsewhere w = 1.
    rescale: phi in [0, 1]; at 1 each clip's guided x0 has the standard deviation of the conditional
      one.
    last: w of the last frame; `scale` is then w of the first frame, with linear interpolation in
      between (Stable Video Diffusion). None: `scale` for all frames.
    temporal: w_t, from each frame denoised alone (0) to all frames denoised together (1), and
      beyond.
    alone: like denoise, with each frame as an image; required if temporal is not 1.
    known: (mask, values) imposed again after the rescaling, see `denoiser.impose_known`.
  Returns: guided denoise(x_t, t) -> (x0, noise), for `samplers.sample`.
  Raises: ValueError for an invalid interval or rescale.
  Source: Ho & Salimans 2022, arXiv:2207.12598, Eq. 6 with our w = 1 + their w. Kynkaanniemi et al.
    2024, arXiv:2404.07724, section 3. Lin et al. 2023, arXiv:2305.08891, section 3.4; they rescale
    the network's output, we rescale x0, which means the same under every prediction. Temporal
    guidance: Esser et al. 2023, arXiv:2302.03011, section 3.3.
  """
  low, high = interval
  if not 0 <= low < high:
    raise ValueError(
      f"interval={interval} must be (low, high) with 0 <= low < high, in units of sigma / alpha"
    )
  if not 0 <= rescale <= 1:
    raise ValueError(f"rescale={rescale} must be in [0, 1]")
  if temporal != 1 and alone is None:
    raise ValueError(f"temporal={temporal} needs a denoiser of frames alone")
  log_low, log_high = (math.log(v) if v > 0 else -math.inf for v in interval)

  def both(x_t: Array, t: Array) -> tuple[Array, Array]:
    branches = jax.vmap(lambda cond: denoise(x_t, t, cond)[:2], axis_size=2)(conds)  # [2,B,T,H,W,C]
    log_ratio = -0.5 * process.log_snr(per_frame(t, x_t))  # ln(sigma / alpha), [B, 1|T, 1, 1, 1]
    rise = 0.0 if last is None else (last - scale) * jnp.linspace(0.0, 1.0, x_t.shape[1])
    scales = jnp.reshape(scale + rise, (1, -1, 1, 1, 1))  # [1, 1|T, 1, 1, 1]
    extra = jnp.where((log_ratio > log_low) & (log_ratio <= log_high), scales - 1.0, 0.0)
    push = lambda v: v[0] + extra * (v[0] - v[1])  # exactly v[0] where extra is 0
    x0, noise = (push(v) for v in branches)
    if alone is not None and temporal != 1:
      images = alone(x_t, t, jax.tree.map(lambda v: v[1], conds))[:2]
      x0, noise = (
        v + (temporal - 1.0) * (both[1] - image)
        for v, both, image in zip((x0, noise), branches, images)
      )
    alpha, sigma = levels(process, t, x_t)
    if rescale > 0:
      gain = 1.0 + rescale * (_std(branches[0][0]) / _std(x0) - 1.0)  # [B, 1, 1, 1, 1]
      gain = jnp.where(extra != 0, gain, 1.0)  # [B, 1|T, 1, 1, 1]; exactly 1 where unguided
      noise = noise - alpha / jnp.maximum(sigma, EPSILON) * (gain - 1.0) * x0
      x0 = gain * x0
    return impose_known(x0, noise, x_t, alpha, sigma, known)

  return both


def _std(x: Float[Array, "B T H W C"]) -> Float[Array, "B 1 1 1 1"]:
  # The floor is for constant clips, which have no contrast to rescale.
  return jnp.maximum(x.std(axis=(1, 2, 3, 4), keepdims=True), 1e-6)
