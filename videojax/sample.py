"""Samples clips from a model, with noise keyed by example, and writes them as files."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from videojax import settings
from videojax.data import caption_text
from videojax.diffusion import multidiffusion
from videojax.diffusion.guidance import guided
from videojax.diffusion.multidiffusion import window_of, windowed
from videojax.diffusion.samplers import Sampler, sample
from videojax.errors import check_choice
from videojax.io import media
from videojax.io.files import replacing
from videojax.models.cond import DROPPABLE, Cond, as_images, cut_cond, drop, each_frame
from videojax.scaling import flops
from videojax.settings import NonNegative, Range, Share
from videojax.task import Task

SEED = 7  # of the initial noise of samples; a constant, so that runs can be compared


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
  """Classifier-free guidance; scale 1 is no guidance. See diffusion/guidance.py.

  Attributes:
    interval: noise levels, in sigma / alpha, where guidance acts. The default is all of them, up to
      infinity, which is the level where sampling starts under most processes.
    drop: conditions that the unconditional branch lacks (cond.DROPPABLE).
  """

  scale: float = 1.0
  interval: tuple[NonNegative, Annotated[float, Range(0, infinite=True)]] = (0.0, math.inf)
  rescale: Share = 0.0
  last: float | None = None
  temporal: float = 1.0
  drop: tuple[str, ...] = DROPPABLE

  def __post_init__(self):
    settings.check(self)
    if not self.interval[0] < self.interval[1]:
      raise ValueError(f"interval={self.interval} must be (low, high) with low < high")
    for name in self.drop:
      check_choice("condition to drop", name, DROPPABLE)

  @property
  def acts(self) -> bool:
    return self.scale != 1 or self.last not in (None, 1) or self.temporal != 1

  @property
  def calls(self) -> int:
    """Network calls per step, also outside the interval: conditional, unconditional, per frame."""
    return 2 + (self.temporal != 1) if self.acts else 1


def clip_flops(task: Task, sampler: Sampler, guidance: GuidanceConfig) -> dict[str, int]:
  """Model FLOPs of `denoise`, sampling one clip, and of `decode`, by scaling/flops.py's convention.

  Every network call counts as one of the whole clip, or of a window where it samples in windows.
  """
  windows = 1
  if sampler.window:
    windows = len(multidiffusion.starts(task.latent_shape[0], sampler.window, sampler.stride))
  each = flops.forward(task.products(sampler.window or None))["total"]
  calls = sampler.evaluations * guidance.calls * windows
  return {"denoise": calls * each, "decode": task.codec.decode_flops(task.source.shape)}


def generate(
  task: Task,
  sampler: Sampler,
  guidance: GuidanceConfig,
  params: dict,
  example: Mapping[str, Any],
) -> Float[Array, "B T H W C"]:
  """Samples one clip for every row of a decoded example, under that row's conditions; jittable.

  Samples latents and decodes them.

  Args:
    task: the model's task.
    sampler, guidance: how to sample.
    params: weights, including the codec's.
    example: true clips, used only as conditions. `negative`: the text fields of what guidance leads
      away from, under the names that the example's own text has; a row of it without text has none.
  """
  x, cond = task.prepare(params, example)
  key = lambda i: jax.random.fold_in(jax.random.key(SEED), i)
  keys = jax.vmap(key)(example["id"])
  noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], jnp.float32))(keys)
  if sampler.shared_noise:
    noise = jnp.broadcast_to(noise[:, :1], noise.shape)
  negative = example.get("negative")
  if negative is not None:
    negative = task.cond(x, {**example, **negative})
  believe = functools.partial(_believe, task, guidance, params, negative)
  denoise = lambda x_t, t: believe(x_t, t, cond)
  if sampler.window:
    part = lambda x_t, t, start: believe(
      x_t, t, cut_cond(cond, lambda x: window_of(x, start, sampler.window))
    )
    denoise = windowed(part, window=sampler.window, stride=sampler.stride)
  latent = sample(denoise, task.denoiser.noise, noise, keys, sampler)
  return task.codec.of(params).decode(latent)


def avoiding(dropped: Cond, negative: Cond) -> Cond:
  """Dropped conditions with the text of `negative` in the rows that have one."""
  asked = negative.text_mask.any(-1)  # [B]
  pick = lambda a, b: jnp.where(asked.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
  return dataclasses.replace(
    dropped,
    text=pick(negative.text, dropped.text),
    text_mask=pick(negative.text_mask, dropped.text_mask),
  )


def _believe(
  task: Task,
  guidance: GuidanceConfig,
  params: dict,
  negative: Cond | None,
  x_t: Array,
  t: Array,
  cond: Cond,
) -> tuple[Array, Array]:
  """(x0, noise) estimated under these conditions, with guidance away from the negative text."""
  denoise = lambda x_t, t, c: task.denoise(params, x_t, t, c)[:2]
  if not guidance.acts:
    return denoise(x_t, t, cond)

  def alone(x_t: Array, t: Array, c: Cond) -> tuple[Array, Array]:
    t = jnp.broadcast_to(t, x_t.shape[:2])
    x0, noise = jax.vmap(denoise)(as_images(x_t), as_images(t), each_frame(c, x_t.shape[1]))
    return jnp.moveaxis(x0[:, :, 0], 0, 1), jnp.moveaxis(noise[:, :, 0], 0, 1)

  without = drop(cond, guidance.drop)
  if negative is not None:
    without = avoiding(without, negative)
  conds = jax.tree.map(lambda a, b: jnp.stack([a, b]), cond, without)
  return guided(
    denoise, conds,
    process=task.denoiser.noise, scale=guidance.scale, interval=guidance.interval,
    rescale=guidance.rescale, last=guidance.last, temporal=guidance.temporal, alone=alone,
    known=None if cond.known_mask is None else (cond.known_mask, cond.known),
  )(x_t, t)  # fmt: skip


def write_samples(
  directory: Path,
  video: Float[np.ndarray, "B T H W C"],
  example: Mapping[str, np.ndarray],
  *,
  given: Sequence[bool] | np.ndarray,
  step: int,
  made: str = "sample",
) -> list[Path]:
  """Writes clips as mp4, a WebP grid of all of them (truth beside sample), and an npz of pixels.

  Args:
    directory: of the samples.
    video: sampled clips in [-1,1].
    example: the decoded examples, with `video`, `fps`, `caption`.
    given: [T], the frames that the model was given; the grid draws a border around them.
    step: for the file names.
    made: what the clips are; truth stands beside all but samples from nothing.
  Returns: the files written.
  """
  directory.mkdir(parents=True, exist_ok=True)
  # Of latents without a decoder, the first three channels are shown.
  video, truth = media.to_uint8(video[..., :3]), media.to_uint8(example["video"][..., :3])
  fps = float(example["fps"][0])
  none = np.zeros((len(video), 1), np.uint8)  # a source may have embeddings but no captions
  captions = [caption_text(np.asarray(row)) for row in example.get("caption", none)]
  paths = [directory / f"step{step:07d}_{i:02d}.mp4" for i in range(len(video))]
  for path, clip in zip(paths, video):
    media.write_mp4(path, clip, fps=fps)
  grid = directory / f"step{step:07d}.webp"
  beside = truth if any(given) or made != "sample" else None
  media.write_grid(grid, video, beside, captions, fps=fps, given=given, made=made)
  numbers = directory / f"step{step:07d}.npz"
  with replacing(numbers) as temporary, open(temporary, "wb") as file:
    np.savez_compressed(
      file, video=video, truth=truth, caption=np.array(captions), fps=fps, given=given
    )
  return [*paths, grid, numbers]
