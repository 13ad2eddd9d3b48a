"""A checkpoint restores bit for bit, on any mesh, or is named as damaged and passed over."""

import contextlib
import dataclasses
import errno
import functools
import gc
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from videojax.io import integrity
from videojax.io.checkpoint import CheckpointConfig, Checkpointer, CheckpointError
from videojax.io.integrity import device_checksum, host_checksum, params_sha256

with contextlib.suppress(RuntimeError):  # set already, or too late
  jax.config.update("jax_num_cpu_devices", 8)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  step: jax.Array
  params: dict
  opt_state: tuple
  frozen: dict


def _mesh(*shape: int) -> Mesh:
  devices = np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape)
  return Mesh(devices, ("data", "fsdp")[-len(shape) :])


def _random_bits(shape: tuple[int, ...], dtype, seed: int) -> np.ndarray:
  """Any bit pattern: NaN payloads, infinities, -0 and denormals among them."""
  size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
  data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
  return (
    (data & 1).astype(bool).reshape(shape) if dtype is bool else data.view(dtype).reshape(shape)
  )


def _state(seed: int = 0, mesh: Mesh | None = None) -> State:
  mesh = mesh or _mesh(8)
  put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
  params = {
    "w": put(_random_bits((64, 32), np.float32, seed), "fsdp"),
    "blocks": {"v": put(_random_bits((2, 16, 24), jnp.bfloat16, seed), None, "fsdp")},
    "key": put(_random_bits((2,), np.uint32, seed)),
    "bytes": put(_random_bits((5, 3), np.uint8, seed)),
    "mask": put(_random_bits((9,), bool, seed)),
    "minus_zero": put(np.full((8, 8), -0.0, np.float32), "fsdp"),
    "scale": put(np.float32(seed + 0.5)),
  }
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
  opt_state = jax.jit(tx.init)({k: params[k] for k in ("w", "blocks")})
  opt_state = jax.tree.map(lambda x: put(x, *(("fsdp",) if x.ndim == 2 else ())), opt_state)
  return State(put(np.int32(seed)), params, opt_state, {})


def _abstract(state, mesh: Mesh | None = None):
  def leaf(x):
    sharding = x.sharding if mesh is None else NamedSharding(mesh, x.sharding.spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(leaf, state)


def _assert_bit_equal(found, expected) -> None:
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _save(directory, *steps: int, sidecar: bool = True) -> None:
  with Checkpointer(directory, keep_last=9) as checkpointer:
    for step in steps:
      checkpointer.save(step, _state(step), {"position": step})
  for step in steps if not sidecar else ():
    (directory / str(step) / "files.json").unlink()


def _restore(directory, step: int | None = None, like: State | None = None):
  with Checkpointer(directory, keep_last=9) as checkpointer:
    return checkpointer.restore(_abstract(like or _state()), step)


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
  return sorted((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flip(path: pathlib.Path, byte: int, bit: int) -> None:
  data = bytearray(path.read_bytes())
  data[byte] ^= 1 << bit
  path.write_bytes(data)


def _damage(path: pathlib.Path, how: str) -> str:
  """Damages a file and returns what the message must say of it."""
  size = path.stat().st_size
  if how == "flipped":
    _flip(path, size // 2, 3)
    return "does not contain the bytes that were written"
  if how == "truncated":
    os.truncate(path, size // 3)
    return f"is truncated ({size // 3} of {size} bytes)"
  path.unlink()
  return "is missing"


def test_a_state_comes_back_bit_for_bit_with_its_metadata(tmp_path):
  metadata = {"config": {"lr": 1e-3, "betas": [0.9, 0.95]}, "position": 7, "note": "ü"}
  state = _state()
  with Checkpointer(tmp_path / "a" / "b", keep_last=2) as checkpointer:
    assert checkpointer.restore(_abstract(state)) is None
    assert checkpointer.save(7, state, metadata)
    restored = checkpointer.restore(_abstract(state))
  assert (restored.step, restored.metadata, restored.skipped) == (7, metadata, [])
  _assert_bit_equal(restored.state, state)


def test_reading_writes_nothing(tmp_path):
  assert _restore(tmp_path / "absent") is None
  assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("shape", [(2, 4), (4, 2), (2,), (1,)])
def test_a_checkpoint_of_eight_devices_restores_onto_another_mesh(tmp_path, shape):
  state = _state(3, _mesh(8))
  _save(tmp_path, 3)
  abstract = _abstract(state, _mesh(*shape))
  with Checkpointer(tmp_path, keep_last=1) as checkpointer:
    restored = checkpointer.restore(abstract).state
  _assert_bit_equal(restored, state)
  for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract)):
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
  assert params_sha256(restored.params) == params_sha256(state.params)


def test_saving_and_restoring_need_no_implicit_transfer(tmp_path):
  state = _state()
  with jax.transfer_guard("disallow"), Checkpointer(tmp_path, keep_last=1) as checkpointer:
    checkpointer.save(1, state, {})
    assert checkpointer.restore(_abstract(state)).step == 1


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_a_damaged_data_file_is_named_and_the_checkpoint_before_is_used(tmp_path, how):
  _save(tmp_path, 10, 20)
  path = _files(tmp_path / "20" / "state")[-1]
  problem = _damage(path, how)
  restored = _restore(tmp_path)
  assert restored.step == 10
  assert restored.metadata == {"position": 10}
  _assert_bit_equal(restored.state, _state(10))
  assert restored.skipped == [f"checkpoint 20: file {path.relative_to(tmp_path / '20')} {problem}"]
  with pytest.raises(CheckpointError, match="damaged checkpoint 20"):
    _restore(tmp_path, 20)
  assert _restore(tmp_path, 10).step == 10


@pytest.mark.parametrize("how", ["directory", "pipe", "no permission", "device error"])
@pytest.mark.parametrize("name", ["manifest/metadata", "state/_METADATA", "state/manifest.ocdbt"])
def test_a_file_that_cannot_be_read_counts_as_damage(tmp_path, monkeypatch, how, name):
  _save(tmp_path, 10, 20)
  path, fingerprint = tmp_path / "20" / name, integrity._fingerprint
  if how in ("directory", "pipe"):
    path.unlink()
    (path.mkdir if how == "directory" else functools.partial(os.mkfifo, path))()
  else:
    number = errno.EACCES if how == "no permission" else errno.EIO

    def fails(file):
      if str(file) == str(path):
        raise OSError(number, os.strerror(number), str(file))
      return fingerprint(file)

    monkeypatch.setattr(integrity, "_fingerprint", fails)
  restored = _restore(tmp_path)
  assert restored.step == 10 and len(restored.skipped) == 1
  assert restored.skipped[0].startswith(f"checkpoint 20: file {name} ")


@pytest.mark.parametrize("how", ["copied", "renamed"])
def test_a_checkpoint_under_the_name_of_another_step_is_damaged(tmp_path, how):
  _save(tmp_path, 10, 20, 30)
  shutil.rmtree(tmp_path / "30")
  (shutil.copytree if how == "copied" else os.rename)(tmp_path / "20", tmp_path / "30")
  restored = _restore(tmp_path)
  assert restored.step == (20 if how == "copied" else 10)
  _assert_bit_equal(restored.state, _state(restored.step))
  assert "checkpoint 30: it was saved as step 20" in restored.skipped[0]
  with pytest.raises(CheckpointError, match="saved as step 20"):
    _restore(tmp_path, 30)


def test_a_checkpoint_of_a_version_that_did_not_seal_the_step_restores(tmp_path):
  _save(tmp_path, 10, sidecar=False)
  path = tmp_path / "10" / "manifest" / "metadata"
  body = integrity.unseal(json.loads(path.read_text()))
  del body["step"]
  path.write_text(json.dumps(integrity.seal(body)))
  assert _restore(tmp_path).step == 10


@pytest.mark.parametrize("name", ["files.json", "_CHECKPOINT_METADATA", "commit_success.txt"])
def test_a_missing_file_without_which_the_arrays_are_still_verified_is_named(tmp_path, name):
  _save(tmp_path, 10)
  assert _restore(tmp_path).lacks == []
  (tmp_path / "10" / name).unlink()
  restored = _restore(tmp_path)
  assert (restored.step, restored.skipped, restored.lacks) == (10, [], [name])


@pytest.mark.parametrize("what", ["file", "dangling link"])
def test_what_stands_in_the_place_of_a_checkpoint_is_named_and_moved_aside(tmp_path, what):
  _save(tmp_path, 10)
  path = tmp_path / "20"
  (path.touch if what == "file" else functools.partial(path.symlink_to, "nowhere"))()
  with Checkpointer(tmp_path, keep_last=9) as checkpointer:
    assert checkpointer.restore(_abstract(_state())).skipped == [
      "checkpoint 20: it is not a directory"
    ]
    assert checkpointer.save(20, _state(20), {})
  assert _restore(tmp_path).step == 20


@pytest.fixture
def orphans():
  """Collects the tasks that orbax leaves behind a failed read; they complain as they go."""
  yield
  gc.collect()


ORPHANS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@ORPHANS
@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
def test_damage_is_found_without_the_list_of_files(tmp_path, orphans, how):
  _save(tmp_path, 10, 20, sidecar=False)
  _damage(_files(tmp_path / "20" / "state")[-1], how)
  restored = _restore(tmp_path)
  assert restored.step == 10
  assert restored.skipped[0].startswith("checkpoint 20: ")
  assert len(restored.skipped[0].splitlines()) == 1
  assert "tensorstore" not in restored.skipped[0].lower()


@pytest.mark.parametrize("damage", ["flipped", "garbage", "missing"])
def test_a_damaged_list_of_files_alone_is_no_damage(tmp_path, damage):
  _save(tmp_path, 10)
  path = tmp_path / "10" / "files.json"
  if damage == "flipped":
    _flip(path, path.read_text().index('"]') - 1, 0)  # in a recorded hash
  elif damage == "garbage":
    path.write_bytes(b"\xff\x00")
  else:
    path.unlink()
  assert _restore(tmp_path).skipped == []


def test_an_array_that_differs_from_its_checksum_is_named(tmp_path):
  _save(tmp_path, 10, 20, sidecar=False)
  path = tmp_path / "20" / "manifest" / "metadata"
  body = integrity.unseal(json.loads(path.read_text()))
  body["leaves"]["params/blocks/v"][2] = "0123456789abcdef"
  path.write_text(json.dumps(integrity.seal(body)))
  restored = _restore(tmp_path)
  assert restored.step == 10
  assert restored.skipped == [
    "checkpoint 20: array params/blocks/v differs from what was saved (checksum)"
  ]


@ORPHANS
@pytest.mark.parametrize("sidecar", [True, False])
def test_no_flipped_bit_in_any_file_yields_a_wrong_state(tmp_path, orphans, sidecar):
  _save(tmp_path, 10, 20, sidecar=sidecar)
  draw = random.Random(0)
  states = {step: _state(step) for step in (10, 20)}
  fallbacks = 0
  for _ in range(16):
    files = _files(tmp_path / "20")
    (path,) = draw.choices(files, [p.stat().st_size for p in files])
    place = draw.randrange(path.stat().st_size), draw.randrange(8)
    _flip(path, *place)
    restored = _restore(tmp_path)
    assert restored.metadata == {"position": restored.step}
    _assert_bit_equal(restored.state, states[restored.step])
    fallbacks += restored.step == 10
    _flip(path, *place)
  assert fallbacks > 0


def test_when_all_are_damaged_each_is_named(tmp_path):
  _save(tmp_path, 10, 20)
  for step in (10, 20):
    _damage(_files(tmp_path / str(step) / "state")[-1], "missing")
  with pytest.raises(CheckpointError, match="no intact checkpoint") as error:
    _restore(tmp_path)
  assert "checkpoint 10: file" in str(error.value)
  assert "checkpoint 20: file" in str(error.value)


def test_after_falling_back_a_run_saves_over_the_damaged_step_which_is_moved_aside(tmp_path):
  _save(tmp_path, 10, 20)
  _damage(_files(tmp_path / "20" / "state")[-1], "truncated")
  with Checkpointer(tmp_path, keep_last=2) as checkpointer:
    assert checkpointer.restore(_abstract(_state())).step == 10
    assert checkpointer.save(15, _state(15), {})
    assert checkpointer.save(20, _state(20), {})
    checkpointer.wait()
    assert checkpointer.steps() == [15, 20]
  assert (tmp_path / "20.damaged").is_dir()
  _assert_bit_equal(_restore(tmp_path).state, _state(20))


def test_a_held_step_stands_and_an_older_one_is_refused(tmp_path):
  with Checkpointer(tmp_path, keep_last=9) as checkpointer:
    assert checkpointer.save(10, _state(10), {})
    assert not checkpointer.save(10, _state(11), {})
    with pytest.raises(CheckpointError, match="holds checkpoint 10; .* not at 9"):
      checkpointer.save(9, _state(9), {})
    with pytest.raises(CheckpointError, match=r"no checkpoint 11, only \[10\]"):
      checkpointer.restore(_abstract(_state()), 11)
  _assert_bit_equal(_restore(tmp_path).state, _state(10))


def test_a_state_of_another_structure_is_refused_and_the_leaves_are_listed(tmp_path):
  _save(tmp_path, 10)
  state = _state()
  params = dict(state.params)
  params["more"] = params.pop("bytes")
  params["w"] = jnp.zeros((64, 33))
  params["scale"] = jnp.zeros((), jnp.bfloat16)
  with pytest.raises(CheckpointError) as error:
    _restore(tmp_path, like=dataclasses.replace(state, params=params))
  message = str(error.value)
  assert "params/more (uint8[5, 3]) is missing from the checkpoint" in message
  assert "params/bytes (uint8[5, 3]) is in the checkpoint only" in message
  assert "params/w is float32[64, 32] in the checkpoint, float32[64, 33] here" in message
  assert "params/scale is float32[] in the checkpoint, bfloat16[] here" in message
  assert "opt_state" not in message


def test_what_cannot_be_checkpointed_is_refused_by_name(tmp_path):
  with Checkpointer(tmp_path / "x", keep_last=1) as checkpointer:
    for leaf in (3, np.zeros(2), jax.random.key(0), jnp.zeros((0, 2)), jnp.zeros(2, jnp.complex64)):
      with pytest.raises(ValueError, match="params/bad"):
        checkpointer.save(1, {"params": {"bad": leaf}}, {})
    with pytest.raises(ValueError, match="JSON"):
      checkpointer.save(1, _state(), {"path": tmp_path})
    with pytest.raises(ValueError, match="no sharding for params/w"):
      checkpointer.restore({"params": {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}})
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
  "bad", [{"save_every_steps": 0}, {"keep_last": 0}, {"keep_every_steps": 0}]
)
def test_an_impossible_retention_is_refused_with_its_value(bad):
  with pytest.raises(ValueError, match="=0 must be >= 1"):
    CheckpointConfig(**{"save_every_steps": 1} | bad)


def test_the_last_two_and_every_fifth_step_are_kept(tmp_path):
  with Checkpointer(tmp_path, keep_last=2, keep_every_steps=5) as checkpointer:
    for step in range(1, 13):
      checkpointer.save(step, {"x": jnp.arange(4) + step}, {})
  with Checkpointer(tmp_path, keep_last=2) as checkpointer:
    assert checkpointer.steps() == [5, 10, 11, 12]


@pytest.mark.parametrize("shape", [(8,), (2, 4), (1,)])
def test_donating_the_state_right_after_a_save_does_not_reach_the_checkpoint(tmp_path, shape):
  mesh = _mesh(*shape)
  update = jax.jit(lambda s: jax.tree.map(lambda x: x * 2 + 1, s), donate_argnums=0)
  start = {f"w{i}": np.full((256, 1024), i, np.float32) for i in range(8)}
  start["step"] = np.zeros((), np.float32)
  spec = lambda x: NamedSharding(mesh, P("fsdp") if x.ndim else P())
  state = update({k: jax.device_put(x, spec(x)) for k, x in start.items()})
  with Checkpointer(tmp_path, keep_last=1) as checkpointer:
    checkpointer.save(1, state, {})
    abstract = _abstract(state)
    for _ in range(60):
      state = update(state)
    jax.block_until_ready(state)
    checkpointer.wait()
    restored = checkpointer.restore(abstract).state
  for name, x in start.items():
    np.testing.assert_array_equal(np.asarray(restored[name]), x * 2 + 1)


def test_what_a_killed_save_leaves_is_ignored_and_its_step_can_be_saved(tmp_path):
  _save(tmp_path, 10, 20)
  (tmp_path / "20").rename(tmp_path / "20.orbax-checkpoint-tmp")
  (tmp_path / "30.orbax-checkpoint-tmp").mkdir()
  with Checkpointer(tmp_path, keep_last=9) as checkpointer:
    assert checkpointer.steps() == [10]
    assert checkpointer.restore(_abstract(_state())).step == 10
    assert (tmp_path / "20.orbax-checkpoint-tmp").exists()  # a reader leaves another's save alone
    checkpointer.save(20, _state(20), {})
  assert sorted(os.listdir(tmp_path)) == ["10", "20"]
  _assert_bit_equal(_restore(tmp_path).state, _state(20))


@contextlib.contextmanager
def _largest_file(size: int):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failing_write_is_named_harms_no_checkpoint_and_can_be_retried(tmp_path):
  big = {"x": jnp.asarray(_random_bits((2**20,), np.uint32, 0))}
  with Checkpointer(tmp_path, keep_last=1) as checkpointer:
    checkpointer.save(1, big, {"position": 1})
    checkpointer.wait()
    with _largest_file(2**20), pytest.raises(CheckpointError) as error:  # 1 of 4 MiB
      checkpointer.save(2, big, {})
      checkpointer.wait()
    assert f"checkpoint 2 could not be written to {tmp_path}: a file reached" in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["1"]
    assert checkpointer.restore(_abstract(big)).metadata == {"position": 1}
    checkpointer.save(2, big, {})
    checkpointer.wait()
    assert checkpointer.steps() == [2]


def test_a_full_disk_is_named_at_the_next_call(tmp_path, monkeypatch):
  def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  _save(tmp_path, 10)
  checkpointer = Checkpointer(tmp_path, keep_last=1)
  with monkeypatch.context() as patch:
    patch.setattr(integrity, "fingerprint_files", full)
    checkpointer.save(20, _state(20), {})
    with pytest.raises(CheckpointError, match=r"checkpoint 20 .*the disk is full \(\d+ of \d+ MiB"):
      checkpointer.save(30, _state(30), {})
  assert checkpointer.steps() == [10]
  checkpointer.save(30, _state(30), {})
  checkpointer.close()
  assert _restore(tmp_path).step == 30


_SAVE_TOO_MUCH = """
import resource, sys, jax, numpy as np
from videojax.io.checkpoint import Checkpointer, CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, resource.RLIM_INFINITY))
state = {str(i): jax.numpy.asarray(np.random.default_rng(i).integers(0, 2**32, 2**16, np.uint32))
         for i in range(40)}
try:
  with Checkpointer(sys.argv[1], keep_last=2) as checkpointer:
    checkpointer.save(1, state, {})
except CheckpointError as error:
  print(error)
"""


def test_a_failed_write_is_one_message_and_no_traceback_of_a_task(tmp_path):
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", _SAVE_TOO_MUCH, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, env=environment)
  assert done.stdout.startswith("checkpoint 1 could not be written") and done.stderr == ""


_SAVE_FOREVER = """
import itertools, sys, jax, numpy as np
from videojax.io.checkpoint import Checkpointer
make = lambda step: {"x": jax.numpy.asarray(np.random.default_rng(step).integers(0, 2**32, 2**20,
                     np.uint32)), "step": jax.numpy.int32(step)}
with Checkpointer(sys.argv[1], keep_last=2) as checkpointer:
  for step in itertools.count(1):
    checkpointer.save(step, make(step), {"position": step})
    if step == 2:  # the first is on disk
      print("saving", flush=True)
"""


def _kill_while_saving(directory: pathlib.Path, seed: int) -> None:
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-c", _SAVE_FOREVER, str(directory)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
    assert child.stdout.readline() == b"saving\n"
    time.sleep(random.Random(seed).uniform(0, 0.5))
    child.send_signal(signal.SIGKILL)
  abstract = {
    "x": jax.ShapeDtypeStruct((2**20,), jnp.uint32, sharding=NamedSharding(_mesh(8), P("fsdp"))),
    "step": jax.ShapeDtypeStruct((), jnp.int32, sharding=NamedSharding(_mesh(8), P())),
  }
  with Checkpointer(directory, keep_last=2) as checkpointer:
    restored = checkpointer.restore(abstract)
    assert restored.skipped == []
    assert restored.metadata == {"position": restored.step}
    assert int(restored.state["step"]) == restored.step
    expected = np.random.default_rng(restored.step).integers(0, 2**32, 2**20, np.uint32)
    np.testing.assert_array_equal(np.asarray(restored.state["x"]), expected)
    checkpointer.save(restored.step + 1, restored.state, {})
    checkpointer.wait()
    assert checkpointer.steps()[-2:] == [restored.step, restored.step + 1]


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_while_saving_leaves_a_sound_checkpoint(tmp_path, seed):
  _kill_while_saving(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_a_kill_at_many_more_moments_leaves_a_sound_checkpoint(tmp_path, seed):
  _kill_while_saving(tmp_path, seed)


def _integer_checksum(words: np.ndarray) -> tuple[int, int]:
  """The definition, in Python's integers."""

  def mix(x: int) -> int:
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)

  places = [mix((i + 0x9E3779B9) % 2**32) for i in range(words.size)]
  terms = [mix(int(word) ^ place) for word, place in zip(words.ravel(), places)]
  second = sum(term * (place | 1) for term, place in zip(terms, places))
  return sum(terms) % 2**32, second % 2**32


def _ints(pair) -> tuple[int, int]:
  return int(pair[0]), int(pair[1])


DTYPES = [
  (np.float32, "<u4"),
  (jnp.bfloat16, "<u2"),
  (np.uint8, "<u1"),
  (np.int32, "<u4"),
  (np.float64, "<u4"),
  (bool, "<u1"),
]


@pytest.mark.parametrize(("dtype", "word"), DTYPES)
@pytest.mark.parametrize("shape", [(3, 5, 7), (11,), ()])
def test_host_and_device_checksums_are_the_definition(dtype, word, shape):
  x = _random_bits(shape, dtype, 1)
  expected = _integer_checksum(np.atleast_1d(x).view(word))
  with jax.enable_x64():
    assert _ints(host_checksum(jnp.asarray(x))) == expected
    assert _ints(device_checksum(jnp.asarray(x))) == expected


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.uint8])
def test_any_single_flipped_bit_changes_both_checksums(dtype):
  x = _random_bits((16, 33), dtype, 2)
  first, second = host_checksum(jnp.asarray(x))
  draw = np.random.default_rng(0)
  for _ in range(200):
    changed = bytearray(x.tobytes())
    changed[draw.integers(len(changed))] ^= 1 << int(draw.integers(8))
    found = host_checksum(
      jnp.asarray(np.frombuffer(changed, np.uint8).view(dtype).reshape(x.shape))
    )
    assert found[0] != first
    assert found[1] != second


def test_a_negated_array_and_two_swapped_values_change_the_checksum():
  x = np.random.default_rng(0).standard_normal((16, 33)).astype(np.float32)
  swapped = x.copy()
  swapped[3, 4], swapped[5, 6] = x[5, 6], x[3, 4]
  sums = {_ints(host_checksum(jnp.asarray(a))) for a in (x, -x, swapped, x.T, x[::-1])}
  assert len(sums) == 5


SPECS = [("fsdp",), (None, "fsdp"), ("fsdp", "data"), (("data", "fsdp"),), (None, None, "fsdp")]


@pytest.mark.parametrize("spec", SPECS)
def test_neither_checksum_nor_sha256_sees_the_sharding(spec):
  x = _random_bits((16, 8, 4100), np.float32, 0)  # over 2^19 words: several blocks
  sharded = jax.device_put(x, NamedSharding(_mesh(2, 4), P(*spec)))
  expected = _ints(device_checksum(jnp.asarray(x)))
  assert _ints(host_checksum(sharded)) == expected
  assert _ints(device_checksum(sharded)) == expected
  assert params_sha256({"x": sharded}) == params_sha256({"x": jnp.asarray(x)})


def test_the_sha256_of_parameters_sees_value_name_shape_and_dtype_but_not_order():
  zeros = jnp.zeros((2, 3))
  trees = [
    {"a": zeros, "b": zeros},
    {"a": zeros, "b": zeros.at[1, 2].set(-0.0)},
    {"a": zeros, "c": zeros},
    {"a": zeros, "b": zeros.T},
    {"a": zeros, "b": zeros.astype(jnp.int32)},
  ]
  assert len({params_sha256(tree) for tree in trees}) == len(trees)
  assert params_sha256({"b": zeros, "a": zeros}) == params_sha256(trees[0])
