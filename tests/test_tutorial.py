"""The pages do not rot: marked commands and files of the tutorial run, all other commands parse.

In a page `<!-- file: PATH -->` above a block says that the block is that file, `<!-- test: run -->`
that its commands are quick enough to run here.
"""

import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import videojax.models
from videojax import launch
from videojax.errors import ConfigError
from videojax.models.cond import Cond
from videojax.scaling.__main__ import main as scaling
from videojax.train import train

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(?:<!-- (file|test): (\S+) -->\n)?```(\w*)\n(.*?)^```", re.S | re.M)
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(page):
  """(mark, its value, content) of every code block."""
  return [(m[1], m[2], m[4]) for m in BLOCK.finditer(page.read_text())]


def commands(text):
  """(module, arguments) of `python -m MODULE ARGUMENTS`; optional [arguments] are left out."""
  lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
  lines = [re.sub(r"\[.*?\]", "", line) for line in lines if line.startswith("python -m ")]
  return [(words[2], words[3:]) for words in map(shlex.split, lines)]


@pytest.fixture
def reader(tmp_path, monkeypatch):
  """A directory as the reader of a page has it; runs a command of the page there."""
  (tmp_path / "experiments").mkdir()
  for path in (ROOT / "experiments").iterdir():
    (tmp_path / "experiments" / path.name).symlink_to(path)
  (tmp_path / "docs").symlink_to(DOCS)
  models = tmp_path / "videojax" / "models"
  models.mkdir(parents=True)
  monkeypatch.setattr(videojax.models, "__path__", [*videojax.models.__path__, str(models)])
  monkeypatch.chdir(tmp_path)

  def run(module, arguments):
    if module == "videojax.scaling":
      return scaling(arguments)
    trains = not any(a.startswith("--mode") for a in arguments)
    # Coherence is most of what a tiny run compiles.
    argv = ["launch", *arguments, *(["--config.evaluate.coherence_clips=0"] if trains else [])]
    monkeypatch.setattr(sys, "argv", argv)  # config_flags looks there for overrides
    if not trains:
      return launch.main(argv)
    command = launch.parse(argv)  # on one device of the suite's eight
    done = train(command.experiment, command.workdir, devices=jax.devices()[:1])
    return 0 if done else 1

  return run


def write(path, content):
  Path(path).write_text(content)
  if path.startswith("videojax/"):
    importlib.invalidate_caches()


@pytest.mark.slow
def test_the_commands_and_files_of_the_tutorial_run(reader, capsys):
  ran = 0
  for mark, value, content in blocks(DOCS / "tutorial.md"):
    if mark == "file":
      write(value, content)
    elif mark == "test":
      for module, arguments in commands(content):
        assert reader(module, arguments) == 0, (arguments, capsys.readouterr())
        ran += 1
  assert ran == 3
  assert Path("runs/mixer_smoke/result.json").exists()


def test_the_skeleton_of_the_architecture_page_starts_at_zero_and_has_gradients(reader):
  ((path, content),) = [(v, c) for mark, v, c in blocks(DOCS / "architecture.md") if mark == "file"]
  write(path, content)
  module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
  config = module.Config(**module.SIZES["micro"], patch=(2, 4, 4), channels=3, known="zeros")
  model = module.Model(config, rngs=nnx.Rngs(0))
  x = jax.random.normal(jax.random.key(1), (2, 4, 8, 8, 3))
  cond = Cond(known=x, known_mask=jnp.ones((2, 4, 1, 1, 1)))
  loss = lambda m: jnp.square(m(x, jnp.full((2, 1), 500.0), cond) - x).mean()
  assert config.uses == ("known",) and module.wider(config).width == 2 * config.width
  value, gradients = nnx.jit(nnx.value_and_grad(loss))(model)
  assert value == jnp.square(x).mean()
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_of_a_page_name_modules_files_and_settings_that_exist(page, monkeypatch):
  monkeypatch.chdir(ROOT)
  new = {value for mark, value, _ in blocks(page) if mark == "file"}
  for _, _, content in blocks(page):
    for module, arguments in commands(content):
      assert importlib.util.find_spec(module), module
      config = next((a for a in arguments if a.startswith("--config=")), "--config=FILE")
      file = config.removeprefix("--config=").split(":")[0]
      if module == "videojax.launch" and file != "FILE" and file not in new:
        monkeypatch.setattr(sys, "argv", ["launch", *arguments])
        try:
          assert launch.parse(["launch", *arguments]).experiment.model
        except ConfigError as error:  # it needs what an earlier command of the page makes
          assert "make some with `python -m data_pipelines" in str(error), error
