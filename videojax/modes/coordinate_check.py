"""--mode=coordinates: the coordinate check of a model with and without muP, and a plot of it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from videojax import optim
from videojax.config import Experiment
from videojax.data import Carried, stack_examples
from videojax.io import files
from videojax.report import plotting
from videojax.runs.run_state import (
  create_state,
  make_update,
)
from videojax.scaling.product_sizes import product_sizes, slopes
from videojax.sharding import by_path
from videojax.state import TrainState, train_step
from videojax.task import Task, without_codec

DOUBLINGS, STEPS = 4, (1, 3, 10)
FLAT = 0.15  # |slope| up to this is called flat: a factor of 1.5 over 16 times the width


def coordinates(experiment: Experiment, workdir: Path) -> dict[str, Any]:
  """Trains the model at 1 to 16 times its width for ten steps; writes coordinates.json and .png.

  Args:
    experiment: its width is the base width; its learning rate, batch and data are used as they are.
    workdir: for the results.
  Returns: the content of coordinates.json: for each parametrisation and number of steps, the slope
    of log(RMS) over log(width) for every matrix product of the forward pass.
  """
  written: dict[str, Any] = {"steps": list(STEPS), "learning_rate": experiment.optim.learning_rate}
  for name, base in (("mup", experiment.model.config.width), ("standard", None)):
    widths, sizes = [], []
    for e in widened(dataclasses.replace(experiment, mup_base_width=base), DOUBLINGS):
      widths.append(e.model.config.width)
      sizes.append(sizes_after(e, STEPS))
    written |= {"widths": widths, name: dict(zip(map(str, STEPS), map(list, zip(*sizes))))}
    written[f"{name}_slopes"] = {
      str(step): slopes(widths, [size[i] for size in sizes]) for i, step in enumerate(STEPS)
    }
  files.write_json(workdir / "coordinates.json", written)
  draw(written, workdir / "coordinates.png")
  for name in ("mup", "standard"):
    for step, found in written[f"{name}_slopes"].items():
      worst = max(found, key=lambda k: abs(found[k]))
      steep = sum(abs(v) > FLAT for v in found.values())
      print(
        f"{name:8s} after {step:>2s} steps: steepest {worst} ~ width^{found[worst]:+.2f}; "
        f"{steep} of {len(found)} products steeper than {FLAT}"
      )
  print(f"{workdir}/coordinates.png")
  return written


def widened(e: Experiment, doublings: int) -> Iterator[Experiment]:
  """The experiment at 1, 2, 4, ... times its width, without scan and remat."""
  model = e.model
  how = {"remat": "none"} | ({"scan": False} if model.scan else {})
  for _ in range(doublings + 1):
    config = dataclasses.replace(model.config, **how)
    yield dataclasses.replace(e, model=dataclasses.replace(model, config=config))
    model = model.wider


def sizes_after(e: Experiment, steps: tuple[int, ...]) -> list[dict[str, float]]:
  """RMS of every matrix product after these numbers of updates, on the same clips and noise."""
  task = e.task(next(iter(e.data)))
  tx, gammas = make_update(e)
  create = lambda: create_state(e, tx)
  schedule, key = optim.schedule(e.optim, max(steps)), jax.random.key(e.seed)
  update = jax.jit(
    lambda state, rows: train_step(
      state, rows, key, schedule, loss_fn=task.loss, tx=tx, gammas=gammas, accumulate=1
    )[0]
  )
  measure, state = jax.jit(lambda state, rows: products(task, state, rows)), jax.jit(create)()
  probe = stack_examples(task.source, range(e.batch_size))
  out = []
  for step in range(max(steps)):
    first = (step + 1) * e.batch_size
    state = update(state, stack_examples(task.source, range(first, first + e.batch_size)))
    if step + 1 in steps:
      out.append({k: float(v) for k, v in measure(state, probe).items()})
  return out


def products(task: Task, state: TrainState, rows: Carried) -> dict[str, jax.Array]:
  """RMS of the forward pass's products on clips at noise level 0.5."""
  x, cond = task.prepare(state.params, task.source.decode(rows))
  t = jnp.full((x.shape[0], 1), 0.5, jnp.float32)
  noisy = 0.5 * x + 0.5 * jax.random.normal(jax.random.key(0), x.shape)
  params = without_codec(state.params)
  network = lambda p, x_t: task.denoise(p, x_t, t, cond).output
  return product_sizes(network, params, noisy, names=list(by_path(params)))


def draw(written: dict[str, Any], path: Path) -> None:
  """Plots RMS over width, a line per product: rows are parametrisations, columns are steps."""
  flat, steep, *_ = plotting.PALETTE
  with plotting.styled():
    figure, axes = plotting.new(2, len(STEPS), height=2.5, sharex=True, sharey=True)
    for row, (name, title) in enumerate((("mup", "muP"), ("standard", "standard"))):
      for axis, step in zip(axes[row], map(str, STEPS)):
        for product, slope in written[f"{name}_slopes"][step].items():
          sizes = [size[product] for size in written[name][step]]
          color = flat if abs(slope) <= FLAT else steep
          axis.plot(written["widths"], sizes, color=color, lw=0.9, alpha=0.7)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(f"{title}, after {step} step{'s' if step != '1' else ''}")
      axes[row, 0].set_ylabel("RMS of a product's output")
    for axis in axes[1]:
      axis.set_xlabel("width")
    figure.suptitle(
      f"Every matrix product of the forward pass (orange: steeper than width$^{{{FLAT}}}$)"
    )
    figure.savefig(path, dpi=180)
