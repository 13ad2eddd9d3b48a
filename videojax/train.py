"""The only training loop. Read `train` top to bottom."""

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from videojax import rundir
from videojax.checkpoint import Checkpointer
from videojax.config import Experiment
from videojax.data import Loader
from videojax.errors import require_extra
from videojax.evaluate import Evaluator
from videojax.integrity import params_sha256
from videojax.log import Log
from videojax.models.attention import choose_kernel
from videojax.program import (
  Counts,
  check_divides,
  compile_step,
  compiled_bytes,
  create_state,
  ema_name,
  make_update,
  parameters_by_part,
  put_replicated,
  state_shardings,
  task_products,
)
from videojax.records import SCHEMA, FrozenLossRecord, Result, Seconds
from videojax.resume import restore_or_create
from videojax.sample import write_samples
from videojax.scaling import flops
from videojax.sharding import make_mesh, put_batch
from videojax.state import TrainState
from videojax.task import Task


class Diverged(RuntimeError):
  """The loss is no longer finite."""


class Preempted(Exception):
  """SIGTERM came; the state is saved."""


def train(
  experiment: Experiment, workdir: Path, *, devices: list[jax.Device] | None = None
) -> Result | None:
  """Runs an experiment to its end, from wherever the run in `workdir` stands.

  Args:
    experiment: resolved.
    workdir: run directory, made if it is not there.
    devices: None: all.
  Returns: the record, also written as result.json; None when the run was already finished.
  Raises:
    ConfigError: a setting that cannot be used; CheckpointError: no sound checkpoint, a full disk.
    Diverged: the loss is not finite. Preempted: SIGTERM.
  """
  e = experiment
  tasks = {name: e.task(name) for name in e.data}
  mesh = make_mesh(e.mesh, devices)
  check_divides(e, mesh)
  if e.tensorboard:
    require_extra("tensorboardX", "tensorboard")
  rundir.open_run(workdir, e)
  main = jax.process_index() == 0

  tx, gammas = make_update(e)
  create = functools.partial(create_state, e, tx)
  shardings = state_shardings(e.model, jax.eval_shape(create), mesh)
  checkpoints = Checkpointer(
    workdir / "checkpoints",
    keep_last=e.checkpoint.keep_last, keep_every_steps=e.checkpoint.keep_every_steps,
  )  # fmt: skip
  with jax.set_mesh(mesh), checkpoints:
    state, seconds, notes = restore_or_create(e, create, shardings, checkpoints)
    start = int(jax.device_get(state.step))
    if start >= e.total_steps and (workdir / "result.json").exists():
      return None
    log = Log(
      workdir, total_steps=e.total_steps, start=start, tensorboard=e.tensorboard, quiet=not main
    )
    with log, terminated() as stop:
      for line in (*notes, *describe_run(e, tasks, mesh, start)):
        log.say(line)
      evaluator = Evaluator(e, mesh)
      loader = Loader(
        {name: task.source for name, task in tasks.items()},
        [e.data[name].weight for name in tasks],
        batch_size=e.batch_size, seed=e.seed, rows=local_rows(e.batch_size, mesh), config=e.loader,
      )  # fmt: skip

      clock = time.perf_counter()
      steps = {
        name: compile_step(e, task, tx, gammas, shardings, state, mesh)
        for name, task in tasks.items()
      }
      peak_bytes = max(compiled_bytes(step) for step in steps.values())
      seconds["compile"] += time.perf_counter() - clock
      init_loss = initial_loss(workdir, evaluator, state, seconds)
      counts = {name: Counts.of(e, task) for name, task in tasks.items()}
      peak = flops.peak_flops_per_s(jax.devices()[0].device_kind)
      key = put_replicated(jax.random.key(e.seed), mesh)

      pending: tuple[int, str, Any] | None = None  # metrics are fetched one step late
      window = Window()

      def fetch() -> None:
        nonlocal pending
        if pending is None:
          return
        step, name, metrics = pending
        pending = None
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
          raise Diverged(diverged_message(step, window.last_finite, checkpoints))
        window.done(step, e.batch_size * counts[name].tokens, e.batch_size * counts[name].flops)
        if step % e.log_every_steps == 0 or step == e.total_steps:
          log.metrics(step, values | window.rates(peak, mesh.size))

      batches = loader.batches(start)
      with jax.transfer_guard("disallow"):
        clock = time.perf_counter()
        for step in range(start + 1, e.total_steps + 1):
          waiting = time.perf_counter()
          name, rows = next(batches)
          batch = put_batch(rows, mesh, e.batch_size)
          waited = time.perf_counter() - waiting
          seconds["data_wait"] += waited
          window.waited(waited)
          state, metrics = steps[name](state, batch, key)
          fetch()
          pending = step, name, metrics
          last = step == e.total_steps
          if step % e.checkpoint.save_every_steps == 0 or last or stop():
            fetch()  # a checkpoint starts only after its loss was seen finite
            seconds["step"] += time.perf_counter() - clock
            clock = time.perf_counter()
            checkpoints.save(step, state, {"seconds": dict(seconds)})
            seconds["save"] += time.perf_counter() - clock
            clock = time.perf_counter()
          if stop() and not last:
            checkpoints.wait()
            raise Preempted(f"stopped by SIGTERM after step {step}, which is saved")
      seconds["step"] -= seconds["data_wait"]

      log.say("evaluating")
      clock = time.perf_counter()
      record = measure(evaluator, e, state, init_loss)
      if main:
        samples(evaluator, e, state, workdir)
      checkpoints.wait()
      seconds["evaluate"] += time.perf_counter() - clock
      result = make_result(e, tasks, counts, loader, state, seconds, peak_bytes, record)
      if main:
        rundir.write_json(workdir / "result.json", result.to_json())
        for line in describe_result(result, workdir):
          log.say(line)
      return result


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
  """Rows of the global batch that this process's devices hold."""
  sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
  spans = {
    s[0].indices(batch_size)[:2]
    for s in sharding.addressable_devices_indices_map((batch_size,)).values()
  }
  return np.concatenate([np.arange(a, b) for a, b in sorted(spans)])


@contextlib.contextmanager
def terminated() -> Iterator[Callable[[], bool]]:
  """A function that says whether SIGTERM came; the default handler is back afterwards."""
  asked = False

  def handle(*_: object) -> None:
    nonlocal asked
    asked = True

  try:
    before = signal.signal(signal.SIGTERM, handle)
  except ValueError:  # not in the main thread, where signals do not arrive
    yield lambda: False
    return
  try:
    yield lambda: asked
  finally:
    signal.signal(signal.SIGTERM, before)


class Window:
  """Rates since the last logged step."""

  def __init__(self) -> None:
    self.last_finite = 0
    self._reset()

  def _reset(self) -> None:
    self.clock, self.steps, self.tokens, self.flops, self.wait = time.perf_counter(), 0, 0, 0, 0.0

  def waited(self, seconds: float) -> None:
    self.wait += seconds

  def done(self, step: int, tokens: int, flops: int) -> None:
    self.last_finite = step
    self.steps += 1
    self.tokens += tokens
    self.flops += flops

  def rates(self, peak: float | None, devices: int) -> dict[str, float]:
    seconds = time.perf_counter() - self.clock
    rates = {
      "tokens_per_s": self.tokens / seconds,
      "model_flops_per_s": self.flops / seconds,
      "step_s": seconds / self.steps,
      "data_wait_s": self.wait / self.steps,
    }
    if peak is not None:
      rates["mfu"] = self.flops / seconds / (peak * devices)
    self._reset()
    return rates


def diverged_message(step: int, last_finite: int, checkpoints: Checkpointer) -> str:
  steps = checkpoints.steps()
  saved = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint"
  return (
    f"the loss is not finite at step {step}; it was last finite at step {last_finite}, and {saved} "
    f"in {checkpoints.directory}. Lower the learning rate, or look at the data of that step."
  )


def initial_loss(
  workdir: Path, evaluator: Evaluator, state: TrainState, seconds: dict[str, float]
) -> float:
  """The frozen loss before the first step, kept in the run directory for resumed runs."""
  path = workdir / "initial.json"
  if path.exists():
    return rundir.read_json(path)["frozen_loss"]
  if int(jax.device_get(state.step)) > 0:
    return float("nan")  # a branch: its beginning lies in the trunk
  clock = time.perf_counter()
  value = evaluator.frozen_loss(state.params).mean
  seconds["evaluate"] += time.perf_counter() - clock
  if jax.process_index() == 0:
    rundir.write_json(path, {"frozen_loss": value})
  return value


def measure(
  evaluator: Evaluator, e: Experiment, state: TrainState, init_loss: float
) -> tuple[FrozenLossRecord, dict, dict]:
  """All measures of the final weights."""
  ema = state.ema_params(ema_name(e.ema[0]))
  final, ignorance = evaluator.frozen_loss(ema), evaluator.ignorance()
  record = FrozenLossRecord(
    init=init_loss, final=final.mean, stderr=final.stderr,
    raw=evaluator.frozen_loss(state.params).mean, **ignorance,
    by_level=final.by_level, velocity=final.velocity, dynamics=final.dynamics,
    variance=evaluator.reference.total, clips=len(final.per_example),
    per_example=final.per_example,
  )  # fmt: skip
  return record, *evaluator.coherence(ema)


def samples(evaluator: Evaluator, e: Experiment, state: TrainState, workdir: Path) -> None:
  """Sampled clips of the first evaluation split, EMA weights, as files."""
  video, example = evaluator.samples(evaluator.first, state.ema_params(ema_name(e.ema[0])), 8)
  write_samples(
    workdir / "samples", video, example,
    known_frames=e.condition.known_frames, step=e.total_steps,
  )  # fmt: skip


def make_result(
  e: Experiment,
  tasks: dict[str, Task],
  counts: dict[str, Counts],
  loader: Loader,
  state: TrainState,
  seconds: dict[str, float],
  peak_bytes: int,
  record: tuple[FrozenLossRecord, dict, dict],
) -> Result:
  """Puts the record together."""
  tokens, by_part = 0, dict[str, float]()
  for kind, (name, task) in enumerate(tasks.items()):
    clips = e.batch_size * steps_of_kind(loader, e.total_steps, kind)
    tokens += clips * counts[name].tokens
    for part, value in flops.step(task_products(e, task)).items():
      by_part[part] = by_part.setdefault(part, 0.0) + float(clips * value)
  frozen_loss, coherence, stderr = record
  stats = jax.local_devices()[0].memory_stats() or {}
  return Result(
    schema=SCHEMA, params_sha256=params_sha256(state.params),
    parameters=parameters_by_part(e.model), steps=e.total_steps,
    clips=e.batch_size * e.total_steps, tokens=tokens, flops=by_part, seconds=Seconds(**seconds),
    peak_bytes=int(stats["peak_bytes_in_use"]) if "peak_bytes_in_use" in stats else peak_bytes,
    frozen_loss=frozen_loss, coherence=coherence, coherence_stderr=stderr,
  )  # fmt: skip


def steps_of_kind(loader: Loader, steps: int, kind: int) -> int:
  mixture = loader.mixture
  cycles, offset = divmod(steps, len(mixture.order))
  return int(cycles * mixture.weights[kind] + mixture.earlier[offset, kind])


def describe_run(e: Experiment, tasks: dict[str, Task], mesh: Mesh, start: int) -> Iterator[str]:
  """What is about to run, in a few lines."""
  device, config = jax.devices()[0], e.model.config
  kernel = choose_kernel(
    config.kernel, platform=device.platform, dtype=config.dtype, head_dim=config.head_dim
  )
  yield (
    f"{e.model.name}: {parameters_by_part(e.model)['total']:,} parameters, {config.dtype}, "
    f"attention kernel {kernel}; {mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}"
  )
  for name, task in tasks.items():
    frames, height, width, _ = task.source.shape
    yield (
      f"{name}: {frames} frames of {height}x{width}, {Counts.of(e, task).tokens} tokens a clip, "
      f"{flops.step(task_products(e, task))['total'] / 1e9:.2f} GFLOP a clip and step"
    )
  yield f"steps {start + 1} to {e.total_steps}, {e.batch_size} clips each"


def describe_result(result: Result, workdir: Path) -> Iterator[str]:
  """The numbers that mean something, in a few lines."""
  loss = result.frozen_loss
  yield (
    f"frozen loss {loss.final:.4f} +- {loss.stderr:.4f} of the data's variance "
    f"(initial {loss.init:.3f}, zero model {loss.zero_model:.3f}, Wiener {loss.wiener:.3f})"
  )
  for name, row in result.coherence.items():
    yield f"  {name:28s}" + "  ".join(f"{k} {v:.4g}" for k, v in row.items())
  yield f"{workdir}/result.json, {workdir}/samples/"
