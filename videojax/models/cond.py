"""The conditions of a model: one frozen dataclass for all architectures."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cond:
  """Conditions of a batch; None is "not given". A model's Config declares which ones it uses.

  Attributes:
    text: UTF-8 bytes [B,L] (uint8, zero padded) or precomputed embeddings [B,L,D].
    text_mask: [B,L], True on real tokens.
    image: embeddings of an image [B,L,D], such as CLIP's.
    image_mask: [B,L], True on real tokens.
    label: class index [B]; -1 is "dropped".
    scalars: name -> [B] (fps, motion, ...); NaN is "dropped".
    known_mask: [B,T,H|1,W|1,1], 1 where the clean value is given.
    known: [B,T,H,W,C], the clean values (arbitrary where the mask is 0).
    volumes: name -> [B,T,H,W,c], aligned with the clip: a low-resolution clip, edges, flow, the
      first frame's latents. Zeros are "dropped". A scalar gives the amount of noise in a volume.
  """

  # Any: pytrees of shapes and of shardings have this structure, too; the shapes are above.
  text: Any = None
  text_mask: Any = None
  label: Any = None
  scalars: dict[str, Any] = dataclasses.field(default_factory=dict)
  known_mask: Any = None
  known: Any = None
  image: Any = None
  image_mask: Any = None
  volumes: dict[str, Any] = dataclasses.field(default_factory=dict)


FIELDS = ("text", "label", "image", "known", "scalars", "volumes")


def given(cond: Cond) -> set[str]:
  """The names in FIELDS whose conditions are given."""
  there = lambda value: bool(value) if isinstance(value, dict) else value is not None
  return {name for name in FIELDS if there(getattr(cond, name))}


def check_cond(cond: Cond, config: Any) -> None:
  """Raises ValueError unless exactly the conditions that a model's config declares are given."""
  volumes = [name for name, _ in config.volumes]
  pairs = ((cond.scalars, config.scalars), (cond.volumes, volumes))
  if given(cond) != set(config.uses) or any(set(a) != set(b) for a, b in pairs):
    words = lambda names, scalars, volumes: (
      f"{sorted(names)}, scalars {sorted(scalars)}, volumes {sorted(volumes)}"
    )
    raise ValueError(
      f"the model's config declares the conditions {words(config.uses, config.scalars, volumes)}, "
      f"but the given ones are {words(given(cond), cond.scalars, cond.volumes)}"
    )


DROPPABLE = ("text", "image", "label", "scalars", "volumes")


def drop(cond: Cond, which: Sequence[str], rows: Bool[Array, " B"] | None = None) -> Cond:
  """The same conditions with some dropped; guidance calls the result unconditional.

  Args:
    cond: conditions of a batch.
    which: names in DROPPABLE.
    rows: [B], True in the rows where conditions are dropped; None: in all rows.
  Raises:
    ValueError: a name that cannot be dropped.
  """
  changes: dict[str, Any] = {}
  gone = jnp.array(True) if rows is None else rows
  without = lambda x, nothing: jnp.where(
    gone.reshape(gone.shape + (1,) * (x.ndim - gone.ndim)), jnp.asarray(nothing, x.dtype), x
  )
  for name in which:
    if name not in DROPPABLE:
      raise ValueError(f"cannot drop {name!r}: only {', '.join(DROPPABLE)} can be dropped")
    if name not in given(cond):
      continue
    if name in ("text", "image"):
      changes[f"{name}_mask"] = without(getattr(cond, f"{name}_mask"), False)
    elif name == "label":
      changes["label"] = without(cond.label, -1)
    else:
      nothing = jnp.nan if name == "scalars" else 0
      changes[name] = {k: without(v, nothing) for k, v in getattr(cond, name).items()}
  return dataclasses.replace(cond, **changes)


def named(cond: Cond) -> list[tuple[str, str]]:
  """(field, name) of every given scalar and volume."""
  return [(field, name) for field in ("scalars", "volumes") for name in getattr(cond, field)]


def drop_one(cond: Cond, field: str, name: str, rows: Bool[Array, " B"]) -> Cond:
  """The same conditions with one scalar or volume dropped in the rows where `rows` is True."""
  alone = drop(Cond(**{field: {name: getattr(cond, field)[name]}}), (field,), rows)
  return dataclasses.replace(cond, **{field: getattr(cond, field) | getattr(alone, field)})


def cut_cond(cond: Cond, cut: Callable[[Array], Array]) -> Cond:
  """The conditions with `cut` applied to all that are aligned with the clip's frames [B,T,...]."""
  one = lambda x: None if x is None else cut(x)
  return dataclasses.replace(
    cond, known_mask=one(cond.known_mask), known=one(cond.known),
    volumes={name: cut(x) for name, x in cond.volumes.items()},
  )  # fmt: skip


def as_images(x: Array) -> Array:
  """[B,T,...] -> [T,B,1,...]: the frames on a leading axis, each a clip of one frame."""
  return jnp.moveaxis(x, 1, 0)[:, :, None]


def each_frame(cond: Cond, frames: int) -> Cond:
  """The conditions of every frame as an image, with a new leading axis of T = `frames`."""
  along = cut_cond(cond, as_images)
  rest = dataclasses.replace(cond, known_mask=None, known=None, volumes={})
  same = jax.tree.map(lambda x: jnp.broadcast_to(x, (frames, *x.shape)), rest)
  names = ("known_mask", "known", "volumes")
  return dataclasses.replace(same, **{name: getattr(along, name) for name in names})
