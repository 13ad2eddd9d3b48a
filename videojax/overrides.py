"""The experiment file of a command line, and the settings that --config.a.b=value changes."""

import dataclasses
import re
import runpy
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from videojax import settings
from videojax.config import settings_of
from videojax.errors import ConfigError

FILE = re.compile(r"--?config(?:=(.*))?$", re.DOTALL)
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)(?:=(.*))?$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ExperimentFile:
  """An experiment file, run.

  Attributes:
    path: of the file.
    argument: what stood behind the colon; '': nothing.
    names: what the file defines.
  """

  path: str
  argument: str
  names: Mapping[str, Any]

  @classmethod
  def run(cls, text: str) -> "ExperimentFile":
    """Runs FILE of 'FILE' or 'FILE:argument'.

    Raises:
      ConfigError: it is not there, or it raises; its own words, with file and line.
    """
    path, _, argument = text.partition(":")
    if not Path(path).is_file():
      raise ConfigError(f"--config={text}: there is no file {path or '(an empty name)'}")
    return cls(path, argument, _of_file(path, lambda: runpy.run_path(path)))

  def call(self, name: str) -> Any:
    """What its function `name` makes of the argument.

    Raises:
      ConfigError: it has no such function, or the function raises.
    """
    if not callable(self.names.get(name)):
      raise ConfigError(f"{self.path} defines no {name}()")
    function, arguments = self.names[name], [self.argument] if self.argument else []
    return _of_file(self.path, lambda: function(*arguments))

  def config(self) -> ConfigDict:
    """Its get_config's."""
    config = self.call("get_config")
    if not isinstance(config, ConfigDict):
      raise ConfigError(f"{self.path}: get_config() returns {config!r}, not a ConfigDict")
    return config


def _of_file(path: str, function: Any) -> Any:
  """What a function of an experiment file returns; that is a program, which may raise anything."""
  try:
    return function()
  except ConfigError as error:
    raise ConfigError(f"--config={path}: {error}") from error
  except (Exception, SystemExit) as error:
    if isinstance(error, SyntaxError):
      where, what = error.lineno, f"it is not valid Python: {error.msg}"
    else:
      frames = traceback.extract_tb(error.__traceback__)
      where = next((f.lineno for f in reversed(frames) if f.filename == path), None)
      known = type(error) is ValueError  # of ours, and written for people
      what = str(error) if known else f"{type(error).__name__}: {error}"
    line = "" if where is None else f", line {where}"
    raise ConfigError(f"--config={path}{line}: {' '.join(what.split())}") from error


def experiment_file(argv: list[str]) -> tuple[str | None, list[str]]:
  """(FILE[:argument] of --config, None where it is not given; the other arguments)."""
  text, rest, arguments = None, [], iter(argv)
  for argument in arguments:
    found = FILE.match(argument)
    if found is None:
      rest.append(argument)
    else:
      text = next(arguments, "") if found[1] is None else found[1]
  return text, rest


def define(config: ConfigDict, argv: list[str], values: flags.FlagValues) -> list[str]:
  """Defines --config.a.b=value for each setting that `argv` changes.

  Returns: `argv`, with infinity inside tuples as text, for Python's literals have no such number.
  Raises:
    ConfigError: there is no such setting; the nearest ones are named, and where all are explained.
  """
  plain = config.to_dict()
  for i, argument in enumerate(argv):
    found = OVERRIDE.match(argument)
    if found is not None:
      _check_there(found[1], found[2], plain)
      argv[i] = re.sub(r"(?<=[(, ])-?inf(?=[,) ])", r"'\g<0>'", argument)
  config_flags.DEFINE_config_dict(
    "config", config, "a setting of the experiment: --config.a.b=value",
    flag_values=values, sys_argv=argv,
  )  # fmt: skip
  return argv


def _check_there(key: str, value: str | None, config: Mapping[str, Any]) -> None:
  """Raises ConfigError if there is no setting `key` in the nested dict of an experiment."""
  node: Any = config
  parts = key.split(".")
  for i, part in enumerate(parts):
    above = ".".join(parts[:i])
    if not isinstance(node, Mapping):
      raise ConfigError(f"--config.{key}: {above} is one value, {node!r}; it has no {part!r}")
    if part not in node:
      cls = settings_of(".".join(parts[: i + 1]), config)
      raise ConfigError(
        f"--config.{key}: "
        + settings.unknown(part, list(node), above or "the config")
        + _explained(cls)
      )
    node = node[part]
  if isinstance(node, tuple) and (value or "").lstrip().startswith("{"):
    raise ConfigError(f"--config.{key}={value} must be a tuple of values, such as {node!r}")


def _explained(cls: Any) -> str:
  """Where the settings of a dataclass are explained."""
  if cls is None:
    return ""
  return f" (what each means: {cls.__name__} in {cls.__module__.replace('.', '/')}.py)"


def explain(error: Exception, config: Mapping[str, Any]) -> str:
  """What a flag's error means, in one line: of a setting, what it may be.

  Args:
    config: the experiment's nested dict.
  """
  text = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
  text = text.removeprefix("ERROR:: ")
  found = re.match(r"flag --config\.(\S+?)=(.*?): ", text)
  if found is None:
    return text
  key, value = found.groups()
  cls, name = settings_of(key, config), key.rpartition(".")[2]
  if cls is None or name not in settings.hints(cls):
    return text.removeprefix("flag ")
  may_be = settings.wanted(settings.hints(cls)[name])
  return f"--config.{key}={value} must be {may_be}{_explained(cls)}"
