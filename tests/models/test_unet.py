"""What all U-Nets share, on a U-Net of this file."""

import dataclasses
import json

import jax
import jax.numpy as jnp
from flax import nnx

from tests.helpers import tiny
from videojax.config import from_json, to_json
from videojax.models import unet, unet_config
from videojax.models.cond import Cond
from videojax.models.contract import architectures
from videojax.models.unet_layers import ResNet
from videojax.specs import ModelSpec

SIZES = dict(width=8, multipliers=(1, 2, 3), blocks=2, head_dim=8, groups=4, channels=3)


class Block(nnx.Module):
  def __init__(self, cfg, stage, shape, *, rngs):
    c = (shape.c_in, shape.c_out)
    self.resnet = ResNet(*c, 4 * cfg.width, cfg.groups, eps=1e-5, rngs=rngs, dtype=jnp.float32)

  def __call__(self, x, c, seen):
    return self.resnet(x, c)


class Config(unet_config.Config):
  scalars = ()


class Model(unet.UNet):
  Block = Block


def test_blocks_hand_on_what_the_config_says(monkeypatch):
  """Height and width that do not halve, the channels of each skip, and the numbers of `stream`."""
  cfg, shape, out = Config(**SIZES, dtype="float32"), (2, 7, 9, 3), []

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


def test_a_run_from_before_the_setting_scan_went_is_read():
  name, a = next(
    (n, a) for n, a in architectures().items() if issubclass(a.Config, unet_config.Config)
  )
  spec = ModelSpec(name, a.Config(**a.SIZES["nano"], channels=3, known="last"))
  e = dataclasses.replace(tiny(), model=spec)
  written = json.loads(json.dumps(to_json(e)))
  written["model"]["config"]["scan"] = False
  assert from_json(written) == e
