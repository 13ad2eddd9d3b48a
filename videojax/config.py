"""Converts a ConfigDict to frozen dataclasses; an unknown key is an error that suggests another.

Every default is defined once, in the dataclass that uses it; an experiment file (experiments/*.py)
sets only what differs from them. `Experiment` describes a whole run.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from videojax import settings
from videojax.codecs.captions import TextConfig
from videojax.controls import ControlsConfig
from videojax.data import LoaderConfig, SourceConfig, pipeline
from videojax.diffusion import multidiffusion
from videojax.diffusion.denoiser import Denoiser
from videojax.diffusion.objective import Objective
from videojax.diffusion.samplers import Sampler
from videojax.errors import ConfigError, check_choice
from videojax.host.xla_flags import PRESETS
from videojax.io.checkpoint import CheckpointConfig
from videojax.measures.config import EvaluateConfig, first
from videojax.optim import OptimConfig
from videojax.reconstruct import ReconstructConfig, Reconstruction
from videojax.sample import GuidanceConfig
from videojax.settings import Count, Range, Regex, Seed, Width, build, named, tuples
from videojax.sharding import MeshConfig
from videojax.specs import CodecSpec, ModelSpec
from videojax.task import ConditionConfig, Task

ClipsPerDevice = Annotated[float, Range(0, 2**16, open_low=True)]
EmaWidth = Annotated[float, Range(0, 0.28, open_low=True, open_high=True)]  # see optim.ema_gamma


@dataclasses.dataclass(frozen=True)
class Experiment:
  """The complete definition of a run.

  Attributes:
    total_steps: number of updates.
    batch_size: clips per update, over all devices.
    model: architecture and sizes.
    data: training sources by name; measures use the one that evaluate.source names.
    denoiser, objective, condition, controls, optim: what is learned and how.
    reconstruct: what an autoencoder learns, if the model is one.
    text: the encoder of prompts, for a model that reads embeddings of text.
    seed: determines the initial parameters, the noise, the order of finite data and which part of
      endless data is used.
    accumulate: microbatches per update.
    mup_base_width: width at which `optim.learning_rate` was tuned and initialisation is unscaled;
      other widths follow muP's rules (scaling/mup.py). None: the standard parametrisation.
    clips_per_device: sets batch_size from the number of devices (`on_devices`); None: batch_size
      is used as given.
    codec: maps between clips and the latents that the model sees (videojax/codecs/); its weights
      are frozen, and checkpoints contain them.
    ema: widths (sigma_rel) of the EMAs that are kept; the first one is evaluated. Empty: the raw
      weights are evaluated.
    init_from: run directory from which the EMA weights, and nothing else, are taken; or published
      weights in safetensors (runs/weights.py).
    init_fresh: regular expression; parameters whose path matches it (from the start) are not taken
      from init_from, e.g. the layers that an inflated model adds.
    branch_from: 'RUN@STEP', a checkpoint whose whole state this run continues from.
    xla_flags: names of sets of compiler options for the training step (xla_flags.PRESETS).
    steps_per_dispatch: updates per call of the compiled step; more than 1 if a step takes less
      time than the host's work for it.
    log_every_steps: steps between lines of metrics.jsonl.
    tensorboard: also write TensorBoard events (extra `tensorboard`).
  """

  total_steps: Count
  batch_size: Count
  model: ModelSpec
  data: Mapping[str, SourceConfig]
  denoiser: Denoiser
  objective: Objective
  condition: ConditionConfig
  optim: OptimConfig
  evaluate: EvaluateConfig
  checkpoint: CheckpointConfig
  seed: Seed = 0
  accumulate: Count = 1
  mup_base_width: Width | None = None
  clips_per_device: ClipsPerDevice | None = None
  ema: tuple[EmaWidth, ...] = (0.1,)
  codec: CodecSpec = CodecSpec()
  controls: ControlsConfig = ControlsConfig()
  loader: LoaderConfig = LoaderConfig()
  mesh: MeshConfig = MeshConfig()
  sampler: Sampler = Sampler()
  guidance: GuidanceConfig = GuidanceConfig()
  reconstruct: ReconstructConfig = ReconstructConfig()
  text: TextConfig = TextConfig()
  init_from: str | None = None
  init_fresh: Regex | None = None
  branch_from: str | None = None
  xla_flags: tuple[str, ...] = ()
  steps_per_dispatch: Annotated[int, Range(1, 10_000)] = 1
  log_every_steps: Count = 10
  tensorboard: bool = False

  def __post_init__(self):
    settings.check(self)
    if self.batch_size % self.accumulate:
      raise ValueError(
        f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}"
      )
    object.__setattr__(self, "data", first(self.data, self.evaluate.source, "evaluate.source"))
    if self.condition.known_frames is None:
      takes = getattr(self.model.config, "known", None)
      known = next(iter(self.data.values())).setting("known") if takes else 0
      condition = dataclasses.replace(self.condition, known_frames=known or 0)
      object.__setattr__(self, "condition", condition)
    for name in self.xla_flags:
      check_choice("xla_flags", name, PRESETS)
    if self.init_from and self.branch_from:
      raise ValueError("set init_from (weights only) or branch_from (the whole state), not both")

  @property
  def learns_codec(self) -> bool:
    """Whether the model is an autoencoder, which learns to reconstruct."""
    return hasattr(self.model.module.Model, "encode")

  def denoising(self, mode: str) -> "Experiment":
    """This experiment; raises ConfigError if its model is an autoencoder, which this mode lacks."""
    if self.learns_codec:
      raise ConfigError(
        f"--mode={mode} is for models that denoise, and {self.model.name!r} is an autoencoder: it "
        "can be trained, evaluated and sampled (--mode=sample shows its reconstructions)"
      )
    return self

  @property
  def trunk_end(self) -> int | None:
    """Last step shared with a longer run of the same schedule, if any; its checkpoint is kept."""
    end = self.optim.decay_start(self.total_steps)
    return end if 0 < end < self.total_steps else None

  def on_devices(self, number: int) -> "Experiment":
    """The experiment with the batch_size for `number` devices, if clips_per_device is set."""
    if self.clips_per_device is None:
      return self
    return dataclasses.replace(self, batch_size=max(round(self.clips_per_device * number), 1))

  def task(self, name: str, changes: Mapping[str, Any] | None = None) -> Task:
    """The task on the training source `name`, with some of the source's settings replaced.

    Raises:
      ConfigError: a setting of the source is invalid, or its data is missing or does not fit.
    """
    source, where = self.data[name], f"data.{name}"
    try:
      module = pipeline(source.name)
      config = build(module.Config, {**source.settings, **(changes or {})}, where)
      known = self.condition.known_frames
      clip = getattr(config, "frames", 1) not in (1, None)
      if clip and known and getattr(config, "known", known) != known:
        raise ConfigError(
          f"{where}.known={config.known} and condition.known_frames={known} must be equal: the "
          "known frames determine the rest of a clip"
        )
      parts = dict(
        source=module.Source(config), codec=self.codec, model=self.model, denoiser=self.denoiser,
        objective=self.objective, condition=self.condition, controls=self.controls,
      )  # fmt: skip
      if self.learns_codec:
        return Reconstruction(**parts, reconstruct=self.reconstruct)
      task = Task(**parts)
      if self.sampler.window and name == next(iter(self.data)):
        where = "sampler"
        multidiffusion.starts(task.latent_shape[0], self.sampler.window, self.sampler.stride)
      return task
    except ConfigError:
      raise
    except (ValueError, FileNotFoundError) as error:
      raise ConfigError(named(where, error)) from error


# Settings that define an experiment; all others may change on resume.
IDENTITY = (
  "model", "codec", "data", "denoiser", "objective", "condition", "controls", "reconstruct",
  "optim", "batch_size", "seed", "ema", "mup_base_width", "init_from", "init_fresh", "branch_from",
)  # fmt: skip
# Settings of the model that change how it is computed, not what it computes.
EXECUTION = ("remat", "scan", "kernel", "context")
# Arguments of the compiled training step: runs that differ only in these settings share it.
AS_DATA = (
  "total_steps", "seed", "optim.learning_rate", "optim.schedule", "optim.warmup_steps",
  "optim.decay_fraction", "init_from", "init_fresh", "branch_from", "checkpoint.save_every_steps",
  "checkpoint.keep_last", "checkpoint.keep_every_steps", "log_every_steps", "tensorboard",
)  # fmt: skip


def resolve(config: Mapping[str, Any]) -> Experiment:
  """An experiment from the nested dict of an experiment file (ConfigDict.to_dict()).

  Raises:
    ConfigError: see `build`.
  """
  values = dict(config)
  for key in ("model", "data"):
    if not isinstance(values.get(key), Mapping):
      raise ConfigError(f"the config lacks {key!r}, a dict of settings")
  values["model"] = ModelSpec(*_named("model", values["model"]))
  if "codec" in values:
    values["codec"] = CodecSpec(*_named("codec", values["codec"]))
  values["data"] = {name: _source(name, s) for name, s in values["data"].items()}
  for key in set(SECTIONS) & values.keys():
    values[key] = build(SECTIONS[key], values[key], key)
  return build(Experiment, values, "")


def complete(config: ConfigDict) -> ConfigDict:
  """An experiment's decisions, completed with the default of every other setting.

  This makes every setting changeable on the command line (--config.optim.b2=.95), while its default
  is defined only in its dataclass. Unknown keys stay; `resolve` reports them.
  """
  values = {k: v.to_dict() if isinstance(v, ConfigDict) else v for k, v in config.items()}
  values["codec"] = {"name": CodecSpec().name, **values.get("codec", {})}
  for name, cls in SECTIONS.items():
    values[name] = _with_defaults(cls, values.get(name, {}))
  for name in ("model", "codec"):
    if name in values:
      values[name] = _with_defaults(settings_of(f"{name}.name", values), values[name])
  for name, source in values.get("data", {}).items():
    own = _with_defaults(settings_of(f"data.{name}.name", values), source)
    values["data"][name] = {"weight": 1, **own}
  return ConfigDict(_with_defaults(Experiment, values))


def _with_defaults(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  """The values, completed with defaults, in a form that the command line can change."""
  out = dict(values)
  for field in dataclasses.fields(cls):
    if not field.init:
      continue
    if field.name not in out and field.default is not dataclasses.MISSING:
      out[field.name] = field.default
    elif field.name not in out and field.default_factory is not dataclasses.MISSING:
      out[field.name] = field.default_factory()
    if field.name in out:
      out[field.name] = _for_flags(settings.hints(cls)[field.name], out[field.name])
  return out


def _for_flags(hint: Any, value: Any) -> Any:
  """The value, with a type from which config_flags knows how to parse an override."""
  kind = settings.plain(hint)
  if kind is float and type(value) is int:
    return float(value)
  if kind in (int, float, str, bool) or typing.get_origin(kind) is tuple:
    return tuple(value) if isinstance(value, list) else value
  if isinstance(value, Mapping) or dataclasses.is_dataclass(kind):
    return value
  return FieldReference(value, field_type=object)  # optional or of any type: a Python literal


# Sections of the experiment that are each one dataclass.
SECTIONS: dict[str, Any] = {
  name: hint
  for name, hint in settings.hints(Experiment).items()
  if dataclasses.is_dataclass(hint) and name not in ("model", "codec")
}
NAMED = {  # section -> (package of its modules, noun for a module, members of each module)
  "model": ("videojax.models", "architecture", ("Config", "Model")),
  "codec": ("videojax.codecs", "codec", ("Config", "Codec")),
  "data": ("data_pipelines", "data source", ("Config", "Source")),
}


def settings_of(key: str, config: Mapping[str, Any]) -> type | None:
  """The dataclass that has `key` as a field, or None.

  Args:
    key: dotted, as on the command line: 'optim.b2', 'data.clips.path'.
    config: the experiment's nested dict.
  Raises:
    ConfigError: the model, codec or data source that `key` belongs to does not exist.
  """
  section, *rest = key.split(".")
  if not rest:
    return Experiment
  if section not in NAMED:
    return SECTIONS.get(section) if len(rest) == 1 else None
  if len(rest) != (2 if section == "data" else 1):
    return None
  where = ".".join([section, *rest[:-1]])
  values = config[section][rest[0]] if section == "data" else config[section]
  return _module(section, where, values).Config


def _module(section: str, where: str, values: Mapping[Any, Any]) -> ModuleType:
  name = values.get("name", CodecSpec().name if section == "codec" else None)
  try:
    return settings.module(NAMED[section][0], name, *NAMED[section][1:])
  except ValueError as error:
    raise ConfigError(f"{where}.{error}") from None


def _named(section: str, values: Any) -> tuple[str, Any]:
  """(module name, its Config) from the settings of a model or a codec."""
  if not isinstance(values, Mapping):
    raise ConfigError(f"{section}={values!r} must be a dict of settings")
  module = _module(section, section, values)
  own = {key: value for key, value in values.items() if key != "name"}
  return module.__name__.rpartition(".")[2], build(module.Config, own, section)


def _source(name: str, values: Any) -> SourceConfig:
  if not isinstance(values, Mapping) or "name" not in values:
    raise ConfigError(f"data.{name} lacks 'name', the name of its module in data_pipelines/")
  _module("data", f"data.{name}", values)
  own = {key: value for key, value in values.items() if key not in ("name", "weight")}
  parts = {"name": values["name"], "weight": values.get("weight", 1), "settings": tuples(own)}
  return build(SourceConfig, parts, f"data.{name}")


def to_json(value: Any) -> Any:
  """Converts dataclasses, tuples and mappings to JSON values, defaults included."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, tuple | list):
    return [to_json(v) for v in value]
  if isinstance(value, float) and math.isinf(value):  # not in JSON; `settings` parses this text
    return "Infinity" if value > 0 else "-Infinity"
  return value


def from_json(written: Any) -> Experiment:
  """The experiment of a config.json (the inverse of `to_json`), which may hold anything.

  Settings that are newer than the file get their defaults. EXECUTION settings that the model no
  longer has are dropped.
  """
  return resolve(nested(written))


def nested(written: Any) -> dict[str, Any]:
  """The nested dict, as of an experiment file, of a config.json."""
  values = {key: value for key, value in written.items() if key != "changes"}
  for name in {"model", "codec"} & values.keys():
    section = {"name": written[name]["name"], **written[name]["config"]}
    known = settings.hints(_module(name, name, section).Config)
    values[name] = {k: v for k, v in section.items() if k in known or k not in EXECUTION}
  values["data"] = {
    name: {"name": s["name"], "weight": s["weight"], **s["settings"]}
    for name, s in values["data"].items()
  }
  return values


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
  """{'model.config.width': 128, ...} from nested JSON."""
  if not isinstance(value, dict):
    return {prefix: value}
  out: dict[str, Any] = {}
  for name, below in value.items():
    out |= flatten(below, f"{prefix}.{name}" if prefix else name)
  return out


def program_of(experiment: Experiment) -> str:
  """The settings that runs must have in common to share one compiled program, as JSON text."""
  flat = flatten(to_json(experiment))
  kept = {k: v for k, v in flat.items() if k not in AS_DATA}
  if experiment.optim.name == "muon":  # the ratio of its two learning rates is compiled in
    kept["optim.learning_rate"] = experiment.optim.learning_rate
  return json.dumps(kept, sort_keys=True)


def identity_of(resolved: dict[str, Any]) -> dict[str, Any]:
  """The settings of a resolved config that must not change during a run, by dotted path."""
  kept = flatten({key: resolved[key] for key in IDENTITY})
  return {k: v for k, v in kept.items() if k.split(".")[-1] not in EXECUTION}
