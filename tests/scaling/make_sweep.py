"""Directories of sweeps whose law is known: what the runner writes, without any training."""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from videojax.scaling.cells import Cell, cells, product, vary

DEPTH, TOKENS, BATCH = 6, 128, 64
CLIPS = 64
SPLITS = ("id", "fast")
BASELINES = {
  "velocity_error": {"floor": 0.0044, "copy_last": 2.5, "extrapolate": 0.75},
  "permanence": {"floor": 1.0, "copy_last": 0.99, "extrapolate": 0.86},
  "color_drift": {"floor": 0.009, "copy_last": 0.013, "extrapolate": 0.014},
  "survival_frames": {"floor": 13.0, "copy_last": 12.6, "extrapolate": 11.0},
}


@dataclasses.dataclass(frozen=True)
class World:
  """The truth behind a made sweep: L = A (N/1e6)^-alpha + B (D/1e7)^-beta, D in tokens.

  Attributes:
    seed_sd, clip_sd: log-sd of the loss over seeds, and over clips (the same for every cell).
    coherence: whether the data has a simulator behind it.
    best_rate: learning rate with the lowest loss, whatever the width.
    factors: of the loss, by the value of any setting.
  """

  A: float = 0.0076
  alpha: float = 0.65
  B: float = 0.0125
  beta: float = 0.94
  seed_sd: float = 0.03
  clip_sd: float = 0.3
  coherence: bool = True
  best_rate: float = 1e-2
  factors: Mapping[Any, float] = dataclasses.field(default_factory=dict)

  def loss(self, params: float, tokens: float) -> float:
    return self.A * (params / 1e6) ** -self.alpha + self.B * (tokens / 1e7) ** -self.beta


def parameters(width: int) -> int:
  return 12 * DEPTH * width**2 + 200 * width


def step_flops(width: int) -> float:
  per_layer = 12 * TOKENS * width**2 + 2 * TOKENS**2 * width
  return 6.0 * BATCH * (DEPTH * per_layer + TOKENS * width * 1536)


def plan(cell: Cell) -> dict[str, float]:
  """What the runner says of a cell before it runs."""
  width = cell.overrides.get("model.width", 96)
  steps = round(cell.budget / step_flops(width)) if cell.budget else 500
  return {
    "params": parameters(width), "tokens": steps * BATCH * TOKENS,
    "flops": steps * step_flops(width), "total_steps": steps, "seconds": steps * 4e-3,
  }  # fmt: skip


def isoflop_cells(*, seeds: int = 3, held_out: float = 1.024e16) -> list[Cell]:
  """Five sizes at each of four budgets, seeds at the smaller two; the largest budget held out."""
  grid: list[tuple[float, tuple[int, ...]]] = [
    (4e13, (48, 64, 96, 128, 192)),
    (1.6e14, (64, 96, 128, 192, 256)),
    (6.4e14, (96, 128, 192, 256, 384)),
    (2.56e15, (128, 192, 256, 384, 512)),
    (1.024e16, (256, 384, 512)),
  ]
  points = []
  for budget, widths in grid:
    some = range(seeds if budget < 2e14 else 1)
    points += product(vary("budget", budget), vary("model.width", *widths), vary("seed", *some))
  return cells(points, held_out=lambda p: p["budget"] >= held_out)


def make(
  directory: Path,
  made: list[Cell],
  *,
  world: World = World(),
  finished: Callable[[Cell], bool] = lambda cell: not cell.held_out,
  failed: Callable[[Cell], bool] = lambda cell: False,
  samples: bool = True,
  **keys: Any,
) -> Path:
  """Writes sweep.json and the run directories; `keys` are further keys of sweep.json."""
  planned = {cell.name: plan(cell) for cell in made}
  listed = [dataclasses.asdict(cell) for cell in made]
  write(directory / "sweep.json", {"cells": listed, "planned": planned} | keys)
  for cell in made:
    run = directory / "cells" / cell.name
    if failed(cell):
      write(run / "failed.json", {"why": "the loss became NaN at step 17"})
    elif finished(cell):
      finish(directory, cell, world, samples=samples)
  return directory


def finish(directory: Path, cell: Cell, world: World, *, samples: bool = True) -> None:
  """Writes the run directory of a cell as if it had been trained."""
  run, told = directory / "cells" / cell.name, plan(cell)
  rng = np.random.default_rng(zlib.crc32(cell.name.encode()))
  rate = cell.overrides.get("optim.learning_rate", world.best_rate)
  penalty = 1 + 0.3 * np.log10(rate / world.best_rate) ** 2
  loss = world.loss(told["params"], told["tokens"]) * penalty
  for value in cell.overrides.values():
    loss *= world.factors.get(tuple(value) if isinstance(value, list) else value, 1.0)
  loss *= float(np.exp(world.seed_sd * rng.standard_normal()))
  write(run / "config.json", config(cell, world))
  write(run / "environment.json", [{"time": "2026-11-23T10:00:00Z", "devices": ["1 x test"]}])
  write(run / "result.json", result(loss, told, world, rng))
  if samples and world.coherence:
    write_samples(run / "samples" / f"step{told['total_steps']:07d}.npz", loss)


def config(cell: Cell, world: World) -> dict[str, Any]:
  return {
    "total_steps": plan(cell)["total_steps"], "batch_size": BATCH,
    "model": {"name": "dit", "config": {"width": cell.overrides.get("model.width", 96)}},
    "data": {"worlds": {"name": "worlds", "weight": 1, "settings": {
      "size": 32, "frames": 16, "fps": 10.0, "known": 3}}},
    "optim": {"learning_rate": cell.overrides.get("optim.learning_rate", world.best_rate)},
    "evaluate": {"splits": {split: {"split": split} for split in SPLITS}},
    "seed": cell.overrides.get("seed", 0),
  }  # fmt: skip


def result(
  loss: float, told: dict[str, float], world: World, rng: np.random.Generator
) -> dict[str, Any]:
  frozen = {split: losses(loss * (1.6 if split == "fast" else 1), world) for split in SPLITS}
  table = coherence(told, loss, rng) if world.coherence else {}
  return {
    "schema": 2,
    "params_sha256": "0" * 64,
    "parameters": {"mlp": told["params"] // 2, "total": told["params"]},
    "steps": told["total_steps"], "clips": told["total_steps"] * BATCH, "tokens": told["tokens"],
    "flops": {"mlp": told["flops"] / 2, "total": told["flops"]},
    "seconds": {"compile": 20.0, "data_wait": 0.5, "step": told["seconds"], "save": 0.2,
                "evaluate": 5.0},
    "peak_bytes": 2**30,
    "frozen_loss": frozen["id"],
    "frozen_loss_by_split": {"fast": frozen["fast"]},
    "coherence": {m: {s: float(np.nanmean(v)) for s, v in row.items()} | BASELINES[m]
                  for m, row in table.items()},
    "coherence_stderr": {m: {s: stderr(v) for s, v in row.items()} | dict.fromkeys(BASELINES[m], 0.)
                         for m, row in table.items()},
    "coherence_per_example": {m: {s: v.tolist() for s, v in row.items()}
                              for m, row in table.items()},
  }  # fmt: skip


def stderr(values: np.ndarray) -> float:
  return float(np.nanstd(values, ddof=1) / np.sqrt(np.isfinite(values).sum()))


def losses(loss: float, world: World) -> dict[str, Any]:
  """Noisier levels are worse and fall faster; difficult clips are difficult for every model."""
  t = (np.arange(16) + 0.5) / 16
  levels = np.exp(6 * t) * loss ** (0.6 + 0.6 * t)
  levels *= loss / levels.mean()
  clips = np.exp(world.clip_sd * np.random.default_rng(1).standard_normal(CLIPS))
  clips *= loss / clips.mean()
  return {
    "init": 1.1, "final": float(clips.mean()), "stderr": stderr(clips), "raw": loss * 1.1,
    "zero_model": 1.05, "wiener": 0.8, "by_level": levels.tolist(), "velocity": loss * 3,
    "dynamics": float(levels[-1] - levels[0]), "variance": 0.1, "clips": CLIPS,
    "per_example": clips.tolist(),
  }  # fmt: skip


def coherence(
  told: dict[str, float], loss: float, rng: np.random.Generator
) -> dict[str, dict[str, np.ndarray]]:
  """Errors per clip: nothing is known of motion below some 700 steps, then a power law."""
  onset = 1 / (1 + np.exp(-3 * np.log(told["total_steps"] / 700)))
  wrong = {"id": 2.9e6 * told["flops"] ** -0.48, "fast": 1.05e4 * told["flops"] ** -0.28}
  clip = np.random.default_rng(2).standard_normal(CLIPS)
  run = 0.05 * rng.standard_normal()
  out: dict[str, dict[str, np.ndarray]] = {m: {} for m in BASELINES}
  for split, error in wrong.items():
    velocity = (onset * min(error, 2.4) + (1 - onset) * 2.5) * np.exp(run + 0.5 * clip - 0.12)
    lost = np.clip(4 * loss ** (0.75 if split == "id" else 0.6) * np.exp(0.5 * clip - 0.12), 0, 1)
    out["velocity_error"][split] = velocity + 0.0044
    out["permanence"][split] = np.clip(1 - lost**1.5, 0, 1)
    out["color_drift"][split] = 0.009 + (1.3 if split == "id" else 1.6) * loss**0.8 * np.exp(
      0.3 * clip
    )
    out["survival_frames"][split] = np.round(13 * np.clip(1.4 - 4 * lost, 0, 1))
  return out


def write_samples(path: Path, loss: float, clips: int = 3) -> None:
  """Discs on grey that move, the worse the larger the loss."""
  rng = np.random.default_rng(3)
  y, x = np.mgrid[:32, :32] + 0.5
  truth, video = np.zeros((2, clips, 16, 32, 32, 3), np.uint8)
  for clip in range(clips):
    start, speed = rng.uniform(9, 22, 2), rng.uniform(-0.9, 0.9, 2)
    color = rng.uniform(0, 255, 3)
    for frame in range(16):
      off = 0 if frame < 3 else (frame - 2) * loss**0.5 * 2
      for to, wrong in ((truth, 0.0), (video, off)):
        at = start + speed * frame + wrong
        cover = np.clip(4 - np.hypot(y - at[0], x - at[1]) + 0.5, 0, 1)[..., None]
        image = cover * color + (1 - cover) * 128
        image += wrong * 12 * loss**0.3 * rng.standard_normal(image.shape)
        to[clip, frame] = np.clip(image, 0, 255)
  path.parent.mkdir(parents=True, exist_ok=True)
  captions = np.array([f"one disc moves, number {i}" for i in range(clips)])
  np.savez(path, video=video, truth=truth, caption=captions, fps=10.0, given=np.arange(16) < 3)


def write(path: Path, value: Any) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value, indent=2, default=float) + "\n")
