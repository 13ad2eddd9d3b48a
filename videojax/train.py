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
from videojax.io.records import SCHEMA, FrozenLossRecord, Result, Seconds, SplitLoss
from videojax.measures.frozen import FrozenLoss
from videojax.optim import merge
from videojax.runs import rundir
from videojax.runs.program import (
  Counts,
  Program,
  check_memory,
  evaluated,
  next_dispatch,
  parameters_by_part,
  put_replicated,
)
from videojax.runs.resume import restore_or_create
from videojax.sample import write_samples
from videojax.scaling import flops
from videojax.sharding import fallbacks, local_rows, make_mesh, path_name
from videojax.state import TrainState
from videojax.task import Task


class Diverged(NotFiniteError):
  """The loss is no longer finite."""


class Preempted(Exception):
  """SIGTERM, Ctrl-C or a time limit; the state is saved."""


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
  """Runs an experiment to its end, from wherever the run in `workdir` stands.

  Args:
    experiment: resolved.
    workdir: run directory, made if it is not there.
    devices: None: all.
    program: of a run that differs in data alone (config.AS_DATA), already compiled; None: its own.
    trunk: (run directory, step) of a shorter run that is the same one up to that step.
    deadline: time.perf_counter() after which it stops and saves, as on SIGTERM.
    quiet: nothing on the console.
  Returns: the record, also written as result.json; None when the run was already finished.
  Raises:
    ConfigError: a setting that cannot be used; CheckpointError: no sound checkpoint, a full disk.
    NotFiniteError: loss or gradient (Diverged), sampled clips or a measure of the final weights.
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
    evaluator.check(merge(program.abstract.trainable, program.abstract.frozen))
    if main:  # only now is it known that the run can start
      rundir.open_run(workdir, e)
    log = Log(
      workdir, total_steps=e.total_steps, start=start, tensorboard=e.tensorboard,
      writes=main, quiet=quiet,
    )  # fmt: skip
    with log, contextlib.ExitStack() as handlers:
      catch = lambda: agreement.agreed(handlers.enter_context(asked_to_stop(deadline)), mesh)
      # Before and after the steps nothing is lost: one process alone then ends at once.
      stop = catch() if distributed.several() else None
      for line in (*notes, *describe_run(e, tasks, mesh, start)):
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
        log.say(f"xla_flags: this compiler does not know {flag}; left out")
      seconds["compile"] += time.perf_counter() - clock
      clock = time.perf_counter()
      init_loss = initial_loss(workdir, evaluator, state)
      seconds["evaluate"] += time.perf_counter() - clock
      counts = {name: Counts.of(e, task) for name, task in tasks.items()}
      peak = flops.peak_flops_per_s(jax.devices()[0].device_kind)
      key = put_replicated(jax.random.key(e.seed), mesh)
      schedule = put_replicated(optim.schedule(e.optim, e.total_steps), mesh)

      pending: tuple[int, int, str, Any] | None = None  # metrics are fetched one dispatch late
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
          step, stopping = before + number, stop()  # asked once: what stops is saved
          if save_is_due(e, step) or stopping:
            fetch()  # a checkpoint starts only after its loss was seen finite
            seconds["step"] += time.perf_counter() - clock
            clock = time.perf_counter()
            with jax.transfer_guard("allow"):  # it copies the state to the host
              checkpoints.save(step, state, {"seconds": dict(seconds)})
            seconds["save"] += time.perf_counter() - clock
            clock = time.perf_counter()
          if stopping:
            break
      checkpoints.wait()  # a full disk shows here, before the evaluation
      if why := stop():
        done = int(jax.device_get(state.step))
        raise Preempted(f"stopped by {why} after step {done}, which is saved")
      seconds["step"] -= seconds["data_wait"]
      if not distributed.several():
        handlers.close()

      log.say("evaluating")
      clock = time.perf_counter()
      measured = measure(evaluator, e, state, init_loss)
      samples(evaluator, e, state, workdir)
      seconds["evaluate"] += time.perf_counter() - clock
      result = make_result(e, tasks, counts, loader, state, seconds, program.peak_bytes(), measured)
      if main:
        files.write_json(workdir / "result.json", result.to_json())
        for line in describe_result(result, workdir):
          log.say(line)
      return result


def save_is_due(e: Experiment, step: int) -> bool:
  """Whether a checkpoint is due after this many steps."""
  return step % e.checkpoint.save_every_steps == 0 or step in (e.trunk_end, e.total_steps)


def dispatches(e: Experiment, mixture: Mixture, start: int) -> Iterator[tuple[int, int]]:
  """(steps before, updates) of each call of the compiled step, to the end of the run.

  A call has batches of one kind, and ends where a checkpoint is due.
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
  """Steps of the finished run whose record is in `workdir`; a damaged record is written again."""
  sound = lambda value: isinstance(value, dict) and isinstance(value.get("steps"), int)
  result = rundir.read_sound(workdir / "result.json", sound)
  return result and result["steps"]


class Window:
  """Rates since the last logged step."""

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
  saved = f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint"
  return (
    f"loss or gradient are not finite at step {step}, after finite ones up to step {last_finite}; "
    f"{saved} in {checkpoints.directory}. Lower the learning rate, or look at that step's data."
  )


def initial_loss(workdir: Path, evaluator: Evaluator, state: TrainState) -> float:
  """The frozen loss before the first step, kept in the run directory for resumed runs."""
  path, protocol = workdir / "initial.json", to_json(evaluator.config)
  written = rundir.read_sound(path, _is_initial) if jax.process_index() == 0 else None
  if agreement.first(written is not None):
    if written is None or written["evaluate"] != protocol:  # then it cannot be compared
      return float("nan")
    return written["frozen_loss"]
  if int(jax.device_get(state.step)) > 0:
    return float("nan")  # a branch: its beginning lies in the trunk
  value = evaluator.frozen_loss(state.params).mean
  if jax.process_index() == 0:
    files.write_json(path, {"frozen_loss": value, "evaluate": protocol})
  return value


def _is_initial(value: Any) -> bool:
  """Whether this is the content of initial.json."""
  known = isinstance(value, dict) and {"frozen_loss", "evaluate"} <= value.keys()
  return known and isinstance(value["frozen_loss"], float | int)


def measure(
  evaluator: Evaluator, e: Experiment, state: TrainState, init_loss: float
) -> dict[str, Any]:
  """All measures of the final weights: fields of the record."""
  weights = evaluated(e, state)
  losses = {split: evaluator.frozen_loss(weights, split) for split in evaluator.tasks}
  main, coherence = losses.pop(evaluator.first), evaluator.coherence(weights)
  return {
    "frozen_loss": FrozenLossRecord(
      init=init_loss, raw=evaluator.frozen_loss(state.params).mean, clips=len(main.per_example),
      variance=evaluator.reference(weights).total,
      **(split_fields(main) | evaluator.ignorance(weights)),
    ),
    "frozen_loss_by_split": {s: SplitLoss(**split_fields(loss)) for s, loss in losses.items()},
    "coherence": coherence.mean,
    "coherence_stderr": coherence.stderr,
    "coherence_per_example": coherence.per_example,
  }  # fmt: skip


def split_fields(loss: FrozenLoss) -> dict[str, Any]:
  """As the record names them."""
  values = loss._asdict()
  return {"final": values.pop("mean"), **values}


def samples(evaluator: Evaluator, e: Experiment, state: TrainState, workdir: Path) -> None:
  """Sampled clips of the measured split, EMA weights, as files; all processes sample."""
  video, example = evaluator.samples(evaluator.first, evaluated(e, state), 8)
  if jax.process_index() == 0:
    given = evaluator.train_task.given
    write_samples(workdir / "samples", video, example, given=given, step=e.total_steps)


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
  """Puts the record together."""
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
    **measured,
  )  # fmt: skip


def describe_run(e: Experiment, tasks: dict[str, Task], mesh: Mesh, start: int) -> Iterator[str]:
  """A few lines about the run that starts."""
  device, config = jax.devices()[0], e.model.config
  yield (
    f"{e.model.name}: {parameters_by_part(e.model)['total']:,} parameters, {config.dtype}; "
    f"{mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}; "
    f"attention {e.model.module.describe(config, mesh)}"
  )
  if e.codec.network is not None:
    number, path = _size(e.codec.abstract_params), e.codec.config.weights
    whose = "NO WEIGHTS GIVEN: random weights, for tests only" if path is None else path
    yield f"codec {e.codec.name}: {number:,} parameters, frozen; {whose}"
  for name, task in tasks.items():
    frames, height, width, _ = task.source.shape
    yield (
      f"{name}: {frames} frames of {height}x{width}, {Counts.of(e, task).tokens} tokens a clip, "
      f"{flops.step(task.products())['total'] / 1e9:.2f} GFLOP a clip and step"
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
  """The main results in a few lines."""
  loss = result.frozen_loss
  yield (
    f"frozen loss {loss.final:.4f} +- {loss.stderr:.4f} of the data's variance "
    f"(initial {loss.init:.3f}, zero model {loss.zero_model:.3f}, Wiener {loss.wiener:.3f})"
  )
  for name, row in result.coherence.items():
    yield f"  {name:28s}" + "  ".join(f"{k} {v:.4g}" for k, v in row.items())
  yield f"{workdir}/result.json, {workdir}/samples/"
