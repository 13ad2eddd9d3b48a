"""Optimizers, learning-rate schedules, frozen parameters, EMA.

The optimizer computes the update for a learning rate of 1, and the training step multiplies it by
the rate. The rate is an argument of the compiled step, so runs that differ in rate, schedule or
length share it.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon

from videojax import settings
from videojax.errors import check_choice
from videojax.models.layers import ParamInfo
from videojax.settings import Natural, NonNegative, Positive, Range, Regex
from videojax.sharding import path_name

Decay = Annotated[float, Range(0, 1, open_high=True)]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """Settings of the optimizer.

  Attributes:
    learning_rate: peak of the schedule.
    name: 'adamw', or 'muon': orthogonalised momentum for the matrices of the blocks, Adam for the
      rest (Jordan et al. 2024).
    muon_learning_rate: for those matrices, whose updates are scaled to Adam's RMS (x 0.2, Liu et
      al. 2025, arXiv:2502.16982).
    schedule: 'constant'; 'cosine' to zero; 'wsd': constant, then linear to zero over the last
      `decay_fraction` of the steps.
    warmup_steps: length of the linear warm-up from zero.
    weight_decay: applied to matrices only, multiplied by the learning rate.
    clip: maximum global gradient norm; 0: no clipping.
    freeze: regular expression; parameters whose path matches it (from the start) are not trained.
  """

  learning_rate: Positive
  name: str = "adamw"
  muon_learning_rate: Positive = 0.02
  schedule: str = "constant"
  warmup_steps: Natural = 0
  decay_fraction: Annotated[float, Range(0, 1, open_low=True)] = 0.2
  b1: Decay = 0.9
  b2: Decay = 0.99
  eps: Positive = 1e-8
  weight_decay: NonNegative = 0.0
  clip: NonNegative = 1.0
  freeze: Regex | None = None

  def __post_init__(self):
    settings.check(self)
    check_choice("optimizer", self.name, ("adamw", "muon"))
    check_choice("schedule", self.schedule, ("constant", "cosine", "wsd"))

  def decay_start(self, total_steps: int) -> int:
    """The first step whose learning rate depends on total_steps."""
    if self.schedule == "constant":
      return total_steps
    if self.schedule == "wsd":
      return total_steps - int(self.decay_fraction * total_steps)
    return 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
  """A learning-rate schedule as fp32 scalars; see `rate_at`.

  Attributes:
    peak: the learning rate after warm-up.
    warmup: number of steps of the linear rise from zero.
    start, end: steps between which the rate falls to zero; if equal, it does not fall.
    cosine: 1: the fall is half a cosine, 0: linear.
  """

  # Any: pytrees of shapes and of shardings have this structure too.
  peak: Any
  warmup: Any
  start: Any
  end: Any
  cosine: Any


def schedule(config: OptimConfig, total_steps: int) -> Schedule:
  """The schedule of a run."""
  end = total_steps
  start = end if config.schedule == "constant" else config.decay_start(end)
  numbers = (
    config.learning_rate, config.warmup_steps, max(start, config.warmup_steps),
    max(end, config.warmup_steps), float(config.schedule == "cosine"),
  )  # fmt: skip
  return Schedule(*(np.float32(number) for number in numbers))


def rate_at(s: Schedule, step: jax.typing.ArrayLike) -> jax.Array:
  """The learning rate of the update after `step` steps (0, 1, ...)."""
  step = jnp.asarray(step, jnp.float32)
  ramp = jnp.minimum((step + 1) / jnp.maximum(s.warmup, 1), 1.0)
  done = jnp.clip((step - s.start) / jnp.maximum(s.end - s.start, 1), 0.0, 1.0)
  return s.peak * ramp * jnp.where(s.cosine > 0, 0.5 * (1 + jnp.cos(jnp.pi * done)), 1 - done)


def make_optimizer(
  config: OptimConfig, info: Mapping[str, ParamInfo], rates: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
  """The update rule for a learning rate of 1.

  Args:
    config: settings.
    info: ParamInfo of the trainable parameters by path.
    rates: muP's factors on the learning rate by path; None: all 1. They do not scale weight decay
      (Yang et al. 2022, arXiv:2203.03466, appendix B.3).
  """

  def is_matrix(params):
    return jax.tree_util.tree_map_with_path(lambda p, _: info[path_name(p)].inputs > 0, params)

  if config.name == "adamw":
    parts = [
      optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=jnp.float32),
      optax.identity() if rates is None else scale_by_path(rates),
      optax.add_decayed_weights(config.weight_decay, is_matrix)
      if config.weight_decay
      else optax.identity(),
      optax.scale(-1.0),
    ]
  else:
    if rates is not None:
      raise ValueError(
        "mup_base_width needs optim.name='adamw': Muon's updates transfer without it"
      )
    parts = [
      muon(
        config.muon_learning_rate / config.learning_rate,
        beta=0.95, consistent_rms=0.2,
        weight_decay=config.weight_decay, weight_decay_mask=is_matrix,
        eps=config.eps, adam_b1=config.b1, adam_b2=config.b2, adam_learning_rate=1.0,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=lambda params: muon_dimensions(params, info),
      )
    ]  # fmt: skip
  clip = optax.clip_by_global_norm(config.clip) if config.clip else optax.identity()
  return optax.chain(clip, *parts)


def scale_by_path(factors: Mapping[str, float]) -> optax.GradientTransformation:
  """Multiplies each parameter's update by its factor."""

  def scale(updates: Any, _: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda p, u: factors[path_name(p)] * u, updates)

  return optax.stateless(scale)


def muon_dimensions(params: Any, info: Mapping[str, ParamInfo]) -> Any:
  """Which axes of each stacked kernel are inputs and outputs; None: Adam updates the parameter.

  Unnamed axes (the three of qkv, the six of adaLN) index separate matrices.
  """

  def one(path, leaf):
    axes, inputs = info[path_name(path)][:2]
    if not inputs or axes[0] != "layers":
      return None
    stacked = leaf.ndim - (len(axes) - axes.count("layers"))
    into = tuple(range(stacked, stacked + inputs))
    out = tuple(i for i in range(stacked + inputs, leaf.ndim) if axes[i] is not None)
    if not out:  # adaLN: (D) -> (6, D) with unnamed outputs
      out = (leaf.ndim - 1,)
    return MuonDimensionNumbers(into, out)

  return jax.tree_util.tree_map_with_path(one, params)


def split_frozen(params: dict, freeze: str | None) -> tuple[dict, dict]:
  """Splits parameters into (trainable, frozen); `freeze` matches paths from their start."""
  if freeze is None:
    return params, {}

  def keep(tree: dict, prefix: str, frozen: bool) -> dict:
    out = {}
    for name, value in tree.items():
      path = f"{prefix}{name}"
      if isinstance(value, dict):
        below = keep(value, path + "/", frozen)
        if below:
          out[name] = below
      elif bool(re.match(freeze, path)) == frozen:
        out[name] = value
    return out

  trainable, frozen = keep(params, "", False), keep(params, "", True)
  if not frozen or not trainable:
    which = "no" if not frozen else "every"
    raise ValueError(f"optim.freeze={freeze!r} matches {which} parameter")
  return trainable, frozen


def merge(trainable: dict, frozen: dict) -> dict:
  """The inverse of `split_frozen`."""
  out = dict(trainable)
  for name, value in frozen.items():
    both = name in out and isinstance(value, dict)
    out[name] = merge(out[name], value) if both else value
  return out


def ema_gamma(sigma_rel: float) -> float:
  """Exponent of the power-function EMA whose width is sigma_rel times the training so far.

  Source: Karras et al. 2024, arXiv:2312.02696, Eq. 6 and Algorithm 2: sigma_rel^2 =
  (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), solved for gamma.
  """
  if not 0 < sigma_rel < 0.28:
    raise ValueError(f"ema sigma_rel={sigma_rel} must be in (0, 0.28)")
  t = sigma_rel**-2
  return float(np.max(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real))


def ema_beta(step: jax.Array, gamma: float) -> jax.Array:
  """beta of the EMA update after `step` (0, 1, ...): (1 - 1/t)^(gamma+1), t = step + 1. Eq. 4."""
  t = step.astype(jnp.float32) + 1
  return (1 - 1 / t) ** (gamma + 1)
