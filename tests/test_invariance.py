"""Results do not depend on mesh, accumulation, remat or scan.

docs/invariance.md is the table. `VIDEOJAX_WRITE_DOCS=1 pytest tests/test_invariance.py -k docs`
measures every line again and writes it. Otherwise the slow suite measures the DiT on the meshes
that no larger one contains (tests/models/test_unet.py holds every layer of the U-Nets on a mesh).
"""

import dataclasses
import functools
import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import filled, relative_error, tiny, together
from videojax import optim
from videojax.data import stack_examples
from videojax.models.contract import architectures
from videojax.runs.program import (
  put_replicated,
)
from videojax.runs.run_state import (
  make_update,
  state_shardings,
)
from videojax.sample import generate
from videojax.sharding import MESH_AXES, MeshConfig, make_mesh, put_batch
from videojax.state import init_state, train_step

ROWS, BOUND = 8, 1e-5
DIT = dict(
  model__text="bytes", condition__drop=0.5, model__width=32, model__num_heads=4,
  model__patch=(1, 4, 4), guidance__scale=2.0,
)  # fmt: skip


def unet(name, sizes):
  return dict(model=dict(name=name, channels=3, known="zeros", dtype="float32", **sizes))


UNETS = {name: unet(name, a.SIZES["tiny"]) for name, a in architectures().items() if name != "dit"}
DITS = {"dit, joint": DIT, "dit, alternating": dict(DIT, model__attention="alternating")}
MODELS = DITS | UNETS
DOCS = Path(__file__).parents[1] / "docs" / "invariance.md"
WRITES = bool(os.environ.get("VIDEOJAX_WRITE_DOCS"))
ONE = MeshConfig(data=1)
MESHES = (
  [MeshConfig(**{"data": 1, axis: n}) for n in (2, 8) for axis in MESH_AXES]
  + [MeshConfig(**{"data": 1, a: 2, b: 2}) for a, b in itertools.combinations(MESH_AXES, 2)]
  + [
    MeshConfig(data=1, seq=4, tensor=2),
    MeshConfig(data=2, seq=4),
    MeshConfig(data=1, fsdp=4, tensor=2),
  ]
  + [MeshConfig(data=2, fsdp=2, seq=2), MeshConfig(data=1, fsdp=2, seq=2, tensor=2)]
)


FEW = [MeshConfig(data=1, seq=2), MeshConfig(data=2, fsdp=2, seq=2)]
FEW += [MeshConfig(data=1, fsdp=2, seq=2, tensor=2)]


@functools.lru_cache
def make(model, **changes):
  return tiny(**{**MODELS[model], **changes})


@functools.lru_cache
def drawn(model):
  """Every parameter filled; of U-Nets, which do not normalise queries and keys, beside its start.

  Where attention is uniform, and where it has settled on one key, gradients of queries and keys are
  differences that cancel.
  """
  params = filled(model.abstract_params, 0.1)
  if model.name != "dit":
    params = jax.tree.map(jnp.add, jax.jit(model.init)(jax.random.key(0)), params)
  return jax.device_get(params)  # kept for every mesh, so on none


def sgd_or(adam):
  """One program for both: plain SGD, whose state is the gradient, or, where asked, `adam`."""

  def init(params):
    return {"adam": adam.init(params), "use": jnp.zeros(()), "gradients": params}

  def update(grads, state, params):
    updates, new = adam.update(grads, state["adam"], params)
    pick = lambda a, g: jnp.where(state["use"] > 0, a, -g)
    updates = jax.tree.map(pick, updates, grads)
    return updates, {"adam": new, "use": state["use"], "gradients": grads}

  return optax.GradientTransformation(init, update)


def trained(e, mesh):
  """Losses, first gradients and last parameters of 3 SGD steps, losses of 6 AdamW steps."""
  task, tx, params = e.task("worlds"), sgd_or(make_update(e)[0]), drawn(e.model)
  create = lambda: init_state(params, {}, tx, ("0.100",))
  shardings = state_shardings(e, jax.eval_shape(create), mesh)
  step = functools.partial(
    train_step, loss_fn=task.loss, tx=tx, gammas={"0.100": optim.ema_gamma(0.1)},
    accumulate=e.accumulate,
  )  # fmt: skip
  step = jax.jit(step, out_shardings=(shardings, None))
  key = put_replicated(jax.random.key(3), mesh)

  def run(adam, steps, rate):
    state = create()
    state = dataclasses.replace(state, opt_state=state.opt_state | {"use": jnp.float32(adam)})
    state = jax.device_put(state, shardings)
    schedule = dataclasses.replace(optim.schedule(e.optim, 100), peak=np.float32(rate))
    losses, grads = [], None
    for s in range(steps):
      rows = stack_examples(task.source, range(s * ROWS, (s + 1) * ROWS))
      state, values = step(state, put_batch(rows, mesh, ROWS), key, put_replicated(schedule, mesh))
      losses.append(float(values["loss"]))
      grads = together(jax.device_get(state.opt_state["gradients"])) if s == 0 else grads
    last = jax.device_get((state.trainable, state.ema))
    return np.array(losses), grads, tuple(map(together, last))

  losses, grads, last = run(False, steps=3, rate=0.05)
  return {
    "loss": losses, "gradients": grads, "parameters, 3 SGD steps": last,
    "loss, 6 AdamW steps": run(True, steps=6, rate=1e-3)[0],
  }  # fmt: skip


def sampled(e, mesh):
  task, params = e.task("worlds"), drawn(e.model)
  rows = put_batch(stack_examples(task.source, range(ROWS)), mesh, ROWS)
  make = lambda p, c: generate(task, e.sampler, e.guidance, p, task.source.decode(c))
  return {"samples": np.asarray(jax.jit(make)(params, rows))}


@functools.lru_cache
def measured(model, mesh=ONE, what=(trained, sampled), **changes):
  """What must not depend on the mesh, by name."""
  e, mesh = make(model, **changes), on_devices(mesh)
  with jax.set_mesh(mesh):
    return {name: value for measure in what for name, value in measure(e, mesh).items()}


def on_devices(mesh):
  return make_mesh(mesh, jax.devices()[: np.prod(dataclasses.astuple(mesh))])


def difference(model, mesh, **changes):
  """Relative difference from one device, by name: of losses each, of the rest by leaf's norm."""
  got, want = measured(model, mesh, **changes), measured(model)
  losses = lambda name: np.max(np.abs(got[name] / want[name] - 1))
  return {n: losses(n) if "loss" in n else relative_error(got[n], want[n]) for n in got}


def label(mesh):
  sizes = dataclasses.asdict(mesh)
  return " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n > 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  "model,mesh",
  [("dit, joint", MeshConfig(data=1, seq=4, tensor=2)),
   ("dit, alternating", MeshConfig(data=1, fsdp=2, seq=2, tensor=2))],
)  # fmt: skip
def test_mesh_does_not_show_in_loss_gradients_parameters_or_samples(model, mesh):
  assert max(difference(model, mesh).values()) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [dict(accumulate=4), dict(model__remat="full"), dict(model__remat="attention"),
   dict(model__remat="attention_dots"), dict(model__scan=False)],
  ids=str,
)  # fmt: skip
def test_accumulation_remat_and_scan_do_not_show(changes):
  assert max(difference("dit, joint", ONE, what=(trained,), **changes).values()) < BOUND


@pytest.mark.slow
def test_accumulation_does_not_show_on_a_mesh():
  mesh = MeshConfig(data=2, fsdp=2, seq=2)
  assert max(difference("dit, joint", mesh, what=(trained,), accumulate=2).values()) < BOUND


HEAD = """# Results do not depend on the mesh

Largest difference to one device in fp32: of a loss relative to that loss, of gradients,
parameters and samples relative to the norm of each leaf. The bound is 1e-5. Eight clips with
text, guided samples, 8 fake CPU devices; the mixing factors of a U-Net count as one leaf.
`tests/test_invariance.py` generates this table.

| model | mesh | attention | loss | gradients | parameters, 3 SGD steps | loss, 6 AdamW steps | \
samples |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
LINES = [(model, mesh) for model in MODELS for mesh in (FEW if model in UNETS else MESHES)]


def start(model, mesh):
  """How a line of the table begins."""
  config = make(model).model
  how = config.module.describe(config.config, on_devices(mesh))
  return f"| {model} | {label(mesh)} | {how} | "


def test_every_architecture_is_in_the_docs_with_its_meshes_within_the_bound():
  table = DOCS.read_text().removeprefix(HEAD).splitlines()
  for model, mesh in LINES:
    (line,) = (line for line in table if line.startswith(start(model, mesh)))
    found = line.removeprefix(start(model, mesh)).strip(" |").split(" | ")
    assert max(map(float, found)) < BOUND


def named(x):
  return label(x) if isinstance(x, MeshConfig) else x


# Attention eight ways, and meshes of several axes that no other one contains, nor a test above.
LARGEST = [
  MeshConfig(**{"data": 1, **sizes})
  for sizes in (
    dict(seq=8), dict(tensor=8), dict(data=2, seq=4), dict(fsdp=4, tensor=2),
    dict(data=2, fsdp=2, seq=2),
  )
]  # fmt: skip
SUITE = list(zip(itertools.cycle(DITS), LARGEST))  # the kinds of attention in turn


@pytest.mark.slow
@pytest.mark.parametrize("model,mesh", LINES if WRITES else SUITE, ids=named)
def test_mesh_does_not_show_on_any_line_of_the_docs(model, mesh):
  found = difference(model, mesh)
  assert max(found.values()) < BOUND, found
  if WRITES:  # over the line of these names, or at the end
    lines = DOCS.read_text().removeprefix(HEAD).splitlines()
    kept = [line for line in lines if not line.startswith(start(model, mesh))]
    new = start(model, mesh) + " | ".join(f"{v:.0e}" for v in found.values()) + " |"
    order = [start(*line) for line in LINES]
    place = lambda line: next((i for i, s in enumerate(order) if line.startswith(s)), len(order))
    DOCS.write_text(HEAD + "".join(f"{x}\n" for x in sorted([*kept, new], key=place)))
