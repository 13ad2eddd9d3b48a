"""The only FLOP accounting, used for MFU, budgets, laws and prices.

The matrix products and convolutions of a network are read from its traced forward pass and counted
in multiply-accumulates (MACs) for one clip. Everything else is convention, and each convention has
a name here.

  FLOP        2 per MAC. The DiT paper's "Gflops" are GMACs.
  forward     every matrix product and convolution; norms, softmax, activations are not counted.
              A convolution counts its padding; attention counts all scores, masked or not.
  backward    exact: one product per gradient that is needed, so none for first layers' inputs.
  step        3 x forward: the convention for MFU and budgets, and of every other code base.
  hardware    4 x forward: what the chip computes in a step under full remat, which repeats the
              forward pass. MFU divides the model FLOPs by the peak; HFU divides these.
  N           total; non-embedding: without tables that are looked up rather than multiplied;
              effective: the N for which the step is 6 N per token (`effective_parameters`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from videojax.errors import check_choice

# JAX's device kind -> the maker's name of the chip, where they differ.
KINDS = {"TPU v5 lite": "TPU v5e", "TPU v5": "TPU v5p", "TPU v6 lite": "TPU v6e"}
# Dense bf16 FLOP/s of one chip (of one JAX device if a chip has two: v4 and before, tpu7x).
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
  "TPU7x": 2307e12 / 2,  # Google Cloud TPU documentation, Ironwood: 2307 per chip of two devices
}  # fmt: skip

PF_DAY = 8.64e19  # FLOP: 1e15 FLOP/s for 86,400 seconds

PER_MAC = {"mac": 1, "flop": 2}  # the units of `count`
FORWARDS = {"forward": 1, "step": 3, "hardware": 4}  # what `count` counts, in forward passes


SCORES = "attention scores"  # the part that products of two activations belong to


class Product(NamedTuple):
  """One matrix product or convolution of a forward pass.

  Attributes:
    part: the part it is counted under (SCORES, 'mlp', ...).
    macs: multiply-accumulates per clip.
    gradients: how many of its two inputs need a gradient: the products of its backward pass.
  """

  part: str
  macs: int
  gradients: int = 2


class _Value(NamedTuple):
  """What is known about a value while a forward pass is traced."""

  part: str = ""  # part of the parameter it is computed from
  learned: bool = False  # depends on a parameter
  given: bool = False  # depends on an input of the network


def trace(
  f: Callable[..., Any], params: Any, *args: Any, parts: Sequence[str] = ()
) -> list[Product]:
  """Every matrix product and convolution of f(params, *args), found by tracing it on shapes.

  A product that reads a parameter belongs to that parameter's part; a product of two activations
  belongs to the attention scores. A product inside a scan is listed once, with all of its MACs.

  Args:
    f: a forward pass without loops of unknown length.
    params: pytree of arrays or shapes.
    args: inputs for one clip.
    parts: one per leaf of params; empty: 'parameters' for all.
  Raises:
    ValueError: a `while` or a `cond` contains products, whose number is then unknown.
  """
  closed = jax.make_jaxpr(f)(params, *args)
  parts = parts or ["parameters"] * len(jax.tree.leaves(params))
  values = [_Value(part, learned=True) for part in parts]
  values += [_Value(given=True)] * (len(closed.jaxpr.invars) - len(values))
  products: list[Product] = []
  _walk(closed.jaxpr, values, 1, products)
  return products


def _walk(
  jaxpr: Jaxpr, values: Sequence[_Value], times: int, products: list[Product]
) -> list[_Value]:
  """Appends the products of a jaxpr to `products`; returns what is known about its outputs."""
  known: dict[Var, _Value] = dict(zip(jaxpr.invars, values))
  read = lambda v: _Value() if isinstance(v, Literal) else known.get(v, _Value())
  for eqn in jaxpr.eqns:
    inputs = [read(v) for v in eqn.invars]
    name, inner = eqn.primitive.name, _inner(eqn.params)
    if name == "scan":
      outputs = _walk_scan(eqn.params, inputs, times, products)
    elif name in ("while", "cond"):
      found: list[Product] = []
      for each in inner:
        _walk(each, [_Value()] * len(each.invars), 1, found)
      if found:
        raise ValueError(f"a forward pass with products in a `{name}` has no fixed number of FLOPs")
      outputs = [_merge(inputs)] * len(eqn.outvars)
    elif inner:
      outputs = _walk(inner[0], inputs, times, products)
    else:
      if name in ("dot_general", "conv_general_dilated"):
        products.append(_product(eqn, inputs[:2], times))
      outputs = [_merge(inputs)] * len(eqn.outvars)
    known.update(zip(eqn.outvars, outputs))
  return [read(v) for v in jaxpr.outvars]


def _scan_inputs(params: dict[str, Any]) -> tuple[int, int]:
  """Numbers of a scan's constants and of its carries."""
  if "num_consts" in params:
    return params["num_consts"], params["num_carry"]
  consts, carry, _ = params["ft_in"].unpack()  # jax 0.12
  return len(list(consts)), len(list(carry))


def _walk_scan(
  params: dict[str, Any], inputs: list[_Value], times: int, products: list[Product]
) -> list[_Value]:
  body, (consts, carried) = params["jaxpr"].jaxpr, _scan_inputs(params)
  while True:  # until what is known about the carry is the same before and after a step
    found: list[Product] = []
    outputs = _walk(body, inputs, times * params["length"], found)
    carry = [_merge(pair) for pair in zip(inputs[consts:], outputs[:carried])]
    if carry == inputs[consts : consts + carried]:
      products += found
      return outputs
    inputs = inputs[:consts] + carry + inputs[consts + carried :]


def _merge(values: Iterable[_Value]) -> _Value:
  values = list(values)
  part = next((v.part for v in values if v.part), "")
  return _Value(part, any(v.learned for v in values), any(v.given for v in values))


def _product(eqn: Any, inputs: Sequence[_Value], times: int) -> Product:
  weights = [v.part for v in inputs if v.learned and not v.given]
  left, right = (v.aval.shape for v in eqn.invars[:2])
  if eqn.primitive.name == "dot_general":
    (contracted, _), _ = eqn.params["dimension_numbers"]
    each = math.prod(left[i] for i in contracted)
  else:
    each = math.prod(right) // right[eqn.params["dimension_numbers"].rhs_spec[0]]
  macs = times * each * math.prod(eqn.outvars[0].aval.shape)
  return Product(weights[0] if weights else SCORES, macs, sum(v.learned for v in inputs))


def _inner(params: dict[str, Any]) -> list[Jaxpr]:
  """The jaxprs inside an equation's parameters."""
  found: list[Jaxpr] = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, ClosedJaxpr | Jaxpr):
        found.append(item.jaxpr if isinstance(item, ClosedJaxpr) else item)
  return found


def forward(products: Iterable[Product]) -> dict[str, int]:
  """FLOPs of one forward pass of one clip, by part and 'total'."""
  out: dict[str, int] = {}
  for product in products:
    out[product.part] = out.setdefault(product.part, 0) + 2 * product.macs
  return out | {"total": sum(out.values())}


def backward(products: Iterable[Product]) -> int:
  """Exact FLOPs of one clip's backward pass: gradients of weights, and of inputs that need one."""
  return sum(2 * p.macs * p.gradients for p in products)


def step(products: Iterable[Product]) -> dict[str, int]:
  """Model FLOPs of one training step of one clip, by part: 3 x forward."""
  return {part: 3 * flops for part, flops in forward(products).items()}


def count(
  products: Iterable[Product], *, unit: str = "flop", work: str = "forward"
) -> dict[str, int]:
  """One clip's work under the given conventions, by part and 'total'.

  Args:
    products: of one forward pass of one clip.
    unit: 'flop', or 'mac' as in the DiT paper's table.
    work: 'forward', 'step', or 'hardware' (see the top of this file).
  """
  check_choice("unit", unit, PER_MAC)
  check_choice("work", work, FORWARDS)
  return {
    part: flops // 2 * PER_MAC[unit] * FORWARDS[work] for part, flops in forward(products).items()
  }


def effective_parameters(products: Iterable[Product], tokens: int) -> float:
  """N for which a training step is 6 N FLOPs per token: multiply-accumulates per token.

  It is below the total if weights are used once per clip (adaLN), above it if attention scores
  dominate.
  """
  return count(products, unit="mac")["total"] / tokens


def chip(device_kind: str) -> str | None:
  """The chip's name in PEAK_FLOPS_PER_S; None for an unknown device (a CPU)."""
  names = [name for name in (*PEAK_FLOPS_PER_S, *KINDS) if device_kind.startswith(name)]
  longest = max(names, key=len, default=None)
  return KINDS.get(longest, longest) if longest else None


def peak_flops_per_s(device_kind: str) -> float | None:
  """The chip's dense bf16 peak; None if unknown."""
  name = chip(device_kind)
  return PEAK_FLOPS_PER_S[name] if name else None
