"""Every architecture has what contract.py says of it."""

import dataclasses

import jax
import pytest

from tests.helpers import inputs_of
from videojax.models.contract import Attends, Repeats, Sizes, architectures
from videojax.specs import ModelSpec


def members(protocol):
  return [name for name in vars(protocol) if not name.startswith("_")]


@pytest.mark.parametrize("name", architectures())
def test_a_config_has_the_fields_that_others_read_and_the_network_answers_like_its_clip(name):
  file = architectures()[name]
  fields = {field.name for field in dataclasses.fields(file.Config)}
  patch = dict(patch=(2, 4, 4)) if "patch" in fields else {}
  config = file.Config(**file.SIZES["tiny"], channels=3, known="last", **patch)
  needed = members(Sizes) + members(Attends) + (members(Repeats) if "scan" in fields else [])
  assert [field for field in needed if not hasattr(config, field)] == []
  assert file.wider(config).width == 2 * config.width
  model, (x, t, cond) = ModelSpec(name, config), inputs_of(config, (4, 8, 8, 3))
  network = lambda params, x, t, cond: model.network(params)(x, t, cond)
  out = jax.eval_shape(network, model.abstract_params, x, t, cond)
  assert (out.shape, out.dtype) == (x.shape, x.dtype)
