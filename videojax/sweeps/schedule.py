"""Schedules a sweep: each cell's experiment, its number of steps, the order, and the trunks."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.optimize import nnls

from videojax.config import Experiment, flatten, identity_of, program_of, resolve, to_json
from videojax.cost.tables import price_per_hour
from videojax.errors import ConfigError
from videojax.io import files
from videojax.io.log import clock_text
from videojax.io.schema import check_form
from videojax.runs import rundir
from videojax.runs.program import Counts, parameters_by_part
from videojax.scaling import flops
from videojax.scaling.cells import Cell, Notes, read_notes, read_row, read_sweep

# For a time estimate before any cell has run: MFU of small models on an accelerator, and FLOP/s of
# a device without a published peak.
ASSUMED_MFU, ASSUMED_FLOPS_PER_S = 0.05, 5e10


@dataclasses.dataclass(frozen=True)
class Job:
  """A cell with its experiment, parameters, training tokens and FLOPs."""

  cell: Cell
  experiment: Experiment
  params: int
  tokens: int
  flops: float

  @functools.cached_property
  def program(self) -> str:
    """Cells with equal values share a compiled program."""
    return program_of(self.experiment)

  @functools.cached_property
  def same(self) -> dict[str, Any]:
    """Cells with equal values differ in length only."""
    return identity_of(to_json(self.experiment))

  @property
  def planned(self) -> dict[str, int | float]:
    steps = self.experiment.total_steps
    clips = steps * self.experiment.batch_size
    return {
      "params": self.params, "tokens": self.tokens, "flops": self.flops, "clips": clips,
      "total_steps": steps,
    }  # fmt: skip


def make_job(base: Mapping[str, Any], cell: Cell) -> Job:
  """The cell's experiment, with the number of steps that its budget allows.

  Raises:
    ConfigError: the cell's config is invalid; the message has the cell's name.
  """
  try:
    values = override(base, cell.overrides)
    e = resolve(values)
    name = next(iter(e.data))
    counts = Counts.of(e.task(name))
    if cell.budget is not None:
      steps = round(cell.budget / (counts.flops * e.batch_size))
      if steps < 1:
        raise ConfigError(f"budget={cell.budget:.4g} FLOP is less than one step")
      e = dataclasses.replace(e, total_steps=steps)
    clips = e.total_steps * e.batch_size
    total = parameters_by_part(e.model)["total"]
    return Job(cell, e, total, clips * counts.tokens, float(clips * counts.flops))
  except ConfigError as error:
    raise ConfigError(f"cell {cell.name}: {error}") from None


def override(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of the base with dotted keys replaced; lists are not copied."""
  values = {k: override(v, {}) if isinstance(v, Mapping) else v for k, v in base.items()}
  for dotted, value in overrides.items():
    below, *path = values, *dotted.split(".")
    for key in path[:-1]:
      if not isinstance(below.get(key), dict):
        raise ConfigError(f"the config has no section {key!r} for {dotted}")
      below = below[key]
    below[path[-1]] = value
  return values


def in_order(jobs: Sequence[Job]) -> list[Job]:
  """Orders jobs: small programs first, cells of one program together, short runs before long."""
  cost: dict[str, float] = {}
  for job in jobs:
    cost[job.program] = max(cost.get(job.program, 0.0), job.flops / job.experiment.total_steps)
  order = lambda job: (
    cost[job.program], job.program, job.experiment.seed, job.experiment.optim.learning_rate,
    job.experiment.total_steps,
  )  # fmt: skip
  return sorted(jobs, key=order)


def trunks(job: Job, jobs: Sequence[Job]) -> list[tuple[int, Job]]:
  """(step, shorter job) for all jobs identical to this one up to that step, longest first."""
  shorter = [
    (other.experiment.trunk_end, other)
    for other in jobs
    if other.experiment.total_steps < job.experiment.total_steps and other.same == job.same
  ]
  limit = job.experiment.trunk_end or 0
  found = [(end, other) for end, other in shorter if end is not None and end <= limit]
  return sorted(found, key=lambda pair: -pair[0])


def trunk_of(job: Job, jobs: Sequence[Job], workdir: Path) -> tuple[Path, int] | None:
  """(run directory, step) of the longest trunk with a saved checkpoint, or None."""
  for end, other in trunks(job, jobs):
    run = workdir / "cells" / other.cell.name
    if (run / "checkpoints" / str(end)).exists():
      return run, end
  return None


def own_share(job: Job, jobs: Sequence[Job]) -> float:
  """The share of its steps that a cell must run itself, after its longest trunk."""
  return 1 - max((end for end, _ in trunks(job, jobs)), default=0) / job.experiment.total_steps


def is_finished(job: Job, workdir: Path) -> bool:
  """Whether the cell's record exists, or it failed in a way that would repeat."""
  row = read_row(workdir, job.cell)
  if row.status == "failed":
    return row.why.startswith(("Diverged", "NotFiniteError"))
  return row.status == "finished" and row.result["steps"] == job.experiment.total_steps


def write_sweep(workdir: Path, jobs: Sequence[Job], notes: Mapping[str, Any]) -> None:
  """Writes sweep.json.

  Raises:
    ConfigError: the directory holds another sweep; the message names the cells that differ.
  """
  path = workdir / "sweep.json"
  written = to_json({
    "cells": [dataclasses.asdict(job.cell) for job in jobs],
    "planned": {job.cell.name: job.planned for job in jobs},
    "price": price_per_hour(jax.devices()[0].device_kind, jax.device_count()),
    **notes,
  })  # fmt: skip
  check_form(written, Notes, "the sweep's get_notes()")
  if path.exists():
    planned = lambda p, name: p.get("planned", {}).get(name, {})
    before, after = (
      {c["name"]: flatten(c) | planned(p, c["name"]) for c in p["cells"]}
      for p in (read_notes(workdir), written)
    )
    changed = sorted(name for name in before if before[name] != after.get(name))
    if changed:
      raise ConfigError(
        f"{workdir} holds another sweep; nothing was changed. They differ in cells "
        f"{', '.join(changed[:5])}: choose another --workdir"
      )
  elif workdir.exists() and rundir.shown(workdir):
    raise ConfigError(f"{workdir} is not empty and holds no sweep: give --workdir a new directory")
  files.write_json(path, written)


def statement(jobs: Sequence[Job], workdir: Path) -> str:
  """One line on the cells, FLOPs, time and price of the sweep, before it starts."""
  todo = [job for job in jobs if not is_finished(job, workdir)]
  device, devices = jax.devices()[0], jax.device_count()
  peak = flops.peak_flops_per_s(device.device_kind)
  rate = peak * devices * ASSUMED_MFU if peak else ASSUMED_FLOPS_PER_S
  how = f"{ASSUMED_MFU:.0%} of the peak" if peak else f"{ASSUMED_FLOPS_PER_S:.0e} FLOP/s"
  own = sum(job.flops * own_share(job, jobs) for job in todo)
  price = price_per_hour(jax.devices()[0].device_kind, jax.device_count())
  money = f", {own / rate / 3600 * price:.2f} dollars at {price:.2f} per hour" if price else ""
  return (
    f"{len(jobs)} cells, {len(todo)} to run: {sum(j.flops for j in todo):.3g} FLOP of training "
    f"({own:.3g} to compute: longer runs continue shorter ones), "
    f"{sum(j.tokens for j in todo):,} tokens; about {clock_text(own / rate)}{money} on "
    f"{devices} x {device.device_kind} if it reaches {how}, evaluation not counted"
  )


def list_cells(base: Mapping[str, Any], cells: Sequence[Cell], workdir: Path) -> None:
  """--list: prints every cell with its parameters, steps, FLOPs and status; runs nothing."""
  status: dict[str, str] = {}
  if (workdir / "sweep.json").exists():
    status = {row.cell.name: row.status for row in read_sweep(workdir)}
  for number, job in enumerate(make_job(base, cell) for cell in cells):
    held = "  held out" if job.cell.held_out else ""
    print(
      f"{number:3d}  {job.cell.name:40s} {job.params:>12,} parameters "
      f"{job.experiment.total_steps:>8,} steps  {job.flops:.3g} FLOP  "
      f"{status.get(job.cell.name, 'waiting')}{held}"
    )


def time_left(work: Sequence[float], spent: Sequence[float]) -> float:
  """Estimated seconds left, from a cost per cell plus a cost per FLOP fitted to finished cells.

  Args:
    work: FLOPs of all cells, in the order they run.
    spent: seconds of the cells that have finished.
  """
  done = len(spent)
  rows = np.array([[1.0, flops / max(work)] for flops in work])
  cost = nnls(rows[:done], np.asarray(spent))[0]
  return float((rows[done:] @ cost).sum())
