"""kill -9 at any moment: the same command ends with the same weights, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import RANDOM_LATENTS, tiny_dict, write_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS, SAVE_EVERY = 45, 3
RUN = tiny_dict(
  total_steps=STEPS, log_every_steps=1, checkpoint__save_every_steps=SAVE_EVERY,
  data=RANDOM_LATENTS,  # a third of the time of worlds until the first step
  evaluate={"splits": {"id": {}}, "clips": 2, "coherence_clips": 0, "reference_clips": 4},
)  # fmt: skip


def start(workdir):
  config = workdir.with_suffix(".py")
  write_config(config, RUN)
  return subprocess.Popen(
    [sys.executable, "-m", "videojax.launch", f"--config={config}", f"--workdir={workdir}"],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
  )  # fmt: skip


def finish(workdir):
  """Runs the command to its end: the record, and what it said."""
  process = start(workdir)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  return json.loads((workdir / "result.json").read_text()), out


def steps_logged(workdir):
  path = workdir / "metrics.jsonl"
  return path.read_text().count("\n") if path.exists() else 0


def saving(workdir):
  return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def kill_at(workdir, moment):
  """Starts the command and kills it when moment() holds; False where it ended before."""
  process = start(workdir)
  while process.poll() is None:
    if moment():
      process.send_signal(signal.SIGKILL)
      process.communicate()
      return True
    time.sleep(0.0005)
  process.communicate()
  return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  return finish(tmp_path_factory.mktemp("undisturbed") / "run")[0]


def trial(workdir, seed, during_save, undisturbed):
  """Kills at random moments, each of the run that goes on from the one before; then to the end.

  Args:
    during_save: of each kill, whether it waits for a save.
  Returns: how many kills hit a save.
  """
  rng, hits, stretch = random.Random(seed), 0, (STEPS - 2) // len(during_save)
  for i, in_save in enumerate(during_save):
    # More steps than were logged: the run has started, and cleared what the last kill left.
    after = max(stretch * i + rng.randrange(1, stretch - 2), steps_logged(workdir) + 1)
    delay = rng.uniform(0, 0.003 if in_save else 0.03)

    def moment(after=after, delay=delay, in_save=in_save):
      if steps_logged(workdir) < after or (in_save and not saving(workdir)):
        return False
      time.sleep(delay)
      return True

    assert kill_at(workdir, moment), f"the run was over before kill {i} of seed {seed}"
    hits += saving(workdir)
  result, _ = finish(workdir)
  assert result["params_sha256"] == undisturbed["params_sha256"]
  losses = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in losses] == list(range(1, STEPS + 1))
  return hits


def test_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, undisturbed):
  trial(tmp_path / "run", 0, [False], undisturbed)


def test_run_killed_during_a_save_ends_with_the_weights_of_an_undisturbed_one(
  tmp_path, undisturbed
):
  assert trial(tmp_path / "run", 1, [True], undisturbed)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_five_of_them_during_a_save(tmp_path, undisturbed):
  kills = [False, True] * 5
  during = [trial(tmp_path / str(n), 100 + n, kills, undisturbed) for n in range(2)]
  print(f"20 kills, {sum(during)} of them during a save")
  assert sum(during) >= 5


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("killed") / "run"
  assert kill_at(workdir, lambda: steps_logged(workdir) >= 20 and not saving(workdir))
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
  tmp_path, damage, killed, undisturbed
):
  workdir = shutil.copytree(killed, tmp_path / "run")
  newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
  files = (workdir / "checkpoints" / str(newest) / "state").rglob("*")
  victim = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
  data = bytearray(victim.read_bytes())
  if damage == "flip":
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
  elif damage == "truncate":
    victim.write_bytes(data[: len(data) // 2])
  else:
    victim.unlink()
  result, out = finish(workdir)
  assert f"damaged, not used: checkpoint {newest}: file" in out
  assert str(victim.relative_to(workdir / "checkpoints" / str(newest))) in out
  assert f"resuming after step {newest - SAVE_EVERY}" in out
  assert result["params_sha256"] == undisturbed["params_sha256"]
