"""The figure of compression: what is added up, and what is averaged."""

import json
import math
from pathlib import Path

import pytest

from videojax.errors import ConfigError
from videojax.report import compression
from videojax.scaling.cells import Cell, Row


def row(name, seed, position, *, codec=None, clip=(100, 3000, 500)):
  encode, denoise, decode = clip
  return Row(
    cell=Cell(f"{name}_total1e+13_seed{seed}", {}), directory=Path("cells", name),
    status="finished", config={"evaluate": {"main": "id"}, "codec": {"config": {"weights": codec}}},
    result={
      "steps": 7, "clips": 70, "flops": {"total": 9e12},
      "clip": {
        "seconds": 0.5, "encode_flops": encode, "denoise_flops": denoise, "decode_flops": decode
      },
      "coherence": {
        "position_error_px": {"id": position, "floor": 0.01},
        "permanence": {"id": 0.9, "floor": 1.0},
      },
      "coherence_stderr": {"position_error_px": {"id": 0.3}, "permanence": {"id": 0.01}},
    },
  )  # fmt: skip


@pytest.fixture
def rows(tmp_path, monkeypatch):
  made = {
    "flops": {"total": 5e12},
    "coherence": {"position_error_px": {"id": 0.2}, "permanence": {"id": 0.97}},
  }
  (tmp_path / "result.json").write_text(json.dumps(made))
  codec = str(tmp_path)
  rows = [
    row("pixels", 0, 4.0, clip=(0, 3000, 0)), row("4x8", 0, 2.0, codec=codec),
    row("4x8", 1, 3.0, codec=codec),
    Row(Cell("4x8_total1e+13_seed2", {}), tmp_path, "waiting", {}, {}),
  ]  # fmt: skip
  monkeypatch.setattr(compression, "read_sweep", lambda sweep: rows)
  return rows


def test_the_codecs_training_and_encoding_count_and_a_second_of_video_is_a_second(rows, tmp_path):
  pixels, latents = compression.read(tmp_path)
  assert (pixels.name, pixels.seeds, latents.name, latents.seeds) == ("pixels", 1, "4x8", 2)
  assert latents.row["train_flops"] == 9e12 + 5e12 + 70 * 100
  assert latents.row["generate_flops_per_second"] == (3000 + 500) / 0.5
  assert pixels.row["train_flops"] == 9e12 and pixels.row["generate_flops_per_second"] == 6000
  assert latents.floors["position_error_px"] == 0.2 and pixels.floors["position_error_px"] == 0.01


def test_errors_are_of_the_clips_that_seeds_share_and_of_the_seeds(rows, tmp_path):
  pixels, latents = compression.read(tmp_path)
  assert latents.means["position_error_px"] == 2.5
  assert latents.errors["position_error_px"] == pytest.approx(math.hypot(0.3, 0.5))
  assert pixels.errors["position_error_px"] == pytest.approx(0.3)


def test_the_command_writes_table_and_figure(rows, tmp_path, capsys):
  assert compression.main([f"--sweep={tmp_path}", f"--out={tmp_path / 'out'}"]) == 0
  assert "4x8" in capsys.readouterr().out
  drawn = (tmp_path / "out" / "compression.csv").read_text()
  assert drawn.startswith("panel,line,marks,") and "floor of 4x8" in drawn
  for suffix in ("png", "svg"):
    assert (tmp_path / "out" / f"compression.{suffix}").stat().st_size > 10_000


def test_a_sweep_without_a_finished_cell_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(compression, "read_sweep", lambda sweep: [])
  with pytest.raises(ConfigError, match="no finished cell"):
    compression.read(tmp_path)
