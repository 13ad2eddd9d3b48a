"""Finds the fastest mesh, batch size and remat policy on TPUs: estimates all, compiles the best."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh

from videojax.config import Experiment
from videojax.errors import ConfigError
from videojax.plan import topology
from videojax.plan.needs import DoesNotFit, kept_bytes, state_bytes, with_remat
from videojax.plan.step_work import Clip, Sent, step_work
from videojax.plan.tables import mesh_text
from videojax.runs.program import (
  Counts,
)
from videojax.runs.run_state import (
  create_state,
  make_update,
  state_shardings,
)
from videojax.scaling import roofline
from videojax.sharding import MESH_AXES, MeshConfig, number_of_slices

REMATS = "none", "attention_dots", "attention_narrow", "attention", "full"
BATCHES = 0.25, 0.5, 1, 2, 4  # times the config's batch size
WAYS = len(BATCHES) * len(REMATS)  # candidates per mesh
COMPILED = 4  # most candidates that are compiled before giving up
FULL = 0.85  # share of the memory that the counted bytes may take; the compiler needs the rest


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A mesh, batch size and remat policy, with counted bytes per device and seconds per clip."""

  mesh: MeshConfig
  batch_size: int
  remat: str
  bytes: int | float
  seconds_per_clip: float

  @property
  def text(self) -> str:
    mesh = mesh_text(dataclasses.asdict(self.mesh))
    return (
      f"{mesh}, {self.batch_size} clips, remat {self.remat}: {self.seconds_per_clip:.3g} s per "
      "clip by estimate"
    )

  def apply(self, e: Experiment) -> Experiment:
    return dataclasses.replace(
      with_remat(e, self.remat), mesh=self.mesh, batch_size=self.batch_size, clips_per_device=None
    )


def search(e: Experiment, devices: list[jax.Device]) -> tuple[Experiment, list[dict[str, Any]]]:
  """(experiment with the fastest candidate that compiles and fits, rows of all compiled ones).

  Raises:
    DoesNotFit: none of the best candidates fits.
  """
  # Among equally fast ones the smallest first: the compiler may keep more than is counted here.
  found = sorted(
    candidates(e, devices), key=lambda c: (float(f"{c.seconds_per_clip:.2g}"), c.bytes)
  )
  tried: list[dict[str, Any]] = []
  best = found[:COMPILED]
  for number, candidate in enumerate(best, 1):
    print(f"search: candidate {number} of {len(best)}, {candidate.text}", flush=True)
    chosen = candidate.apply(e)
    made = topology.compile_for(chosen, devices)
    row = dataclasses.asdict(candidate) | {k: made[k] for k in ("fits", "peak_bytes")}
    tried.append(row)
    if made["fits"]:
      return chosen, tried
  raise DoesNotFit(
    f"--search: {len(found)} ways to run this on {len(devices)} devices fit by estimate, but none "
    f"of the best {len(tried)} fits when compiled: use more devices, or a smaller model"
  )


def candidates(e: Experiment, devices: list[jax.Device]) -> Iterator[Candidate]:
  """Every mesh, batch size and remat policy whose counted bytes fit in memory."""
  kind, number = devices[0].device_kind, len(devices)
  memory = roofline.memory(kind)
  if memory is None:
    raise ConfigError(f"--search: the memory size of {kind} is unknown")
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  task = e.task(next(iter(e.data)))
  tokens = Counts.of(task).tokens
  clip = Clip.of(e)
  kept = {r: kept_bytes(with_remat(e, r).task(next(iter(e.data)))) for r in REMATS}
  slices = number_of_slices(devices)
  heads = getattr(e.model.config, "num_heads", 1)
  tried = [m for m in meshes(number, tokens, heads) if m.data % slices == 0]
  print(f"search: counting {len(tried)} meshes, each with {WAYS} batches and remats", flush=True)
  said = time.monotonic()
  for done, mesh in enumerate(tried):
    if time.monotonic() - said > 10:
      said = time.monotonic()
      print(f"search: {done} of {len(tried)} meshes counted", flush=True)
    on = AbstractMesh(dataclasses.astuple(mesh), MESH_AXES)
    held = state_bytes(abstract, state_shardings(e, abstract, on))["total"]
    for times, remat in itertools.product(BATCHES, REMATS):
      batch = round(e.batch_size * times)
      ways = mesh.data * mesh.fsdp * e.accumulate
      if batch < 1 or batch % ways:
        continue
      share = batch / e.accumulate / (mesh.data * mesh.fsdp * mesh.seq * mesh.tensor)
      size = held + kept[remat] * share
      if size <= FULL * memory.hbm_bytes:
        run = dataclasses.replace(with_remat(e, remat), batch_size=batch)
        sizes = dataclasses.asdict(mesh)
        sent = Sent.counted(run, clip, sizes)
        work = step_work(run, clip, sizes, kept[remat] * share, sent)
        seconds = sum(roofline.estimate(work, kind).values()) / batch
        yield Candidate(mesh, batch, remat, size, seconds)


def meshes(number: int, tokens: int, heads: int) -> Iterator[MeshConfig]:
  """Every mesh of this number of devices that splits tokens and heads evenly."""
  divisors = [n for n in range(1, number + 1) if number % n == 0]
  for seq, tensor in itertools.product(divisors, divisors):
    if number % (seq * tensor) or tokens % seq or heads % tensor:
      continue
    rest = number // (seq * tensor)
    for fsdp in (n for n in divisors if rest % n == 0):
      yield MeshConfig(data=rest // fsdp, fsdp=fsdp, seq=seq, tensor=tensor)
