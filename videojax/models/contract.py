"""What an architecture is: one file of this folder. Open this file first to write a new one.

A file is an architecture if it has the members of `Architecture`; nothing else names it. It is a
network and nothing else: it knows nothing of noise schedules, losses, samplers or meshes. Its FLOPs
are those of its traced forward pass (scaling/flops.py), so it lists none.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array, Float, Key

from videojax import models, settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.attention import CONTEXTS, KERNELS
from videojax.models.cond import Cond


class Network(Protocol):
  """An nnx module, deterministic and without state but for its parameters."""

  def __init__(self, cfg: Any, *, rngs: nnx.Rngs):
    """Parameters in fp32, each with the logical names of its axes (sharding.RULES) beside it."""

  def __call__(
    self,
    x: Float[Array, "B T H W C"],
    t: Float[Array, "B L"],
    cond: Cond,
    *,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "B T H W C"]:
    """The prediction, in fp32 and shaped like x.

    Args:
      x: the noisy clip, scaled; an image is a clip with T=1.
      t: noise level in the unit of the paper; L=1, or one level per frame (L=T).
      cond: exactly the conditions that the Config declares (`check_cond`).
      key: for networks that draw random numbers.
    """


class Sizes(Protocol):
  """A frozen dataclass of settings, which checks itself in `__post_init__` (`check_sizes`).

  Sizes have no defaults. A condition that is None or empty is not taken.
  """

  @property
  def width(self) -> int:
    """Channels that grow with the model: muP's width."""

  @property
  def channels(self) -> int:
    """C of the clip."""

  @property
  def patch(self) -> tuple[int, int, int]:
    """Frames, height and width of one token."""

  @property
  def text(self) -> Any:
    """'bytes' (it trains an encoder), the width of the given embeddings, or None."""

  @property
  def classes(self) -> int | None:
    """Number of labels."""

  @property
  def scalars(self) -> tuple[str, ...]:
    """Names of scalar conditions."""

  @property
  def volumes(self) -> Any:
    """(name, channels) of each condition that is aligned with the clip."""

  @property
  def known(self) -> str | None:
    """How the channels of known frames are filled (layers.KNOWN_FILLS)."""

  @property
  def dtype(self) -> str:
    """Of matrix products."""

  @property
  def remat(self) -> str:
    """What the backward pass recomputes (layers.REMATS)."""

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that the network takes."""


@runtime_checkable
class Architecture(Protocol):
  """The members of an architecture's file."""

  Config: Any
  """Its `Sizes`."""

  Model: Any
  """Its `Network`."""

  SIZES: Mapping[str, Mapping[str, Any]]
  """Arguments of Config by name: published sizes; 'nano', one for a CPU; 'tiny', for tests."""

  def describe(self, cfg: Any, mesh: Any) -> str:
    """How it attends on this mesh, for people."""

  def wider(self, cfg: Any) -> Any:
    """The same Config at twice the width: muP reads off it which axes grow."""


class Attends(Protocol):
  """What the Config of a network that attends has besides."""

  @property
  def num_heads(self) -> int:
    """Of the layer with the fewest, which the mesh axis `tensor` must divide."""

  @property
  def head_dim(self) -> int:
    """Channels of a head, on which the speed of attention depends."""

  @property
  def kernel(self) -> str:
    """Of attention (attention.KERNELS)."""

  @property
  def context(self) -> str:
    """Parallelism of attention over a sequence (attention.CONTEXTS)."""


class Repeats(Protocol):
  """What the Config of a network whose blocks are all of one size has besides."""

  @property
  def depth(self) -> int:
    """Number of blocks."""

  @property
  def scan(self) -> bool:
    """Blocks run as one compiled loop."""


class Optional(Protocol):
  """What the file of an architecture may have besides."""

  PARTS: Mapping[str, str]
  """Element of a parameter's path -> the part that it and its products are counted under; without
  it they are counted under the first element of the path."""

  OTHER_PARTS: tuple[str, ...]
  """Prefixes of tensors that a published checkpoint holds for other networks."""

  def names(self, cfg: Any) -> dict[str, tuple[str, str]]:
    """Path of a parameter -> (its name in a published checkpoint, its layout there)."""

  def published_config(self, cfg: Any) -> dict[str, Any]:
    """What the published config.json says of these sizes."""


def check_sizes(cfg: Any) -> None:
  """The first line of the `__post_init__` of a Config that attends.

  Raises:
    ValueError: a field of another type, out of its range, or not among its choices, by name.
  """
  settings.check(cfg)
  object.__setattr__(cfg, "volumes", layers.as_volumes(cfg.volumes))
  check_choice("dtype", cfg.dtype, ("float32", "bfloat16"))
  check_choice("remat policy", cfg.remat, layers.REMATS)
  check_choice("attention kernel", cfg.kernel, KERNELS)
  check_choice("context parallelism", cfg.context, CONTEXTS)
  if cfg.known is not None:
    check_choice("known fill", cfg.known, layers.KNOWN_FILLS)


def architectures() -> dict[str, Architecture]:
  """Every architecture of this folder, by the name of its file."""
  return {name: file for name, file in modules().items() if isinstance(file, Architecture)}


def modules() -> dict[str, ModuleType]:
  """Every file of this folder, by its name."""
  files = sorted(file.name for file in pkgutil.iter_modules(models.__path__))
  return {name: importlib.import_module(f"{models.__name__}.{name}") for name in files}
