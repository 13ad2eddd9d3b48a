"""Quantisers without a learned codebook: of each number to a few levels (FSQ), or its sign (LFQ).

A code is a point of a grid; its index counts the grid's points, the first number fastest. Gradients
pass through the rounding unchanged (straight through).

Shapes: B any leading axes, D numbers of a code, N codes in all.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from videojax import settings
from videojax.models.layers import lead
from videojax.settings import NonNegative, Positive, Width

MOST_BITS = 24  # of LFQ's codes, over all of which its loss sums


@dataclasses.dataclass(frozen=True)
class FSQ:
  """Finite scalar quantisation: number i takes `levels[i]` values, evenly spaced in [-1, 1].

  Source: Mentzer et al. 2023, arXiv:2309.15505, section 3.1 and appendix A.1; the computation is
  that of FSQuantizer in NVIDIA's Cosmos-Tokenizer.
  """

  levels: tuple[Width, ...]

  def __post_init__(self):
    settings.check(self)
    if not self.levels or min(self.levels) < 2:
      raise ValueError(f"levels={self.levels} must be two or more for each number of a code")
    if self.number > settings.MOST:
      raise ValueError(f"levels={self.levels} give {self.number} codes, more than indices count")

  @property
  def number(self) -> int:
    """Size of the codebook."""
    return math.prod(self.levels)

  def quantize(
    self, z: Float[Array, "*B D"]
  ) -> tuple[Float[Array, "*B D"], Int[Array, "*B"], Float[Array, ""]]:
    """Codes, their indices, and the loss that trains the codebook: 0."""
    bounded = self.bound(z.astype(jnp.float32))
    whole = jnp.round(bounded)
    codes = straight_through(bounded, whole) / row(self._halves, z)
    return codes, self._index(whole), jnp.zeros(())

  def bound(self, z: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Numbers that round to -(L//2), .., (L-1)//2; 0 stays 0."""
    levels = np.array(self.levels)
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = np.where(levels % 2, 0.0, 0.5)
    shift = np.arctanh(offset / half)
    return jnp.tanh(z + row(shift, z)) * row(half, z) - row(offset, z)

  def indices_of(self, codes: Float[Array, "*B D"]) -> Int[Array, "*B"]:
    """The inverse of `codes_of`."""
    return self._index(jnp.round(codes * row(self._halves, codes)))

  def codes_of(self, indices: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    digits = digits_of(indices, self.levels)
    return digits / row(self._halves, digits) - 1

  @property
  def _halves(self) -> np.ndarray:
    return np.array(self.levels) // 2

  def _index(self, whole: Float[Array, "*B D"]) -> Int[Array, "*B"]:
    return index_of(whole + row(self._halves, whole), self.levels)


@dataclasses.dataclass(frozen=True)
class LFQ:
  """Lookup-free quantisation: each number is a bit, its sign, with codes in {-1, 1}.

  Source: Yu et al. 2024 (MAGVIT-v2), arXiv:2310.05737, section 3.2, equations 3 to 5. Temperature
  and weights are those of LFQuantizer in NVIDIA's Cosmos-Tokenizer.

  Attributes:
    bits: D, so that there are 2^D codes.
    entropy: weight of the loss that makes codes confident and evenly used.
    commitment: weight of the squared distance of numbers from their codes.
    temperature: squared distances from codes, divided by it, are minus the logits of the codes.
  """

  bits: Width
  entropy: NonNegative = 0.1
  commitment: NonNegative = 0.25
  temperature: Positive = 0.01

  def __post_init__(self):
    settings.check(self)
    if self.bits > MOST_BITS:
      raise ValueError(f"bits={self.bits} must be <= {MOST_BITS}: the loss sums over 2^bits codes")

  @property
  def number(self) -> int:
    """Size of the codebook."""
    return 2**self.bits

  def quantize(
    self, z: Float[Array, "*B D"]
  ) -> tuple[Float[Array, "*B D"], Int[Array, "*B"], Float[Array, ""]]:
    """Codes, their indices, and the weighted loss, over all codes of the batch."""
    z = z.astype(jnp.float32)
    codes = jnp.where(z > 0, 1.0, -1.0)
    loss = self.entropy * self.entropy_loss(z) + self.commitment * jnp.square(z - codes).mean()
    return straight_through(z, codes), self.indices_of(codes), loss

  def entropy_loss(self, z: Float[Array, "*B D"]) -> Float[Array, ""]:
    """Mean entropy of a code's distribution minus the entropy of the mean distribution, in nats.

    Bits of one code are independent, so the former is a sum over bits; the latter is exact too.
    """
    logits = (4 / self.temperature) * z.reshape(-1, self.bits)  # of a 1: [N,D]
    size = jnp.abs(logits)
    entropy = jax.nn.softplus(-size) + size * jax.nn.sigmoid(-size)
    # A code's probability is a product over two halves of its bits; [N,2^D] is never formed.
    first, second = (_joint(half) for half in jnp.split(logits, [self.bits // 2], 1))
    how = jax.lax.Precision.HIGHEST
    mean = jnp.einsum("na,nb->ab", first, second, precision=how) / len(logits)
    return entropy.sum(-1).mean() - _entropy(mean)

  def indices_of(self, codes: Float[Array, "*B D"]) -> Int[Array, "*B"]:
    """The inverse of `codes_of`."""
    return index_of(codes > 0, (2,) * self.bits)

  def codes_of(self, indices: Int[Array, "*B"]) -> Float[Array, "*B D"]:
    return 2.0 * digits_of(indices, (2,) * self.bits) - 1


def codebook_use(
  indices: Int[Array, "*B"], number: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Share of the codes that occur, and the perplexity of those that do: exp of their entropy."""
  counts = jnp.bincount(indices.reshape(-1), length=number)
  return (counts > 0).mean(), jnp.exp(_entropy(counts / indices.size))


def straight_through(z: Array, value: Array) -> Array:
  """The value, exactly, with z's gradient."""
  return jax.lax.stop_gradient(value) + (z - jax.lax.stop_gradient(z))


def row(values: np.ndarray, like: Array) -> Array:
  """One value for each number of a code, to broadcast."""
  return lead(jnp.asarray(values, jnp.float32), like)


def index_of(digits: Array, bases: Sequence[int]) -> Int[Array, "*B"]:
  """The integer with these digits, the first one least significant."""
  weights = np.cumprod([1, *bases[:-1]])
  return (digits.astype(jnp.int32) * lead(jnp.asarray(weights, jnp.int32), digits)).sum(-1)


def digits_of(indices: Int[Array, "*B"], bases: Sequence[int]) -> Int[Array, "*B D"]:
  """The inverse of `index_of`."""
  weights = np.cumprod([1, *bases[:-1]])
  return jnp.stack([indices // int(w) % int(n) for w, n in zip(weights, bases)], -1)


def _joint(logits: Float[Array, "N d"]) -> Float[Array, "N codes"]:
  """Probabilities of all codes of these bits: [N,2^d]."""
  p = jnp.ones((len(logits), 1))
  for i in range(logits.shape[1]):
    one = logits[:, i : i + 1]
    p = jnp.concatenate([p * jax.nn.sigmoid(-one), p * jax.nn.sigmoid(one)], 1)
  return p


def _entropy(p: Array) -> Float[Array, ""]:
  """In nats; with a finite gradient at p = 0."""
  return -(p * jnp.log(jnp.maximum(p, 1e-30))).sum()
