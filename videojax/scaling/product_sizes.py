"""Coordinate check: the output size of every matrix product of a network, at any width.

Under a correct parametrisation, the outputs of all products keep their size as the width grows,
after any number of steps (Yang et al. 2022, arXiv:2203.03466, appendix D.1). Products are found in
the jaxpr and named after the parameter they use, so this works for every architecture.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var
from jaxtyping import Array

# Primitives through which a value keeps its parameter's name.
_SAME = {
  "convert_element_type", "reshape", "slice", "squeeze", "transpose", "dynamic_slice",
  "broadcast_in_dim", "copy",
}  # fmt: skip


def product_sizes(
  f: Callable[..., Any], params: Any, *args: Any, names: list[str]
) -> dict[str, Array]:
  """RMS of the output of every product in f(params, *args), by name; jittable.

  Args:
    f: a forward pass without loops (unrolled blocks, no rematerialisation).
    params: pytree.
    args: further arguments of f.
    names: one per leaf of params.
  Returns: name -> RMS; the name is the parameter's, or 'scores' for a product of two activations,
    with a number appended if several products have the same name.
  """
  closed = jax.make_jaxpr(f)(params, *args)
  leaves = jax.tree.leaves((params, *args))
  labels = [*names, *[""] * (len(leaves) - len(names))]
  found: list[tuple[str, Array]] = []
  _run(closed, leaves, labels, found)
  total, seen = Counter(name for name, _ in found), Counter[str]()
  out = {}
  for name, size in found:
    out[f"{name} {seen[name]}" if total[name] > 1 else name] = size
    seen[name] += 1
  return out


def _run(
  closed: ClosedJaxpr, values: list[Any], labels: list[str], found: list[tuple[str, Array]]
) -> tuple[list[Any], list[str]]:
  """Evaluates a jaxpr and appends the size of each product to `found`."""
  jaxpr = closed.jaxpr
  env: dict[Var, tuple[Any, str]] = dict(zip(jaxpr.constvars, [(c, "") for c in closed.consts]))
  env |= dict(zip(jaxpr.invars, zip(values, labels)))
  read = lambda v: (v.val, "") if isinstance(v, Literal) else env[v]
  for eqn in jaxpr.eqns:
    inputs, names = [list(x) for x in zip(*map(read, eqn.invars))] if eqn.invars else ([], [])
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if isinstance(inner, ClosedJaxpr) and eqn.primitive.name not in ("scan", "while", "cond"):
      outputs, out_names = _run(inner, inputs, names, found)
    else:
      outputs = eqn.primitive.bind(*inputs, **eqn.params)
      outputs = list(outputs) if eqn.primitive.multiple_results else [outputs]
      out_names = [names[0] if eqn.primitive.name in _SAME else ""] * len(outputs)
      if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
        name = next((n for n in reversed(names) if n), "scores")
        size = jnp.sqrt(jnp.mean(jnp.square(outputs[0].astype(jnp.float32))))
        found.append((name, size))
    env |= dict(zip(eqn.outvars, zip(outputs, out_names)))
  return [read(v)[0] for v in jaxpr.outvars], [read(v)[1] for v in jaxpr.outvars]


def slopes(widths: list[int], sizes: list[dict[str, float]]) -> dict[str, float]:
  """d log(size) / d log(width) of every product, by least squares; 0 is flat.

  Args:
    widths: at least two.
    sizes: results of `product_sizes`, one per width; products that are 0 (a zero-initialised head)
      are left out.
  """
  x = np.log(np.asarray(widths, float))
  out = {}
  for name in sizes[0]:
    y = np.asarray([size[name] for size in sizes], float)
    if (y > 0).all():
      out[name] = float(np.polyfit(x, np.log(y), 1)[0])
  return out
