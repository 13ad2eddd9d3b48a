"""Prints plan.json as tables."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from videojax.io.log import clock_text
from videojax.plan.topology import clips_flag


def show(written: dict[str, Any]) -> None:
  """Prints a plan."""
  console = Console(soft_wrap=True, highlight=False, emoji=False)
  table = _table("parameters", "part", "number")
  for part, number in written["parameters"].items():
    table.add_row(part, f"{number:,}")
  console.print(table)
  for name, kind in written["data"].items():
    _show_kind(console, name, kind, written["remat"])
  state = written["state_bytes"]
  listed = ", ".join(f"{k} {size_text(v)}" for k, v in state.items() if k != "total")
  console.print(f"state per device {size_text(state['total'])}: {listed}")
  console.print(
    f"training: {written['total_steps']:,} steps of {written['batch_size']} clips, "
    f"{written['training_flops']:.3g} FLOP (3 x forward)"
  )
  if "topology" in written:
    _show_topology(console, written)


def _table(title: str, *columns: str) -> Table:
  table = Table(title=title, title_justify="left")
  for i, column in enumerate(columns):
    table.add_column(column, justify="right" if i else "left")
  return table


def _show_kind(console: Console, name: str, kind: dict[str, Any], remat: str) -> None:
  forward = kind["forward_flops_per_clip"]
  table = _table(f"{name}: clips {kind['clip_shape']}", "FLOP per clip, forward", "GFLOP", "share")
  for part, value in forward.items():
    table.add_row(part, f"{value / 1e9:.4g}", f"{value / forward['total']:.1%}")
  console.print(table)
  console.print(
    f"{kind['tokens_per_clip']:,} tokens per clip, "
    f"{kind['tokens_per_video_second']:,.0f} per second of video"
  )
  if kind["encode_flops_per_clip"]:
    console.print(
      f"encoding: {kind['encode_flops_per_clip'] / 1e9:.4g} GFLOP per clip and step, not included"
    )
  table = _table(f"{name}: remat", "policy", "kept per device", "work of a step")
  for policy, cost in kind["remat"].items():
    mark = " <- this run's" if policy == remat else ""
    more = cost["executed_over_model_flops"]
    table.add_row(policy + mark, size_text(cost["kept_bytes"]), f"{more:.2f} x")
  console.print(table)


def _show_search(console: Console, tried: list[dict[str, Any]]) -> None:
  columns = "fastest by estimate", "clips", "remat", "s per clip", "peak", "fits"
  table = _table("search", *columns)
  for row in tried:
    table.add_row(
      mesh_text(row["mesh"]), str(row["batch_size"]), row["remat"],
      f"{row['seconds_per_clip']:.3g}", size_text(row["peak_bytes"]),
      "yes" if row["fits"] else "no",
    )  # fmt: skip
  console.print(table)
  best = tried[-1]
  sizes = " ".join(f"--config.mesh.{axis}={n}" for axis, n in best["mesh"].items())
  console.print(
    f"to run it: {sizes} --config.batch_size={best['batch_size']} "
    f"{clips_flag(best['batch_size'], math.prod(best['mesh'].values()))} "
    f"--config.model.remat={best['remat']}"
  )


def _show_topology(console: Console, written: dict[str, Any]) -> None:
  if written["search"]:
    _show_search(console, written["search"])
  slices = f"{written['slices']} x " if written["slices"] > 1 else ""
  console.print(
    f"{slices}{written['topology']}: {written['devices']} devices, {mesh_text(written['mesh'])}; "
    f"attention {written['attention']}; {written['step']} step"
  )
  if not written["fits"]:
    _show_too_large(console, written)
  else:
    note = f" ({written['reason']})" if "reason" in written else ""
    console.print(
      f"fits: peak {size_text(written['peak_bytes'])} per device (arguments "
      f"{size_text(written['argument_bytes'])}, temporary {size_text(written['temporary_bytes'])})"
      + note
    )
  if written["collectives"] is not None:
    _show_collectives(console, written)
  if "bound_seconds" in written:
    _show_times(console, written)
  if "decoding" in written:
    _show_decoding(console, written["decoding"])


def _show_too_large(console: Console, written: dict[str, Any]) -> None:
  usable, memory = written["usable_bytes"], written["memory_bytes"]
  kept = f", of which XLA keeps {size_text(memory - usable)} for itself" * (usable < memory)
  console.print(
    f"does not fit: a device needs {size_text(written['peak_bytes'])} or more, "
    f"{size_text(written['over_bytes'])} too much for its {size_text(memory)}{kept} "
    f"({written.get('reason', 'the sum of what is live simultaneously')})",
    markup=False,
  )


def _show_collectives(console: Console, written: dict[str, Any]) -> None:
  table = _table("sent per device and step", "collective", "across", "number", "bytes")
  for kind, by_axis in written["collectives"].items():
    for axes, cell in sorted(by_axis.items(), key=lambda item: -item[1]["bytes"]):
      table.add_row(kind, axes, f"{cell['count']:,}", size_text(cell["bytes"]))
  console.print(table)


def _show_times(console: Console, written: dict[str, Any]) -> None:
  bound = written["bound_seconds"]
  parts = ", ".join(f"{unit} {seconds:.3g}" for unit, seconds in bound.items())
  console.print(f"bound: at least {max(bound.values()):.3g} s per step (units at peak: {parts})")
  parts = ", ".join(f"{k} {v:.3g}" for k, v in written["estimate_by_part"].items())
  price = written["price_dollars"]
  money = ", no list price known"
  if price is not None:
    rate, source = written["dollars_per_chip_hour"], written["price_source"]
    money = f", {price:,.{0 if price >= 10 else 2}f} dollars at {rate:.2f} per chip-hour ({source})"
  console.print(
    f"estimate: {written['estimate_seconds']:.3g} s per step ({parts}), MFU "
    f"{written['mfu_estimate']:.0%}; the run {clock_text(written['hours'] * 3600)}{money}"
  )


def _show_decoding(console: Console, made: dict[str, Any]) -> None:
  parts = ", ".join(f"{k} {v:.3g}" for k, v in made["estimate_by_part"].items())
  price = made["dollars_per_clip"]
  money = "no list price known" if price is None else f"{price:.2g} dollars a clip"
  clips = f"{made['clips']} clips" if made["clips"] > 1 else "a clip"
  console.print(
    f"decoding {clips} of {made['video_seconds']:.3g} s, {made['flops_per_clip'] / 1e12:.3g} TFLOP "
    f"each: estimate {made['estimate_seconds']:.3g} s ({parts}), at least "
    f"{max(made['bound_seconds'].values()):.3g} s; {money}"
  )


def mesh_text(mesh: Mapping[str, int]) -> str:
  """'data 4 x fsdp 16'."""
  return " x ".join(f"{axis} {n}" for axis, n in mesh.items() if n > 1) or "one device"


def size_text(size: int | float) -> str:
  """1536 -> '1.5 KiB'."""
  for unit in ("B", "KiB", "MiB", "GiB"):
    if size < 1024:
      return f"{size:.4g} {unit}"
    size /= 1024
  return f"{size:.4g} TiB"
