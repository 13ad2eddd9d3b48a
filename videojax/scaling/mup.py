"""muP: hyperparameters that are found at one width and transfer to another.

Which axes of a parameter grow with the width follows from comparing with a model twice as wide, so
architectures need not list them. With m = (width / base width) for each fan that grows:

  role     fan-in  fan-out  initial std                learning rate
  vector     -       -      as at the base width       1        biases, gains, embedding tables
  input    fixed   grows    as at the base width       1
  hidden   grows   grows    as at the base / sqrt(m)   1 / m
  output   grows   fixed    as at the base / m         1 / m

Under Adam, an output multiplier 1/m with a constant learning rate is equivalent to the last line
(Yang & Hu's abc symmetry; our heads start at zero), so no forward pass changes. Attention keeps
1/sqrt(E): wider models have more heads of the same size.

Source: Yang et al. 2022, arXiv:2203.03466, Table 8 (Adam) read through its Lemma J.1; for diffusion
transformers Zheng et al. 2025, arXiv:2505.15270, Table 5: adaLN's matrices are 'hidden'.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Rule(NamedTuple):
  """How muP scales one parameter.

  Attributes:
    role: 'vector', 'input', 'hidden' or 'output'.
    init: factor on the initial value.
    rate: factor on the learning rate.
  """

  role: str
  init: float
  rate: float


def rules(
  info: Mapping[str, Any],
  shapes: Mapping[str, tuple[int, ...]],
  wider: Mapping[str, tuple[int, ...]],
  m: float,
) -> dict[str, Rule]:
  """Path -> rule, for every parameter.

  Args:
    info: path -> models/layers.py ParamInfo: number of input axes, initializer.
    shapes: path -> shape, including the axes of stacked layers.
    wider: the same for a model of twice the width.
    m: width / base width.
  """
  return {path: _rule(info[path], shapes[path], wider[path], m) for path in shapes}


def _rule(info: Any, shape: tuple[int, ...], wider: tuple[int, ...], m: float) -> Rule:
  stack = info.axes.count("layers")
  split = stack + info.inputs
  fan_in, fan_out = math.prod(shape[stack:split]), math.prod(shape[split:])
  grows_in = math.prod(wider[stack:split]) > fan_in
  grows_out = math.prod(wider[split:]) > fan_out
  if not info.inputs:
    return Rule("vector", 1.0, 1.0)  # the initial std of a vector does not depend on its size
  at_base = info.init.std(fan_in / m**grows_in, fan_out / m**grows_out)
  here = info.init.std(fan_in, fan_out)
  same = at_base / here if here else 1.0
  if not grows_in:
    return Rule("input", same, 1.0)
  return (
    Rule("hidden", same / math.sqrt(m), 1 / m) if grows_out else Rule("output", same / m, 1 / m)
  )
