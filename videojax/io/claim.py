"""Claims on directories, so that one process writes; a claim names its holder and ends with it.

A claim is an operating-system lock on a small file in the directory, which records the holder. Most
network file systems share such locks between hosts. On the others (NFS mounted with nolock, Lustre
with localflock, gcsfuse) each host sees only its own. So the holder also renews the file's time,
and a claim from another host counts as dead only when that has stopped.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from videojax.errors import ConfigError
from videojax.host import stop

NAME = ".claim"
RENEW_SECONDS = 10.0
DEAD_SECONDS = 90.0  # hosts may see a file's time a minute late (NFS, gcsfuse)
SETTLE_SECONDS = 1.0  # in which a process that has opened the file also writes it
_FIELDS = {"host", "pid", "since", "doing", "kernel"}
_HELD_BY_OTHERS = (errno.EACCES, errno.EAGAIN)
_GONE = (errno.ENOENT, errno.ESTALE)  # the holder has just removed it; ESTALE: on a network disk
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
Record = dict[str, str | int]  # the content of a claim's file, by _FIELDS


class _Held(NamedTuple):
  """A claim of this process.

  Attributes:
    record: content of the file.
    made: directories that were created for it.
    descriptor: of the locked file (closing any other one would release the lock); None: not locked.
  """

  record: Record
  made: list[Path]
  descriptor: int | None = None


_held: dict[Path, _Held] = {}  # by the file's path
_guard = threading.Lock()
_renewing = False


class InUseError(ConfigError):
  """Another process is writing the directory; the message says which one, and since when."""


def file_of(directory: Path, part: str = "") -> Path:
  """The path of a claim's file; a host that sees the file shares the directory with the holder."""
  return directory.resolve() / (f"{NAME}-{part}" if part else NAME)


@contextlib.contextmanager
def claim(directory: Path, doing: str, part: str = "") -> Iterator[None]:
  """Claims a directory, created if missing, until the end of the block or of this process.

  Directories that were created here and are still empty at the end are removed.

  Args:
    directory: to be written.
    doing: the purpose, shown to processes that are refused.
    part: name of an independent part of the directory's content; '': all of it.
  Raises:
    InUseError: another process, or this one, holds it; the message says which and since when.
    OSError: the directory cannot be created or written.
  """
  made = [each for each in (directory, *directory.parents) if not each.exists()]
  path, own = file_of(directory, part), _record(doing)
  with _guard:
    if path in _held:
      raise InUseError(_refusal(directory, _held[path].record))
    _held[path] = _Held(own, made)
  try:
    _held[path] = _Held(own, made, _take(path, directory, own))
    _keep_renewing()
    yield
  finally:
    with _guard:
      _release(path, _held.pop(path))


def _release(path: Path, held: _Held) -> None:
  if held.descriptor is not None:
    with contextlib.suppress(OSError):
      path.unlink()  # before unlocking it: then it may be another process's
    os.close(held.descriptor)
  for each in held.made:
    with contextlib.suppress(OSError):  # not empty
      each.rmdir()


def _release_all() -> None:
  for path, held in list(_held.items()):
    _release(path, held)


stop.before_leaving.append(_release_all)


def _take(path: Path, directory: Path, own: Record) -> int:
  """Returns the descriptor of the file once it is locked and holds our record."""
  sure = True  # that no other process has concluded that it is free
  while True:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with contextlib.suppress(FileExistsError):
        _write(path, own, os.O_EXCL)
      descriptor, ours = os.open(path, os.O_RDWR), False
      try:
        holder, locks = _look(path, directory, descriptor, own)
        if holder != own:
          sure = _is_dead(path, directory, holder, locks)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
          continue  # its holder has removed it
        if holder != own:
          _write(path, own)  # which releases the lock
        elif sure:
          ours = True
          return descriptor
        else:
          time.sleep(SETTLE_SECONDS)
          sure = True
      finally:
        if not ours:
          os.close(descriptor)
    except OSError as error:
      if error.errno not in _GONE:
        raise


def _look(path: Path, directory: Path, descriptor: int, own: Record) -> tuple[Record | None, bool]:
  """Returns the record in the file, and whether we hold the lock now.

  Raises:
    InUseError: another process has locked it.
  """
  locks = _lock(descriptor)
  if locks is None:
    raise InUseError(_refusal(directory, _read(descriptor, but=own)))
  return _read(descriptor), locks


def _lock(descriptor: int) -> bool | None:
  """True: locked now; None: another process has the lock; False: no locks on this file system."""
  try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _HELD_BY_OTHERS:
      return None
    if error.errno in _NO_LOCKS_HERE:
      return False
    raise
  return True


def _is_dead(path: Path, directory: Path, holder: Record | None, locks: bool) -> bool:
  """Waits until a claim that is not locked here is known to be dead.

  Returns: whether the lock proves it, since the holder ran on this kernel.
  Raises:
    InUseError: the holder is alive, on another host.
  """
  if locks and (holder is None or holder["kernel"] == _kernel()):
    return True
  renewed, told = path.stat().st_mtime_ns, False
  while _age(path) < DEAD_SECONDS:
    if not told:
      print(f"{directory} was in use by {_who(holder)}: waiting for a sign of life", flush=True)
    told = True
    time.sleep(SETTLE_SECONDS)
    if path.stat().st_mtime_ns != renewed:
      raise InUseError(_refusal(directory, holder))
  return False


def _age(path: Path) -> float:
  """Seconds since the file was renewed, by the clock of its file system."""
  with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{NAME}-") as now:
    return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _keep_renewing() -> None:
  """Starts the thread that renews all claims of this process."""
  global _renewing
  with _guard:
    if not _renewing:
      threading.Thread(target=_renew, daemon=True, name="claims").start()
      _renewing = True


def _renew() -> None:
  while True:
    time.sleep(RENEW_SECONDS)
    with _guard:
      for path, held in _held.items():
        if held.descriptor is not None:
          with contextlib.suppress(OSError):
            os.utime(path)


# The content of the file.


def _record(doing: str) -> Record:
  since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
  host = socket.gethostname()
  return {"host": host, "pid": os.getpid(), "since": since, "doing": doing, "kernel": _kernel()}


def _kernel() -> str:
  """An identifier of the running kernel; containers of one host share it."""
  with contextlib.suppress(OSError):
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  return socket.gethostname()


def _read(descriptor: int, but: Record | None = None) -> Record | None:
  """The record; None if none other than `but` is written within SETTLE_SECONDS."""
  until = time.monotonic() + SETTLE_SECONDS
  while True:
    with contextlib.suppress(ValueError, RecursionError):
      record = json.loads(os.pread(descriptor, 4096, 0))
      if isinstance(record, dict) and record.keys() == _FIELDS and record != but:
        return record
    if time.monotonic() > until:
      return None
    time.sleep(0.05)


def _write(path: Path, record: Record, flags: int = os.O_TRUNC) -> None:
  """Writes the file and closes it: some network file systems show it to others only then."""
  descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
  try:
    os.write(descriptor, json.dumps(record).encode())
  except OSError as error:  # a full disk
    path.unlink(missing_ok=True)
    raise OSError(error.errno, error.strerror, str(path)) from None
  finally:
    os.close(descriptor)


def _who(record: Record | None) -> str:
  if record is None:
    return "another process"
  return "process {pid} on {host} ({doing}, since {since})".format(**record)


def _refusal(directory: Path, record: Record | None) -> str:
  return (
    f"{directory} is in use by {_who(record)}; nothing was changed. Wait until it ends, stop it, "
    "or choose another directory"
  )
