"""Reads safetensors files one tensor at a time; returns only finite floating-point numbers.

No other module calls the library: its errors become a ConfigError with the file's name.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from videojax.errors import ConfigError
from videojax.io.files import read_json, replacing

STEM = "diffusion_pytorch_model"  # diffusers' name of the files in a model's directory
INDEX = ".index.json"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# Smaller types (fp8, int8) are quantized: without their scales they are not the weights.
FLOATS = ("F64", "F32", "F16", "BF16")


class Tensors:
  """Named tensors of a safetensors file, or of several with an index; read one by one.

  Args:
    path: a file, an index, or a directory with either (as diffusers and transformers write it).
  Raises:
    ConfigError: the path is a pickle, or has no such files, or damaged ones.
  """

  def __init__(self, path: Path):
    if path.suffix.lower() in PICKLES:
      raise ConfigError(
        f"{path} is a pickle; reading one can run arbitrary code. Convert it where you trust "
        "it: python -c \"import torch, safetensors.torch as s; w = torch.load('FILE', "
        "weights_only=True); s.save_file(w.get('state_dict', w), 'FILE.safetensors')\""
      )
    self.file: dict[str, Path] = {}
    self.shape: dict[str, tuple[int, ...]] = {}
    self.dtype: dict[str, str] = {}
    for file in _files(path):
      with _opened(file) as f:
        for name in f.keys():  # noqa: SIM118 (f is no mapping)
          if name in self.file:
            raise ConfigError(f"{name} is in {self.file[name]} and in {file}")
          part = f.get_slice(name)
          self.file[name], self.shape[name] = file, tuple(part.get_shape())
          self.dtype[name] = part.get_dtype()

  def read(self, name: str) -> np.ndarray:
    """Reads a tensor as float32.

    Raises:
      ConfigError: the tensor is not floating-point, or has a value that is not finite.
    """
    where = f"tensor {name} of {self.file[name]}"
    if self.dtype[name] not in FLOATS:
      raise ConfigError(
        f"{where} has type {self.dtype[name]}; weights must be one of {', '.join(FLOATS)}: "
        "convert quantized weights first, with their scales"
      )
    with _opened(self.file[name]) as f, np.errstate(over="ignore"):
      value = f.get_tensor(name).astype(np.float32, copy=False)
    if not np.isfinite(value).all():
      bad = int(value.size - np.isfinite(value).sum())
      raise ConfigError(f"{where}: {bad} of {value.size} values are not finite in float32")
    return value


def write(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
  """Writes a file atomically.

  Raises:
    ConfigError: it cannot be written, e.g. because the disk is full.
  """
  try:
    with replacing(file) as temporary:
      save_file(dict(tensors), temporary, metadata={"format": "pt"})
  except (SafetensorError, OSError) as error:
    raise ConfigError(f"{file} cannot be written: {error}") from None


def _files(path: Path) -> list[Path]:
  if os.path.isdir(path):
    choices = [path / f"{STEM}.safetensors", path / f"{STEM}.safetensors{INDEX}"]
    found = [p for p in choices if p.exists()] or sorted(path.glob("*.safetensors"))
    if len(found) > 1:
      found = sorted(path.glob(f"*.safetensors{INDEX}")) or found
    if len(found) != 1:
      raise ConfigError(
        f"{path} is not a run directory, and has {len(found)} safetensors files"
        + (f": name one of {', '.join(p.name for p in found)}" if found else "")
      )
    path = found[0]
  if not os.path.lexists(path):
    raise ConfigError(f"{path} is not a run directory, and there is no such file")
  return _indexed(path) if path.name.endswith(INDEX) else [path]


def _indexed(index: Path) -> list[Path]:
  """The files that an index names, which must be in its directory.

  A file may be a link (Hugging Face's cache consists of them): links are created on this machine,
  whereas an index is downloaded.
  """
  content = read_json(index)
  named = content.get("weight_map") if isinstance(content, dict) else None
  if not isinstance(named, dict) or not named:
    raise ConfigError(f"{index} is damaged: its weight_map must give the file of every tensor")
  for tensor, name in named.items():
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name:
      raise ConfigError(
        f"{index}: weight_map gives {name!r} for {tensor}; it must be the name of a file beside "
        "the index"
      )
  return [index.parent / name for name in sorted(set(named.values()))]


def _opened(file: Path) -> Any:
  if not os.path.isfile(file):  # reading a pipe would block forever
    raise ConfigError(f"{file} does not exist, or is not a regular file")
  try:
    return safe_open(file, framework="numpy")
  except (SafetensorError, OSError) as error:
    raise ConfigError(f"{file} cannot be read as safetensors: {error}") from None
