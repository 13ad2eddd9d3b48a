"""--mode=sweep: runs the cells of a sweep, one after the other, and what follows from them.

Idempotent: finished cells are skipped, interrupted ones resumed; a cell that diverged or crashed is
recorded and costs only itself. Cells that differ in seed, length and learning rate share one
compiled program, and of two that differ in length alone the longer goes on from where the shorter
one began to decay. Held-out cells run after their loss was predicted from all others. More than one
machine: `--cells=i:j` under SLURM's array or a Kubernetes job (launch/), each with its own share.
"""

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from videojax import rundir
from videojax.checkpoint import CheckpointError
from videojax.config import program_of
from videojax.errors import ConfigError
from videojax.jobs import (
  Job,
  clock_text,
  in_order,
  is_finished,
  make_job,
  statement,
  time_left,
  trunk_of,
  write_sweep,
)
from videojax.program import Program
from videojax.scaling.cells import Cell, read_sweep
from videojax.scaling.predict import predict
from videojax.scaling.report import report
from videojax.sharding import make_mesh
from videojax.train import Diverged, Preempted, train


def sweep(
  base: Mapping[str, Any],
  cells: Sequence[Cell],
  workdir: Path,
  *,
  part: slice = slice(None),
  max_seconds: float = float("inf"),
  notes: Mapping[str, Any] | None = None,
) -> None:
  """Runs what is left of a sweep, within a time.

  Args:
    base: the experiment file's dict, which the cells override.
    cells: of get_sweep().
    workdir: of the sweep.
    part: of the cells.
    max_seconds: after these the running cell is saved and the sweep stops.
    notes: what the report should know: `title`, `irreducible`, `onset` (scaling/groups.py).
  Raises:
    ConfigError: a cell that cannot be run, named; or `workdir` holds another sweep.
  """
  deadline = time.perf_counter() + max_seconds
  console = Console(highlight=False, soft_wrap=True)
  jobs = [make_job(base, cell) for cell in cells]
  write_sweep(workdir, jobs, notes or {})
  chosen = in_order(jobs[part])
  console.print(statement(jobs, workdir), markup=False)
  run_all([job for job in chosen if not job.cell.held_out], workdir, deadline, console)
  held_out = [job for job in chosen if job.cell.held_out]
  unfinished = [row for row in read_sweep(workdir) if row.status in ("started", "waiting")]
  waiting = [row.cell.name for row in unfinished if not row.cell.held_out]
  if held_out and not waiting:
    for budget in sorted({job.cell.budget for job in held_out if job.cell.budget}):
      if not (workdir / "predictions" / f"{budget:.4g}.json").exists():
        console.print(f"predicted: {predict(workdir, budget)}", markup=False)
    run_all(held_out, workdir, deadline, console)
  elif held_out:
    console.print(f"held-out cells wait for the others: {', '.join(waiting)}", markup=False)
  # Of several machines the one that is given all cells reports.
  if part == slice(None) and any(row.status == "finished" for row in read_sweep(workdir)):
    console.print(f"report: {report(workdir)}", markup=False)


def run_all(jobs: Sequence[Job], workdir: Path, deadline: float, console: Console) -> None:
  """The loop: one line per cell, and the time that is left."""
  program: Program | None = None
  todo = [job for job in jobs if not is_finished(job, workdir)]
  spent: list[float] = []
  for number, job in enumerate(todo, 1):
    run, clock = workdir / "cells" / job.cell.name, time.perf_counter()
    if program is None or program.key != program_of(job.experiment):
      program = None
      gc.collect()  # the old one's buffers go before the new one's come
      program = Program(job.experiment, make_mesh(job.experiment.mesh))
    try:
      trunk = trunk_of(job, jobs, workdir)
      result = train(
        job.experiment, run, program=program, trunk=trunk, deadline=deadline, quiet=True
      )
    except Preempted as stop:
      raise Preempted(f"cell {job.cell.name} {stop}") from None
    except ConfigError:
      raise
    except (Diverged, CheckpointError, jax.errors.JaxRuntimeError, ValueError) as error:
      why = f"{type(error).__name__}: {error}"
      rundir.write_json(run / "failed.json", {"time": rundir.now(), "why": why})
      console.print(f"[{number}/{len(todo)}] {job.cell.name} FAILED: {why}", markup=False)
      spent.append(time.perf_counter() - clock)
      continue
    spent.append(time.perf_counter() - clock)
    left = time_left([j.flops for j in todo], spent)
    loss = result.frozen_loss.final if result else float("nan")
    console.print(
      f"[{number}/{len(todo)}] {job.cell.name}  loss {loss:.4f}  {job.experiment.total_steps} steps"
      f"  {spent[-1]:.1f} s  (about {clock_text(left)} left)", markup=False,
    )  # fmt: skip
