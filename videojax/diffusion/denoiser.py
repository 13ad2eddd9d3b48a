"""From a network's output to (x0, noise): the only caller of a network.

Every prediction is a combination o = a x0 + b n whose (a, b) depend on the noise level alone.
Together with x_t = alpha x0 + sigma n it gives two equations for x0 and n, with determinant
d = alpha b - sigma a. So all conversions, targets and loss weights follow from one table of (a, b):

  prediction    a                      b                      |d|
  data          1                      0                      sigma
  noise         0                      1                      alpha
  v             -sigma                 alpha                  alpha^2 + sigma^2
  velocity      -1                     1                      alpha + sigma
  edm           sigma / (S sigma_d)    -alpha sigma_d / S     S / sigma_d

with S^2 = alpha^2 sigma_d^2 + sigma^2, the variance of x_t. |d| can vanish only for the first two.

Shapes: B batch, T frames, H W height width, C channels.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from videojax import settings
from videojax.diffusion.process import Process, levels, make_process
from videojax.errors import check_choice
from videojax.settings import Positive

PREDICTIONS = ("data", "noise", "v", "velocity", "edm")
TIME_UNITS = ("t", "edm")
INPUTS = ("unit", "raw")

# Smallest divisor where a prediction carries no information (noise of clean data, data of pure
# noise), so that no conversion amplifies by more than 1/EPSILON. It matters only beyond log-SNR
# +-13.8; EDM's own levels and those of the linear schedule are not affected.
EPSILON = 1e-3

Mask = Bool[Array, "B T #H #W 1"] | Float[Array, "B T #H #W 1"]
Known = tuple[Mask, Float[Array, "B T H W C"]]


# A model with its parameters bound: network(x [B,T,H,W,C], t [B,1|T], cond, key=key) -> like x.
Network = Callable[..., Array]


class Denoised(NamedTuple):
  """A denoiser's estimates for a noisy clip x_t = alpha x0 + sigma noise."""

  x0: Float[Array, "B T H W C"]
  noise: Float[Array, "B T H W C"]
  output: Float[Array, "B T H W C"]  # the network's output, in the space of the prediction


def space(
  prediction: str, alpha: Float[Array, "*s"], sigma: Float[Array, "*s"], sigma_data: float
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
  """(a, b) of the predicted combination a x0 + b noise (the table above).

  Args:
    prediction: one of PREDICTIONS. 'v' is alpha n - sigma x0 and 'velocity' n - x0 under every
      process, even if alpha^2 + sigma^2 or alpha + sigma is not 1. 'edm' is EDM's F for the input
      x_t / alpha at noise sigma / alpha.
    alpha, sigma: the noise level.
    sigma_data: standard deviation of the data; used only by 'edm'.
  Raises: ValueError for an unknown prediction.
  Source: v: Salimans & Ho 2022, arXiv:2202.00512, section 4 and appendix D. F: Karras et al. 2022,
    arXiv:2206.00364, Eq. 7 solved for F, with c_skip and c_out of Table 1.
  """
  check_choice("prediction", prediction, PREDICTIONS)
  zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
  if prediction == "data":
    return one, zero
  if prediction == "noise":
    return zero, one
  if prediction == "v":
    return -sigma, alpha
  if prediction == "velocity":
    return -one, one
  scale = input_std(alpha, sigma, sigma_data)
  return sigma / (scale * sigma_data), -alpha * sigma_data / scale


def input_std(
  alpha: Float[Array, "*s"], sigma: Float[Array, "*s"], sigma_data: float
) -> Float[Array, "*s"]:
  """S, the standard deviation of x_t for data with standard deviation sigma_data."""
  return jnp.sqrt((alpha * sigma_data) ** 2 + sigma**2)


def target(
  prediction: str,
  x0: Float[Array, "B T H W C"],
  noise: Float[Array, "B T H W C"],
  alpha: Float[Array, "B L 1 1 1"],
  sigma: Float[Array, "B L 1 1 1"],
  sigma_data: float,
) -> Float[Array, "B T H W C"]:
  """The training target of the network's output."""
  a, b = space(prediction, alpha, sigma, sigma_data)
  return a * x0 + b * noise


def to_data_and_noise(
  prediction: str,
  x_t: Float[Array, "B T H W C"],
  output: Float[Array, "B T H W C"],
  alpha: Float[Array, "B L 1 1 1"],
  sigma: Float[Array, "B L 1 1 1"],
  sigma_data: float,
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B T H W C"]]:
  """(x0, noise) that the output implies at x_t; finite at every level (see EPSILON)."""
  if prediction == "data":
    return output, (x_t - alpha * output) / jnp.maximum(sigma, EPSILON)
  if prediction == "noise":
    return (x_t - sigma * output) / jnp.maximum(alpha, EPSILON), output
  a, b = space(prediction, alpha, sigma, sigma_data)
  d = alpha * b - sigma * a  # never small for these
  return (b * x_t - sigma * output) / d, (alpha * output - a * x_t) / d


def error_scale(
  prediction: str, alpha: Float[Array, "*s"], sigma: Float[Array, "*s"], sigma_data: float
) -> Float[Array, "*s"]:
  """|d|: sigma times the error in a prediction space per unit error of x0.

  Given x_t, an error e of x0 is an error -(alpha / sigma) e of the noise, hence |d| |e| / sigma of
  a x0 + b n. The ratio of two spaces' scales converts errors between them; sigma cancels, so there
  is no division before the ratio. The scale relative to x0 is error_scale(s) / sigma.
  """
  a, b = space(prediction, alpha, sigma, sigma_data)
  return jnp.abs(alpha * b - sigma * a)


def impose_known(
  x0: Float[Array, "B T H W C"],
  noise: Float[Array, "B T H W C"],
  x_t: Float[Array, "B T H W C"],
  alpha: Float[Array, "B L 1 1 1"],
  sigma: Float[Array, "B L 1 1 1"],
  known: Known | None,
) -> tuple[Float[Array, "B T H W C"], Float[Array, "B T H W C"]]:
  """(x0, noise) with x0 replaced where it is known, and the noise then implied by x_t.

  Args:
    known: (mask, values), mask [B, T, 1|H, 1|W, 1] true (1) where known, values like x0; or None.
  """
  if known is None:
    return x0, noise
  mask, values = known[0].astype(bool), known[1].astype(jnp.float32)
  implied = (x_t - alpha * values) / jnp.maximum(sigma, EPSILON)
  return jnp.where(mask, values, x0), jnp.where(mask, implied, noise)


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A network's interface to a process: its input, its time unit and its prediction.

  By default the network sees x_t / S, where S is the standard deviation of x_t: EDM's c_in for
  x_t / alpha at noise sigma / alpha. Under a variance-preserving process with sigma_data = 1 this
  is x_t.

  Args:
    prediction: meaning of the output, one of PREDICTIONS (see `space`).
    process: the noise process, as an object or a name in process.PROCESSES.
    process_settings: fields of the named process.
    sigma_data: standard deviation of the data; 1 for normalised latents, EDM uses .5 for pixels.
    time_unit: the network's noise-level input: 't' is 1000 t (DiT's sinusoid expects 0..1000),
      'edm' is ln(sigma / alpha) / 4 (EDM's c_noise), clipped to +-ln(1 / EPSILON) / 4.
    input: 'unit' is x_t / S; 'raw' is x_t itself, which published networks see under rectified flow
      and under ScaledLinear with data_scale < 1.
  Raises: ValueError for an unknown process, prediction, time unit or input, or sigma_data <= 0.
  Source: Karras et al. 2022, arXiv:2206.00364, Eq. 7 and Table 1.
  """

  prediction: str = "velocity"
  process: str | Process = "rectified_flow"
  process_settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
  sigma_data: Positive = 1.0
  time_unit: str = "t"
  input: str = "unit"

  def __post_init__(self) -> None:
    settings.check(self)
    check_choice("prediction", self.prediction, PREDICTIONS)
    check_choice("time_unit", self.time_unit, TIME_UNITS)
    check_choice("input", self.input, INPUTS)
    self.noise  # noqa: B018 (raises here if the process does not exist)

  @functools.cached_property
  def noise(self) -> Process:
    """The noise process as an object."""
    if isinstance(self.process, Process):
      return self.process
    return make_process(self.process, **self.process_settings)

  def __call__(
    self,
    network: Network,
    x_t: Float[Array, "B T H W C"],
    t: Float[Array, "B L"],
    cond: Any,
    *,
    key: Any = None,
    known: Known | None = None,
  ) -> Denoised:
    """Denoises clips, in float32 whatever the network's dtype.

    Args:
      network: called as network(x, t_model, cond, key=key) -> like x.
      x_t: noisy clips.
      t: [B, 1] or [B, T], in [0, 1].
      cond: passed to the network.
      key: passed to the network (dropout): one per row, [B], or None.
      known: (mask, values), see `impose_known`. Not passed to the network, which sees cond.
    """
    alpha, sigma = levels(self.noise, t, x_t)
    x_t = x_t.astype(jnp.float32)
    seen = x_t if self.input == "raw" else x_t / input_std(alpha, sigma, self.sigma_data)
    output = network(seen, self.model_time(t), cond, key=key).astype(jnp.float32)
    x0, noise = to_data_and_noise(self.prediction, x_t, output, alpha, sigma, self.sigma_data)
    x0, noise = impose_known(x0, noise, x_t, alpha, sigma, known)
    return Denoised(x0, noise, output)

  def model_time(self, t: Float[Array, "B L"]) -> Float[Array, "B L"]:
    """t in the network's time unit."""
    if self.time_unit == "t":
      return 1000.0 * t.astype(jnp.float32)
    bound = -2.0 * math.log(EPSILON)
    return -0.125 * jnp.clip(self.noise.log_snr(t), -bound, bound)

  def target(
    self,
    x0: Float[Array, "B T H W C"],
    noise: Float[Array, "B T H W C"],
    t: Float[Array, "B L"],
  ) -> Float[Array, "B T H W C"]:
    """The training target of the output for x_t = alpha x0 + sigma noise."""
    alpha, sigma = levels(self.noise, t, x0)
    return target(self.prediction, x0, noise, alpha, sigma, self.sigma_data)
