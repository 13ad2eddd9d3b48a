"""The contract of an architecture, one file in this folder. Read this first to write a new one.

A file is an architecture if it has the members of `Architecture`; there is no registry. It defines
only a network, without noise schedules, losses, samplers or meshes. FLOPs are counted from the
traced forward pass (scaling/flops.py), so the file does not list them.
"""

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Key

from videojax import models, settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.attention import CONTEXTS, KERNELS
from videojax.models.cond import Cond


class Network(Protocol):
  """An nnx module: deterministic, with parameters but no other state."""

  def __init__(self, cfg: Any, *, rngs: nnx.Rngs):
    """Creates fp32 parameters, each annotated with its logical axis names (sharding.RULES)."""

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
      t: noise level in the paper's unit; L=1, or one level per frame (L=T).
      cond: exactly the conditions that the Config declares (`check_cond`).
      key: for networks that draw random numbers.
    """


class Sizes(Protocol):
  """A frozen dataclass of settings, which validates itself in `__post_init__` (`check_sizes`).

  Sizes have no defaults. The network does not take a condition that is None or empty.
  """

  @property
  def width(self) -> int:
    """The number of channels that muP scales: the width."""

  @property
  def channels(self) -> int:
    """C of the clip."""

  @property
  def patch(self) -> tuple[int, int, int]:
    """Frames, height and width of one token."""

  @property
  def text(self) -> Any:
    """'bytes' (the model trains an encoder), the width of the given embeddings, or None."""

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
    """Dtype of matrix products."""

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
  """A class that satisfies `Sizes`."""

  Model: Any
  """A class that satisfies `Network`."""

  SIZES: Mapping[str, Mapping[str, Any]]
  """Size name -> arguments of Config: published sizes; 'nano', for a CPU; 'tiny', for tests."""

  def describe(self, cfg: Any, mesh: Mesh | AbstractMesh) -> str:
    """How attention is computed on this mesh, in words for the console."""

  def wider(self, cfg: Any) -> Any:
    """The same Config at twice the width, from which muP infers which axes grow."""


class Attends(Protocol):
  """Additional members of Config if the network has attention."""

  @property
  def num_heads(self) -> int:
    """Heads of the layer with the fewest heads, which the mesh axis `tensor` must divide."""

  @property
  def head_dim(self) -> int:
    """Channels per head, on which the speed of attention depends."""

  @property
  def kernel(self) -> str:
    """Attention kernel (attention.KERNELS)."""

  @property
  def context(self) -> str:
    """Context parallelism of attention (attention.CONTEXTS)."""


class Repeats(Protocol):
  """Additional members of Config if all blocks of the network have the same size."""

  @property
  def depth(self) -> int:
    """Number of blocks."""

  @property
  def scan(self) -> bool:
    """Whether blocks run as one compiled loop."""


class Optional(Protocol):
  """Optional members of an architecture's file."""

  PARTS: Mapping[str, str]
  """Element of a parameter's path -> the part under which its parameters and FLOPs are counted; by
  default they are counted under the first element of the path."""

  OTHER_PARTS: tuple[str, ...]
  """Prefixes of tensors in a published checkpoint that belong to other networks."""

  def unused(self, cfg: Any) -> Collection[str]:
    """Prefixes of tensors in a published checkpoint that its network has but never uses."""

  LAYOUTS: Collection[str]
  """Layouts of names in published checkpoints, the first by default, if there are several; then
  `names(cfg, layout)`."""

  def names(self, cfg: Any) -> dict[str, tuple[str, str]]:
    """Path of a parameter -> (its name in a published checkpoint, its layout there)."""

  COPIES: Mapping[str, str]
  """Tensor in a published checkpoint -> the one that it must equal, because the network has one."""

  def published_config(self, cfg: Any) -> dict[str, Any]:
    """The published config.json's values for these sizes."""


def check_sizes(cfg: Any) -> None:
  """Validates a Config with attention; called first in its `__post_init__`.

  Raises:
    ValueError: a field has a wrong type, is out of range, or is not among its choices.
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
  """File name -> architecture, for every one in this folder."""
  return {name: file for name, file in modules().items() if isinstance(file, Architecture)}


def modules() -> dict[str, ModuleType]:
  """File name -> module, for every file in this folder."""
  files = sorted(file.name for file in pkgutil.iter_modules(models.__path__))
  return {name: importlib.import_module(f"{models.__name__}.{name}") for name in files}
