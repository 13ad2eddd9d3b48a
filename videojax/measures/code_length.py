"""Bits of a neural codec's latents and indices, with and without an entropy model.

Without one, an index costs log2 of its codebook. With one, it costs what an adaptive arithmetic
coder pays that knows nothing of the clip in advance and sends no table: before each symbol it
predicts from the symbols so far, separately per channel,

  p(s) = (n_s + a_s) / (n + sum of a),

where n_s counts the earlier occurrences of s in this clip and channel, and the a_s are fixed. For
indices a_s = 1/2 (Krichevsky & Trofimov 1981, 'The performance of universal encoding'). The
alphabet of quantised latents can exceed their number in a clip, so their a_s, K / 2 in sum as
before, lie as a logistic distribution of the channel's deviation has it. The product of all p does
not depend on the order and is a ratio of Gamma functions, so nothing is coded here: the result is
the exact ideal length, and a coder of sufficient precision writes at most 2 bits more per clip
(Cover & Thomas, 'Elements of information theory', 5.9).

What the decoder has in advance is not counted: its weights, means, deviations and the step. A
learned prior (a hyperprior, or a model that predicts from neighbours) would need fewer bits.

Shapes: N clips; `grid` a clip's positions, such as t h w; C channels; K symbols of an alphabet.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit, gammaln

REACH = 16  # deviations from the mean; latents beyond are clipped (0.4 % at most, by Chebyshev)
HALF = 0.5  # Krichevsky and Trofimov's a_s


def code_length(
  counts: Int[np.ndarray, "*groups K"], prior: float | Float[np.ndarray, " K"] = HALF
) -> Float[np.ndarray, "*groups"]:
  """Bits of the adaptive coder for sequences in which symbol s occurs counts[..., s] times.

  Args:
    prior: the a_s, all positive.
  """
  a = np.broadcast_to(np.asarray(prior, np.float64), counts.shape[-1:])
  return _length(counts, a, a.sum())


def _length(counts: np.ndarray, a: np.ndarray, total: float) -> np.ndarray:
  """`code_length` of symbols with these a_s; those that do not occur may be missing."""
  all_symbols = gammaln(counts.sum(-1) + total) - gammaln(total)
  return np.asarray((all_symbols - np.sum(gammaln(counts + a) - gammaln(a), -1)) / math.log(2))


def fixed_length_bits(sizes: Sequence[int], positions: int) -> float:
  """Bits per clip without an entropy model: log2 of each channel's codebook, at each position."""
  return positions * sum(math.log2(size) for size in sizes)


def index_bits(
  indices: Int[np.ndarray, "N *grid C"], sizes: Sequence[int]
) -> Float[np.ndarray, " N"]:
  """Bits of each clip's indices under the adaptive coder.

  Args:
    indices: one channel per codebook: C = 1 for a single one, one per dimension for FSQ.
    sizes: number of codes of each channel.
  Raises:
    ValueError: an index is not in its codebook, or `sizes` and the channels differ in number.
  """
  return _bits(indices, sizes, HALF)


def quantize(
  latents: Float[np.ndarray, "N *grid C"],
  *,
  step: float,
  mean: Float[np.ndarray, " C"],
  deviation: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "N *grid C"], Float[np.ndarray, "N *grid C"]]:
  """Rounds latents to the nearest of mean + deviation x step x integer.

  Args:
    step: in deviations.
    mean, deviation: of each channel over the training clips (the decoder has no others).
  Returns: the integers, and the latents that the decoder gets.
  Raises:
    ValueError: step or a deviation is not positive, or a latent is not finite.
  """
  _check_step(step)
  if not (np.all(deviation > 0) and np.all(np.isfinite(deviation))):
    raise ValueError(f"deviation={deviation}: each channel's must be positive and finite")
  if not np.all(np.isfinite(latents)):
    raise ValueError("a latent is NaN or infinite, and cannot be quantised")
  unit = np.asarray(deviation, np.float64) * step
  end = _end(step)
  symbols = np.clip(np.rint((latents - mean) / unit), -end, end).astype(np.int64)
  return symbols, (mean + symbols * unit).astype(latents.dtype)


def latent_bits(symbols: Int[np.ndarray, "N *grid C"], step: float) -> Float[np.ndarray, " N"]:
  """Bits of each clip's quantised latents under the adaptive coder.

  Args:
    symbols, step: of `quantize`.
  Raises:
    ValueError: step is not positive, or `quantize` gives no such symbol at this step.
  """
  _check_step(step)
  end = _end(step)
  size = 2 * end + 1
  return _bits(symbols + end, [size] * symbols.shape[-1], _logistic(step))


def _end(step: float) -> int:
  """The largest symbol."""
  return max(1, round(REACH / step))


def _check_step(step: float) -> None:
  if not 0 < step < math.inf:
    raise ValueError(f"step={step} must be positive and finite, in deviations of a channel")


def _logistic(step: float) -> Float[np.ndarray, " K"]:
  """a_s of latents: K / 2 in sum, as a logistic distribution of deviation 1 has its mass."""
  away = np.abs(np.arange(-_end(step), _end(step) + 1))  # the lower tail, where expit is exact
  sharp = step * math.pi / math.sqrt(3)
  mass = expit((0.5 - away) * sharp) - expit((-0.5 - away) * sharp)
  return mass / mass.sum() * len(mass) / 2


def _bits(
  symbols: np.ndarray, sizes: Sequence[int], prior: float | Float[np.ndarray, " K"]
) -> Float[np.ndarray, " N"]:
  clips, channels = symbols.shape[0], symbols.shape[-1]
  if len(sizes) != channels:
    raise ValueError(f"{len(sizes)} codebooks for {channels} channels: there must be one for each")
  flat = symbols.reshape(clips, -1, channels)
  bits = np.zeros(clips)
  for channel, size in enumerate(sizes):
    low, high = flat[..., channel].min(), flat[..., channel].max()
    if low < 0 or high >= size:
      raise ValueError(
        f"channel {channel} has symbols {low}..{high}, but its codebook has 0..{size - 1}"
      )
    a = np.broadcast_to(np.asarray(prior, np.float64), (size,))
    for clip in range(clips):
      seen, counts = np.unique(flat[clip, :, channel], return_counts=True)
      bits[clip] += _length(counts, a[seen], a.sum())
  return bits
