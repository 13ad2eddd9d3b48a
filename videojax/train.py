"""The only training loop. Read `train` top to bottom."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from videojax import optim
from videojax.config import Experiment, program_of, to_json
from videojax.data import Loader, Mixture
from videojax.errors import NotFiniteError, require_extra
from videojax.evaluate import Evaluator
from videojax.host import agreement, distributed
from videojax.host.stop import asked_to_stop
from videojax.io import files, media
from videojax.io.checkpoint import Checkpointer
from videojax.io.integrity import params_sha256
from videojax.io.log import Log, phase
from videojax.io.records import SCHEMA, ClipRecord, Result, Seconds
from videojax.optim import merge
from videojax.runs import rundir
from videojax.runs.program import (
  Counts,
  Program,
  check_memory,
  next_dispatch,
  parameters_by_part,
  put_replicated,
)
from videojax.runs.resume import restore_or_create
from videojax.runs.run_state import (
  evaluated,
)
from videojax.sample import clip_flops, write_samples
from videojax.scaling import flops
from videojax.sharding import fallbacks, local_rows, make_mesh, path_name
from videojax.state import TrainState
from videojax.task import Task, check_cached


class Diverged(NotFiniteError):
  """The loss or the gradient is no longer finite."""


class Preempted(Exception):
  """SIGTERM, Ctrl-C or a time limit stopped the run; its state is saved."""


def train(
  experiment: Experiment,
  workdir: Path,
  *,
  devices: list[jax.Device] | None = None,
  program: Program | None = None,
  trunk: tuple[Path, int] | None = None,
  deadline: float = math.inf,
  quiet: bool = False,
) -> Result | None:
  """Runs an experiment to its end, resuming from the newest checkpoint in `workdir`, if any.

  Args:
    experiment: resolved.
    workdir: run directory; created if missing.
    devices: None: all.
    program: of a run that differs only in config.AS_DATA, already compiled; None: compile one.
    trunk: (run directory, step) of a shorter run that is identical up to that step.
    deadline: time.perf_counter() after which the run saves and stops, as on SIGTERM.
    quiet: print nothing on the console.
  Returns: the record, also written to result.json; None if the run was already finished.
  Raises:
    ConfigError: a setting is invalid; CheckpointError: no sound checkpoint, or a full disk.
    NotFiniteError: the loss or gradient (Diverged), a sampled clip or a measure is not finite.
    Preempted: SIGTERM, Ctrl-C or the deadline.
  """
  e = experiment.on_devices(len(devices or jax.devices()))
  rundir.check_run(workdir, e)
  media.check_writer()
  if e.tensorboard:
    require_extra("tensorboardX", "tensorboard")
  program = program or Program(e, make_mesh(e.mesh, devices))
  assert program.key == program_of(e)
  check_memory(program)
  mesh, tasks = program.mesh, program.tasks
  main = jax.process_index() == 0
  checkpoints = Checkpointer(
    workdir / "checkpoints",
    keep_last=e.checkpoint.keep_last, keep_every_steps=e.checkpoint.keep_every_steps,
    keep_steps=(e.trunk_end,) if e.trunk_end else (),
  )  # fmt: skip
  with jax.set_mesh(mesh), checkpoints:
    state, seconds, notes = restore_or_create(e, program, checkpoints, trunk)
    start = int(jax.device_get(state.step))
    if start >= e.total_steps and agreement.first(
      main and finished_steps(workdir) == e.total_steps
    ):
      return None
    evaluator = program.evaluator
    check_cached([*tasks.values(), *evaluator.tasks.values()], state.params)
    evaluator.check(merge(program.abstract.trainable, program.abstract.frozen))
    if main:  # only now is it known that the run can start
      rundir.open_run(workdir, e)
    log = Log(
      workdir, total_steps=e.total_steps, start=start, tensorboard=e.tensorboard,
      writes=main, quiet=quiet,
    )  # fmt: skip
    with log, contextlib.ExitStack() as handlers:
      catch = lambda: agreement.agreed(handlers.enter_context(asked_to_stop(deadline)), mesh)
      # Before and after the steps there is nothing to save: a single process ends immediately.
      stop = catch() if distributed.several() else None
      for line in (*notes, *describe_run(e, tasks, mesh, start), *evaluator.left_out):
        log.say(line)
      loader = Loader(
        {name: task.source for name, task in tasks.items()},
        [e.data[name].weight for name in tasks],
        batch_size=e.batch_size, seed=e.seed, rows=local_rows(e.batch_size, mesh), config=e.loader,
      )  # fmt: skip

      clock = time.perf_counter()
      with phase("compiling"):
        steps = program.compile()
      for flag in program.unknown_flags:
        log.say(f"xla_flags: this compiler does not know {flag}, which is ignored")
      seconds["compile"] += time.perf_counter() - clock
      clock = time.perf_counter()
      init_loss = initial_loss(workdir, evaluator, state)
      seconds["evaluate"] += time.perf_counter() - clock
      counts = {name: Counts.of(task) for name, task in tasks.items()}
      peak = flops.peak_flops_per_s(jax.devices()[0].device_kind)
      key = put_replicated(jax.random.key(e.seed), mesh)
      schedule = put_replicated(optim.schedule(e.optim, e.total_steps), mesh)

      # Metrics are fetched one dispatch late.
      pending: tuple[int, int, str, dict[str, jax.Array]] | None = None
      window = Window(start)

      def fetch() -> None:
        nonlocal pending
        if pending is None:
          return
        before, number, name, metrics = pending
        pending = None
        rows = {k: np.atleast_1d(np.asarray(v)) for k, v in jax.device_get(metrics).items()}
        due: dict[int, dict[str, float]] = {}
        for i, step in enumerate(range(before + 1, before + number + 1)):
          values = {k: float(v[i]) for k, v in rows.items()}
          if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            raise Diverged(diverged_message(step, window.last_finite, checkpoints))
          window.done(step, e.batch_size * counts[name].tokens, e.batch_size * counts[name].flops)
          if step % e.log_every_steps == 0 or step == e.total_steps:
            due[step] = values
        rates = window.rates(peak, mesh.size) if due else {}
        for step, values in due.items():
          log.metrics(step, values | rates)

      batches, stop = loader.batches(start), stop or catch()
      with jax.transfer_guard("disallow" if jax.process_count() == 1 else "allow"):
        clock = time.perf_counter()
        for before, number in dispatches(e, loader.mixture, start):
          waiting = time.perf_counter()
          name, batch, scalars = next_dispatch(batches, number, program)
          waited = time.perf_counter() - waiting
          seconds["data_wait"] += waited
          window.waited(waited)
          state, metrics = steps[name](state, batch, key, schedule, *scalars)
          fetch()
          pending = before, number, name, metrics
          step, stopping = before + number, stop()  # asked once, so that a stop always saves
          if save_is_due(e, step) or stopping:
            fetch()  # a step is saved only after its loss is known to be finite
            seconds["step"] += time.perf_counter() - clock
            clock = time.perf_counter()
            with jax.transfer_guard("allow"):  # it copies the state to the host
              checkpoints.save(step, state, {"seconds": dict(seconds)})
            seconds["save"] += time.perf_counter() - clock
            clock = time.perf_counter()
          if stopping:
            break
      checkpoints.wait()  # raises for a full disk, before the evaluation
      if why := stop():
        done = int(jax.device_get(state.step))
        raise Preempted(f"stopped by {why} after step {done}, which is saved")
      seconds["step"] -= seconds["data_wait"]
      if not distributed.several():
        handlers.close()

      log.say("evaluating")
      clock = time.perf_counter()
      measured = evaluator.record(evaluated(e, state), state.params, init_loss)
      samples(evaluator, e, state, workdir)
      seconds["evaluate"] += time.perf_counter() - clock
      result = make_result(e, tasks, counts, loader, state, seconds, program.peak_bytes(), measured)
      if main:
        files.write_json(workdir / "result.json", result.to_json())
        for line in (*evaluator.lines(measured), *describe_result(result, workdir)):
          log.say(line)
      return result


def save_is_due(e: Experiment, step: int) -> bool:
  """Whether a checkpoint is due after this many steps."""
  return step % e.checkpoint.save_every_steps == 0 or step in (e.trunk_end, e.total_steps)


def dispatches(e: Experiment, mixture: Mixture, start: int) -> Iterator[tuple[int, int]]:
  """Yields (steps done before, updates) for each call of the compiled step to the end of the run.

  All batches of a call are of one kind, and a call ends where a checkpoint is due.
  """
  before = start
  while before < e.total_steps:
    after = before + 1
    while (
      after - before < e.steps_per_dispatch
      and after < e.total_steps
      and not save_is_due(e, after)
      and mixture.at(after)[0] == mixture.at(before)[0]
    ):
      after += 1
    yield before, after - before
    before = after


def finished_steps(workdir: Path) -> int | None:
  """Steps in the result.json of `workdir`; None if it is missing or damaged, to be rewritten."""
  sound = lambda value: isinstance(value, dict) and isinstance(value.get("steps"), int)
  result = rundir.read_sound(workdir / "result.json", sound)
  return result and result["steps"]


class Window:
  """Throughput since the last logged step."""

  def __init__(self, start: int) -> None:
    self.last_finite = start
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
  saved = f"The last good checkpoint is step {steps[-1]}" if steps else "There is no checkpoint"
  return (
    f"loss or gradient is not finite at step {step}; both were finite up to step {last_finite}. "
    f"{saved} in {checkpoints.directory}. Lower the learning rate, or inspect that step's data."
  )


def initial_loss(workdir: Path, evaluator: Evaluator, state: TrainState) -> float:
  """The frozen loss before the first step, kept in the run directory for resumed runs."""
  path, protocol = workdir / "initial.json", to_json(evaluator.config)
  written = rundir.read_sound(path, _is_initial) if jax.process_index() == 0 else None
  if agreement.first(written is not None):
    if written is None or written["evaluate"] != protocol:  # not comparable
      return float("nan")
    return written["frozen_loss"]
  if int(jax.device_get(state.step)) > 0:
    return float("nan")  # a branch, which started in the trunk
  value = evaluator.initial(state.params)
  if jax.process_index() == 0:
    files.write_json(path, {"frozen_loss": value, "evaluate": protocol})
  return value


def _is_initial(value: Any) -> bool:
  """Whether this is the content of initial.json."""
  known = isinstance(value, dict) and {"frozen_loss", "evaluate"} <= value.keys()
  return known and isinstance(value["frozen_loss"], float | int)


def samples(evaluator: Evaluator, e: Experiment, state: TrainState, workdir: Path) -> None:
  """Writes clips of the main split, sampled with the EMA weights; all processes sample."""
  video, example = evaluator.samples(evaluator.first, evaluated(e, state), 8)
  if jax.process_index() == 0:
    given = evaluator.train_task.given
    how: dict[str, Any] = dict(given=given, step=e.total_steps, made=evaluator.made)
    write_samples(workdir / "samples", video, example, **how)


def make_result(
  e: Experiment,
  tasks: dict[str, Task],
  counts: dict[str, Counts],
  loader: Loader,
  state: TrainState,
  seconds: dict[str, float],
  peak_bytes: int,
  measured: dict[str, Any],
) -> Result:
  """The record of a finished run."""
  tokens, by_part = 0, dict[str, float]()
  for kind, (name, task) in enumerate(tasks.items()):
    clips = e.batch_size * loader.mixture.steps(e.total_steps, kind)
    tokens += clips * counts[name].tokens
    for part, value in flops.step(task.products()).items():
      by_part[part] = by_part.setdefault(part, 0.0) + float(clips * value)
  stats = jax.local_devices()[0].memory_stats() or {}
  return Result(
    schema=SCHEMA, params_sha256=params_sha256(state.params),
    parameters=parameters_by_part(e.model), steps=e.total_steps,
    clips=e.batch_size * e.total_steps, tokens=tokens, flops=by_part, seconds=Seconds(**seconds),
    peak_bytes=int(stats["peak_bytes_in_use"]) if "peak_bytes_in_use" in stats else peak_bytes,
    clip=None if e.learns_codec else clip_record(e, next(iter(tasks.values()))), **measured,
  )  # fmt: skip


def clip_record(e: Experiment, task: Task) -> ClipRecord:
  """What a clip costs, beside training the model on it."""
  made = clip_flops(task, e.sampler, e.guidance)
  return ClipRecord(
    seconds=task.source.shape[0] / task.fps, encode_flops=task.encode_flops,
    denoise_flops=made["denoise"], decode_flops=made["decode"],
  )  # fmt: skip


def describe_run(e: Experiment, tasks: dict[str, Task], mesh: Mesh, start: int) -> Iterator[str]:
  """A few lines about a run at its start."""
  device, config = jax.devices()[0], e.model.config
  yield (
    f"{e.model.name}: {parameters_by_part(e.model)['total']:,} parameters, {config.dtype}; "
    f"{mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}; "
    + (
      f"attention {e.model.module.describe(config, mesh)}" if not e.learns_codec else "autoencoder"
    )
  )
  if e.codec.network is not None:
    number, path = _size(e.codec.abstract_params), e.codec.config.weights
    whose = "NO WEIGHTS GIVEN: random weights, for tests only" if path is None else path
    yield f"codec {e.codec.name}: {number:,} parameters, frozen; {whose}"
  for name, task in tasks.items():
    frames, height, width, _ = task.source.shape
    yield (
      f"{name}: {frames} frames of {height}x{width}, {Counts.of(task).tokens} tokens per clip, "
      f"{flops.step(task.products())['total'] / 1e9:.2f} GFLOP per clip and step"
    )
  info, shapes = e.model.info, e.model.abstract_params
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    for line in fallbacks(info[path_name(path)].axes, leaf.shape, mesh):
      yield f"{path_name(path)}: {line}"
  if start < e.total_steps:
    yield f"steps {start + 1} to {e.total_steps}, {e.batch_size} clips each"


def _size(params: dict) -> int:
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def describe_result(result: Result, workdir: Path) -> Iterator[str]:
  """The coherence of samples, and where the record is."""
  for name, row in result.coherence.items():
    yield f"  {name:28s}" + "  ".join(f"{k} {v:.4g}" for k, v in row.items())
  yield f"{workdir}/result.json, {workdir}/samples/"
