"""What a run learns: from carried rows to the loss, through source, codec, conditions and model.

This is the seam: the training loop uses only `loss(params, rows, keys) -> [B]`, measures and
samplers only `denoise(params, x_t, t, cond)`. Both are built here from the same parts.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from videojax import settings
from videojax.codecs.autoencoder import drawn
from videojax.codecs.cached import Cached
from videojax.controls import (
  MADE,
  MASKS,
  WHOLE,
  ControlsConfig,
  fold,
  given_frames,
  make,
  region,
  shrink,
)
from videojax.data import Source, stack_examples
from videojax.diffusion.denoiser import Denoised, Denoiser
from videojax.diffusion.objective import Objective, check_levels
from videojax.errors import check_choice
from videojax.models.cond import DROPPABLE, Cond, cut_cond, drop, drop_one, named
from videojax.scaling.flops import Product
from videojax.settings import MOST, Natural, Range
from videojax.specs import CODEC, CodecSpec, ModelSpec

# A row's key is folded with these; the objective uses 0 to 2 (time, noise, network).
_DROP, _MASK, _CONTROL, _DROP_EACH = 3, 4, 5, 6  # _DROP_EACH + i for the i-th condition
_ENCODE = 1 << 16

ShareOfRows = Annotated[float, Range(0, 1, open_high=True)]


@dataclasses.dataclass(frozen=True)
class ConditionConfig:
  """How the conditions of a batch are made.

  Attributes:
    known_frames: number of leading frames that are given without noise; 0: none. None: as many as
      determine the rest of the source's clips (its `known`), if the model takes known frames.
    masks: which parts are given (controls.MASKS), drawn per row in training. Measures and samples
      use the first one, which must give whole frames.
    drop: fraction of rows in which all droppable conditions are dropped, for classifier-free
      guidance.
    drop_each: fraction of rows in which each single scalar or volume is dropped, so that sampling
      can omit any of them.
  """

  known_frames: Natural | None = None
  masks: tuple[str, ...] = ("start",)
  drop: ShareOfRows = 0.1
  drop_each: ShareOfRows = 0.0

  def __post_init__(self):
    settings.check(self)
    for name in self.masks:
      check_choice("mask", name, MASKS)
    if not self.masks or self.masks[0] not in WHOLE:
      raise ValueError(f"masks={self.masks}: the first must give whole frames (one of {WHOLE})")


def without_codec(params: dict) -> dict:
  """The parameters of the model, without the codec's."""
  return {name: value for name, value in params.items() if name != CODEC}


@dataclasses.dataclass(frozen=True)
class Task:
  """Source, codec, conditions, model and objective of one kind of batch."""

  source: Source
  codec: CodecSpec
  model: ModelSpec
  denoiser: Denoiser
  objective: Objective
  condition: ConditionConfig
  controls: ControlsConfig = ControlsConfig()

  def __post_init__(self):
    if self.cached:
      self.cached.check_codec(self.codec.name, self.codec.config)
    known, frames = self.condition.known_frames or 0, self.source.shape[0]
    if math.prod(self.source.shape) > MOST:
      raise ValueError(f"a clip of shape {self.source.shape} has more than {MOST} values")
    classes, has = self.model.config.classes, getattr(self.source, "classes", None)
    if classes and has and has > classes:
      raise ValueError(f"the data has {has} classes, but model.classes={classes}")
    framed = {"start", "ends"} & set(self.condition.masks)
    if self.model.config.known and frames > 1 and framed and not 0 < known < frames:
      raise ValueError(
        f"the model takes known frames, so condition.known_frames={known} must be between 1 and "
        f"{frames - 1}, one less than the clip's frames"
      )
    if known and not self.model.config.known:
      raise ValueError(
        f"condition.known_frames={known}, but the model takes none: set model.known='last'"
      )
    low, strides = self.controls.low, self.strides
    enlarges = any(name == "low" for name, _ in self.model.config.volumes)
    if enlarges and any(a % b for a, b in zip(low, strides)):
      raise ValueError(
        f"controls.low={low} must be multiples of the codec's strides {strides}: each latent "
        "position takes one value of the small clip"
      )

  @property
  def cached(self) -> Cached | None:
    """What made the source's latents; None: it has clips, which the codec encodes in the step."""
    return getattr(self.source, "cached", None)

  @property
  def encode_flops(self) -> int:
    """FLOPs of encoding one clip in the step; 0 if its latents are cached."""
    return 0 if self.cached else self.codec.encode_flops(self.source.shape)

  @functools.cached_property
  def fps(self) -> float:
    """Frames per second of the source's clips; of its first clip if they differ."""
    carried = stack_examples(self.source, [0])
    if "fps" in carried:
      return float(carried["fps"][0])
    return float(getattr(self.source, "config").fps)  # noqa: B009 (only some sources have it)

  @property
  def known_frames(self) -> int:
    """Number of leading frames that are given; 0 for an image."""
    return (self.condition.known_frames or 0) if self.source.shape[0] > 1 else 0

  @property
  def given(self) -> np.ndarray:
    """[T]: whether each frame of the clip is given in measures and samples."""
    frames, c = self.source.shape[0], self.condition
    if frames == 1 or not self.model.config.known:
      return np.zeros(frames, bool)
    return np.array(given_frames(c.masks[0], frames, c.known_frames or 0, self.controls.every))

  @property
  def needs(self) -> list[str]:
    """Keys that a decoded example must have for the conditions that the model declares."""
    config, names = self.model.config, list[str]()
    if config.text:
      names += ["caption"] if config.text == "bytes" else ["text", "text_mask"]
    names += ["image", "image_mask"] if "image" in config.uses else []
    names += ["label"] if config.classes else []
    volumes = [name for name, _ in config.volumes]
    names += ["video"] if {"low", "edges"} & set(volumes) else []
    made = [*MADE, *(MADE[name] for name in volumes if name in MADE)]
    return names + [name for name in (*config.scalars, *volumes) if name not in made]

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    return self.codec.of({}).latent_shape(self.source.shape)

  @property
  def tokens(self) -> int:
    """Tokens of one clip."""
    patch, (frames, height, width, _) = self.model.config.patch, self.latent_shape
    return max(frames // patch[0], 1) * (height // patch[1]) * (width // patch[2])

  @property
  def strides(self) -> tuple[int, int, int]:
    """Pixels per latent position in (t, h, w)."""
    return self.codec.of({}).strides

  @functools.cached_property
  def _example(self) -> tuple[jax.ShapeDtypeStruct, Cond]:
    """Shapes of the latents and conditions of one clip."""
    rows = stack_examples(self.source, [0])
    prepare = lambda params, rows: self.prepare(params, self.source.decode(dict(rows)))
    return jax.eval_shape(prepare, self.abstract_params, rows)

  def products(self, frames: int | None = None) -> list[Product]:
    """The matrix products of one forward pass of one training clip.

    Args:
      frames: number of leading latent frames; None: all, as in training; 1: an image.
    """

    def inputs(x: Array, cond: Cond) -> tuple[Array, Array, Cond]:
      cut = lambda value: value[:, :frames]
      x = cut(x)
      t = jnp.zeros((1, x.shape[1] if self.objective.per_frame else 1))
      return x, t, cut_cond(cond, cut)

    return self.model.products(*jax.eval_shape(inputs, *self._example))

  @property
  def abstract_params(self) -> dict:
    """Shapes of the parameters of the model and the codec."""
    return self.model.abstract_params | self.codec.abstract_params

  def prepare(
    self, params: dict, example: Mapping[str, Any], keys: Key[Array, " B"] | None = None
  ) -> tuple[Array, Cond]:
    """Latents [B,T,H,W,C] and conditions of a decoded example.

    Args:
      params: parameters, including the codec's.
      keys: keys of the rows, in training: latents (if the codec gives a distribution), masks and
        strengths of controls are drawn with them. None: latents are means.
    """
    use = None if keys is None else fold(keys, _ENCODE)
    return (x := self._latents(params, example, use)), self.cond(x, example, keys)

  def _latents(
    self, params: dict, example: Mapping[str, Any], keys: Key[Array, " B"] | None
  ) -> Float[Array, "B T H W C"]:
    """The codec's latents of the clips, or the same from their cached moments."""
    if "latent_mean" not in example:
      return self.codec.of(params).encode(example["video"], keys)
    mean, log_var = example["latent_mean"], example.get("latent_log_var")
    return mean if keys is None or log_var is None else drawn(mean, log_var, keys)

  def cond(
    self,
    x: Float[Array, "B T H W C"],
    example: Mapping[str, Any],
    keys: Key[Array, " B"] | None = None,
  ) -> Cond:
    """The conditions that the model declares, taken from an example or computed from its clip."""
    uses, config = self.model.config.uses, self.model.config
    fields: dict[str, Any] = {}
    if "text" in uses:
      if config.text == "bytes":
        fields.update(text=example["caption"], text_mask=example["caption"] != 0)
      else:
        fields.update(text=example["text"], text_mask=example["text_mask"])
    if "image" in uses:
      fields.update(image=example["image"], image_mask=example["image_mask"])
    if "label" in uses:
      fields["label"] = example["label"]
    volumes, strengths = {}, {}
    for name, _ in config.volumes:
      if name in example or name not in MADE:
        volumes[name] = self._on_grid(example[name], x)
        continue
      use = None if keys is None else fold(keys, _CONTROL)
      made, strengths[MADE[name]] = make(name, x, example, self.controls, use)
      if name == "first":  # Stable Video Diffusion expects it as the autoencoder gives it, unscaled
        made = made / self.codec.of({}).scaling
      volumes[name] = self._on_grid(made, x)
    fields["volumes"] = volumes
    values = strengths | dict(example)
    fields["scalars"] = {name: values[name] for name in config.scalars}
    if "known" in uses:
      fields.update(known_mask=self.known_mask(x, example, keys), known=x)
    return Cond(**fields)

  def _on_grid(self, volume: Float[Array, "B _ _ _ C"], x: Float[Array, "B T H W Z"]) -> Array:
    """Averages a volume that is defined on pixels over the pixels of each latent position."""
    sizes = zip(volume.shape[1:4], x.shape[1:4], self.strides)
    t, h, w = (1 if there in (1, here) else stride for there, here, stride in sizes)
    return volume if (t, h, w) == (1, 1, 1) else shrink(volume, (t, h, w))

  def known_mask(
    self, x: Float[Array, "B T H W C"], example: Mapping[str, Any], keys: Key[Array, " B"] | None
  ) -> Float[Array, "B T _ _ 1"]:
    """1 where the clip is given: in training, a mask drawn per row; otherwise the first mask."""
    if "known_mask" in example:
      return jnp.floor(self._on_grid(example["known_mask"], x))  # 1 only if all pixels are given
    rows, frames = x.shape[:2]
    stride = self.strides[0]
    if x.shape[1] == 1 or keys is None or len(self.condition.masks) == 1:
      mask = jnp.float32(self.given[::stride]).reshape(1, -1, 1, 1, 1)
      return jnp.broadcast_to(mask, (rows, frames, 1, 1, 1))
    c, size, all_frames = self.condition, (x.shape[2], x.shape[3]), self.source.shape[0]

    def one(key: Key[Array, ""]) -> Float[Array, "T H W"]:
      given = lambda m: given_frames(m, all_frames, c.known_frames or 0, self.controls.every)
      whole = lambda m: jnp.float32(given(m)[::stride])
      of = lambda m: whole(m)[:, None, None] if m in WHOLE else region(m, size, key)[None]
      all_of = jnp.stack([jnp.broadcast_to(of(m), (frames, *size)) for m in c.masks])
      return all_of[jax.random.randint(jax.random.fold_in(key, 2), (), 0, len(c.masks))]

    return jax.vmap(one)(fold(keys, _MASK))[..., None]

  def loss(
    self, params: dict, carried: Mapping[str, Any], keys: Key[Array, " B"]
  ) -> tuple[Float[Array, " B"], dict[str, Array]]:
    """The training loss of each row, and the values that are logged with it."""
    x, cond = self.prepare(params, self.source.decode(dict(carried)), keys)
    if self.condition.drop and set(self.model.config.uses) & set(DROPPABLE):
      cond = drop(cond, DROPPABLE, self._chosen(keys, self.condition.drop, _DROP))
    if self.condition.drop_each:
      for i, (field, name) in enumerate(named(cond)):
        gone = self._chosen(keys, self.condition.drop_each, _DROP_EACH + i)
        cond = drop_one(cond, field, name, gone)
    loss, aux = self.objective.loss(
      self.denoiser, self.model.network(without_codec(params)), x, keys, cond,
      known=cond.known_mask,
      frames_per_level=min(self.frames_per_level, x.shape[1]),
    )  # fmt: skip
    return loss, {"x0_mse": aux["x0_mse"]}

  @staticmethod
  def _chosen(keys: Key[Array, " B"], share: float, use: int) -> Bool[Array, " B"]:
    return jax.vmap(jax.random.uniform)(fold(keys, use)) < share

  @property
  def frames_per_level(self) -> int:
    return self.model.config.patch[0]

  def denoise(
    self, params: dict, x_t: Float[Array, "B T H W C"], t: Float[Array, "B L"], cond: Cond
  ) -> Denoised:
    """Denoises latents; known positions are set to their given values."""
    check_levels(t, self.frames_per_level if self.source.shape[0] > 1 else 1)
    known = None if cond.known_mask is None else (cond.known_mask, cond.known)
    network = self.model.network(without_codec(params))
    return self.denoiser(network, x_t, t, cond, known=known)


def check_cached(tasks: Iterable[Task], params: dict) -> None:
  """Raises ConfigError if cached latents were made by other parameters than the codec's.

  Args: params: of a run, including the codec's; concrete.
  """
  for task in tasks:
    if task.cached:
      task.cached.check_params(params[CODEC], task.codec.config.weights)
