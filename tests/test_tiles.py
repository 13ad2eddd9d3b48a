"""Frames larger than memory: cut into tiles, or their rows sharded over devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import vae_small as codec
from videojax.codecs.tiles import in_tiles
from videojax.sharding import MeshConfig, make_mesh
from videojax.specs import ModelSpec

CONFIG = codec.Config(width=8, blocks=1, time=2, space=4, patch=2, channels=4)
MODEL = ModelSpec("vae_small", CONFIG)


def doubled(x):
  return x.repeat(2, 2).repeat(2, 3)


def halved(x):
  b, t, h, w, c = x.shape
  return x.reshape(b, t, h // 2, 2, w // 2, 2, c).mean((3, 5))


@pytest.mark.parametrize("size", [(7, 9), (4, 12), (5, 4), (13, 6)])
def test_tiles_of_a_map_that_sees_only_its_own_pixels_give_the_whole(size):
  x = draw((2, 3, *size, 2))
  run = jax.jit(in_tiles, static_argnums=(0, 2, 3))
  np.testing.assert_allclose(run(doubled, x, 4, (1, 1)), doubled(x), atol=1e-6)
  pair = lambda y: {"mean": halved(y), "square": halved(y**2)[..., :1]}
  got, want = run(pair, doubled(x), 4, (2, 2)), pair(doubled(x))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


def test_overlaps_are_blended_linearly():
  number = iter(range(9))
  tile = lambda y: jnp.full((*y.shape[:4], 1), next(number), jnp.float32)
  with jax.disable_jit():  # each tile is its number
    out = np.asarray(in_tiles(tile, jnp.zeros((1, 1, 8, 14, 1)), 8, (1, 1)))[0, 0, 0, :, 0]
  # eval_shape took number 0; the tiles begin at 0 and 6, and share two positions.
  np.testing.assert_allclose(out, [1] * 6 + [1.25, 1.75] + [2] * 6)


def test_a_tile_as_large_as_the_frame_changes_nothing_and_a_smaller_one_only_near_its_edges():
  params, video = filled(MODEL.abstract_params, 0.2), draw((1, 3, 64, 64, 3))
  at = lambda tile: codec.Codec(params, dataclasses.replace(CONFIG, tile=tile))
  whole, latent = at(None).encode(video), draw((1, 2, 16, 16, 4))
  np.testing.assert_array_equal(at(16).encode(video), whole)
  part, pixels = jax.jit(at(8).encode)(video), jax.jit(at(8).decode)(latent)
  assert part.shape == whole.shape and pixels.shape == video.shape
  assert relative_error(part, whole) < 0.2 and relative_error(pixels, at(None).decode(latent)) < 0.2
  np.testing.assert_allclose(part[:, :, 0, 0], whole[:, :, 0, 0], atol=1e-5)  # far from an edge
  assert np.abs(part - whole).max() > 1e-3


def memory(config, mesh=None):
  """Bytes that a device needs beside arguments and result, to decode a picture of 256 x 256."""
  latent = jax.ShapeDtypeStruct((1, 3, 64, 64, 4), jnp.float32)
  decode = lambda p, z: codec.Codec(p, config).decode(z)
  if mesh is None:
    compiled = jax.jit(decode).lower(MODEL.abstract_params, latent).compile()
  else:
    with jax.set_mesh(mesh):
      one = NamedSharding(mesh, PartitionSpec())
      on = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)
      compiled = jax.jit(decode).lower(*jax.tree.map(on, (MODEL.abstract_params, latent))).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_tiles_and_rows_of_several_devices_need_a_part_of_the_memory():
  whole = memory(CONFIG)
  tiled = memory(dataclasses.replace(CONFIG, tile=16))
  rows = memory(CONFIG, make_mesh(MeshConfig(data=1, seq=8)))
  print(f"whole {whole:,}, tiles {tiled:,}, rows of 8 devices {rows:,}")
  assert tiled < 0.25 * whole and rows < 0.25 * whole


def test_tiles_do_not_show_on_a_mesh():
  config = dataclasses.replace(CONFIG, tile=4, frames=1)
  params = filled(MODEL.abstract_params, 0.2)
  check_mesh(MODEL, params, lambda p: codec.Codec(p, config), draw((4, 5, 32, 32, 3)))


def test_rows_on_a_mesh_do_not_show_in_gradients():
  params, video = filled(MODEL.abstract_params, 0.2), draw((2, 5, 32, 32, 3))

  def loss(params, video):
    coder = codec.Codec(params, CONFIG)
    return jnp.square(coder.decode(coder.encode(video)) - video).mean()

  statistics = params.pop("statistics")  # cancel, so their gradients are 0 but for rounding
  loss = lambda coders, video, of=loss: of(coders | {"statistics": statistics}, video)
  want = jax.jit(jax.grad(loss))(params, video)
  with jax.set_mesh(make_mesh(MeshConfig(data=2, seq=4))):
    got = jax.jit(jax.grad(loss))(params, video)
  assert relative_error(jax.device_get(got), jax.device_get(want)) < 1e-5
