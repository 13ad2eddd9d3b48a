"""Times the real training step on this machine, and records the conditions of the measurement."""

import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from videojax import optim
from videojax.config import Experiment
from videojax.data import stack_examples
from videojax.io import files
from videojax.plan.step_work import Clip, Sent, step_work
from videojax.runs.program import Counts, Program, compile_step, compiled_bytes
from videojax.scaling import flops, roofline
from videojax.sharding import make_mesh
from videojax.task import Task

WARMUP, TIMED = 3, 10


def bench(
  experiment: Experiment, workdir: Path, *, trace: bool, replicas: int | None = None
) -> dict[str, Any]:
  """Times the training step on the measured data source; writes bench.json.

  Args:
    experiment: resolved.
    workdir: for bench.json and the trace.
    trace: write a profile of three further steps to workdir/trace.
    replicas: number of runs, which differ in seed, in one step with vmap; None: one, as in
      training. A single small model leaves a large chip idle.
  Returns: the content of bench.json. seconds_per_step is the median over TIMED dispatches, each
    waited for, divided by the steps in a dispatch; compilation is excluded.
  """
  e = experiment.on_devices(jax.device_count())
  mesh = make_mesh(e.mesh)
  program = Program(e, mesh)
  name, task = next(iter(program.tasks.items()))
  with jax.set_mesh(mesh):
    clock = time.perf_counter()
    step = compile_step(program, task, replicas)
    compile_s = time.perf_counter() - clock
    arguments = make_arguments(program, task, replicas)
    state, *rest = jax.device_put(arguments, step.input_shardings[0])

    def once() -> float:
      nonlocal state
      clock = time.perf_counter()
      state, metrics = step(state, *rest)
      jax.block_until_ready((state, metrics))
      return (time.perf_counter() - clock) / program.most

    for _ in range(WARMUP):
      once()
    seconds = [once() for _ in range(TIMED)]
    if trace:
      with jax.profiler.trace(str(workdir / "trace")):
        for _ in range(3):
          once()

  device, config = jax.devices()[0], e.model.config
  median, counts = statistics.median(seconds), Counts.of(task)
  peak = flops.peak_flops_per_s(device.device_kind)
  clips = e.batch_size * (replicas or 1)
  model_flops_per_s = counts.flops * clips / median
  written = {
    "seconds_per_step": median,
    "seconds": seconds,
    "compile_seconds": compile_s,
    "tokens_per_s": counts.tokens * clips / median,
    "model_flops_per_s": model_flops_per_s,
    "mfu": model_flops_per_s / (peak * mesh.size) if peak else None,
    "estimate_seconds": estimate(e, mesh),
    "step_bytes_per_device": compiled_bytes(step),
    "conditions": {
      "device": f"{mesh.size} x {device.device_kind}", "mesh": dict(mesh.shape),
      "dtype": config.dtype, "batch_size": e.batch_size, "accumulate": e.accumulate,
      "clip_shape": list(task.source.shape), "remat": config.remat, "scan": e.model.scan,
      "attention": e.model.module.describe(config, mesh),
      "xla_flags": list(e.xla_flags), "unknown_flags": program.unknown_flags,
      "steps_per_dispatch": program.most, "replicas": replicas or 1,
      "optimizer": e.optim.name, "ema": list(e.ema), "jax": jax.__version__,
      "timed_steps": TIMED, "flops_convention": "3 x forward",
    },
  }  # fmt: skip
  if jax.process_index() == 0:
    files.write_json(workdir / "bench.json", written)
    show(written)
    print(f"{workdir}/bench.json")
  return written


def make_arguments(program: Program, task: Task, replicas: int | None) -> tuple[Any, ...]:
  """Arguments of the compiled step: state, batch, key, schedule; their number, if several steps."""
  e, most = program.experiment, program.most
  stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

  def own(replica: int) -> tuple[Any, ...]:
    rows = stack_examples(task.source, range(replica * e.batch_size, (replica + 1) * e.batch_size))
    batch = stack([rows] * most) if most > 1 else rows
    return program.create(e.seed + replica), batch, jax.random.key(e.seed + replica)

  each = own(0) if replicas is None else stack([own(replica) for replica in range(replicas)])
  number = (np.int32(most),) if most > 1 else ()
  return *each, optim.schedule(e.optim, e.total_steps), *number


def estimate(e: Experiment, mesh: Mesh) -> float | None:
  """Seconds per step as in `plan`; None for an unknown chip, or several (unknown traffic)."""
  kind = jax.devices()[0].device_kind
  if mesh.size > 1 or roofline.memory(kind) is None:
    return None
  work = step_work(e, Clip.of(e), mesh.shape, 0.0, Sent(0.0, 0.0))
  return sum(roofline.estimate(work, kind).values())


def show(written: dict[str, Any]) -> None:
  console = Console(soft_wrap=True, highlight=False)
  seconds = written["seconds"]
  console.print(
    f"{written['seconds_per_step'] * 1e3:.1f} ms per step (median of {len(seconds)}, "
    f"{min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f}; compile "
    f"{written['compile_seconds']:.1f} s not counted)"
  )
  mfu = written["mfu"]
  console.print(
    f"{written['tokens_per_s']:,.0f} tokens/s, {written['model_flops_per_s'] / 1e12:.4g} model "
    f"TFLOP/s, MFU " + (f"{mfu:.1%}" if mfu else "unknown (no peak in the table for this device)")
  )
  console.print(
    ", ".join(f"{key} {value}" for key, value in written["conditions"].items()), markup=False
  )
