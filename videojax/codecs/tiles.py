"""Frames of any size in bounded memory: overlapping tiles, one after the other, and blended.

Each output is the mean over the tiles that contain it, with weights that fall linearly over the
overlap. It is not what the whole frame gives: convolutions see less near the edge of a tile, and
attention and group norm see a tile instead of the frame.

Shapes: B batch, T frames, H W height width, C channels, in pixels or latent positions; a tile has
h x w of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from videojax.diffusion import multidiffusion

# Of a tile's side: as in the published programs of Wan and HunyuanVideo.
OVERLAP = 4  # a quarter


def in_tiles(
  run: Callable[[Array], Any], x: Float[Array, "B T H W C"], tile: int, unit: tuple[int, int]
) -> Any:
  """Applies a map of clips to tiles of a clip, and blends the results.

  Args:
    run: maps [B,T,h,w,C] to arrays [B,T',h',w',C'], with h'/h and w'/w the same for every tile.
    tile: its side, in latent positions.
    unit: positions of x, along height and width, per latent position.
  Returns: what `run` returns, for the whole clip, in fp32.
  """
  size = x.shape[2] // unit[0], x.shape[3] // unit[1]  # in latent positions, as side and stride
  side = [min(tile, n) for n in size]
  if (*side,) == size:
    return run(x)
  stride = [n - n // OVERLAP for n in side]
  grids = [multidiffusion.starts(*axis) for axis in zip(size, side, stride)]
  starts = [jnp.asarray(grid.ravel()) for grid in np.meshgrid(*grids, indexing="ij")]
  numbers = [jnp.asarray(index.ravel()) for index in np.indices([len(grid) for grid in grids])]
  within = side[0] * unit[0], side[1] * unit[1]

  def part(i: Any, j: Any) -> Any:
    corner = (0, 0, i * unit[0], j * unit[1], 0)
    return run(jax.lax.dynamic_slice(x, corner, (*x.shape[:2], *within, x.shape[4])))

  shapes, tree = jax.tree.flatten(jax.eval_shape(part, 0, 0))
  scales = [(shape.shape[2] // side[0], shape.shape[3] // side[1]) for shape in shapes]
  whole = lambda y, scale: (*y.shape[:2], *(n * m for n, m in zip(size, scale)), y.shape[4])
  shares = [[_shares(*axis) for axis in zip(size, side, stride, scale)] for scale in scales]

  def one(out: list[Array], at: Sequence[Array]) -> tuple[list[Array], None]:
    i, j, row, column = at
    for n, y in enumerate(jax.tree.leaves(part(i, j))):
      corner = (0, 0, i * scales[n][0], j * scales[n][1], 0)
      share = shares[n][0][row][:, None, None] * shares[n][1][column][None, :, None]
      sofar = jax.lax.dynamic_slice(out[n], corner, y.shape)
      out[n] = jax.lax.dynamic_update_slice(out[n], sofar + share[None, None] * y, corner)
    return out, None

  zeros = [jnp.zeros(whole(*pair), jnp.float32) for pair in zip(shapes, scales)]
  return jax.tree.unflatten(tree, jax.lax.scan(one, zeros, (*starts, *numbers))[0])


def _shares(size: int, side: int, stride: int, scale: int) -> Float[Array, "N h"]:
  """The share of each of N tiles in its outputs, along one axis.

  Args: size, side, stride: see `multidiffusion.starts`. scale: outputs per latent position.
  """
  inner = np.arange(side * scale) + 0.5
  ramp = np.minimum(inner, inner[::-1]) / max((side - stride) * scale, 1)
  taper = np.minimum(ramp, 1.0).tolist()
  return jnp.asarray(multidiffusion.weights(size * scale, side * scale, stride * scale, taper))
