"""The one FLOP accounting: of MFU, budgets, laws and prices.

A model lists its matrix products in multiply-accumulates (MACs) of one forward pass of one clip;
everything else is convention, and each convention has a name here.

  FLOP        2 per MAC. The DiT paper's "Gflops" are GMACs.
  forward     every matrix product and convolution; norms, softmax, activations are not counted.
  backward    exact: one product per gradient that exists, so none for the inputs of first layers.
  step        3 x forward: the convention of MFU, of budgets and of every other code base.
  hardware    4 x forward: what the chip does in a step under full remat, which repeats the forward
              pass. MFU divides the model's FLOPs by the peak, HFU these.
  N           total; non-embedding: without tables that are looked up, not multiplied; effective:
              the N for which 6 N per token is the step (`effective_parameters`).
Full, causal or factorised attention, and adaLN once a clip or once a folded row, are not options
here: a model lists the products that it does.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from videojax.errors import check_choice

# What JAX calls a chip that its maker calls otherwise.
KINDS = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}
# dense bf16 FLOP/s of one chip (one device of JAX where a chip has two: v4 and before, tpu7x).
PEAK_FLOPS_PER_S = {
  "NVIDIA H100": 989.4e12,  # NVIDIA H100 datasheet, SXM, without sparsity
  "NVIDIA H200": 989.4e12,  # NVIDIA H200 datasheet, SXM
  "NVIDIA B200": 2250e12,  # NVIDIA HGX B200 datasheet: 36 PFLOP/s for 8, with sparsity
  "NVIDIA A100": 312e12,  # NVIDIA A100 datasheet
  "NVIDIA L4": 121e12,  # NVIDIA L4 datasheet, without sparsity
  "TPU v4": 275e12,  # Google Cloud TPU documentation, per chip (megacore: one device)
  "TPU v5e": 197e12,  # Google Cloud TPU documentation
  "TPU v5p": 459e12,  # Google Cloud TPU documentation
  "TPU v6e": 918e12,  # Google Cloud TPU documentation, Trillium
  "TPU7x": 2307e12 / 2,  # Google Cloud TPU documentation, Ironwood: 2307 a chip of two devices
}  # fmt: skip

PF_DAY = 8.64e19  # FLOP: 1e15 a second for 86,400 seconds

PER_MAC = {"mac": 1, "flop": 2}  # the units of `count`
FORWARDS = {"forward": 1, "step": 3, "hardware": 4}  # what `count` counts, in forward passes


class Product(NamedTuple):
  """One matrix product of a forward pass; models list them.

  Attributes:
    part: what it is counted under ('attention scores', 'mlp', ...).
    macs: multiply-accumulates per clip.
    input_grad: False where no gradient flows to its input, so that the backward pass is one
      product instead of two.
  """

  part: str
  macs: int
  input_grad: bool = True


def forward(products: Iterable[Product]) -> dict[str, int]:
  """FLOPs of one forward pass of one clip, by part and 'total'."""
  out: dict[str, int] = {}
  for product in products:
    out[product.part] = out.setdefault(product.part, 0) + 2 * product.macs
  return out | {"total": sum(out.values())}


def backward(products: Iterable[Product]) -> int:
  """Exact FLOPs of one clip's backward pass: of weights, and of inputs that need a gradient."""
  return sum(2 * p.macs * (2 if p.input_grad else 1) for p in products)


def step(products: Iterable[Product]) -> dict[str, int]:
  """Model FLOPs of one training step of one clip, by part: 3 x forward."""
  return {part: 3 * flops for part, flops in forward(products).items()}


def count(
  products: Iterable[Product], *, unit: str = "flop", work: str = "forward"
) -> dict[str, int]:
  """One clip's work under named conventions, by part and 'total'.

  Args:
    products: of one forward pass of one clip.
    unit: 'flop', or 'mac' as the DiT paper's table.
    work: 'forward', 'step', or 'hardware' (see the top of this file).
  """
  check_choice("unit", unit, PER_MAC)
  check_choice("work", work, FORWARDS)
  return {
    part: flops // 2 * PER_MAC[unit] * FORWARDS[work] for part, flops in forward(products).items()
  }


def effective_parameters(products: Iterable[Product], tokens: int) -> float:
  """N such that 6 N FLOPs a token is the training step: multiply-accumulates per token.

  Below the total where weights work once a clip (adaLN), above it where attention scores weigh.
  """
  return count(products, unit="mac")["total"] / tokens


def chip(device_kind: str) -> str | None:
  """The chip's name in PEAK_FLOPS_PER_S; None for a device that it does not know (a CPU)."""
  names = [name for name in (*PEAK_FLOPS_PER_S, *KINDS) if device_kind.startswith(name)]
  longest = max(names, key=len, default=None)
  return KINDS.get(longest, longest) if longest else None


def peak_flops_per_s(device_kind: str) -> float | None:
  """The chip's dense bf16 peak; None: unknown."""
  name = chip(device_kind)
  return PEAK_FLOPS_PER_S[name] if name else None


def count_jaxpr(jaxpr: Any) -> int:
  """FLOPs of every dot_general and convolution of a jaxpr; a scan's body times its length.

  For checking the analytic numbers: `count_jaxpr(jax.make_jaxpr(f)(*args).jaxpr)`.
  """
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contract, _), _ = eqn.params["dimension_numbers"]
      depth = np.prod([eqn.invars[0].aval.shape[i] for i in contract], dtype=int)
      total += 2 * int(np.prod(eqn.outvars[0].aval.shape, dtype=int) * depth)
    elif eqn.primitive.name == "conv_general_dilated":
      kernel = eqn.invars[1].aval.shape
      out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
      per_output = int(np.prod(kernel, dtype=int)) // out_features
      total += 2 * int(np.prod(eqn.outvars[0].aval.shape, dtype=int)) * per_output
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    total += times * sum(count_jaxpr(inner) for inner in _inner_jaxprs(eqn.params))
  return total


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, Jaxpr):
        found.append(item)
  return found
