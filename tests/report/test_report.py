"""The report: every number equals what the run directories hold, and the page says it all."""

import base64
import csv
import io
import json
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.scaling import make_sweep as made
from tests.scaling.make_sweep import World, finish, isoflop_cells, make, write
from videojax.errors import ConfigError
from videojax.measures import physics
from videojax.report import clip_strips, figures, plotting
from videojax.report.page import page as write_page
from videojax.report.report import main, report, times
from videojax.report.report_json import Report, plain
from videojax.report.report_json import made as made_from
from videojax.scaling import coherence
from videojax.scaling.__main__ import main as scaling_command
from videojax.scaling.cells import cells, product, read_sweep, vary
from videojax.scaling.fit import fit_table
from videojax.scaling.predict import predict
from videojax.scaling.run_table import read_table
from videojax.scaling.sealed import seal
from videojax.scaling.sweep_groups import load

pytestmark = pytest.mark.slow

HOSTILE = """<u onclick="y">'</u><script>x</script>&$z"""
FAILED = "budget1.6e+14_width192_seed1"
WORLD = World()
VOID = {"meta", "img", "br", "link"}
FIGURES = {"frontier", "isoflop", "best_size", "law", "coherence", "predictors", "levels"}


class Page(HTMLParser):
  """Collects what tests ask for; checks that every element is closed where it should be."""

  def __init__(self, text):
    super().__init__()
    self.open, self.links, self.images, self.text, self.ids = [], [], [], [], []
    self.tags = set()
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.add(tag)
    if tag not in VOID:
      self.open.append(tag)
    self.links += [attrs[k] for k in ("src", "href", "data", "poster", "srcset") if k in attrs]
    self.images += [attrs] if tag == "img" else []
    self.ids += [attrs["id"]] if "id" in attrs else []

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)

  @property
  def words(self):
    return " ".join(" ".join(self.text).split())


def build(directory, made_cells, **keys):
  """(numbers, page) of the report of a made sweep."""
  make(directory, made_cells, **keys)
  index = report(directory)
  return json.loads((index.parent / "report.json").read_text()), Page(index.read_text())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
  """Seeds, a failed cell, a cell that waits, two held-out ones that were predicted first."""
  directory = tmp_path_factory.mktemp("sweep")
  sweep = isoflop_cells()
  make(
    directory, sweep, failed=lambda cell: cell.name == FAILED, irreducible=0, price=2.5,
    onset={"velocity_error": 0.6}, title="Discs & <walls>",
    description=f"description {HOSTILE}",
  )  # fmt: skip
  write(directory / "cells" / FAILED / "failed.json", {"why": f"step 17 {HOSTILE}"})
  path = predict(directory, 1.024e16)
  told = json.loads(path.read_text()) | {"date": f"2026-01 {HOSTILE}"}
  write(path, told | {"sha256": seal(told)})
  for cell in sweep:
    if cell.held_out and cell.overrides["model.width"] < 512:
      finish(directory, cell, WORLD)
      start = [{"time": f"21 {HOSTILE}", "devices": [f"device {HOSTILE}"],
                "git_commit": f"commit {HOSTILE}"}]  # fmt: skip
      write(directory / "cells" / cell.name / "environment.json", start)
  index = report(directory)
  numbers = json.loads((index.parent / "report.json").read_text())
  return directory, numbers, Page(index.read_text()), index.read_text()


def losses(directory):
  """(budget, width) -> losses over seeds, read without the code under test."""
  found = {}
  for path in sorted(directory.glob("cells/*/result.json")):
    width = json.loads((path.parent / "config.json").read_text())["model"]["config"]["width"]
    budget = float(re.match(r"budget([^_]+)_", path.parent.name)[1])
    loss = json.loads(path.read_text())["frozen_loss"]["final"]
    found.setdefault((budget, width), []).append(loss)
  return found


# --- the page -----------------------------------------------------------------------------------


def test_page_needs_nothing_from_elsewhere(full):
  _, _, page, text = full
  assert page.links and all(link.startswith(("data:", "#")) for link in page.links)
  assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
  assert not re.search(r"https?:|@import|url\(|<script", text)


def test_page_names_failed_cells_with_their_reason(full):
  words = full[2].words
  assert f"1 cell failed: {FAILED}" in words
  assert "step 17" in words
  assert all(cell.name in words for cell in isoflop_cells())


def test_every_picture_has_words_and_a_file(full):
  directory, _, page, _ = full
  names = ("frontier", "isoflop", "best_size", "law", "coherence", "predictors", "levels")
  for name in names:
    for ending in ("png", "svg"):
      assert (directory / "report" / "figures" / f"{name}.{ending}").stat().st_size > 2000
  assert len(page.images) == len(names) + 2  # the clips
  assert all(len(image["alt"]) > 20 for image in page.images)


def test_text_of_a_sweep_cannot_become_markup(full):
  assert "Discs &amp; &lt;walls&gt;" in full[3]
  assert "Discs & <walls>: scaling results" in full[2].words
  assert full[2].tags.isdisjoint({"u", "script", "walls"})
  for what in ("description", "step 17", "made 2026-01", "device", "commit"):
    assert f"{what} {HOSTILE}" in full[2].words
  assert f"and 21 {HOSTILE}"[:12] in full[2].words


def hostile(value, key=""):
  """JSON whose every text, but for words that the page chooses by, is markup."""
  if isinstance(value, dict):
    return {k: hostile(v, k) for k, v in value.items()}
  if isinstance(value, list):
    return [hostile(v, key) for v in value]
  chosen = key in ("form", "offset_from", "status", "better", "measure")
  return value + HOSTILE if isinstance(value, str) and not chosen else value


def test_no_text_of_report_json_can_become_markup(full):
  drawn = dict.fromkeys([f"{name}.svg" for name in FIGURES] + ["samples.webp", "samples.png"], b"")
  page = Page(write_page(made_from(Report, hostile(full[1])), drawn))
  assert page.tags.isdisjoint({"u", "script"})
  assert len(page.images) == len(drawn) and page.words.count(HOSTILE) > 100


def test_text_of_a_sweep_is_no_mathematics_in_a_figure(tmp_path):
  figure, grid = plotting.new()
  grid[0, 0].set_title(plotting.literal({"a": ["$\\frac$ \ud800"]})["a"][0])
  assert len(plotting.save(figure, tmp_path, "f")) > 1000


def test_same_directory_makes_the_same_files(full):
  directory = full[0]
  read = lambda: {
    p.name: p.read_bytes() for p in sorted((directory / "report").rglob("*")) if p.is_file()
  }
  before = read()
  main([str(directory)])
  assert read() == before


# --- the numbers --------------------------------------------------------------------------------


def test_frontier_is_the_lowest_mean_loss_of_each_budget(full):
  directory, numbers, _, _ = full
  means = {}
  for (budget, _), values in losses(directory).items():
    means[budget] = min(means.get(budget, np.inf), np.mean(values))
  told = {p["budget"]: p["loss"] for p in numbers["series"][0]["frontier"]}
  assert told == pytest.approx(means)
  assert numbers["cost"]["cells"] == sum(len(v) for v in losses(directory).values())


def test_seed_noise_is_the_pooled_log_sd(full):
  directory, numbers, _, _ = full
  groups = [np.log(v) for v in losses(directory).values() if len(v) > 1]
  squares = sum(((g - g.mean()) ** 2).sum() for g in groups)
  freedom = sum(len(g) - 1 for g in groups)
  assert numbers["noise"]["freedom"] == freedom == 19
  assert numbers["noise"]["log_sd"] == pytest.approx(np.sqrt(squares / freedom))
  assert numbers["noise"]["log_sd"] == pytest.approx(WORLD.seed_sd, rel=0.5)


def test_law_holds_the_truth_in_its_intervals(full):
  law = full[1]["series"][0]["law"]
  for name, truth in (("alpha", WORLD.alpha), ("beta", WORLD.beta), ("A", WORLD.A)):
    assert law[name]["low"] < truth < law[name]["high"]
    assert law[name]["value"] == pytest.approx(truth, rel=0.1)
  assert law["N0"] == 1e6 and law["E"]["value"] == 0


def test_minima_are_near_the_best_sizes_of_the_law_behind_the_cells(full):
  widths = np.arange(32, 900)
  for part in full[1]["series"][0]["isoflop"]["budgets"]:
    steps = part["budget"] / np.array([made.step_flops(w) for w in widths])
    tokens = steps * made.BATCH * made.TOKENS
    truth = [WORLD.loss(made.parameters(w), d) for w, d in zip(widths, tokens)]
    best = made.parameters(int(widths[np.argmin(truth)]))
    assert part["minimum"]["params"] == pytest.approx(best, rel=0.25)
    assert part["minimum"]["low"] < part["minimum"]["params"] < part["minimum"]["high"]
    assert part["edge"] == ""


def test_coherence_of_the_best_cells_is_that_of_their_results(full):
  directory, numbers, _, _ = full
  velocity = numbers["coherence"]["measures"][0]
  assert velocity["name"] == "velocity_error"
  assert (velocity["floor"], velocity["copy_last"]) == (0.0044, 2.5)
  rows = {row.cell.name: row for row in read_sweep(directory)}
  best = numbers["series"][0]["frontier"][3]  # one seed
  point = velocity["splits"]["fast"]["frontier"][3]
  assert point["value"] == rows[best["cell"]].value("velocity_error@fast")[0]
  assert point["stderr"] == rows[best["cell"]].value("velocity_error@fast")[1]


def test_cells_before_the_onset_are_in_no_coherence_law(full):
  measure = full[1]["coherence"]["measures"][0]["splits"]
  before = [p["budget"] for p in measure["id"]["frontier"] if p["before_onset"]]
  assert before == [4e13]
  assert [p["before_onset"] for p in measure["fast"]["frontier"]] == [
    p["before_onset"] for p in measure["id"]["frontier"]
  ]
  fit = measure["id"]["fit"]
  assert fit["budgets"] == 3  # the first is before the onset, the last held out
  assert fit["low"] < 0.48 < fit["high"]  # as made


def test_paired_error_is_that_of_the_differences_clip_by_clip(full):
  directory, numbers, _, _ = full
  rows = {row.cell.name: row.result for row in read_sweep(directory)}
  found = [r for r in numbers["coherence"]["best_sizes"] if r["best_cell"] != r["loss_cell"]]
  single = [r for r in found if r["budget"] > 2e14]
  assert single
  for r in single:
    per_clip = [
      np.array(rows[r[cell]]["coherence_per_example"][r["measure"]][r["split"]])
      for cell in ("loss_cell", "best_cell")
    ]
    difference = per_clip[0] - per_clip[1]
    assert r["stderr"] == pytest.approx(difference.std(ddof=1) / np.sqrt(len(difference)))
    assert r["gain"] == pytest.approx(abs(difference.mean()), rel=1e-6)


def test_predictors_are_squared_correlations_of_logarithms(full):
  directory, numbers, _, _ = full
  row = next(
    r for r in numbers["coherence"]["predictors"]["table"] if r["measure"] == "color_drift"
  )
  groups = load(directory).tuned((), held_out=True)
  x = np.log([np.mean([r.result["frozen_loss"]["dynamics"] for r in g.rows]) for g in groups])
  y = np.log([g.value(f"color_drift@{row['split']}")[0] for g in groups])
  assert row["cells"] == len(groups)
  assert row["r2"]["dynamics"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


def test_held_out_cells_are_scored_and_the_one_that_waits_is_not(full):
  rows = full[1]["held_out"]["cells"]
  assert [row["measured"] is None for row in rows] == [False, False, True]
  assert all(row["inside"] for row in rows[:2])
  assert "2 cells of the largest budget were predicted before being run: 2 of 2" in full[2].words
  assert full[1]["warnings"] == []


def test_cost_adds_up_what_finished_cells_took(full):
  directory, numbers, page, _ = full
  results = [json.loads(p.read_text()) for p in directory.glob("cells/*/result.json")]
  seconds = sum(sum(r["seconds"].values()) for r in results)
  assert numbers["cost"]["seconds"] == pytest.approx(seconds)
  assert numbers["cost"]["flops"] == pytest.approx(sum(r["flops"]["total"] for r in results))
  assert numbers["cost"]["money"] == pytest.approx(seconds / 3600 * 2.5)
  assert numbers["cost"]["not_counted"] == [FAILED]


def test_table_of_cells_makes_the_law_of_the_page(full):
  directory, numbers, _, _ = full
  path = directory / "report" / "cells.csv"
  fit = fit_table(read_table(path), irreducible=0.0, holdout_above=5e15, bootstrap=0)
  law = numbers["series"][0]["law"]
  assert fit.law.alpha == pytest.approx(law["alpha"]["value"], rel=1e-6)
  assert len(fit.table) == law["cells"]
  with open(path) as file:
    rows = list(csv.DictReader(file))
  assert sum(int(row["held_out"]) for row in rows) == len(fit.held_out) == 2
  assert float(rows[0]["velocity_error@id"]) > 0
  finished = [r for r in read_sweep(directory) if r.status == "finished"]
  assert [float(row["level3"]) for row in rows] == [
    r.result["frozen_loss"]["by_level"][3] for r in finished
  ]
  # What training saw, whatever the patch: frames / fps and frames x height x width of every clip.
  for row, cell in zip(rows, (r for r in read_sweep(directory) if r.status == "finished")):
    source = next(iter(cell.config["data"].values()))["settings"]
    seen = cell.result["clips"] * source["frames"]
    assert float(row["seconds"]) == pytest.approx(seen / source["fps"])
    assert float(row["pixels"]) == pytest.approx(seen * source["size"] ** 2)


def test_broken_seal_is_the_loudest_thing_on_the_page(full, tmp_path):
  directory = make(tmp_path, isoflop_cells(), samples=False, irreducible=0)
  path = predict(directory, 1.024e16, draws=50)
  path.write_text(path.read_text().replace('"budget": 1.024e+16', '"budget": 1.025e+16'))
  text = report(directory).read_text()
  assert re.search(r'role="alert">[^<]*seal of 1\.024e\+16\.json is broken', text)
  assert "<strong>BROKEN</strong>" in text
  assert text.index('role="alert"') < text.index("In short")
  assert 'role="alert"' not in full[3]


# --- the numbers of a figure, and the command ---------------------------------------------------

TOLD_APART = ("panel", "line", "marks", "cell", "label", "held_out", "before_onset", "cell_params")


def test_each_figure_links_a_csv_that_is_also_a_file_beside_it(full):
  directory, _, _, text = full
  linked = dict(re.findall(r'<a download="(\w+)\.csv" href="data:text/csv;base64,([^"]+)">', text))
  assert linked.keys() == FIGURES
  for name, data in linked.items():
    path = directory / "report" / "figures" / f"{name}.csv"
    assert base64.b64decode(data) == path.read_bytes() and path.with_suffix(".svg").exists()


def on_axes(axes):
  """Every number at which something is drawn: points, lines, ends of bars and of bands."""
  for line in axes.lines:
    level = line.get_transform() != axes.transData  # a line across: its x are places on the page
    yield from () if level else line.get_xdata()
    yield from line.get_ydata()
  for collection in axes.collections:
    yield from np.concatenate([path.vertices.ravel() for path in collection.get_paths()])


def near(values):
  return {f"{float(v):.9g}" for v in values if np.isfinite(float(v))}


def figures_and_tables(directory):
  numbers = made_from(Report, json.loads((directory / "report" / "report.json").read_text()))
  for name, panels in figures.draw(numbers).items():
    with open(directory / "report" / "figures" / f"{name}.csv") as file:
      yield name, panels, list(csv.DictReader(file))


def test_csv_of_a_figure_holds_exactly_the_numbers_that_are_drawn(full, tmp_path):
  points = product(
    vary("budget", 4e13, 1.6e14), vary("model.patch", (2, 8, 8), (2, 4, 4)),
    vary("optim.learning_rate", 3e-3, 1e-2, 3e-2), vary("seed", 0, 1),
  )  # fmt: skip
  build(tmp_path, cells(points), samples=False)
  seen = set()
  for directory in (full[0], tmp_path):
    for name, panels, rows in figures_and_tables(directory):
      drawn = near(v for axes in panels.axes for v in on_axes(axes))
      told_apart = TOLD_APART if name == "best_size" else (*TOLD_APART, "budget")
      told = near(v for r in rows for k, v in r.items() if v and k not in told_apart)
      assert told == drawn, name
      seen.add(name)
  assert seen == {*FIGURES, "rates", "by_key"}


def test_csv_has_the_text_of_a_sweep_as_it_is(tmp_path):
  panels = plotting.Panels(height=2.0)
  name = plotting.literal('$a \\$ b,\n"c"')
  panels.marks(panels.axes[0], "cells", [{"cell": name, "x": 1, "y": 2}], "x", "y", label=name)
  plotting.save(panels.figure, tmp_path, "f")
  assert next(csv.DictReader(io.StringIO(panels.csv(), newline="")))["cell"] == '$a \\$ b,\n"c"'


def test_page_says_the_command_that_remakes_it(full, monkeypatch):
  directory, _, page, _ = full
  command = re.search(r"python -m videojax.scaling (report \S+)", page.words)[1]
  index = directory / "report" / "index.html"
  before = index.read_bytes()
  index.unlink()
  monkeypatch.chdir(directory.parent)
  assert scaling_command(shlex.split(command)) == 0
  assert index.read_bytes() == before


def test_report_json_is_what_its_dataclasses_say(full, tmp_path):
  for numbers in (full[1], build(tmp_path, cells(vary("seed", 0)), samples=False)[0]):
    assert plain(made_from(Report, numbers)) == numbers


# --- other sweeps -------------------------------------------------------------------------------


def test_learning_rate_sweep_shows_where_each_width_is_best(tmp_path):
  points = product(
    vary("budget", 4e13), vary("model.width", 64, 128),
    vary("optim.learning_rate", 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
  )  # fmt: skip
  numbers, page = build(tmp_path, cells(points), world=World(seed_sd=0.002), samples=False)
  assert [c["label"] for c in numbers["rates"]["curves"]] == ["width 64", "width 128"]
  for curve in numbers["rates"]["curves"]:
    assert curve["optimum"]["rate"] == 1e-2 and not curve["edge"]
    assert curve["optimum"]["vertex"] == pytest.approx(1e-2, rel=0.15)
  assert "best learning rate" in page.words and "rates" in page.ids
  assert len(numbers["series"]) == 1 and len(numbers["series"][0]["frontier"]) == 1


def test_best_rate_at_the_edge_is_not_called_bracketed(tmp_path):
  points = product(vary("optim.learning_rate", 1e-2, 3e-2, 1e-1), vary("total_steps", 500))
  numbers, page = build(tmp_path, cells(points), world=World(seed_sd=0.002), samples=False)
  assert numbers["rates"]["curves"][0]["edge"]
  assert "vertex" not in numbers["rates"]["curves"][0]["optimum"]
  assert "not bracketed" in page.words


def test_another_setting_is_compared_at_the_same_compute(tmp_path):
  points = product(
    vary("budget", 1.6e14), vary("model.patch", (2, 8, 8), (2, 4, 4)), vary("seed", 0, 1)
  )
  world = World(factors={(2, 4, 4): 1.5}, seed_sd=0.01)
  numbers, page = build(tmp_path, cells(points), world=world, samples=False)
  loss = {p["label"]: p["value"] for p in numbers["by_key"]["panels"][0]["points"]}
  assert loss["patch 2x4x4"] / loss["patch 2x8x8"] == pytest.approx(1.5, rel=0.1)
  assert numbers["by_key"]["matched"] and "settings" in page.ids


def test_one_finished_cell_makes_a_page_that_says_what_is_missing(tmp_path):
  numbers, page = build(tmp_path, cells(vary("seed", 0)))
  said = " ".join(numbers["left_out"])
  for what in ("Loss against compute", "IsoFLOP", "law of the loss", "held-out score", "Learning"):
    assert what in said and what in page.words
  assert "one seed" in page.words


def test_data_without_a_simulator_has_no_coherence_section(tmp_path):
  points = product(vary("budget", 4e13, 1.6e14, 6.4e14), vary("model.width", 64, 128, 192))
  numbers, page = build(tmp_path, cells(points), world=World(coherence=False))
  assert "coherence" not in page.ids and "clips" not in page.ids
  assert any("do not come from a simulator" in text for text in numbers["left_out"])
  assert numbers["series"][0]["law"]


def test_sweep_without_cells_that_finished_is_refused(tmp_path):
  make(tmp_path, isoflop_cells(), finished=lambda cell: False, failed=lambda cell: True)
  with pytest.raises(ValueError, match="no finished cell .43 failed"):
    report(tmp_path)
  with pytest.raises(ValueError, match="holds no sweep"):
    report(tmp_path / "cells")


# --- clips --------------------------------------------------------------------------------------


def test_clips_show_truth_and_every_budget_in_order(full):
  directory, numbers, _, _ = full
  labels = [c["label"] for c in numbers["samples"]["columns"]]
  assert labels == ["1x", "4x", "16x", "64x", "256x"]
  with Image.open(directory / "report" / "figures" / "samples.webp") as animation:
    assert animation.n_frames == 16
    assert animation.width == clip_strips.GAP + 6 * (
      4 * 32 + clip_strips.GAP
    )  # enlarged by a whole number
  first = numbers["samples"]["columns"][0]
  samples = clip_strips.read_samples(directory / "cells" / first["directory"])
  assert samples.given == (True,) * 3 + (False,) * 13
  assert samples.captions[0] == "one disc moves, number 0"
  assert clip_strips.strip_frames(samples)[0] == 2 and clip_strips.strip_frames(samples)[-1] == 15


@pytest.mark.parametrize("ratio,label", [(1.0, "1x"), (4.02, "4x"), (2.5, "2.5x"), (31.7, "32x")])
def test_compute_is_labelled_relative_to_the_smallest_budget(ratio, label):
  assert times(ratio) == label


def test_different_or_damaged_clips_are_not_shown_as_the_same(tmp_path):
  points = cells(product(vary("budget", 4e13, 1.6e14), vary("model.width", 96)))
  make(tmp_path, points)
  path = next((tmp_path / "cells" / points[1].name / "samples").glob("*.npz"))
  arrays = dict(np.load(path))
  np.savez(path, **(arrays | {"truth": 255 - arrays["truth"]}))
  index = report(tmp_path)
  left_out = json.loads((index.parent / "report.json").read_text())["left_out"]
  assert any("different clips" in text for text in left_out)
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match="npz is damaged"):
    report(tmp_path)


def test_clips_of_another_form_are_named_and_never_an_exception_of_the_reader(tmp_path):
  write_npz = lambda **other: np.savez(path, **{**sound, **other})
  path = tmp_path / "samples" / "step0000001.npz"
  path.parent.mkdir()
  video = np.zeros((2, 4, 8, 8, 3), np.uint8)
  sound = dict(video=video, truth=video, caption=["a", "b"], fps=8.0, given=[True] * 4)
  write_npz()
  assert clip_strips.read_samples(tmp_path).fps == 8
  whole = path.read_bytes()
  for other in (
    {"fps": 0.0}, {"fps": np.nan}, {"fps": "x"}, {"fps": []}, {"given": 3}, {"given": [True]},
    {"video": video[:0], "truth": video[:0]}, {"video": 3}, {"video": video.astype(float)},
    {"caption": np.array([{}], object)}, {"truth": video[..., :2]},
  ):  # fmt: skip
    write_npz(**other)
    with pytest.raises(ConfigError, match="step0000001.npz"):
      clip_strips.read_samples(tmp_path)
  rng = np.random.default_rng(0)
  for data in (b"", b"x", whole[:99], whole[: len(whole) // 2], np.zeros(3).tobytes()):
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="step0000001.npz is damaged"):
      clip_strips.read_samples(tmp_path)
  for _ in range(200):
    flipped = bytearray(whole)
    flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    path.write_bytes(bytes(flipped))
    try:
      clip_strips.read_samples(tmp_path)
    except ConfigError as error:
      assert "step0000001.npz" in str(error)


def test_measures_are_described_as_where_they_are_computed():
  assert coherence.MEASURES.keys() == physics.MEASURES.keys()
  for name, measure in physics.MEASURES.items():
    assert coherence.MEASURES[name].unit == measure.unit
    assert coherence.MEASURES[name].better == measure.better
