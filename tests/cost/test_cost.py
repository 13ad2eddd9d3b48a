"""Prices and FLOPs of published systems, against formulas by hand and counts of others."""

import csv
import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import pytest

from tests.helpers import products_of
from videojax.cost import cost
from videojax.cost.published_systems import SYSTEMS
from videojax.cost.tables import CHIPS, Assumed, clip_flops, number, training_flops
from videojax.models import dit
from videojax.scaling import flops
from videojax.scaling.__main__ import experiment_rows
from videojax.scaling.__main__ import main as dispatch
from videojax.specs import ModelSpec

ROOT = Path(__file__).parent.parent.parent
BY_NAME = {system.name: system for system in SYSTEMS}
DIT, LATTE = BY_NAME["DiT-XL/2 image, 256"], BY_NAME["Latte-XL/2"]
ROWS = [system.row() for system in SYSTEMS]


def forward(name):
  return flops.count(BY_NAME[name].products())


# --- FLOPs --------------------------------------------------------------------------------------


def table4():
  with open(ROOT / "tests" / "golden" / "dit_table4.csv") as file:
    rows = [r for r in csv.DictReader(file) if r["block"] == "adaLN-Zero"]
  return [r for r in rows if r["train_ksteps"] == "400" and r["resolution"] == "256"]


@pytest.mark.parametrize("row", table4(), ids=lambda r: f"{r['model']}/{r['patch']}")
def test_the_general_description_has_the_gmacs_of_the_dit_papers_table_4(row):
  size, patch = dit.SIZES[row["model"]], int(row["patch"])
  system = dataclasses.replace(
    DIT, depth=size["depth"], width=size["width"], mlp=4 * size["width"], patch=(1, patch, patch)
  )
  gmacs = flops.count(system.products(), unit="mac")["total"] / 1e9
  tolerance = 0.007 if (row["model"], patch) == ("S", 8) else 0.002
  assert gmacs == pytest.approx(float(row["gflops_paper"]), rel=tolerance)


def test_dit_xl_2_has_part_by_part_the_products_of_our_model():
  config = dit.Config(**dit.SIZES["XL"], patch=(1, 2, 2), **dit.DIT_IMAGE)
  assert flops.forward(DIT.products()) == flops.forward(
    products_of(ModelSpec("dit", config), (1, 32, 32, 4))
  )


def test_latte_has_the_counted_flops_with_adaln_per_folded_row_and_our_models_per_clip():
  folded = flops.count(LATTE.products())["total"] / 1e9
  (per_clip,) = LATTE.row().variants.values()
  assert folded == pytest.approx(3785.9, rel=1e-3)
  assert flops.count(per_clip)["total"] / 1e9 == pytest.approx(3725.7, rel=1e-4)
  alternating = dict(dit.DIT_IMAGE, attention="alternating")
  config = dit.Config(**dit.SIZES["XL"], patch=(1, 2, 2), **alternating)
  assert flops.forward(per_clip) == flops.forward(
    products_of(ModelSpec("dit", config), (16, 32, 32, 4))
  )


# Tokens, layers, D, F; PFLOP per network call of self-attention, cross-attention, mlp and in all.
WAN = {
  "Wan 2.1 14B, 720p": (75_600, 40, 5120, 13824, 5.316, 0.351, 0.856, 6.523),
  "Wan 2.1 14B, 480p": (32_760, 40, 5120, 13824, 1.154, 0.153, 0.371, 1.678),
  "Wan 2.1 1.3B, 720p": (75_600, 30, 1536, 8960, 1.096, 0.029, 0.125, 1.250),
  "Wan 2.1 1.3B, 480p": (32_760, 30, 1536, 8960, 0.216, 0.013, 0.054, 0.283),
}


@pytest.mark.parametrize("name", WAN)
def test_wan_has_the_flops_of_its_formula_part_by_part(name):
  """Delavande et al. 2025, arXiv:2509.19222: l tokens, m = 512 text tokens."""
  tokens, layers, d, f, *rounded = WAN[name]
  m = 512
  wanted = [
    layers * (8 * tokens * d * d + 4 * tokens**2 * d),
    layers * (4 * tokens * d * d + 4 * m * d * d + 4 * tokens * m * d),
    layers * 4 * f * tokens * d,
  ]
  work = forward(name)
  got = [
    work["attention projections"] + work["attention scores"], work["text"], work["mlp"],
    work["total"],
  ]  # fmt: skip
  assert math.prod(BY_NAME[name].grid) == tokens
  assert got == pytest.approx([*wanted, sum(wanted)], rel=0.005)
  assert [value / 1e15 for value in got] == pytest.approx(rounded, rel=0.005, abs=6e-4)


def joint(tokens, text, layers, d):
  """Blocks in which text tokens do all that others do."""
  s = tokens + text
  return layers * (2 * s * 12 * d * d + 4 * s * s * d)


def crossed(tokens, text, layers, d, mlp):
  """Blocks with cross-attention; mlp: multiply-accumulates per token."""
  own = 2 * tokens * (6 * d * d + mlp) + 4 * tokens**2 * d
  return layers * (own + 4 * text * d * d + 4 * tokens * text * d)


@pytest.mark.parametrize(
  "name,wanted",
  [
    ("CogVideoX 2B", joint(13 * 30 * 45, 226, 30, 1920)),
    ("CogVideoX 5B", joint(13 * 30 * 45, 226, 42, 3072)),
    ("HunyuanVideo 13B, 720p", joint(33 * 45 * 80, 256, 60, 3072)),
    ("Open-Sora 2.0 11B, 768p", joint(33 * 48 * 48, 512, 57, 3072)),
    ("FLUX.1-dev image, 1024", joint(64 * 64, 512, 57, 3072)),
    ("LTX-Video 2B", crossed(16 * 16 * 24, 128, 28, 2048, 8 * 2048**2)),
    ("Movie Gen 30B, 768p", crossed(32 * 48 * 48, 512, 48, 6144, 3 * 6144 * 16384)),
    ("Sora-class guess, 720p", crossed(60 * 45 * 80, 512, 48, 6144, 3 * 6144 * 16384)),
  ],
)
def test_other_systems_have_the_flops_of_a_formula_written_by_hand(name, wanted):
  assert forward(name)["total"] == pytest.approx(wanted, rel=0.002)


# torch 2.14, diffusers 0.42.1: FlopCounterMode over the class on the meta device, default
# configuration (Wan, CogVideoX and Flux: the published sizes), one call at the row's size and text
# length; FLOP = 2 x multiply-accumulate. Latte: its own class, extras=1.
COUNTED = {
  "Latte-XL/2": 3.786e12,
  "CogVideoX 2B": 1.199973e14,
  "CogVideoX 5B": 3.321977e14,
  "LTX-Video 2B": 2.911242e13,
  "Wan 2.1 1.3B, 480p": 2.830018e14,
  "Wan 2.1 1.3B, 720p": 1.249838e15,
  "Wan 2.1 14B, 480p": 1.678370e15,
  "Wan 2.1 14B, 720p": 6.523437e15,
  "HunyuanVideo 13B, 720p": 1.206859e16,
  "FLUX.1-dev image, 1024": 7.438465e13,
}


@pytest.mark.parametrize("name", COUNTED)
def test_descriptions_have_the_flops_that_are_counted_over_the_reference_classes(name):
  assert forward(name)["total"] == pytest.approx(COUNTED[name], rel=5e-5)


def test_conventions_are_multiples_of_the_multiply_accumulates():
  products = DIT.products()
  mac = flops.count(products, unit="mac")
  assert mac["total"] == sum(p.macs for p in products)
  for unit, per_mac in (("mac", 1), ("flop", 2)):
    for work, forwards in (("forward", 1), ("step", 3), ("hardware", 4)):
      wanted = {part: per_mac * forwards * value for part, value in mac.items()}
      assert flops.count(products, unit=unit, work=work) == wanted
  assert flops.count(products, work="step") == flops.step(products)
  with pytest.raises(ValueError, match="no unit 'flops'.*did you mean 'flop'"):
    flops.count(products, unit="flops")


def test_six_effective_parameters_per_token_are_the_training_step():
  for row in ROWS:
    n = flops.effective_parameters(row.products, row.tokens)
    assert 6 * n * row.tokens == pytest.approx(flops.step(row.products)["total"])
  # adaLN's weights, a third of DiT-XL/2, work once an image; Wan's tokens attend to 75,600 others.
  assert flops.effective_parameters(DIT.products(), 256) < 0.7 * DIT.parameters.value
  wan = BY_NAME["Wan 2.1 14B, 720p"]
  assert flops.effective_parameters(wan.products(), 75_600) > 3 * wan.parameters.value


# --- training, seconds, dollars, energy -----------------------------------------------------------


@functools.cache
def tables(*arguments):
  flags, _ = cost.parse(arguments)
  return {table.name: table for table in cost.tables(ROWS, cost.assumed(flags))}


def cells(table, row, arguments=()):
  """Cells of a table by column, under the command's flags."""
  page = tables(*arguments)[table]
  return dict(zip(page.columns, page.rows[row]))


def test_dit_trained_for_7_million_steps_of_256_images_and_a_pf_day_is_a_petaflop_s_for_a_day():
  assert flops.PF_DAY == 1e15 * 24 * 60 * 60
  wanted = 7e6 * 256 * 3 * 2 * 118.62e9 / 8.64e19
  assert cells("training", DIT.name)["PF-days"].value == pytest.approx(wanted, rel=1e-4)
  assert wanted == pytest.approx(14.8, abs=0.05)


def test_open_sora_trained_for_its_gpu_days_at_its_published_utilisation():
  got = cells("training", "Open-Sora 2.0 11B, 768p", ["--mfu=0.5", "--price=H200:2"])
  wanted = ((2240 + 384) * 0.3819 + 1536 * 0.3575) * 0.9894
  assert got["PF-days"].value == pytest.approx(wanted, rel=1e-6)
  assert got["chip-hours"].text == "99,840 H200-h" and got["chip-hours"].tag == "published"
  # Four thousand days at $2 an hour: the price that the paper gives.
  assert got["dollars"].value == pytest.approx(got["published dollars"].value, rel=0.001)


def test_movie_gens_training_is_bounded_by_its_three_stages_at_full_length():
  per_token = 48 * 6 * (6 * 6144**2 + 3 * 6144 * 16384)  # FLOP of a step, without scores
  stages = [(1.94e9, 256), (394.8e6, 32 * 16 * 16), (73.8e6, 32 * 48 * 48)]
  wanted = sum(n * s * (per_token + 48 * 12 * s * 6144) for n, s in stages)
  got = cells("training", "Movie Gen 30B, 768p")["PF-days"]
  assert got.at_most and got.text.startswith("<= ")
  assert got.value * 8.64e19 == pytest.approx(wanted, rel=0.02)  # without text


def test_a_range_of_chip_hours_gives_a_range_of_compute_and_a_guess_says_so():
  low, high = training_flops(LATTE.row(), Assumed(mfu=0.2))
  assert (low, high) == pytest.approx((8 * 48 * 3600 * 312e12 * 0.2, 8 * 72 * 3600 * 312e12 * 0.2))
  got = cells("training", "Sora-class guess, 720p")["PF-days"]
  month = 730 * 3600 * 989.4e12 * 0.35 / 8.64e19
  assert (got.value, got.to) == pytest.approx((4200 * month, 10500 * month))
  assert got.tag == "guess" and "Plappert" in got.source


def test_what_nobody_published_stays_unknown():
  for name in ("CogVideoX 5B", "LTX-Video 2B", "Wan 2.1 14B, 720p", "HunyuanVideo 13B, 720p"):
    row = BY_NAME[name].row()
    assert training_flops(row, Assumed()) is None
    cell = cells("training", name)["PF-days"]
    assert cell.value is None and cell.text == "unknown" and cell.tag == "unknown"


def test_seconds_dollars_and_energy_follow_from_flops_price_and_power():
  name, flags = "Wan 2.1 14B, 720p", ["--mfu=0.4", "--price=H100:3", "--pue=1.2", "--host=1.5"]
  work = 2 * 50 * forward(name)["total"] + 2 * 319.6092e12
  seconds = work / (0.4 * 989.4e12)
  assert cells("seconds", name, flags)["H100"].value == pytest.approx(seconds)
  per_minute = seconds / 3600 * 3 * 60 / (81 / 16)
  assert cells("dollars", name, flags)["H100"].value == pytest.approx(per_minute)
  wh = seconds * 700 * 1.5 * 1.2 / 3600
  assert cells("wh", name, flags)["H100"].value == pytest.approx(wh)
  assert cells("wh", name, flags)["v5p"].tag == "unknown"


def test_published_timing_gives_price_and_utilisation():
  got = cells("served", "Wan 2.1 14B, 720p")
  assert got["dollars per minute of video, or image"].value == pytest.approx(15.13, abs=0.01)
  assert got["implied MFU"].value == pytest.approx(6.53e17 / 1837.9 / 989.4e12, rel=1e-3)
  # Two seconds for 80 calls would be above the peak: the abstract's clip took fewer.
  ltx = cells("served", "LTX-Video 2B")["implied MFU"]
  assert ltx.value > 1 and "fewer network calls" in ltx.how


def test_derived_energy_of_wan_is_within_a_fifth_of_what_was_measured_at_the_machine():
  got = cells("wh", "Wan 2.1 14B, 720p", ["--pue=1"])["H100"].value
  assert got == pytest.approx(BY_NAME["Wan 2.1 14B, 720p"].wh.value, rel=0.2)


def test_tokens_per_second_of_video_are_the_known_ones():
  wanted = {
    "HunyuanVideo 13B, 720p": 22.1e3,
    "Wan 2.1 14B, 720p": 14.9e3,
    "Open-Sora 2.0 11B, 768p": 14.1e3,
    "Movie Gen 30B, 768p": 4.6e3,
    "CogVideoX 5B": 2.9e3,
    "LTX-Video 2B": 1.2e3,
  }
  for name, tokens in wanted.items():
    got = cells("clips", name)["tokens per second of video"].value
    assert got == pytest.approx(tokens, rel=0.02), name


# --- video against images -------------------------------------------------------------------------


def test_a_clip_costs_more_images_than_it_has_latent_frames_by_its_attention():
  """By hand: HunyuanVideo's 33 latent frames cost 190 images, not 33."""
  image = joint(45 * 80, 256, 60, 3072)
  got = cells("images", "HunyuanVideo 13B, 720p")
  assert got["tokens"].value == 33
  assert got["FLOP"].value == pytest.approx(joint(33 * 3600, 256, 60, 3072) / image, rel=1e-3)
  assert got["FLOP per frame"].value == pytest.approx(got["FLOP"].value / 129)
  sample = clip_flops(BY_NAME["HunyuanVideo 13B, 720p"].row()) / clip_flops(DIT.row())
  assert got[f"sample / {DIT.name}"].value == pytest.approx(sample)


def test_the_answer_names_every_system_on_its_side_of_100():
  page = tables()["images"]
  true, high = cost.answer(page)[0].split("true for ")[1].split("; too high for ")
  for name, row in page.rows.items():
    if row[0].tag != "guess":
      assert name in (true if row[1].value >= 100 else high)
  assert "HunyuanVideo" in true and "LTX-Video" in high and "Movie Gen" in high


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  out = tmp_path_factory.mktemp("cost")
  cost.main([f"--out={out}"])
  return out


@pytest.mark.parametrize("name", ["cost.md", "cost.json"])
def test_docs_hold_what_the_command_writes_now(written, name):
  stale = "run python -m videojax.scaling cost --out=docs"
  assert (written / name).read_text() == (ROOT / "docs" / name).read_text(), stale


def test_every_cell_has_a_tag_a_source_and_a_value_or_says_unknown(written):
  page = json.loads((written / "cost.json").read_text())
  for table in page["tables"].values():
    for name, row in table["rows"].items():
      assert set(row) == set(table["formulas"])
      for cell in row.values():
        assert cell["tag"] in cost.LETTERS, name
        assert page["sources"][str(cell["source"])]["source"]
        assert (cell["value"] is None) == (cell["tag"] == "unknown") == (cell["text"] == "unknown")


def test_markdown_and_json_agree_cell_by_cell(written):
  page, text = json.loads((written / "cost.json").read_text()), (written / "cost.md").read_text()
  for table in page["tables"].values():
    section = text.split(f"## {table['title']}\n")[1].split("\n## ")[0]
    table_lines = [line for line in section.splitlines() if line.startswith("| ")]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in table_lines]
    assert lines[0][1:] == list(table["formulas"])
    shown = {line[0]: line[1:] for line in lines[1:]}
    for name, row in table["rows"].items():
      cells = [f"{c['text']} {cost.LETTERS[c['tag']]}[{c['source']}]" for c in row.values()]
      assert shown.pop(name) == cells
    assert not shown
  listed = re.findall(r"^(\d+)\. (.*)$", text.split("## Sources\n")[1], re.M)
  assert [int(i) for i, _ in listed] == [int(i) for i in page["sources"]]
  for i, line in listed:
    assert line.startswith(page["sources"][i]["source"])


@pytest.mark.parametrize(
  "value,digits,text",
  [
    (75_600, 3, "75,600"), (1_000_000, 3, "1,000,000"), (6.523e17, 3, "6.52e17"), (0, 3, "0"),
    (0.0895, 3, "0.0895"), (1.38e-6, 3, "1.38e-6"), (3785.93, 5, "3,785.9"), (999.96, 3, "1,000"),
    ("81 x 720", 3, "81 x 720"),
  ],
)  # fmt: skip
def test_numbers_are_rounded_to_digits_and_not_to_places(value, digits, text):
  assert number(value, digits) == text


@pytest.mark.parametrize(
  "flag,words",
  [
    ("--mfu=2", "--mfu=2.0 must be above 0 and at most 1"),
    ("--mfu=nan", "--mfu=nan must be above 0"),
    ("--chips=H101", "no chip 'H101' (did you mean 'H100'?)"),
    ("--chips=", "names no chip"),
    ("--price=H100", "must be CHIP:DOLLARS"),
    ("--price=H100:-1", "must be above 0"),
    ("--price=H100:inf", "must be above 0"),
    ("--pue=inf", "must be at least 1, and finite"),
    ("--mfu=x", "argument --mfu: invalid float value: 'x'; see --help"),
    ("--bench=nothing.json", "--bench: nothing.json does not exist"),
    ("--price=X:1", "no chip 'X'"),
    ("--pue=.9", "must be at least 1"),
    ("--mfuu=.3", "unrecognized arguments: --mfuu=.3"),
    ("--config=experiments/quickstart.py", "python -m videojax.scaling cost"),
  ],
)
def test_wrong_flags_are_named(tmp_path, flag, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    cost.main([flag, f"--out={tmp_path / 'out'}"])
  assert not (tmp_path / "out").exists()


def test_the_command_says_a_mistake_in_a_line_and_fails(tmp_path, capsys):
  assert dispatch(["cost", "--mfu=2", f"--out={tmp_path}"]) == 1
  assert "--mfu=2.0 must be" in capsys.readouterr().err


def test_an_experiment_of_ours_is_a_row_with_the_flops_of_its_model(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  flags = ["--config=experiments/quickstart.py", "--config.total_steps=100", "--chips=H100"]
  assert dispatch(["cost", *flags, f"--out={tmp_path}"]) == 0, capsys.readouterr().err
  tables = json.loads((tmp_path / "cost.json").read_text())["tables"]
  name = "experiments/quickstart.py (worlds)"
  config = dit.Config(
    width=128, depth=4, num_heads=2, patch=(8, 2, 2), channels=3, known="last", dtype="float32"
  )
  work = flops.forward(products_of(ModelSpec("dit", config), (8, 16, 16, 3)))["total"]
  clip = tables["clips"]["rows"][name]
  assert clip["forward FLOP"]["value"] == work and clip["network calls"]["value"] == 30
  assert clip["seconds of video"]["value"] == pytest.approx(8 / 7)
  days = tables["training"]["rows"][name]["PF-days"]["value"]
  assert days == pytest.approx(100 * 8 * 3 * work / 8.64e19)


@pytest.mark.parametrize(
  "name,flags,calls",
  [
    ("quickstart.py:smoke", ["--config.guidance.last=3.0"], 2),  # 1 in the first frame
    ("quickstart.py:smoke", ["--config.guidance.scale=9.0"], 2),
    ("quickstart.py:smoke", ["--config.guidance.scale=9.0", "--config.guidance.temporal=1.5"], 3),
    ("quickstart.py:smoke", [], 1),
  ],
)
def test_guidance_of_any_kind_is_counted_in_the_cost_of_serving(monkeypatch, name, flags, calls):
  monkeypatch.chdir(ROOT)
  assert experiment_rows([f"--config=experiments/{name}", *flags])[0].branches == calls


def test_ones_own_experiment_stands_first(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  assert dispatch(["cost", "--config=experiments/quickstart.py", f"--out={tmp_path}"]) == 0
  page, name = capsys.readouterr().out, "experiments/quickstart.py (worlds)"
  assert re.search(r"^## (.*)", page, re.M)[1] == name
  for table in re.split(r"^## ", page, flags=re.M)[3:5]:
    assert table.split("\n|")[3].startswith(f" **{name}** ")


def test_measured_steps_come_from_a_bench_file(tmp_path, capsys):
  conditions = dict(device="1 x NVIDIA H100", batch_size=8, dtype="bfloat16", remat="none")
  values = dict(seconds_per_step=0.5, model_flops_per_s=3e14, mfu=0.303, tokens_per_s=1e5)
  path = tmp_path / "bench.json"
  path.write_text(json.dumps(values | {"conditions": conditions}))
  cost.main([f"--bench={path}", f"--out={tmp_path}"])
  row = json.loads((tmp_path / "cost.json").read_text())["tables"]["measured"]["rows"][str(path)]
  assert {cell["tag"] for cell in row.values()} == {"measured"}
  assert row["MFU"]["value"] == 0.303 and row["model TFLOP/s"]["value"] == 300
  path.write_text("{}")
  with pytest.raises(ValueError, match="bench.json is damaged.*lacks conditions"):
    cost.main([f"--bench={path}", f"--out={tmp_path}"])


@pytest.mark.parametrize(
  "kind,name,peak",
  [
    ("NVIDIA H100 80GB HBM3", "NVIDIA H100", 989.4e12), ("TPU v5 lite", "TPU v5e", 197e12),
    ("TPU v5", "TPU v5p", 459e12), ("TPU v5p", "TPU v5p", 459e12), ("TPU v4", "TPU v4", 275e12),
    ("TPU v6 lite", "TPU v6e", 918e12), ("cpu", None, None),
  ],
)  # fmt: skip
def test_what_jax_calls_a_chip_finds_its_peak_and_its_price(kind, name, peak):
  assert flops.chip(kind) == name and flops.peak_flops_per_s(kind) == peak
  assert name is None or name in {chip.kind for chip in CHIPS.values()}
