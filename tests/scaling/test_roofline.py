"""The estimate of a step's seconds against timings of steps; the bound against closed forms."""

import dataclasses
import runpy
from pathlib import Path

import jax
import pytest

from tests.helpers import count_jaxpr, tiny
from videojax.config import resolve
from videojax.data import stack_examples
from videojax.plan.step_work import Clip, Sent, step_work
from videojax.scaling import flops, roofline
from videojax.sharding import MESH_AXES

BENCH = Path(__file__).parents[2] / "experiments" / "bench"
ALONE = Sent(0.0, 0.0)
H100 = "NVIDIA H100 80GB HBM3"


def estimated(name, kind, *, sent=ALONE, mesh=(1, 1, 1, 1), **changes):
  """Of a bench case ('file:variant'), with other fields of the model, or `clips`, in its place."""
  file, _, variant = name.partition(":")
  get_config = runpy.run_path(str(BENCH / f"{file}.py"))["get_config"]
  e = resolve(get_config(*([variant] if variant else [])).to_dict()).on_devices(1)
  clips = changes.pop("clips", e.batch_size)
  model = dataclasses.replace(e.model, config=dataclasses.replace(e.model.config, **changes))
  e = dataclasses.replace(e, batch_size=clips, clips_per_device=None, model=model)
  work = step_work(e, Clip.of(e), dict(zip(MESH_AXES, mesh)), 0.0, sent)
  return sum(roofline.estimate(work, kind).values())


# `python -m experiments.bench` on one H100 SXM 80 GB, jax 0.11.2, 2026-11-26 (docs/LOG.md): seconds
# a step, and model FLOPs over 989 TFLOP/s.
MEASURED = {
  "wan_1p3b_32k": (1.9176, 0.4475), "wan_1p3b_8k": (0.4321, 0.4436),
  "wan_1p3b_8k:half": (0.2401, 0.3991), "dit_xl_4k": (0.4758, 0.3322),
  "dit_xl_4k:head64": (0.4142, 0.3815), "dit_xl_4k:head128": (0.3851, 0.4104),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_estimate_is_within_15_percent_of_steps_timed_on_an_h100(name):
  assert estimated(name, H100) == pytest.approx(MEASURED[name][0], rel=0.15)


def test_estimate_is_within_30_percent_of_the_published_tpu_step():
  """MaxDiffusion's README: 36.0 s on 4 chips of v5p, one clip, sequence over 4, full remat.

  Sent: what `plan` reads from the compiled program (docs/pods.md), rounded.
  """
  got = estimated(
    "wan_14b_76k", "TPU v5", remat="full", clips=1, sent=Sent(1.2e11, 0.0), mesh=(1, 1, 4, 1)
  )
  assert got == pytest.approx(36.0, rel=0.3)


def test_one_mfu_for_all_would_not_do():
  """The same timings as MFU differ by more than the estimate's error."""
  mfu = [mfu for _, mfu in MEASURED.values()]
  assert max(mfu) / min(mfu) > 1.3


def test_bound_is_each_unit_at_its_peak():
  work = roofline.Work(4e14, 59e12, 2765e9, 0, 0, 600e9, 12.5e9, 128)
  bound = roofline.bound(work, "TPU v5")
  assert bound == pytest.approx({"compute": 1, "hbm": 1, "ici": 1, "dcn": 2})
  assert sum(roofline.estimate(work, "TPU v5").values()) > max(bound["compute"], bound["hbm"])


def test_a_device_of_two_in_a_chip_has_half_of_it():
  assert roofline.memory("TPU7x").hbm_bytes == 96 * 2**30
  assert flops.peak_flops_per_s("TPU7x") == 2307e12 / 2
  assert roofline.memory("cpu") is None
  with pytest.raises(ValueError, match="'cpu'"):
    roofline.bound(roofline.Work(1, 1, 1, 1, 1, 1, 1, 64), "cpu")


@pytest.mark.parametrize("remat", ["none", "attention_dots", "full"])
def test_executed_flops_are_what_the_jaxpr_computes(remat):
  """Up to what lies outside the blocks, and the first products' input gradients."""
  e = tiny(model__remat=remat, model__width=256, model__depth=8, batch_size=2)
  task = e.task("worlds")
  rows = stack_examples(task.source, [0, 1])
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
  loss = lambda p, rows, keys: task.loss(p, rows, keys)[0].mean()
  jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(e.model.abstract_params, rows, keys)
  counted = count_jaxpr(jaxpr.jaxpr) / 2
  attention, other = roofline.executed_flops(flops.forward(task.products()), remat)
  assert counted == pytest.approx(attention + other, rel=0.03)
