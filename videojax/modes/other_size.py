"""A task whose clips have another size than its data: for generating, where no data are read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from videojax.data import Carried, Source
from videojax.errors import ConfigError
from videojax.task import Task


class OtherSize:
  """A source's examples with empty clips of another shape; for shapes only."""

  def __init__(self, source: Source, shape: tuple[int, int, int, int]):
    self._source, self.shape = source, shape

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Carried:
    return self._source[index]

  def decode(self, carried: Any) -> Mapping[str, Any]:
    """The source's examples, with zeros for `video`."""
    example = self._source.decode(carried)
    kept = {k: v for k, v in example.items() if k not in ("latent_mean", "latent_log_var")}
    return kept | {"video": jnp.zeros((len(example["id"]), *self.shape))}


def at_size(task: Task, frames: int | None, size: str | None) -> Task:
  """The task for clips of another size.

  Args:
    frames: number of frames; None: those of the data.
    size: height and width, '64' or '48x64'; None: those of the data.
  Raises:
    ConfigError: the size is malformed, the model takes volumes, whose size the data determine, or
      the codec does not divide the clip.
  """
  if frames is None and size is None:
    return task
  t, h, w, c = task.source.shape
  if size is not None:
    sides = size.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) < 2**14 for side in sides):
      raise ConfigError(f"--size={size} must be a number of pixels, or HEIGHTxWIDTH")
    h, w = int(sides[0]), int(sides[-1])
  shape = (t if frames is None else frames, h, w, c)
  volumes = [name for name, _ in task.model.config.volumes]
  if volumes and shape != task.source.shape:
    raise ConfigError(
      f"the model takes {', '.join(volumes)}, of the size of its training clips: leave --frames "
      "and --size out"
    )
  other: Any = OtherSize(task.source, shape)
  try:
    found = dataclasses.replace(task, source=other)
    found.latent_shape  # noqa: B018  # raises if the codec does not divide the clip
  except ValueError as error:
    raise ConfigError(f"--frames, --size: {error}") from None
  _check_patches(found)
  return found


def _check_patches(task: Task) -> None:
  """Raises ConfigError if patches do not divide the latents."""
  patch, latent, strides = task.model.config.patch, task.latent_shape[:3], task.strides
  if latent[0] > 1 and any(n % p for n, p in zip(latent, patch)):
    needed = " x ".join(str(p * s) for p, s in zip(patch[1:], strides[1:]))
    raise ConfigError(
      f"--frames, --size: latents of {' x '.join(map(str, latent))} do not divide into patches of "
      f"{' x '.join(map(str, patch))}: use multiples of {needed} pixels and of {patch[0]} latent "
      "frames"
    )
