"""Writes docs/pods.md and docs/pods.json: the bench cases compiled for TPU slices.

python -m tests.make_pods [--only=TEXT]     about 20 minutes on two cores; needs the extra `tpu`
Rows in docs/pods.json are kept: delete the file to compile all of them again.
"""

import contextlib
import io
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

ROOT = Path(__file__).parents[1]
XL, WAN = "dit_xl_4k", "wan_14b_76k"
FULL = {"model.remat": "full"}
PIECES = {"mesh.data": -1, "mesh.fsdp": 16, **FULL}  # 1152 divides by 16, not by 256
# (case, topology, slices, overrides)
ROWS: list[tuple[str, str, int, dict[str, Any]]] = [
  (XL, "v5p:2x2x1", 1, FULL),
  (XL, "v5p:4x4x4", 1, PIECES),
  (XL, "v5p:8x8x8", 1, PIECES),
  (XL, "v5e:16x16", 1, PIECES),
  (XL, "v5e:16x16", 1, {**PIECES, "clips_per_device": 2.0}),
  (XL, "v6e:16x16", 1, PIECES),
  (XL, "tpu7x:4x4x4", 1, PIECES),
  (XL, "v5e:16x16", 2, {**PIECES, "clips_per_device": 2.0}),
  (WAN, "v5p:2x2x1", 1, {}),
  (WAN, "v5p:4x4x4", 1, {}),
  (WAN, "v5p:8x8x8", 1, {"mesh.data": -1, "mesh.fsdp": 16}),
  (WAN, "v5e:16x16", 1, {}),
  (WAN, "v5e:16x16", 1, {"mesh.seq": 8, "clips_per_device": 0.125}),
  (WAN, "v6e:16x16", 1, {}),
  (WAN, "tpu7x:4x4x4", 1, {}),
  # Weak scaling: the same work on every chip, from 8 to 4,096.
  (XL, "v5p:2x2x2", 1, {"mesh.data": -1, "mesh.fsdp": 8, **FULL}),
  (XL, "v5p:4x4x4", 1, {"mesh.data": -1, "mesh.fsdp": 8, **FULL}),
  (XL, "v5p:8x8x8", 1, {"mesh.data": -1, "mesh.fsdp": 8, **FULL}),
  (XL, "v5p:16x16x16", 1, {"mesh.data": -1, "mesh.fsdp": 8, **FULL}),
  (WAN, "v5p:2x2x2", 1, {"mesh.data": -1, "mesh.fsdp": 2}),
  (WAN, "v5p:4x4x4", 1, {"mesh.data": -1, "mesh.fsdp": 2}),
  (WAN, "v5p:8x8x8", 1, {"mesh.data": -1, "mesh.fsdp": 2}),
  (WAN, "v5p:16x16x16", 1, {"mesh.data": -1, "mesh.fsdp": 2}),
]  # fmt: skip
WEAK = slice(15, 23)
KEPT = (
  "topology", "slices", "devices", "mesh", "batch_size", "remat", "attention", "state_bytes",
  "fits", "peak_bytes", "argument_bytes", "temporary_bytes", "over_bytes", "collectives", "flops",
  "bound_seconds", "estimate_seconds", "mfu_estimate",
)  # fmt: skip


def compiled(case: str, topology: str, slices: int, overrides: dict[str, Any]) -> dict[str, Any]:
  """What of plan.json the table needs."""
  from videojax.config import resolve
  from videojax.plan.plan import Target, plan

  config = runpy.run_path(str(ROOT / "experiments" / "bench" / f"{case}.py"))["get_config"]()
  with config.ignore_type():
    config.update_from_flattened_dict(overrides)
  with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(io.StringIO()):
    written = plan(resolve(config.to_dict()), Path(workdir), Target(topology, slices))
  return {"case": case, "overrides": overrides} | {k: written.get(k) for k in KEPT}


def main(only: str = "") -> None:
  path = ROOT / "docs" / "pods.json"
  rows = json.loads(path.read_text()) if path.exists() else []
  have = {json.dumps([r["case"], r["topology"], r["slices"], r["overrides"]]) for r in rows}
  for row in ROWS:
    if json.dumps(list(row)) in have or only not in json.dumps(row):
      continue
    rows.append(compiled(*row))
    print(row, rows[-1]["fits"], rows[-1]["peak_bytes"] / 2**30, flush=True)
    rows.sort(key=lambda r: ROWS.index((r["case"], r["topology"], r["slices"], r["overrides"])))
    path.write_text(json.dumps(rows, indent=1) + "\n")
  (ROOT / "docs" / "pods.md").write_text(page(rows))


HEAD = """# Pods, compiled

Training steps compiled for TPU slices on a machine that has none (`--mode=plan --topology=...`),
with the memory and collectives that XLA's TPU compiler reports. Nothing here ran on a TPU.
`python -m tests.make_pods` generates this page; pods.json holds all numbers.

The cases are in experiments/bench: `dit_xl_4k` has 0.6B parameters and 4,096 tokens per clip,
`wan_14b_76k` 14.3B and 75,600. Products are in bf16. State: fp32 master weights, AdamW's two
moments and gradients (16 bytes per parameter, divided over the devices of fsdp and seq; each EMA
would add 4). Peak: memory of one device, with state, activations and gathered arrays. Too much:
beyond what XLA leaves to programs, which is 15.75 of v5e's 16 GiB. s/step: an estimate
(scaling/roofline.py).

`plan` exits with code 0 if the step fits, 3 if it does not (with `--search`: if nothing that was
tried fits), 1 if a setting is wrong. Slices are written chip:shape, or by gcloud's names: v5e:4x4
is v5litepod-16 (v5e-16). A mesh that does not match the slice is rejected, with the flags of one
that does. Compiling takes 15 s (XL) to 60 s (14B) on two quiet cores, and minutes where blocks
differ in size and cannot be a loop (U-Nets); `plan` says so beforehand, and reports the seconds
afterwards.

| case | slice | devices | mesh | clips | remat | state | peak | fits | s/step | MFU |
|---|---|---|---|---|---|---|---|---|---|---|
"""
WEAK_HEAD = """
## Weak scaling, on paper

The same work per chip on 8 to 4,096 chips of v5p: `fsdp` and `seq` stay fixed and `data` grows.
The table shows the GiB that one device sends per step over each mesh axis (several: groups that
span two axes). An all-reduce over n devices sends 2 (n-1)/n of its array, so the traffic over
`data` grows from once to twice the device's share of the gradient, and no further.

| case | devices | data | fsdp | seq | several | all |
|---|---|---|---|---|---|---|
"""


def page(rows: list[dict[str, Any]]) -> str:
  gib = lambda n: "-" if n is None else f"{n / 2**30:.1f} GiB"
  mesh = lambda r: " x ".join(f"{a} {n}" for a, n in r["mesh"].items() if n > 1)
  text, weak = HEAD, WEAK_HEAD
  for r in rows:
    row = r["case"], r["topology"], r["slices"], r["overrides"]
    if row in [tuple(w) for w in ROWS[WEAK]]:
      weak += weak_row(r)
      continue
    slices = f"{r['slices']} x " if r["slices"] > 1 else ""
    fits = "yes" if r["fits"] else f"no: {gib(r['over_bytes'])} too much"
    seconds = r["estimate_seconds"]
    cells = (
      r["case"], slices + r["topology"], r["devices"], mesh(r), r["batch_size"], r["remat"],
      gib(r["state_bytes"]["total"]), gib(r["peak_bytes"]), fits,
      "-" if seconds is None else f"{seconds:.3g}",
      "-" if seconds is None else f"{r['mfu_estimate']:.0%}",
    )  # fmt: skip
    text += f"| {' | '.join(map(str, cells))} |\n"
  return text + weak


def weak_row(r: dict[str, Any]) -> str:
  across: dict[str, float] = {}
  for by_axis in (r["collectives"] or {}).values():
    for axes, cell in by_axis.items():
      name = axes if axes in ("data", "fsdp", "seq") else "several"
      across[name] = across.setdefault(name, 0.0) + cell["bytes"] / 2**30
  cells = [f"{across.get(a, 0):.2f}" for a in ("data", "fsdp", "seq", "several")]
  return f"| {r['case']} | {r['devices']} | {' | '.join(cells)} | {sum(across.values()):.2f} |\n"


if __name__ == "__main__":
  main(*(argument.removeprefix("--only=") for argument in sys.argv[1:]))
