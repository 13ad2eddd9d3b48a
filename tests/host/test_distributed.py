"""Several processes of one run, on this machine: 2 of 2 fake devices each, as people start them."""

import contextlib
import functools
import http.server
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.helpers import RANDOM_LATENTS, tiny_dict, write_config
from videojax.config import complete, resolve
from videojax.errors import ConfigError
from videojax.host import distributed
from videojax.host.distributed import Cluster
from videojax.modes.finished_run import evaluate
from videojax.runs.run_state import (
  restore_weights,
)
from videojax.sharding import MeshConfig, by_path, make_mesh
from videojax.train import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SAVE_EVERY = 3
# Three measured clips: neither processes nor devices divide them.
MEASURED = {"clips": 3, "coherence_clips": 0, "reference_clips": 4, "batch_size": 3}
RUN = tiny_dict(
  total_steps=16, log_every_steps=1, mesh={"data": 1, "fsdp": 4}, sampler__steps=1,
  data=RANDOM_LATENTS,
  checkpoint={"save_every_steps": SAVE_EVERY, "keep_last": 9},
  evaluate={"splits": {"id": {"fps": 1.0}}, **MEASURED},
)  # fmt: skip


def experiment(**changes):
  return resolve(complete(ConfigDict(RUN | changes)).to_dict())


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@contextlib.contextmanager
def started(directory, numbers, *flags, processes=2):
  """`python -m videojax.launch` for these numbers of `processes`; none of them is left behind."""
  config = directory / "tiny.py"
  write_config(config, RUN)
  command = [
    sys.executable, "-m", "videojax.launch", f"--config={config}", f"--workdir={directory / 'run'}",
    f"--coordinator=127.0.0.1:{free_port()}", f"--processes={processes}", *flags,
  ]  # fmt: skip
  environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
  start = functools.partial(
    subprocess.Popen, cwd=ROOT, env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  children = []
  try:
    for number in numbers:
      children.append(start([*command, f"--process={number}"]))
    yield children
  finally:
    for child in children:
      child.kill()
      child.wait()


def ends(children):
  """(exit code, stdout but for gloo's, stderr) of each."""
  said = [child.communicate(timeout=150) for child in children]
  own = lambda out: "".join(x for x in out.splitlines(True) if "peer ranks" not in x).strip()
  return [(child.returncode, own(out), err) for child, (out, err) in zip(children, said)]


def steps_logged(run):
  path = run / "metrics.jsonl"
  return path.read_text().count("\n") if path.exists() else 0


def saving(run):
  return any((run / "checkpoints").glob("*tmp*"))


def wait_for_step(run, step, children, busy=lambda run: False):
  """Until so many steps are logged and it is not busy."""
  while steps_logged(run) < step or busy(run):
    assert all(child.poll() is None for child in children), ends(children)
    time.sleep(0.005)


def checkpoints(run):
  return sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def story(tmp_path_factory):
  """A run that the same command starts three times: one is killed, one is stopped, it finishes.

  And the same run alone, in one process.
  """
  directory = tmp_path_factory.mktemp("distributed")
  run = directory / "run"
  told = {"run": run, "alone": directory / "alone"}
  with started(directory, (0, 1), "--lost-after=8") as children:
    wait_for_step(run, 4, children, saving)
    children[1].send_signal(signal.SIGKILL)
    train(experiment(), told["alone"], devices=jax.devices()[:4], quiet=True)  # while it waits
    told["killed"] = ends(children)
  told["saved before"], logged = checkpoints(run), steps_logged(run)
  with started(directory, (0, 1)) as children:
    wait_for_step(run, logged + 1, children)  # a new one
    children[1].send_signal(signal.SIGTERM)
    told["stopped"] = ends(children)
  told["saved then"] = checkpoints(run)
  with started(directory, (0, 1)) as children:
    told["finished"] = ends(children)
  return told


def test_where_one_process_is_killed_the_other_ends_and_says_why(story):
  (code, _, error), (killed, _, _) = story["killed"]
  assert killed == -signal.SIGKILL and code not in (0, 143)
  assert "another process has ended" in error or "another task died" in error
  assert "Traceback" not in error and story["saved before"]


def test_sigterm_to_one_process_stops_both_after_the_same_saved_step(story):
  (code, out, _), (other, silent, _) = story["stopped"]
  assert code == other == 143 and silent == ""
  before, after = story["saved before"], story["saved then"]
  assert f"resuming after step {before[-1]}" in out
  assert f"stopped by SIGTERM after step {after[-1]}, which is saved" in out
  assert after[: len(before)] == before and len(after) > len(before)
  assert [step for step in after[:-1] if step % SAVE_EVERY] == []  # none else was saved for it


def test_run_is_finished_by_the_same_command_and_written_by_one_process(story):
  (code, out, error), (other, silent, _) = story["finished"]
  assert code == other == 0, error
  assert f"resuming after step {story['saved then'][-1]}" in out and silent == ""
  lines = (story["run"] / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, RUN["total_steps"] + 1))
  environments = json.loads((story["run"] / "environment.json").read_text())
  assert [e["processes"] for e in environments] == [2, 2, 2]
  assert len(list((story["run"] / "samples").glob("*.mp4"))) == 4


def test_one_process_with_other_devices_measures_the_same_frozen_loss(story):
  result = json.loads((story["run"] / "result.json").read_text())
  evaluate(experiment(mesh={"data": 4, "fsdp": 2}), story["run"])
  written = json.loads((story["run"] / "evaluation.json").read_text())
  assert written["frozen_loss"]["mean"] == pytest.approx(result["frozen_loss"]["final"], rel=1e-5)


def test_weights_are_those_of_one_process(story):
  e, mesh = experiment(), make_mesh(MeshConfig(), jax.devices()[:1])
  two, one = (by_path(restore_weights(e, story[r], mesh)[0]) for r in ("run", "alone"))
  for path, want in one.items():
    got, want = np.asarray(two[path], np.float64), np.asarray(want, np.float64)
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want), path


def test_two_processes_evaluate_and_one_writes(story):
  with started(story["run"].parent, (0, 1), "--mode=evaluate") as children:
    (code, out, error), (other, silent, _) = ends(children)
  assert code == other == 0, error
  result = json.loads((story["run"] / "result.json").read_text())
  written = json.loads((story["run"] / "evaluation.json").read_text())
  assert written["frozen_loss"]["mean"] == pytest.approx(result["frozen_loss"]["final"], rel=1e-5)
  assert str(story["run"]) in out and silent == ""


def test_directory_that_one_cannot_make_ends_all_with_a_line(tmp_path):
  (tmp_path / "run").touch()
  with started(tmp_path, (0, 1)) as children:
    for code, out, error in ends(children):
      assert (code, out) == (1, "") and len(error.splitlines()) == 1, error
      assert f"process 0 of 2 ({socket.gethostname()}): File exists: {tmp_path / 'run'}" in error


def test_missing_process_is_named_by_those_that_came(tmp_path):
  wait = "--wait-for-hosts=1"
  with (
    started(tmp_path, (0, 2), wait, processes=3) as some,
    started(tmp_path, (1,), wait) as alone,
  ):
    for code, _, error in ends(some):
      assert code == 1 and "Traceback" not in error
      assert "1 of 3 processes did not connect to process 0" in error and "number 1." in error
    code, _, error = ends(alone)[0]
  assert code == 1 and "Traceback" not in error
  assert "process 1 of 2" in error and "no answer from process 0 at 127.0.0.1:" in error
  assert not (tmp_path / "run").exists()


@contextlib.contextmanager
def metadata(values):
  """A server of these values, as the metadata of a TPU VM; its address."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      value = values.get(self.path.rpartition("/")[2])
      self.send_response(404 if value is None else 200)
      self.end_headers()
      self.wfile.write((value or "").encode())

    def log_message(self, *_):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def meet(*clusters, wait=1.0):
  """What each process is told, '' where all have come."""

  def one(cluster):
    try:
      distributed.meet(cluster, wait)
    except ConfigError as error:
      return str(error)
    return ""

  with ThreadPoolExecutor(len(clusters)) as pool:
    return list(pool.map(one, clusters))


def test_processes_that_all_come_meet_whatever_else_calls_at_the_port():
  where = f"127.0.0.1:{free_port()}"
  with ThreadPoolExecutor(2) as pool:
    met = [pool.submit(meet, Cluster(where, 3, 0), wait=20.0)]
    time.sleep(0.3)
    for text in (b"GET / HTTP/1.1\r\n\r\n", b"videojax: 2 of 3 on x\n"):  # the second hangs up
      with socket.create_connection(("127.0.0.1", int(where.split(":")[1]))) as s:
        s.sendall(text)
    time.sleep(0.7)
    met += [pool.submit(meet, Cluster(where, 3, 1), wait=20.0)]
    time.sleep(0.3)
    assert not any(each.done() for each in met)
    assert meet(Cluster(where, 3, 2), wait=20.0) == [""]
    assert [each.result() for each in met] == [[""], [""]]


@pytest.mark.parametrize(
  "others,words",
  [
    ([(4, 2)], "number 2 of 4, but process 0 as one of 3"),
    ([(3, 1), (3, 1)], "number 1 of 3, and so was another"),
  ],
)
def test_processes_that_contradict_each_other_are_told_so(others, words):
  where = f"127.0.0.1:{free_port()}"
  told = meet(Cluster(where, 3, 0), *(Cluster(where, *other) for other in others), wait=20.0)
  assert all(words in each for each in told), told


def test_port_in_use_is_named():
  with metadata({}) as where:  # another server
    told = meet(Cluster(where, 2, 0), Cluster(where, 2, 1), wait=0.1)
  assert "cannot listen on port" in told[0] and "another program is listening there" in told[1]


VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_NTASKS",
             "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY",
             "CUDA_VISIBLE_DEVICES", "MEGASCALE_NUM_SLICES")  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
  """Sets variables, after the ones that name processes are gone."""
  for name in VARIABLES:
    monkeypatch.delenv(name, raising=False)

  def put(**values):
    for name, value in values.items():
      monkeypatch.setenv(name, str(value))

  return put


def find(address=None, processes=None, process=None):
  return distributed.find(address, processes, process, 5.0)


def test_process_that_nothing_names_others_for_is_alone(environment):
  assert find() is None
  environment(JAX_COORDINATOR_ADDRESS="a:1", JAX_NUM_PROCESSES=2, JAX_PROCESS_ID=1)
  assert find() == Cluster("a:1", 2, 1)
  assert find("b:2", process=0) == Cluster("b:2", 2, 0)
  assert find(processes=1) is None  # whatever the environment says


@pytest.mark.parametrize(
  "given,words",
  [
    (("a:1", 2, None), "--process=I must be given"),
    ((None, 2, 1), "--coordinator=HOST:PORT must be given"),
    (("a:1", None, None), "--processes=N and --process=I must be given"),
    (("a", 2, 1), "--coordinator=a must be HOST:PORT"),
    (("a:1", 2, 2), "--process=2 must be one of 0 to 1"),
    (("a:99999", 2, 1), "a port of 1 to 65535"),
    (("a:0", 2, 1), "a port of 1 to 65535"),
    (("a:" + "9" * 5000, 2, 1), "a port of 1 to 65535"),
    (("a:1", 0, 0), "--processes=0 must be from 1"),
    (("a:1", -2, 0), "--processes=-2 must be from 1"),
    (("a:1", 10**12, 0), "--processes=1000000000000 must be from 1"),
    (("a:1", 2, -1), "--process=-1 must be one of 0 to 1"),
    ((None, 1, 3), "--process=3 must be one of 0 to 0"),
  ],
)
def test_half_of_the_flags_is_refused(environment, given, words):
  with pytest.raises(ConfigError, match=words):
    find(*given)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0, 1e20])
@pytest.mark.parametrize("flag", ["wait", "silence"])
def test_time_that_nobody_can_wait_is_refused_at_once(environment, flag, seconds):
  with pytest.raises(ConfigError, match=r"must be from \d to 3\.15e\+07 seconds"):
    distributed.start("127.0.0.1:1", 2, 1, **{flag: seconds})


SLURM = dict(SLURM_JOB_ID=17, SLURM_NTASKS=3, SLURM_PROCID=2, SLURM_LOCALID=1)


def test_tasks_of_a_slurm_step_are_found(environment):
  environment(**SLURM)
  assert find() is None  # the script of sbatch
  environment(SLURM_STEP_NODELIST="node[001-003],other")
  assert find() == Cluster("node001:61457", 3, 2, [1])
  environment(SLURM_STEP_NUM_NODES=3)  # a task a host: all its GPUs
  assert find() == Cluster("node001:61457", 3, 2)


@pytest.fixture
def tpu(environment, monkeypatch):
  """As on a TPU host, where jax has found chips."""
  found = SimpleNamespace(config=SimpleNamespace(jax_platforms="tpu,cpu"))
  monkeypatch.setattr(distributed, "jax", found)
  monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
  monkeypatch.setattr("jax._src.clusters.cluster.running_in_cloud_tpu_vm", True)
  return environment


def test_hosts_of_tpu_slices_are_found_by_their_names(tpu):
  tpu(TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID=0)
  assert find() is None
  tpu(TPU_WORKER_HOSTNAMES="localhost,b", TPU_WORKER_ID=1, MEGASCALE_NUM_SLICES=2,
      MEGASCALE_SLICE_ID=1, MEGASCALE_COORDINATOR_ADDRESS="localhost")  # fmt: skip
  assert find() == Cluster("localhost:8482", 4, 3)


def test_hosts_of_a_tpu_vm_are_found_by_its_metadata(tpu):
  pytest.importorskip("requests")  # jax asks by it; it comes with jax[tpu]
  several = {"worker-network-endpoints": "x:y:127.0.0.1,x:y:127.0.0.2", "agent-worker-number": "1"}
  one = {"worker-network-endpoints": "x:y:127.0.0.1", "agent-worker-number": "0"}
  for values, cluster in ((several, Cluster("127.0.0.1:8482", 2, 1)), (one, None)):
    with metadata({"tpu-env": "", **values}) as address:
      tpu(GCE_METADATA_IP=address)
      assert find() == cluster


def test_tpu_host_without_a_metadata_server_is_alone_at_once(tpu, monkeypatch):
  monkeypatch.setattr(distributed, "METADATA_SECONDS", 0.1)
  with socket.create_server(("127.0.0.1", 0)) as silent:
    for port in (free_port(), silent.getsockname()[1]):
      tpu(GCE_METADATA_IP=f"127.0.0.1:{port}")
      clock = time.monotonic()
      assert find() is None and time.monotonic() - clock < 2
