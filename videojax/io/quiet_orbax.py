"""What orbax says beside its errors, which its caller gets anyway, is not shown.

It narrates each save. After a failed save or read its tasks and tensorstore's threads go on, and
each reports to a caller that has gone, by a traceback: dozens of them, over the one message.
"""

import functools
import inspect
import logging
import sys
from typing import Any


@functools.cache
def orbax() -> None:
  """From now on only its errors are heard of, as exceptions."""
  logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)
  logging.getLogger("asyncio").addFilter(lambda record: "/orbax/" not in record.getMessage())
  shown = sys.unraisablehook

  def hook(report: Any) -> None:
    """Of a task that is collected, or of a thread of C++, which has no caller in Python."""
    task = report.object
    late = task is None and str(report.exc_value) == "Event loop is closed"
    if not late and not (inspect.iscoroutine(task) and "/orbax/" in task.cr_code.co_filename):
      shown(report)

  sys.unraisablehook = hook
