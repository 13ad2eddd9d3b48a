"""Files that give no clips: errors of PyAV and Pillow become an UnreadableError with the reason."""

import contextlib
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
from PIL import ImageCms

# Exceptions on files that are damaged, truncated or unusual. MemoryError: a damaged header may
# promise pictures of any size.
AV_ERRORS = (
  av.FFmpegError,
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  NotImplementedError,
  OSError,
  TypeError,
  ValueError,
)
PIL_ERRORS = (
  ArithmeticError,
  AttributeError,
  EOFError,
  ImageCms.PyCMSError,
  LookupError,
  MemoryError,
  OSError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
  struct.error,
  zlib.error,
)


class UnreadableError(ValueError):
  """A file that gives no clips; the message is the reason."""


@contextlib.contextmanager
def av_errors(what: str) -> Iterator[None]:
  """Turns exceptions of PyAV inside the block into an UnreadableError that begins with `what`."""
  try:
    yield
  except UnreadableError:
    raise
  except AV_ERRORS as error:
    raise UnreadableError(f"{what} ({_reason(error)})") from error


def check_file(path: Path) -> None:
  """Raises UnreadableError unless this is a non-empty regular file; never blocks on a pipe."""
  try:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
      raise UnreadableError("not a regular file")
    path.open("rb").close()
  except OSError as error:
    raise UnreadableError(_reason(error)) from error
  if not status.st_size:
    raise UnreadableError("empty file")


def _reason(error: Exception) -> str:
  return (getattr(error, "strerror", None) or str(error)).lower()
