"""Sealed predictions of either kind are checked by one command."""

import json
import shutil
from pathlib import Path

import pytest

from videojax.scaling.__main__ import main

SHIPPED = Path(__file__).parents[2] / "docs" / "isoflop_cpu"


@pytest.mark.parametrize("name", ["far.json", "prediction.json"])
def test_shipped_predictions_are_as_they_were_written(name, capsys):
  assert main(["verify", str(SHIPPED / name)]) == 0
  assert f"{name}: as it was written on 2026-" in capsys.readouterr().out


def test_a_changed_number_breaks_the_seal(tmp_path, capsys):
  path = tmp_path / "far.json"
  content = json.loads((SHIPPED / "far.json").read_text())
  content["fit"]["runs"][0]["predicted"] *= 1.01
  path.write_text(json.dumps(content))
  assert main(["verify", str(path)]) == 1
  assert "the seal of" in (said := capsys.readouterr().err) and "was changed" in said


def test_a_fit_names_its_table_by_hash(tmp_path, capsys):
  table, sealed = tmp_path / "runs.csv", tmp_path / "fit.json"
  shutil.copy(SHIPPED / "cells.csv", table)
  fit = ["fit", str(table), "--irreducible=0", "--bootstrap=40", "--run=3e5,2e7"]
  assert main([*fit, f"--seal={sealed}"]) == 0
  assert main(["verify", str(sealed), f"--table={table}"]) == 0
  table.write_text(table.read_text() + "\n")
  assert main(["verify", str(sealed), f"--table={table}"]) == 1
  assert "another table" in capsys.readouterr().err


def test_a_file_without_a_seal_is_refused_in_words(tmp_path, capsys):
  path = tmp_path / "x.json"
  path.write_text("{}")
  assert main(["verify", str(path)]) == 1
  assert "date" in capsys.readouterr().err
