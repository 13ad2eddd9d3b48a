"""What all U-Nets share, on a U-Net of this file, and what each does on a mesh."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import draw, filled, inputs_of, relative_error, tiny, together
from videojax.config import from_json, to_json
from videojax.models import unet, unet_config
from videojax.models.cond import Cond
from videojax.models.contract import architectures
from videojax.models.unet_layers import ResNet, Transformer
from videojax.sharding import MeshConfig, by_path, make_mesh, param_shardings
from videojax.specs import ModelSpec

SIZES = dict(
  width=8, multipliers=(1, 2, 3), blocks=2, head_dim=8, groups=4, channels=3, dtype="float32"
)


class Block(nnx.Module):
  def __init__(self, cfg, stage, shape, *, rngs):
    c = (shape.c_in, shape.c_out)
    self.resnet = ResNet(*c, 4 * cfg.width, cfg.groups, eps=1e-5, rngs=rngs, dtype=jnp.float32)
    self.attention = Transformer(cfg, c[1], "time", rngs=rngs)

  def __call__(self, x, c, seen):
    return self.attention(self.resnet(x, c))


class Config(unet_config.Config):
  scalars = ()


class Model(unet.UNet):
  Block = Block


def test_blocks_hand_on_what_the_config_says(monkeypatch):
  """Height and width that do not halve, the channels of each skip, and the numbers of `stream`."""
  cfg, shape, out = Config(**SIZES), (2, 7, 9, 3), []

  def noting(block, x, *args, remat):
    y = block(x, *args)
    out.append(y.shape)
    return y

  monkeypatch.setattr(unet, "run", noting)
  x, t = jnp.zeros((1, *shape)), jnp.zeros((1, 1))
  forward = lambda: Model(cfg, rngs=nnx.Rngs(0))(x, t, Cond())
  assert jax.eval_shape(forward).shape == x.shape
  sizes = [(7, 9), (4, 5), (2, 3)]
  levels = [0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 0, 0, 0]
  assert out == [(1, 2, *sizes[n], 8 * (n + 1)) for n in levels]
  assert cfg.stream(shape) == sum(jax.ShapeDtypeStruct(s, x.dtype).size for s in out)


def own(scale=0.3, **changes):
  """(run(params, x, t, cond), its parameters filled) of a small U-Net of this file's."""
  cfg = Config(**SIZES | dict(multipliers=(1,), blocks=1) | changes)
  graph, params = nnx.split(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  return lambda params, *args: nnx.merge(graph, params)(*args), filled(params, scale)


X, T = draw((2, 3, 4, 6, 3)), jnp.array([[300.0], [700.0]])


@pytest.mark.slow
def test_remat_changes_neither_output_nor_gradients():
  def run(remat):
    # Rounding shows least where attention is neither even nor of one token.
    network, params = own(0.2, remat=remat)
    loss = lambda params: jnp.square(network(params, X, T, Cond())).mean()
    return jax.jit(jax.value_and_grad(loss))(params)

  want = run("none")
  for remat in ("attention", "full"):
    assert relative_error(run(remat), want) < 2e-5


def test_known_frames_move_the_output_and_unknown_ones_do_not():
  network, params = own(known="last")
  mask = jnp.zeros((2, 3, 1, 1, 1)).at[:, :1].set(1.0)
  run = jax.jit(lambda known: network(params, X, T, Cond(known_mask=mask, known=known)))
  known = draw(X.shape, 5)
  np.testing.assert_array_equal(run(known), run(known.at[:, 1:].set(9.0)))
  assert jnp.abs(run(known) - run(known.at[:, 0].add(1.0))).max() > 1e-4


def test_a_run_from_before_the_setting_scan_went_is_read():
  name, a = next(iter(UNETS.items()))
  spec = ModelSpec(name, a.Config(**a.SIZES["nano"], channels=3, known="last"))
  e = dataclasses.replace(tiny(), model=spec)
  written = json.loads(json.dumps(to_json(e)))
  written["model"]["config"]["scan"] = False
  assert from_json(written) == e


# --- each architecture --------------------------------------------------------------------------

UNETS = {name: a for name, a in architectures().items() if issubclass(a.Config, unet_config.Config)}


def small(name):
  """Two levels of the same width that attend, with text and known frames."""
  a = UNETS[name]
  sizes = a.SIZES["tiny"] | dict(multipliers=(1, 1), channels=3, text=8, known="zeros")
  return ModelSpec(name, a.Config(**sizes, dtype="float32"))


def given(model, frames, rows):
  """Clips [rows,frames,8,4,3] whose first frame is known, with text, each at its noise level."""
  one = lambda s: draw(s.shape) if s.dtype == jnp.float32 else jnp.ones(s.shape, s.dtype)
  x, t, cond = jax.tree.map(one, inputs_of(model.config, (frames, 8, 4, 3), 1, 5, rows))
  mask = jnp.zeros(cond.known_mask.shape).at[:, :1].set(1.0)
  t = 900 * jnp.linspace(0, 1, rows)[:, None]
  return x, t, dataclasses.replace(cond, known_mask=mask)


@pytest.mark.parametrize("name", UNETS)
def test_one_level_per_frame_equals_one_level_per_clip_where_they_agree(name):
  """In a block of the network, which alone sees the level."""
  model = small(name)
  params, (x, t, cond) = filled(model.abstract_params), given(model, 4, 2)

  @jax.jit
  def run(t):
    network = model.network(params)
    block = network.down["0"].blocks["0"]
    return block(network.enter(x, cond), network.embed(t, cond), network.see(x, cond))

  np.testing.assert_allclose(run(jnp.broadcast_to(t, (2, 4))), run(t), atol=1e-5)
  assert jnp.abs(run(t + 100) - run(t)).max() > 1e-4


def once(network, x, t, cond):
  """Each kind of layer that a U-Net has, once: down to the middle, and straight up."""
  c, seen = network.embed(t, cond), network.see(x, cond)
  y = network.down["0"].blocks["0"](network.enter(x, cond), c, seen)
  z = network.mid.blocks["0"](network.down["0"].shrink(y), c, seen)
  y = y + network.up["0"].grow(z, y)
  return network.conv_out(jax.nn.silu(network.norm_out(y)))


def moved(grads):
  """The gradients of what `once` reads."""
  return together({p: g for p, g in by_path(jax.device_get(grads)).items() if np.any(g)})


# What each has of its own is on the first mesh; the second is of what all share, but for these two.
MESHES = [(name, 4, dict(data=2, fsdp=2, seq=2)) for name in UNETS] + [
  pytest.param(name, 3, dict(data=1, fsdp=2, seq=2, tensor=2), marks=pytest.mark.slow)
  for name in UNETS
  if name in ("make_a_video", "svd")
]


@pytest.mark.slow
@pytest.mark.parametrize("name,frames,sizes", MESHES)
def test_mesh_does_not_show_in_output_and_gradients_of_any_layer(name, frames, sizes):
  """At the coarsest level 4 frames are split by seq=2; 3 do not divide."""
  model = small(name)
  x, t, cond = given(model, frames * getattr(model.config, "frames_per_step", 1), rows=4)
  params = filled(model.abstract_params, 0.3)

  def loss(params, x, t, cond):
    out = once(model.network(params), x, t, cond)
    return jnp.square(out - 1).mean(), out

  step = jax.jit(jax.grad(loss, has_aux=True))
  want, out = step(params, x, t, cond)
  mesh = make_mesh(MeshConfig(**sizes))
  with jax.set_mesh(mesh):
    shardings = param_shardings(params, {p: i.axes for p, i in model.info.items()}, mesh)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp")))
    placed = jax.device_put(params, shardings), *jax.device_put((x, t, cond), rows)
    got, out_on_mesh = step(*placed)
  assert relative_error(out_on_mesh, out) < 1e-5
  assert relative_error(moved(got), moved(want)) < 1e-5
