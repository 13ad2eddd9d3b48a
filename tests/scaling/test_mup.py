"""muP: which parameter is what, and what it does to training at other widths."""

import json

import jax
import numpy as np
import pytest

from tests.helpers import relative_error, tiny
from videojax.errors import ConfigError
from videojax.modes.coordinate_check import coordinates
from videojax.runs.run_state import (
  create_state,
  make_update,
  mup_rules,
)
from videojax.scaling.product_sizes import product_sizes, slopes

WIDE = dict(model__width=128, model__num_heads=8, model__head_dim=16)


# Zheng et al. 2025, Table 5, with Yang et al. 2022, Table 8: what is input, hidden, output, vector.
ROLES = {
  "patch/kernel": "input", "time/hidden/kernel": "input", "time/out/kernel": "hidden",
  "blocks/attention/qkv/kernel": "hidden", "blocks/attention/out/kernel": "hidden",
  "blocks/up/kernel": "hidden", "blocks/down/kernel": "hidden", "blocks/ada/kernel": "hidden",
  "head_ada/kernel": "hidden", "head/kernel": "output", "head/bias": "vector",
  "blocks/attention/q_norm/scale": "vector", "blocks/ada/bias": "vector", "label": "vector",
  "blocks/cross/q/kernel": "hidden", "blocks/cross/out/kernel": "hidden",
}  # fmt: skip


@pytest.mark.parametrize("text,kv", [("bytes", "hidden"), (48, "input")])
def test_every_parameter_of_the_dit_has_its_published_role(text, kv):
  rules = mup_rules(tiny(mup_base_width=32, model__text=text, model__classes=10, **WIDE))
  got = {path: rules[path].role for path in ROLES}
  assert got == ROLES
  # Text of a fixed width enters like pixels; a trained encoder's grows with the model.
  assert rules["blocks/cross/kv/kernel"].role == kv
  if text == "bytes":
    assert rules["text/table"].role == "vector" and rules["text/qkv/kernel"].role == "hidden"


def test_learning_rates_and_starts_follow_the_table():
  base, wide = tiny(), tiny(mup_base_width=32, **WIDE)
  rules, m = mup_rules(wide), 4
  assert rules["blocks/up/kernel"].rate == rules["head/kernel"].rate == 1 / m
  assert rules["patch/kernel"].rate == rules["blocks/up/bias"].rate == 1
  rms = lambda e, *path: _rms(_leaf(create_state(e, make_update(e)[0]).trainable, path))
  up, patch = ("blocks", "up", "kernel"), ("patch", "kernel")
  # hidden: std falls as 1/sqrt(width); input: as at the base width, whatever Xavier says
  assert rms(wide, *up) == pytest.approx(rms(base, *up) / np.sqrt(m), rel=0.05)
  assert rms(wide, *patch) == pytest.approx(rms(base, *patch), rel=0.05)


def _rms(x):
  return float(np.sqrt(np.mean(np.square(x))))


def _leaf(tree, path):
  for name in path:
    tree = tree[name]
  return tree


def test_at_its_base_width_mup_changes_nothing():
  plain, same = tiny(), tiny(mup_base_width=32)
  assert all(rule[1:] == (1.0, 1.0) for rule in mup_rules(same).values())
  states = [create_state(e, make_update(e)[0]) for e in (plain, same)]
  assert relative_error(states[0].trainable, states[1].trainable) == 0


def test_mup_scales_the_update_but_not_the_weight_decay():
  e = tiny(mup_base_width=32, optim__weight_decay=0.1, optim__clip=0.0, **WIDE)
  tx = make_update(e)[0]
  state = create_state(e, tx)
  grads = jax.tree.map(np.ones_like, state.trainable)
  updates, _ = tx.update(grads, state.opt_state, state.trainable)
  up = ("blocks", "up", "kernel")
  want = -(1 / 4 + 0.1 * np.asarray(_leaf(state.trainable, up)))  # Adam's first step is the sign
  np.testing.assert_allclose(_leaf(updates, up), want, rtol=1e-4)


def test_muon_with_mup_is_refused():
  with pytest.raises(ConfigError, match="Muon's updates transfer without it"):
    make_update(tiny(mup_base_width=32, optim__name="muon"))


def test_product_sizes_are_those_of_the_products():
  rng = np.random.default_rng(0)
  params = {"a": rng.standard_normal((4, 5)), "b": rng.standard_normal((5, 3))}
  x = rng.standard_normal((7, 4)).astype(np.float32)

  def f(p, x):
    h = jax.jit(lambda p: x @ p["a"].astype(np.float32))(p)  # inside another function too
    return (h.T @ h) @ p["b"].astype(np.float32)

  got = product_sizes(f, params, x, names=["a", "b"])
  h = x @ params["a"]
  want = {"a": h, "scores": h.T @ h, "b": h.T @ h @ params["b"]}
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert float(got[name]) == pytest.approx(_rms(value), rel=1e-5)


def test_slope_of_a_power_law_is_its_exponent():
  widths = [64, 128, 256]
  sizes = [{"a": 3 * w**0.5, "b": 2.0, "zero": 0.0} for w in widths]
  assert slopes(widths, sizes) == pytest.approx({"a": 0.5, "b": 0.0}, abs=1e-9)


CHECK = dict(
  model__width=64, model__head_dim=32, optim__learning_rate=3e-3, optim__clip=0.0,
)  # fmt: skip


def steepest(written, name):
  found = written[f"{name}_slopes"].values()
  return max(abs(v) for by_product in found for v in by_product.values())


@pytest.mark.slow
def test_activations_keep_their_size_from_width_64_to_1024_under_mup_alone(tmp_path):
  written = coordinates(tiny(**CHECK), tmp_path / "check")
  assert written["widths"] == [64, 128, 256, 512, 1024] and written["steps"] == [1, 3, 10]
  assert steepest(written, "mup") < 0.25 and steepest(written, "standard") > 1.0
  assert (tmp_path / "check" / "coordinates.png").stat().st_size > 10_000
  assert json.loads((tmp_path / "check" / "coordinates.json").read_text()) == written


@pytest.mark.slow
def test_activations_grow_with_the_width_without_mup(tmp_path, monkeypatch):
  monkeypatch.setattr("videojax.modes.coordinate_check.DOUBLINGS", 2)
  monkeypatch.setattr("videojax.modes.coordinate_check.STEPS", (1, 4))
  written = coordinates(tiny(**CHECK), tmp_path / "check")
  assert steepest(written, "mup") < 0.3 and steepest(written, "standard") > 0.6
