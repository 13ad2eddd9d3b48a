"""The training state: where its leaves live, what is frozen, that it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import filled, relative_error, tiny
from videojax import optim
from videojax.data import stack_examples
from videojax.runs.run_state import (
  create_state,
  make_update,
  state_shardings,
)
from videojax.sharding import MeshConfig, make_mesh
from videojax.state import TrainState, train_step

ROWS = 8


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_parameters_moments_and_ema_are_stored_in_the_same_pieces(name):
  e = tiny(optim__name=name)
  mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  shardings = state_shardings(e, abstract, mesh)
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


@pytest.mark.slow
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
