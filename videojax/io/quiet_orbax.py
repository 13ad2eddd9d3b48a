"""Silences what orbax prints besides its errors, which its caller gets anyway.

It logs each step of a save. After a failed save or read, its tasks and tensorstore's threads keep
running, and each prints a traceback: dozens of them, above the one message.
"""

import functools
import inspect
import logging
import sys
import warnings
from typing import Any


@functools.cache
def orbax() -> None:
  """From now on, orbax's errors appear only as exceptions."""
  logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
  logging.getLogger("asyncio").addFilter(lambda record: "/orbax/" not in record.getMessage())
  # A task that the failure of another kept from starting, collected as the process ends.
  never = "coroutine '.*(serialize|write_fragment).*' was never awaited"
  warnings.filterwarnings("ignore", never, RuntimeWarning)
  shown = sys.unraisablehook

  def hook(report: Any) -> None:
    """Drops reports about garbage-collected tasks and C++ threads, which have no Python caller."""
    task = report.object
    late = task is None and str(report.exc_value) == "Event loop is closed"
    if not late and not (inspect.iscoroutine(task) and "/orbax/" in task.cr_code.co_filename):
      shown(report)

  sys.unraisablehook = hook
