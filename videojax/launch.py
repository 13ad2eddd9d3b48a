"""python -m videojax.launch --config=FILE[:arg] --workdir=DIR [--mode=...] [--config.a.b=value]

Flags -> config -> one mode. No logic here.
"""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from videojax import log
from videojax.errors import ConfigError, check_choice
from videojax.host import keep_freed_memory, threads_for_fake_devices

STOPPED = 143  # what a process ended by SIGTERM returns: the job is not done


def train(experiment: Any, workdir: Path) -> None:
  from videojax.train import Preempted, train

  try:
    if train(experiment, workdir) is None:
      print(f"{workdir} is finished: see {workdir}/result.json")
  except Preempted as stop:
    print(f"{stop}; the same command continues")
    sys.exit(STOPPED)


def evaluate(experiment: Any, workdir: Path) -> None:
  from videojax.inspect_run import evaluate

  evaluate(experiment, workdir)


def sample(experiment: Any, workdir: Path) -> None:
  from videojax.inspect_run import sample

  sample(experiment, workdir)


def plan(experiment: Any, workdir: Path) -> None:
  from videojax.plan import plan

  plan(experiment, workdir)


def bench(experiment: Any, workdir: Path) -> None:
  from videojax.bench import bench

  bench(experiment, workdir, trace=False)


def trace(experiment: Any, workdir: Path) -> None:
  from videojax.bench import bench

  bench(experiment, workdir, trace=True)


def coordinates(experiment: Any, workdir: Path) -> None:
  from videojax.coordinates import coordinates

  coordinates(experiment, workdir)


MODES: dict[str, Callable[[Any, Path], None]] = {
  f.__name__: f for f in (train, evaluate, sample, plan, bench, coordinates)
}


def sweep(values: flags.FlagValues, config: dict[str, Any]) -> None:
  """Cells of the experiment file's get_sweep; the command line's overrides go to all of them."""
  from videojax.jobs import list_cells
  from videojax.scaling.cells import part_of
  from videojax.sweep import Preempted
  from videojax.sweep import sweep as run

  path, _, argument = config_flags.get_config_filename(values["config"]).partition(":")
  module = runpy.run_path(path)
  if "get_sweep" not in module:
    raise ConfigError(f"{path} defines no get_sweep(): it is an experiment, not a sweep")
  cells, workdir = module["get_sweep"](argument), Path(values.workdir)
  part = part_of(values.cells, len(cells))
  if values.list:
    list_cells(config, cells, workdir)
    return
  limit = float("inf") if values.max_seconds is None else values.max_seconds
  try:
    notes = module["get_notes"](argument) if "get_notes" in module else {}
    run(config, cells, workdir, part=part, max_seconds=limit, notes=notes)
  except Preempted as stop:
    print(f"{stop}; the same command continues")
    sys.exit(STOPPED)
  except ValueError as error:  # of the prediction or the report
    raise ConfigError(str(error)) from error


def parse(argv: list[str]) -> tuple[flags.FlagValues, dict[str, Any]]:
  """The command line, and the experiment file's dict with its overrides.

  Raises:
    ConfigError: it cannot be understood; what is wrong, in a line.
  """
  values = flags.FlagValues()
  define: dict[str, Any] = {"flag_values": values}
  config_flags.DEFINE_config_file(
    "config",
    None,
    "experiment file, with :arg for its variant; --config.a.b=value",
    sys_argv=argv,
    **define,
  )
  flags.DEFINE_string("workdir", None, "run directory", **define)
  flags.DEFINE_string("mode", "train", f"one of {', '.join((*MODES, 'sweep'))}", **define)
  flags.DEFINE_string("cells", None, "sweep: i:j, only these of its cells", **define)
  flags.DEFINE_bool("list", False, "sweep: show the cells and how they stand", **define)
  flags.DEFINE_float("max_seconds", None, "sweep: stop, saved, after so long", **define)
  flags.DEFINE_bool("trace", False, "bench: keep a profile in WORKDIR/trace", **define)
  flags.DEFINE_bool("help", False, "show this", **define)
  try:
    rest = values(argv)[1:]
    # A file that is not there raises only when its content is asked for.
    config = None if values.config is None else values.config.to_dict()
  except (flags.Error, AttributeError, KeyError, OSError, ValueError) as error:
    text = str(error.args[0] if len(error.args) == 1 else error)
    raise ConfigError(" ".join(text.split())) from error
  if rest:
    raise ConfigError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
  check_choice("mode", values.mode, (*MODES, "sweep"))
  if not values.help and (config is None or values.workdir is None):
    raise ConfigError(
      "--config=FILE and --workdir=DIR are needed, e.g. "
      "--config=experiments/quickstart.py --workdir=runs/quickstart"
    )
  return values, config or {}


def main(argv: list[str]) -> int:
  """Runs a command line; a user's mistake is a few lines on standard error, not a traceback."""
  try:
    values, config = parse(argv)
    if values.help:
      print(f"{__doc__}\n{values.get_help()}")
      return 0
  except ValueError as error:
    log.error(str(error))
    return 1
  threads_for_fake_devices()
  import jax

  from videojax.checkpoint import CheckpointError
  from videojax.config import resolve
  from videojax.train import Diverged

  if jax.default_backend() == "cpu":
    keep_freed_memory()
  try:
    if values.mode == "sweep":
      sweep(values, config)
    else:
      mode = trace if values.mode == "bench" and values.trace else MODES[values.mode]
      mode(resolve(config), Path(values.workdir))
  except (ConfigError, CheckpointError, Diverged) as error:
    log.error(str(error))
    return 1
  except OSError as error:  # a disk that is full, a directory that may not be written
    log.error(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
