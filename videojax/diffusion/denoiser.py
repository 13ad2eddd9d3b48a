"""From what a network says to (x0, noise): the only caller of a network.

Whatever is predicted is a combination o = a x0 + b n whose (a, b) depend on the noise level alone.
Together with x_t = alpha x0 + sigma n that is two equations for x0 and n, with determinant
d = alpha b - sigma a. So one table of (a, b) holds all conversions, targets and loss weights:

  prediction    a                      b                      |d|
  data          1                      0                      sigma
  noise         0                      1                      alpha
  v             -sigma                 alpha                  alpha^2 + sigma^2
  velocity      -1                     1                      alpha + sigma
  edm           sigma / (S sigma_d)    -alpha sigma_d / S     S / sigma_d

with S^2 = alpha^2 sigma_d^2 + sigma^2, the variance of x_t. Only the first two can be singular.

Legend: B batch, T frames, H W height width, C channels.
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

# Where a prediction says nothing (noise of clean data, data of pure noise) we divide by this at
# least: no conversion amplifies more than 1/EPSILON. Beyond log-SNR +-13.8 only; EDM's own levels
# and those of the linear schedule are not touched.
EPSILON = 1e-3

Mask = Bool[Array, "B T #H #W 1"] | Float[Array, "B T #H #W 1"]
Known = tuple[Mask, Float[Array, "B T H W C"]]


# A model with its parameters bound: network(x [B,T,H,W,C], t [B,1|T], cond, key=key) -> like x.
Network = Callable[..., Array]


class Denoised(NamedTuple):
  """What a denoiser knows of a noisy clip; x_t = alpha x0 + sigma noise."""

  x0: Float[Array, "B T H W C"]
  noise: Float[Array, "B T H W C"]
  output: Float[Array, "B T H W C"]  # the network's own, in the space of the prediction


def space(
  prediction: str, alpha: Float[Array, "*s"], sigma: Float[Array, "*s"], sigma_data: float
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
  """(a, b) of the predicted combination a x0 + b noise: the one table.

  Args:
    prediction: one of PREDICTIONS. 'v' is alpha n - sigma x and 'velocity' n - x under every
      process, also where alpha^2 + sigma^2 or alpha + sigma is not 1. 'edm' is EDM's F for the
      input x_t / alpha at noise sigma / alpha.
    alpha, sigma: the noise level.
    sigma_data: standard deviation of the data; used by 'edm' alone.
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
  """S, the standard deviation of x_t for data of standard deviation sigma_data."""
  return jnp.sqrt((alpha * sigma_data) ** 2 + sigma**2)


def target(
  prediction: str,
  x0: Float[Array, "B T H W C"],
  noise: Float[Array, "B T H W C"],
  alpha: Float[Array, "B L 1 1 1"],
  sigma: Float[Array, "B L 1 1 1"],
  sigma_data: float,
) -> Float[Array, "B T H W C"]:
  """What the network's output should be."""
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
  """|d|: how an error of x0 shows in a space, times sigma.

  Given x_t, an error e of x0 is an error -(alpha / sigma) e of the noise, hence |d| |e| / sigma of
  a x0 + b n. Ratios of two spaces' scales convert errors between them; sigma cancels, and nothing
  is divided by until the ratio is taken. Relative to x0 itself: error_scale(s) / sigma.
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
  """(x0, noise) with x0 replaced where it is known, and the noise that then explains x_t.

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
  """A network's view of a process: what it is shown, what it is told, what it predicts.

  By default the network sees x_t / S, S the standard deviation of x_t: EDM's c_in for x_t / alpha
  at noise sigma / alpha. Under a variance-preserving process with sigma_data = 1 this is x_t.

  Args:
    prediction: what the output is, one of PREDICTIONS (see `space`).
    process: the noise, by its name (process.PROCESSES), or itself.
    process_settings: fields of the named process.
    sigma_data: standard deviation of the data; 1 for normalised latents, EDM uses .5 for pixels.
    time_unit: what the network is told: 't' is 1000 t (DiT's sinusoid wants 0..1000), 'edm' is
      ln(sigma / alpha) / 4 (EDM's c_noise), held within +-ln(1 / EPSILON) / 4.
    input: 'unit' is x_t / S; 'raw' x_t itself, which published networks see under rectified flow
      and where data shrinks.
  Raises: ValueError for an unknown process, prediction, time unit or input, or sigma_data <= 0.
  Source: Karras et al. 2022, arXiv:2206.00364, Eq. 7 and Table 1.
  """

  prediction: str
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
    self.noise  # noqa: B018 (a process that there is not raises here)

  @functools.cached_property
  def noise(self) -> Process:
    """The process itself."""
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
    """Denoises clips, in float32 whatever the network computes in.

    Args:
      network: called as network(x, t_model, cond, key=key) -> like x.
      x_t: noisy clips.
      t: [B, 1] or [B, T], in [0, 1].
      cond: handed through.
      key: handed through (dropout): one per row, [B], or None.
      known: (mask, values), see `impose_known`. The network is not told: that is cond's business.
    """
    alpha, sigma = levels(self.noise, t, x_t)
    x_t = x_t.astype(jnp.float32)
    seen = x_t if self.input == "raw" else x_t / input_std(alpha, sigma, self.sigma_data)
    output = network(seen, self.model_time(t), cond, key=key).astype(jnp.float32)
    x0, noise = to_data_and_noise(self.prediction, x_t, output, alpha, sigma, self.sigma_data)
    x0, noise = impose_known(x0, noise, x_t, alpha, sigma, known)
    return Denoised(x0, noise, output)

  def model_time(self, t: Float[Array, "B L"]) -> Float[Array, "B L"]:
    """t in the network's unit."""
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
    """What the output should be for x_t = alpha x0 + sigma noise."""
    alpha, sigma = levels(self.noise, t, x0)
    return target(self.prediction, x0, noise, alpha, sigma, self.sigma_data)
