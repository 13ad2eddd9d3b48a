"""python -m videojax.scaling fit TABLE.csv: fits a law to a table of runs (docs/laws.md).

--at and --run predict; the brackets are 95 % intervals, of one new run where nothing else is said.
Their parts are printed as standard deviations: sampling (the law from other rows of the same
budgets), one run (how runs scatter about the law), distance (the error of the law's form, which
grows with how far the loss falls beyond the rows).
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from videojax.errors import ConfigError
from videojax.io.files import finite
from videojax.scaling.calibration import Width
from videojax.scaling.command import Parser, positive
from videojax.scaling.fit import DATA, METHODS, RESAMPLE, fit_table
from videojax.scaling.fit_json import fit_json
from videojax.scaling.run_table import read_table
from videojax.scaling.sealed import file_sha256, seal, write_first


def main(arguments: list[str]) -> None:
  """Fits a table and prints the result; with --json, prints only JSON."""
  parser = Parser("fit", __doc__)
  add = parser.add_argument
  add("table", type=Path, help="CSV: params,tokens,flops,loss or other measures; seed,stderr,...")
  add("--method", choices=METHODS, default=METHODS[0])
  add("--target", default="loss", help="column of the measure")
  add("--data", choices=DATA, default="tokens", help="column used as D")
  add("--irreducible", help="E, or the floor of a power law: a number, or 'free'")
  add("--drop-highest", type=int, default=0, metavar="K", help="drop the K highest targets")
  add("--holdout-above", type=positive, metavar="FLOP", help="predict rows above, do not fit them")
  add("--bootstrap", type=int, default=1000, metavar="N", help="number of resamples")
  add("--resample", choices=RESAMPLE, default="auto")
  add("--at", type=positive, action="append", default=[], metavar="FLOP", help="show the optimum")
  add(
    "--run", type=_run, action="append", default=[], metavar="N,D[,FLOP]", help="predict this run"
  )
  add("--seal", type=Path, metavar="FILE", help="write everything to a new file, dated and sealed")
  add("--json", action="store_true", help="print only JSON")
  flags = vars(parser.parse_args(arguments))
  path, budgets, runs, sealed, as_json = (
    flags.pop(name) for name in ("table", "at", "run", "seal", "json")
  )
  if runs and flags["method"] in ("isoflop", "power"):
    raise ConfigError(f"--run predicts from N and D, which {flags['method']} does not: use --at")
  if sealed and sealed.exists():
    raise ConfigError(f"{sealed} exists already: a sealed prediction is never replaced")
  needed = ["flops", flags["target"]]
  if flags["method"] != "power":
    needed = ["params", flags["data"], *needed]
  found = fit_json(fit_table(read_table(path, needed), **flags), budgets, runs)
  if sealed:
    _seal(sealed, path, flags, found)
  if as_json:
    print(json.dumps(found, indent=1))
  else:
    _show(found)


def _run(text: str) -> tuple[float, ...]:
  """Parses N,D or N,D,FLOP."""
  parts = text.split(",")
  if len(parts) not in (2, 3):
    raise argparse.ArgumentTypeError(f"{text!r} must be two or three numbers: N,D[,FLOP]")
  return tuple(map(positive, parts))


def _seal(file: Path, table: Path, flags: dict[str, Any], found: dict[str, Any]) -> None:
  """Writes a fit to a file that must not exist yet, with the date and the SHA-256 of the rest."""
  content = {
    "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "table": file_sha256(table),
    "options": flags, "fit": found,
  }  # fmt: skip
  content = finite(content)
  write_first(file, json.dumps(content | {"sha256": seal(content)}, indent=1) + "\n")


def _show(found: dict[str, Any]) -> None:
  """Prints a fit as tables and lines."""
  console = Console(highlight=False, soft_wrap=True)
  intervals, coefficients = found.get("intervals", {}), found.get("coefficients", {})
  loss = coefficients.pop("loss", {})
  values = {k: v for k, v in found.items() if k in intervals or k in _NAMES} | coefficients | loss
  lines = RichTable("", found["method"], "95 % interval", box=None)
  for name, value in values.items():
    lines.add_row(name, f"{value:.5g}", _span(intervals.get(name)))
  console.print(lines)
  objective = found["objective"]
  console.print(
    f"{found['n']} rows; outliers: {found['outliers']['rule']}"
    + (f"; objective {objective:.8g}" if objective is not None else "")
  )
  if found["bootstrap"]["resamples"]:
    console.print("bootstrap: " + ", ".join(f"{k} {v}" for k, v in found["bootstrap"].items()))
  for minimum in found.get("minima", []):
    console.print("minimum " + "  ".join(f"{k} {_short(v)}" for k, v in minimum.items()))
  for row in found["held_out"]:
    console.print(
      f"held out, line {row['line']} ({row['flops']:.3g} FLOP): {row['observed']:.5g} observed, "
      f"{row['predicted']:.5g} predicted {_span(row.get('run_interval'))}{_why(row)}"
    )
  data = found["data"]
  for row in found["runs"]:
    console.print(
      f"a run of {row['params']:.4g} parameters and {row[data]:.4g} {data} ({row['flops']:.3g} "
      f"FLOP): {row['predicted']:.5g} {_span(row.get('run_interval'))}{_why(row)}"
    )
  for best in found["optima"]:
    console.print(
      f"at {best['flops']:.3g} FLOP: N {best['params']:.4g}, D {best['tokens']:.4g}, "
      f"loss {best['loss']:.5g} {_span(best.get('intervals', {}).get('loss'))}, of one run "
      f"{_span(best.get('run_interval'))}"
    )
  if "calibration" in found and (found["held_out"] or found["runs"] or found["optima"]):
    console.print(found["calibration"]["said"])
  for warning in found["warnings"]:
    console.print(f"[yellow]warning:[/] {escape(warning)}")


def _why(row: dict[str, Any]) -> str:
  """Where the width of a row's interval comes from; '' if it has none."""
  return f" {Width.text(row['width'])}" if "width" in row else ""


_NAMES = ("E", "A", "B", "alpha", "beta", "a", "b", "floor", "k", "gamma")


def _short(value: float | int | None) -> str:
  return "none" if value is None else f"{value:.4g}"


def _span(ends: Sequence[float | None] | None) -> str:
  return escape("[{}, {}]".format(*map(_short, ends))) if ends else ""
