"""What a plan says before and beside its numbers: which mesh would do, what is kept, which code."""

import dataclasses
import math

import jax
import pytest

from tests.helpers import tiny
from tests.plan.test_plan import libtpu
from videojax import fits, launch
from videojax.errors import ConfigError
from videojax.plan import search, tables, topology
from videojax.plan.needs import DoesNotFit, kept_bytes, with_remat
from videojax.sharding import mesh_sizes

BENCH = "--config=experiments/bench/wan_1p3b_8k.py"
QUICK = "--config=experiments/quickstart.py:smoke"


def refused(words):
  """argv of `fits` -> the message that it is refused with."""
  with pytest.raises(ConfigError) as error:
    command = launch.parse(["fits", *words[2:], "--workdir=none"])
    topology.check_mesh(command.experiment, int(words[0]), int(words[1]))
  return str(error.value)


@pytest.mark.parametrize(
  "words,flags",
  [
    (["128", "2", BENCH], "--config.mesh.data=2 --config.mesh.fsdp=64"),
    (["16", "1", QUICK], "--config.mesh.data=16 --config.batch_size=16"),
    (["16", "1", QUICK, "--config.mesh.tensor=3", "--config.batch_size=16"],
     "--config.mesh.data=16 --config.mesh.tensor=1"),
    (["64", "2", BENCH, "--config.mesh.seq=4", "--config.clips_per_device=.1"],
     "--config.mesh.data=2 --config.mesh.fsdp=8 --config.clips_per_device=0.25"),
    (["12", "3", QUICK, "--config.accumulate=2", "--config.mesh.fsdp=8"],
     "--config.mesh.data=3 --config.mesh.fsdp=4 --config.batch_size=24"),
  ],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_is_refused_with_the_flags_of_one_that_does(words, flags, capsys):
  assert refused(words).endswith(f"This would fit: {flags}")
  assert fits.main(["fits", *words, *flags.split(), "--workdir=none"]) == 0
  assert fits.main(["fits", *words, "--workdir=none"]) == 2
  error = capsys.readouterr().err
  assert flags in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("data,fsdp", [(-1, 1), (1, -1), (3, 5), (1, 1), (64, 64)])
@pytest.mark.parametrize("devices,slices", [(1, 1), (8, 1), (12, 3), (64, 4), (96, 2)])
def test_the_flags_of_a_mesh_always_do(data, fsdp, devices, slices):
  e = tiny(mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=2, batch_size=6)
  flags = dict(f[9:].split("=") for f in topology._nearest(e, devices, slices).split())
  batch = int(flags.pop("batch_size", e.batch_size))
  sizes = {axis.removeprefix("mesh."): int(n) for axis, n in flags.items()}
  mesh = dataclasses.replace(e.mesh, **sizes)
  assert math.prod(mesh_sizes(mesh, devices, slices)) == devices
  topology.check_mesh(dataclasses.replace(e, mesh=mesh, batch_size=batch), devices, slices)


@pytest.mark.parametrize(
  "words",
  [
    ["--topology=v5p:0x4"], ["--topology=v5p:4x4x"], ["--topology=v5e:"], ["--topology=x"],
    ["--topology="], ["--topology=v5e:99999x99999"], ["--topology=v5e:\u00b2x2"],
    ["--topology=v6e-3"], ["--topology=v5p-12"], ["--topology=h100:-1"], ["--topology=h100:0"],
    ["--topology=h100:x"], ["--topology=h100:\u00b2"], ["--topology=h100"],
    ["--topology=v5e:2x2", "--slices=0"], ["--topology=v5e:2x2", "--slices=-1"],
    ["--topology=h100:8", "--slices=0"], ["--slices=2"], ["--search"], ["--step=sample"],
    ["--config.mesh.data=2", "--config.model.patch=(8,3,3)"],
    ["--topology=h100:2", "--config.model.patch=(8,3,3)"],
    ["--config.mesh.data=2", "--config.model.patch=(0,1,1)"],
  ],
)  # fmt: skip
def test_settings_that_no_plan_can_have_are_told_in_a_line(tmp_path, capsys, words):
  command = ["launch", "--mode=plan", QUICK, f"--workdir={tmp_path}", *words]
  assert launch.main(command) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ") and "Traceback" not in error
  assert len(error.splitlines()) == 1 and words[-1].split("=")[0].split(".")[-1] in error
  assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
  "name,shape",
  [
    ("v5litepod-16", "v5e:4x4"), ("v5e-16", "v5e:4x4"), ("v5litepod:4x8", "v5e:4x8"),
    ("v5e-1", "v5e:1x1"), ("v6e-8", "v6e:2x4"), ("v6e-256", "v6e:16x16"), ("v4-8", "v4:2x2x1"),
    ("v5p-16", "v5p:2x2x2"), ("v5p-32", "v5p:2x2x4"), ("v5p-128", "v5p:4x4x4"),
    ("v5p-256", "v5p:4x4x8"), ("tpu7x:4x4x4", "tpu7x:4x4x4"),
  ],
)  # fmt: skip
def test_slices_are_known_by_the_names_of_gcloud_too(name, shape):
  assert topology.shape_of(name) == shape


def test_weights_in_16_bits_hide_nothing_of_what_a_clip_keeps():
  """Their copies are smaller than the weights: subtracting these said that nothing is kept."""
  sizes = dict(model__width=256, model__num_heads=2, model__patch=(4, 8, 8), model__depth=2)
  task = with_remat(tiny(**sizes, model__dtype="bfloat16"), "full").task("worlds")
  assert kept_bytes(task) >= 2 * 4 * 256 * 2  # of each of 2 blocks what goes in: 4 tokens, 16 bits


def test_what_does_not_fit_is_told_with_the_memory_that_programs_may_use(capsys):
  said = "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.86G of "
  used, usable = topology._bytes_used(said + "15.75G hbm. Exceeded hbm capacity by 3.11G.")
  assert (used - usable) / 2**30 == pytest.approx(3.11)
  part = "the total memory required for HLO temporaries (82.23G) exceeds available HBM (15.75G)."
  assert topology._bytes_used(part) == (82.23 * 2**30, 15.75 * 2**30)
  written = dict(peak_bytes=used, over_bytes=used - usable, usable_bytes=usable)
  written |= dict(memory_bytes=16 * 2**30, reason="Used 18.86G of 15.75G hbm")
  tables._show_too_large(tables.Console(soft_wrap=True), written)
  out = capsys.readouterr().out
  assert "18.86 GiB" in out and "3.11 GiB too much for its 16 GiB" in out
  assert "XLA keeps 256 MiB for itself" in out


@pytest.fixture
def planned(monkeypatch, tmp_path):
  """The exit code of a plan with further arguments."""
  monkeypatch.setattr("videojax.plan.needs.REMATS", ("none",))  # which the smoke form has
  command = ["launch", "--mode=plan", QUICK, f"--workdir={tmp_path}"]
  return lambda *words: launch.main([*command, *words])


def test_the_exit_code_says_whether_it_fits_and_a_price_where_it_is_from(planned, capsys):
  assert planned("--topology=h100:2") == 0
  out = " ".join(capsys.readouterr().out.split())
  assert "dollars at 2.50 per chip-hour (assumed; on demand, May 2026" in out
  large = ["--config.model.width=8192", "--config.model.depth=48", "--config.batch_size=1"]
  assert planned("--topology=h100:1", *large) == launch.TOO_LARGE == 3
  assert "does not fit" in capsys.readouterr().out


def test_a_search_that_finds_nothing_has_that_exit_code_too(planned, monkeypatch, capsys):
  def none(*_):
    raise DoesNotFit("none of the best 4 does")

  monkeypatch.setattr("videojax.plan.plan.plan", none)
  assert planned("--topology=v5e:2x2", "--search") == 3
  assert "none of the best 4" in capsys.readouterr().err
  monkeypatch.setattr("videojax.plan.plan.plan", lambda *_: {})  # of devices that are here
  assert planned() == 0


@libtpu
def test_a_search_says_which_candidate_it_compiles_and_keeps_to_the_slices(monkeypatch, capsys):
  monkeypatch.setattr(search, "REMATS", ("none", "full"))
  made = iter([dict(fits=False, peak_bytes=2.0**40), dict(fits=True, peak_bytes=2.0**30)])
  monkeypatch.setattr(topology, "compile_for", lambda *_: next(made))
  devices = topology.open_topology("v5e:1x1", 2)
  e, tried = search.search(tiny(batch_size=8), devices)
  assert e.mesh.data % 2 == 0 and len(tried) == 2
  first, *lines = capsys.readouterr().out.splitlines()
  assert first.startswith("search: counting ") and len(lines) == 2
  assert all(
    line.startswith(f"search: candidate {i} of 4, data ") for i, line in enumerate(lines, 1)
  )
  monkeypatch.setattr(topology, "compile_for", lambda *_: dict(fits=False, peak_bytes=2.0**40))
  with pytest.raises(DoesNotFit, match="none of the best 4"):
    search.search(tiny(batch_size=8), devices)


def test_compiling_is_announced_and_timed(monkeypatch, capsys):
  monkeypatch.setattr(topology, "compiled", lambda *_: dict(peak_bytes=1))
  topology.compile_for(tiny(batch_size=8), jax.devices()[:2])
  before, after = capsys.readouterr().out.splitlines()
  assert before == "worlds: compiling the train step, about 1 minute"
  assert after == "worlds: compiled in 0 s"
