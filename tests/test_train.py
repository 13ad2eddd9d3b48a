"""The loop: ends, resumes, branches, stops on a bad loss, and says so."""

import concurrent.futures
import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import relative_error, tiny
from videojax import train as loop
from videojax.config import program_of
from videojax.data import Mixture
from videojax.errors import ConfigError
from videojax.io.checkpoint import Checkpointer
from videojax.models.contract import architectures
from videojax.models.unet_config import Config as UNet
from videojax.modes.bench import make_arguments
from videojax.runs import program
from videojax.sharding import MeshConfig, make_mesh
from videojax.train import Diverged, Preempted, train

ONE = jax.devices()[:1]
# One compiled step serves most tests: the same shapes, four steps, no sampled clips.
FAST = dict(evaluate__coherence_clips=0, evaluate__clips=2, evaluate__reference_clips=4)


def run(workdir, **changes):
  return train(tiny(**{**FAST, **changes}), workdir, devices=ONE)


def lines(workdir):
  return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A finished run of four steps with every output."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  return workdir, run(workdir, log_every_steps=1, evaluate__coherence_clips=2)


def test_run_directory_holds_the_whole_record(whole):
  workdir, result = whole
  names = {p.name for p in workdir.iterdir()}
  assert {"config.json", "environment.json", "metrics.jsonl", "checkpoints", "samples",
          "result.json"} <= names  # fmt: skip
  written = json.loads((workdir / "result.json").read_text())
  undefined = json.loads(json.dumps(result.to_json()).replace("NaN", "null"))
  assert written == undefined
  assert written["steps"] == 4 and written["clips"] == 32
  assert written["tokens"] == 4 * 8 * 2 * 4 * 4
  assert written["flops"]["total"] == sum(v for k, v in written["flops"].items() if k != "total")
  assert set(written["seconds"]) == {"compile", "data_wait", "step", "save", "evaluate"}
  assert written["peak_bytes"] > 0 and len(written["params_sha256"]) == 64
  loss = written["frozen_loss"]
  assert len(loss["by_level"]) == 16 and loss["clips"] == len(loss["per_example"]) == 2
  position = written["coherence"]["position_error_px"]
  assert set(position) == {"id", "floor", "copy_last", "extrapolate"}
  assert position["floor"] < 0.1 < position["copy_last"]


def test_samples_can_be_opened(whole):
  import av
  from PIL import Image

  workdir, _ = whole
  [grid] = (workdir / "samples").glob("*.webp")
  with Image.open(grid) as image:
    assert image.n_frames == 4
  for path in (workdir / "samples").glob("*.mp4"):
    with av.open(str(path)) as container:
      assert sum(1 for _ in container.decode(video=0)) == 4


def test_metrics_are_logged_for_every_step_with_rates(whole):
  workdir, _ = whole
  logged = lines(workdir)
  assert [line["step"] for line in logged] == [1, 2, 3, 4]
  assert all(line["tokens_per_s"] > 0 and line["data_wait_s"] >= 0 for line in logged)


def test_finished_run_is_not_run_again(whole):
  workdir, _ = whole
  before = (workdir / "result.json").stat().st_mtime_ns
  assert run(workdir, log_every_steps=1, evaluate__coherence_clips=2) is None
  assert (workdir / "result.json").stat().st_mtime_ns == before


def test_longer_run_continues_and_equals_an_uninterrupted_one(whole, tmp_path):
  run(tmp_path / "short", total_steps=2)
  longer = run(tmp_path / "short")
  assert longer.params_sha256 == whole[1].params_sha256
  assert [line["step"] for line in lines(tmp_path / "short")][-1] == 4


def test_sigterm_saves_and_the_same_command_continues_bit_for_bit(whole, tmp_path, monkeypatch):
  real = program.put_batch
  calls = []

  def kill_at_third(*args):
    calls.append(0)
    if len(calls) == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(*args)

  monkeypatch.setattr(program, "put_batch", kill_at_third)
  with pytest.raises(Preempted, match="SIGTERM after step 3"):
    run(tmp_path / "run")
  monkeypatch.setattr(program, "put_batch", real)
  with Checkpointer(tmp_path / "run" / "checkpoints", keep_last=2) as checkpoints:
    assert checkpoints.steps()[-1] == 3
  assert run(tmp_path / "run").params_sha256 == whole[1].params_sha256


def test_finished_run_that_is_extended_gets_a_new_record(tmp_path):
  assert run(tmp_path / "run", total_steps=1).steps == 1
  assert run(tmp_path / "run", total_steps=2).steps == 2
  assert run(tmp_path / "run", total_steps=2) is None


def test_branch_carries_weights_moments_and_position(whole, tmp_path):
  run(tmp_path / "trunk", total_steps=2)
  branch = run(tmp_path / "branch", branch_from=f"{tmp_path / 'trunk'}@2")
  assert branch.params_sha256 == whole[1].params_sha256
  assert np.isnan(branch.frozen_loss.init)


def test_init_from_takes_ema_weights_and_nothing_else(whole, tmp_path):
  workdir, result = whole
  fresh = run(tmp_path / "fresh", init_from=str(workdir), total_steps=1)
  assert fresh.frozen_loss.init == pytest.approx(result.frozen_loss.final, rel=1e-4)
  assert fresh.params_sha256 != result.params_sha256
  with pytest.raises(ConfigError, match="has a different model"):
    run(tmp_path / "other", init_from=str(workdir), model__mlp_ratio=2.0)


@pytest.mark.parametrize("value,words", [("nowhere@3", "nowhere"), ("nowhere", "RUN@STEP")])
def test_branch_from_nothing_is_named(tmp_path, value, words):
  with pytest.raises(ConfigError, match=words):
    run(tmp_path / "run", branch_from=value)
  assert not (tmp_path / "run").exists()  # the mended command is not blocked


def test_non_finite_loss_stops_and_names_step_and_last_good_checkpoint(tmp_path):
  with pytest.raises(Diverged) as error:
    run(tmp_path / "run", optim__learning_rate=1e30, optim__clip=0.0)
  assert "not finite at step" in str(error.value) and "were finite up to step" in str(error.value)
  assert not (tmp_path / "run" / "result.json").exists()


def test_batch_that_the_devices_do_not_divide_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(ConfigError, match="batch_size=6 is not divisible by 8 devices"):
    train(tiny(batch_size=6), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_mesh_that_needs_other_devices_is_refused(tmp_path):
  with pytest.raises(ValueError, match="needs 3 devices, but there are 8"):
    train(tiny(mesh__data=3), tmp_path / "run")


@pytest.mark.slow
def test_restore_onto_another_mesh_continues_within_rounding(whole, tmp_path):
  run(tmp_path / "run", total_steps=2)
  e = tiny(**FAST, mesh__fsdp=2, mesh__tensor=2, mesh__data=2, log_every_steps=1)
  train(e, tmp_path / "run")
  np.testing.assert_allclose(
    [line["loss"] for line in lines(tmp_path / "run")][-2:],
    [line["loss"] for line in lines(whole[0])][-2:], rtol=1e-5,
  )  # fmt: skip


WORLD = {"name": "worlds", "size": 16, "scenes": ("one",)}
MIXTURE = dict(
  data={
    "clips": {**WORLD, "frames": 4, "known": 2, "weight": 3},
    "images": {**WORLD, "frames": 1, "known": 0, "weight": 1},
  },
  evaluate__source="clips",
)


@pytest.mark.slow
def test_mixture_of_images_and_clips_trains_in_one_loop(tmp_path):
  result = run(tmp_path / "run", **MIXTURE)
  clip, image = 2 * 4 * 4, 1 * 4 * 4  # images have no known frames
  assert result.tokens == 8 * (3 * clip + image)


@pytest.mark.slow
def test_unet_trains_on_images_and_clips_in_one_loop(tmp_path):
  name, unet = next((n, m) for n, m in architectures().items() if issubclass(m.Config, UNet))
  model = dict(name=name, channels=3, known="last", dtype="float32", **unet.SIZES["tiny"])
  result = run(tmp_path / "run", **MIXTURE, model=model)
  assert result.tokens == 8 * (3 * 4 + 1) * 16 * 16 and result.frozen_loss.final > 0


class Late:
  """A number that arrives when a future is done, as the output of an asynchronous device."""

  def __init__(self, future, value):
    self.future, self.value = future, value

  def __array__(self, dtype=None, copy=None):
    self.future.result()
    return np.asarray(self.value, dtype)


@pytest.mark.timing
def test_host_overhead_of_the_loop_is_at_most_2_percent_of_a_50_ms_step(tmp_path, monkeypatch):
  """A stated fake step: a device that sleeps 50 ms a step, in the order of dispatch."""
  real, device = program.compile_step, concurrent.futures.ThreadPoolExecutor(1)

  def sleep():
    clock = time.perf_counter()
    time.sleep(0.05)
    return time.perf_counter() - clock

  alone = np.median([sleep() for _ in range(20)])  # with no host to wait for: the timer's own delay

  class FakeStep(jax.stages.Compiled):
    """Runs the real step once, then answers with its state and a loss that is late."""

    def __init__(self, step):
      self.step, self.kept = step, ()

    def memory_analysis(self):
      return self.step.memory_analysis()

    def __call__(self, *args):
      self.kept = self.kept or jax.block_until_ready(self.step(*args))
      return self.kept[0], self.kept[1] | {"loss": Late(device.submit(sleep), 0.5)}

  monkeypatch.setattr(program, "compile_step", lambda *args: FakeStep(real(*args)))
  result = run(
    tmp_path / "run", total_steps=100, checkpoint__save_every_steps=1000, log_every_steps=10
  )
  spent = [line["step_s"] for line in lines(tmp_path / "run")][1:]
  overhead = np.median(spent) / alone - 1
  waited = result.seconds.data_wait / 100
  print(f"overhead {overhead:.2%} of a 50 ms step, data wait {waited * 1e3:.2f} ms a step")
  assert overhead <= 0.02


@pytest.mark.slow
def test_replicas_in_one_step_are_the_runs_alone():
  # Adam's first update of a gradient far below eps is not the sign of its rounding errors.
  e = tiny(batch_size=4, optim__eps=1e-4)
  made = program.Program(e, make_mesh(MeshConfig(), ONE))
  task = made.tasks["worlds"]
  together = program.compile_step(made, task, replicas=2)
  stacked = make_arguments(made, task, replicas=2)
  rows = [jax.tree.map(lambda x, i=i: jnp.copy(x[i]), stacked[:3]) for i in range(2)]
  got, metrics = together(*jax.device_put(stacked, together.input_shardings[0]))
  for i, (state, batch, key) in enumerate(rows):
    want, alone = made.compile()["worlds"](state, batch, key, *stacked[3:])
    assert relative_error(jax.tree.map(lambda x, i=i: x[i], got.ema), want.ema) < 1e-5
    np.testing.assert_allclose(metrics["loss"][i], alone["loss"], rtol=1e-5)
  assert metrics["loss"][0] != metrics["loss"][1]


def test_several_steps_in_a_dispatch_do_not_show(whole, tmp_path):
  """Dispatches end at checkpoints, at the run's end and where the kind of batch changes."""
  several = run(tmp_path / "run", steps_per_dispatch=3, log_every_steps=1)
  one = [line["loss"] for line in lines(whole[0])]
  assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
  np.testing.assert_allclose([line["loss"] for line in lines(tmp_path / "run")], one, rtol=1e-5)
  assert several.frozen_loss.final == pytest.approx(whole[1].frozen_loss.final, rel=1e-4)


@pytest.mark.slow
def test_a_run_killed_between_dispatches_ends_with_the_same_bits(tmp_path):
  changes = dict(steps_per_dispatch=3, total_steps=8, checkpoint__save_every_steps=100)
  want = run(tmp_path / "whole", **changes)
  with pytest.raises(Preempted, match="time limit"):
    train(tiny(**{**FAST, **changes}), tmp_path / "cut", devices=ONE, deadline=0.0)
  assert run(tmp_path / "cut", **changes).params_sha256 == want.params_sha256


def test_dispatches_end_where_something_is_due():
  e = tiny(total_steps=10, steps_per_dispatch=4, checkpoint__save_every_steps=6,
           optim__schedule="wsd", optim__decay_fraction=0.2)  # fmt: skip
  got = list(loop.dispatches(e, Mixture([1]), 0))
  assert got == [(0, 4), (4, 2), (6, 2), (8, 2)]  # a checkpoint at 6, the trunk's end at 8
  e = tiny(total_steps=6, steps_per_dispatch=4, checkpoint__save_every_steps=100)
  mixture = Mixture([2, 1])
  kinds = list(loop.dispatches(e, mixture, 0))
  assert sum(number for _, number in kinds) == 6
  for before, number in kinds:
    assert len({mixture.at(s)[0] for s in range(before, before + number)}) == 1


WSD = dict(optim__schedule="wsd", optim__decay_fraction=0.25, checkpoint__save_every_steps=100)


@pytest.mark.slow
def test_a_longer_run_from_a_shorter_ones_trunk_equals_the_run_alone(tmp_path):
  alone = run(tmp_path / "alone", total_steps=8, **WSD)
  run(tmp_path / "short", total_steps=4, **WSD)
  with Checkpointer(tmp_path / "short" / "checkpoints", keep_last=2) as checkpoints:
    assert checkpoints.steps() == [3, 4]  # the step before its decay is kept
  longer = train(tiny(**{**FAST, **WSD, "total_steps": 8}), tmp_path / "long", devices=ONE,
                 trunk=(tmp_path / "short", 3))  # fmt: skip
  assert longer.params_sha256 == alone.params_sha256


@pytest.mark.slow
def test_a_program_serves_runs_that_differ_in_data_alone(tmp_path):
  base = dict(FAST, total_steps=2)
  e = tiny(**base)
  shared = program.Program(e, make_mesh(e.mesh, ONE))
  changes = dict(seed=1, optim__learning_rate=3e-3, optim__schedule="cosine", total_steps=3)
  other = tiny(**{**base, **changes})
  got = train(other, tmp_path / "shared", program=shared)
  assert got.params_sha256 == train(other, tmp_path / "own", devices=ONE).params_sha256
  wider = tiny(**base, model__width=64)
  assert shared.key == program_of(other) != program_of(wider)
  # Muon's program holds the ratio of its two learning rates.
  one, two = (tiny(optim__name="muon", optim__learning_rate=rate) for rate in (1e-3, 2e-3))
  assert program_of(one) != program_of(two)
