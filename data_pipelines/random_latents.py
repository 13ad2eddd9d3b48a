"""Gaussian latents of any shape, with conditions: for plans and benchmarks, not for learning.

Shapes: B batch, T frames, H W height width, C channels, L text or image tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from data_pipelines.indexed import Indexed
from videojax import settings
from videojax.settings import Count, Positive, Range, Width

Length = Annotated[int, Range(0, 2**17)]


@dataclasses.dataclass(frozen=True)
class Config:
  """The shapes of latents and conditions.

  Args:
    frames, height, width, channels: of the latent.
    classes: number of classes that labels are drawn from; None: no label.
    text_length, text_width: of text embeddings; 0: no text.
    image_length, image_width: of an image's embeddings; 0: no image.
    fps: latent frames per second.
    scalars: name -> value of all other scalars, the same for all clips.
    volumes: name -> channels of volumes that are aligned with the latent but not computed from it.
  """

  frames: Width
  height: Width
  width: Width
  channels: Width
  classes: Count | None = None
  text_length: Length = 0
  text_width: Length = 0
  image_length: Length = 0
  image_width: Length = 0
  fps: Positive = 1.0
  scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)
  volumes: Mapping[str, Width] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    settings.check(self)


class Source(Indexed):
  """An endless source: the loader carries indices, and the device draws the latents from them."""

  def __init__(self, config: Config):
    super().__init__((config.frames, config.height, config.width, config.channels), None)
    self.config, self.classes = config, config.classes

  def decode(self, carried: dict[str, UInt32[Array, " B"]]) -> dict[str, Any]:
    """Standard normal `video` [B,T,H,W,C], and the conditions that the config asks for."""
    c, index = self.config, carried["index"]
    key = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(index)
    draw = lambda shape, use: jax.vmap(
      lambda k: jax.random.normal(jax.random.fold_in(k, use), shape)
    )(key)
    out = {
      "video": draw(self.shape, 0),
      "id": index,
      "fps": jnp.full(index.shape, c.fps, jnp.float32),
      "caption": jnp.zeros((*index.shape, 1), jnp.uint8),
    }
    if c.classes:
      out["label"] = (index % c.classes).astype(jnp.int32)
    tokens = ("text", c.text_length, c.text_width), ("image", c.image_length, c.image_width)
    for use, (name, length, width) in enumerate(tokens, 1):
      if length:
        out[name] = draw((length, width), use)
        out[f"{name}_mask"] = jnp.ones((*index.shape, length), bool)
    for use, (name, channels) in enumerate(sorted(c.volumes.items()), 3):
      out[name] = draw((*self.shape[:3], channels), use)
    return out | {k: jnp.full(index.shape, v, jnp.float32) for k, v in c.scalars.items()}
