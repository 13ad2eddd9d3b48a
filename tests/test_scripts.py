"""The scripts of launch/, with stubs for what they call: which commands they give, and when."""

import collections
import itertools
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from videojax import launch
from videojax.scaling.cells import part_of

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.rglob("*.sh"))
COMMANDS = [p for p in SCRIPTS if os.access(p, os.X_OK)]  # the others are sourced
RUN = ["--config=experiments/quickstart.py", "--workdir=/shared/runs/toy"]
SWEEP = "experiments/scaling/worlds_isoflop.py"
GS = ["--config=experiments/quickstart.py", "--workdir=gs://bucket/runs/toy"]
TPU = {"ZONE": "us-east1-d", "TYPE": "v6e-16", "SPOT": "1", "WAIT": "0"}
POD = {"IMAGE": "registry/videojax:1", "CLAIM": "runs"}

# Each call ends with \x1e in $CALLS, each of its words with \x1f; answers come from $ANSWERS.
STUB = r"""#!/usr/bin/env bash
case "${0##*/} $*" in # questions, which change nothing
  *videojax.fits*) echo "error: asked: $*" >&2; exit "${FITS:-0}" ;;
  "git cat-file"*) exit "${COMMITTED:-0}" ;;
esac
{ printf '%s\x1f' "${0##*/}" "$@"; printf '\x1e'; } >> "$CALLS"
next() { local line; line=$(head -n1 "$1" 2>/dev/null); sed -i 1d "$1" 2>/dev/null; echo "$line"; }
case "${0##*/} $*" in
  *--list*) seq "$CELLS" ;;
  *"tpu-vm describe"*) next "$ANSWERS/vm" ;;
  *"queued-resources describe"*) next "$ANSWERS/queue" ;;
  *"tpu-vm ssh"*videojax.launch*"tee "*) exit "$(next "$ANSWERS/codes")" ;;
  "srun "*) exit "${SRUN:-0}" ;;
  "sbatch "*) echo 71 ;;
  *"queued-resources delete"*) exit "${QUEUED:-0}" ;;
esac
"""


class Stubs:
  """Runs a script with stubs first on the PATH."""

  names = ("gcloud", "git", "kubectl", "sbatch", "srun", "scontrol", "python")

  def __init__(self, path: Path) -> None:
    self.log, self.answers = path / "calls", path / "answers"
    bin_ = path / "bin"
    for directory in (bin_, self.answers):
      directory.mkdir()
    for name in self.names:
      (bin_ / name).write_text(STUB)
      (bin_ / name).chmod(0o755)
    self.environment = {
      "PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(path), "CALLS": str(self.log),
      "ANSWERS": str(self.answers), "CELLS": "10",
    }  # fmt: skip

  def answer(self, **lines: list) -> None:
    for name, each in lines.items():
      (self.answers / name).write_text("".join(f"{line}\n" for line in each))

  def run(self, command: list, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      command, env=self.environment | environment, cwd=ROOT, capture_output=True, text=True,
      timeout=60,
    )  # fmt: skip

  def script(self, name: str, *arguments: str, **environment: str) -> str:
    """Its output; it must succeed."""
    done = self.run([LAUNCH / name, *arguments], **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout

  def calls(self, name: str = "") -> list[list[str]]:
    text = self.log.read_bytes().decode() if self.log.exists() else ""
    calls = [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]
    return [call for call in calls if not name or call[0] == name]


@pytest.fixture
def stubs(tmp_path):
  return Stubs(tmp_path)


def covered(parts: list[str], number: int) -> list[int]:
  """How often each of `number` cells is in one of the i:j."""
  count = collections.Counter(i for part in parts for i in range(number)[part_of(part, number)])
  return [count[i] for i in range(number)]


def one(calls: list[list[str]], *words: str) -> list[str]:
  """The only call with these words."""
  (call,) = (c for c in calls if set(words) <= set(c))
  return call


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(LAUNCH)))
def test_scripts_are_sound_shell(script):
  subprocess.run(["bash", "-n", script], check=True)
  assert (script not in COMMANDS) or "\nset -euo pipefail\n" in script.read_text()
  check = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
  assert check, "shellcheck comes with the extra `test`"
  subprocess.run([check, "-x", script], check=True, cwd=ROOT)


@pytest.mark.parametrize("script", COMMANDS, ids=lambda p: p.name)
def test_help_is_the_comment_at_the_top(stubs, script):
  out = stubs.run([script, "--help"]).stdout
  assert f"launch/{script.relative_to(LAUNCH)} " in out and "--dry-run" in out
  first, *lines = script.read_text().splitlines()
  comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
  assert first == "#!/usr/bin/env bash" and out.splitlines() == [line[2:] for line in comment]
  assert stubs.calls() == []


@pytest.mark.parametrize(
  "command,environment,words",
  [
    (["local.sh"], {}, "--config="),
    (["local.sh", RUN[0]], {}, "--workdir="),
    (["local.sh", *RUN], {"PROCESSES": "two"}, "PROCESSES=two"),
    (["tpu_vm.sh"], TPU, "run NAME or delete NAME"),
    (["tpu_vm.sh", "start", "toy"], TPU, "'start'"),
    (["tpu_vm.sh", "run", "toy", *GS], {"TYPE": "v6e-8"}, "ZONE="),
    (["tpu_vm.sh", "run", "toy", *GS], {"ZONE": "a"}, "TYPE="),
    (["tpu_vm.sh", "run", "toy", GS[0]], TPU, "--workdir="),
    (["gke/run.sh"], POD, "NAME"),
    (["gke/run.sh", "toy", RUN[0]], {"IMAGE": "i"}, "CLAIM="),
    (["gke/run.sh", "toy"], POD, "--config="),
    (["gke/run.sh", "To_y", RUN[0]], POD, "NAME=To_y"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v6e"}, "TOPOLOGY="),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v9", "TOPOLOGY": "4x4"}, "TPU=v9"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v6e", "TOPOLOGY": "16"}, "TOPOLOGY=16"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v6e", "TOPOLOGY": "2x4", "SLICES": "2"},
     "SLICES=2"),
    (["gke/sweep.sh", SWEEP], POD, "CONFIG NAME"),
    (["gke/sweep.sh", SWEEP, "toy"], POD | {"SHARES": "some"}, "'some'"),
    (["gke/sweep.sh", SWEEP, "toy"], POD | {"TPU": "v6e", "TOPOLOGY": "4x4"}, "4 hosts"),
    (["slurm/run.sh", "--", *RUN], {}, "--config="),
    (["slurm/sweep.sh", SWEEP, "/shared"], {}, "CONFIG WORKDIR TASKS"),
    (["slurm/sweep.sh", SWEEP, "/shared", "--gres=gpu:1"], {}, "--gres=gpu:1"),
  ],
)  # fmt: skip
def test_what_is_missing_is_told_in_a_line(stubs, command, environment, words):
  done = stubs.run([LAUNCH / command[0], *command[1:]], **environment)
  assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
  assert done.stdout == "" and stubs.calls() == []


@pytest.mark.parametrize(
  "command,environment,printed",
  [
    (["local.sh", *RUN], {}, ["python -m videojax.launch"]),
    (["local.sh", *RUN], {"PROCESSES": "2"}, ["JAX_PROCESS_ID=0", "JAX_PROCESS_ID=1"]),
    (["tpu_vm.sh", "run", "toy", *GS], TPU,
     ["git ", "tpu-vm describe", "queued-resources describe", "queued-resources create",
      "tpu-vm scp", "tpu_setup.sh", "videojax.launch"]),
    (["tpu_vm.sh", "delete", "toy"], TPU, ["pkill -TERM", "queued-resources delete"]),
    (["gke/run.sh", "toy", RUN[0]], POD, ["python -m videojax.launch"]),
    (["gke/sweep.sh", SWEEP, "toy"], POD | {"SHARES": "2"}, ["--cells=", "--mode=sweep"]),
    (["slurm/run.sh", *RUN, "--", "--time=1"], {}, ["sbatch "]),
    (["slurm/sweep.sh", SWEEP, "/shared", "2"], {}, ["sbatch ", "afterok:ARRAY"]),
  ],
)  # fmt: skip
def test_dry_run_prints_the_commands_and_gives_none(stubs, command, environment, printed):
  out = stubs.script(command[0], "--dry-run", *command[1:], **environment)
  assert len(out.splitlines()) == len(printed)
  assert all(words in line for words, line in zip(printed, out.splitlines()))
  assert all("--list" in call for call in stubs.calls())  # a sweep's cells are counted


def test_list_has_a_line_for_each_cell_which_the_scripts_count(monkeypatch, tmp_path, capsys):
  monkeypatch.chdir(ROOT)
  config = "experiments/scaling/worlds_smoke.py"
  argv = ["launch", "--mode=sweep", f"--config={config}", f"--workdir={tmp_path}", "--list"]
  monkeypatch.setattr(sys, "argv", argv)
  assert launch.main(argv) == 0
  out = capsys.readouterr().out
  assert len(out.splitlines()) == len(runpy.run_path(config)["get_sweep"](""))


# --- TPU VM ---------------------------------------------------------------------------------------


def spoken(calls: list[list[str]]) -> list[str]:
  """What gcloud was asked to do, without looks at how things stand."""
  names = [" ".join(call[3:5]) for call in calls]
  return [name for name in names if not name.endswith("describe")]


ASKED = "queued-resources create"
GIVEN = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]  # copied, installed, launched


def launched(calls: list[list[str]]) -> list[str]:
  (name,) = {c[5] for c in calls if c[4] == "ssh"}
  commands = [word for c in calls if c[4] == "ssh" for word in c if "videojax.launch" in word]
  assert name == "toy"
  return commands


def test_tpu_vm_is_asked_for_and_waited_for_and_finished_runs_are_not_repeated(stubs):
  stubs.answer(vm=["", "", "CREATING", "READY"], queue=["", "PROVISIONING", "ACTIVE", "ACTIVE"])
  stubs.answer(codes=[0])
  stubs.script("tpu_vm.sh", "run", "toy", *GS, "--config.batch_size=64", **TPU)
  calls = stubs.calls("gcloud")
  assert spoken(calls) == [ASKED, *GIVEN]
  assert all({"--zone=us-east1-d", "--quiet"} <= set(call) for call in calls)
  (bundled,) = stubs.calls("git")
  assert bundled[1:3] == ["bundle", "create"] and bundled[-1] == "HEAD"
  assert bundled[-2] in one(calls, "scp")
  asked = one(calls, "create")
  assert {"toy", "--node-id=toy", "--accelerator-type=v6e-16", "--spot"} <= set(asked)
  assert "--runtime-version=v2-alpha-tpuv6e" in asked
  assert all("--worker=all" in call for call in calls if call[4] in ("ssh", "scp"))
  (command,) = launched(calls)
  assert "--config=experiments/quickstart.py --workdir=/mnt/gs/bucket/runs/toy" in command
  assert "--config.batch_size=64" in command
  assert any("tpu_setup.sh bucket'" in word for call in calls for word in call)


def test_tpu_vm_that_is_there_is_used(stubs):
  stubs.answer(vm=["READY"], queue=["ACTIVE"], codes=[0])
  stubs.script("tpu_vm.sh", "run", "toy", *GS, **TPU | {"SPOT": ""})
  assert spoken(stubs.calls("gcloud")) == GIVEN


def test_preempted_run_goes_on_by_the_same_command_on_another_vm(stubs):
  stubs.answer(vm=["READY", "PREEMPTED", "", "READY"], queue=["ACTIVE", "SUSPENDED", "", "ACTIVE"])
  stubs.answer(codes=[143, 0])
  stubs.script("tpu_vm.sh", "run", "toy", *GS, **TPU)
  calls = stubs.calls("gcloud")
  assert spoken(calls) == [*GIVEN, "queued-resources delete", ASKED, *GIVEN]
  first, second = launched(calls)
  assert first == second


@pytest.mark.parametrize(
  "codes,after,again",
  [
    ([255, 0], "READY", True),  # the connection was lost
    ([143, 0], "READY", True),  # stopped and saved
    ([1, 0], "PREEMPTED", True),  # failed because its VM went
    ([1, 0], "", True),  # the same, deleted
    ([1, 0], "READY", False),  # failed by itself
  ],
)
def test_run_is_repeated_unless_it_failed_by_itself(stubs, codes, after, again):
  stubs.answer(vm=["READY", *[after] * (codes[0] == 1), "READY"], queue=["ACTIVE"], codes=codes)
  done = stubs.run([LAUNCH / "tpu_vm.sh", "run", "toy", *GS], **TPU)
  assert done.returncode == (0 if again else codes[0])
  assert len(launched(stubs.calls("gcloud"))) == 1 + again


def test_failed_queued_resource_is_told_and_not_asked_for_again(stubs):
  stubs.answer(vm=["", ""], queue=["", "FAILED"])
  done = stubs.run([LAUNCH / "tpu_vm.sh", "run", "toy", *GS], **TPU)
  assert done.returncode == 2 and "toy failed" in done.stderr
  assert spoken(stubs.calls("gcloud")) == [ASKED]


def test_tpu_vm_is_deleted_after_its_run_was_stopped(stubs):
  stubs.script("tpu_vm.sh", "delete", "toy", ZONE="us-east1-d")
  stop, delete = stubs.calls("gcloud")
  assert "--worker=all" in stop and any("pkill -TERM" in word for word in stop)
  assert delete[3:6] == ["queued-resources", "delete", "toy"] and "--force" in delete
  stubs.script("tpu_vm.sh", "delete", "toy", ZONE="us-east1-d", QUEUED="1")  # made without a queue
  assert stubs.calls("gcloud")[-1][3:6] == ["tpu-vm", "delete", "toy"]


@pytest.fixture
def worker(stubs, tmp_path):
  """A home directory of a worker, and the command that tpu_vm.sh gives it."""
  stubs.answer(vm=["READY"], codes=[0])
  stubs.script("tpu_vm.sh", "run", "toy", *GS, **TPU)
  python = tmp_path / "videojax/.venv/bin/python"
  python.parent.mkdir(parents=True)
  (command,) = launched(stubs.calls("gcloud"))
  return python, ["bash", "-c", command.removeprefix("--command=")]


@pytest.mark.skipif(not shutil.which("flock"), reason="the workers have Linux")
def test_worker_ends_with_the_code_of_the_run_and_keeps_its_log(worker, tmp_path):
  python, command = worker
  python.write_text('#!/bin/sh\necho "$@"\nexit 143\n')
  python.chmod(0o755)
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert done.returncode == 143
  assert done.stdout.endswith("--workdir=/mnt/gs/bucket/runs/toy\n")
  assert (tmp_path / "videojax.log").read_text() == done.stdout


@pytest.mark.skipif(not shutil.which("flock"), reason="the workers have Linux")
def test_run_goes_on_when_the_connection_is_lost_and_the_next_command_waits(worker, tmp_path):
  python, command = worker
  python.write_text("#!/bin/sh\necho begins\nsleep .5\necho goes on\nsleep .1\necho ends\n")
  python.chmod(0o755)
  lost = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
  assert lost.stdout is not None and lost.stdout.readline() == b"begins\n"
  lost.stdout.close()
  subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
  assert (tmp_path / "videojax.log").read_text() == 2 * "begins\ngoes on\nends\n"
  assert lost.wait() in (0, 1)


def test_worker_installs_the_tested_versions_and_mounts_the_bucket_once(tmp_path):
  home, bin_ = tmp_path / "home", tmp_path / "bin"
  log = tmp_path / "calls"
  for path in (
    home / ".local/bin/uv",
    *(bin_ / n for n in ("python3", "mountpoint", "sudo", "gcsfuse")),
  ):
    path.parent.mkdir(parents=True, exist_ok=True)
    answer = '[ -e "$HOME/mounted" ]' if path.name == "mountpoint" else "true"
    path.write_text(f'#!/bin/sh\necho "${{0##*/}} $*" >> {log}\n{answer}\n')
    path.chmod(0o755)
  copy = shutil.copytree(LAUNCH, home / "videojax/launch") / "tpu_setup.sh"
  environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "HOME": str(home)}
  for _ in range(2):
    subprocess.run(["bash", copy, "bucket"], env=environment, check=True)
    (home / "mounted").touch()
  calls = log.read_text().splitlines()
  assert sum(c.startswith("uv pip install") and c.endswith("py312.txt .[tpu]") for c in calls) == 2
  (mounted,) = (c for c in calls if c.startswith("gcsfuse"))
  assert mounted.endswith("bucket /mnt/gs/bucket") and "--metadata-cache-ttl-secs=0" in mounted
  subprocess.run(["bash", copy], env=environment, check=True)  # no bucket
  assert sum(c.startswith("gcsfuse") for c in log.read_text().splitlines()) == 1


# --- GKE ------------------------------------------------------------------------------------------


def jobs(manifest: str) -> dict[str, dict]:
  """Jobs of a JobSet by name, each with `pod`, `box` (its container) and `replicas`."""
  document = yaml.safe_load(manifest)
  assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and document["kind"] == "JobSet"
  out = {}
  for job in document["spec"]["replicatedJobs"]:
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (box,) = pod["containers"]
    box["command"] = [word.replace("$$", "$") for word in box["command"]]  # as Kubernetes does
    out[job["name"]] = job | spec | {"pod": pod, "box": box, "template": None}
  return out


@pytest.mark.parametrize(
  "tpu,topology,slices,label,hosts,chips",
  [
    ("v6e", "4x4", 1, "tpu-v6e-slice", 4, 4),
    ("v6e", "4x4", 3, "tpu-v6e-slice", 4, 4),
    ("v6e", "2x4", 1, "tpu-v6e-slice", 1, 8),
    ("v5e", "1x1", 1, "tpu-v5-lite-podslice", 1, 1),
    ("v5e", "16x16", 1, "tpu-v5-lite-podslice", 64, 4),
    ("v5p", "2x2x1", 1, "tpu-v5p-slice", 1, 4),
    ("v4", "2x2x4", 2, "tpu-v4-podslice", 4, 4),
  ],
)
def test_tpu_slices_have_a_pod_for_each_host(stubs, tpu, topology, slices, label, hosts, chips):
  environment = POD | {"TPU": tpu, "TOPOLOGY": topology, "SLICES": str(slices)}
  manifest = stubs.script("gke/run.sh", "toy", RUN[0], "--config.seed=1", **environment)
  (job,) = jobs(manifest).values()
  assert (job["replicas"], job["parallelism"], job["completions"]) == (slices, hosts, hosts)
  assert job["box"]["resources"] == {"limits": {"google.com/tpu": chips}}
  assert job["pod"]["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": label, "cloud.google.com/gke-tpu-topology": topology,
  }  # fmt: skip
  assert job["box"]["command"] == [
    "python", "-m", "videojax.launch", RUN[0], "--config.seed=1", "--workdir=/runs/toy",
  ]  # fmt: skip
  assert "env" not in job["box"]  # GKE tells TPU pods who they are
  placed = yaml.safe_load(manifest)["metadata"].get("annotations", {})
  assert (len(placed) == 1) == (hosts > 1)
  assert job["pod"].get("hostNetwork", False) == (slices > 1)
  assert stubs.calls() == []


def test_gpu_nodes_are_told_their_coordinator(stubs):
  environment = POD | {"GPU": "nvidia-h100-80gb", "GPUS": "8", "SPOT": "1"}
  (alone,) = jobs(stubs.script("gke/run.sh", "toy", RUN[0], **environment)).values()
  assert alone["parallelism"] == 1 and "env" not in alone["box"]
  assert alone["pod"]["nodeSelector"] == {
    "cloud.google.com/gke-accelerator": "nvidia-h100-80gb", "cloud.google.com/gke-spot": "true",
  }  # fmt: skip
  (job,) = jobs(stubs.script("gke/run.sh", "toy", RUN[0], **environment, NODES="4")).values()
  assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
  assert job["box"]["resources"] == {"limits": {"nvidia.com/gpu": 8}}
  told = {v["name"]: v.get("value") for v in job["box"]["env"]}
  host, port = told["JAX_COORDINATOR_ADDRESS"].split(":")
  assert host == f"toy-{job['name']}-0-0.toy" and port.isdigit()
  assert told["JAX_NUM_PROCESSES"] == "4"
  index = job["box"]["env"][-1]
  assert index["name"] == "JAX_PROCESS_ID"
  assert "job-completion-index" in index["valueFrom"]["fieldRef"]["fieldPath"]


def test_words_of_the_command_reach_the_pod_as_they_are(stubs):
  word = '--config.data.x.path=/a b/"c"\\d: {e} #f'
  (job,) = jobs(stubs.script("gke/run.sh", "toy", RUN[0], word, **POD)).values()
  assert word in job["box"]["command"]


def test_stopped_pods_start_again_however_often_and_failed_ones_some_times(stubs):
  manifest = stubs.script("gke/run.sh", "toy", RUN[0], **POD, RESTARTS="5")
  policy = yaml.safe_load(manifest)["spec"]["failurePolicy"]
  (rule,) = policy["rules"]
  assert policy["maxRestarts"] == 5 and rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
  (job,) = jobs(manifest).values()
  code, disruption = job["podFailurePolicy"]["rules"]
  assert code["onExitCodes"] == {"operator": "In", "values": [143]}
  assert disruption["onPodConditions"] == [{"type": "DisruptionTarget"}]
  assert job["pod"]["restartPolicy"] == "Never"  # or a Job has no podFailurePolicy


@pytest.mark.parametrize("number,shares", [(10, 3), (10, 4), (10, 10), (3, 8)])
def test_gke_shares_cover_each_cell_once_before_the_report(stubs, number, shares):
  environment = POD | {"SHARES": str(shares), "CELLS": str(number)}
  set_ = jobs(stubs.script("gke/sweep.sh", f"{SWEEP}:cpu", "toy", **environment))
  cells, report = set_["cells"], set_["report"]
  assert report["dependsOn"] == [{"name": "cells", "status": "Complete"}]
  assert cells["completions"] == cells["parallelism"] <= min(shares, number)
  assert report["completions"] == 1
  stubs.log.unlink()
  for index in range(cells["completions"]):
    stubs.run(cells["box"]["command"], JOB_COMPLETION_INDEX=str(index))
  calls = stubs.calls("python")
  parts = [word.removeprefix("--cells=") for c in calls for word in c if "--cells=" in word]
  assert covered(parts, number) == [1] * number
  assert [c[:-1] for c in calls] == [report["box"]["command"]] * len(calls)
  assert report["box"]["command"][-2:] == [f"--config={SWEEP}:cpu", "--workdir=/runs/toy"]


def test_gke_sweep_of_one_share_is_one_pod(stubs):
  assert list(jobs(stubs.script("gke/sweep.sh", SWEEP, "toy", **POD))) == ["report"]


# --- SLURM ----------------------------------------------------------------------------------------


def test_slurm_run_has_a_process_per_gpu_and_is_requeued_before_its_time_is_up(stubs):
  environment = {"NODES": "2", "GPUS": "4"}
  stubs.script("slurm/run.sh", *RUN, "--config.x=a b", "--", "--time=04:00:00", **environment)
  (call,) = stubs.calls()
  assert {"sbatch", "--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4", "--time=04:00:00"} < set(
    call
  )
  assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} < set(call)
  stubs.log.unlink()
  assert stubs.run(["sh", "-c", call[-1]], SLURM_CPUS_PER_TASK="6").returncode == 0
  (step,) = stubs.calls()
  assert step[0] == "srun" and "--cpus-per-task=6" in step
  assert step[3:] == ["python", "-m", "videojax.launch", *RUN, "--config.x=a b"]


def test_slurm_process_that_has_all_gpus_of_its_node_is_told_so(stubs):
  stubs.script("slurm/run.sh", *RUN, NODES="2", GPUS="4", TASKS="1")
  (call,) = stubs.calls()
  assert {"--ntasks-per-node=1", "--gres=gpu:4"} < set(call)
  stubs.run(["sh", "-c", call[-1]])
  assert "JAX_LOCAL_DEVICE_IDS=0,1,2,3" in stubs.calls("srun")[0]


@pytest.mark.parametrize("code,requeued", [(0, False), (143, True), (1, False)])
def test_slurm_job_goes_back_into_the_queue_only_when_it_was_stopped(stubs, code, requeued):
  stubs.script("slurm/run.sh", *RUN)
  done = stubs.run(["sh", "-c", stubs.calls()[0][-1]], SRUN=str(code), SLURM_JOB_ID="17")
  assert done.returncode == code
  assert stubs.calls("scontrol") == ([["scontrol", "requeue", "17"]] if requeued else [])


@pytest.mark.parametrize("number,tasks", [(10, 3), (10, 4), (10, 1), (3, 8)])
def test_slurm_shares_cover_each_cell_once_before_the_report(stubs, number, tasks):
  command = [f"{SWEEP}:cpu", "/shared/sweep", str(tasks), "--gres=gpu:1"]
  stubs.script("slurm/sweep.sh", *command, CELLS=str(number))
  array, report = stubs.calls("sbatch")
  assert "--gres=gpu:1" in array and "--gres=gpu:1" in report
  assert "--dependency=afterok:71" in report  # what sbatch called the array
  (last,) = (int(m[1]) for word in array if (m := re.fullmatch(r"--array=0-(\d+)", word)))
  assert last < min(number, tasks)
  for index in range(last + 1):
    stubs.run(["sh", "-c", array[-1]], SLURM_ARRAY_TASK_ID=str(index))
  stubs.run(["sh", "-c", report[-1]])
  *shares, whole = stubs.calls("srun")
  assert covered([c[-1].removeprefix("--cells=") for c in shares], number) == [1] * number
  assert all(c[:-1] == whole for c in shares)
  assert whole[-3:] == ["--mode=sweep", f"--config={SWEEP}:cpu", "--workdir=/shared/sweep"]


# --- here -----------------------------------------------------------------------------------------


@pytest.fixture
def local(stubs, tmp_path):
  """Starts local.sh with this shell script for python; its processes write into `said`."""
  python, said = tmp_path / "python.sh", tmp_path / "said"
  said.touch()
  started = []

  def start(text: str, **environment: str) -> subprocess.Popen:
    python.write_text(f"#!/usr/bin/env bash\n{text}\n")
    python.chmod(0o755)
    environment = stubs.environment | {"PYTHON": str(python), "SAID": str(said)} | environment
    command = [LAUNCH / "local.sh", *RUN]
    started.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE))
    return started[-1]

  yield start, said
  for process in started:
    process.kill()
    process.communicate()


TOLD = "$JAX_PROCESS_ID/$JAX_NUM_PROCESSES $JAX_COORDINATOR_ADDRESS $JAX_NUM_CPU_DEVICES"
SAY = f'echo "{TOLD} $*" >> "$SAID"'


def test_local_run_is_the_command_itself(local):
  start, said = local
  assert start(f"{SAY}; exit 7").wait(20) == 7
  assert said.read_text() == f"/   -m videojax.launch {' '.join(RUN)}\n"


def test_local_processes_share_a_coordinator_and_have_devices_of_their_own(local):
  start, said = local
  assert start(SAY, PROCESSES="3", DEVICES="2", PORT="4321").wait(20) == 0
  want = f"127.0.0.1:4321 2 -m videojax.launch {' '.join(RUN)}"
  assert sorted(said.read_text().splitlines()) == [f"{i}/3 {want}" for i in range(3)]


def test_all_local_processes_end_when_one_fails(local):
  start, _ = local
  process = start('[ $JAX_PROCESS_ID = 1 ] && exit 3; trap "" TERM; exec sleep 60', PROCESSES="3")
  assert process.wait(20) == 3
  assert process.stderr is not None and b"process 1 failed with 3" in process.stderr.read()


def test_local_processes_are_all_asked_to_stop_and_waited_for(local):
  start, said = local
  wait = "for i in {1..400}; do sleep .05; done"
  text = f'trap "sleep .2; echo saved >> $SAID; exit 143" TERM; echo up >> "$SAID"; {wait}'
  process = start(text, PROCESSES="2")
  deadline = time.monotonic() + 20
  while said.read_text().count("up") < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  assert process.wait(20) == 143
  assert said.read_text().count("saved") == 2
