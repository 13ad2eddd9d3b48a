"""The tables of cost/cost.py: size and cost of clips, with sources and formulas."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from videojax.cost.published_systems import COUNTED, ChipHours, Fact, Number, Row, Trained
from videojax.errors import ConfigError, check_choice
from videojax.scaling import flops, roofline


@dataclasses.dataclass(frozen=True)
class Chip:
  """kind: a key of flops.PEAK_FLOPS_PER_S; price: $ per chip-hour; watts: of a busy chip."""

  kind: str
  price: Number
  price_source: str
  watts: Number | None = None
  watts_source: str = "Google publishes no power of this chip"

  @property
  def peak(self) -> Number:
    return flops.PEAK_FLOPS_PER_S[self.kind]


_POSTED = "assumed; on demand, May 2026 (mercatus-ai.com):"
_GOOGLE = "Google Cloud, list price on demand, US regions"
CHIPS = {
  "H100": Chip("NVIDIA H100", 2.5, f"{_POSTED} 1.99 to 5.00", 700, "NVIDIA datasheet, SXM, TDP"),
  "H200": Chip("NVIDIA H200", 3.5, f"{_POSTED} 2.50 to 7.00", 700, "NVIDIA datasheet, SXM, TDP"),
  "B200": Chip("NVIDIA B200", 5.0, "assumed; RunPod, March 2026: 5.98", 1000,
               "NVIDIA datasheet, TDP"),
  "A100": Chip("NVIDIA A100", 1.3, f"{_POSTED} 0.80 to 3.00", 400, "NVIDIA datasheet, SXM, TDP"),
  "v4": Chip("TPU v4", 3.22, _GOOGLE, 192, "Jouppi et al. 2023, arXiv:2304.01433: highest"),
  "v5e": Chip("TPU v5e", 1.2, _GOOGLE),
  "v5p": Chip("TPU v5p", 4.2, _GOOGLE),
  "v6e": Chip("TPU v6e", 2.7, _GOOGLE),
}  # fmt: skip


def price_per_hour(kind: str, devices: int) -> float | None:
  """Dollars per hour for these devices at the prices above; None if unknown."""
  chip, memory = priced(kind), roofline.memory(kind)
  return None if chip is None else float(chip.price) * devices / (memory.devices if memory else 1)


def priced(kind: str) -> Chip | None:
  """The chip of a JAX device kind, with its price and the price's source; None if unknown."""
  return next((chip for chip in CHIPS.values() if chip.kind == flops.chip(kind)), None)


@dataclasses.dataclass(frozen=True)
class Assumed:
  """Quantities without a published value.

  Attributes:
    chips: all chips, with their prices; names: those in the tables, the default one first.
    mfu: model FLOPs utilisation of training and sampling; published timings imply .28 to .47.
    pue: power of the data centre relative to its machines.
    host: power of the machine relative to its chips.
  """

  names: tuple[str, ...] = tuple(CHIPS)
  chips: Mapping[str, Chip] = dataclasses.field(default_factory=lambda: CHIPS)
  mfu: Number = 0.35
  pue: Number = 1.1
  host: Number = 1.15

  def __post_init__(self):
    if not self.names:
      raise ConfigError("--chips names no chip: give at least one chip, e.g. --chips=H100")
    for name in self.names:
      check_choice("chip", name, self.chips)
    if not 0 < self.mfu <= 1:
      raise ConfigError(f"--mfu={self.mfu} must be above 0 and at most 1: a share of the peak")
    if not (1 <= self.pue < math.inf and 1 <= self.host < math.inf):
      raise ConfigError(f"--pue={self.pue} and --host={self.host} must be at least 1, and finite")
    for name, chip in self.chips.items():
      if not 0 < chip.price < math.inf:
        raise ConfigError(f"--price={name}:{chip.price} must be above 0, in dollars per chip-hour")

  def seconds(self, work: Number, chip: str) -> Number:
    return work / (self.mfu * self.chips[chip].peak)

  def dollars(self, seconds: Number, chip: str) -> Number:
    return seconds / 3600 * self.chips[chip].price


@dataclasses.dataclass(frozen=True)
class Cell:
  """A value and its source. value None: unknown; to: upper end of a range; how: formula."""

  value: Number | str | None
  tag: str
  source: str
  how: str = ""
  to: Number | None = None
  at_most: bool = False
  unit: str = ""
  digits: int = 3

  @property
  def text(self) -> str:
    """The cell's text: 'unknown', '<= 34,200', '384 to 576 A100-h'."""
    if self.value is None:
      return "unknown"
    shown = number(self.value, self.digits)
    if self.to not in (None, self.value):
      shown += f" to {number(self.to, self.digits)}"
    return ("<= " if self.at_most else "") + shown + (f" {self.unit}" if self.unit else "")


@dataclasses.dataclass(frozen=True)
class Table:
  """columns: name -> the formula of its cells; rows: name -> cells."""

  name: str
  title: str
  columns: dict[str, str]
  rows: dict[str, list[Cell]]


def number(value: Number | str, digits: int = 3) -> str:
  """'0.0895', '6.52e17': rounded to significant digits; integers up to 1e6 in full: '75,600'."""
  if isinstance(value, str):
    return value
  if value == 0 or (isinstance(value, int) and abs(value) <= 1e6):
    return f"{value:,.0f}"
  mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
  if -4 <= int(exponent) < 5:
    return f"{float(f'{value:.{digits - 1}e}'):,.{max(digits - 1 - int(exponent), 0)}f}"
  return f"{mantissa}e{int(exponent)}"


# --- what a clip costs --------------------------------------------------------------------------


def video_seconds(row: Row) -> Number | None:
  return row.size[0] / row.fps if row.fps else None


def forward(row: Row) -> int:
  return flops.count(row.products)["total"]


def clip_flops(row: Row) -> int:
  """FLOPs of one sampled clip: all network calls, plus the decoder if it is known."""
  return row.steps * row.branches * forward(row) + flops.count(row.decode or ())["total"]


def per_output(row: Row) -> Number:
  """Clips in a minute of video; 1 for an image."""
  seconds = video_seconds(row)
  return 60 / seconds if seconds else 1


def training_flops(row: Row, a: Assumed) -> tuple[Number, Number] | None:
  """(low, high); None if no published value implies it."""
  ends = [0.0, 0.0]
  for part in row.training:
    for i in range(2):
      ends[i] += part.flops if isinstance(part, Trained) else (
        (part.low, part.high)[i] * 3600 * a.chips[part.chip].peak * (part.mfu or a.mfu)
      )  # fmt: skip
  return (ends[0], ends[1]) if row.training else None


def _unknown(row: Row, what: str) -> Cell:
  where = "is published" if row.tag == "guess" else f"in {row.source}"
  return Cell(None, "unknown", f"no {what} {where}")


def _fact(row: Row, fact: Fact | None, what: str, unit: str = "") -> Cell:
  return Cell(fact.value, fact.tag, fact.source, unit=unit) if fact else _unknown(row, what)


def _computed(row: Row, *values: Number | str | None, digits: int = 3) -> list[Cell]:
  """Cells with the row's tag and source; None: not applicable to this row."""
  return [
    Cell("-" if value is None else value, row.tag, row.source, digits=digits) for value in values
  ]


# --- tables -------------------------------------------------------------------------------------


def clips_table(rows: Iterable[Row]) -> Table:
  columns = {
    "parameters": "", "T x H x W": "", "seconds of video": "frames / fps",
    "tokens": "t h w of the transformer", "tokens per second of video": "tokens / seconds",
    "forward FLOP": "2 per multiply-accumulate, one network call",
    "attention scores": "share of a forward pass", "network calls": "steps x branches",
    "transformer FLOP": "forward x calls, one clip", "decoder FLOP": "counted, once a clip",
    "PF-days per minute of video, or image": "(transformer + decoder) x clips per minute / 8.64e19",
  }  # fmt: skip
  out = {}
  for row in rows:
    work, seconds = flops.count(row.products), video_seconds(row)
    decode = flops.count(row.decode)["total"] if row.decode is not None else None
    calls = row.steps * row.branches
    told = dataclasses.replace(row, tag=row.given)
    size = " x ".join(map(str, row.size)) + (f" at {row.fps:g} fps" if row.fps else "")
    out[row.name] = [
      _fact(row, row.parameters, "number of parameters"),
      *_computed(told, size),
      *_computed(
        row, seconds, row.tokens, row.tokens / seconds if seconds else None,
        float(work["total"]), work.get("attention scores", 0) / work["total"],
      ),
      *_computed(told, calls),
      *_computed(row, float(calls * work["total"])),
      Cell(float(decode), row.tag, COUNTED if decode else row.source) if decode is not None
      else _unknown(row, "size of the decoder"),
      *_computed(row, clip_flops(row) * per_output(row) / flops.PF_DAY),
    ]  # fmt: skip
  return Table("clips", "What a clip is, and its FLOPs", columns, out)


def parts_table(rows: Iterable[Row]) -> Table:
  work = {
    row.name: (
      row,
      {k: v * row.steps * row.branches for k, v in flops.count(row.products).items()}
      | {k: v for k, v in flops.count(row.decode or ()).items() if k != "total"},
    )
    for row in rows
  }
  parts = list(dict.fromkeys(k for _, kinds in work.values() for k in kinds if k != "total"))
  out = {
    name: _computed(row, *(kinds.get(part, 0) / clip_flops(row) for part in parts))
    for name, (row, kinds) in work.items()
  }
  how = "share of the sampled clip's FLOP (text: cross-attention, or the text in a joint sequence)"
  return Table("parts", "Where the FLOPs of a sampled clip are", dict.fromkeys(parts, how), out)


def conventions_table(rows: Iterable[Row]) -> Table:
  columns = {
    "forward GMAC": "what the DiT paper calls Gflops", "forward GFLOP": "2 x GMAC",
    "step GFLOP": "3 x forward", "hardware step GFLOP": "4 x forward: full remat",
    "N total": "", "N non-embedding": "without lookup tables",
    "N effective": "step FLOP / 6 / tokens", "6 N tokens / step": "with N total",
  }  # fmt: skip
  out = {}
  for row in rows:
    for name, products in {"": row.products, **row.variants}.items():
      mac = flops.count(products, unit="mac")["total"]
      work = [flops.count(products, work=w)["total"] for w in flops.FORWARDS]
      total = row.parameters.value if row.parameters else None
      out[row.name + (f", {name}" if name else "")] = [
        *_computed(row, mac / 1e9, *(w / 1e9 for w in work), digits=5),
        _fact(row, row.parameters, "number of parameters"),
        *_computed(
          row, total - row.embeddings if total else None,
          flops.effective_parameters(products, row.tokens),
          6 * total * row.tokens / work[1] if total else None,
        ),
      ]  # fmt: skip
  return Table("conventions", "The same forward pass under every convention", columns, out)


def training_table(rows: Iterable[Row], a: Assumed) -> Table:
  first = a.names[0]
  columns = {
    "PF-days": f"see each source; MFU {a.mfu:g} where none is published",
    "chip-hours": f"published, or FLOP / (MFU {a.mfu:g} x peak of {first})",
    "dollars": "chip-hours x the assumed price of the chip", "published dollars": "",
  }  # fmt: skip
  out = {row.name: _training_cells(row, a, first) for row in rows}
  return Table("training", "Training", columns, out)


def _training_cells(row: Row, a: Assumed, first: str) -> list[Cell]:
  ends = training_flops(row, a)
  if ends is None:
    unknown = _unknown(row, "training compute, clips seen or chip-hours")
    return [unknown] * 3 + [_fact(row, row.price, "training cost")]
  source = "; ".join(part.source for part in row.training)
  hours = [part for part in row.training if isinstance(part, ChipHours)]
  kind: dict[str, Any] = dict(source=source, tag="derived")
  if hours:
    mfus = ", ".join(f"{p.mfu or a.mfu:g}" for p in hours)
    kind |= dict(tag=hours[0].tag, how=f"chip-hours x peak x MFU {mfus}")
    chip, low, high = hours[0].chip, sum(p.low for p in hours), sum(p.high for p in hours)
  else:
    kind |= dict(how=row.training[0].how)  # type: ignore[union-attr]
    chip, (low, high) = first, (a.seconds(end, first) / 3600 for end in ends)
  at_most = any(isinstance(part, Trained) and part.at_most for part in row.training)
  price = a.chips[chip].price
  told = dict(kind, tag="published", how="") if hours and hours[0].tag == "derived" else kind
  return [
    Cell(ends[0] / flops.PF_DAY, to=ends[1] / flops.PF_DAY, at_most=at_most, **kind),
    Cell(low, to=high, at_most=at_most, unit=f"{chip}-h", **told),
    Cell(low * price, to=high * price, at_most=at_most, **dict(kind, how=f"{price:g} $/{chip}-h")),
    _fact(row, row.price, "training cost"),
  ]


def served_table(rows: Iterable[Row], a: Assumed) -> Table:
  columns = {
    "seconds per clip": "one chip", "implied MFU": "clip FLOP / (seconds x peak)",
    "dollars per minute of video, or image": "seconds x the assumed price of the chip",
    "Wh per clip": "of the machine, without the data centre",
  }  # fmt: skip
  out = {}
  for row in rows:
    wh = _fact(row, row.wh, "energy")
    if row.seconds is None:
      out[row.name] = [_unknown(row, "time per clip on one chip")] * 3 + [wh]
      continue
    mfu = clip_flops(row) / (row.seconds.value * a.chips[row.chip].peak)
    how = "above 1: timed with fewer network calls, or another network" if mfu > 1 else ""
    tag, source = "guess" if row.seconds.tag == "guess" else "derived", row.seconds.source
    price = a.dollars(row.seconds.value, row.chip) * per_output(row)
    out[row.name] = [
      _fact(row, row.seconds, "", unit=f"on {row.chip}"),
      Cell(mfu, tag, source, how),
      Cell(price, tag, source, f"{a.chips[row.chip].price:g} $/{row.chip}-h"),
      wh,
    ]
  return Table("served", "Serving, from published timings", columns, out)


def chip_tables(rows: Sequence[Row], a: Assumed) -> list[Table]:
  def table(name: str, title: str, how: str, value: Callable[[Row, str], Number | None]) -> Table:
    cells = {}
    for row in rows:
      cells[row.name] = [
        Cell(value(row, c), row.tag, row.source) if value(row, c) is not None
        else Cell(None, "unknown", a.chips[c].watts_source) for c in a.names
      ]  # fmt: skip
    formulas = {c: how.format(c=a.chips[c]).replace("None", "unknown") for c in a.names}
    return Table(name, title, formulas, cells)

  def seconds(row: Row, c: str) -> Number:
    return a.seconds(clip_flops(row), c)

  def wh(row: Row, c: str) -> Number | None:
    watts = a.chips[c].watts
    return None if watts is None else seconds(row, c) * watts * a.host * a.pue / 3600

  mfu = f"MFU {a.mfu:g}"
  return [
    table("seconds", "Seconds per clip on one chip", f"clip FLOP / ({mfu} x {{c.peak:.4g}})",
          seconds),
    table("dollars", "Dollars per minute of video, or per image",
          f"seconds per clip ({mfu}) x {{c.price:g}} $/chip-h x clips per minute",
          lambda row, c: a.dollars(seconds(row, c), c) * per_output(row)),
    table("wh", "Wh per clip", f"seconds per clip ({mfu}) x {{c.watts}} W x host {a.host:g} x PUE "
          f"{a.pue:g} / 3600", wh),
  ]  # fmt: skip
