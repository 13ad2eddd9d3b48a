"""python -m videojax.scaling: a mistake is one line that names the flag or the file."""

import pytest

from tests.scaling.make_sweep import isoflop_cells, make
from videojax.scaling.__main__ import main

SERVE = ["serve", "T.csv", "--minutes=1", "--steps=T.csv", "--clips-per-minute=9"]


@pytest.mark.parametrize(
  "arguments,words",
  [
    (["fit"], "table"),
    (["fit", "folder"], "folder is not a regular file"),
    (["fit", "T.csv"], "T.csv does not exist"),
    (["fit", "T.csv", "--at=nan"], "--at: 'nan' must be a positive, finite number"),
    (["fit", "T.csv", "--holdout-above=-1"], "--holdout-above: '-1' must be"),
    (["fit", "T.csv", "--bootstrap=x"], "--bootstrap"),
    (["predict", ".", "--budget=inf"], "--budget: 'inf' must be"),
    (["predict", "folder", "--budget=1e9"], "folder holds no sweep"),
    (["report", "file"], "file holds no sweep"),
    (["report", "sweep", "--out=file"], "file"),
    (["report", "sweep", "--out=file/below"], "file"),
    ([*SERVE, "--tokens-per-clip=64", "--quality=nan"], "--quality: 'nan' must be"),
    ([*SERVE, "--tokens-per-clip=inf", "--quality=1"], "--tokens-per-clip: 'inf' must be"),
    ([*SERVE, "--tokens-per-clip=1", "--quality=1", "--branches=0"], "--branches: '0' must be"),
    (["cost", "--bench=folder"], "folder is not a regular file"),
    (["cost", "--out=file"], "file"),
    (["laws"], "no command 'laws'"),
  ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, monkeypatch, capsys, arguments, words):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "folder").mkdir()
  (tmp_path / "file").write_text("")
  if "sweep" in arguments:
    some = [c for c in isoflop_cells(seeds=1) if c.overrides["model.width"] == 96]
    make(tmp_path / "sweep", some, samples=False)
  assert main(arguments) == 1
  out, error = capsys.readouterr()
  assert words in error and error.count("\n") == 1 and out == ""
