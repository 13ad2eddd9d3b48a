"""The command that measures classical codecs: its files, its figure and its refusals."""

import csv
import math
import re

import numpy as np
import pytest

from videojax.measures.rate_distortion import Curve, Point
from videojax.report import rate_distortion as report


def curve(codec, rates, psnrs, errors=(0.1, 0.2, 0.3, 0.4)):
  points = [
    Point(f"crf {i}", r, 100.0, p, 0.9, {} if e is None else {report.POSITION: e})
    for i, (r, p, e) in enumerate(zip(rates, psnrs, errors))
  ]
  return Curve(codec, "how it ran", (2, 4, 16, 16), points)


RATES, PSNRS = (0.1, 0.2, 0.4, 0.8), (30.0, 33.0, 36.0, 39.0)


def test_the_figure_has_a_line_per_codec_on_axes_for_psnr_and_for_each_error_of_all():
  a, b = curve("a", RATES, PSNRS), curve("b", RATES, (*PSNRS[:3], math.inf))
  panels = report.draw([a, b], {report.POSITION: 0.01})
  psnr, error = panels.axes
  assert [len(c.lines[0].get_xdata()) for c in psnr.containers] == [4, 3]  # no infinite point
  assert [len(c.lines[0].get_xdata()) for c in error.containers] == [4, 4]
  assert psnr.get_xscale() == "log"
  assert "true clips (floor)" in panels.csv()
  alone = report.draw([a, curve("b", RATES, PSNRS, [None] * 4)], {})
  assert len(alone.axes) == 1


def test_the_comparison_says_by_how_much_or_why_not():
  anchor = curve("a", RATES, PSNRS)
  half, far = (
    curve("half", 0.5 * np.array(RATES), PSNRS),
    curve("far", RATES, (50.0, 52.0, 54.0, 56.0)),
  )
  first, second = report.compared([anchor, half, far]).splitlines()
  assert first == (
    "half against a: -50.0 % of the rate at equal PSNR, over 30.0 to 39.0 dB "
    "(100 % of the curves' range)"
  )
  assert second.startswith("no psnr_db is reached by both curves (a 30 to 39, far 50 to 56)")


def test_the_command_measures_a_world_and_writes_table_and_figure(tmp_path, capsys):
  flags = "--data=worlds", "--size=16", "--frames=5", "--clips=1", f"--out={tmp_path}"
  assert report.main(list(flags)) == 0
  rows = list(csv.DictReader((tmp_path / "rate_distortion.csv").open()))
  assert {row["codec"] for row in rows} == {
    "x264 4:4:4", "x264 4:2:0", "x265 4:4:4", "x265 4:2:0", "svt-av1 4:2:0"
  }  # fmt: skip
  assert all(float(row["bits_per_pixel"]) > 0 and row["position_error_px"] for row in rows)
  assert "padded to 32x32" in next(row["detail"] for row in rows if row["codec"] == "x265 4:4:4")
  assert (tmp_path / "rate_distortion.png").stat().st_size > 10_000
  # x265 against x264 of each chroma format, and AV1
  assert len(capsys.readouterr().out.split("\n\n")[-1].strip().splitlines()) == 3


@pytest.mark.parametrize(
  "flags,words",
  [
    (("--data=worlds",), "--data=worlds needs --size and --frames"),
    (("--data=/nowhere",), "no directory /nowhere"),
    (("--data=worlds", "--size=8", "--frames=2", "--clips=0"), "--clips=0 must be at least 1"),
    (("--data=worlds", "--size=8", "--frames=5", "--clips=1"), "at least 11x11 pixels, not 8x8"),
    (("--data=worlds", "--size=8", "--frames=5", "--split=x"), "no .*'x'"),
  ],
)
def test_the_commands_mistakes_are_one_line(flags, words, tmp_path, capsys):
  with pytest.raises(SystemExit):
    report.main([*flags, f"--out={tmp_path}"])
  assert re.search(words, capsys.readouterr().err.splitlines()[-1])
