"""From data sources to batches: which example is in which row of which step, and the loader.

A source is a module `data_pipelines.<name>` with `Config` and `Source` (see docs/architecture.md).
Row r of step s is example perm(s B + r): a function of seed and position alone, so batches do not
depend on the number of hosts, threads and devices, and a run resumes at any step in O(1). In a
mixture every batch is of one kind, and n_k(s), the number of earlier steps of kind k, takes the
place of s.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import UInt8

from videojax import settings
from videojax.settings import Range

Carried = dict[str, Any]
ENDLESS = 2**31 - 1  # len() of a loader's rows; training stops long before


@runtime_checkable
class Source(Protocol):
  """A data source: `[i]` gives what the loader carries, and `decode` makes clips on the device.

  A source whose examples have a `label` also has `classes`, the number of classes. One whose
  examples have moments of latents instead of `video` has `cached`, the codec that made them.
  """

  shape: tuple[int, int, int, int]  # (T, H, W, C)
  finite: bool

  def __len__(self) -> int: ...
  def __getitem__(self, index: int | np.ndarray) -> Carried: ...  # arrays: endless sources only
  def decode(self, carried: Carried) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class SourceConfig:
  """A source in a mixture: module name, weight, and the settings of the module's Config."""

  name: str
  weight: Annotated[int, Range(1, 10_000)]  # bounded: a cycle of the mixture is kept in memory
  settings: Mapping[str, Any]

  def __post_init__(self):
    settings.check(self)

  def setting(self, name: str) -> Any:
    """A setting of the source, or its default; None if it has no such setting."""
    return self.settings.get(name, getattr(pipeline(self.name).Config, name, None))


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
  """How batches are read; does not affect their contents.

  Attributes:
    threads: number of reader threads; 0: read in the training thread.
    prefetch: number of rows to read ahead.
  """

  threads: Annotated[int, Range(0, 1024)] = 2
  prefetch: Annotated[int, Range(0, 2**20)] = 64

  def __post_init__(self):
    settings.check(self)


def pipeline(name: Any) -> Any:
  """The module data_pipelines.<name>.

  Raises:
    ValueError: if there is no such data source.
  """
  return settings.module("data_pipelines", name, "data source", ("Config", "Source"))


class Mixture:
  """The order of kinds of batch: source k has weight_k steps per cycle of sum(weights) steps.

  The steps of a cycle are spread evenly (largest remainder first), so that image and video steps
  alternate as well as the weights allow.
  """

  def __init__(self, weights: Sequence[int]):
    self.weights = np.asarray(weights)
    cycle = int(self.weights.sum())
    owed = np.zeros(len(weights))
    order = []
    for _ in range(cycle):
      owed += self.weights / cycle
      order.append(int(np.argmax(owed)))
      owed[order[-1]] -= 1
    self.order = np.asarray(order)
    # earlier[i, k]: number of steps of kind k among the first i of a cycle
    self.earlier = np.cumsum(np.eye(len(weights), dtype=int)[self.order], 0)
    self.earlier = np.concatenate([np.zeros((1, len(weights)), int), self.earlier])

  def at(self, step: int) -> tuple[int, int]:
    """(kind of this step, number of earlier steps of that kind), in constant time."""
    kind = int(self.order[step % len(self.order)])
    return kind, self.steps(step, kind)

  def steps(self, total: int, kind: int) -> int:
    """Number of steps of this kind among the first `total`."""
    cycles, offset = divmod(total, len(self.order))
    return int(cycles * self.weights[kind] + self.earlier[offset, kind])


class Rows:
  """Random access to the rows that one process loads: position -> example."""

  def __init__(
    self, orders: Sequence[Any], mixture: Mixture, batch_size: int, rows: np.ndarray, start: int
  ):
    self.orders, self.mixture, self.batch_size = orders, mixture, batch_size
    self.rows, self.start = rows, start

  def __len__(self) -> int:
    return ENDLESS

  def __getitem__(self, position: int) -> Carried:
    step, i = divmod(position, len(self.rows))
    kind, earlier = self.mixture.at(self.start + step)
    return self.orders[kind][earlier * self.batch_size + int(self.rows[i])]


class Loader:
  """Batches of a mixture, starting at any step.

  Args:
    sources: name -> source, in the order of `weights`.
    weights: steps per cycle.
    batch_size: B, summed over all processes.
    seed: of the shuffles.
    rows: rows of the global batch that this process loads; None: all.
    config: threads and prefetch.
  """

  def __init__(
    self,
    sources: Mapping[str, Source],
    weights: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    rows: np.ndarray | None = None,
    config: LoaderConfig = LoaderConfig(),
  ):
    self.names, self.mixture, self.batch_size = list(sources), Mixture(weights), batch_size
    self.orders = [order(source, seed, k) for k, source in enumerate(sources.values())]
    self.rows = np.arange(batch_size) if rows is None else rows
    self.config = config

  def batches(self, start: int = 0) -> Iterator[tuple[str, Carried]]:
    """Yields (name of the source, carried rows) of steps `start`, start + 1, ..."""
    if all(isinstance(order, Stretch) for order in self.orders):
      return self._indices(start)
    return self._read(start)

  def _indices(self, start: int) -> Iterator[tuple[str, Carried]]:
    """As `batches`, for endless sources: nothing is read; a batch is an array of indices."""
    for step in itertools.count(start):
      kind, earlier = self.mixture.at(step)
      yield self.names[kind], self.orders[kind][earlier * self.batch_size + self.rows]

  def _read(self, start: int) -> Iterator[tuple[str, Carried]]:
    rows = Rows(self.orders, self.mixture, self.batch_size, self.rows, start)
    read = grain.ReadOptions(
      num_threads=self.config.threads, prefetch_buffer_size=self.config.prefetch
    )
    dataset = grain.MapDataset.source(rows).to_iter_dataset(read).batch(len(self.rows))
    if self.config.threads:  # batches are assembled while the device computes
      dataset = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=2)
    for step, carried in enumerate(dataset, start):
      yield self.names[self.mixture.at(step)[0]], carried


class Stretch:
  """An endless source in a different order for each seed and kind.

  Each seed below 1024 reads its own stretch of 2^31 / 1024 consecutive examples. Beyond that
  stretch, and for other seeds, example i is a i + b modulo the source's prime length, which is a
  permutation, with a and b drawn from seed and kind.
  """

  def __init__(self, source: Source, seed: int, kind: int):
    self.source, reach = source, len(source) // 1024
    self.first = ((seed * 61 + kind) % 1024) * reach
    self.reach = reach if seed < 1024 else 0
    a, b = np.random.SeedSequence([seed, kind]).generate_state(2)
    self.factor, self.offset = int(a) % (len(source) - 1) + 1, int(b)

  def __getitem__(self, index: int | np.ndarray) -> Carried:
    near = self.first + index
    far = (index % len(self.source)) * self.factor + self.offset  # below 2^63
    return self.source[np.where(index < self.reach, near, far) % len(self.source)]


def order(source: Source, seed: int, kind: int) -> Any:
  """Position -> example: reshuffled in each epoch or, for an endless source, a `Stretch`."""
  if not source.finite:
    return Stretch(source, seed, kind)
  shuffle = seed * 1024 + kind
  if shuffle >= 2**32:  # grain's shuffle accepts smaller seeds only
    shuffle = int(np.random.SeedSequence([seed, kind]).generate_state(1)[0])
  return grain.MapDataset.source(source).seed(shuffle).shuffle().repeat()


def spread(source: Source, clips: int) -> np.ndarray:
  """Indices of a fixed set of clips: evenly spaced in a finite source, else the first ones."""
  if not source.finite:
    return np.arange(clips)
  return np.unique(np.linspace(0, len(source) - 1, min(clips, len(source))).astype(int))


def stack_examples(source: Source, indices: Sequence[int]) -> Carried:
  """The examples at these indices as one batch, in carried form."""
  rows = [source[int(i)] for i in indices]
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def encode_caption(caption: bytes, length: int) -> UInt8[np.ndarray, " L"]:
  """UTF-8 bytes, cut at a whole character or zero padded to `length`."""
  if len(caption) > length:
    caption = caption[:length].decode("utf-8", errors="ignore").encode("utf-8")
  return np.frombuffer(caption.ljust(length, b"\0"), np.uint8)


def caption_text(caption: Any) -> str:
  """Zero-padded UTF-8 bytes, or a uint8 array of them, -> str."""
  return bytes(caption).rstrip(b"\0").decode("utf-8", errors="replace")
