"""--mode=sweep: runs the cells of a sweep one after another, then predicts and reports.

Finished cells are skipped and interrupted ones resumed. A cell that diverges or crashes is recorded
and does not stop the sweep; a cell that another process is running is left to it. Cells that differ
only in seed, length and learning rate share one compiled program. Of two that differ only in
length, the longer one continues from the step where the shorter one began to decay. Held-out cells
run after their loss was predicted. Several machines each take `--cells=i:j` (launch/); two
processes cannot run the same part simultaneously.
"""

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from videojax.errors import ConfigError, NotFiniteError
from videojax.io import files
from videojax.io.checkpoint import CheckpointError
from videojax.io.claim import InUseError, claim
from videojax.io.log import clock_text
from videojax.report.report import report
from videojax.runs import rundir
from videojax.runs.program import Program
from videojax.scaling.cells import Cell, read_sweep
from videojax.scaling.predict import predict
from videojax.scaling.sealed import unpredicted
from videojax.sharding import make_mesh
from videojax.sweeps import schedule
from videojax.sweeps.schedule import Job
from videojax.train import Preempted, train


def sweep(
  base: Mapping[str, Any],
  cells: Sequence[Cell],
  workdir: Path,
  *,
  part: slice = slice(None),
  max_seconds: float = float("inf"),
  notes: Mapping[str, Any] | None = None,
) -> None:
  """Runs the unfinished cells in `part` of a sweep, for at most `max_seconds`.

  Args:
    base: the config that the cells override.
    cells: all cells of the sweep.
    notes: further entries of sweep.json.
  Raises:
    ConfigError: a cell cannot be run (the message names it), or `workdir` holds another sweep.
    Preempted: SIGTERM, Ctrl-C or the time limit; the running cell has been saved.
  """
  deadline = time.perf_counter() + max_seconds
  console = Console(highlight=False, soft_wrap=True)
  every = [schedule.make_job(base, cell) for cell in cells]
  schedule.write_sweep(workdir, every, notes or {})
  first, last, _ = part.indices(len(every))
  with claim(workdir, f"cells {first}:{last} of a sweep", f"cells-{first}-{last}"):
    run_part(every, part, workdir, deadline, console)


def run_part(
  every: Sequence[Job], part: slice, workdir: Path, deadline: float, console: Console
) -> None:
  """Runs the cells of `part`, held-out ones last; writes the report if `part` is all cells."""
  chosen = schedule.in_order(every[part])
  console.print(schedule.statement(every, workdir), markup=False)
  run_all([job for job in chosen if not job.cell.held_out], every, workdir, deadline, console)
  held_out = [job for job in chosen if job.cell.held_out]
  waiting = [r.cell.name for r in read_sweep(workdir) if r.is_open and not r.cell.held_out]
  if held_out and not waiting:
    for budget in sorted({job.cell.budget for job in held_out if job.cell.budget}):
      predict_once(workdir, budget, console)
    run_all(held_out, every, workdir, deadline, console)
  elif held_out:
    console.print(f"held-out cells wait for the others: {', '.join(waiting)}", markup=False)
  # Only a process that runs all cells (no --cells) writes the report.
  if part == slice(None) and any(row.status == "finished" for row in read_sweep(workdir)):
    console.print(f"report: {report(workdir)}", markup=False)


def predict_once(workdir: Path, budget: float, console: Console) -> None:
  """Predicts the held-out cells of a budget, or waits until another process has done so."""
  while True:
    try:
      with claim(workdir, "predicting", "predictions"):
        if why := unpredicted(workdir, budget):
          console.print(f"predicted: {predict(workdir, budget)} ({why})", markup=False)
        return
    except InUseError:
      time.sleep(1)


def run_all(
  todo: Sequence[Job], every: Sequence[Job], workdir: Path, deadline: float, console: Console
) -> None:
  """Runs the cells `todo` out of `every`; prints a line and the time left after each."""
  program: Program | None = None
  todo = [job for job in todo if not schedule.is_finished(job, workdir)]
  spent: list[float] = []
  for number, job in enumerate(todo, 1):
    run, clock = workdir / "cells" / job.cell.name, time.perf_counter()
    if clock > deadline:
      raise Preempted(f"stopped by the time limit before cell {job.cell.name}")
    trunk, said = schedule.trunk_of(job, every, workdir), f"[{number}/{len(todo)}] {job.cell.name}"
    try:
      with claim(run, f"cell {job.cell.name} of a sweep"):
        (run / "failed.json").unlink(missing_ok=True)
        if program is None or program.key != job.program:
          program = None
          gc.collect()  # frees the old program's buffers before the new one allocates
          program = Program(job.experiment, make_mesh(job.experiment.mesh))
        how: Any = dict(program=program, trunk=trunk, deadline=deadline, quiet=True)
        result = train(job.experiment, run, **how)
      said += f"  loss {result.loss if result else float('nan'):.4f}"
    except Preempted as stop:
      raise Preempted(f"cell {job.cell.name}: {stop}") from None
    except InUseError as error:
      said += f"  left to another process: {error}"
    except ConfigError as error:
      raise ConfigError(f"cell {job.cell.name}: {error}") from None
    except (NotFiniteError, CheckpointError, jax.errors.JaxRuntimeError, ValueError) as error:
      why = f"{type(error).__name__}: {error}"
      files.write_json(run / "failed.json", {"time": rundir.now(), "why": why})
      said += f"  FAILED: {why}"
    spent.append(time.perf_counter() - clock)
    left = clock_text(schedule.time_left([j.flops for j in todo], spent))
    steps = job.experiment.total_steps
    console.print(f"{said}  {steps} steps  {spent[-1]:.1f} s  ({left} left)", markup=False)
