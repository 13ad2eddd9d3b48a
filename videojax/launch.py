"""python -m videojax.launch --config=FILE[:arg] --workdir=DIR [--mode=...] [--config.a.b=value]

Flags -> config -> one mode. No logic here.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from videojax import log
from videojax.errors import ConfigError, check_choice

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "experiment file, with :arg for its variant; --config.a.b=value overrides"
)
WORKDIR = flags.DEFINE_string("workdir", None, "run directory")
MODE = flags.DEFINE_string("mode", "train", "train, evaluate, sample, plan or bench")
TRACE = flags.DEFINE_bool("trace", False, "bench: keep a profile in WORKDIR/trace")


def train(experiment: Any, workdir: Path) -> None:
  from videojax.train import Preempted, train

  try:
    if train(experiment, workdir) is None:
      print(f"{workdir} is finished: see {workdir}/result.json")
  except Preempted as stop:
    print(f"{stop}; the same command continues")


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

  bench(experiment, workdir, trace=TRACE.value)


MODES: dict[str, Callable[[Any, Path], None]] = {
  f.__name__: f for f in (train, evaluate, sample, plan, bench)
}


def main() -> int:
  """Entry point; a user's mistake is a few lines on standard error, not a traceback."""
  try:
    rest = flags.FLAGS(sys.argv)[1:]
    if rest:
      raise ConfigError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
    check_choice("mode", MODE.value, MODES)
    if CONFIG.value is None or WORKDIR.value is None:
      raise ConfigError(
        "--config=FILE and --workdir=DIR are needed, e.g. "
        "--config=experiments/quickstart.py --workdir=runs/quickstart"
      )
  except (flags.Error, AttributeError, KeyError, OSError, ValueError) as error:
    log.error(" ".join(str(error.args[0] if len(error.args) == 1 else error).split()))
    return 1
  from videojax.checkpoint import CheckpointError
  from videojax.config import resolve
  from videojax.train import Diverged

  try:
    MODES[MODE.value](resolve(CONFIG.value.to_dict()), Path(WORKDIR.value))
  except (ConfigError, CheckpointError, Diverged) as error:
    log.error(str(error))
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
