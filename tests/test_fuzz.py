"""Odd settings and damaged files: each is refused in words or used, and nothing is half-written.

Films, captions and datasets: tests/data_pipelines/test_fuzz.py.
"""

import json
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.helpers import tiny, tiny_dict
from tests.test_settings import CONFIGS
from videojax import launch, settings
from videojax.config import from_json, resolve, to_json
from videojax.errors import ConfigError
from videojax.io import log
from videojax.io.tensors import Tensors
from videojax.runs import rundir
from videojax.train import finished_steps

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
ODD = (
  math.nan, math.inf, -math.inf, -1, 0, 1, 2**31, 2**63, 2**64, -(2**70), 1e308, 1e-308, 0.5, True,
  False, None, "", "x", "nan", "../x", "a.b", "\0", "\ud800", "(", "é" * 300, [], [1], (1, 2, 3),
  {}, {"a": 1}, {"name": "dit"}, [[]], {1: 2}, b"x", (math.nan,), "worlds", 10**400,
)  # fmt: skip
TOKENS = (
  b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"[", b"]", b"{}", b'""', b"\xff\xfe", b"\x00",
  b'"\\ud800"', b"[" * 3000, b"true", b'"..", ', b",", b"\n", b'"', b"99999999999999999999",
)  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
  """The bytes with one to four damages: flipped, cut, doubled, or with an odd piece in them."""
  for _ in range(rng.randint(1, 4)):
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    how = rng.randrange(6)
    if how == 0 and a < len(data):
      data = data[:a] + bytes([data[a] ^ (1 << rng.randrange(8))]) + data[a + 1 :]
    elif how == 1:
      data = data[:a]
    elif how == 2:
      data = data[:a] + data[min(b, a + 40) :]
    elif how == 3:
      data = data[:a] + data[a : a + 40] + data[a:]
    else:
      values = list(re.finditer(rb'-?\d[\d.e+-]*|"[^"]*"|null|true|false', data))
      place = rng.choice(values) if values and how == 5 else None
      start, end = place.span() if place else (a, a)
      data = data[:start] + rng.choice(TOKENS) + data[end:]
  return data


def in_words(function, *arguments):
  """Whether the call was refused in words; any other error fails the test."""
  try:
    function(*arguments)
  except ConfigError as error:
    assert str(error).strip() and "Traceback" not in str(error)
    return True
  return False


def leftovers(folder: Path) -> list[str]:
  """Files that were being written."""
  return [p.name for p in folder.rglob("*") if re.match(r"\..*\.\d+$", p.name)]


def test_odd_settings_are_refused_or_finite():
  rng = random.Random(0)
  base, refused = tiny_dict(), 0
  sections = [name for name, value in base.items() if isinstance(value, dict)]
  for _ in range(150):
    values = json.loads(json.dumps(base))
    where = values if rng.random() < 0.2 else values[rng.choice(sections)]
    if rng.random() < 0.3 and where is values["data"]:
      where = values["data"]["worlds"]
    key = rng.choice([*where, "odd"])
    where[key] = rng.choice(ODD)

    def run():
      e = resolve(values)  # noqa: B023
      for name in e.data:
        e.task(name)
      json.dumps(to_json(e), allow_nan=False)
      assert from_json(json.loads(json.dumps(to_json(e)))) == e

    refused += in_words(run)
  for _ in range(200):
    cls = rng.choice(CONFIGS)
    known = settings.hints(cls)
    if not known:
      continue
    name, value = rng.choice(list(known)), rng.choice(ODD)
    try:
      found = settings.checked(cls, {name: value})[name]
    except ValueError as error:
      assert str(error).startswith(f"{name}=")
      refused += 1
    else:
      assert not isinstance(found, float) or not math.isnan(found)
  assert refused > 150


def test_odd_command_lines_are_refused_in_words(monkeypatch):
  monkeypatch.chdir(ROOT)
  rng = random.Random(1)
  keys = [
    "optim.b2", "model.width", "model.patch", "model.text", "data.worlds.size", "seed", "ema",
    "evaluate.splits", "guidance.interval", "model.volumes", "total_steps", "odd.key", "model",
    "denoiser.process_settings", "codec.name", "checkpoint", "data.worlds.name", "model.scalars",
  ]  # fmt: skip
  refused = 0
  for _ in range(100):
    texts = [str(v).encode(errors="replace").decode() for v in ODD] + [
      t.decode("latin-1") for t in TOKENS
    ]
    override = f"--config.{rng.choice(keys)}={rng.choice(texts)}"
    start = ["launch", "--config=experiments/quickstart.py:smoke", "--workdir=none"]

    def run():
      e = resolve(launch.parse([*start, override]).config)  # noqa: B023
      json.dumps(to_json(e), allow_nan=False)

    refused += in_words(run)
  assert refused > 50


def test_damaged_weights_are_refused_or_finite(tmp_path):
  rng, refused = random.Random(4), 0
  array = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.ones(3, np.float32)}
  save_file(array, str(tmp_path / "whole.safetensors"))
  whole = (tmp_path / "whole.safetensors").read_bytes()
  index = json.dumps({"metadata": {}, "weight_map": {"w": "x.safetensors", "b": "x.safetensors"}})
  for number in range(150):
    folder = tmp_path / str(number)
    folder.mkdir()
    path = folder / "x.safetensors"
    path.write_bytes(mutated(rng, whole) if number % 2 else whole)
    if number % 2 == 0:
      path = folder / "diffusion_pytorch_model.safetensors.index.json"
      path.write_bytes(mutated(rng, index.encode()))

    def run():
      tensors = Tensors(path)  # noqa: B023
      for name in tensors.file:
        assert np.isfinite(tensors.read(name)).all()

    refused += in_words(run)
  assert refused > 60


def test_damaged_files_of_a_run_are_named_or_do_no_harm(tmp_path):
  rng, e = random.Random(5), tiny()
  whole = tmp_path / "whole"
  rundir.open_run(whole, e)
  (whole / "metrics.jsonl").write_text(
    "".join(json.dumps({"step": i, "loss": 0.5, "grad_norm": 1.0}) + "\n" for i in range(1, 6))
  )
  (whole / "result.json").write_text(json.dumps({"steps": 4, "schema": 1}))
  # The same bytes on every machine, so that the same places are damaged.
  (whole / "environment.json").write_text(
    json.dumps({"jax": "0.10.2", "starts": [{"step": 0}]}, indent=2)
  )
  names = ("config.json", "environment.json", "metrics.jsonl", "result.json")
  refused = 0
  for number in range(100):
    run = tmp_path / str(number)
    shutil.copytree(whole, run)
    name = rng.choice(names)
    (run / name).write_bytes(mutated(rng, (whole / name).read_bytes()))

    def start():
      rundir.check_run(run, e)  # noqa: B023
      finished_steps(run)  # noqa: B023
      rundir.open_run(run, e)  # noqa: B023
      log.Log(run, total_steps=9, start=4, tensorboard=False, writes=True, quiet=True).file.close()  # noqa: B023

    this = in_words(start)
    assert not leftovers(run)
    for line in (run / "metrics.jsonl").read_bytes().splitlines() if not this else ():
      json.loads(line)
    refused += this
    shutil.rmtree(run)
  assert refused > 20
