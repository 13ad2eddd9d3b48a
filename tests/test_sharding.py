"""Where arrays live: the one table, and what it does where a mesh does not divide."""

import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from tests.helpers import tiny
from videojax.models.dit import SIZES, Config
from videojax.modes.bench import make_arguments
from videojax.plan import hlo
from videojax.runs.program import Program, compiled_bytes, lower_step
from videojax.sharding import MESH_AXES, MeshConfig, entry_axes, fallbacks, make_mesh, spec
from videojax.specs import ModelSpec


def mesh(data=1, fsdp=1, seq=1, tensor=1):
  return AbstractMesh((data, fsdp, seq, tensor), MESH_AXES)


GRID, UP = ("batch", "frames", "tokens", None), ("layers", "embed", "mlp")


def p(*entries):
  return PartitionSpec(*entries)


@pytest.mark.parametrize(
  "axes,shape,on,want",
  [
    (GRID, (8, 4, 16, 32), mesh(2, 2, 4), p(("data", "fsdp"), "seq")),
    # Three frames do not divide by four: the tokens of a frame do.
    (GRID, (8, 3, 16, 32), mesh(2, 2, 4), p(("data", "fsdp"), None, "seq")),
    (UP, (28, 1152, 4608), mesh(fsdp=64, tensor=2), p(None, "fsdp", "tensor")),
    # 1152 over 256: the mlp's 4608 takes it.
    (UP, (28, 1152, 4608), mesh(fsdp=256), p(None, None, "fsdp")),
    # Over seq too, and the part that divides where both do not.
    (UP, (28, 1152, 4608), mesh(fsdp=4, seq=8), p(None, ("fsdp", "seq"))),
    (("embed", "head_dim"), (24, 5), mesh(fsdp=16, seq=8), p("seq")),
    (("head_dim",), (72,), mesh(fsdp=8), p()),
  ],
)  # fmt: skip
def test_an_array_is_split_as_the_table_says_or_as_it_can_be(axes, shape, on, want):
  got = spec(axes, shape, on)
  assert tuple(got) == tuple(want) + (None,) * (len(got) - len(want))


def test_what_is_split_otherwise_or_whole_is_told():
  axes, shape = UP, (28, 1152, 4608)
  assert fallbacks(axes, shape, mesh(fsdp=64)) == []
  assert fallbacks(axes, shape, mesh(fsdp=256)) == [
    "embed=1152 is not divisible by fsdp=256: sharding mlp=4608 instead"
  ]
  assert fallbacks(("embed", None), (1152, 6), mesh(fsdp=256)) == [
    "embed=1152 is not divisible by fsdp=256: replicated over fsdp"
  ]


@pytest.mark.parametrize("fsdp,share", [(16, 1 / 16), (128, 1 / 128), (256, 0.6)])
def test_dit_xl_is_stored_in_pieces(fsdp, share):
  """Heads of 72 leave 1152 as the only large number: over 256 the mlp alone is split."""
  model = ModelSpec("dit", Config(**SIZES["XL"], patch=(1, 2, 2), channels=4))
  on, whole, pieces = mesh(fsdp=fsdp), 0, 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract_params):
    name = "/".join(k.key for k in path)
    entries = spec(model.info[name].axes, leaf.shape, on)
    ways = math.prod(on.shape[axis] for entry in entries for axis in entry_axes(entry))
    whole, pieces = whole + leaf.size, pieces + leaf.size // ways
  assert pieces / whole == pytest.approx(share, rel=0.1)


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match="unknown logical axis 'width'"):
    spec(("width",), (4,), mesh())


LONG = dict(
  batch_size=1, model__width=16, model__num_heads=1, model__depth=1, model__patch=(1, 2, 2),
  data__worlds__size=64, data__worlds__frames=32, data__worlds__scenes=("one",),
)  # fmt: skip


@pytest.mark.slow
def test_a_long_clip_trains_over_eight_devices_in_an_eighth_of_the_memory():
  """32,768 tokens; on one device what the compiler says, without allocating it."""
  peak = {}
  for seq in (1, 8):
    made = make_mesh(MeshConfig(data=1, seq=seq), jax.devices()[:seq])
    e = tiny(**LONG, model__context="ring")
    with jax.set_mesh(made):
      program = Program(e, made)
      step = lower_step(program, program.tasks["worlds"]).compile()
      peak[seq] = compiled_bytes(step)
      if seq == 8:
        assert "collective-permute" in hlo.table(hlo.collectives(step.as_text(), made.shape))
        arguments = make_arguments(program, program.tasks["worlds"], None)
        _, metrics = step(*jax.device_put(arguments, step.input_shardings[0]))
        assert np.isfinite(float(metrics["loss"])) and float(metrics["grad_norm"]) > 0
  print(f"peak {peak[1] / 2**20:.0f} MiB on one device, {peak[8] / 2**20:.0f} on each of eight")
  assert peak[8] < 1.1 * peak[1] / 8
