"""python -m videojax.launch --config=FILE[:arg] --workdir=DIR [--mode=...] [--config.a.b=value]
python -m videojax.launch --mode=generate --workdir=RUN --prompt=TEXT [--config.a.b=value]

Parses the flags and the config and runs one mode. No logic here.
"""

if __name__ == "__main__":  # before the slow imports
  from videojax.host import stop

  stop.listen()

import contextlib
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import flags

from videojax.errors import ConfigError, NotFiniteError, check_choice
from videojax.host.process import (
  compilation_cache,
  keep_freed_memory,
  most_of_a_gpu,
  settings_of_no_tpu,
  threads_for_fake_devices,
)
from videojax.io import log

STOPPED = 143  # exit code of a process that SIGTERM ends: the job is not finished
TOO_LARGE = 3  # exit code of plan if the run does not fit in memory
MANY = "train", "evaluate", "sample", "generate", "bench"  # several processes can run them together
STEPS = "train", "sample", "decode"  # that plan compiles


@dataclasses.dataclass(frozen=True)
class Command:
  """A parsed command line: flags, experiment file, and its config with overrides applied."""

  flags: flags.FlagValues
  config: dict[str, Any]
  file: Any  # an overrides.ExperimentFile; None without --config: with --help, or of a run

  @property
  def workdir(self) -> Path:
    return Path(self.flags.workdir)

  @property
  def written(self) -> Path:
    """The directory that this command writes."""
    if self.flags.mode != "generate":
      return self.workdir
    return Path(self.flags.out) if self.flags.out else self.workdir / "generated"

  @property
  def experiment(self) -> Any:
    from videojax.config import resolve

    return resolve(self.config)


def train(c: Command) -> None:
  from videojax.train import train

  if train(c.experiment, c.workdir) is None:
    print(f"{c.workdir} is already finished: see {c.workdir}/result.json")


def evaluate(c: Command) -> None:
  from videojax.modes.finished_run import evaluate

  evaluate(c.experiment, c.workdir)


def sample(c: Command) -> None:
  from videojax.modes.finished_run import sample

  sample(c.experiment, c.workdir)


def generate(c: Command) -> None:
  from videojax.modes.generate import generate
  from videojax.modes.prompts import KEYS, rows_of

  given = {key: c.flags[key].value for key in KEYS if c.flags[key].value is not None}
  rows = rows_of(Path(c.flags.prompts) if c.flags.prompts else None, given)
  e, f = c.experiment.denoising("generate"), c.flags
  generate(e, c.workdir, rows, c.written, f["frames"].value, f["size"].value)


def effects(c: Command) -> None:
  from videojax.modes.effects import effects

  effects(c.experiment.denoising("effects"), c.workdir)


def cascade(c: Command) -> None:
  from videojax.modes.cascade import cascade

  if not c.flags.after:
    raise ConfigError("--mode=cascade continues other runs: give --after=RUN[,RUN...]")
  cascade(c.experiment.denoising("cascade"), c.workdir, c.flags.after.split(","))


def export(c: Command) -> None:
  from videojax.modes.finished_run import export

  export(c.experiment, c.workdir)


def plan(c: Command) -> int:
  from videojax.plan.needs import DoesNotFit
  from videojax.plan.plan import Target, plan

  name, f = c.flags.topology, c.flags
  if name is None and (f.search or f.slices != 1 or f.step != "train"):
    raise ConfigError("--slices, --step and --search need --topology")
  target = None if name is None else Target(name, f.slices, f.step, f.search)
  try:
    return (
      0 if plan(c.experiment.denoising("plan"), c.workdir, target).get("fits", True) else TOO_LARGE
    )
  except DoesNotFit as error:
    log.error(str(error))
    return TOO_LARGE


def bench(c: Command) -> None:
  from videojax.modes.bench import bench

  bench(c.experiment.denoising("bench"), c.workdir, trace=c.flags.trace, replicas=c.flags.replicas)


def coordinates(c: Command) -> None:
  from videojax.modes.coordinate_check import coordinates

  coordinates(c.experiment.denoising("coordinates"), c.workdir)


def sweep(c: Command) -> None:
  """Runs the cells of the experiment file's get_sweep; overrides apply to all of them."""
  from videojax.scaling.cells import part_of
  from videojax.sweeps.schedule import list_cells
  from videojax.sweeps.sweep import sweep

  assert c.file is not None
  if "get_sweep" not in c.file.names:
    raise ConfigError(
      f"{c.file.path} defines no get_sweep(), so it is a single experiment, not a sweep"
    )
  cells = c.file.call("get_sweep")
  if c.flags.list:
    list_cells(c.config, cells, c.workdir)
    return
  limit = c.flags["max-seconds"].value
  notes = c.file.call("get_notes") if "get_notes" in c.file.names else {}
  try:
    sweep(
      c.config, cells, c.workdir, part=part_of(c.flags.cells, len(cells)),
      max_seconds=float("inf") if limit is None else limit, notes=notes,
    )  # fmt: skip
  except ValueError as error:  # from the cells, the prediction or the report
    raise ConfigError(str(error)) from error


MODES: dict[str, Callable[[Command], int | None]] = {
  f.__name__: f
  for f in (
    train, evaluate, sample, generate, effects, cascade, export, plan, bench, coordinates, sweep,
  )
}  # fmt: skip


def generate_flags(define: dict[str, Any]) -> None:
  """Defines the flags of --mode=generate, whose config is the run's own unless a file is given."""
  text = lambda name, about: flags.DEFINE_string(name, None, f"generate: {about}", **define)
  text("prompts", "FILE.jsonl, a line per prompt: prompt, negative, seed, num, image, video, last")
  text("prompt", "what the clip shows")
  text("negative", "what guidance leads away from")
  text("image", "picture that is the first frame")
  text("video", "film whose first frames are continued")
  text("last", "picture that is the last frame")
  text("out", "directory of the clips; default: WORKDIR/generated")
  text("size", "height and width in pixels, 64 or 48x64; default: of the training clips")
  count = lambda name, about: flags.DEFINE_integer(name, None, f"generate: {about}", **define)
  count("num", "clips per prompt, with consecutive seeds; default: 1")
  count("seed", "of the noise; default: 0")
  count("frames", "of the clips; default: of the training clips")


def config_of_run(argv: list[str], values: flags.FlagValues) -> Any:
  """The config of the run in --workdir, in which --mode=generate needs no file; else None."""
  from videojax import overrides
  from videojax.runs import rundir

  values(argv, known_only=True)
  if values.mode != "generate" or values.workdir is None or values.help:
    return None
  return overrides.of_run(rundir.read_config(Path(values.workdir)))


def parse(argv: list[str]) -> Command:
  """Parses the command line.

  Raises:
    ConfigError: the command line is malformed; the message is one line.
  """
  from videojax import overrides  # slow to import; the signal handlers are installed before

  values = flags.FlagValues()
  define: dict[str, Any] = {"flag_values": values}
  flags.DEFINE_string("workdir", None, "run directory", **define)
  flags.DEFINE_string("mode", "train", f"one of {', '.join(MODES)}", **define)
  flags.DEFINE_string("cells", None, "sweep: run only the cells i:j", **define)
  flags.DEFINE_bool("list", False, "sweep: list the cells and their state, run nothing", **define)
  flags.DEFINE_float("max-seconds", None, "sweep: save and stop after this many seconds", **define)
  topology = f"plan: compile for these TPUs, e.g. v5p:4x4x4; exits with {TOO_LARGE} if too large"
  flags.DEFINE_string("topology", None, topology, **define)
  flags.DEFINE_integer("slices", 1, "plan: number of slices of that topology", **define)
  flags.DEFINE_bool(
    "search", False, "plan: search for the fastest mesh, batch and remat policy", **define
  )
  flags.DEFINE_enum("step", "train", STEPS, "plan: the step to compile", **define)
  flags.DEFINE_bool("trace", False, "bench: write a profile to WORKDIR/trace", **define)
  flags.DEFINE_integer(
    "replicas", None, "bench: number of runs per step, with vmap", lower_bound=1, **define
  )
  flags.DEFINE_string("after", None, "cascade: RUN[,RUN...], the earlier stages", **define)
  generate_flags(define)
  flags.DEFINE_string(
    "coordinator", None, "with several processes: HOST:PORT of process 0", **define
  )
  flags.DEFINE_integer(
    "processes", None, "number of processes; 1: ignore a detected cluster", **define
  )
  flags.DEFINE_integer("process", None, "index of this process, from 0", **define)
  flags.DEFINE_float(
    "wait-for-hosts", 300.0, "seconds to wait for all processes at the start", **define
  )
  flags.DEFINE_float(
    "lost-after",
    100.0,
    "seconds without a heartbeat after which a process is considered lost",
    **define,
  )
  flags.DEFINE_bool("help", False, "show this help", **define)
  file, config = None, {}
  try:
    text, argv = overrides.experiment_file(values.read_flags_from_files(argv, force_gnu=False))
    if text is not None:
      file = overrides.ExperimentFile.run(text)
    experiment = config_of_run(argv, values) if file is None else file.config()
    if experiment is None:
      about = "experiment file, with :arg for its variant; --config.a.b=value"
      flags.DEFINE_string("config", None, about, **define)
    else:
      config = experiment.to_dict()
      argv = overrides.define(experiment, argv, values)
    rest = values(argv)[1:]
  except ConfigError:
    raise
  except (flags.Error, TypeError, KeyError, ValueError) as error:  # what config_flags raises
    raise ConfigError(overrides.explain(error, config)) from error
  if rest:
    raise ConfigError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
  check_choice("mode", values.mode, MODES)
  if not values.help and (not config or values.workdir is None):
    raise ConfigError(
      "--config=FILE and --workdir=DIR are needed, e.g. "
      "--config=experiments/quickstart.py --workdir=runs/quickstart"
    )
  return Command(values, values.config.to_dict() if config else {}, file)


def main(argv: list[str]) -> int:
  """Runs a command line; a user error prints a few lines on standard error, no traceback."""
  try:
    command = parse(argv)
    if command.flags.help:
      print(f"{__doc__}\n{command.flags.get_help()}")
      return 0
  except ValueError as error:
    log.error(str(error))
    return 1
  threads_for_fake_devices()
  most_of_a_gpu()
  settings_of_no_tpu()
  if command.flags.topology is not None:  # only the compiler is needed, no device of this machine
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  from videojax.host import agreement, distributed

  try:
    join(command)
  except ConfigError as error:
    log.error(str(error))
    return 1
  try:
    code = run(command)
    orderly = code in (0, STOPPED)
  except agreement.AgreedError as error:
    log.error(str(error))
    code, orderly = 1, True
  except BaseException as error:
    if not distributed.several():
      raise
    log.error(distributed.signed(distributed.of_others(error) or traceback.format_exc()))
    code, orderly = 1, False
  return distributed.end(code, orderly=orderly)


def join(command: Command) -> None:
  """Joins the other processes, if any; all except process 0 then print nothing on stdout."""
  from videojax.host import distributed

  flags = command.flags
  seconds = lambda name: flags[name].value or 0.0
  distributed.check_seconds("max-seconds", seconds("max-seconds"))
  if flags.mode in MANY:
    distributed.start(
      flags.coordinator, flags.processes, flags.process,
      wait=seconds("wait-for-hosts"), silence=seconds("lost-after"),
    )  # fmt: skip
  elif flags.coordinator is not None:
    raise ConfigError(f"--mode={flags.mode} runs in one process: leave out --coordinator")
  if distributed.number() > 0:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def run(command: Command) -> int:
  """Runs the command's mode; returns the exit code."""
  import jax

  from videojax.host import agreement, distributed
  from videojax.io.checkpoint import CheckpointError
  from videojax.train import Preempted

  if jax.default_backend() == "cpu":
    keep_freed_memory()
  compilation_cache()
  try:
    with claimed(command):
      return MODES[command.flags.mode](command) or 0
  except Preempted as stop:
    print(f"{stop}; run the same command again to continue")
    return STOPPED
  except agreement.AgreedError:
    raise
  except (ConfigError, CheckpointError, NotFiniteError) as error:
    log.error(distributed.signed(str(error)))
    return 1
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
      raise
    reason = (str(error) or "out of memory").splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    log.error(
      f"{distributed.signed(reason)}: out of memory; lower batch_size or evaluate.batch_size, "
      "change model.remat or use more devices (see --mode=plan)"
    )
    return 1
  except OSError as error:  # a full disk, a directory without write permission
    log.error(distributed.signed(disk_message(error)))
    return 1


@contextlib.contextmanager
def claimed(command: Command) -> Iterator[None]:
  """Claims what the command writes: process 0 does so for all; a sweep claims its cells itself.

  Modes other than training only add files to a run, so the run may be training meanwhile.
  """
  from videojax.host import agreement, distributed
  from videojax.io.claim import claim, file_of

  mode, problem = command.flags.mode, ""
  part = "" if mode == "train" else mode
  with contextlib.ExitStack() as held:
    if mode != "sweep" and distributed.number() == 0:
      try:
        held.enter_context(claim(command.written, f"--mode={mode}", part))
      except (ConfigError, OSError) as error:
        problem = disk_message(error) if isinstance(error, OSError) else str(error)
    agreement.agree(problem)
    agreement.check_shared(file_of(command.written, part))
    yield


def disk_message(error: OSError) -> str:
  """The error as text, e.g. 'No space left on device: FILE'."""
  return f"{error.strerror}: {error.filename}" if error.filename else str(error)


if __name__ == "__main__":
  sys.exit(main(sys.argv))
