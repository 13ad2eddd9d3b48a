"""Agreement between the processes of a run, so that all take the same branch.

A single process agrees with itself.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from videojax.errors import ConfigError
from videojax.host.distributed import several, signed

# The answers of stop.asked_to_stop, sent as indices; if processes differ, the largest index wins.
REASONS = ("", "the time limit", "SIGINT", "SIGTERM")
SHARED_SECONDS = 30.0  # for a network file system to show a new file to all hosts


class AgreedError(ConfigError):
  """An error that all processes raise together, so that none waits for another."""


def first(value: bool) -> bool:
  """The value on process 0, returned by all processes."""
  return bool(multihost_utils.broadcast_one_to_all(np.int32(value))) if several() else value


def agree(problem: str) -> None:
  """Raises AgreedError on all processes if any of them has a problem; '' is no problem."""
  texts = [problem]
  if several():
    own = np.zeros(1024, np.uint8)
    data = np.frombuffer(signed(problem).encode()[: own.size] if problem else b"", np.uint8)
    own[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(own)).reshape(-1, own.size)
    texts = [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]
  if said := [text for text in texts if text]:
    more = f"; and {len(said) - 1} more" if len(said) > 1 else ""
    raise AgreedError(said[0] + more)


def check_shared(path: Path) -> None:
  """Raises AgreedError on all processes if some do not see the file that process 0 wrote."""
  if not several():
    return
  until = time.monotonic() + SHARED_SECONDS
  while (problem := _unseen(path)) and time.monotonic() < until:
    time.sleep(0.5)
  agree(problem)


def _unseen(path: Path) -> str:
  try:
    path.stat()
  except OSError as error:
    return f"cannot see {path} ({error.strerror}): --workdir must be on a disk that all hosts share"
  return ""


def agreed(asked: Callable[[], str], mesh: Mesh) -> Callable[[], str]:
  """Makes `asked` agree: all processes get the answer that any of them had in the previous call.

  All processes must call it equally often. The answers are reduced on the devices after the last
  dispatch and read one call later, so that no process waits for another.
  """
  if not several():
    return asked
  each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
  compiled = largest.lower(jax.ShapeDtypeStruct((mesh.size,), np.int32, sharding=each)).compile()
  sent: jax.Array | None = None

  def ask() -> str:
    nonlocal sent
    before, code = sent, np.full(len(mesh.local_devices), REASONS.index(asked()), np.int32)
    sent = compiled(jax.make_array_from_process_local_data(each, code, (mesh.size,)))
    return "" if before is None else REASONS[int(jax.device_get(before))]

  return ask
