"""Costs of image and video models: training compute, and FLOP, seconds, dollars and Wh per clip.

  python -m videojax.scaling cost --chips=H100,v5p --price=H100:2.5 --mfu=0.35
  python -m videojax.scaling cost --config=experiments/quickstart.py

Prints the tables and writes OUT/cost.md and OUT/cost.json. Every cell is marked as published,
derived, measured or a guess, with its source and formula. FLOPs are counted with scaling/flops.py;
the systems are in cost/published_systems.py. This command generates docs/cost.md.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from videojax.cost.observed import conclusions, observed_table
from videojax.cost.published_systems import DELAVANDE, SYSTEMS, Number, Row
from videojax.cost.tables import (
  CHIPS,
  Assumed,
  Cell,
  Table,
  chip_tables,
  clip_flops,
  clips_table,
  conventions_table,
  forward,
  number,
  parts_table,
  per_output,
  served_table,
  training_flops,
  training_table,
  video_seconds,
)
from videojax.errors import ConfigError, check_choice
from videojax.io.files import write_text
from videojax.io.schema import read_as
from videojax.scaling.command import Parser
from videojax.scaling.flops import PF_DAY, count

LETTERS = {"published": "p", "derived": "d", "measured": "m", "guess": "g", "unknown": "u"}
COMMAND = "python -m videojax.scaling cost"
CLAIMED = "widely repeated, of unknown origin"
SMALL_IMAGE, LARGE_IMAGE = "DiT-XL/2 image, 256", "FLUX.1-dev image, 1024"


# --- the claim that video costs 100 to 500 images ------------------------------------------------


def image_ratios(row: Row, images: Mapping[str, Row]) -> list[Number]:
  """Cost of a clip in images: ratios of tokens, FLOP, FLOP per token, per frame, per sample."""
  tokens, work = row.tokens / row.image_tokens, forward(row) / count(row.image)["total"]
  samples = [clip_flops(row) / clip_flops(images[name]) for name in (SMALL_IMAGE, LARGE_IMAGE)]
  return [tokens, work, work / tokens, work / row.size[0], *samples]


def images_table(rows: Sequence[Row]) -> Table:
  columns = {
    "tokens": "clip / one frame of its size",
    "FLOP": "forward pass, or training step: clip / one frame of its size, same model",
    "FLOP per token": "the same, per token",
    "FLOP per frame": "the same FLOP, per frame of the clip",
    f"sample / {SMALL_IMAGE}": "clip FLOP / image FLOP, each with its own sampler",
    f"sample / {LARGE_IMAGE}": "clip FLOP / image FLOP, each with its own sampler",
  }
  images = {row.name: row for row in rows if not row.fps}
  out = {
    row.name: [Cell(v, row.tag, row.source) for v in image_ratios(row, images)]
    for row in rows
    if row.fps
  }
  return Table("images", "How many images a clip costs", columns, out)


def answer(table: Table) -> list[str]:
  """Sentences that test the claim on the published systems in `images_table`."""
  names = [system.name for system in SYSTEMS if system.fps and system.tag != "guess"]
  rows: dict[str, list[Any]] = {name: [c.value for c in table.rows[name]] for name in names}

  def span(column: int) -> str:
    ends = sorted(names, key=lambda name: rows[name][column])
    low, high = (f"{number(rows[name][column])} ({name})" for name in (ends[0], ends[-1]))
    return f"{low} to {high}"

  verdicts = []
  for verdict, low, high in (
    ("true for", 100, 500),
    ("too high for", 0, 100),
    ("too low for", 500, 1e9),
  ):
    shown = [f"{n} ({number(rows[n][1])})" for n in names if low <= rows[n][1] < high]
    verdicts += [f"{verdict} {', '.join(shown)}"] if shown else []
  return [
    "'Video costs 100-500x an image': for one network call or training step on a whole clip "
    f"against one frame of the same size and model, this is {'; '.join(verdicts)}.",
    f"A clip has {span(0)} times the tokens of one frame. The rest is attention: a token of a clip "
    f"costs as much as {span(2)} tokens of an image.",
    f"Per displayed frame, a clip costs {span(3)} images.",
    "Across models and samplers the ratio has no fixed meaning: one clip costs "
    f"{span(4)} samples of {SMALL_IMAGE}, and {span(5)} samples of {LARGE_IMAGE}.",
  ]


# --- claims about Sora ----------------------------------------------------------------------------


Ends = Callable[[Row], Any]  # row -> (low, high) or (value,); None: unknown


def claims_table(a: Assumed, images: Table) -> Table:
  """Common claims about a Sora-class model, beside what the systems above imply."""
  first = a.names[0]

  def pf_days(row: Row) -> tuple[Number, ...] | None:
    ends = training_flops(row, a)
    return ends and tuple(end / PF_DAY for end in ends)

  seconds = lambda row: a.seconds(clip_flops(row), first)
  out = {
    "training, PF-days": _claim(
      1_000_000, 1_000_000, "the table of training; Movie Gen's is an upper bound", pf_days
    ),
    "seconds per clip": _claim(
      60, 300, f"one {first} at MFU {a.mfu:g}", lambda row: (seconds(row),)
    ),
    "tokens per second of video": _claim(
      300_000, 300_000, "tokens / seconds", lambda r: (r.tokens / (video_seconds(r) or 1),)
    ),
    "dollars per minute of video": _claim(
      5, 20, f"{first} at {a.chips[first].price:g} $/chip-h and MFU {a.mfu:g}",
      lambda row: (a.dollars(seconds(row), first) * per_output(row),),
    ),
    "images per clip": _claim(
      100, 500, "FLOP, same model and size", lambda row: (images.rows[row.name][1].value,)
    ),
  }  # fmt: skip
  columns = {"claimed": "", "lowest": "of the systems above", "highest": "", "Sora-class guess": ""}
  return Table("claims", "Claims about a Sora-class model", columns, out)


def _claim(low: Number, high: Number, how: str, value: Ends) -> list[Cell]:
  """Cells of the claim, of the lowest and highest video systems, and of the guess."""
  rows = [system.row() for system in SYSTEMS if system.fps]
  (guess,) = (row for row in rows if row.tag == "guess")
  known = {row.name: value(row) for row in rows if row is not guess}
  least = min((k for k in known if known[k]), key=lambda k: known[k][0])
  most = max((k for k in known if known[k]), key=lambda k: known[k][-1])
  guessed = value(guess)
  return [
    Cell(low, "guess", CLAIMED, to=high),
    Cell(known[least][0], "derived", least, how),
    Cell(known[most][-1], "derived", most, how),
    Cell(guessed[0], "guess", guess.source, how, to=guessed[-1]),
  ]


# --- what is measured here ------------------------------------------------------------------------


class _Conditions(TypedDict):
  device: str
  batch_size: int
  dtype: str
  remat: str


class _Bench(TypedDict):
  """The part of bench.json that is read."""

  conditions: _Conditions
  seconds_per_step: float
  model_flops_per_s: float
  mfu: float | None
  tokens_per_s: float


def measured_table(files: Sequence[Path]) -> Table:
  """Timed training steps, read from bench.json files of `--mode=bench`."""
  columns = {
    "conditions": "", "seconds per step": "median, each step waited for",
    "model TFLOP/s": "3 x forward / seconds", "MFU": "model FLOP/s / (peak x devices)",
    "tokens per second": "tokens of a batch / seconds",
  }  # fmt: skip
  rows = {}
  for path in files:
    try:
      bench = read_as(path, _Bench)
    except ConfigError as error:
      raise ConfigError(f"--bench: {error}; give the bench.json of --mode=bench") from None
    c = bench["conditions"]
    values = (
      f"{c['device']}, batch {c['batch_size']}, {c['dtype']}, remat {c['remat']}",
      bench["seconds_per_step"], bench["model_flops_per_s"] / 1e12, bench["mfu"],
      bench["tokens_per_s"],
    )  # fmt: skip
    rows[str(path)] = [Cell(v, "measured" if v else "unknown", str(path)) for v in values]
  return Table("measured", "Training steps measured here", columns, rows)


# --- the page -------------------------------------------------------------------------------------


def assumed_table(a: Assumed) -> Table:
  columns = {"peak bf16 TFLOP/s": "dense", "dollars per chip-hour": "", "watts": "of the chip"}
  rows = {}
  for name in a.names:
    chip = a.chips[name]
    maker = "NVIDIA datasheet" if "NVIDIA" in chip.kind else "Google Cloud TPU documentation"
    price_tag = "published" if chip.price_source.startswith("Google") else "guess"
    rows[name] = [
      Cell(chip.peak / 1e12, "published", f"{maker}, dense"),
      Cell(chip.price, price_tag, chip.price_source),
      Cell(chip.watts, "published" if chip.watts else "unknown", chip.watts_source),
    ]
  return Table("chips", "Chips", columns, rows)


def tables(rows: Sequence[Row], a: Assumed, bench: Sequence[Path] = ()) -> list[Table]:
  images = images_table(rows)
  out = [clips_table(rows), parts_table(rows), conventions_table(rows), training_table(rows, a)]
  out += [served_table(rows, a), *chip_tables(rows, a), images, claims_table(a, images)]
  return [assumed_table(a), *out, observed_table()] + ([measured_table(bench)] if bench else [])


def number_sources(pages: Sequence[Table]) -> dict[tuple[str, str], int]:
  """(source, the cell's own formula) -> its number on the page, for all cells."""
  keys = ((c.source, c.how) for t in pages for cells in t.rows.values() for c in cells)
  return {key: i for i, key in enumerate(dict.fromkeys(keys), 1)}


def own_lines(pages: Sequence[Table], own: Sequence[str]) -> list[str]:
  """The named rows, one line per table, because the tables are wide and long."""
  out = []
  for name in own:
    out += ["", f"## {name}", ""]
    for table in pages:
      if name in table.rows:
        cells = zip(table.columns, table.rows[name])
        out.append(f"- {table.title}: " + "; ".join(f"{k} {c.text}" for k, c in cells))
  return out


def markdown(
  pages: Sequence[Table],
  a: Assumed,
  told: Mapping[str, Sequence[str]],
  command: str,
  own: Sequence[str] = (),
) -> str:
  """The page in Markdown.

  Args: told: name of a table -> sentences about it. own: names of the rows given with --config,
    which come first.
  """
  sources = number_sources(pages)
  letters = ", ".join(f"{letter} {tag}" for tag, letter in LETTERS.items())
  out = [
    "# What image and video models cost", "",
    f"Generated by `{command}` (--out=docs for docs/cost.md); do not edit.", "",
    f"Each value is followed by a letter ({letters}) and the number of its source, listed at the "
    "end. Formulas are below their tables. A multiply-accumulate of a matrix product or "
    "convolution is two FLOP; text encoders, the autoencoder's encoder, norms and softmax are not "
    "counted. A PF-day is 8.64e19 FLOP.", "",
    f"Assumptions: MFU {a.mfu:g} where none is published. A busy chip draws its full power, its "
    f"machine {a.host:g} times that (1.15 to 1.17 times the GPU's energy in {DELAVANDE}) and the "
    f"data centre {a.pue:g} times the machine's (PUE). --mfu, --host, --pue, --price and --chips "
    "change these.",
  ]  # fmt: skip
  out += own_lines(pages, own)
  for table in pages:
    out += ["", f"## {table.title}", ""]
    out += [*(f"- {line}" for line in told[table.name]), ""] if table.name in told else []
    out.append("| | " + " | ".join(table.columns) + " |")
    out.append("|---" * (len(table.columns) + 1) + "|")
    for name, cells in table.rows.items():
      shown = (f"{c.text} {LETTERS[c.tag]}[{sources[c.source, c.how]}]" for c in cells)
      out.append(f"| {f'**{name}**' if name in own else name} | " + " | ".join(shown) + " |")
    out += ["", formulas(table)]
  out += ["", "## Sources", ""]
  out += [f"{i}. {source}" + (f" ({how})" if how else "") for (source, how), i in sources.items()]
  return "\n".join(out) + "\n"


def formulas(table: Table) -> str:
  """'a, b: formula; c: formula'."""
  by_formula: dict[str, list[str]] = {}
  for column, how in table.columns.items():
    by_formula.setdefault(how, []).append(column)
  return "; ".join(f"{', '.join(c)}: {how}" for how, c in by_formula.items() if how) + "."


def to_json(
  pages: Sequence[Table], a: Assumed, told: Mapping[str, Sequence[str]], command: str
) -> dict[str, Any]:
  """The page as JSON data: cells by table, row and column; `source` is a key of `sources`."""
  sources = number_sources(pages)

  def cell(c: Cell) -> dict[str, Any]:
    kept = {"value": c.value, "text": c.text, "tag": c.tag, "source": sources[c.source, c.how]}
    kept |= {"to": c.to} if c.to not in (None, c.value) else {}
    return kept | ({"at_most": True} if c.at_most else {}) | ({"unit": c.unit} if c.unit else {})

  return {
    "made_by": command,
    "assumed": {"mfu": a.mfu, "pue": a.pue, "host": a.host, "chips": list(a.names)},
    "answer": list(told["images"]),
    "observed": list(told["observed"]),
    "tables": {
      t.name: {
        "title": t.title,
        "formulas": t.columns,
        "rows": {k: dict(zip(t.columns, map(cell, cells))) for k, cells in t.rows.items()},
      }
      for t in pages
    },
    "sources": {
      str(i): {"source": source, "formula": how} for (source, how), i in sources.items()
    },
  }  # fmt: skip


# --- the command ----------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """(parsed flags, arguments that belong to --config).

  Raises: ConfigError for an unknown flag or a bad value.
  """
  parser = Parser("cost", __doc__)
  parser.add_argument(
    "--chips", default=",".join(CHIPS), help="chips in the tables; the first is the default chip"
  )
  parser.add_argument("--price", action="append", default=[], help="CHIP:DOLLARS per chip-hour")
  for name, what in (
    ("mfu", "share of the peak FLOP/s"),
    ("pue", "power of the data centre relative to its machines"),
    ("host", "power of the machine relative to its chips"),
  ):
    parser.add_argument(f"--{name}", type=float, default=getattr(Assumed, name), help=what)
  parser.add_argument("--bench", action="append", default=[], help="a bench.json of --mode=bench")
  parser.add_argument("--out", default="runs/cost", help="directory for cost.md and cost.json")
  parser.add_argument("--config", help="FILE[:arg] of an experiment to add; --config.a.b=value")
  config = [a for a in arguments if a.startswith(("--config=", "--config."))]
  flags = parser.parse_args([a for a in arguments if a not in config])
  if flags.config:
    raise ConfigError(
      f"--config {flags.config}: write it with an equals sign, --config={flags.config}"
    )
  return flags, config


def assumed(flags: argparse.Namespace) -> Assumed:
  """The assumptions; raises ConfigError for an unknown chip or an impossible number."""
  chips = dict(CHIPS)
  for given in ",".join(flags.price).split(",") if flags.price else ():
    name, _, price = given.partition(":")
    check_choice("chip", name, CHIPS)
    try:
      chips[name] = dataclasses.replace(
        chips[name], price=float(price), price_source="given with --price"
      )
    except ValueError:
      raise ConfigError(f"--price={given} must be CHIP:DOLLARS, e.g. --price=H100:2.5") from None
  names = tuple(name for name in flags.chips.split(",") if name)
  return Assumed(names, chips, flags.mfu, flags.pue, flags.host)


def main(
  arguments: Sequence[str],
  experiment_products: Callable[[list[str]], list[Row]] | None = None,
) -> None:
  """Prints the page and writes it as Markdown and JSON.

  Args:
    arguments: the command line's.
    experiment_products: --config=... flags -> rows of that experiment; passed in by a module that
      may import configs.
  Raises: ConfigError for a wrong flag.
  """
  flags, config = parse(arguments)
  a = assumed(flags)
  own: list[Row] = []
  if config:
    if experiment_products is None:
      raise ConfigError("only `python -m videojax.scaling cost` reads --config")
    own = experiment_products(config)
  pages = tables(
    [*own, *(system.row() for system in SYSTEMS)], a, [Path(path) for path in flags.bench]
  )
  images = next(table for table in pages if table.name == "images")
  told = {"images": answer(images), "observed": conclusions()}
  command = " ".join([COMMAND, *(a for a in arguments if not a.startswith("--out"))])
  page = markdown(pages, a, told, command, [row.name for row in own])
  out = Path(flags.out)
  write_text(out / "cost.md", page)
  written = json.dumps(to_json(pages, a, told, command), indent=1, allow_nan=False)
  write_text(out / "cost.json", written + "\n")
  print(page)
  print(f"{out}/cost.md {out}/cost.json")
