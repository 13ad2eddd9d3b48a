"""Imports point one way, down the picture of docs/architecture.md."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Beyond the picture: packages that must not know each other.
APART = [
  ("videojax.models", "videojax.diffusion"),
  ("videojax.diffusion", "videojax.models"),
  ("videojax.diffusion", "flax"),
  ("videojax.scaling", "flax"),
  ("videojax.scaling", "videojax.models"),
  ("videojax.measures", "videojax.models"),
  ("videojax.models", "videojax.data"),
  ("videojax", "data_pipelines"),
  ("data_pipelines", "videojax.train"),
]


def modules():
  for root in ("videojax", "data_pipelines"):
    for path in sorted((ROOT / root).rglob("*.py")):
      name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
      yield name, path


ALL = dict(modules())


def imports(name):
  """What a module imports anywhere: at its top, in a function, for types alone."""
  for node in ast.walk(ast.parse(ALL[name].read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        # `from videojax.io import log` imports videojax.io.log
        full = f"{node.module}.{alias.name}"
        yield full if full in ALL else node.module


def room(name):
  """The package of a module, or the module itself where it lies at the top."""
  return name if name == "videojax.scaling.__main__" else ".".join(name.split(".")[:2])


def rows():
  """Room -> its row in the picture, from the top."""
  page = (ROOT / "docs" / "architecture.md").read_text()
  picture = re.search(r"```\n(.*?)```", page, re.S)[1]
  names = [line.split("  ")[0].split(", ") for line in picture.splitlines()]
  return {f"videojax.{name.strip()}": row for row, group in enumerate(names) for name in group}


def test_the_picture_has_every_room_once():
  rooms = {room(name) for name in ALL if name.startswith("videojax.")}
  assert set(rows()) == rooms


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("videojax.")])
def test_module_imports_only_its_own_room_and_those_below_it_in_the_picture(name):
  row = rows()
  for imported in imports(name):
    if imported in ALL and imported != "videojax" and room(imported) != room(name):
      assert row[room(name)] < row[room(imported)], f"{name} imports {imported}"


def test_no_modules_import_each_other():
  graph = {name: {i for i in imports(name) if i in ALL and i != name} for name in ALL}
  try:
    TopologicalSorter(graph).prepare()
  except CycleError as error:
    pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("who,whom", APART)
def test_packages_do_not_know_each_other(who, whom):
  for name in ALL:
    if (name + ".").startswith(who + "."):
      for imported in imports(name):
        assert not (imported + ".").startswith(whom + "."), f"{name} imports {imported}"


def test_no_file_reads_outside_the_repository():
  for path in ROOT.rglob("*.py"):
    if ".venv" not in path.parts and path != Path(__file__):
      assert "../shared" not in path.read_text(), path
