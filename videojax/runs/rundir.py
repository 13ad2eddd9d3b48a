"""The run directory: its files, and the checks that an experiment may run in it.

config.json       the resolved config, defaults included, and the changes made on resume
environment.json  versions, devices and git commit at every start
metrics.jsonl     one line per logged step
checkpoints/      see io/checkpoint.py
samples/          clips as mp4 and one grid as WebP
result.json       records.Result
"""

import platform
import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from videojax.config import Experiment, flatten, from_json, identity_of, to_json
from videojax.errors import ConfigError
from videojax.io import files

PACKAGES = ("videojax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Files of plan, bench and failed starts; a run may start in a directory that has only these.
OURS = {"plan.json", "bench.json", "trace", "failed.json"}


def read_json(path: Path) -> Any:
  """Reads a JSON file of a run directory.

  Raises:
    ConfigError: it is missing or damaged.
  """
  if not path.exists():
    raise ConfigError(f"{path.parent} is not a run directory: it has no {path.name}")
  return files.read_json(path)


def read_sound(path: Path, sound: Callable[[Any], bool]) -> Any | None:
  """Reads an optional JSON file; None if it is missing or, with a printed note, damaged.

  Args:
    sound: whether a value has the form that the file should have.
  """
  if not path.exists():
    return None
  problem = "damaged (unexpected content)"
  try:
    if sound(value := files.read_json(path)):
      return value
  except ConfigError as error:
    problem = str(error).removeprefix(f"{path} is ")
  print(f"{path} is {problem}: not used")
  return None


def read_config(workdir: Path) -> dict[str, Any]:
  """The resolved config of the run in `workdir`; settings newer than it get their defaults.

  Raises:
    ConfigError: it is missing or damaged.
  """
  path = workdir / "config.json"
  written = read_json(path)
  try:
    resolved = to_json(from_json(written))
  except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
    raise ConfigError(f"{path} is damaged: not the config of a run ({error})") from None
  changes = written.get("changes", [])
  if not isinstance(changes, list):
    raise ConfigError(f"{path} is damaged: changes={changes!r} is not a list")
  return resolved | ({"changes": changes} if changes else {})


def check_run(workdir: Path, experiment: Experiment) -> None:
  """Checks that this experiment may run in `workdir`; writes nothing.

  Raises:
    ConfigError: the directory holds something else; the differing keys are listed.
  """
  if (workdir / "config.json").exists():
    written = read_config(workdir)
    check_same(workdir, written, to_json(experiment))
    check_longer(workdir, experiment, written["total_steps"])
  elif workdir.exists() and (not workdir.is_dir() or shown(workdir) - OURS):
    raise ConfigError(
      f"{workdir} is not empty and holds no run: give --workdir a new or an empty directory"
    )


def shown(directory: Path) -> set[str]:
  """Names in a directory, except hidden ones: claims, and files that were never finished."""
  return {p.name for p in directory.iterdir() if not p.name.startswith(".")}


def open_run(workdir: Path, experiment: Experiment) -> None:
  """Writes config.json and environment.json of a run that is about to start or resume.

  Allowed changes (mesh, kernel, remat, logging, saving, evaluation, a larger total_steps if no
  step so far depended on it) are recorded in config.json.
  """
  check_run(workdir, experiment)
  path, resolved = workdir / "config.json", to_json(experiment)
  workdir.mkdir(parents=True, exist_ok=True)
  if path.exists():
    written = read_config(workdir)
    changes = written.pop("changes", [])
    before, after = flatten(written), flatten(resolved)
    changed = {
      k: [before.get(k), after.get(k)]
      for k in sorted(before.keys() | after.keys())
      if before.get(k) != after.get(k)
    }
    if changed:
      changes = [*changes, {"time": now(), "changed": changed}]
    if changes:
      resolved["changes"] = changes
  files.write_json(path, resolved)
  environments = workdir / "environment.json"
  starts = read_sound(environments, lambda value: isinstance(value, list))
  if starts is None and environments.exists():
    environments.replace(environments.with_suffix(".damaged"))
  files.write_json(environments, [*(starts or []), environment()])


def check_same(workdir: Path, written: dict[str, Any], resolved: dict[str, Any]) -> None:
  before, after = identity_of(written), identity_of(resolved)
  differing = [k for k in sorted(before.keys() | after.keys()) if before.get(k) != after.get(k)]
  if differing:
    listed = "\n".join(f"  {k}: {before.get(k)!r} there, {after.get(k)!r} now" for k in differing)
    raise ConfigError(
      f"{workdir} holds a different experiment; nothing was changed. It differs in\n{listed}\n"
      "Choose another --workdir, or the config that this run was started with."
    )


def check_longer(workdir: Path, experiment: Experiment, written_steps: int) -> None:
  """Checks that total_steps does not shrink, and grows only if no step taken depended on it."""
  if experiment.total_steps == written_steps:
    return
  if experiment.total_steps < written_steps:
    raise ConfigError(
      f"{workdir} was started with total_steps={written_steps}; it cannot become "
      f"{experiment.total_steps}. Use branch_from for a shorter run."
    )
  steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
  decays_from = experiment.optim.decay_start(written_steps)
  if steps and max(steps) > decays_from:
    raise ConfigError(
      f"{workdir} is at step {max(steps)}, and its learning rate has decayed towards "
      f"total_steps={written_steps} since step {decays_from}: it cannot become "
      f"{experiment.total_steps}. Use branch_from={workdir}@STEP with a step up to {decays_from}."
    )


def environment() -> dict[str, Any]:
  """Versions, devices and git commit of this process."""
  devices = jax.devices()
  return {
    "time": now(),
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": {name: _version(name) for name in PACKAGES},
    "devices": [f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"],
    "processes": jax.process_count(),
    "git_commit": _git_commit(),
  }


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


def _git_commit() -> str | None:
  """The commit of the code, with '+changes' if the working tree differs from it."""
  root = Path(__file__).parent
  git = lambda *args: subprocess.run(
    ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10, check=True
  ).stdout.strip()
  try:
    return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
  except (OSError, subprocess.SubprocessError):
    return None


def now() -> str:
  return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
