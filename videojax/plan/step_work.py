"""A training step's work on one device, which scaling/roofline.py converts to seconds."""

import dataclasses
import functools
from collections.abc import Mapping

from videojax.config import Experiment
from videojax.plan import hlo
from videojax.runs.program import parameters_by_part
from videojax.scaling import flops, roofline
from videojax.specs import ModelSpec


@dataclasses.dataclass(frozen=True)
class Clip:
  """One clip's work, for the data source with the most; independent of mesh and remat policy.

  Attributes:
    forward: FLOPs of a forward pass, by part.
    encode: FLOPs of the codec's encoder.
    stream: number of activations passed between blocks, summed over the blocks.
  """

  forward: Mapping[str, int]
  encode: int
  stream: int

  @classmethod
  def of(cls, e: Experiment) -> "Clip":
    tasks = [e.task(name) for name in e.data]
    counts = [(flops.forward(t.products()), e.model.stream(t.latent_shape)) for t in tasks]
    forward, stream = max(counts, key=lambda count: count[0]["total"])
    return cls(forward, max(t.encode_flops for t in tasks), stream)


@dataclasses.dataclass(frozen=True)
class Sent:
  """Bytes that a device sends per step, within its slice or machine (ici) and out of it (dcn)."""

  ici: float
  dcn: float

  @classmethod
  def compiled(cls, collectives: Mapping[str, Mapping[str, Mapping[str, int | float]]]) -> "Sent":
    """From `hlo.table`."""
    cells = [(axes, cell["bytes"]) for by in collectives.values() for axes, cell in by.items()]
    size = lambda outside: float(sum(n for axes, n in cells if (axes == hlo.SLICES) == outside))
    return cls(size(False), size(True))

  @classmethod
  def counted(cls, e: Experiment, clip: Clip, mesh: Mapping[str, int]) -> "Sent":
    """Estimated without a compiler, in 16 bits: weight gathers, gradient sums, token exchanges."""
    remat = e.model.config.remat
    weights = 2 * parameters(e.model) / mesh["tensor"]
    pieces, passes, exchanges = mesh["fsdp"] * mesh["seq"], gathers(remat), 3 + (remat == "full")
    share = lambda n: (n - 1) / n
    rows = e.batch_size / (mesh["data"] * mesh["fsdp"])
    layers = 2 * clip.stream * rows / mesh["seq"]
    sent = weights * share(pieces) * (passes + 1)  # all-gather per pass, gradient reduce-scatter
    sent += 2 * weights / pieces * share(mesh["data"])  # all-reduce of the gradient shards
    sent += 4 * layers / mesh["tensor"] * exchanges * share(mesh["seq"])  # q, k, v and the output
    sent += 4 * layers * (passes + 1) * share(mesh["tensor"])  # two all-reduces of tokens per pass
    return cls(sent, 0.0)


def step_work(
  e: Experiment, clip: Clip, mesh: Mapping[str, int], kept_bytes: int | float, sent: Sent
) -> roofline.Work:
  """One device's work in a step.

  Args:
    e: the experiment.
    clip: `Clip.of(e)`; the same for experiments that differ only in batch, mesh and remat.
    mesh: axis -> size.
    kept_bytes: activations that a device keeps for the backward pass.
    sent: bytes that a device sends.
  """
  config, devices = e.model.config, 1
  for size in mesh.values():
    devices *= size
  clips = e.batch_size / devices
  attention, other = roofline.executed_flops(clip.forward, config.remat)
  number = parameters(e.model)
  state = roofline.optimizer_bytes(number, len(e.ema)) / (mesh["fsdp"] * mesh["seq"])
  weights = 2 * number * gathers(config.remat)
  return roofline.Work(
    attention_flops=attention * clips,
    other_flops=(other + clip.encode) * clips,
    state_bytes=(state + weights) / mesh["tensor"],
    kept_bytes=kept_bytes,
    layer_bytes=2 * clip.stream * clips,
    ici_bytes=sent.ici,
    dcn_bytes=sent.dcn,
    head_dim=getattr(config, "head_dim", 1),  # not used without attention
  )


def gathers(remat: str) -> int | float:
  """Passes over the weights in a step: forward, backward, and recomputation."""
  if remat == "attention_narrow":
    return 2 + 1 / 3  # the mlp's first matrices, a third of a block's
  return 2 + (remat in ("full", "attention", "offload"))


@functools.lru_cache
def parameters(model: ModelSpec) -> int:
  return parameters_by_part(model)["total"]
