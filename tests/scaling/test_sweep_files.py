"""Files of a sweep in another form: named in one line by everything that reads them."""

import copy
import json
import random
import re
import shutil

import pytest

from tests.scaling.make_sweep import isoflop_cells, make
from videojax.errors import ConfigError
from videojax.report.page import page
from videojax.report.report import analyse
from videojax.scaling import predict as predictions
from videojax.scaling.cells import read_starts, read_sweep
from videojax.scaling.sealed import unpredicted, verify
from videojax.scaling.sweep_groups import load, require_finished

HELD_OUT = 1.024e16
CELL = "cells/budget4e+13_width64"
FILES = (
  "sweep.json", f"{CELL}/result.json", f"{CELL}/config.json", f"{CELL}/environment.json",
  "cells/budget1.6e+14_width64/failed.json", "predictions/1.024e+16.json",
)  # fmt: skip
OTHER = (
  None, True, 0, -1, 7, 1e308, -1e-308, 10**400, "", "x", "\ud800", "a\0b", "../..", [], [1], {},
  {"a": None}, [[]],
)  # fmt: skip
TEXTS = (
  b"", b"null", b"[]", b"{}", b"7", b'"x"', b"\xff\xfe{", b'{"a": "\xff"}', b"[" * 100_000,
  b'{"a": NaN}', b'{"a": 1e999}', b"{", b"[null]", b"[7]",
)  # fmt: skip

PICTURES = dict.fromkeys(("frontier.svg", "isoflop.svg", "coherence.svg", "levels.svg"), b"")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
  """A small sweep with a failed cell and a prediction."""
  directory = tmp_path_factory.mktemp("sweep")
  some = [c for c in isoflop_cells(seeds=1) if c.overrides["model.width"] in (64, 96, 128, 256)]
  failed = lambda cell: cell.name == "budget1.6e+14_width64"
  make(directory, some, failed=failed, samples=False, irreducible=0, price=2.0)
  predictions.predict(directory, HELD_OUT, draws=40)
  return directory


def read(found):
  """All files of a sweep, without the numbers of a report."""
  predictions.score(found)
  return [read_starts(row.directory) for row in found.rows]


def written(found):
  """A report but for its figures."""
  return page(analyse(found), PICTURES)


def look(directory, use):
  """What a report, a prediction and --list read; ConfigError is the one way to fail."""
  for reader in (read_sweep, lambda d: unpredicted(d, HELD_OUT)):
    try:
      reader(directory)
    except ConfigError as error:
      assert len(str(error)) < 1000
  verify(directory / "predictions" / "1.024e+16.json")
  try:
    found = load(directory)
    require_finished(found)
    use(found)
  except ConfigError as error:
    assert len(str(error)) < 1000


@pytest.fixture(autouse=True)
def without_fits(monkeypatch):
  """The law and its optima take seconds, and are asked elsewhere."""

  def no_law(*args, **kwargs):
    raise ConfigError("not fitted here")

  monkeypatch.setattr("videojax.scaling.curves.fit_law", no_law)
  monkeypatch.setattr("videojax.scaling.curves._size_law", lambda *a: None)


@pytest.mark.parametrize("name", FILES)
def test_file_of_another_kind_is_named(sweep, name):
  path, before = sweep / name, (sweep / name).read_bytes()
  try:
    for text in TEXTS:
      path.write_bytes(text)
      look(sweep, read)
    with pytest.raises(ConfigError, match=re.escape(path.name)) as error:
      path.write_bytes(b"null")
      if path.parent.name == "predictions":
        raise ConfigError(verify(path))
      read(load(sweep))
    assert "is None, not" in str(error.value)
  finally:
    path.write_bytes(before)


def places(value, path=()):
  """Paths of everything in a JSON value; of lists their first items."""
  yield path
  inside = value.items() if isinstance(value, dict) else enumerate(value[:2])
  for key, item in inside if isinstance(value, dict | list) else ():
    yield from places(item, (*path, key)) if isinstance(item, dict | list) else [(*path, key)]


def changed(value, path, new):
  """The value with another at a path; `...`: without it."""
  value = copy.deepcopy(value)
  below = value
  for key in path[:-1]:
    below = below[key]
  if new is ...:
    del below[path[-1]]
  else:
    below[path[-1]] = new
  return value


def mutations(sweep, seed):
  """(file, JSON) for every place of every file, another value at each."""
  rng = random.Random(seed)
  for name in FILES:
    written = json.loads((sweep / name).read_text())
    for path in places(written):
      if path:
        yield name, changed(written, path, rng.choice([..., *OTHER]))


@pytest.mark.parametrize("share", [0.03, pytest.param(0.5, marks=pytest.mark.slow)])
def test_no_change_of_a_sweeps_files_ends_in_an_exception_of_another_kind(sweep, tmp_path, share):
  directory = shutil.copytree(sweep, tmp_path / "sweep")
  cases = list(mutations(sweep, seed=0))
  for name, value in random.Random(1).sample(cases, round(share * len(cases))):
    before = (directory / name).read_bytes()
    (directory / name).write_text(json.dumps(value))
    look(directory, written)
    (directory / name).write_bytes(before)
