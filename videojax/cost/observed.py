"""Published scores of video models against size and date: an observational law, and its limits.

An observational law (Ruan et al. 2024, arXiv:2405.10938) compares models that different people
trained, in place of runs that differ in one thing:

  VBench total [%] = a + b log10(parameters / 3e9) + c (release - mid 2024) + d (prompts extended)

by least squares. What it says of a model is predicted without that model; brackets are 95 %
intervals (Student's t). Totals count that VBench's own team evaluated, and not of clips that the
board says the model's authors sampled.
"""

import dataclasses
import functools

import numpy as np
from scipy import stats

from videojax.cost.published_systems import (
  COGVIDEOX,
  COUNTED,
  HUNYUAN,
  LATTE,
  LTX,
  WAN,
  Fact,
  Number,
)
from videojax.cost.tables import Cell, Table

Array = np.ndarray

VBENCH = (
  "VBench leaderboard (Huang et al. 2024, arXiv:2311.17982), totals of October 2026, evaluated by "
  "VBench's team (who sampled is not said of every row); dates and prompts: "
  "github.com/Vchitect/VBench, sampled_videos"
)
MIDDLE_SIZE, MIDDLE_DATE = 3e9, 2024.5
FORMULA = "a + b log10(parameters / 3e9) + c (date - 2024.5) + d (prompts extended)"


@dataclasses.dataclass(frozen=True)
class Scored:
  """A published model and its score; None is unknown.

  Attributes:
    released: 'YYYY-MM'.
    parameters: of the denoiser, all stages of a cascade together, or the active expert.
    extended: whether a language model extended VBench's prompts.
    total: VBench's total, in %, evaluated by VBench's team.
    clips: number of training clips, without images.
    family: models of one team and data that differ in size.
    authors: a total whose clips the authors sampled; not in the law.
  """

  name: str
  released: str
  parameters: Fact
  extended: bool
  total: float | None
  clips: Fact | None = None
  family: str = ""
  authors: Fact | None = None

  @property
  def row(self) -> list[float]:
    """The terms of the law [4]."""
    year, month = map(int, self.released.split("-"))
    date = year + (month - 0.5) / 12 - MIDDLE_DATE
    return [1.0, float(np.log10(self.parameters.value / MIDDLE_SIZE)), date, float(self.extended)]


def _counted(number: int) -> Fact:
  return Fact(number, COUNTED, "derived")


def _clips(millions: Number, source: str) -> Fact:
  return Fact(millions * 1e6, source)


_CRAFTER = "github.com/AILab-CVC/VideoCrafter, configs; counted (docs/unets.md)"
_SORA = "github.com/hpcaitech/Open-Sora, docs/report_03.md"
_PLAN = "Lin et al. 2024, arXiv:2412.00131; github.com/PKU-YuanGroup/Open-Sora-Plan"
_MAGI = "github.com/SandAI-org/MAGI-1; distilled"
_WAN_1B, _WAN_14B = _counted(1_418_996_800), _counted(14_288_491_584)
_COGVIDEOX_CLIPS = _clips(35, COGVIDEOX)

MODELS: tuple[Scored, ...] = (
  Scored("CogVideo", "2022-05", Fact(9.4e9, "Hong et al. 2022, arXiv:2205.15868"), False, 67.01,
         _clips(5.4, "Hong et al. 2022, arXiv:2205.15868")),
  Scored("ModelScope", "2023-08", _counted(1_411_233_860), False, 75.75,
         _clips(10, "Wang et al. 2023, arXiv:2308.06571 (WebVid)")),
  Scored("LaVie", "2023-09", Fact(3e9, "Wang et al. 2023, arXiv:2309.15103, all stages"), False,
         77.08, _clips(20, "Wang et al. 2023, arXiv:2309.15103")),
  Scored("Show-1", "2023-09", Fact(6e9, "Zhang et al. 2023, arXiv:2309.15818, all stages"), False,
         78.93, _clips(10, "Zhang et al. 2023, arXiv:2309.15818 (WebVid)")),
  Scored("VideoCrafter 1", "2023-10", Fact(1_146_536_516, _CRAFTER, "derived"), False, 79.72,
         _clips(20, "Chen et al. 2023, arXiv:2310.19512")),
  Scored("VideoCrafter 2", "2024-01", Fact(1_413_284_420, _CRAFTER, "derived"), False, 80.44),
  Scored("Open-Sora 1.1", "2024-04", Fact(7e8, "github.com/hpcaitech/Open-Sora"), False, 75.66,
         family="Open-Sora"),
  Scored("Latte-1", "2024-05", Fact(1_057_246_880, LATTE, "derived"), False, 77.29),
  Scored("Open-Sora 1.2", "2024-06", Fact(1.1e9, _SORA), False, 79.76, _clips(30, _SORA)),
  Scored("Open-Sora Plan 1.2", "2024-07", Fact(2.7e9, _PLAN), False, 75.98),
  Scored("CogVideoX 2B", "2024-08", _counted(1_693_783_872), True, 81.55, _COGVIDEOX_CLIPS,
         "CogVideoX"),
  Scored("CogVideoX 5B", "2024-08", _counted(5_570_283_072), True, 81.91, _COGVIDEOX_CLIPS,
         "CogVideoX"),
  Scored("Vchitect 2.0", "2024-09", Fact(2e9, "github.com/Vchitect/Vchitect-2.0"), False, 81.57),
  Scored("Open-Sora Plan 1.3", "2024-10", Fact(2.7e9, _PLAN), True, 77.23, _clips(28, _PLAN)),
  Scored("Mochi 1", "2024-10", _counted(10_027_677_744), False, 80.13),
  Scored("CogVideoX 1.5 5B", "2024-11", _counted(5_570_676_352), True, 82.01),
  Scored("LTX-Video 2B", "2024-11", Fact(1_923_385_472, f"{COUNTED}; {LTX}", "derived"), True,
         80.00),
  Scored("HunyuanVideo 13B", "2024-12", Fact(12_821_012_544, f"{COUNTED}; {HUNYUAN}", "derived"),
         True, 83.24),
  Scored("Step-Video 30B", "2025-02", Fact(3e10, "Ma et al. 2025, arXiv:2502.10248"), False, 81.83,
         _clips(2000, "Ma et al. 2025, arXiv:2502.10248")),
  Scored("Wan 2.1 1.3B", "2025-02", _WAN_1B, True, 83.31, family="Wan 2.1",
         authors=Fact(84.26, f"{VBENCH}, sampled by the authors")),
  Scored("Wan 2.1 14B", "2025-02", _WAN_14B, True, 83.69, family="Wan 2.1",
         authors=Fact(86.22, f"{WAN}; sampled by the authors")),
  Scored("Open-Sora 2.0 11B", "2025-03", Fact(1.1e10, "Peng et al. 2025, arXiv:2503.09642"), False,
         None, _clips(70, "Peng et al. 2025, arXiv:2503.09642"),
         authors=Fact(84.34, f"{VBENCH}, sampled by the authors")),
  Scored("MAGI-1 4.5B", "2025-04", Fact(4.5e9, _MAGI), False, 77.92, family="MAGI-1"),
  Scored("MAGI-1 24B", "2025-04", Fact(2.4e10, _MAGI), False, 81.83, family="MAGI-1"),
  Scored("Wan 2.2 A14B", "2025-07", _WAN_14B, False, 82.61),
  Scored("Wan 2.2 A14B, extended prompts", "2025-07", _WAN_14B, True, 84.23),
  Scored("LTX-2 19B", "2026-01", _counted(18_876_174_592), False, 79.35),
  Scored("Movie Gen 30B", "2024-10", Fact(3e10, "Polyak et al. 2024, arXiv:2410.13720"), False,
         None, _clips(469, "Polyak et al. 2024, arXiv:2410.13720, Table 3, two stages")),
)  # fmt: skip
FITTED = tuple(model for model in MODELS if model.total is not None)


@dataclasses.dataclass(frozen=True)
class Observed:
  """The law of n rows: coefficients [4], half widths of their 95 % intervals, and the scatter."""

  coefficients: Array
  half: Array
  scatter: float
  freedom: int
  covariance: Array  # [4,4], of the coefficients over the scatter's square

  def says(self, model: Scored) -> tuple[float, float]:
    """(prediction, half width of its 95 % interval) of one model's total."""
    row = np.array(model.row)
    spread = self.scatter * np.sqrt(1 + row @ self.covariance @ row)
    return float(row @ self.coefficients), float(stats.t.ppf(0.975, self.freedom) * spread)


@functools.cache
def law(without: str = "", more: str = "") -> Observed:
  """The law of all fitted rows but up to two."""
  rows = [model for model in FITTED if model.name not in (without, more)]
  x, y = np.array([model.row for model in rows]), np.array([model.total for model in rows], float)
  inverse, freedom = np.linalg.inv(x.T @ x), len(y) - x.shape[1]
  found = inverse @ x.T @ y
  scatter = float(np.sqrt(((y - x @ found) ** 2).sum() / freedom))
  half = stats.t.ppf(0.975, freedom) * scatter * np.sqrt(np.diag(inverse))
  return Observed(found, half, scatter, freedom, inverse)


def most_influential() -> str:
  """The row without which the coefficient of size changes most."""
  change = lambda model: abs(law(model.name).coefficients[1] - law().coefficients[1])
  return max(FITTED, key=change).name


def errors(size: bool = True) -> float:
  """Root mean square error of totals that are predicted without their own row.

  Args: size: whether the law knows the size; without it only date and prompts.
  """
  x, y = np.array([m.row for m in FITTED]), np.array([m.total for m in FITTED], float)
  x = x if size else np.delete(x, 1, 1)
  hat = np.einsum("ij,jk,ik->i", x, np.linalg.inv(x.T @ x), x)
  residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
  return float(np.sqrt(np.mean((residual / (1 - hat)) ** 2)))


def pairs() -> list[tuple[Scored, Scored]]:
  """The smallest and the largest model of each family with two sizes."""
  found = []
  for family in dict.fromkeys(m.family for m in FITTED if m.family):
    members = sorted((m for m in FITTED if m.family == family), key=lambda m: m.parameters.value)
    if len(members) > 1:
      found.append((members[0], members[-1]))
  return found


def observed_table() -> Table:
  columns = {
    "released": "", "parameters": "", "training clips": "without images",
    "extended prompts": "", "VBench total, %": "evaluated by VBench's team",
    "of the authors' samples": "not used", "what the law says": "predicted without this row",
  }  # fmt: skip
  out = {}
  for model in MODELS:
    middle, half = law(model.name).says(model)
    low, high = middle - half, middle + half
    facts = (model.parameters, model.clips)
    out[model.name] = [
      Cell(model.released, "published", VBENCH),
      *(Cell(f.value, f.tag, f.source) if f else _unknown() for f in facts),
      Cell("yes" if model.extended else "no", "published", VBENCH),
      Cell(model.total, "published", VBENCH, digits=4) if model.total else _unknown(),
      Cell(model.authors.value, "published", model.authors.source, digits=4) if model.authors
      else _unknown(),
      Cell(f"{middle:.1f} [{low:.1f}, {high:.1f}]", "derived", VBENCH, FORMULA),
    ]  # fmt: skip
  return Table("observed", "Published quality, and what the law says", columns, out)


def _unknown() -> Cell:
  return Cell(None, "unknown", "not found in the sources of this row")


def conclusions() -> list[str]:
  """What the rows allow to conclude, and what they do not."""
  every, odd = law(), most_influential()
  rest = law(odd)
  told = lambda l, i: (
    f"{l.coefficients[i]:+.1f} [{l.coefficients[i] - l.half[i]:.1f}, "
    f"{l.coefficients[i] + l.half[i]:.1f}]"
  )
  size, date = np.array([m.row for m in FITTED if m.name != odd])[:, 1:3].T
  steps = []
  for small, large in pairs():
    gain = float(large.total or 0) - float(small.total or 0)
    times = large.parameters.value / small.parameters.value
    steps.append(
      f"{small.name} to {large.name.split()[-1]}: {gain:+.2f} for {times:.1f} x the size"
    )
  return [
    f"Points of VBench's total per factor of 10 in size: {told(every, 1)} from all {len(FITTED)} "
    f"rows, {told(rest, 1)} without {odd}: one row decides, so a law of size cannot be concluded.",
    f"Per year: {told(every, 2)}, without {odd} {told(rest, 2)}. Size and date rise together "
    f"(correlation {np.corrcoef(size, date)[0, 1]:.2f}), so their effects cannot be told apart.",
    f"Extended prompts: {told(every, 3)}; the same weights with and without (Wan 2.2 A14B): +1.62. "
    "How a model is asked weighs as much as ten times its size.",
    f"Where data and team are the same: {'; '.join(steps)}. Papers that score the same "
    "weights (Self Forcing, 83.80 to 84.31) differ by more than the first two gains; the models of "
    "the last are distilled, and sampled at different sizes.",
    f"Predicted without their own row, totals are off by {errors():.1f} points (root mean square), "
    f"and by {errors(size=False):.1f} without knowing the size.",
    "GPU-hours of training are published for two of these models (Open-Sora 1.2 and 2.0), and most "
    "begin with the weights of an image model whose compute is not counted: no law of compute can "
    "be concluded. The total "
    "averages 16 dimensions, of which quality counts four times as much as what was asked for, "
    "and none checks that objects persist: it says nothing about coherence.",
  ]
