"""Times all bench cases on this machine's devices and prints them beside the estimates.

python -m experiments.bench --workdir=DIR [CASE ...]

Each case runs `--mode=bench` in a separate process, so that it starts with free memory; a case that
fails (out of memory) still gets a row. Cases that have been measured are not run again.
"""

import json
import subprocess
import sys
from pathlib import Path

EMA = ["--config.ema=(0.1,)"]
CASES: dict[str, tuple[str, list[str]]] = {
  "A": ("wan_1p3b_32k.py", []),
  "B": ("wan_1p3b_8k.py", []),
  "C": ("dit_xl_4k.py", []),
  "A, EMA": ("wan_1p3b_32k.py", EMA),
  "B, EMA": ("wan_1p3b_8k.py", EMA),
  "C, EMA": ("dit_xl_4k.py", EMA),
  "B, half": ("wan_1p3b_8k.py:half", []),
  "C, heads of 64": ("dit_xl_4k.py:head64", []),
  "C, heads of 128": ("dit_xl_4k.py:head128", []),
}


def main(arguments: list[str]) -> int:
  places = [a.removeprefix("--workdir=") for a in arguments if a.startswith("--workdir=")]
  wanted = [a for a in arguments if not a.startswith("--")] or list(CASES)
  if len(places) != 1 or not set(wanted) <= set(CASES):
    print(f"{__doc__}\ncases: {', '.join(map(repr, CASES))}", file=sys.stderr)
    return 1
  rows = [row(case, Path(places[0])) for case in wanted]
  head = f"{'case':16} {'ms/step':>10} {'TFLOP/s':>8} {'MFU':>6} {'estimate':>9} {'off by':>7}"
  print("\n".join([head, *rows]))
  return 0


def row(case: str, workdir: Path) -> str:
  """Measures a case unless it has been measured; returns its row of the table."""
  name, overrides = CASES[case]
  place = workdir / case.replace(", ", "_").replace(" ", "_")
  path = place / "bench.json"
  if not path.exists():
    command = [sys.executable, "-m", "videojax.launch", "--mode=bench", f"--workdir={place}"]
    config = f"--config={Path(__file__).parent / name}"
    done = subprocess.run([*command, config, *overrides], stdout=subprocess.DEVNULL)
    if done.returncode:
      return f"{case:16} failed: see above"
  b = json.loads(path.read_text())
  estimate = b["estimate_seconds"]
  return (
    f"{case:16} {b['seconds_per_step'] * 1e3:10.1f} {b['model_flops_per_s'] / 1e12:8.1f} "
    + (f"{b['mfu']:6.1%} " if b["mfu"] else f"{'-':>6} ")
    + (f"{estimate * 1e3:9.1f} {estimate / b['seconds_per_step'] - 1:+7.1%}" if estimate else "-")
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
