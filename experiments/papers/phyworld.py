"""PhyWorld (Kang et al. 2024, arXiv:2411.02385): do more data and larger models learn a law?

  python -m videojax.launch --config=experiments/papers/phyworld.py:uniform,S,30K \\
    --workdir=runs/phyworld

Scenario uniform, parabola or collision; size S, B, L or XL; grid 30K, 300K or 3M. Then the paper's
own measure, as published and corrected (data_pipelines/phyworld_parser.py), for the samples and for
the true clips:

  python -m experiments.papers.phyworld runs/phyworld

Its grid of data and model sizes, nine runs (or ':uniform,cpu', nine small ones):

  python -m videojax.launch --mode=sweep --config=experiments/papers/phyworld.py:uniform \\
    --workdir=runs/phyworld_uniform

As in the paper: scenarios, grids, speeds and radii in and out of distribution; 32 frames of
128x128, the first 3 given as extra channels with a mask, zeros elsewhere; joint space-time
attention, 3-D RoPE, v-prediction, batch 256, 100,000 steps. Published velocity errors of uniform
motion: in distribution .022 (S, 30K) and .012 (L, 3M), while true clips have .010, all of it due to
the parser's scale; out of distribution .427 (L, 3M) and .433, .328, .358 (B at 30K, 300K, 3M).
Differences: pixels in patches of 4x8x8 (2,048 tokens) instead of latents of a video autoencoder
that was not released; separate adaLN weights in each block: 33.4M, 131.5M, 459.3M and 676.5M
parameters, compared with the paper's 22.5M, 89.5M, 310M and 456M, which match the same widths and
depths with one adaLN for all blocks. Learning rate, warm-up and noise schedule (linear) are ours.
Data and measure: data_pipelines/phyworld.py and phyworld_parser.py.
Verified: only the small form was run, ':SCENARIO,cpu', on two cores: 16 frames of 16x16, .2 s
apart, 1.4M parameters, the recipe of experiments/quickstart.py.
Expect: frozen loss .0078, .0093 and .0419 (uniform, parabola, collision), velocity error in
distribution .042, .045 and .28 units/s, 320 to 370 s on one core: docs/LOG.md, 2026-11-24,
PhyWorld.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from videojax.config import complete
from videojax.errors import check_choice
from videojax.models.dit import SIZES
from videojax.scaling.cells import Cell, cells, product, vary, zipped

SCENARIOS = ("uniform", "parabola", "collision")
PAPER_SIZES, PAPER_GRIDS = ("S", "B", "L", "XL"), ("30K", "300K", "3M")
SMALL = ("cpu", "smoke")
SPLITS = ("id", "r_out", "v_out", "rv_out")


def read(arg: str) -> tuple[str, str, str]:
  """Parses an arg: (scenario, size, grid); size may be 'cpu' or 'smoke'."""
  parts = ("uniform," + arg if arg in SMALL else arg or "uniform").split(",")
  scenario, size, grid, *rest = parts + ["S", "30K"][len(parts) - 1 :]
  check_choice("scenario", scenario, SCENARIOS)
  check_choice("size", size, PAPER_SIZES + SMALL)
  check_choice("grid", ",".join([grid, *rest]), PAPER_GRIDS)
  return scenario, size, grid


def get_config(arg: str = "uniform,S,30K") -> ConfigDict:
  """arg: 'SCENARIO,SIZE,GRID'; 'SCENARIO,cpu': for two cores; 'smoke': two steps, for tests."""
  scenario, size, grid = read(arg)
  return _small(scenario, size == "smoke") if size in SMALL else _paper(scenario, size, grid)


def _paper(scenario: str, size: str, grid: str) -> ConfigDict:
  c = ConfigDict()
  c.total_steps = 100_000
  c.batch_size = 256
  c.model = dict(name="dit", patch=(4, 8, 8), channels=3, known="zeros", **SIZES[size])
  c.data = dict(phyworld=dict(name="phyworld", size=128, scenario=scenario, grid=grid))
  c.condition = {}
  c.denoiser = dict(process="linear", prediction="v")
  c.objective = dict(times="uniform", space="v")
  c.optim = dict(learning_rate=1e-4, warmup_steps=1000)
  c.checkpoint = dict(save_every_steps=5000)
  c.evaluate = dict(
    splits={name: dict(split=name) for name in SPLITS},
    main="id",
    clips=256,
    coherence_clips=256,
    batch_size=32,
  )
  return complete(c)


def _small(scenario: str, smoke: bool) -> ConfigDict:
  known = 2 if scenario == "collision" else 3  # balls may collide soon after these frames
  c = ConfigDict()
  c.total_steps = 2 if smoke else 5000
  c.batch_size = 2 if smoke else 8
  c.model = dict(
    name="dit",
    width=32 if smoke else 128,
    depth=2 if smoke else 4,
    num_heads=2,
    patch=(16, 2, 2),
    channels=3,
    known="last",
    rope_theta=100.0,
    dtype="float32",
  )
  source = dict(name="phyworld", size=16, frames=16, known=known, fps=5.0, scenario=scenario)
  c.data = dict(phyworld=source)
  c.condition = {}
  c.denoiser = dict(prediction="data")
  c.objective = dict(space="velocity", times="logit_normal", mean=0.8, std=1.2)
  c.optim = dict(learning_rate=3.5e-3, schedule="wsd", warmup_steps=50, decay_fraction=1.0)
  c.mup_base_width = 128
  c.ema = (0.05,)
  c.sampler = dict(steps=2 if smoke else 30)
  c.checkpoint = dict(save_every_steps=1000)
  c.evaluate = dict(
    splits={name: dict(split=name) for name in (("id", "v_out") if smoke else SPLITS)},
    main="id",
    clips=4 if smoke else 128,
    coherence_clips=4 if smoke else 128,
    reference_clips=8 if smoke else 1024,
    batch_size=4 if smoke else 64,
  )
  return complete(c)


def get_sweep(arg: str = "uniform") -> list[Cell]:
  """Model size by data grid. arg: 'SCENARIO', 'SCENARIO,cpu' (our grids and sizes), 'smoke'."""
  _, size, _ = read(arg)
  if size in SMALL:
    grids = ("300", "3K") if size == "smoke" else ("300", "3K", "30K")
    widths = (16, 32) if size == "smoke" else (32, 64, 128)
    sizes = vary("model.width", *widths)
  else:
    grids = PAPER_GRIDS
    column = lambda key: vary(f"model.{key}", *(SIZES[s][key] for s in PAPER_SIZES[:3]))
    sizes = zipped(*map(column, ("width", "depth", "num_heads")))
  return cells(product(sizes, vary("data.phyworld.grid", *grids)))


def get_notes(arg: str = "uniform") -> dict[str, Any]:
  """Notes for sweep.json; E is 0, because the known frames determine the rest."""
  return {"title": f"PhyWorld, {read(arg)[0]} motion", "irreducible": 0.0}


def vel_error(workdir: Path) -> dict[str, dict[str, Any]]:
  """The paper's measure on a run's samples and on the true clips, by split; see main()."""
  from data_pipelines.phyworld_parser import velocity_errors
  from videojax.config import from_json
  from videojax.modes.finished_run import opened
  from videojax.runs import rundir
  from videojax.sample import generate

  e, out = from_json(rundir.read_config(workdir)), {}
  with opened(e, workdir) as (evaluator, weights, _):
    task = evaluator.train_task
    make = jax.jit(lambda p, x: generate(task, e.sampler, e.guidance, p, x))
    for split in evaluator.tasks:
      rows: dict[str, list[np.ndarray]] = {}
      for example, n in evaluator.examples(split, e.evaluate.coherence_clips):
        videos = {"model": make(weights, example), "truth": example["video"]}
        for whose, video in videos.items():
          for name, reading in (("published", "published"), ("mended", "centres")):
            fps = task.source.config.fps
            values = velocity_errors(np.asarray(video), example["state"], fps, reading)
            rows.setdefault(f"{whose} {name}", []).append(values[:n])
      out[split] = {name: _mean(np.concatenate(parts)) for name, parts in rows.items()}
  return out


def _mean(errors: np.ndarray) -> dict[str, Any]:
  """Mean over clips of errors [clips, (before, after a contact)], and the number of valid clips."""
  number = (~np.isnan(errors)).sum(0)
  means = np.nansum(errors, 0) / np.maximum(number, 1)
  return {"vel_error": means[: 1 + (number[1] > 0)].tolist(), "clips": number.tolist()}


def main(arguments: list[str]) -> None:
  """Prints and writes vel_error.json: split -> 'model published', ... -> errors."""
  (workdir,) = map(Path, arguments)
  errors = vel_error(workdir)
  (workdir / "vel_error.json").write_text(json.dumps(errors, indent=1))
  for split, rows in errors.items():
    for name, row in rows.items():
      numbers = " / ".join(f"{v:.4f}" for v in row["vel_error"])
      print(f"{split:7s} {name:16s} {numbers}  ({' / '.join(map(str, row['clips']))} clips)")


if __name__ == "__main__":
  main(sys.argv[1:])
