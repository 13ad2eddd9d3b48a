"""What a run learns: from carried rows to the loss, through source, codec, conditions and model.

This is the seam: the loop knows `loss(params, rows, keys) -> [B]`, measures and sampler know
`denoise(params, x_t, t, cond, known)`; both are made here from the same parts.
"""

import dataclasses
import functools
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from videojax.data import Source
from videojax.diffusion.denoiser import Denoised, Denoiser
from videojax.diffusion.objective import Objective, check_levels
from videojax.models.cond import Cond, drop
from videojax.models.layers import ParamInfo, param_info

# A row's key is folded with these; 0 to 2 are the objective's (time, noise, network).
_DROP = 3


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
  """How a batch becomes conditions.

  Attributes:
    known_frames: leading frames that are given clean (0: none).
    drop: share of rows that lose text, label and scalars, for classifier-free guidance.
  """

  known_frames: int = 0
  drop: float = 0.1

  def __post_init__(self):
    if self.known_frames < 0:
      raise ValueError(f"known_frames={self.known_frames} must be >= 0")
    if not 0 <= self.drop < 1:
      raise ValueError(f"drop={self.drop} must be in [0, 1)")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """An architecture with its sizes: the module, and its Config."""

  name: str
  config: Any

  @property
  def module(self) -> ModuleType:
    return importlib.import_module(f"videojax.models.{self.name}")

  @functools.cached_property
  def abstract(self) -> nnx.Module:
    """The model with shapes for parameters; nothing is allocated."""
    return nnx.eval_shape(lambda: self.module.Model(self.config, rngs=nnx.Rngs(0)))

  @functools.cached_property
  def info(self) -> dict[str, ParamInfo]:
    return param_info(self.abstract)

  def init(self, key: Key[Array, ""]) -> dict:
    """Fresh parameters as a nested dict; jittable."""
    return nnx.to_pure_dict(
      nnx.state(self.module.Model(self.config, rngs=nnx.Rngs(key)), nnx.Param)
    )

  @property
  def abstract_params(self) -> dict:
    return jax.eval_shape(lambda: self.init(jax.random.key(0)))

  @property
  def wider(self) -> "ModelSpec":
    """The same architecture twice as wide."""
    return ModelSpec(self.name, self.module.wider(self.config))

  def network(self, params: dict) -> Any:
    """(x, t, cond, key=) -> like x."""
    graphdef, state = nnx.split(self.abstract)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


@dataclasses.dataclass(frozen=True)
class Task:
  """Source, codec, conditions, model and objective of one kind of batch."""

  source: Source
  codec: Any
  model: ModelSpec
  denoiser: Denoiser
  objective: Objective
  condition: ConditionConfig

  def __post_init__(self):
    known, frames = self.condition.known_frames, self.source.shape[0]
    if self.model.config.known and frames > 1 and not 0 < known < frames:
      raise ValueError(
        f"the model takes known frames, so condition.known_frames={known} must be between 1 and "
        f"{frames - 1}, one less than the clip's frames"
      )
    if known and not self.model.config.known:
      raise ValueError(
        f"condition.known_frames={known}, but the model takes none: set model.known='last'"
      )

  @property
  def known_frames(self) -> int:
    """Leading frames that are given; of an image none."""
    return self.condition.known_frames if self.source.shape[0] > 1 else 0

  @property
  def needs(self) -> list[str]:
    """Keys that a decoded example must have for the conditions that the model declares."""
    config, names = self.model.config, list[str]()
    if config.text:
      names += ["caption"] if config.text == "bytes" else ["text", "text_mask"]
    return names + (["label"] if config.classes else []) + list(config.scalars)

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    return self.codec.latent_shape(self.source.shape)

  def prepare(self, example: Mapping[str, Any]) -> tuple[Array, Cond]:
    """A decoded example -> latents [B,T,H,W,C] and conditions."""
    x = self.codec.encode(example["video"])
    return x, self.cond(x, example)

  def cond(self, x: Float[Array, "B T H W C"], example: Mapping[str, Any]) -> Cond:
    """The conditions that the model declares, taken from an example."""
    uses, config = self.model.config.uses, self.model.config
    fields: dict[str, Any] = {}
    if "text" in uses:
      if config.text == "bytes":
        fields.update(text=example["caption"], text_mask=example["caption"] != 0)
      else:
        fields.update(text=example["text"], text_mask=example["text_mask"])
    if "label" in uses:
      fields["label"] = example["label"]
    if "scalars" in uses:
      fields["scalars"] = {name: example[name] for name in config.scalars}
    if "known" in uses:
      frame = jnp.arange(x.shape[1]).reshape(1, -1, 1, 1, 1)
      stride = self.codec.strides[0]
      mask = (frame * stride < self.known_frames).astype(jnp.float32)
      fields.update(known_mask=jnp.broadcast_to(mask, (x.shape[0], *mask.shape[1:])), known=x)
    return Cond(**fields)

  def loss(
    self, params: dict, carried: Mapping[str, Any], keys: Key[Array, "B"]
  ) -> tuple[Float[Array, "B"], dict[str, Array]]:
    """The training loss of each row, and what is logged beside it."""
    x, cond = self.prepare(self.source.decode(dict(carried)))
    if self.condition.drop and set(self.model.config.uses) & {"text", "label", "scalars"}:
      draw = lambda key: jax.random.uniform(jax.random.fold_in(key, _DROP))
      gone: Bool[Array, B] = jax.vmap(draw)(keys) < self.condition.drop
      cond = drop(cond, ("text", "label", "scalars"), gone)
    loss, aux = self.objective.loss(
      self.denoiser, self.model.network(params), x, keys, cond,
      known=cond.known_mask,
      frames_per_level=min(self.frames_per_level, x.shape[1]),
    )  # fmt: skip
    return loss, {"x0_mse": aux["x0_mse"]}

  @property
  def frames_per_level(self) -> int:
    return self.model.config.patch[0]

  def denoise(
    self, params: dict, x_t: Float[Array, "B T H W C"], t: Float[Array, "B L"], cond: Cond
  ) -> Denoised:
    """What the model makes of noisy latents; known positions are imposed."""
    check_levels(t, self.frames_per_level if self.source.shape[0] > 1 else 1)
    known = None if cond.known_mask is None else (cond.known_mask, cond.known)
    return self.denoiser(self.model.network(params), x_t, t, cond, known=known)
