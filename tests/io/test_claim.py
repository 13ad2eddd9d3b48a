"""A directory has one writer: of two starts one runs, and the other is told who it is."""

import contextlib
import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from videojax.errors import ConfigError
from videojax.io import claim

ROOT = Path(__file__).parents[2]
# Takes the claim, says so, and holds it until its input ends. With a third argument it is on a host
# of that name, and its file system has no locks.
HOLDER = """
import errno, fcntl, socket, sys
from pathlib import Path
from videojax.io import claim
from videojax.errors import ConfigError

claim.RENEW_SECONDS, claim.SETTLE_SECONDS, claim.DEAD_SECONDS = 0.2, 0.2, 2.0
if len(sys.argv) > 2:
  def lockf(*_):
    raise OSError(errno.ENOLCK, "no locks")
  fcntl.lockf, socket.gethostname = lockf, lambda: sys.argv[2]
  claim._kernel = socket.gethostname
print("ready", flush=True)
sys.stdin.readline()
try:
  with claim.claim(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    sys.stdin.read()
except ConfigError as error:
  print(error, flush=True)
"""


@contextlib.contextmanager
def holders(*arguments):
  """A process for each tuple of arguments, which begins with the line that `answer` writes."""
  environment = {**os.environ, "PYTHONPATH": str(ROOT)}
  children = [
    subprocess.Popen(
      [sys.executable, "-c", HOLDER, *map(str, each)], env=environment, text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    for each in arguments
  ]  # fmt: skip
  try:
    for child in children:
      assert child.stdout.readline() == "ready\n"
    yield children
  finally:
    for child in children:
      child.kill()
      child.communicate()


def begin(child):
  child.stdin.write("\n")
  child.stdin.flush()


def last_line(child):
  """What it says but for the line that it waits."""
  return next(line for line in iter(child.stdout.readline, "") if "was in use" not in line).strip()


def test_second_start_is_refused_and_told_by_whom(tmp_path):
  with holders((tmp_path / "run",)) as (first,):
    begin(first)
    assert last_line(first) == "held"
    with pytest.raises(ConfigError) as told, claim.claim(tmp_path / "run", "training"):
      pass
    who = f"in use by process {first.pid} on {socket.gethostname()} (training, since 20"
    assert f"{tmp_path / 'run'} is {who}" in str(told.value)
    with claim.claim(tmp_path / "run", "evaluating", part="evaluate"):
      pass  # meets nothing that the other writes


def test_claim_ends_with_a_killed_process_at_once(tmp_path):
  with holders((tmp_path,)) as (first,):
    begin(first)
    assert last_line(first) == "held"
    first.send_signal(signal.SIGKILL)
    first.wait()
    clock = time.monotonic()
    with claim.claim(tmp_path, "training"):
      assert time.monotonic() - clock < 1


def test_second_claim_of_one_process_is_refused(tmp_path):
  with claim.claim(tmp_path, "training"):
    with pytest.raises(ConfigError, match="in use"), claim.claim(tmp_path / ".", "training"):
      pass
    with holders((tmp_path,)) as (other,):  # still locked: nothing of it was closed
      begin(other)
      assert "is in use by" in last_line(other)


def test_what_a_failed_start_made_is_gone_and_the_rest_stays(tmp_path):
  with pytest.raises(KeyError), claim.claim(tmp_path / "a" / "b", "training"):
    raise KeyError
  assert list(tmp_path.iterdir()) == []
  (tmp_path / "empty").mkdir()
  with claim.claim(tmp_path / "empty", "training"), claim.claim(tmp_path / "run", "training"):
    (tmp_path / "run" / "config.json").touch()
  assert [p.name for p in sorted(tmp_path.rglob("*"))] == ["empty", "run", "config.json"]


def test_directory_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match="file/run"), claim.claim(tmp_path / "file" / "run", "training"):
    pass


@pytest.mark.parametrize("left", [b"", b"\xff\0", b"null", b'{"host": 1}', b"[" * 9999])
def test_damaged_record_of_a_dead_process_locks_nobody_out(tmp_path, monkeypatch, left):
  monkeypatch.setattr(claim, "SETTLE_SECONDS", 0.05)
  (tmp_path / claim.NAME).write_bytes(left)
  with claim.claim(tmp_path, "training"):
    pass


@pytest.fixture
def elsewhere(monkeypatch):
  """Makes this process one of a host whose file system has no locks."""

  def lockf(*_):
    raise OSError(errno.ENOLCK, "no locks")

  monkeypatch.setattr(fcntl, "lockf", lockf)
  monkeypatch.setattr(claim, "_kernel", lambda: "elsewhere")
  monkeypatch.setattr(claim, "SETTLE_SECONDS", 0.1)
  monkeypatch.setattr(claim, "DEAD_SECONDS", 2.0)


def test_claim_of_another_host_without_locks_is_seen_to_live(tmp_path, elsewhere, capsys):
  with holders((tmp_path, "host-a")) as (first,):
    begin(first)
    assert last_line(first) == "held"
    with pytest.raises(ConfigError, match="on host-a"), claim.claim(tmp_path, "training"):
      pass
  assert "waiting for a sign of life" in capsys.readouterr().out


def test_claim_of_another_host_that_died_is_taken_over(tmp_path, elsewhere):
  with holders((tmp_path, "host-a")) as (first,):
    begin(first)
    assert last_line(first) == "held"
  clock = time.monotonic()
  with claim.claim(tmp_path, "training"):
    assert time.monotonic() - clock < 4
  assert not (tmp_path / claim.NAME).exists()


def outcome(children, distances):
  """What each says that begins so many seconds after the one before."""
  said = ["" for _ in children]

  def one(i):
    said[i] = last_line(children[i])

  threads = [threading.Thread(target=one, args=(i,)) for i in range(len(children))]
  for child, thread, distance in zip(children, threads, distances, strict=True):
    time.sleep(distance)
    begin(child)
    thread.start()
  for thread in threads:
    thread.join()
  return said


@pytest.mark.parametrize("hosts", [(), ("host-a", "host-b", "host-c", "host-d")])
@pytest.mark.parametrize("dead", [False, True])
def test_of_four_starts_at_once_one_runs(tmp_path, hosts, dead):
  """Also where they all find the claim of a dead process, and where no lock decides."""
  if dead:
    with holders((tmp_path, *hosts[:1])) as (first,):
      begin(first)
      assert last_line(first) == "held"
  with holders(*((tmp_path, *hosts[i : i + 1]) for i in range(4))) as children:
    said = outcome(children, (0, 0, 0, 0))
  assert sorted(text == "held" for text in said) == [False, False, False, True], said
  assert all("is in use by" in text for text in said if text != "held")


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [(), ("host-a", "host-b")])
def test_of_twenty_pairs_of_starts_at_random_distances_one_runs(tmp_path, hosts):
  rng = random.Random(0)
  for trial in range(20):
    run = tmp_path / str(trial)
    with holders(*((run, *hosts[i : i + 1]) for i in range(2))) as children:
      said = outcome(children, (0, rng.choice([0, rng.uniform(0, 0.01), rng.uniform(0, 0.5)])))
    assert sorted(text == "held" for text in said) == [False, True], (trial, said)
    assert any("is in use by" in text for text in said)


@pytest.mark.slow
def test_of_two_commands_one_trains_and_its_record_is_whole(tmp_path):
  command = [
    sys.executable, "-m", "videojax.launch", "--config=experiments/quickstart.py:smoke",
    f"--workdir={tmp_path / 'run'}", "--config.log_every_steps=1", "--config.total_steps=9",
    "--config.evaluate.coherence_clips=0", "--config.evaluate.clips=2",
  ]  # fmt: skip
  children = []
  for wait in (0.5, 0):
    children.append(
      subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
      )
    )  # fmt: skip
    time.sleep(wait)
  errors = [child.communicate(timeout=300)[1] for child in children]
  codes = [child.returncode for child in children]
  assert sorted(codes) == [0, 1], errors
  refused = errors[codes.index(1)]
  assert "is in use by process" in refused and len(refused.splitlines()) == 1
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in lines] == list(range(1, 10))
  assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 9
  assert len(json.loads((tmp_path / "run" / "environment.json").read_text())) == 1
