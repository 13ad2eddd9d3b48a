"""From a ConfigDict to frozen dataclasses: unknown keys fail here, with the nearest right name.

The defaults of every setting stand once, in the dataclass that uses it; an experiment file
(experiments/*.py) names only what it decides. `Experiment` is the whole of a run.
"""

import dataclasses
import difflib
import importlib
import json
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from videojax.checkpoint import CheckpointConfig
from videojax.controls import ControlsConfig
from videojax.data import LoaderConfig, SourceConfig, pipeline
from videojax.diffusion.denoiser import Denoiser
from videojax.diffusion.objective import Objective
from videojax.diffusion.process import make_process
from videojax.diffusion.samplers import Sampler
from videojax.errors import ConfigError, check_choice
from videojax.evaluate import EvaluateConfig, first
from videojax.optim import OptimConfig
from videojax.sample import GuidanceConfig
from videojax.sharding import MeshConfig
from videojax.task import CodecSpec, ConditionConfig, ModelSpec, Task
from videojax.xla_flags import PRESETS

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
  """The noise process by name with its settings, and the Denoiser's own fields."""

  prediction: str
  process: str = "rectified_flow"
  process_settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
  sigma_data: float = 1.0
  time_unit: str = "t"
  input: str = "unit"

  def make(self) -> Denoiser:
    process = make_process(self.process, **self.process_settings)
    return Denoiser(process, self.prediction, self.sigma_data, self.time_unit, self.input)


@dataclasses.dataclass(frozen=True)
class Experiment:
  """Everything that a run is.

  Attributes:
    total_steps: updates.
    batch_size: clips per update, over all devices.
    model: architecture and sizes.
    data: training sources by name; evaluate.source is the one that is measured.
    denoiser, objective, condition, controls, optim: what is learned and how.
    seed: of parameters, noise, the order of finite data and the stretch of endless data.
    accumulate: microbatches per update.
    mup_base_width: width at which `optim.learning_rate` was found and the model starts as written:
      other widths train by muP's rules (scaling/mup.py); None: the standard parametrisation.
    clips_per_device: batch_size for any number of devices (`on_devices`); None: as it stands.
    codec: between clips and what the model sees (videojax/codecs/); its weights do not train, and
      a checkpoint holds them beside the model's.
    ema: widths (sigma_rel) of the averages that are kept; the first is the one that is evaluated;
      none: the raw weights are.
    init_from: run directory whose EMA weights are taken, and nothing else; or published weights in
      safetensors (weights.py).
    init_fresh: regular expression; parameters whose path it matches (from the start) are not taken
      from there: the layers that an inflated model adds.
    branch_from: 'RUN@STEP', whose whole state is carried on.
    xla_flags: names of compiler options for the training step (xla_flags.PRESETS).
    steps_per_dispatch: updates per call of the compiled step; more than 1 where a step is shorter
      than what the host needs for it.
    log_every_steps: steps between lines of metrics.jsonl.
    tensorboard: also write TensorBoard events (extra `tensorboard`).
  """

  total_steps: int
  batch_size: int
  model: ModelSpec
  data: Mapping[str, SourceConfig]
  denoiser: DenoiserConfig
  objective: Objective
  condition: ConditionConfig
  optim: OptimConfig
  evaluate: EvaluateConfig
  checkpoint: CheckpointConfig
  seed: int = 0
  accumulate: int = 1
  mup_base_width: int | None = None
  clips_per_device: float | None = None
  ema: tuple[float, ...] = (0.1,)
  codec: CodecSpec = CodecSpec()
  controls: ControlsConfig = ControlsConfig()
  loader: LoaderConfig = LoaderConfig()
  mesh: MeshConfig = MeshConfig()
  sampler: Sampler = Sampler()
  guidance: GuidanceConfig = GuidanceConfig()
  init_from: str | None = None
  init_fresh: str | None = None
  branch_from: str | None = None
  xla_flags: tuple[str, ...] = ()
  steps_per_dispatch: int = 1
  log_every_steps: int = 10
  tensorboard: bool = False

  def __post_init__(self):
    counts = "total_steps", "batch_size", "accumulate", "steps_per_dispatch", "log_every_steps"
    for name in counts:
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)} must be >= 1")
    if self.batch_size % self.accumulate:
      raise ValueError(
        f"batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}"
      )
    object.__setattr__(self, "data", first(self.data, self.evaluate.source, "evaluate.source"))
    for name in self.xla_flags:
      check_choice("xla_flags", name, PRESETS)
    if self.init_from and self.branch_from:
      raise ValueError("init_from and branch_from exclude each other: weights, or the whole state")

  @property
  def trunk_end(self) -> int | None:
    """The last step that a longer run with the same schedule shares: its checkpoint is kept."""
    end = self.optim.decay_start(self.total_steps)
    return end if 0 < end < self.total_steps else None

  def on_devices(self, number: int) -> "Experiment":
    """The experiment with the batch of `number` devices, where it says how many clips each has."""
    if self.clips_per_device is None:
      return self
    return dataclasses.replace(self, batch_size=max(round(self.clips_per_device * number), 1))

  def task(self, name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """The task on the training source `name`, with some of the source's settings replaced.

    Raises:
      ConfigError: a setting of the source, or data that are not there or do not fit.
    """
    source, where = self.data[name], f"data.{name}"
    try:
      module = pipeline(source.name)
      config = build(module.Config, {**source.settings, **(settings or {})}, where)
      known = self.condition.known_frames
      clip = getattr(config, "frames", 1) not in (1, None)
      if clip and known and getattr(config, "known", known) != known:
        raise ConfigError(
          f"{where}.known={config.known} and condition.known_frames={known} must be equal: the "
          "known frames determine the rest of a clip"
        )
      return Task(
        source=module.Source(config),
        codec=self.codec,
        model=self.model,
        denoiser=self.denoiser.make(),
        objective=self.objective,
        condition=self.condition,
        controls=self.controls,
      )
    except ConfigError:
      raise
    except (ValueError, FileNotFoundError) as error:
      raise ConfigError(f"{where}: {error}") from error


# What makes two runs the same experiment (DESIGN section 3); the rest may change on resume.
IDENTITY = (
  "model", "codec", "data", "denoiser", "objective", "condition", "controls", "optim",
  "batch_size", "seed", "ema", "mup_base_width", "init_from", "init_fresh", "branch_from",
)  # fmt: skip
# Fields of the model that change how it is computed, not what.
EXECUTION = ("remat", "scan", "kernel", "context")
# What is data to a compiled training step: runs that differ in nothing else share it.
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
    if key not in values:
      raise ConfigError(f"the config lacks {key!r}")
  values["model"] = _model(dict(values["model"]))
  if "codec" in values:
    values["codec"] = _codec(dict(values["codec"]))
  values["data"] = {name: _source(name, dict(s)) for name, s in values["data"].items()}
  hints = typing.get_type_hints(Experiment)
  for key, value in values.items():
    if isinstance(value, Mapping) and key != "data" and key in hints:
      values[key] = build(hints[key], value, key)
  return build(Experiment, values, "the config")


def complete(config: ConfigDict) -> ConfigDict:
  """An experiment's decisions with the default of every other setting beside them.

  With it each setting can be changed on the command line (--config.optim.b2=.95), while its
  default stands in its dataclass alone. Unknown keys stay; `resolve` names them.
  """
  hints = typing.get_type_hints(Experiment)
  values = {k: v.to_dict() if isinstance(v, ConfigDict) else v for k, v in config.items()}
  defaults = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
  for name, cls in defaults.items():
    if name not in ("model", "codec"):
      values[name] = _with_defaults(cls, values.get(name, {}))
  if "model" in values:
    module = importlib.import_module(f"videojax.models.{values['model']['name']}")
    values["model"] = _with_defaults(module.Config, values["model"])
  codec = {"name": CodecSpec().name, **values.get("codec", {})}
  values["codec"] = _with_defaults(_codec_module(codec["name"]).Config, codec)
  for name, source in values.get("data", {}).items():
    settings = _with_defaults(pipeline(source["name"]).Config, source)
    values["data"][name] = {"weight": 1, **settings}
  return ConfigDict(_with_defaults(Experiment, values))


def _with_defaults(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
  out = dict(values)
  for field in dataclasses.fields(cls):
    if field.name in out:
      continue
    if field.default is not dataclasses.MISSING:
      default = field.default
      out[field.name] = placeholder(object) if default is None else default
    elif field.default_factory is not dataclasses.MISSING:
      out[field.name] = field.default_factory()
  return out


def _model(values: dict[str, Any]) -> ModelSpec:
  name = values.pop("name", None)
  try:
    module = importlib.import_module(f"videojax.models.{name}")
    module.Config, module.Model  # noqa: B018 (a helper file is no architecture)
  except (ModuleNotFoundError, AttributeError):
    raise ConfigError(
      f"model.name={name!r}: there is no architecture videojax/models/{name}.py"
    ) from None
  return ModelSpec(name, build(module.Config, values, "model"))


def _codec(values: dict[str, Any]) -> CodecSpec:
  name = values.pop("name", CodecSpec().name)
  return CodecSpec(name, build(_codec_module(name).Config, values, "codec"))


def _codec_module(name: str) -> ModuleType:
  try:
    return importlib.import_module(f"videojax.codecs.{name}")
  except ModuleNotFoundError:
    raise ConfigError(f"codec.name={name!r}: there is no codec videojax/codecs/{name}.py") from None


def _source(name: str, values: dict[str, Any]) -> SourceConfig:
  if "name" not in values:
    raise ConfigError(f"data.{name} lacks 'name', the module of data_pipelines/ that it comes from")
  module, weight = values.pop("name"), values.pop("weight", 1)
  try:
    return SourceConfig(module, weight, _tuples(values))
  except ValueError as error:
    raise ConfigError(f"data.{name}: {error}") from error


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
  """`cls(**values)`, with errors for people.

  Raises:
    ConfigError: on an unknown key (the nearest right one is named), a missing one, or a value
      that the dataclass refuses.
  """
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
  for key in values:
    if key not in fields:
      raise ConfigError(unknown(key, list(fields), where))
  missing = [
    name
    for name, f in fields.items()
    if f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
    and name not in values
  ]
  if missing:
    raise ConfigError(f"{where} lacks {', '.join(missing)}, which has no default")
  try:
    return cls(**_tuples(values))
  except (ValueError, TypeError) as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(f"{where}: {error}") from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
  """JSON has lists where dataclasses have tuples."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def unknown(key: str, known: list[str], where: str) -> str:
  close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
  hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))}"
  return f"{where} has no key {key!r}: {hint}"


def to_json(value: Any) -> Any:
  """Dataclasses, tuples and mappings -> what JSON holds, defaults included."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, tuple | list):
    return [to_json(v) for v in value]
  return value


def from_json(written: Mapping[str, Any]) -> Experiment:
  """The experiment of a config.json (the inverse of `to_json`).

  Settings that it lacks, being older than they are, have their defaults.
  """
  values = {key: value for key, value in written.items() if key != "changes"}
  for name in {"model", "codec"} & values.keys():
    values[name] = {"name": written[name]["name"], **written[name]["config"]}
  values["data"] = {
    name: {"name": s["name"], "weight": s["weight"], **s["settings"]}
    for name, s in values["data"].items()
  }
  return resolve(values)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
  """{'model.config.width': 128, ...} from nested JSON."""
  if not isinstance(value, dict):
    return {prefix: value}
  out: dict[str, Any] = {}
  for name, below in value.items():
    out |= flatten(below, f"{prefix}.{name}" if prefix else name)
  return out


def program_of(experiment: Experiment) -> str:
  """What runs must have in common to share one compiled program, as text to compare."""
  flat = flatten(to_json(experiment))
  kept = {k: v for k, v in flat.items() if k not in AS_DATA}
  if experiment.optim.name == "muon":  # the ratio of its two learning rates is in the program
    kept["optim.learning_rate"] = experiment.optim.learning_rate
  return json.dumps(kept, sort_keys=True)


def identity_of(resolved: dict[str, Any]) -> dict[str, Any]:
  """The part of a resolved config that must not change in a run, by dotted path."""
  kept = flatten({key: resolved[key] for key in IDENTITY})
  return {k: v for k, v in kept.items() if k.split(".")[-1] not in EXECUTION}
