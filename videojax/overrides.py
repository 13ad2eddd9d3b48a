"""Runs the experiment file of a command line and defines its overrides, --config.a.b=value."""

import dataclasses
import re
import runpy
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from videojax import settings
from videojax.config import complete, nested, settings_of
from videojax.errors import ConfigError

FILE = re.compile(r"--?config(?:=(.*))?$", re.DOTALL)
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)(?:=(.*))?$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class ExperimentFile:
  """An experiment file that has been executed.

  Attributes:
    path: of the file.
    argument: the text after the colon; '': none.
    names: the file's global names and their values.
  """

  path: str
  argument: str
  names: Mapping[str, Any]

  @classmethod
  def run(cls, text: str) -> "ExperimentFile":
    """Executes FILE of 'FILE' or 'FILE:argument'.

    Raises:
      ConfigError: the file is missing or raises; the message has its error, with file and line.
    """
    path, _, argument = text.partition(":")
    if not Path(path).is_file():
      raise ConfigError(f"--config={text}: there is no file {path or '(an empty name)'}")
    return cls(path, argument, _of_file(path, lambda: runpy.run_path(path)))

  def call(self, name: str) -> Any:
    """Calls the file's function `name` with the argument, if there is one.

    Raises:
      ConfigError: the file has no such function, or the function raises.
    """
    if not callable(self.names.get(name)):
      raise ConfigError(f"{self.path} defines no {name}()")
    function, arguments = self.names[name], [self.argument] if self.argument else []
    return _of_file(self.path, lambda: function(*arguments))

  def config(self) -> ConfigDict:
    """Calls get_config."""
    config = self.call("get_config")
    if not isinstance(config, ConfigDict):
      raise ConfigError(f"{self.path}: get_config() returns {config!r}, not a ConfigDict")
    return config


def of_run(written: Mapping[str, Any]) -> ConfigDict:
  """A run's config.json as an experiment file's config, so that the command line can change it.

  Its data, which must not change, stay as they were written, without defaults.
  """
  values = nested(written)
  config = complete(ConfigDict(values))
  config.data = ConfigDict(values["data"])
  return config


def _of_file(path: str, function: Callable[[], Any]) -> Any:
  """Calls a function that runs code of an experiment file; whatever it raises is a ConfigError."""
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
      known = type(error) is ValueError  # raised by our checks, with a message for users
      what = str(error) if known else f"{type(error).__name__}: {error}"
    line = "" if where is None else f", line {where}"
    raise ConfigError(f"--config={path}{line}: {' '.join(what.split())}") from error


def experiment_file(argv: list[str]) -> tuple[str | None, list[str]]:
  """Splits the arguments into FILE[:argument] of --config (None if not given) and the others."""
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

  Returns: `argv`, with infinities inside tuples quoted, since Python has no literal for them.
  Raises:
    ConfigError: a setting does not exist; the message names the nearest ones and where all settings
      are documented.
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
  """Raises ConfigError if the nested dict of an experiment has no setting `key`."""
  node: Any = config
  parts = key.split(".")
  for i, part in enumerate(parts):
    above = ".".join(parts[:i])
    if not isinstance(node, Mapping):
      raise ConfigError(f"--config.{key}: {above} is a single value, {node!r}; it has no {part!r}")
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


def _explained(cls: type | None) -> str:
  """Where the settings of a dataclass are documented; '' for None."""
  if cls is None:
    return ""
  return f" (what each means: {cls.__name__} in {cls.__module__.replace('.', '/')}.py)"


def explain(error: Exception, config: Mapping[str, Any]) -> str:
  """A flag's error in one line; for a setting, it says which values are allowed.

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
