"""What the scripts of launch/ do with their arguments: dry runs, hostile words, what cannot be."""

import re
import shutil
import subprocess

import pytest

from tests.test_scripts import GS, LAUNCH, POD, ROOT, RUN, SWEEP, TPU, jobs, launched, stubs
from videojax import launch

assert stubs  # a fixture

SUBMITTING = [
  (["local.sh", *RUN], {}),
  (["tpu_vm.sh", "run", "toy", *GS], TPU),
  (["tpu_vm.sh", "delete", "toy"], TPU),
  (["tpu_setup.sh", "bucket"], {}),
  (["gke/run.sh", "toy", RUN[0]], POD),
  (["gke/sweep.sh", SWEEP, "toy"], POD | {"SHARES": "2"}),
  (["slurm/run.sh", *RUN, "--", "--time=1"], {}),
  (["slurm/sweep.sh", SWEEP, "/shared", "2", "--time=1"], {}),
]


@pytest.mark.parametrize("command,environment", SUBMITTING)
def test_dry_run_is_one_wherever_it_stands(stubs, command, environment):
  script, *arguments = command
  dry = lambda i: [*arguments[:i], "--dry-run", *arguments[i:]]
  first = re.sub(r"/tmp\S*", "", stubs.script(script, *dry(0), PORT="4321", **environment))
  for i in range(1, len(arguments) + 1):
    out = stubs.script(script, *dry(i), PORT="4321", **environment)
    assert re.sub(r"/tmp\S*", "", out) == first and "--dry" not in out
  assert all("--list" in call for call in stubs.calls())


@pytest.mark.parametrize("command,environment", SUBMITTING)
@pytest.mark.parametrize(
  "word", ["--dryrun", "--dry_run", "--dry-run=1", "--DRY-RUN", "\u2014dry-run", ""]
)
def test_what_is_nearly_a_dry_run_is_none_and_refused(stubs, command, environment, word):
  for arguments in ([*command[1:], word], [word, *command[1:]]):
    done = stubs.run([LAUNCH / command[0], *arguments], **environment)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stdout == "" and stubs.calls() == []


SAID = [f"--config.x={word}" for word in (
  "a b", "tab\there", "two\nlines\n", "\u00e9\u2028\u0085\ufeff\U0001f3a5", "it's", '"double"',
  "back\\slash\\n", "$HOME $$ $(touch made) $((1)) `touch made`", "; touch made; #",
  "* ? [a] {a,b} ~ ! & | < >", "\x01\x1b[31m\x7f\r",
  "'\\''", "-n", "%s %q",
)]  # fmt: skip
SHELLS = [path for name in ("sh", "dash", "bash") if (path := shutil.which(name))]


@pytest.mark.parametrize("shell", SHELLS)
def test_any_word_reaches_the_run_as_it_is_through_any_shell(stubs, shell):
  stubs.script("slurm/run.sh", *RUN, *SAID)
  stubs.run([shell, "-c", stubs.calls("sbatch")[0][-1]])
  assert stubs.calls("srun")[0][-len(SAID) :] == SAID
  stubs.answer(vm=["READY"], codes=[0])
  stubs.script("tpu_vm.sh", "run", "toy", *GS, *SAID, **TPU)
  (command,) = launched(stubs.calls("gcloud"))
  home = stubs.log.parent
  (home / "videojax/.venv/bin").mkdir(parents=True)
  shutil.copy(home / "bin/python", home / "videojax/.venv/bin/python")
  subprocess.run(  # a worker's own shell is bash, which knows pipefail
    ["bash", "-c", command.removeprefix("--command=")], env=stubs.environment, cwd=home, check=True
  )
  assert stubs.calls("python")[-1][-len(SAID) :] == SAID
  shown = [shell, LAUNCH / "local.sh", "--dry-run", *RUN, *SAID]
  stubs.run([shell, "-c", 'eval "$("$@")"', *shown])
  assert stubs.calls("python")[-1][-len(SAID) :] == SAID
  assert not any(path.exists() for path in (ROOT / "made", home / "made", home / "videojax/made"))


def test_any_word_reaches_a_pod_as_it_is(stubs):
  (job,) = jobs(stubs.script("gke/run.sh", "toy", RUN[0], *SAID, **POD)).values()
  assert job["box"]["command"][-len(SAID) - 1 : -1] == SAID
  done = stubs.run([LAUNCH / "gke/run.sh", "toy", RUN[0], b"--config.x=\xff"], **POD)
  assert done.returncode == 2 and "UTF-8" in done.stderr and done.stdout == ""


def test_cells_are_counted_in_a_directory_that_nobody_else_can_name(stubs, tmp_path):
  stubs.script("gke/sweep.sh", SWEEP, "toy", TMPDIR=str(tmp_path), **POD, SHARES="2")
  stubs.script("slurm/sweep.sh", SWEEP, "/shared", "2", TMPDIR=str(tmp_path))
  places = [w for c in stubs.calls("python") for w in c if w.startswith("--workdir=")]
  assert len(set(places)) == 2 and all(
    place.startswith(f"--workdir={tmp_path}/tmp.") for place in places
  )
  assert not list(tmp_path.glob("tmp.*"))


ODD = ["", "a b", "-x", "A", "a/b", "a;b", "$(touch made)", "a\nb", "\u00e9", "a" * 64]


@pytest.mark.parametrize(
  "command,environment,words",
  [
    *((["tpu_vm.sh", "run", name, *GS], TPU, "") for name in ODD),
    *((["tpu_vm.sh", "delete", name], TPU, "") for name in ODD),
    *((["gke/run.sh", name, RUN[0]], POD, "") for name in ODD),
    *((["gke/sweep.sh", SWEEP, name], POD, "") for name in ODD),
    *((["tpu_vm.sh", "run", "toy", *GS], TPU | {"ZONE": name}, "ZONE=") for name in ODD),
    *((["tpu_vm.sh", "run", "toy", *GS], TPU | {"TYPE": name}, "TYPE=") for name in ODD),
    *((["gke/run.sh", "toy", RUN[0]], POD | {"CLAIM": name}, "CLAIM=") for name in ODD[:-1]),
    *((["gke/run.sh", "toy", RUN[0]], POD | {"IMAGE": name}, "IMAGE=") for name in ODD[1:3]),
    *((["gke/run.sh", "toy", RUN[0]], POD | {"GPU": name}, "GPU=") for name in ODD[1:-1]),
    (["tpu_vm.sh", "run", *GS], TPU, "NAME=--config"),
    (["tpu_vm.sh", "delete", "toy", "too"], TPU, "'too'"),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"SPOT": "yes"}, "SPOT=yes"),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"TYPE": "v6e-3"}, "TYPE=v6e-3"),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"TYPE": "v5p-12"}, "TYPE=v5p-12"),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"WAIT": "soon"}, "WAIT=soon"),
    (["tpu_vm.sh", "run", "toy", GS[0], "--workdir=gs://bucket"], TPU, "gs://BUCKET/DIR"),
    (["tpu_vm.sh", "run", "toy", GS[0], "--workdir=s3://b/d"], TPU, "s3://b/d"),
    (["tpu_vm.sh", "run", "toy", "--config=gs://other/x.py", GS[1]], TPU, "workdir's bucket"),
    (["tpu_vm.sh", "run", "toy", "--config=/home/x.py", GS[1]], TPU, "in this repository"),
    (["tpu_vm.sh", "run", "toy", "--config=no.py", GS[1]], TPU, "no file no.py"),
    (["gke/run.sh", "toy", f"--config=../{ROOT.name}/{RUN[0][9:]}"], POD, "in this repository"),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"COMMITTED": "1"}, "last commit"),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"FITS": "2"}, "videojax.fits 16 1 --config="),
    (["tpu_vm.sh", "run", "toy", *GS], TPU | {"TYPE": "v5p-32", "FITS": "2"}, "fits 16 1"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"GPUS": "8", "NODES": "2", "FITS": "2"}, "fits 16 1"),
    (["gke/run.sh", "toy", RUN[0]],
     POD | {"TPU": "v6e", "TOPOLOGY": "4x4", "SLICES": "3", "FITS": "2"}, "fits 48 3"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"SLICES": "2"}, "SLICES=2"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"SLICES": "0"}, "SLICES=0"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"NODES": "0"}, "NODES=0"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"GPUS": "a[$(touch made)]"}, "GPUS=a"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v6e", "TOPOLOGY": "2x2x4"}, "TOPOLOGY=2x2x4"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v5p", "TOPOLOGY": "4x4"}, "TOPOLOGY=4x4"),
    (["gke/run.sh", "toy", RUN[0]], POD | {"TPU": "v5p", "TOPOLOGY": "0x4x4"}, "TOPOLOGY=0x4x4"),
    (["gke/run.sh", "toy", RUN[0], "--workdir=/runs/x"], POD, "no --workdir"),
    (["gke/sweep.sh", SWEEP, "toy"], POD | {"SHARES": "0"}, "'0'"),
    (["gke/sweep.sh", "no.py:cpu", "toy"], POD, "no file no.py"),
    (["slurm/run.sh", *RUN], {"NODES": "0"}, "NODES=0"),
    (["slurm/run.sh", *RUN], {"GPUS": "-1"}, "GPUS=-1"),
    (["slurm/run.sh", *RUN], {"TASKS": "0"}, "TASKS=0"),
    (["slurm/run.sh", *RUN], {"NODES": "2", "GPUS": "4", "FITS": "2"}, "fits 8 1"),
    (["slurm/run.sh", *RUN, "batch_size=3"], {}, "'batch_size=3'"),
    (["slurm/run.sh", *RUN, "--batch_size=3"], {}, "--batch_size"),
    (["slurm/run.sh", "--config=no.py", RUN[1]], {}, "no file no.py"),
    (["slurm/run.sh", RUN[0], "--workdir=gs://b/d"], {}, "gs://b/d"),
    (["slurm/sweep.sh", SWEEP, "/shared", "0"], {}, "'0'"),
    (["slurm/sweep.sh", "--time=1", SWEEP, "/shared"], {}, "options of sbatch"),
    (["local.sh", RUN[0], f"--workdir={ROOT}/setup.cfg"], {}, "is a file"),
    (["local.sh", *RUN], {"PROCESSES": "2", "DEVICES": "0"}, "DEVICES=0"),
    (["local.sh", *RUN], {"PROCESSES": "2", "PORT": "99999"}, "PORT=99999"),
    (["tpu_setup.sh", "a b"], {}, "BUCKET=a b"),
    (["tpu_setup.sh", "a", "b"], {}, "'b'"),
  ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_what_cannot_be_is_refused_before_anything_is_asked_for(
  stubs, command, environment, words, dry
):
  done = stubs.run([LAUNCH / command[0], *command[1:], *dry], **environment)
  assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
  assert done.stdout == "" and stubs.calls() == [] and not (ROOT / "made").exists()


def test_the_scripts_know_the_flags_of_the_launcher(stubs):
  known = launch.parse(["launch", *RUN]).flags
  for name in known:
    if name not in ("help", "config", "workdir"):
      assert f"--{name}=x" in stubs.script("local.sh", "--dry-run", *RUN, f"--{name}=x")


@pytest.mark.parametrize(
  "script,workdir,warned",
  [("slurm/run.sh", "/tmp/x", True), ("slurm/run.sh", "/shared/x", False),
   ("tpu_vm.sh", "/home/x", True), ("tpu_vm.sh", "gs://bucket/x", False)],
)  # fmt: skip
def test_a_workdir_that_others_do_not_see_is_warned_of(stubs, script, workdir, warned):
  name = ["run", "toy"] * (script == "tpu_vm.sh")
  done = stubs.run([LAUNCH / script, *name, "--dry-run", RUN[0], f"--workdir={workdir}"], **TPU)
  assert done.returncode == 0 and (workdir in done.stderr) == warned


def test_without_videojax_here_the_mesh_is_not_checked_and_that_is_said(stubs):
  done = stubs.run([LAUNCH / "slurm/run.sh", *RUN], FITS="1")
  assert done.returncode == 0 and "did not check that the mesh" in done.stderr
  assert stubs.calls("sbatch")


@pytest.mark.parametrize(
  "name,given", [("v5e-16", "v5litepod-16"), ("v5litepod-16", "v5litepod-16")]
)
def test_a_slice_is_asked_for_by_the_name_that_gcloud_has_for_it(stubs, name, given):
  out = stubs.script("tpu_vm.sh", "run", "toy", *GS, "--dry-run", **TPU | {"TYPE": name})
  assert f"--accelerator-type={given} --runtime-version=v2-alpha-tpuv5-lite" in out
