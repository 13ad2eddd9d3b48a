"""Latents that were computed before training: which codec made them, and whether it is a run's.

Latents of another codec have the same shape and about the same statistics, so a model would train
on them without an error, and its samples would decode to nothing. Hence the hash of parameters.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from videojax.errors import ConfigError
from videojax.io.integrity import params_sha256

# Settings that say where a codec is read from and how it computes, not what it is.
NOT_THE_CODEC = ("weights", "frames", "tile", "kernel")


def config_json(config: Any) -> dict[str, Any]:
  """A codec's Config as JSON, without NOT_THE_CODEC."""
  values = json.loads(json.dumps(dataclasses.asdict(config)))
  return {name: value for name, value in values.items() if name not in NOT_THE_CODEC}


@dataclasses.dataclass(frozen=True)
class Cached:
  """Where cached latents are, and the codec that made them.

  Attributes:
    path: of the dataset, for messages.
    name: the codec's module.
    config: its `config_json`.
    params_sha256: of its parameters (integrity.params_sha256).
  """

  path: str
  name: str
  config: Mapping[str, Any]
  params_sha256: str

  def check_codec(self, name: str, config: Any) -> None:
    """Raises ConfigError unless the run's codec has this name and Config."""
    own = config_json(config)
    differing = [
      f"{key} {self.config.get(key)!r} there, {own.get(key)!r} here"
      for key in sorted({*own, *self.config})
      if own.get(key) != self.config.get(key)
    ]
    if name == self.name and not differing:
      return
    told = f"has other settings ({'; '.join(differing)})" if name == self.name else f"is {name!r}"
    raise ConfigError(
      f"{self.path} holds latents of the codec {self.name!r}, but the run's codec {told}: set the "
      "codec's name and sizes to those that encoded the clips, or encode them again"
    )

  def check_params(self, params: Any, weights: str | None) -> None:
    """Raises ConfigError unless these are the parameters that made the latents.

    Args:
      params: of the run's codec.
      weights: where they come from; None: they are random.
    """
    own = params_sha256(params)
    if own == self.params_sha256:
      return
    whose = "are random (codec.weights is not set)" if weights is None else f"come from {weights}"
    raise ConfigError(
      f"{self.path} holds latents of other parameters of the codec {self.name!r}: their SHA-256 "
      f"is {self.params_sha256[:12]}..., that of the run's codec, whose parameters {whose}, is "
      f"{own[:12]}...: set codec.weights to what encoded the clips, or encode them again"
    )
