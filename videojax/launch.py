"""python -m videojax.launch --config=FILE[:arg] --workdir=DIR [--mode=...] [--config.a.b=value]

Flags -> config -> one mode. No logic here.
"""

import difflib
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

MODES = ("train", "evaluate", "sample", "plan", "bench")

CONFIG = config_flags.DEFINE_config_file(
  "config", None, "experiment file, with :arg for its variant; --config.a.b=value overrides"
)
WORKDIR = flags.DEFINE_string("workdir", None, "run directory")
MODE = flags.DEFINE_string("mode", "train", f"one of {', '.join(MODES)}")
TRACE = flags.DEFINE_bool("trace", False, "bench: keep a profile in WORKDIR/trace")


def main(argv: list[str]) -> int:
  from videojax import log

  if len(argv) > 1:
    return _fail(log, f"unexpected argument {argv[1]!r}: flags are written --name=value")
  if MODE.value not in MODES:
    close = difflib.get_close_matches(MODE.value, MODES, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(MODES)}"
    return _fail(log, f"no such mode {MODE.value!r}: {hint}")
  if CONFIG.value is None or WORKDIR.value is None:
    return _fail(
      log,
      "--config=FILE and --workdir=DIR are needed, e.g. "
      "--config=experiments/quickstart.py --workdir=runs/quickstart",
    )
  from videojax.checkpoint import CheckpointError
  from videojax.config import ConfigError, resolve
  from videojax.train import Diverged, Preempted

  try:
    experiment = resolve(CONFIG.value.to_dict())
    run(MODE.value, experiment, Path(WORKDIR.value))
  except (ConfigError, CheckpointError, Diverged) as error:
    return _fail(log, str(error))
  except Preempted as stop:
    print(f"{stop}; the same command continues")
  return 0


def run(mode: str, experiment: Any, workdir: Path) -> None:
  """Does one mode."""
  if mode == "train":
    from videojax.train import train

    if train(experiment, workdir) is None:
      print(f"{workdir} is finished: see {workdir}/result.json")
  elif mode in ("evaluate", "sample"):
    from videojax import inspect_run

    getattr(inspect_run, mode)(experiment, workdir)
  elif mode == "plan":
    from videojax.plan import plan

    plan(experiment, workdir)
  else:
    from videojax.bench import bench

    bench(experiment, workdir, trace=TRACE.value)


def _fail(log: Any, text: str) -> int:
  log.error(text)
  return 1


def command() -> None:
  """Entry point; a misspelt flag or key is one line, not a traceback."""
  try:
    argv = flags.FLAGS(sys.argv)
  except (flags.Error, AttributeError, KeyError, FileNotFoundError, ValueError) as error:
    from videojax import log

    sys.exit(_fail(log, " ".join(str(error).split())))
  app.run(main, argv=[*argv[:1], *argv[1:]], flags_parser=lambda args: args)


if __name__ == "__main__":
  command()
