"""Imports point one way (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A module may import those of lower layers, and of its own. First match from the top.
LAYERS = [
  ("videojax.errors", 0),
  ("videojax.io.files", 0),
  ("videojax.settings", 0),
  ("videojax.host.process", 0),
  ("videojax.host.stop", 0),
  ("videojax.io.claim", 0),
  ("videojax.io.quiet_orbax", 0),
  ("videojax.io.schema", 1),
  ("videojax.sharding", 1),
  ("videojax.io.media", 1),
  ("videojax.log", 1),
  ("videojax.io.records", 1),
  ("videojax.io.tensors", 1),
  ("videojax.io.integrity", 1),
  ("videojax.host.distributed", 1),
  ("videojax.host.agreement", 1),
  ("videojax.models", 2),
  ("videojax.diffusion", 2),
  ("videojax.codecs", 2),
  ("videojax.measures", 2),
  ("videojax.scaling.__main__", 13),
  ("videojax.scaling", 2),
  ("videojax.data", 2),
  ("videojax.optim", 3),
  ("videojax.runs.weights", 3),
  ("videojax.io.checkpoint", 3),
  ("videojax.state", 4),
  ("videojax.controls", 3),
  ("videojax.task", 4),
  ("videojax.sample", 5),
  ("videojax.evaluate", 6),
  ("videojax.config", 7),
  ("videojax.overrides", 8),
  ("videojax.runs.rundir", 8),
  ("videojax.runs.program", 8),
  ("videojax.runs.resume", 9),
  ("videojax.train", 10),
  ("videojax.plan.hlo", 2),
  ("videojax.host.xla_flags", 2),
  ("videojax.plan.topology", 9),
  ("videojax.plan.step_work", 9),
  ("videojax.plan.tables", 9),
  ("videojax.plan.plan", 11),
  ("videojax.plan.search", 11),
  ("videojax.modes.bench", 11),
  ("videojax.modes.finished_run", 11),
  ("videojax.modes.coordinate_check", 11),
  ("videojax.modes.effects", 12),
  ("videojax.modes.cascade", 12),
  ("videojax.sweeps.schedule", 11),
  ("videojax.sweeps.sweep", 12),
  ("videojax.launch", 13),
  ("videojax.fits", 13),
]
# Beyond the layers: packages that must not know each other.
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


def layer(module):
  if module == "videojax":
    return 0
  return next(level for name, level in LAYERS if (module + ".").startswith(name + "."))


def modules():
  for root in ("videojax", "data_pipelines"):
    for path in sorted((ROOT / root).rglob("*.py")):
      name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
      yield name, path


def imports(path):
  """Imported modules, but for those under `if TYPE_CHECKING`."""
  tree = ast.parse(path.read_text())
  guards = (node for node in ast.walk(tree) if isinstance(node, ast.If))
  typing = [node for node in guards if "TYPE_CHECKING" in ast.dump(node.test)]
  skip = {id(inner) for node in typing for inner in ast.walk(node)}
  for node in ast.walk(tree):
    if id(node) in skip:
      continue
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module
      # `from videojax import log` imports videojax.log
      yield from (f"{node.module}.{a.name}" for a in node.names if node.module == "videojax")


ALL = dict(modules())


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("videojax")])
def test_module_imports_only_its_own_layer_and_lower_ones(name):
  for imported in imports(ALL[name]):
    if imported.startswith("videojax.") and imported in ALL:
      assert layer(imported) <= layer(name), f"{name} imports {imported}"


@pytest.mark.parametrize("who,whom", APART)
def test_packages_do_not_know_each_other(who, whom):
  for name, path in ALL.items():
    if (name + ".").startswith(who + "."):
      for imported in imports(path):
        assert not (imported + ".").startswith(whom + "."), f"{name} imports {imported}"


def test_no_file_reads_outside_the_repository():
  for path in ROOT.rglob("*.py"):
    if ".venv" not in path.parts and path != Path(__file__):
      assert "../shared" not in path.read_text(), path
