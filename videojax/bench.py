"""How fast the real training step runs here, with the conditions that make it a number."""

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from videojax import files, optim
from videojax.config import Experiment
from videojax.data import stack_examples
from videojax.models.attention import choose_kernel
from videojax.program import Counts, Program, compiled_bytes, next_dispatch, put_replicated
from videojax.scaling import flops
from videojax.sharding import make_mesh

WARMUP, TIMED = 3, 10


def bench(experiment: Experiment, workdir: Path, *, trace: bool) -> dict[str, Any]:
  """Times the training step on the measured data source; writes bench.json.

  Args:
    experiment: resolved.
    workdir: for bench.json and the trace.
    trace: keep a profile (workdir/trace) of three further steps.
  Returns: the content of bench.json. seconds_per_step is the median of TIMED dispatches, each
    waited for, over the steps in one; compile excluded.
  """
  e = experiment
  mesh = make_mesh(e.mesh)
  program = Program(e, mesh)
  name, task = next(iter(program.tasks.items()))
  with jax.set_mesh(mesh):
    state = program.create(e.seed)
    clock = time.perf_counter()
    step = program.steps[name]
    compile_s = time.perf_counter() - clock
    rows = stack_examples(task.source, range(e.batch_size))
    _, batch, scalars = next_dispatch(itertools.repeat((name, rows)), program.most, program)
    key = put_replicated(jax.random.key(e.seed), mesh)
    schedule = put_replicated(optim.schedule(e.optim, e.total_steps), mesh)

    def once() -> float:
      nonlocal state
      clock = time.perf_counter()
      state, metrics = step(state, batch, key, schedule, *scalars)
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
  median, counts = statistics.median(seconds), Counts.of(e, task)
  peak = flops.peak_flops_per_s(device.device_kind)
  model_flops_per_s = counts.flops * e.batch_size / median
  written = {
    "seconds_per_step": median,
    "seconds": seconds,
    "compile_seconds": compile_s,
    "tokens_per_s": counts.tokens * e.batch_size / median,
    "model_flops_per_s": model_flops_per_s,
    "mfu": model_flops_per_s / (peak * mesh.size) if peak else None,
    "step_bytes_per_device": compiled_bytes(step),
    "conditions": {
      "device": f"{mesh.size} x {device.device_kind}", "mesh": dict(mesh.shape),
      "dtype": config.dtype, "batch_size": e.batch_size, "accumulate": e.accumulate,
      "clip_shape": list(task.source.shape), "remat": config.remat, "scan": config.scan,
      "attention_kernel": choose_kernel(
        config.kernel, platform=device.platform, dtype=config.dtype, head_dim=config.head_dim
      ),
      "steps_per_dispatch": program.most,
      "optimizer": e.optim.name, "ema": list(e.ema), "jax": jax.__version__,
      "timed_steps": TIMED, "flops_convention": "3 x forward",
    },
  }  # fmt: skip
  files.write_json(workdir / "bench.json", written)
  show(written)
  print(f"{workdir}/bench.json")
  return written


def show(written: dict[str, Any]) -> None:
  console = Console(soft_wrap=True, highlight=False)
  seconds = written["seconds"]
  console.print(
    f"{written['seconds_per_step'] * 1e3:.1f} ms a step (median of {len(seconds)}, "
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
