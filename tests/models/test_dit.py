import csv
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import check_flops, draw, filled, products_of, relative_error
from videojax.models import dit
from videojax.models.cond import Cond, drop
from videojax.scaling import flops
from videojax.specs import ModelSpec

BASE = dict(width=32, depth=2, num_heads=2, patch=(2, 4, 4), channels=3, dtype="float32")
SHAPE = (2, 4, 16, 16, 3)


def spec(**changes):
  return ModelSpec("dit", dit.Config(**{**BASE, **changes}))


def params_of(model, scale=0.1):
  return filled(model.abstract_params, scale)


def clip(shape=SHAPE, seed=0):
  return draw(shape, seed)


def everything():
  """A config with all conditions, and a batch of them."""
  model = spec(text="bytes", classes=3, scalars=("fps",), known="last")
  text = np.zeros((2, 6), np.uint8)
  text[0, :4], text[1, :2] = (72, 97, 108, 108), (82, 101)
  mask = jnp.zeros((2, 4, 1, 1, 1)).at[:, :2].set(1.0)
  cond = Cond(
    text=jnp.asarray(text), text_mask=jnp.asarray(text != 0), label=jnp.array([0, 2]),
    scalars={"fps": jnp.array([10.0, 24.0])}, known_mask=mask, known=clip(seed=5),
  )  # fmt: skip
  return model, cond


T = jnp.array([[300.0], [700.0]])


@pytest.mark.parametrize("attention", ["joint", "alternating"])
def test_output_is_float32_like_the_input_in_bfloat16_too(attention):
  model = spec(attention=attention, dtype="bfloat16")
  out = model.network(params_of(model))(clip(), T, Cond())
  assert out.shape == SHAPE and out.dtype == jnp.float32


@pytest.mark.parametrize("modulation", ["block", "shared"])
def test_fresh_model_says_zero_and_each_block_is_the_identity(modulation):
  model = spec(text="bytes", modulation=modulation)
  fresh = model.init(jax.random.key(0))
  text = jnp.full((2, 3), 65, jnp.uint8)
  cond = Cond(text=text, text_mask=text != 0)
  np.testing.assert_array_equal(model.network(fresh)(clip(), T, cond), 0.0)
  # With a head that passes tokens on, the input of the blocks is their output.
  network = model.network({**fresh, "head": filled(fresh["head"])})
  bare = spec(text="bytes", depth=1, modulation=modulation).network(
    {
      **fresh,
      "head": filled(fresh["head"]),
      "blocks": jax.tree.map(lambda p: p[:1], fresh["blocks"]),
    }
  )
  np.testing.assert_array_equal(network(clip(), T, cond), bare(clip(), T, cond))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["joint", "alternating"])
def test_scan_and_remat_change_neither_output_nor_gradients(attention):
  model = spec(attention=attention)
  params = params_of(model)

  def run(remat, scan):
    network = spec(attention=attention, remat=remat, scan=scan).network
    loss = lambda p: jnp.square(network(p)(clip(), T, Cond())).mean()
    return jax.jit(jax.value_and_grad(loss))(params)

  want = run("none", True)
  for remat, scan in (
    ("full", True),
    ("attention", True),
    ("attention_dots", True),
    ("offload", True),
    ("none", False),
  ):
    assert relative_error(run(remat, scan), want) < 2e-5, (remat, scan)


def test_alternating_odd_blocks_mix_time_only_and_even_blocks_space_only():
  model = spec(attention="alternating", patch=(1, 4, 4))
  params = params_of(model)
  x = clip()

  def touched(zero):
    cut = jax.tree.map(lambda p: p, params)
    cut["blocks"][zero]["ada"] = jax.tree.map(jnp.zeros_like, cut["blocks"][zero]["ada"])
    network = model.network(cut)
    change = network(x.at[:, 1, 5, 5].add(1.0), T, Cond()) - network(x, T, Cond())
    moved = jnp.abs(change).max((0, 4)) > 1e-6  # [T,H,W]
    return moved.any((1, 2)), moved.any(0)

  frames, _ = touched("temporal")
  np.testing.assert_array_equal(frames, [False, True, False, False])
  _, places = touched("spatial")
  patch = np.zeros((16, 16), bool)
  patch[4:8, 4:8] = True
  np.testing.assert_array_equal(places, patch)


def test_dropped_conditions_equal_never_given_ones():
  model, cond = everything()
  network = model.network(params_of(model))
  other = Cond(
    text=jnp.flip(cond.text, 1), text_mask=jnp.zeros_like(cond.text_mask),
    label=jnp.array([-1, -1]), scalars={"fps": jnp.full(2, jnp.nan)},
    known_mask=cond.known_mask, known=cond.known,
  )  # fmt: skip
  dropped = drop(cond, ("text", "label", "scalars"))
  np.testing.assert_allclose(network(clip(), T, dropped), network(clip(), T, other), atol=1e-6)
  assert not np.allclose(network(clip(), T, cond), network(clip(), T, dropped), atol=1e-3)


@pytest.mark.parametrize("field", ["text", "label", "fps", "known", "t"])
def test_every_condition_moves_the_output(field):
  model, cond = everything()
  network = model.network(params_of(model))
  changes = {
    "text": {"text": cond.text.at[:, 0].add(1)},
    "label": {"label": cond.label - 1 + 2 * (cond.label == 0)},
    "fps": {"scalars": {"fps": cond.scalars["fps"] + 5}},
    "known": {"known": cond.known + 0.5},
    "t": {},
  }[field]
  fields = {f: getattr(cond, f) for f in ("text", "text_mask", "label", "scalars", "known_mask")}
  changed = Cond(**{**fields, "known": cond.known, **changes})
  t = T + 50 if field == "t" else T
  assert jnp.abs(network(clip(), t, changed) - network(clip(), T, cond)).max() > 1e-4


def test_values_of_unknown_frames_are_never_seen():
  model, cond = everything()
  network = model.network(params_of(model))
  hidden = Cond(
    text=cond.text, text_mask=cond.text_mask, label=cond.label, scalars=cond.scalars,
    known_mask=cond.known_mask, known=cond.known.at[:, 2:].set(9.0),
  )  # fmt: skip
  np.testing.assert_array_equal(network(clip(), T, hidden), network(clip(), T, cond))


def test_known_channels_hold_the_last_known_value_and_its_change():
  from videojax.models.layers import known_channels

  x = jnp.zeros((1, 4, 1, 1, 1))
  values = jnp.array([1.0, 3.0, 7.0, 9.0]).reshape(1, 4, 1, 1, 1)
  mask = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 4, 1, 1, 1)
  got = known_channels(x, Cond(known_mask=mask, known=values), "last")[0, :, 0, 0]
  np.testing.assert_array_equal(got, [[1, 1, 0], [1, 3, 2], [0, 3, 2], [0, 3, 2]])
  got = known_channels(x, Cond(known_mask=mask, known=values), "zeros")[0, :, 0, 0]
  np.testing.assert_array_equal(got, [[1, 1], [1, 3], [0, 0], [0, 0]])


def test_one_level_per_frame_equals_one_level_per_clip_where_they_agree():
  model = spec()
  network = model.network(params_of(model))
  per_frame = jnp.broadcast_to(T, (2, 4))
  np.testing.assert_allclose(
    network(clip(), per_frame, Cond()), network(clip(), T, Cond()), atol=1e-5
  )
  later = per_frame.at[:, 2:].add(100.0)
  assert not np.allclose(network(clip(), later, Cond()), network(clip(), T, Cond()), atol=1e-3)


def test_image_is_a_clip_of_one_frame_whatever_the_temporal_patch():
  model = spec()
  assert model.network(params_of(model))(clip((2, 1, 16, 16, 3)), T, Cond()).shape == (
    2, 1, 16, 16, 3,
  )  # fmt: skip


def test_rope_makes_attention_depend_on_relative_position_alone():
  from videojax.models.layers import rope_angles, rotate

  q, k = clip((1, 4, 16, 1, 12), 1), clip((1, 4, 16, 1, 12), 2)
  q = jnp.broadcast_to(q[:, :1, :1], q.shape)
  k = jnp.broadcast_to(k[:, :1, :1], k.shape)
  angles = rope_angles((4, 4, 4), 12, 1e4)
  q, k = (rotate(x, angles)[0, :, :, 0].reshape(4, 4, 4, 12) for x in (q, k))
  score = lambda a, b: float((q[a] * k[b]).sum())
  assert score((0, 0, 0), (1, 2, 1)) == pytest.approx(score((2, 1, 2), (3, 3, 3)), abs=1e-4)
  assert score((0, 0, 0), (1, 2, 1)) != pytest.approx(score((0, 0, 0), (2, 1, 1)), abs=1e-3)


def test_conditions_that_are_not_declared_are_refused():
  model = spec(classes=3)
  with pytest.raises(ValueError, match="declares the conditions"):
    model.network(model.init(jax.random.key(0)))(clip(), T, Cond())


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(num_heads=3), "width=32 is not divisible by num_heads=3"),
    (dict(attention="alternating", depth=3), "depth=3 must be even"),
    (dict(remat="some"), "no remat policy 'some'"),
    (dict(depth=0), "depth=0 must be >= 1"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    dit.Config(**{**BASE, **changes})


# --- counts ----------------------------------------------------------------------------------

# videojax's formula for DiT's parameters, written out; facts: Peebles & Xie 2023, Table 4.
EXACT = {
  ("S", 8): 33_142_016, ("S", 4): 32_920_448, ("S", 2): 32_865_056,
  ("B", 8): 130_869_248, ("B", 4): 130_426_496, ("B", 2): 130_315_808,
  ("L", 8): 458_578_432, ("L", 4): 457_988_224, ("L", 2): 457_840_672,
  ("XL", 8): 675_664_640, ("XL", 4): 675_000_704, ("XL", 2): 674_834_720,
}  # fmt: skip


def table4():
  with open(Path(__file__).parent.parent / "golden" / "dit_table4.csv") as file:
    rows = [r for r in csv.DictReader(file) if r["block"] == "adaLN-Zero"]
  rows = [r for r in rows if r["train_ksteps"] == "400" and r["resolution"] == "256"]
  assert len(rows) == 12
  return rows


@pytest.mark.parametrize("row", table4(), ids=lambda r: f"{r['model']}/{r['patch']}")
def test_dit_image_has_the_published_parameters_and_flops(row):
  patch = int(row["patch"])
  config = dit.Config(**dit.SIZES[row["model"]], patch=(1, patch, patch), **dit.DIT_IMAGE)
  shapes = jax.tree.leaves(ModelSpec("dit", config).abstract_params)
  parameters = sum(math.prod(s.shape) for s in shapes)
  assert parameters == EXACT[row["model"], patch]
  assert round(parameters / 1e6) == int(row["params_M"])
  gmacs = flops.forward(products_of(ModelSpec("dit", config), (1, 32, 32, 4)))["total"] / 2e9
  tolerance = 0.007 if (row["model"], patch) == ("S", 8) else 0.002
  assert gmacs == pytest.approx(float(row["gflops_paper"]), rel=tolerance)


CASES = [
  (dict(), SHAPE[1:], 1, 0),
  (dict(attention="alternating", known="last"), SHAPE[1:], 1, 0),
  (dict(text="bytes", scalars=("fps",), classes=3), SHAPE[1:], 4, 6),
  (dict(text=20, head_dim=24), SHAPE[1:], 1, 6),
  (dict(modulation="shared"), SHAPE[1:], 4, 0),
  (dict(), (1, 16, 16, 3), 1, 0),
]


@pytest.mark.parametrize("changes,shape,levels,length", CASES)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels, length):
  check_flops(spec(**changes), shape, levels, length)


def test_backward_is_twice_forward_less_the_products_without_input_gradient():
  products = products_of(ModelSpec("dit", dit.Config(**BASE)), SHAPE[1:])
  missing = sum(2 * p.macs for p in products if p.gradients == 1)
  assert missing > 0 and {p.gradients for p in products} == {1, 2}
  assert flops.backward(products) == 2 * flops.forward(products)["total"] - missing
  assert flops.step(products)["total"] == 3 * flops.forward(products)["total"]


def test_xla_counts_the_same_flops_for_an_unscanned_model_within_4_percent():
  config = dit.Config(**dit.SIZES["S"], patch=(2, 4, 4), channels=3, dtype="float32", scan=False)
  model = ModelSpec("dit", config)
  shape = (8, 64, 64, 3)
  x, t = jax.ShapeDtypeStruct((1, *shape), jnp.float32), jnp.zeros((1, 1))
  network = lambda params, x: model.network(params)(x, t, Cond())
  found = jax.jit(network).lower(model.abstract_params, x).cost_analysis()["flops"]
  assert found == pytest.approx(flops.forward(products_of(model, shape))["total"], rel=0.04)


def test_a_label_table_row_is_found_by_path_and_axes():
  model, _ = everything()
  info = model.info
  assert info["blocks/attention/qkv/kernel"].axes == (
    "layers", "embed", None, "heads", "head_dim",
  )  # fmt: skip
  assert info["label"].axes == ("vocab", "embed") and info["label"].inputs == 0
  assert set(info) == {
    "/".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(model.abstract, nnx.Param))
  }
