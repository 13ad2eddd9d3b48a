"""Checkpoints that are sound or named as damaged: never silently wrong.

A checkpoint is one directory, DIRECTORY/STEP, that appears whole by one rename:
- `state`: the leaves of the pytree by path, written by orbax
- `manifest`: step, the caller's metadata and, per leaf, shape, dtype and checksum; sealed by its
  SHA-256
- `files.json`: size and SHA-256 of each file, so that a damaged file can be named

What orbax leaves open is closed here: it restores a flipped bit and casts to another dtype in
silence, does not look past a damaged newest step, and reports a full disk as a page of C++ status.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from videojax import settings
from videojax.host import distributed
from videojax.io import integrity, quiet_orbax
from videojax.settings import Count

_STATE, _MANIFEST, _FILES = "state", "manifest", "files.json"
_TOP, _COMMIT = "_CHECKPOINT_METADATA", "commit_success.txt"  # orbax's own
_UNFINISHED = ".orbax-checkpoint-tmp"  # orbax's suffix of a step that is not committed
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, RecursionError)  # what damaged JSON raises
_DISK_REASONS = {
  "No space left on device": "the disk is full",
  "Disk quota exceeded": "the disk quota is used up",
  "File too large": "a file reached the size limit (ulimit -f)",
}
quiet_orbax.orbax()


class CheckpointError(Exception):
  """Says which checkpoint, what is wrong with it, and what to do."""


class _DamagedError(Exception):
  """A checkpoint is not what was written; the message names the file or the array."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save and what to keep.

  Args:
    save_every_steps: training steps between two checkpoints.
    keep_last: this many newest checkpoints stay (2: a damaged one has one to fall back on).
    keep_every_steps: checkpoints of multiples of this step stay too; None: none do.
  """

  save_every_steps: Count
  keep_last: Count = 2
  keep_every_steps: Count | None = None

  def __post_init__(self) -> None:
    settings.check(self)


@dataclasses.dataclass(frozen=True)
class Restored:
  """A verified checkpoint.

  Attributes:
    skipped: the newer ones that are damaged, and why.
    lacks: its files that are missing or damaged without harm to what was restored.
  """

  step: int
  state: Any
  metadata: dict[str, Any]
  skipped: list[str]
  lacks: list[str]


class Checkpointer:
  """Saves in the background, keeps by rule, restores only what it has verified.

  Reading changes nothing on disk. All processes call each method together, but for `steps`.

  Args:
    directory: holds one directory per step; made by the first save.
    keep_last: this many newest checkpoints stay.
    keep_every_steps: checkpoints of multiples of this step stay too.
    keep_steps: these stay too.
  """

  def __init__(
    self, directory: str | os.PathLike, *, keep_last: int, keep_every_steps: int | None = None,
    keep_steps: tuple[int, ...] = (),
  ) -> None:  # fmt: skip
    _check_retention(keep_last, keep_every_steps)
    path = epath.Path(directory)
    self.directory = path if "://" in str(path) else path.absolute()
    keep: list[Any] = [ocp.checkpoint_managers.LatestN(keep_last)]
    if keep_every_steps is not None:
      keep.append(ocp.checkpoint_managers.EveryNSteps(keep_every_steps))
    if keep_steps:
      keep.append(ocp.checkpoint_managers.CustomSteps(list(keep_steps)))
    self._policy = ocp.checkpoint_managers.AnyPreservationPolicy(keep)
    self._manager: ocp.CheckpointManager | None = None
    self._saving: int | None = None
    self._damaged: list[int] = []

  def __enter__(self) -> "Checkpointer":
    return self

  def __exit__(self, kind: object, error: object, trace: object) -> None:
    if not distributed.of_others(error):  # without them the save under way never ends
      self.close()

  def steps(self) -> list[int]:
    """Lists the complete checkpoints, oldest first: not the one still being written."""
    if self._manager is not None and not self._manager.is_saving_in_progress():
      self.wait()
    return sorted(ocp.utils.checkpoint_steps(self.directory))

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> bool:
    """Starts a checkpoint; the caller may donate `state` as soon as this returns.

    Args:
      step: its name; larger than that of any sound checkpoint here.
      state: pytree of jax.Array.
      metadata: JSON: config, data position, anything.

    Returns:
      False where this step is held already: the first one stands, nothing is written.

    Raises:
      CheckpointError: the save before failed, this one cannot start, or a newer one is here.
      ValueError: a leaf that cannot be checkpointed, or metadata that is not JSON.
    """
    self.wait()
    held = [s for s in self._agreed_steps() if s not in self._damaged]
    if step in held:
      return False
    if held and step < held[-1]:
      raise CheckpointError(
        f"{self.directory} already holds checkpoint {held[-1]}; the next resume would start "
        f"there, not at {step}: save into another directory, or remove the newer ones"
      )
    leaves = integrity.by_path(state)
    body = {"step": step, "metadata": metadata, "leaves": integrity.describe(leaves)}
    manifest = integrity.seal(body)
    items = {_STATE: ocp.args.StandardSave(leaves), _MANIFEST: ocp.args.JsonSave(manifest)}
    self._saving = step
    with self._write_errors():  # force: orbax would else decline in silence; when is the caller's
      self._writer().save(step, args=ocp.args.Composite(**items), force=True)
    return True

  def wait(self) -> None:
    """Blocks until the save under way is on disk; CheckpointError where it failed."""
    if self._manager is not None:
      with self._write_errors():
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the save under way and ends the background threads; raises as `wait` does."""
    self.wait()
    if self._manager is not None:
      self._manager.close()
      self._manager = None

  def restore(self, abstract_state: Any, step: int | None = None) -> Restored | None:
    """Restores the newest sound checkpoint, or the one asked for, and verifies every array.

    Args:
      abstract_state: pytree of jax.ShapeDtypeStruct with sharding (any mesh of any devices).
      step: this checkpoint and no other; None: the newest sound one.

    Returns:
      The checkpoint, or None where the directory holds none.

    Raises:
      CheckpointError: the step is absent or damaged, all are damaged, or its leaves are not those
        of `abstract_state` (they are listed).
      ValueError: a leaf of `abstract_state` has no sharding.
    """
    wanted = integrity.by_path(abstract_state)
    unplaced = [path for path, leaf in wanted.items() if leaf.sharding is None]
    if unplaced:
      raise ValueError(f"abstract_state has no sharding for {_some(unplaced)}")
    self.wait()
    steps = self._agreed_steps()
    if step is not None and step not in steps:
      raise CheckpointError(f"{self.directory} holds no checkpoint {step}, only {steps}")
    skipped: list[str] = []
    for candidate in reversed(steps) if step is None else [step]:
      try:
        arrays, metadata = self._read(candidate, wanted)
      except _DamagedError as error:
        skipped.append(f"checkpoint {candidate}: {error}")
        cause = error
      else:
        if step is None:  # the next save moves these aside
          self._damaged = [s for s in steps if s > candidate]
        treedef = jax.tree.structure(abstract_state)
        state = jax.tree.unflatten(treedef, [arrays[path] for path in wanted])
        lacks = _lacking(self.directory / str(candidate)) if jax.process_index() == 0 else []
        return Restored(candidate, state, metadata, skipped, lacks)
    if not skipped:
      return None
    what = "no intact checkpoint (to start again, move it away):" if step is None else "a damaged"
    listing = "\n  ".join(["", *skipped]) if step is None else f" {skipped[0]}"
    raise CheckpointError(f"{self.directory} holds {what}{listing}") from cause

  def _read(self, step: int, wanted: dict[str, Any]) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    directory = self.directory / str(step)
    # The main process alone judges the files, so that all processes take the same turn.
    verdict = _agree(_file_damage(directory) if jax.process_index() == 0 else "")
    if verdict:
      raise _DamagedError(verdict)
    manifest = _read_manifest(directory)
    problems = integrity.differences(manifest["leaves"], wanted)
    if problems:
      raise CheckpointError(f"{directory} has another model or optimizer: {_some(problems)}")
    arrays = self._read_arrays(directory, wanted)
    found = integrity.describe(arrays)
    changed = [path for path in wanted if found[path] != manifest["leaves"][path]]
    if changed:
      raise _DamagedError(f"array {_some(changed)} differs from what was saved (checksum)")
    return arrays, manifest["metadata"]

  def _read_arrays(self, directory: epath.Path, wanted: dict[str, Any]) -> dict[str, jax.Array]:
    reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    try:
      return reader.restore(directory / _STATE, args=ocp.args.StandardRestore(wanted))
    except (jax.errors.JaxRuntimeError, MemoryError):
      raise  # out of memory is not damage
    except Exception as error:
      if _listed_files(directory):  # every file still has the checksum it was written with
        raise CheckpointError(f"{directory} cannot be read: {_first_line(error)}") from error
      raise _DamagedError(
        "its arrays cannot be read, and without files.json the cause is unknown"
      ) from error

  def _writer(self) -> ocp.CheckpointManager:
    """Opens the directory for writing: leftovers of a killed save go, damaged steps move aside."""
    if self._manager is not None and not self._damaged:
      return self._manager
    self.close()
    if jax.process_index() == 0:
      self._remove_unfinished()
      for step in self._damaged:
        aside = self.directory / f"{step}.damaged"
        _remove(aside)
        (self.directory / str(step)).rename(aside)
    ocp.multihost.sync_global_processes("videojax:checkpoints_tidied")
    self._damaged = []
    # Directories are made before save returns, so that an unwritable one raises there.
    asynchronous = ocp.AsyncOptions(
      post_finalization_callback=self._write_files_json, create_directories_asynchronously=False
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=self._policy, async_options=asynchronous
    )
    self._manager = ocp.CheckpointManager(self.directory, options=options)
    return self._manager

  def _write_files_json(self) -> None:
    """Lists the files of the step being written; orbax calls this in one process, then commits."""
    directory = self.directory / f"{self._saving}{_UNFINISHED}"
    if not directory.exists():  # object stores cannot rename: orbax writes in place
      directory = self.directory / str(self._saving)
    files = integrity.fingerprint_files(directory)
    files = {name: files[name] for name in files if "/" in name}  # orbax still edits the top level
    partial = directory / f"{_FILES}.partial"
    partial.write_text(json.dumps(integrity.seal(files)))
    partial.rename(directory / _FILES)

  def _remove_unfinished(self) -> None:
    for path in self.directory.iterdir() if self.directory.exists() else ():
      if _UNFINISHED in path.name:
        _remove(path)

  @contextlib.contextmanager
  def _write_errors(self) -> Iterator[None]:
    """Turns a failed save into a CheckpointError and leaves nothing of it behind."""
    try:
      yield
    except Exception as error:
      self._manager = None  # its list of steps counts the failed one; the next save opens anew
      if jax.process_index() == 0:
        with contextlib.suppress(OSError):
          self._remove_unfinished()
      raise CheckpointError(
        f"checkpoint {self._saving} could not be written to {self.directory}: "
        f"{_write_reason(error, self.directory)}; earlier checkpoints are intact: fix this and"
        " repeat the command"
      ) from error

  def _agreed_steps(self) -> list[int]:
    # Hosts may see a network directory at different moments: the main process's view counts.
    if jax.process_index() > 0:
      return json.loads(_agree(""))
    steps = set(ocp.utils.checkpoint_steps(self.directory))
    with contextlib.suppress(FileNotFoundError):  # what stands in the place of one is damaged
      steps |= {
        int(p.name) for p in self.directory.iterdir() if p.name.isdecimal() and not p.is_dir()
      }
    return json.loads(_agree(json.dumps(sorted(steps))))


def _check_retention(keep_last: int, keep_every_steps: int | None) -> None:
  if keep_last < 1:
    raise ValueError(f"keep_last={keep_last} must be at least 1")
  if keep_every_steps is not None and keep_every_steps < 1:
    raise ValueError(f"keep_every_steps={keep_every_steps} must be at least 1, or None")


def _read_manifest(directory: epath.Path) -> dict[str, Any]:
  """What was sealed; `step` is absent in checkpoints of versions before 2026-11."""
  try:
    body = integrity.unseal(ocp.JsonCheckpointHandler().restore(directory / _MANIFEST))
    step, _, _ = body.get("step", int(directory.name)), body["leaves"], body["metadata"]
  except _UNREADABLE as error:
    raise _DamagedError(f"its manifest cannot be read: {_first_line(error)}") from error
  if step != int(directory.name):
    raise _DamagedError(f"it was saved as step {step}, so its directory was copied or renamed")
  return body


def _listed_files(directory: epath.Path) -> dict[str, Any]:
  """Reads files.json. Its absence is not an error: array checksums still detect corruption."""
  try:
    return integrity.unseal(json.loads((directory / _FILES).read_text()))
  except _UNREADABLE:
    return {}


def _lacking(directory: epath.Path) -> list[str]:
  """Files beside the arrays and their checksums, which tell nothing of them, that are not sound."""
  listed = _listed_files(directory)
  marks = [name for name in (_COMMIT,) if f"{_STATE}/{name}" in listed]  # orbax writes both or none
  lost = [name for name in (_TOP, *marks) if not (directory / name).is_file()]
  return lost if listed else [*lost, _FILES]


def _remove(path: epath.Path) -> None:
  """A directory or a file, if it is there."""
  if path.is_dir():
    path.rmtree()
  else:
    path.unlink(missing_ok=True)


def _file_damage(directory: epath.Path) -> str:
  if not directory.is_dir():
    return "it is not a directory"
  problems = integrity.changed_files(directory, _listed_files(directory))
  if not problems:
    try:
      _read_manifest(directory)
    except _DamagedError as error:
      problems = [str(error)]
  return _some(problems)


def _agree(text: str) -> str:
  """Returns the main process's text (its first 64 KiB) on every process."""
  if jax.process_count() == 1:
    return text
  buffer = np.zeros(65536, np.uint8)
  data = np.frombuffer(text.encode()[: buffer.size], np.uint8)
  buffer[: data.size] = data
  return bytes(multihost_utils.broadcast_one_to_all(buffer)).rstrip(b"\0").decode(errors="ignore")


def _write_reason(error: Exception, directory: epath.Path) -> str:
  reasons = [reason for text, reason in _DISK_REASONS.items() if text in str(error)]
  with contextlib.suppress(OSError, IndexError):
    usage = shutil.disk_usage(directory)
    return f"{reasons[0]} ({usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free)"
  return reasons[0] if reasons else _first_line(error)


def _first_line(error: BaseException) -> str:
  lines = str(error).strip().splitlines() or [""]
  return f"{type(error).__name__}: {lines[0][:200]}"


def _some(items: list[str], most: int = 8) -> str:
  more = f"; and {len(items) - most} more" if len(items) > most else ""
  return "; ".join(items[:most]) + more
