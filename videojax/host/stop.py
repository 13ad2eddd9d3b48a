"""SIGTERM, Ctrl-C and a time limit: the process ends immediately or, in its loop, saves first."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = signal.SIGTERM, signal.SIGINT
before_leaving: list[Callable[[], None]] = []  # called before a signal ends the process
_leaving = threading.Lock()


def listen() -> None:
  """From now on, SIGTERM and Ctrl-C end this process immediately, with one line.

  Python runs a handler only between two of its own instructions, which may be minutes apart (while
  XLA compiles). So a thread waits for the byte that the operating system's handler writes.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)

  def wait() -> None:
    while number := os.read(read, 1):
      if number[0] in SIGNALS:
        _leave(number[0])

  threading.Thread(target=wait, daemon=True, name="signals").start()
  for each in SIGNALS:
    signal.signal(each, lambda number, _: _leave(number))


def _leave(number: int) -> None:
  if not _leaving.acquire(blocking=False):
    time.sleep(60)  # another thread ends the process
  try:
    for cleans in before_leaving:
      cleans()
    show = "\x1b[?25h" if os.isatty(2) else ""  # the cursor, which a progress bar hides
    name = signal.Signals(number).name
    os.write(2, f"{show}stopped by {name}; run the same command again to continue\n".encode())
  finally:
    os._exit(128 + number)


@contextlib.contextmanager
def asked_to_stop(deadline: float) -> Iterator[Callable[[], str]]:
  """Yields a function that returns why to stop: a signal's name, 'the time limit'; '': go on.

  The previous handlers are restored at the end, and by the first signal: a second one ends the
  process as if it had not been caught.
  """
  asked = ""
  before: dict[signal.Signals, Any] = {}
  late = lambda: "the time limit" if time.perf_counter() > deadline else ""

  def put_back() -> None:
    for each, handler in before.items():
      signal.signal(each, handler)
    signal.set_wakeup_fd(listening)

  def handle(number: int, _: object) -> None:
    nonlocal asked
    asked = signal.Signals(number).name
    put_back()

  try:
    listening = signal.set_wakeup_fd(-1)
  except ValueError:  # not in the main thread, where signals do not arrive
    yield late
    return
  try:
    for each in SIGNALS:
      before[each] = signal.signal(each, handle)
    yield lambda: asked or late()
  finally:
    put_back()
