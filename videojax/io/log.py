"""The log of a run: metrics.jsonl, a progress line on the console, and optionally TensorBoard."""

import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videojax.errors import ConfigError
from videojax.io.files import write_text

EVERY_SECONDS = 10.0  # between two lines about a slow phase
# Functions that print a line; the last one is used, that of the current run.
_sayers: list[Callable[[str], None]] = [functools.partial(print, flush=True)]


@contextlib.contextmanager
def phase(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
  """Prints the progress of a phase every ten seconds; nothing for a shorter phase.

  Args:
    name: of the phase.
    total: amount of work; None: unknown, and the elapsed time is printed.
  Yields: a function to call with the amount of work just done.
  """
  done, started, ended, say = 0, time.perf_counter(), threading.Event(), _sayers[-1]

  def advance(number: int) -> None:
    nonlocal done
    done += number

  def speak() -> None:
    while not ended.wait(EVERY_SECONDS):
      seconds = time.perf_counter() - started
      if total and done:
        left = clock_text(seconds / done * (total - done))
        say(f"{name}: {done} of {total}, {left} left")
      else:
        say(f"{name}: {clock_text(seconds)} so far")

  thread = threading.Thread(target=speak, daemon=True, name=name)
  thread.start()
  try:
    yield advance
  finally:
    ended.set()
    thread.join()


class Log:
  """Writes logged steps; a context manager.

  Args:
    workdir: of the run.
    total_steps: for the progress bar.
    start: number of steps already done.
    tensorboard: also write events to workdir/tensorboard.
    writes: whether this process writes files; only one does.
    quiet: print nothing.
  """

  def __init__(
    self, workdir: Path, *, total_steps: int, start: int, tensorboard: bool, writes: bool,
    quiet: bool = False,
  ):  # fmt: skip
    quiet = quiet or not writes
    self.console = Console(stderr=False, quiet=quiet, highlight=False, soft_wrap=True)
    self.path = workdir / "metrics.jsonl"
    lost = _drop_after(self.path, start) if writes else 0
    self.file = open(self.path, "a", buffering=1) if writes else None  # noqa: SIM115
    self.events = _summary_writer(workdir, start) if tensorboard and writes else None
    live = self.console.is_terminal
    self.progress = Progress(
      TextColumn("training"), BarColumn(bar_width=20), MofNCompleteColumn(),
      TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
      console=self.console, disable=not live or quiet, transient=False,
    )  # fmt: skip
    self.bar = self.progress.add_task("training", total=total_steps, completed=start, text="")
    self.total_steps, self.live, self.last_line = total_steps, live, 0.0
    self.started, self.start = time.perf_counter(), start
    if lost:
      self.say(f"{self.path}: removed {lost} damaged lines")

  def __enter__(self) -> "Log":
    self.progress.start()
    _sayers.append(self.say)
    return self

  def __exit__(self, *_: object) -> None:
    _sayers.remove(self.say)
    self.progress.stop()
    if self.file is not None:
      with contextlib.suppress(OSError):  # a line that could not be written was reported before
        self.file.close()
    if self.events is not None:
      self.events.close()

  def say(self, text: str) -> None:
    """Prints a line on the console."""
    self.console.print(text, markup=False)

  def metrics(self, step: int, values: dict[str, float]) -> None:
    """Writes a line of metrics.jsonl, after `step` updates, and updates the progress line."""
    if self.file is not None:
      try:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
      except OSError as error:  # a full disk
        raise OSError(error.errno, error.strerror, str(self.path)) from None
    if self.events is not None:
      for name, value in values.items():
        self.events.add_scalar(name, value, step)
    self.progress.update(self.bar, completed=step, text=describe(values))
    # Without a terminal: a line every ten seconds instead of the bar.
    now = time.perf_counter()
    if not self.live and (now - self.last_line > EVERY_SECONDS or step == self.total_steps):
      self.last_line = now
      left = (now - self.started) / max(step - self.start, 1) * (self.total_steps - step)
      self.say(f"step {step}/{self.total_steps}  {describe(values)}  {left:.0f} s left")


def describe(values: dict[str, float]) -> str:
  """'loss 0.1234  12.3k tokens/s  MFU 31.0%'."""
  text = f"loss {values['loss']:.4f}  {values['tokens_per_s'] / 1e3:.1f}k tokens/s"
  return text + (f"  MFU {values['mfu']:.1%}" if "mfu" in values else "")


def clock_text(seconds: float | int) -> str:
  """'48 s', '12 min', '3.4 h'."""
  if seconds < 120:
    return f"{seconds:.0f} s"
  return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def error(text: str) -> None:
  """Prints a user error on standard error."""
  console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
  console.print(f"[bold red]error:[/] {_plain(text)}")


def _plain(text: str) -> str:
  return text.replace("[", "\\[")


def _drop_after(path: Path, start: int) -> int:
  """Removes damaged lines and those after step `start`, which a resumed run repeats.

  Returns: number of damaged lines. The last line is not counted: a kill may truncate it.
  """
  if not path.exists():
    return 0
  if not path.is_file():
    raise ConfigError(f"{path} is not a regular file: move it away")
  lines = path.read_bytes().splitlines()
  steps = [_step_of(line) for line in lines]
  kept = [line for line, step in zip(lines, steps) if step is not None and step <= start]
  write_text(path, "".join(line.decode() + "\n" for line in kept))
  return steps[:-1].count(None)


def _step_of(line: bytes) -> int | None:
  try:
    step = json.loads(line.decode())["step"]
  except (ValueError, KeyError, TypeError, IndexError, RecursionError):
    return None
  return step if isinstance(step, int) else None


def _summary_writer(workdir: Path, start: int) -> Any:
  from tensorboardX import SummaryWriter  # extra `tensorboard`; train checks that it is installed

  return SummaryWriter(str(workdir / "tensorboard"), purge_step=start)
