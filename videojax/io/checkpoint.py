"""Checkpoints that are verified when restored: damage is detected and named.

A checkpoint is one directory, DIRECTORY/STEP, that appears atomically, by a rename:
- `state`: the leaves of the pytree by path, written by orbax
- `manifest`: step, the caller's metadata and, per leaf, shape, dtype and checksum; sealed by its
  SHA-256
- `files.json`: size and SHA-256 of each file, so that a damaged file can be named

This module adds what orbax lacks: orbax silently restores flipped bits and casts to another dtype,
does not fall back from a damaged newest step, and reports a full disk as a page of C++ status.
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
  """The message says which checkpoint, what is wrong with it, and what to do."""


class _DamagedError(Exception):
  """A checkpoint differs from what was written; the message names the file or the array."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When to save and what to keep.

  Args:
    save_every_steps: training steps between two checkpoints.
    keep_last: number of newest checkpoints to keep (2: one to fall back on if one is damaged).
    keep_every_steps: also keep the checkpoints at multiples of this step; None: none.
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
    skipped: newer checkpoints that are damaged, with the reasons.
    lacks: its missing or damaged files that do not affect what was restored.
  """

  step: int
  state: Any
  metadata: dict[str, Any]
  skipped: list[str]
  lacks: list[str]


class Checkpointer:
  """Saves in the background, deletes old checkpoints, restores only what it has verified.

  Reading changes nothing on disk. All processes must call each method together, except `steps`.

  Args:
    directory: holds one directory per step; created by the first save.
    keep_last: number of newest checkpoints to keep.
    keep_every_steps: also keep the checkpoints at multiples of this step.
    keep_steps: also keep these.
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
    if not distributed.of_others(error):  # without the other processes, the save never ends
      self.close()

  def steps(self) -> list[int]:
    """Lists the complete checkpoints, oldest first, without one that is still being written."""
    if self._manager is not None and not self._manager.is_saving_in_progress():
      self.wait()
    return sorted(ocp.utils.checkpoint_steps(self.directory))

  def save(self, step: int, state: Any, metadata: dict[str, Any]) -> bool:
    """Starts a checkpoint; the caller may donate `state` as soon as this returns.

    Args:
      step: name of the checkpoint; larger than that of any sound checkpoint here.
      state: pytree of jax.Array.
      metadata: JSON: config, data position, anything.

    Returns:
      False if this step exists already: it is kept, and nothing is written.

    Raises:
      CheckpointError: the previous save failed, this one cannot start, or a newer one exists.
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
    with self._write_errors():  # force: orbax may silently decline, but the caller decides when
      self._writer().save(step, args=ocp.args.Composite(**items), force=True)
    return True

  def wait(self) -> None:
    """Blocks until the current save is on disk; raises CheckpointError if it failed."""
    if self._manager is not None:
      with self._write_errors():
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the current save and ends the background threads; raises as `wait` does."""
    self.wait()
    if self._manager is not None:
      self._manager.close()
      self._manager = None

  def restore(self, abstract_state: Any, step: int | None = None) -> Restored | None:
    """Restores the newest sound checkpoint, or the one asked for, and verifies every array.

    Args:
      abstract_state: pytree of jax.ShapeDtypeStruct with sharding (any mesh of any devices).
      step: only this checkpoint; None: the newest sound one.

    Returns:
      The checkpoint, or None if the directory holds none.

    Raises:
      CheckpointError: the step is missing or damaged, all are damaged, or its leaves differ from
        those of `abstract_state` (the differences are listed).
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
    what = "no intact checkpoint (to start over, move it away):" if step is None else "a damaged"
    listing = "\n  ".join(["", *skipped]) if step is None else f" {skipped[0]}"
    raise CheckpointError(f"{self.directory} holds {what}{listing}") from cause

  def _read(
    self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]
  ) -> tuple[dict[str, jax.Array], dict[str, Any]]:
    directory = self.directory / str(step)
    # Only process 0 checks the files, so that all processes take the same branch.
    verdict = _agree(_file_damage(directory) if jax.process_index() == 0 else "")
    if verdict:
      raise _DamagedError(verdict)
    manifest = _read_manifest(directory)
    problems = integrity.differences(manifest["leaves"], wanted)
    if problems:
      raise CheckpointError(f"{directory} has a different model or optimizer: {_some(problems)}")
    arrays = self._read_arrays(directory, wanted)
    found = integrity.describe(arrays)
    changed = [path for path in wanted if found[path] != manifest["leaves"][path]]
    if changed:
      raise _DamagedError(f"array {_some(changed)} differs from what was saved (checksum)")
    return arrays, manifest["metadata"]

  def _read_arrays(
    self, directory: epath.Path, wanted: dict[str, jax.ShapeDtypeStruct]
  ) -> dict[str, jax.Array]:
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
    """Opens the directory for writing: deletes unfinished saves, moves damaged steps aside."""
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
    """Writes files.json of the step being saved; orbax calls this in one process, then commits."""
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
    """Turns a failed save into a CheckpointError and removes what it left."""
    try:
      yield
    except Exception as error:
      self._manager = None  # it lists the failed step too; the next save opens a new manager
      if jax.process_index() == 0:
        with contextlib.suppress(OSError):
          self._remove_unfinished()
      raise CheckpointError(
        f"checkpoint {self._saving} could not be written to {self.directory}: "
        f"{_write_reason(error, self.directory)}; earlier checkpoints are intact: fix this and "
        "repeat the command"
      ) from error

  def _agreed_steps(self) -> list[int]:
    # Hosts may see different states of a network directory: the view of process 0 counts.
    if jax.process_index() > 0:
      return json.loads(_agree(""))
    steps = set(ocp.utils.checkpoint_steps(self.directory))
    with contextlib.suppress(FileNotFoundError):  # a file in place of a checkpoint is damage
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
  """The body of the manifest; it lacks `step` in checkpoints from before 2026-11."""
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
  """Missing or damaged files other than the arrays and their checksums."""
  listed = _listed_files(directory)
  marks = [name for name in (_COMMIT,) if f"{_STATE}/{name}" in listed]  # orbax writes both or none
  lost = [name for name in (_TOP, *marks) if not (directory / name).is_file()]
  return lost if listed else [*lost, _FILES]


def _remove(path: epath.Path) -> None:
  """Removes a directory or a file, if it exists."""
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
  """Returns the text of process 0 (its first 64 KiB) on every process."""
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
