"""Roofline bound and estimate of the time of a training step on a chip.

The bound assumes that every unit runs at its peak and all overlap: no step is faster. The estimate
adds what the bound leaves out, with the rates in `RATES`: kernels below their peak, elementwise
work between them, and communication that is only partly hidden. Both are per device and step.
"""

import dataclasses
import math
from collections.abc import Mapping

from videojax.scaling import flops

GB = 1e9


@dataclasses.dataclass(frozen=True)
class Memory:
  """A chip's memory and network (its FLOP/s are in scaling/flops.py).

  Attributes:
    hbm_bytes: memory capacity.
    hbm_bytes_per_s: memory bandwidth.
    ici_bytes_per_s: bandwidth to other chips of the slice or machine, all links, one way.
    dcn_bytes_per_s: bandwidth out of the slice or machine.
    devices: JAX devices per chip.
  """

  hbm_bytes: float
  hbm_bytes_per_s: float
  ici_bytes_per_s: float
  dcn_bytes_per_s: float
  devices: int = 1


# Google Cloud TPU documentation (v5e, v5p, v6e, TPU7x pages; ICI as half of the bidirectional
# figure, DCN per chip, or per pod divided by its chips); NVIDIA H100, H200, A100, B200 datasheets,
# with 400 Gbit/s of network per GPU, 200 for A100.
MEMORY = {
  "TPU v5e": Memory(16 * 2.0**30, 819 * GB, 100 * GB, 3.1 * GB),
  "TPU v5p": Memory(95 * 2.0**30, 2765 * GB, 600 * GB, 6.25 * GB),
  "TPU v6e": Memory(32 * 2.0**30, 1638 * GB, 400 * GB, 12.5 * GB),
  "TPU7x": Memory(192 * 2.0**30, 7380 * GB, 600 * GB, 12.5 * GB, devices=2),
  "NVIDIA H100": Memory(80e9, 3350 * GB, 450 * GB, 50 * GB),
  "NVIDIA H200": Memory(141e9, 4800 * GB, 450 * GB, 50 * GB),
  "NVIDIA A100": Memory(80e9, 2039 * GB, 300 * GB, 25 * GB),
  "NVIDIA B200": Memory(180e9, 8000 * GB, 900 * GB, 50 * GB),
}


@dataclasses.dataclass(frozen=True)
class Rates:
  """Rates used by the estimate.

  Attributes:
    attention: head dim -> share of the peak FLOP/s that the kernel reaches, forward and backward;
      the nearest head dim is used.
    matmul: share of the peak FLOP/s that all other products reach.
    memory: share of the memory bandwidth that is reached.
    passes: how often a step moves a block's activations [tokens, width], in 16 bits, through
      memory: norms, modulation, positions, residuals, casts, forward and backward.
    exposed: share of the communication that computation does not hide.
  """

  attention: Mapping[int, float]
  matmul: float
  memory: float = 0.8
  passes: float = 230
  exposed: float = 0.3


# GPU: one H100 SXM, jax 0.11.2: attention is cuDNN's, forward and backward, timed in isolation; the
# rest is from profiles of three cases (docs/LOG.md, 2026-11-26). tests/scaling/test_roofline.py
# compares the estimate with six. TPU: assumed; a head dim below the 128 lanes wastes the rest.
RATES = {
  "NVIDIA": Rates(
    attention={64: 0.387, 72: 0.281, 128: 0.465}, matmul=0.69, memory=0.7, passes=103.0
  ),
  "TPU": Rates(attention={64: 0.21, 72: 0.24, 96: 0.31, 128: 0.42}, matmul=0.7),
}


@dataclasses.dataclass(frozen=True)
class Work:
  """A step's work on one device.

  Attributes:
    attention_flops, other_flops: executed FLOPs, including recomputation.
    state_bytes: read and written by the optimizer, plus weights read by the passes.
    kept_bytes: activations kept for the backward pass.
    layer_bytes: activations [tokens, width] in 16 bits, summed over the blocks.
    ici_bytes, dcn_bytes: bytes sent within and out of the slice or machine.
    head_dim: head dim of attention.
  """

  attention_flops: int | float
  other_flops: int | float
  state_bytes: int | float
  kept_bytes: int | float
  layer_bytes: int | float
  ici_bytes: int | float
  dcn_bytes: int | float
  head_dim: int


def memory(kind: str) -> Memory | None:
  """Memory of one JAX device of this kind, a share if its chip has several; None if unknown."""
  name = flops.chip(kind)
  if name not in MEMORY:
    return None
  m = MEMORY[name]
  return Memory(
    m.hbm_bytes / m.devices, m.hbm_bytes_per_s / m.devices, m.ici_bytes_per_s / m.devices,
    m.dcn_bytes_per_s / m.devices, m.devices,
  )  # fmt: skip


def bound(work: Work, kind: str) -> dict[str, float]:
  """Seconds that each unit needs at its peak; a step takes at least the largest of them."""
  m, peak = _chip(kind)
  return {
    "compute": (work.attention_flops + work.other_flops) / peak,
    "hbm": (work.state_bytes + 2 * work.kept_bytes) / m.hbm_bytes_per_s,
    "ici": work.ici_bytes / m.ici_bytes_per_s,
    "dcn": work.dcn_bytes / m.dcn_bytes_per_s,
  }


def estimate(work: Work, kind: str) -> dict[str, float]:
  """Estimated seconds by part; the step takes their sum."""
  m, peak = _chip(kind)
  rates = _rates(kind)
  nearest = min(rates.attention, key=lambda e: abs(math.log(e / work.head_dim)))
  rate = m.hbm_bytes_per_s * rates.memory
  network = work.ici_bytes / m.ici_bytes_per_s + work.dcn_bytes / m.dcn_bytes_per_s
  return {
    "attention": work.attention_flops / (peak * rates.attention[nearest]),
    "matmul": work.other_flops / (peak * rates.matmul),
    "elementwise": rates.passes * work.layer_bytes / rate,
    "state": work.state_bytes / rate,
    "communication": rates.exposed * network,
  }


def program(work: float, moved: float, kind: str) -> tuple[dict[str, float], dict[str, float]]:
  """(bound, estimate), as above, of a program of products and convolutions without attention.

  Args:
    work: FLOPs.
    moved: bytes that it reads and writes.
  """
  m, peak = _chip(kind)
  rates = _rates(kind)
  parts = {"compute": work / peak, "hbm": moved / m.hbm_bytes_per_s}
  return parts, {
    "matmul": parts["compute"] / rates.matmul, "memory": parts["hbm"] / rates.memory
  }  # fmt: skip


def _rates(kind: str) -> Rates:
  return next(r for maker, r in RATES.items() if (flops.chip(kind) or "").startswith(maker))


def _chip(kind: str) -> tuple[Memory, float]:
  m, peak = memory(kind), flops.peak_flops_per_s(kind)
  if m is None or peak is None:
    raise ValueError(f"the tables have no memory and peak FLOP/s for the device kind {kind!r}")
  return m, peak


# What a remat policy recomputes, in forward passes: (attention, mlp, all other products).
RECOMPUTED = {
  "none": (0, 0, 0), "attention_dots": (0, 0, 0), "attention_narrow": (0, 0.5, 0),
  "attention": (0, 1, 1), "offload": (0, 1, 1), "full": (1, 1, 1),
}  # fmt: skip


def executed_flops(forward: Mapping[str, int], remat: str) -> tuple[int | float, int | float]:
  """(attention, other) FLOPs of a step with recomputation, from the forward FLOPs by part."""
  again = RECOMPUTED[remat]
  attention, mlp = forward.get("attention scores", 0), forward.get("mlp", 0)
  other = forward["total"] - attention - mlp
  return (3 + again[0]) * attention, (3 + again[1]) * mlp + (3 + again[2]) * other


def optimizer_bytes(parameters: int, averages: int) -> int:
  """Memory traffic of AdamW in fp32: reads gradient, weight, two moments; writes the last three."""
  return 4 * parameters * (7 + 1 + 2 * averages)
