"""The command as people type it: in this process, flags parsed anew each time."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from videojax import launch
from videojax.io.claim import claim

ROOT = Path(__file__).parent.parent
QUICK = "--config=experiments/quickstart.py:smoke"
WIDE = "--config.batch_size=8"  # the suite has 8 devices


@pytest.fixture
def command(monkeypatch, capsys):
  """Runs `python -m videojax.launch ARGS` here; returns exit code, stdout, stderr."""
  monkeypatch.chdir(ROOT)

  def run(*arguments):
    # config_flags looks for overrides in sys.argv itself.
    monkeypatch.setattr(sys, "argv", ["launch", *arguments])
    return launch.main(["launch", *arguments]), *capsys.readouterr()

  return run


def test_mistakes_are_a_line_not_a_traceback():
  """In a process of its own, as a user sees it."""
  done = subprocess.run(
    [sys.executable, "-m", "videojax.launch", "--config=experiments/quickstart.py:smoke",
     "--workdir=/dev/null/run", "--config.optim.learning_rat=1"],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 1 and "Traceback" not in done.stderr
  assert "learning_rate" in done.stderr and len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize("mode", ["train", "evaluate"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_before_the_first_step_ends_the_process_at_once_with_a_line(tmp_path, number, mode):
  """Also while it is in a library that lets Python wait for minutes, as a compiler does."""
  busy = "import hashlib\nprint('busy', flush=True)\nhashlib.pbkdf2_hmac('md5', b'', b'', 10**9)\n"
  (tmp_path / "experiment.py").write_text(busy)
  with subprocess.Popen(
    [sys.executable, "-m", "videojax.launch", f"--config={tmp_path / 'experiment.py'}",
     f"--workdir={tmp_path / 'run'}", f"--mode={mode}"],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  ) as child:  # fmt: skip
    assert child.stdout.readline() == "busy\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
  assert child.returncode == 128 + number and not (tmp_path / "run").exists()
  assert err == f"stopped by {number.name}; run the same command again to continue\n"


@pytest.mark.parametrize(
  "arguments,words",
  [
    ([QUICK, "--mode=trian"], "did you mean 'train'"),
    ([QUICK], "--workdir=DIR are needed"),
    ([QUICK, "train"], "unexpected argument 'train'"),
    (["--config=experiments/quikstart.py", "--workdir=x"], "quikstart.py"),
    (["--confg=experiments/quickstart.py"], "confg"),
    ([QUICK, "--config.batch_size=many", "--workdir=x"], "batch_size"),
    (["--config=experiments/quickstart.py:smok", "--workdir=x"], "did you mean 'smoke'"),
    ([QUICK, "--mode=sweep", "--workdir=x"], "defines no get_sweep()"),
    ([QUICK, "--max-seconds=nan", "--workdir=x"], "--max-seconds=nan must be from 0 to"),
    ([QUICK, "--max-seconds=-1", "--workdir=x"], "--max-seconds=-1 must be from 0 to"),
    ([QUICK, "--wait-for-hosts=nan", "--workdir=x"], "--wait-for-hosts=nan must be from 0 to"),
  ],
)
def test_wrong_flags_are_named(command, tmp_path, arguments, words):
  if "--workdir=x" not in arguments and "needed" not in words:
    arguments = [*arguments, f"--workdir={tmp_path / 'run'}"]
  code, _, err = command(*arguments)
  assert code == 1 and words in err and not (tmp_path / "run").exists()


def test_plan_writes_the_counts_without_allocating(command, tmp_path):
  code, out, _ = command(QUICK, WIDE, f"--workdir={tmp_path / 'p'}", "--mode=plan")
  plan = json.loads((tmp_path / "p" / "plan.json").read_text())
  assert code == 0 and "GFLOP" in out
  world = plan["data"]["worlds"]
  assert (
    sum(v for k, v in plan["parameters"].items() if k != "total") == (plan["parameters"]["total"])
  )
  assert world["step_flops_per_clip"]["total"] == 3 * world["forward_flops_per_clip"]["total"]
  frames, fps = world["clip_shape"][0], 7.0
  assert world["tokens_per_video_second"] == pytest.approx(world["tokens_per_clip"] / frames * fps)
  # fp32 parameters; Adam keeps two numbers each and a count; one EMA; gradients.
  bytes_ = plan["state_bytes"]
  assert bytes_["trainable"] == bytes_["ema"] == bytes_["gradients"]
  assert bytes_["trainable"] == 4 * plan["parameters"]["total"]
  assert 0 <= bytes_["opt_state"] - 2 * bytes_["trainable"] < 64
  assert world["activation_bytes"] > 0


def test_plan_of_a_mesh_that_is_not_here_counts_bytes_per_device(command, tmp_path):
  state = {}
  for fsdp in (1, 16):
    mesh = ["--config.mesh.data=1", f"--config.mesh.fsdp={fsdp}", "--config.batch_size=64"]
    assert command(QUICK, *mesh, f"--workdir={tmp_path / str(fsdp)}", "--mode=plan")[0] == 0
    plan = json.loads((tmp_path / str(fsdp) / "plan.json").read_text())
    assert plan["devices"] == fsdp
    state[fsdp] = plan["state_bytes"]["trainable"]
  assert state[16] < state[1] / 4  # not 16: biases and norms are not divided


def test_run_may_start_where_its_plan_was_written(command, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  assert command(QUICK, WIDE, workdir, "--mode=plan")[0] == 0
  code, _, err = command(QUICK, WIDE, workdir, "--config.data.worlds.size=15")
  assert code == 1 and "does not divide a clip of 8 frames of 15x15" in err
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
  "override,words",
  [
    ("model.channels=4", "model.channels=4, but the data has 3"),
    ("model.text=7", "['text', 'text_mask'], which the data does not have"),
    ("optim.freeze=nothing", "matches no parameter"),
    ("condition.known_frames=3", "must be equal"),
    ("evaluate.splits.id.split=nosuch", "no split 'nosuch'"),
    ("init_from=/nowhere", "/nowhere is not a run directory"),
  ],
)
def test_settings_that_do_not_fit_are_named_before_anything_is_written(
  command, tmp_path, override, words
):
  code, _, err = command(QUICK, WIDE, f"--workdir={tmp_path / 'run'}", f"--config.{override}")
  assert code == 1 and words in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["train", "plan", "evaluate"])
def test_directory_that_another_process_writes_is_refused_untouched(command, tmp_path, mode):
  with claim(tmp_path, "another's work", "" if mode == "train" else mode):
    before = sorted(tmp_path.iterdir())
    code, _, err = command(QUICK, WIDE, f"--workdir={tmp_path}", f"--mode={mode}")
    assert code == 1 and "is in use by process" in err and "another's work" in err
    assert sorted(tmp_path.iterdir()) == before


def test_part_of_a_sweep_that_another_process_runs_is_refused(command, tmp_path):
  where = f"--workdir={tmp_path / 'w'}"
  with claim(tmp_path / "w", "another's work", "cells-0-1"):
    code, _, err = command(*SWEEP, where, "--cells=0:1", "--max-seconds=0")
    assert code == 1 and "is in use by process" in err
    assert command(*SWEEP, where, "--cells=1:2", "--max-seconds=0")[0] == launch.STOPPED


def test_workdir_that_cannot_be_made_is_named(command):
  code, _, err = command(QUICK, WIDE, "--workdir=/dev/null/run")
  assert code == 1 and "/dev/null/run" in err


@pytest.mark.slow
def test_remat_keeps_fewer_activations_in_the_plan(command, tmp_path):
  kept = {}
  for remat in ("none", "attention_dots", "attention", "full"):
    workdir, policy = f"--workdir={tmp_path / remat}", f"--config.model.remat={remat}"
    assert command(QUICK, WIDE, workdir, "--mode=plan", policy)[0] == 0
    plan = json.loads((tmp_path / remat / "plan.json").read_text())
    kept[remat] = plan["data"]["worlds"]["activation_bytes"]
  assert kept["full"] < kept["attention"] < kept["attention_dots"] < kept["none"]


def test_bench_states_its_conditions(command, tmp_path):
  code, out, _ = command(QUICK, f"--workdir={tmp_path / 'b'}", "--mode=bench", WIDE)
  bench = json.loads((tmp_path / "b" / "bench.json").read_text())
  assert code == 0 and len(bench["seconds"]) >= 8
  assert bench["seconds_per_step"] == pytest.approx(sorted(bench["seconds"])[5], rel=0.5)
  assert bench["mfu"] is None and "MFU unknown" in out  # a CPU has no peak in the table
  assert {"device", "dtype", "batch_size", "remat", "attention", "ema"} <= set(bench["conditions"])


def test_mfu_is_model_flops_over_the_peak_of_all_chips():
  from videojax.scaling.flops import peak_flops_per_s

  assert peak_flops_per_s("NVIDIA H100 80GB HBM3") == 989.4e12
  assert peak_flops_per_s("TPU v5 lite") == 197e12 and peak_flops_per_s("TPU v5") == 459e12
  assert peak_flops_per_s("cpu") is None


@pytest.mark.slow
def test_evaluate_and_sample_read_a_finished_run_and_refuse_another(command, tmp_path):
  workdir = f"--workdir={tmp_path / 'run'}"
  assert command(QUICK, WIDE, workdir)[0] == 0
  result = json.loads((tmp_path / "run" / "result.json").read_text())
  code, out, _ = command(QUICK, WIDE, workdir, "--mode=evaluate")
  written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
  assert code == 0 and written["step"] == 2
  assert written["frozen_loss"]["mean"] == pytest.approx(result["frozen_loss"]["final"], rel=1e-5)
  assert command(QUICK, WIDE, workdir, "--mode=sample")[0] == 0
  assert {p.name for p in (tmp_path / "run" / "samples").iterdir()} >= {"id", "ood"}
  code, _, err = command(QUICK, WIDE, workdir, "--config.seed=5")
  assert code == 1 and "different experiment" in err and "seed: 0 there, 5 now" in err
  code, _, err = command(QUICK, WIDE, f"--workdir={tmp_path / 'no'}", "--mode=evaluate")
  assert code == 1 and "not a run directory" in err


def test_a_machine_that_cannot_write_samples_is_told_before_the_run(command, tmp_path, monkeypatch):
  found = importlib.util.find_spec
  there = lambda name, *rest: None if name == "av" else found(name, *rest)
  monkeypatch.setattr(importlib.util, "find_spec", there)
  code, _, err = command(QUICK, f"--workdir={tmp_path / 'run'}", WIDE)
  assert code == 1 and "pip install av" in err and not (tmp_path / "run").exists()


def test_missing_extra_is_named(command, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  code, _, err = command(QUICK, f"--workdir={tmp_path / 'run'}", "--config.tensorboard=True", WIDE)
  assert code == 1 and "pip install 'videojax[tensorboard]'" in err


SWEEP = ("--config=experiments/scaling/worlds_smoke.py:smoke", "--mode=sweep")


def test_sweep_lists_its_cells_and_runs_none(command, tmp_path):
  code, out, _ = command(*SWEEP, f"--workdir={tmp_path / 'w'}", "--list")
  assert code == 0 and len(out.splitlines()) == 9 and "held out" in out.splitlines()[-1]
  assert not (tmp_path / "w").exists()


def test_sweep_stops_at_its_time_limit_and_says_how_to_go_on(command, tmp_path):
  where = f"--workdir={tmp_path / 'w'}"
  code, out, _ = command(*SWEEP, where, "--cells=0:1", "--max-seconds=0")
  assert code == launch.STOPPED and "time limit" in out and "run the same command again" in out
  code, _, error = command(*SWEEP, where, "--cells=3")
  assert code == 1 and "must be i:j" in error and "Traceback" not in error
