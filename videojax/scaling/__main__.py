"""python -m videojax.scaling COMMAND ...: fits, predictions, reports, serving plans, costs."""

import importlib
import sys
import warnings

from videojax.cost.published_systems import Fact, Row, Trained
from videojax.errors import ConfigError, check_choice
from videojax.io import log
from videojax.scaling import flops
from videojax.scaling.design import ModelWidth

# name -> its module, what it does
COMMANDS = {
  "fit": ("scaling.fit_command", "fits a law to a table of runs"),
  "design": ("scaling.design", "proposes the cells of a sweep that predict a run best"),
  "tune": ("scaling.tune", "finds how the best learning rate and batch size grow with compute"),
  "compare": ("scaling.compare", "compares forms of the law of the lowest loss"),
  "calibrate": ("scaling.calibrate", "learns how wrong laws are beyond their rows from tables"),
  "predict": ("scaling.predict", "predicts the loss of a budget before it runs, dated and sealed"),
  "verify": ("scaling.verify", "checks whether sealed predictions are as they were written"),
  "report": ("report.report", "writes a page about a sweep from its run directories"),
  "serve": ("scaling.serve", "finds the cheapest model and steps to serve video at a quality"),
  "cost": ("cost.cost", "tabulates what video models cost to train and to serve"),
}


def main(argv: list[str]) -> int:
  """Runs a command; reports a user's mistake as one line on standard error, not a traceback."""
  if not argv or argv[0] in ("-h", "--help"):
    print(__doc__)
    for name, (_, does) in COMMANDS.items():
      print(f"  {name:9s} {does} (python -m videojax.scaling {name} --help)")
    return 0 if argv else 2
  try:
    check_choice("command", argv[0], COMMANDS)
    hooks = {"cost": (experiment_rows,), "design": (widths_of,)}.get(argv[0], ())
    with warnings.catch_warnings():
      # Our own errors say which rows cannot be fitted; NumPy's warnings do not.
      warnings.simplefilter("ignore", RuntimeWarning)
      importlib.import_module(f"videojax.{COMMANDS[argv[0]][0]}").main(argv[1:], *hooks)
  except (ValueError, OSError) as error:
    log.error(str(error))
    return 1
  return 0


def experiment_rows(config: list[str]) -> list[Row]:
  """Rows of the cost table for an experiment, one per data source; allocates nothing.

  Args:
    config: --config=FILE[:arg] and --config.a.b=value flags.
  """
  # Only this front end may import both the configs and the cost tables.

  from videojax.config import resolve
  from videojax.launch import parse
  from videojax.runs.program import Counts, parameters_by_part

  settings = parse(["cost", *config, "--workdir=unused"]).config
  e, given = resolve(settings), next(flag for flag in config if flag.startswith("--config="))
  name = given.removeprefix("--config=")
  parts = parameters_by_part(e.model)
  weights = {kind: source.weight for kind, source in e.data.items()}
  rows = []
  for kind in e.data:
    task = e.task(kind)
    frames, height, width, _ = task.source.shape
    _, h, w, _ = task.latent_shape
    products, patch = task.products(), e.model.config.patch
    clips = e.total_steps * e.batch_size * weights[kind] / sum(weights.values())
    work = clips * flops.count(products, work="step")["total"]
    rows.append(
      Row(
        name=f"{name} ({kind})", source=name, size=(frames, height, width),
        fps=task.fps if frames > 1 else None, tokens=Counts.of(task).tokens,
        products=products, image=task.products(frames=1),
        image_tokens=(h // patch[1]) * (w // patch[2]),
        steps=e.sampler.evaluations, branches=e.guidance.calls,
        decode=() if e.codec.network is None else None,  # no network, no FLOPs
        parameters=Fact(parts["total"], name, "derived"), embeddings=parts.get("label", 0),
        given="derived", training=(Trained(work, name, f"3 x forward x {clips:,.0f} clips"),),
      )
    )  # fmt: skip
  return rows


def widths_of(config: str) -> list[ModelWidth]:
  """Widths of an experiment's model, of up to 48 heads or 8 to 512 channels, and their parameters.

  Heads keep about the experiment's head_dim, and a narrow model has one.

  Args: config: FILE[:arg].
  """
  from videojax.config import resolve
  from videojax.launch import parse
  from videojax.runs.program import parameters_by_part
  from videojax.sweeps.schedule import override

  settings = parse(["design", f"--config={config}", "--workdir=unused"]).config
  model, found = settings["model"], []
  if not isinstance(model.get("width"), int):
    raise ConfigError(f"--config={config}: its model has no width to vary")
  heads = model.get("num_heads")
  step = (model.get("head_dim") or model["width"] // heads) if heads else 16
  for width in [*range(8, 2 * step, 8), *range(2 * step, 48 * step if heads else 513, step)]:
    number = -(-width // step)
    changes = {"model.width": width}
    if heads:
      changes |= {"model.num_heads": number}
    if model.get("head_dim"):
      changes |= {"model.head_dim": width // number}
    try:
      params = parameters_by_part(resolve(override(settings, changes)).model)["total"]
    except ValueError:
      continue  # a width that this architecture cannot have
    found.append(ModelWidth(changes, params))
  if not found:
    raise ConfigError(f"--config={config}: none of its model's widths can be built")
  return found


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
