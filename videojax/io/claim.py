"""One writer for a directory: a claim that ends with its process, and says whose it is.

The claim is a lock of the operating system on a small file in the directory, which holds who took
it. Network file systems pass such locks on, but for a few (NFS mounted with nolock, Lustre with
localflock, gcsfuse), where each host knows its own alone. So the holder also renews the file's
time, and a claim from another host counts as dead only once that has stopped.
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
from typing import Any, NamedTuple

from videojax.errors import ConfigError
from videojax.host import stop

NAME = ".claim"
RENEW_SECONDS = 10.0
DEAD_SECONDS = 90.0  # hosts may see a file's time a minute late (NFS, gcsfuse)
SETTLE_SECONDS = 1.0  # in which who has opened the file also writes it
_FIELDS = {"host", "pid", "since", "doing", "kernel"}
_HELD_BY_OTHERS = (errno.EACCES, errno.EAGAIN)
_GONE = (errno.ENOENT, errno.ESTALE)  # removed by its holder as we look; ESTALE: of a network
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class _Held(NamedTuple):
  """A claim of this process.

  Attributes:
    record: what the file says.
    made: directories that were made for it.
    descriptor: of the locked file (to close any other one would end the lock); None: not ours yet.
  """

  record: dict[str, Any]
  made: list[Path]
  descriptor: int | None = None


_held: dict[Path, _Held] = {}  # by path of the file
_guard = threading.Lock()
_renewing = False


class InUseError(ConfigError):
  """A directory that another process writes; the message says which, and since when."""


def file_of(directory: Path, part: str = "") -> Path:
  """The file of a claim; who sees it shares the directory with its holder."""
  return directory.resolve() / (f"{NAME}-{part}" if part else NAME)


@contextlib.contextmanager
def claim(directory: Path, doing: str, part: str = "") -> Iterator[None]:
  """Holds a directory, made if it is not there; released, or dead with this process.

  What was made here and is still empty then is removed again.

  Args:
    directory: that will be written.
    doing: what for, as one who is refused will read it.
    part: of what is written there, if it does not meet the rest; '': all.
  Raises:
    InUseError: another process, or this one, holds it; the message says who and since when.
    OSError: the directory cannot be made or written.
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
      path.unlink()  # before it is unlocked, and then perhaps another's
    os.close(held.descriptor)
  for each in held.made:
    with contextlib.suppress(OSError):  # not empty
      each.rmdir()


def _release_all() -> None:
  for path, held in list(_held.items()):
    _release(path, held)


stop.before_leaving.append(_release_all)


def _take(path: Path, directory: Path, own: dict[str, Any]) -> int:
  """The descriptor of the file, once it is locked and holds our record."""
  sure = True  # that nobody else has come to the conclusion that it is free
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
          _write(path, own)  # which ends the lock
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


def _look(
  path: Path, directory: Path, descriptor: int, own: dict[str, Any]
) -> tuple[dict[str, Any] | None, bool]:
  """Whose record the file holds, and whether it is locked for us now.

  Raises:
    InUseError: another process has locked it.
  """
  locks = _lock(descriptor)
  if locks is None:
    raise InUseError(_refusal(directory, _read(descriptor, but=own)))
  return _read(descriptor), locks


def _lock(descriptor: int) -> bool | None:
  """True: it is locked now; None: it is another's; False: this file system has no locks."""
  try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in _HELD_BY_OTHERS:
      return None
    if error.errno in _NO_LOCKS_HERE:
      return False
    raise
  return True


def _is_dead(path: Path, directory: Path, holder: dict[str, Any] | None, locks: bool) -> bool:
  """Waits until a claim that is not locked here is known to be dead.

  Returns: whether a lock proves it: its holder was a process of this kernel.
  Raises:
    InUseError: it lives, on another host.
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
  """Starts the thread that renews all that this process holds."""
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


# What the file says.


def _record(doing: str) -> dict[str, Any]:
  since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
  host = socket.gethostname()
  return {"host": host, "pid": os.getpid(), "since": since, "doing": doing, "kernel": _kernel()}


def _kernel() -> str:
  """What tells this running kernel from all others; containers of one host share it."""
  with contextlib.suppress(OSError):
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  return socket.gethostname()


def _read(descriptor: int, but: dict[str, Any] | None = None) -> dict[str, Any] | None:
  """The record; None: there is none other than `but`, though it had the time to be written."""
  until = time.monotonic() + SETTLE_SECONDS
  while True:
    with contextlib.suppress(ValueError, RecursionError):
      record = json.loads(os.pread(descriptor, 4096, 0))
      if isinstance(record, dict) and record.keys() == _FIELDS and record != but:
        return record
    if time.monotonic() > until:
      return None
    time.sleep(0.05)


def _write(path: Path, record: dict[str, Any], flags: int = os.O_TRUNC) -> None:
  """Writes the file and closes it: some network file systems show it to others only then."""
  descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o666)
  try:
    os.write(descriptor, json.dumps(record).encode())
  except OSError as error:  # a full disk
    path.unlink(missing_ok=True)
    raise OSError(error.errno, error.strerror, str(path)) from None
  finally:
    os.close(descriptor)


def _who(record: dict[str, Any] | None) -> str:
  if record is None:
    return "another process"
  return "process {pid} on {host} ({doing}, since {since})".format(**record)


def _refusal(directory: Path, record: dict[str, Any] | None) -> str:
  return (
    f"{directory} is in use by {_who(record)}; nothing was changed. Wait until it ends, stop it, or"
    " choose another directory"
  )
