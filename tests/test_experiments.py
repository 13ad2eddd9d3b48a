"""Every experiment builds, at full size, with its parameter count pinned; its smoke form runs."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from experiments.scaling.architecture_matrix import UNETS
from videojax.config import resolve
from videojax.models.dit import SIZES
from videojax.modes.bench import make_arguments
from videojax.runs.program import (
  Counts,
  Program,
  check_divides,
  check_loss,
  parameters_by_part,
)
from videojax.runs.run_state import (
  make_update,
)
from videojax.scaling import flops
from videojax.sharding import MESH_AXES, make_mesh
from videojax.sweeps.schedule import make_job
from videojax.train import train

ROOT = Path(__file__).parent.parent
PARAMETERS = {
  "quickstart": 1322208, "real_video": 1322208, "papers/dit": 32_865_056,
  "papers/latte": 32_480_672, "papers/modelscope": 1_411_233_860, "papers/phyworld": 33_433_728,
  "papers/svd": 1_524_623_082, "papers/lumiere": 3_611_510_787, "controls": 1_635_808,
  "codec": 358240, "latent_worlds": 1_273_096,
  "papers/make_a_video": 2_781_912_097, "papers/video_ldm": 1_298_032_362,
  "papers/videocrafter": 1_413_284_420,
  "bench/wan_1p3b_32k": 1_414_517_824, "bench/wan_1p3b_8k": 1_414_517_824,
  "bench/dit_xl_4k": 607_366_144, "bench/wan_14b_76k": 14_291_281_984,
  "bench/wan_1p3b_video": 1_414_517_824,
}  # fmt: skip
# FLOPs of a clip, forward and backward, by kind of data: sums of products that were listed by hand,
# one by one from each paper's figure, before they were traced.
LISTED = {
  "bench/dit_xl_4k": {"latents": (6_514_925_469_696, 13_029_246_369_792)},
  "bench/wan_14b_76k": {"latents": (6_523_454_504_304_640, 13_046_859_460_771_840)},
  "bench/wan_1p3b_32k": {"latents": (282_999_260_282_880, 565_992_078_901_248)},
  "bench/wan_1p3b_8k": {"latents": (31_606_574_776_320, 63_211_615_223_808)},
  "controls": {
    "fps7": (119_504_896, 231_211_008),
    "camera": (119_504_896, 231_211_008),
    "fps10": (119_504_896, 231_211_008),
    "fps5": (119_504_896, 231_211_008),
    "images": (119_504_896, 231_211_008),
  },
  "papers/dit": {"latents": (12_111_347_712, 24_219_353_088)},
  "papers/latte": {"latents": (184_387_141_632, 368_723_755_008)},
  "papers/lumiere": {"clips": (347_113_005_252_608, 694_132_861_304_832)},
  "papers/make_a_video": {"clips": (29_374_450_368_512, 58_746_980_270_080)},
  "papers/modelscope": {
    "latents": (4_827_289_616_384, 9_650_264_834_048),
    "images": (305_038_475_264, 606_116_446_208),
  },
  "papers/phyworld": {"phyworld": (168_331_345_920, 333_843_922_944)},
  "papers/svd": {"latents": (44_693_435_678_720, 89_379_433_185_280)},
  "papers/video_ldm": {"latents": (5_608_107_048_960, 11_211_805_327_360)},
  "papers/videocrafter": {"latents": (12_521_595_371_520, 25_038_309_294_080)},
  "quickstart": {"worlds": (116_817_920, 228_327_424)},
}
NEEDS_DATA = ("real_video",)
YOUNGER = "codec", "latent_worlds", "bench/wan_1p3b_video"  # than the lists


def load(name):
  path = ROOT / "experiments" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def config(name, *arg):
  return load(name).get_config(*arg)


def experiments():
  """All but the sweeps (tests/sweeps/test_shipped_sweeps.py) and what needs latents on disk."""
  paths = (p.relative_to(ROOT / "experiments") for p in (ROOT / "experiments").rglob("*.py"))
  return sorted(
    str(p.with_suffix(""))
    for p in paths
    if not p.name.startswith("__") and p.parts[0] != "scaling" and p.stem != "from_latents"
  )


def test_every_experiment_is_pinned():
  assert set(experiments()) <= set(PARAMETERS)


def slow_where(names, some):
  """The names as parameters of a test that is slow for some of them."""
  return [pytest.param(n, marks=pytest.mark.slow) if n in some else n for n in names]


# Tracing the papers' U-Nets takes 5 to 11 s each.
LARGE = [f"papers/{name}" for name in UNETS]


@pytest.mark.parametrize("name", slow_where(experiments(), LARGE))
def test_experiment_builds_with_its_parameter_count(name):
  e = resolve(config(name).to_dict())
  make_update(e)
  assert parameters_by_part(e.model)["total"] == PARAMETERS[name]
  if name not in (*NEEDS_DATA, *YOUNGER):
    for source in e.data:
      products = e.task(source).products()
      assert (flops.forward(products)["total"], flops.backward(products)) == LISTED[name][source]


VARIANTS = {
  "papers/modelscope": {"": 1_411_233_860},
  "papers/svd": {"": 1_524_623_082},
  "papers/videocrafter": {
    "512-v2": 1_413_284_420, "1024-v1": 1_146_536_516, "512-v1": 1_144_485_956,
    "i2v-512": 1_438_843_460,
  },
  "papers/lumiere": {
    "": 3_611_510_787, "given": 3_611_529_219, "image": 2_877_197_315, "ssr": 545_857_923
  },
  "papers/make_a_video": {
    "": 2_781_912_097, "interpolation": 2_781_930_529, "sr_l": 843_948_193, "sr_h": 253_804_995
  },
  "papers/video_ldm": {
    "": 1_298_032_362, "prediction": 1_307_284_202, "interpolation": 1_307_284_202,
    "upsampler": 740_488_746,
  },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
  "name,arg", [(name, arg) for name in VARIANTS if name in experiments() for arg in VARIANTS[name]]
)
def test_every_stage_of_a_paper_has_its_parameters_and_the_data_that_it_needs(name, arg):
  e = resolve(config(name, arg).to_dict())
  check_loss(e, {source: e.task(source) for source in e.data})
  assert parameters_by_part(e.model)["total"] == VARIANTS[name][arg]


TRAINABLE = [n for n in experiments() if n not in NEEDS_DATA and not n.startswith("bench/")]
# Compiling takes their time, and two U-Nets are among the others.
SLOW = "papers/lumiere", "papers/make_a_video", "papers/videocrafter", "papers/video_ldm"


QUICK = "quickstart", "codec"


@pytest.mark.parametrize(
  "name",
  slow_where([n for n in TRAINABLE if n not in SLOW], {*TRAINABLE} - {*QUICK}),
)
def test_smoke_form_runs(name, tmp_path):
  e = resolve(config(name, "smoke").to_dict())
  result = train(e, tmp_path / "run", devices=jax.devices()[:1])
  assert result.steps == 2 and result.loss > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TRAINABLE if n in SLOW])
def test_smoke_form_is_traced_whole_and_takes_a_step(name):
  """Loss, samples and measures are traced as before a run's first step; one step is compiled."""
  e = resolve(config(name, "smoke").to_dict())
  program = Program(e, make_mesh(e.mesh, jax.devices()[:1]))
  ((name, task),) = program.tasks.items()
  program.evaluator.check(task.abstract_params)
  state, metrics = program.compile()[name](*make_arguments(program, task, replicas=None))
  assert state.step == 1 and np.isfinite(metrics["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", UNETS)
def test_a_papers_small_form_costs_what_the_quickstart_does(name):
  def cost(config):
    e = resolve(config.to_dict())
    return Counts.of(e.task("worlds")).flops * e.batch_size * e.total_steps

  want = pytest.approx(cost(config("quickstart")), rel=0.01)
  assert cost(config(f"papers/{name}", "cpu")) == want


def test_real_video_trains_on_a_dataset_of_clips(tmp_path):
  """Evaluation sets need not divide by the batch."""
  from data_pipelines.clips import write_clips

  rng = np.random.default_rng(0)
  clips = rng.integers(0, 256, (12, 8, 16, 16, 3), np.uint8)
  examples = [{"video": v, "caption": "noise", "id": i} for i, v in enumerate(clips)]
  write_clips(
    tmp_path / "clips", {"train": examples[:9], "validation": examples[9:]},
    frames=8, height=16, width=16, fps=8.0, description="noise",
  )  # fmt: skip
  values = config("real_video", "smoke")
  values.data.clips.path = str(tmp_path / "clips")
  result = train(resolve(values.to_dict()), tmp_path / "run", devices=jax.devices()[:1])
  assert result.frozen_loss.clips == 3  # all of them, though 8 at a time were asked for
  assert result.coherence == {}


# --- bench --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "name,arg,tokens,text,heads",
  [("wan_1p3b_32k", (), 32_760, 512, 128), ("wan_1p3b_8k", ("half",), 7_800, 512, 128),
   ("dit_xl_4k", (), 4_096, 128, 72), ("dit_xl_4k", ("head64",), 4_096, 128, 64),
   ("dit_xl_4k", ("head128",), 4_096, 128, 128), ("wan_14b_76k", (), 75_600, 512, 128)],
)  # fmt: skip
def test_bench_counts_the_closed_form_of_wans_block(name, arg, tokens, text, heads):
  e = resolve(config(f"bench/{name}", *arg).to_dict())
  task, c, s = e.task("latents"), e.model.config, tokens
  assert Counts.of(task).tokens == s and c.head_dim == heads
  d, f = c.width, c.mlp
  block = 8 * s * d * d + 4 * s * d * f + 4 * s * s * d
  cross = 4 * s * d * d + 4 * text * d * d + 4 * s * text * d
  want = 3 * c.depth * (block + cross)
  assert flops.step(task.products())["total"] == pytest.approx(want, rel=1e-3)


def test_bench_of_all_cases_is_a_table_with_what_failed_in_it(tmp_path, monkeypatch, capsys):
  all_cases = load("bench/__main__")
  written = dict(seconds_per_step=0.5, model_flops_per_s=4e14, mfu=0.4, estimate_seconds=0.45)
  for case in ("A", "B"):
    (tmp_path / case).mkdir()
    (tmp_path / case / "bench.json").write_text(json.dumps(written))
  monkeypatch.setattr(all_cases.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
  assert all_cases.main([f"--workdir={tmp_path}", "A", "B", "C, heads of 64"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].split() == ["A", "500.0", "400.0", "40.0%", "450.0", "-10.0%"]
  assert "C, heads of 64   failed" in lines[3]
  assert all_cases.main(["D"]) == 1


@pytest.mark.parametrize("devices", [1, 16, 64])
def test_bench_batches_and_meshes_fit_any_number_of_devices(devices):
  for name in ("wan_1p3b_32k", "wan_1p3b_8k", "dit_xl_4k", "wan_14b_76k"):
    e = resolve(config(f"bench/{name}").to_dict()).on_devices(devices)
    assert e.batch_size == max(round(e.clips_per_device * devices), 1)
    seq = e.mesh.seq
    check_divides(e, AbstractMesh((1, max(devices // seq, 1), seq, 1), MESH_AXES))


# --- papers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, ours, published", [
  ("S", 33_433_728, 22.5e6), ("B", 131_450_880, 89.5e6), ("L", 459_318_016, 310e6),
  ("XL", 676_483_392, 456e6),
])  # fmt: skip
def test_phyworlds_sizes_are_the_papers_but_for_an_adaln_in_each_block(size, ours, published):
  parts = parameters_by_part(
    resolve(config("papers/phyworld", f"collision,{size},3M").to_dict()).model
  )
  assert parts["total"] == ours
  width = SIZES[size]["width"]
  one_adaln = parts["total"] - parts["adaLN"] + 6 * width * (width + 1)
  # Its patches of latents are smaller than ours of pixels.
  assert one_adaln - parts["patchify"] - parts["head"] == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("variant, cells", [
  ("uniform", 9), ("parabola", 9), ("collision,cpu", 9), ("smoke", 4)
])  # fmt: skip
def test_phyworlds_sweep_is_its_grid_of_data_and_model_sizes(variant, cells):
  module = load("papers/phyworld")
  base = module.get_config(variant).to_dict()
  jobs = [make_job(base, cell) for cell in module.get_sweep(variant)]
  assert len({job.cell.name for job in jobs}) == len(jobs) == cells
  scenario = variant.split(",")[0].replace("smoke", "uniform")
  clips = {len(job.experiment.task("phyworld").source) for job in jobs}
  assert len(clips) * len({job.params for job in jobs}) == cells
  if variant == "uniform":
    assert clips == {30_000, 300_000, 3_000_000}
    assert {job.params for job in jobs} == {33_433_728, 131_450_880, 459_318_016}
  assert {j.experiment.data["phyworld"].settings["scenario"] for j in jobs} == {scenario}


@pytest.mark.parametrize(
  "arg", ["unifrom,S,30K", "uniform,M,30K", "uniform,S,30k", "uniform,S,3M,x"]
)
def test_a_misspelt_variant_of_phyworld_is_refused(arg):
  with pytest.raises(ValueError, match="available: "):
    config("papers/phyworld", arg)


@pytest.mark.parametrize("arg, millions", [
  ("S/2", 32.48), ("B/2", 129.55), ("L/2", 456.82), ("XL/2", 673.68), ("XL/2,ucf101", 673.80)
])  # fmt: skip
def test_latte_has_the_published_parameters(arg, millions):
  e = resolve(config("papers/latte", arg).to_dict())
  assert parameters_by_part(e.model)["total"] / 1e6 == pytest.approx(millions, abs=0.005)


def test_latte_xl_2_takes_3725_7_gflop_a_clip_with_adaln_once_a_clip():
  e = resolve(config("papers/latte", "XL/2").to_dict())
  products = e.task("latents").products()
  assert flops.count(products)["total"] / 1e9 == pytest.approx(3725.7, abs=0.05)
  # Latte's code repeats it for 16 frames in 14 blocks, for 256 places in 14, for 16 at the head.
  width = e.model.config.width
  repeated = (14 * (16 + 256 - 2) * 6 + 15 * 2) * width**2
  assert (flops.count(products)["total"] + 2 * repeated) / 1e9 == pytest.approx(3785.9, abs=0.05)


@pytest.mark.slow
def test_the_papers_vel_error_of_a_run_is_written_beside_that_of_true_clips(tmp_path):
  train(resolve(config("papers/phyworld", "smoke").to_dict()), tmp_path, devices=jax.devices()[:1])
  load("papers/phyworld").main([str(tmp_path)])
  written = json.loads((tmp_path / "vel_error.json").read_text())
  assert set(written) == {"id", "v_out"}
  truth, published = (written["id"][f"truth {reading}"] for reading in ("mended", "published"))
  assert truth["clips"] == [4, 0] and truth["vel_error"][0] < min(0.02, published["vel_error"][0])
  assert written["id"]["model published"]["vel_error"][0] > 1  # two steps teach nothing
