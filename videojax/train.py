"""The only training loop. Read `train` top to bottom."""

import contextlib
import dataclasses
import functools
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from videojax import optim, rundir
from videojax.checkpoint import Checkpointer
from videojax.config import Experiment, from_json
from videojax.data import Loader, stack_examples
from videojax.errors import ConfigError
from videojax.evaluate import Evaluator
from videojax.integrity import params_sha256
from videojax.log import Log
from videojax.models.attention import choose_kernel
from videojax.records import SCHEMA, FrozenLossRecord, Result, Seconds
from videojax.sample import write_samples
from videojax.scaling import flops
from videojax.sharding import like_params, make_mesh, param_shardings, path_name, put_batch
from videojax.state import TrainState, init_state, train_step
from videojax.task import ModelSpec, Task


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

      pending: tuple[int, Any] | None = None  # metrics are fetched one step late
      window = Window()

      def fetch() -> None:
        nonlocal pending
        if pending is None:
          return
        (step, name), metrics = pending
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
          pending = (step, name), metrics
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


# --- parts of a run, in the order of the loop ---------------------------------------------------


def check_divides(e: Experiment, mesh: Mesh) -> None:
  """The batch, and each microbatch of it, is split evenly."""
  ways = mesh.shape["data"] * mesh.shape["fsdp"]
  if e.batch_size % (ways * e.accumulate):
    over = f"{ways} devices (data x fsdp)" + (
      f" x {e.accumulate} microbatches" if e.accumulate > 1 else ""
    )
    raise ConfigError(
      f"batch_size={e.batch_size} is not divisible by {over}: use a multiple of "
      f"{ways * e.accumulate}, or fewer devices (mesh)"
    )


def make_update(e: Experiment) -> tuple[Any, dict[str, float]]:
  """The optimizer, and the exponents of the averages by name."""
  tx = optim.make_optimizer(e.optim, e.total_steps, e.model.info)
  return tx, {ema_name(width): optim.ema_gamma(width) for width in e.ema}


def ema_name(sigma_rel: float) -> str:
  return f"{sigma_rel:.3f}"


def create_state(e: Experiment, tx: Any) -> TrainState:
  """A fresh state; jittable."""
  params = e.model.init(jax.random.key(e.seed))
  trainable, frozen = optim.split_frozen(params, e.optim.freeze)
  return init_state(trainable, frozen, tx, tuple(ema_name(width) for width in e.ema))


def state_shardings(model: ModelSpec, abstract: TrainState, mesh: Mesh) -> TrainState:
  """Where every leaf of the state lives: parameters by their logical axes, copies like them."""
  axes = {path: info.axes for path, info in model.info.items()}
  params = param_shardings(abstract.trainable, axes, mesh)
  like = lambda tree: like_params(tree, abstract.trainable, params, mesh)
  return TrainState(
    step=NamedSharding(mesh, PartitionSpec()),
    trainable=params,
    frozen=param_shardings(abstract.frozen, axes, mesh),
    opt_state=like(abstract.opt_state),
    ema={name: like(tree) for name, tree in abstract.ema.items()},
  )


def restore_or_create(
  e: Experiment,
  create: Callable[[], TrainState],
  shardings: TrainState,
  checkpoints: Checkpointer,
) -> tuple[TrainState, dict[str, float], list[str]]:
  """The state to go on from, seconds spent so far, and what to tell about it."""
  seconds = dataclasses.asdict(Seconds())
  abstract = with_shardings(jax.eval_shape(create), shardings)
  restored = checkpoints.restore(abstract)
  if restored is not None:
    notes = [f"damaged, not used: {text}" for text in restored.skipped]
    notes.append(f"resuming after step {restored.step}")
    return restored.state, restored.metadata["seconds"], notes
  if e.branch_from:
    run, _, step = e.branch_from.rpartition("@")
    if not run or not step.isdigit():
      raise ConfigError(f"branch_from={e.branch_from!r} must be RUN@STEP, e.g. runs/trunk@1000")
    with Checkpointer(open_checkpoints(run, "branch_from"), keep_last=1) as trunk:
      branch = trunk.restore(abstract, int(step))
    if branch is None:
      raise ConfigError(f"branch_from={e.branch_from!r}: {run} has no checkpoints")
    return branch.state, seconds, [f"branched from {run} at step {step}"]
  state = jax.jit(create, out_shardings=shardings)()
  if e.init_from:
    state = dataclasses.replace(state, **load_weights(e, state, shardings))
    return state, seconds, [f"initialised with the EMA weights of {e.init_from}"]
  return state, seconds, []


def open_checkpoints(run: str | Path, what: str) -> Path:
  path = Path(run) / "checkpoints"
  if not path.is_dir():
    raise ConfigError(f"{what}: {run} is no run directory with checkpoints")
  return path


def load_weights(e: Experiment, state: TrainState, shardings: TrainState) -> dict[str, Any]:
  """Trainable and frozen parameters, and EMA, from the newest sound checkpoint of another run."""
  assert e.init_from is not None
  other = from_json(rundir.read_json(Path(e.init_from) / "config.json"))
  mesh = shardings.step.mesh
  weights, step = restore_weights(other, Path(e.init_from), mesh)
  want = {p: v.shape for p, v in flat_params(state.params).items()}
  have = {p: v.shape for p, v in flat_params(weights).items()}
  if want != have:
    differing = sorted(p for p in want.keys() | have.keys() if want.get(p) != have.get(p))
    raise ConfigError(
      f"init_from={e.init_from!r} (step {step}) is of another model; its parameters differ in "
      + ", ".join(f"{p} ({have.get(p)} there, {want.get(p)} here)" for p in differing[:8])
    )
  trainable, frozen = optim.split_frozen(weights, e.optim.freeze)
  ema = {name: jax.tree.map(jnp.copy, trainable) for name in state.ema}
  return {"trainable": trainable, "frozen": frozen, "ema": ema}


def flat_params(params: dict) -> dict[str, Any]:
  return {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params)}


def restore_weights(e: Experiment, run: Path, mesh: Mesh) -> tuple[dict, int]:
  """(EMA weights, step) of a run's newest sound checkpoint, on any mesh."""
  tx, _ = make_update(e)
  abstract = jax.eval_shape(functools.partial(create_state, e, tx))
  abstract = with_shardings(abstract, state_shardings(e.model, abstract, mesh))
  with Checkpointer(open_checkpoints(run, "reading weights"), keep_last=1) as checkpoints:
    restored = checkpoints.restore(abstract)
  if restored is None:
    raise ConfigError(f"{run} has no checkpoint yet")
  return restored.state.ema_params(ema_name(e.ema[0])), restored.step


def with_shardings(abstract: Any, shardings: Any) -> Any:
  return jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), abstract, shardings
  )


def compile_step(
  e: Experiment,
  task: Task,
  tx: Any,
  gammas: dict[str, float],
  shardings: TrainState,
  state: TrainState,
  mesh: Mesh,
) -> Any:
  """The training step on one kind of batch, compiled ahead: state donated, shardings pinned."""
  step = functools.partial(
    train_step, loss_fn=task.loss, tx=tx, gammas=gammas, accumulate=e.accumulate
  )
  replicated = NamedSharding(mesh, PartitionSpec())
  jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated))
  example = abstract_batch(e, task, mesh)
  key = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated)
  return jitted.lower(state, example, key).compile()


def abstract_batch(e: Experiment, task: Task, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a carried batch."""
  rows = stack_examples(task.source, [0])
  split = PartitionSpec(("data", "fsdp"))

  def one(x: np.ndarray) -> jax.ShapeDtypeStruct:
    shape = (e.batch_size, *x.shape[1:])
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, split))

  return jax.tree.map(one, rows)


def compiled_bytes(compiled: Any) -> int:
  """The compiler's account of one device's peak: arguments, temporaries, outputs not aliased."""
  m = compiled.memory_analysis()
  return int(
    m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
  )


def put_replicated(x: Any, mesh: Mesh) -> Any:
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec()))


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


@dataclasses.dataclass(frozen=True)
class Counts:
  """Work per clip of one kind of batch."""

  tokens: int
  flops: int

  @classmethod
  def of(cls, e: Experiment, task: Task) -> "Counts":
    products = task_products(e, task)
    patch = e.model.config.patch
    frames, height, width, _ = task.latent_shape
    tokens = max(frames // patch[0], 1) * (height // patch[1]) * (width // patch[2])
    return cls(tokens, flops.step(products)["total"])


def task_products(e: Experiment, task: Task) -> list[Any]:
  """The matrix products of one forward pass of one training clip."""
  frames = task.latent_shape[0]
  levels = frames if e.objective.per_frame else 1
  text = 0
  if e.model.config.text:
    example = jax.eval_shape(task.source.decode, stack_examples(task.source, [0]))
    text = example["caption" if e.model.config.text == "bytes" else "text"].shape[1]
  return e.model.module.products(e.model.config, task.latent_shape, levels=levels, text_length=text)


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


def parameters_by_part(model: ModelSpec) -> dict[str, int]:
  """Number of parameters by the model's parts, and 'total'."""
  out: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(model.abstract_params):
    names = path_name(path).split("/")
    part = next((model.module.PARTS[n] for n in names if n in model.module.PARTS), names[0])
    out[part] = out.setdefault(part, 0) + math.prod(leaf.shape)
  return out | {"total": sum(out.values())}


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
