"""The communication of a compiled program, read from its HLO text.

`Compiled.as_text()` lists every collective once, even inside a loop; here each is counted as often
as it runs, by the mesh axes it crosses. A collective that the compiler has split into pieces and
fused with the products that hide it (asynchronous collectives on TPUs) counts as one.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
SLICES = "slices"  # the network between TPU slices, which is not a mesh axis
_BITS = {"pred": 8, "c64": 64, "c128": 128}  # other types have it in their name: bf16, s32, f8e4m3
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_OP = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.\-]+)")
_SEVERAL = re.compile(r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Op:
  """One instruction: its name, result type, opcode, and operands with attributes."""

  name: str
  shape: str
  kind: str
  rest: str


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective of one step.

  Attributes:
    kind: one of KINDS.
    axes: mesh axes that it crosses within a slice, or ('slices',) between slices; ('?',) if its
      groups cannot be parsed.
    count: how often it runs.
    bytes: sent by one device over all its runs, with the ring algorithm: (n-1)/n of the full array
      for an all-gather, reduce-scatter or all-to-all, twice that for an all-reduce.
    loop: whether it runs in a loop of unknown length, which is counted once.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  bytes: int | float
  loop: bool = False


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
  """Every collective of a compiled program.

  Args:
    text: `Compiled.as_text()`.
    mesh: axis -> size, in device order.
  """
  computations, entry = parse(text)
  found: dict[str, Collective] = {}
  for op, times, unknown, fused in _walk(computations, entry, 1, False, ""):
    kind = op.kind.removesuffix("-start")
    scattered = kind == "all-reduce" and "all-reduce-scatter" in fused  # a TPU's reduce-scatter
    if kind == "send" and (between := re.search(r"_xla_megascale_transfer_type=\"(\w+)", op.rest)):
      kind = between[1].lower().replace("_", "-")
      found[op.name] = Collective(kind, (SLICES,), times, times * sizes(op.shape)[0], unknown)
    if kind not in KINDS or op.kind == "send":
      continue
    key = op.name
    if fused:  # the pieces share the channel and the origin of the original collective
      key = " ".join(re.findall(r"channel_id=\d+|op_name=\S+|stack_frame_id=\d+", op.rest))
    axes, ways = _crossed(op.rest, mesh)
    if ways == 1:
      continue
    size = times * _sent(kind, op, ways)
    if scattered:
      kind, size = "reduce-scatter", size / 2
    if key not in found or found[key].bytes < size:
      found[key] = Collective(kind, axes, times, size, unknown)
  return list(found.values())


def table(found: Iterable[Collective]) -> dict[str, dict[str, dict[str, int | float]]]:
  """kind -> 'axis' or 'axis,axis' -> {'count', 'bytes'}, per device and step."""
  out: dict[str, dict[str, dict[str, int | float]]] = {}
  for one in found:
    cell = out.setdefault(one.kind, {}).setdefault(",".join(one.axes), {"count": 0, "bytes": 0.0})
    cell["count"] += one.count
    cell["bytes"] += one.bytes
  return out


def parse(text: str) -> tuple[dict[str, list[Op]], str]:
  """(name -> instructions of the computation, name of the entry computation)."""
  computations: dict[str, list[Op]] = {}
  entry, ops = "", list[Op]()
  for line in text.splitlines():
    if (header := _HEADER.match(line)) and not line.startswith(" "):
      ops = computations[header[2]] = []
      entry = header[2] if header[1] else entry
    elif op := _OP.match(line):
      ops.append(Op(*op.groups()))
  return computations, entry


def _walk(
  computations: dict[str, list[Op]], name: str, times: int, unknown: bool, fused: str
) -> Iterator[tuple[Op, int, bool, str]]:
  """Every (instruction, how often it runs, whether that is unknown, its fusion) under `name`."""
  for op in computations.get(name, ()):
    yield op, times, unknown, fused
    if op.kind in KINDS:
      continue  # its to_apply is only the addition
    inner, lost = times, unknown
    if op.kind == "while":
      trips = trip_count(op, computations)
      inner, lost = times * (trips or 1), unknown or trips is None
    for called in _called(op):
      yield from _walk(computations, called, inner, lost, called if op.kind == "fusion" else fused)


def _called(op: Op) -> list[str]:
  names = _CALLED.findall(op.rest)
  for several in _SEVERAL.findall(op.rest):
    names += [n.strip().lstrip("%") for n in several.split(",") if n.strip()]
  return names


def trip_count(op: Op, computations: dict[str, list[Op]]) -> int | None:
  """Trip count of a while loop, from the compiler or from a counter below a constant; else None."""
  known = re.search(r'known_trip_count[^0-9]*?"?n"?[^0-9]*?(\d+)', op.rest)
  if known:
    return int(known[1])
  condition = re.search(r"condition=%?([\w.\-]+)", op.rest)
  ops = {o.name: o for o in computations.get(condition[1], ())} if condition else {}
  ends = [o for o in ops.values() if o.kind == "compare" and "direction=LT" in o.rest]
  if len(ends) != 1 or len(ops) > 6:
    return None
  for operand in re.findall(r"%?([\w.\-]+)", ends[0].rest.partition(")")[0]):
    if operand in ops and ops[operand].kind == "constant":
      number = re.match(r"(\d+)\)", ops[operand].rest)
      return int(number[1]) if number else None
  return None


def sizes(shape: str) -> list[int]:
  """Bytes of every array in the text of an HLO type."""
  out = []
  for dtype, dims in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", shape):
    digits = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype, int(digits[0]) if digits else 8)
    out.append(math.prod(int(d) for d in dims.split(",") if d) * bits // 8)
  return out


def _sent(kind: str, op: Op, ways: int) -> int | float:
  """Bytes that one device sends in one run of the collective."""
  arrays = sizes(op.shape)
  if op.kind.endswith("-start") and kind in ("all-gather", "collective-permute"):
    arrays = [max(arrays)]  # (operand, result, ...); the TPU compiler makes no variadic ones
  size = sum(arrays)
  if kind == "collective-permute":
    return size
  if kind == "reduce-scatter":
    size *= ways
  return size * (ways - 1) / ways * (2 if kind == "all-reduce" else 1)


def _crossed(rest: str, mesh: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
  """(mesh axes along which the devices of a group differ, devices in a group)."""
  groups = _groups(rest, math.prod(mesh.values()))
  if groups is None:
    return ("?",), math.prod(mesh.values())
  places = np.array(np.unravel_index(groups, tuple(mesh.values())))  # [axes,groups,members]
  differ = (places != places[..., :1]).any((1, 2))
  axes = tuple(axis for axis, yes in zip(mesh, differ) if yes)
  return axes, groups.shape[1] if axes else 1


def _groups(rest: str, devices: int) -> np.ndarray | None:
  """Device numbers of a collective [groups, members]; None if they cannot be parsed."""
  if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", rest):
    return np.array(re.findall(r"\{(\d+),(\d+)", pairs[1] + "}"), int).reshape(-1, 2)
  if listed := re.search(r"replica_groups=\{(\{[\d,{} ]*\})?\}", rest):
    if not listed[1]:
      return np.arange(devices)[None]
    return np.array([list(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", listed[1])])
  if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
    return _iota(iota[2], iota[3]).reshape(_ints(iota[1]))
  named = re.search(
    r"replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? "
    r"\{(.*?)\}", rest,
  )  # fmt: skip
  if not named or ":" in named[4]:
    return None
  axes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
  grid = _iota(named[2], named[3]) if named[2] else np.arange(devices)
  grid = grid.reshape([int(n) for n in axes.values()])
  along = [list(axes).index(axis) for axis in re.findall(r"'(\w+)'", named[4])]
  members = math.prod(grid.shape[i] for i in along)
  return np.moveaxis(grid, along, range(-len(along), 0)).reshape(-1, members)


def _ints(text: str) -> list[int]:
  return [int(n) for n in text.split(",")]


def _iota(dims: str, order: str | None) -> np.ndarray:
  grid = np.arange(math.prod(_ints(dims))).reshape(_ints(dims))
  return (grid.transpose(_ints(order)) if order else grid).reshape(-1)
