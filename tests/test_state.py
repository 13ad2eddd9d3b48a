"""DESIGN's second promise: accumulation, remat, scan and the mesh do not show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers import filled, relative_error, tiny
from videojax import optim
from videojax.data import stack_examples
from videojax.program import create_state, make_update, put_replicated, state_shardings
from videojax.sample import generate
from videojax.sharding import MeshConfig, make_mesh, put_batch
from videojax.state import TrainState, init_state, train_step

ROWS = 8
CONFIG = dict(model__text="bytes", condition__drop=0.5, model__width=32)


def run(mesh_config, devices, *, steps=3, tx=None, accumulate=1, **changes):
  """Losses, gradient norms and the state after `steps` updates, from filled parameters."""
  e = tiny(**{**CONFIG, **changes})
  task = e.task("worlds")
  mesh = make_mesh(mesh_config, jax.devices()[:devices])
  schedule = optim.schedule(e.optim, e.total_steps)
  if tx is None:  # SGD with learning rate .05
    tx, schedule = optax.sgd(1.0), dataclasses.replace(schedule, peak=np.float32(0.05))
  else:
    tx = tx(e)
  create = lambda: init_state(filled(e.model.abstract_params), {}, tx, ("0.100",))
  shardings = state_shardings(e.model, jax.eval_shape(create), mesh)
  step = functools.partial(
    train_step, loss_fn=task.loss, tx=tx, gammas={"0.100": optim.ema_gamma(0.1)},
    accumulate=accumulate,
  )  # fmt: skip
  with jax.set_mesh(mesh):
    state = jax.device_put(create(), shardings)
    step = jax.jit(step, out_shardings=(shardings, None))
    key, schedule = put_replicated((jax.random.key(3), schedule), mesh)
    losses = []
    for s in range(steps):
      rows = stack_examples(task.source, range(s * ROWS, (s + 1) * ROWS))
      state, metrics = step(state, put_batch(rows, mesh, ROWS), key, schedule)
      losses.append(jax.device_get(metrics))
  return losses, jax.device_get(state)


ONE = MeshConfig(data=1)


@pytest.fixture(scope="module")
def alone():
  return run(ONE, 1)


def agrees(got, want, tolerance=1e-5):
  (losses, state), (want_losses, want_state) = got, want
  for a, b in zip(losses, want_losses):
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=tolerance)
    np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=tolerance)
  # After SGD steps the parameters differ by learning rate times the gradients' difference.
  assert relative_error(state.trainable, want_state.trainable) < tolerance
  assert relative_error(state.ema, want_state.ema) < tolerance


@pytest.mark.parametrize(
  "mesh,devices",
  [
    (MeshConfig(data=8), 8), (MeshConfig(data=2, fsdp=4), 8), (MeshConfig(fsdp=2, tensor=2), 4),
    (MeshConfig(data=2, seq=2, tensor=2), 8),
  ],
  ids=lambda v: "x".join(map(str, dataclasses.astuple(v))) if isinstance(v, MeshConfig) else str(v),
)  # fmt: skip
def test_mesh_does_not_show_in_loss_gradients_or_parameters(mesh, devices, alone):
  agrees(run(dataclasses.replace(mesh, data=-1), devices), alone)


@pytest.mark.parametrize(
  "changes",
  [dict(accumulate=4), dict(model__remat="full"), dict(model__remat="attention"),
   dict(model__remat="attention_dots"), dict(model__scan=False)],
  ids=str,
)  # fmt: skip
def test_accumulation_remat_and_scan_do_not_show(changes, alone):
  agrees(run(ONE, 1, **changes), alone)


def test_accumulation_does_not_show_on_a_mesh(alone):
  agrees(run(MeshConfig(data=2, fsdp=2), 4, accumulate=2), alone)


def test_adamw_losses_over_six_steps_agree_on_8_devices():
  tx = lambda e: make_update(e)[0]
  want, _ = run(ONE, 1, steps=6, tx=tx)
  got, _ = run(MeshConfig(data=2, fsdp=2, tensor=2), 8, steps=6, tx=tx)
  np.testing.assert_allclose([m["loss"] for m in got], [m["loss"] for m in want], rtol=1e-5)


def test_samples_agree_on_8_devices():
  e = tiny(**CONFIG, guidance__scale=2.0)
  task, params = e.task("worlds"), filled(e.model.abstract_params)
  want = None
  for mesh_config, devices in ((ONE, 1), (MeshConfig(data=2, fsdp=2, tensor=2), 8)):
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    with jax.set_mesh(mesh):
      rows = put_batch(stack_examples(task.source, range(ROWS)), mesh, ROWS)
      sampled = lambda p, c: generate(task, e.sampler, e.guidance, p, task.source.decode(c))
      video = jax.jit(sampled)(params, rows)
      video = np.asarray(video)
    want = video if want is None else want
  assert relative_error(video, want) < 1e-5


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_parameters_moments_and_ema_are_stored_in_the_same_pieces(name):
  e = tiny(optim__name=name)
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  shardings = state_shardings(e.model, abstract, mesh)
  assert str(shardings.trainable["blocks"]["up"]["kernel"].spec) == str(
    jax.sharding.PartitionSpec(None, "fsdp", "tensor")
  )
  copies = 0
  for tree in (abstract.opt_state, abstract.ema):
    wanted = dict(_by_suffix(abstract.trainable, shardings.trainable))
    like = shardings.opt_state if tree is abstract.opt_state else shardings.ema
    for path, sharding in _by_suffix(tree, like):
      for suffix, expected in wanted.items():
        if path.endswith("/" + suffix) or path == suffix:
          assert sharding == expected, path
          copies += 1
  assert copies >= 2 * len(wanted)


def _by_suffix(tree, shardings):
  from videojax.sharding import path_name

  paths = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
  return list(zip(paths, jax.tree.leaves(shardings)))


def test_frozen_parameters_have_no_moments_and_do_not_move():
  e = tiny(optim__freeze="blocks/|time/")
  tx, gammas = make_update(e)
  state = create_state(e, tx)
  assert set(state.frozen) == {"blocks", "time"} and "blocks" not in state.trainable
  assert not any("blocks" in p for p, _ in _by_suffix(state.opt_state, state.opt_state))
  task = e.task("worlds")
  rows = stack_examples(task.source, range(ROWS))
  new, _ = jax.jit(
    functools.partial(train_step, loss_fn=task.loss, tx=tx, gammas=gammas, accumulate=1)
  )(state, rows, jax.random.key(0), optim.schedule(e.optim, 4))
  assert relative_error(new.frozen, state.frozen) == 0
  assert relative_error(new.trainable["head"], filled(state.trainable["head"])) > 0
  merged = new.params
  assert set(merged) == set(state.trainable) | set(state.frozen)


def test_freezing_nothing_or_everything_is_refused():
  for pattern, which in (("nothing", "no parameter"), (".*", "every parameter")):
    with pytest.raises(ValueError, match=which):
      optim.split_frozen({"a": 1, "b": {"c": 2}}, pattern)


def test_noise_of_a_row_depends_on_seed_step_and_row_alone():
  from videojax.diffusion.objective import row_keys

  key = jax.random.key(0)
  whole = jax.random.key_data(row_keys(key, jnp.int32(5), jnp.arange(8)))
  part = jax.random.key_data(row_keys(key, jnp.int32(5), jnp.arange(4, 8)))
  np.testing.assert_array_equal(whole[4:], part)
  assert len({tuple(row) for row in np.asarray(whole).tolist()}) == 8


def test_overfits_one_batch():
  e = tiny(optim__learning_rate=3e-3, condition__drop=0.0, model__width=64)
  task = e.task("worlds")
  tx, gammas = make_update(e)
  rows = stack_examples(task.source, range(ROWS))
  step = functools.partial(train_step, loss_fn=task.loss, tx=tx, gammas=gammas, accumulate=1)

  def frozen_noise(state: TrainState, _):
    # The same step count each time: the same noise, so that the batch can be learnt by heart.
    state = dataclasses.replace(state, step=jnp.int32(0))
    new, metrics = step(state, rows, jax.random.key(0), optim.schedule(e.optim, 4))
    return new, metrics["loss"]

  _, losses = jax.jit(lambda s: jax.lax.scan(frozen_noise, s, None, 200))(create_state(e, tx))
  assert losses[-10:].mean() < 0.15 * losses[0]
