"""The training state and the pure training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32, Key

from videojax.diffusion.objective import row_keys
from videojax.optim import Schedule, ema_beta, merge, rate_at

LossFn = Callable[[dict, Any, Key[Array, " B"]], tuple[Float[Array, " B"], dict[str, Array]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that training changes. It has no random state: noise is keyed by (seed, step, row).

  Attributes:
    step: number of updates done.
    trainable: nested dict of fp32 parameters.
    frozen: parameters that never change; usually empty.
    opt_state: of the trainable parameters.
    ema: name of the EMA width -> average of the trainable parameters.
  """

  step: Any  # int32 scalar; a sharding or a shape in pytrees that describe the state
  trainable: dict
  frozen: dict
  opt_state: Any
  ema: dict[str, dict]

  @property
  def params(self) -> dict:
    return merge(self.trainable, self.frozen)

  def ema_params(self, name: str) -> dict:
    return merge(self.ema[name], self.frozen)


def init_state(
  trainable: dict, frozen: dict, tx: optax.GradientTransformation, ema: tuple[str, ...]
) -> TrainState:
  """The state before the first step; each EMA starts as a copy (aliases cannot be donated)."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen=frozen,
    opt_state=tx.init(trainable),
    ema={name: jax.tree.map(jnp.copy, trainable) for name in ema},
  )


def train_step(
  state: TrainState,
  batch: Any,
  key: Key[Array, ""],
  schedule: Schedule,
  *,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  gammas: dict[str, float],
  accumulate: int,
) -> tuple[TrainState, dict[str, Array]]:
  """One update.

  Args:
    state: donated by the caller.
    batch: carried rows, leading axis B.
    key: of the run; the step is folded in here.
    loss_fn: (params, rows, keys [n]) -> (loss [n], aux of [n]).
    schedule: of the learning rate.
    tx: update rule at a learning rate of 1.
    gammas: EMA exponents by name.
    accumulate: microbatches per update; B is divisible by it.
  Returns: the new state, and metrics (fp32 scalars): loss, grad_norm, and the mean of each aux.
  """
  rows = jax.tree.leaves(batch)[0].shape[0]
  keys = row_keys(key, state.step, jnp.arange(rows))

  def mean_loss(trainable, batch, keys):
    loss, aux = loss_fn(merge(trainable, state.frozen), batch, keys)
    return loss.mean(), {"loss": loss.mean()} | jax.tree.map(jnp.mean, aux)

  grad_fn = jax.grad(mean_loss, has_aux=True)
  if accumulate == 1:
    grads, metrics = grad_fn(state.trainable, batch, keys)
  else:

    def micro(x):  # strided rows: each microbatch keeps the batch's sharding
      return jnp.swapaxes(x.reshape(rows // accumulate, accumulate, *x.shape[1:]), 0, 1)

    def body(total, part):
      return jax.tree.map(jnp.add, total, grad_fn(state.trainable, *part)), None

    parts = jax.tree.map(micro, (batch, keys))
    first = jax.tree.map(lambda x: x[0], parts)
    zero = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(grad_fn, state.trainable, *first)
    )
    total, _ = jax.lax.scan(body, zero, parts)
    grads, metrics = jax.tree.map(lambda x: x / accumulate, total)

  updates, opt_state = tx.update(grads, state.opt_state, state.trainable)
  rate = rate_at(schedule, state.step)
  updates = jax.tree.map(lambda update: rate * update, updates)
  trainable = optax.apply_updates(state.trainable, updates)
  ema = {
    name: average(state.ema[name], trainable, ema_beta(state.step, gamma))
    for name, gamma in gammas.items()
  }
  metrics["grad_norm"] = optax.tree.norm(grads)
  new = TrainState(state.step + 1, trainable, state.frozen, opt_state, ema)
  return new, metrics


def train_steps(
  state: TrainState,
  batches: Any,
  key: Key[Array, ""],
  schedule: Schedule,
  number: Int32[Array, ""],
  **how: Any,
) -> tuple[TrainState, dict[str, Array]]:
  """Several updates in one dispatch, for steps that take less time than a dispatch.

  Args:
    state, key, schedule, how: as in `train_step`.
    batches: carried rows, leading axes [maximum number of updates, B].
    number: number of updates to do; an array, so that a run's last dispatch does not recompile.
  Returns: the new state, and metrics of every update [maximum number]; 0 after the last one.
  """
  most = jax.tree.leaves(batches)[0].shape[0]
  at = lambda i: jax.tree.map(lambda x: x[i], batches)
  step = lambda state, i: train_step(state, at(i), key, schedule, **how)
  shapes = jax.eval_shape(step, state, 0)[1]
  metrics = jax.tree.map(lambda m: jnp.zeros((most, *m.shape), m.dtype), shapes)

  def body(i, carry):
    state, metrics = carry
    state, new = step(state, i)
    return state, jax.tree.map(lambda all_, one: all_.at[i].set(one), metrics, new)

  return jax.lax.fori_loop(0, number, body, (state, metrics))


def average(ema: dict, params: dict, beta: Array) -> dict:
  """beta ema + (1 - beta) params."""
  return jax.tree.map(lambda e, p: p + beta * (e - p), ema, params)
