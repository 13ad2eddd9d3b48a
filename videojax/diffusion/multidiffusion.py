"""MultiDiffusion along time: a long clip denoised in overlapping windows, merged at every step.

Each window's denoiser estimates (x0, noise) of its frames. The long clip that is nearest to all
estimates in least squares has at each frame the mean over the windows that contain it.

Shapes: B batch, T frames of the long clip, N windows, F frames of a window, H W height width,
C channels.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# denoise(x_t [B,F,H,W,C], t [B,1|F], start []) -> (x0, noise, ...); start: the window's first frame
# in the long clip, from which conditions are cut (`window_of`).
DenoiseWindow = Callable[[Array, Array, Array], tuple[Array, ...]]


def starts(frames: int, window: int, stride: int) -> Int[np.ndarray, " N"]:
  """First frames of the windows: every `stride` frames; the last window ends with the clip.

  Args:
    frames: T.
    window: F.
    stride: frames from one window to the next; the last window may be closer to its predecessor.
  Raises: ValueError if the windows leave frames out, or are longer than the clip.
  """
  if not 1 <= window <= frames:
    raise ValueError(f"window={window} must be between 1 and {frames}, the clip's frames")
  check_stride(window, stride)
  return np.append(np.arange(0, frames - window, stride), frames - window)


def check_stride(window: int, stride: int) -> None:
  """Raises ValueError if windows this far apart leave frames out."""
  if not 1 <= stride <= window:
    raise ValueError(
      f"stride={stride} must be between 1 and window={window}, so that every frame is in a window"
    )


def weights(
  frames: int, window: int, stride: int, taper: Sequence[float] | None = None
) -> Float[np.ndarray, "N F"]:
  """The share of each window in each of its frames; a frame's shares sum to 1.

  Args:
    taper: least-squares weights of a window's frames, F numbers > 0; None: equal weights.
  Raises: ValueError for a weight that is not positive.
  """
  weight = np.ones(window) if taper is None else np.asarray(taper, float)  # [F]
  if weight.shape != (window,) or not (weight > 0).all():
    raise ValueError(f"taper={taper} must be window={window} numbers > 0")
  index = starts(frames, window, stride)[:, None] + np.arange(window)  # [N,F]
  total = np.zeros(frames)
  np.add.at(total, index, np.broadcast_to(weight, index.shape))
  return (weight / total[index]).astype(np.float32)


def window_of(x: Float[Array, "B T *s"], start: Array, window: int) -> Float[Array, "B F *s"]:
  """`window` frames of a clip or condition, from `start` on; all of it if it has only one frame."""
  return x if x.shape[1] == 1 else jax.lax.dynamic_slice_in_dim(x, start, window, 1)


def windowed(
  denoise: DenoiseWindow,
  *,
  window: int,
  stride: int,
  taper: Sequence[float] | None = None,
  at_once: int = 1,
) -> Callable[[Array, Array], tuple[Array, Array]]:
  """Extends a denoiser of one window to longer clips, for `samplers.sample`.

  Windows are mapped over sequentially, so memory use is that of `at_once` windows.

  Args:
    denoise: of one window.
    window, stride: in frames, see `starts`.
    taper: weights of a window's frames, see `weights`; None: equal weights, as published. A
      triangle reduces jumps where a window begins or ends.
    at_once: number of windows denoised together.
  Returns: denoise(x_t [B,T,H,W,C], t [B,1|T]) -> (x0, noise), both merged with the same weights,
    so that x_t = alpha x0 + sigma noise still holds. With a single window it is `denoise` itself.
  Raises: ValueError, when called, for windows that do not cover the clip.
  Source: Bar-Tal et al. 2023, arXiv:2302.08113, with crops along time, as in Lumiere's
    super-resolution (Bar-Tal et al. 2024, arXiv:2401.12945). Here the estimates are merged, not the
    samples after a step; this is equivalent if a step is linear in (x0, noise), as Euler's and
    DDIM's are.
  """

  def merged(x_t: Array, t: Array) -> tuple[Array, Array]:
    frames = x_t.shape[1]
    first = starts(frames, window, stride)
    share = weights(frames, window, stride, taper)
    if len(first) == 1:
      x0, noise = denoise(x_t, t, jnp.asarray(0))[:2]
      return x0, noise

    def one(start: Array) -> tuple[Array, Array]:
      x0, noise = denoise(window_of(x_t, start, window), window_of(t, start, window), start)[:2]
      return x0, noise

    believed = jax.lax.map(one, jnp.asarray(first), batch_size=at_once)  # each [N,B,F,H,W,C]
    return jax.tree.map(lambda v: _merge(v, first, share, x_t), believed)

  return merged


def _merge(
  parts: Float[Array, "N B F H W C"],
  first: Int[np.ndarray, " N"],
  share: Float[np.ndarray, "N F"],
  like: Float[Array, "B T H W C"],
) -> Float[Array, "B T H W C"]:
  out = jnp.zeros(like.shape, jnp.float32)
  for i, start in enumerate(first):  # at static positions, so that a mesh may shard the frames
    piece = parts[i].astype(jnp.float32) * share[i][None, :, None, None, None]
    out = out.at[:, start : start + parts.shape[2]].add(piece)
  return out
