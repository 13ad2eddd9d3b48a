"""What a model may be conditioned on: one frozen dataclass for all architectures."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cond:
  """Conditions of a batch; None is "not given". A model's Config declares which it uses.

  Attributes:
    text: UTF-8 bytes [B,L] (uint8, zero padded) or precomputed embeddings [B,L,D].
    text_mask: [B,L], True on real tokens.
    label: class index [B]; -1 is "dropped".
    scalars: name -> [B] (fps, motion, ...); NaN is "dropped".
    known_mask: [B,T,H|1,W|1,1], 1 where the clean value is given.
    known: [B,T,H,W,C], the clean values (anything where the mask is 0).
  """

  # Any: trees of shapes and of shardings have this structure too; the shapes are above.
  text: Any = None
  text_mask: Any = None
  label: Any = None
  scalars: dict[str, Any] = dataclasses.field(default_factory=dict)
  known_mask: Any = None
  known: Any = None


def given(cond: Cond) -> set[str]:
  """Names of the conditions that are there: 'text', 'label', 'scalars', 'known'."""
  names = {name for name in ("text", "label", "known") if getattr(cond, name) is not None}
  return names | ({"scalars"} if cond.scalars else set())


def check_cond(cond: Cond, uses: Sequence[str], scalars: Sequence[str]) -> None:
  """Raises ValueError where the conditions are not what a model's config declares."""
  if given(cond) != set(uses) or set(cond.scalars) != set(scalars):
    raise ValueError(
      f"the model's config declares the conditions {sorted(uses)} with scalars {sorted(scalars)}; "
      f"given are {sorted(given(cond))} with scalars {sorted(cond.scalars)}"
    )


DROPPABLE = ("text", "label", "scalars")


def drop(cond: Cond, which: Sequence[str], rows: Bool[Array, "B"] | None = None) -> Cond:
  """The same conditions with some of them dropped: what guidance calls unconditional.

  Args:
    cond: conditions of a batch.
    which: names among DROPPABLE.
    rows: [B], True where to drop; None: everywhere.
  Raises:
    ValueError: on a name that cannot be dropped.
  """
  changes: dict[str, Any] = {}
  for name in which:
    if name not in DROPPABLE:
      raise ValueError(f"cannot drop {name!r}: one of {DROPPABLE} can be dropped")
    if name not in given(cond):
      continue
    value = getattr(cond, "text_mask" if name == "text" else name)
    if name == "text":
      gone = True if rows is None else rows[:, None]
      changes["text_mask"] = jnp.where(gone, False, value)
    elif name == "label":
      changes["label"] = jnp.where(True if rows is None else rows, -1, value)
    else:
      gone = True if rows is None else rows
      changes["scalars"] = {k: jnp.where(gone, jnp.nan, v) for k, v in value.items()}
  return dataclasses.replace(cond, **changes)
