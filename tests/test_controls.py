import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import filled, tiny
from videojax import controls
from videojax.controls import ControlsConfig
from videojax.data import stack_examples
from videojax.diffusion.samplers import Sampler
from videojax.errors import ConfigError
from videojax.models.cond import Cond, check_cond, drop, drop_one, each_frame
from videojax.modes.cascade import continued
from videojax.sample import GuidanceConfig, generate

X = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4, 8, 8, 3)), jnp.float32)
KEYS = jax.random.split(jax.random.key(1), 4)
EXAMPLE = {"video": X, "id": jnp.arange(4, dtype=jnp.uint32)}


@pytest.mark.parametrize(
  "mask,given",
  [("start", [1, 1, 0, 0, 0]), ("one", [1, 0, 0, 0, 0]), ("none", [0, 0, 0, 0, 0]),
   ("ends", [1, 1, 0, 0, 1]), ("sparse", [1, 0, 1, 0, 1])],
)  # fmt: skip
def test_masks_of_whole_frames_give_the_frames_they_name(mask, given):
  assert controls.given_frames(mask, 5, known=2, every=2) == given


def test_repaint_gives_what_canvas_does_not():
  for key in KEYS:
    canvas, repaint = (controls.region(m, (16, 16), key) for m in ("canvas", "repaint"))
    np.testing.assert_array_equal(canvas + repaint, 1)
    assert 0.1 < canvas.mean() < 0.45
    rows, columns = np.nonzero(np.asarray(canvas))  # a box
    assert canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


def test_low_resolution_is_the_mean_of_its_blocks_without_noise():
  low, strength = controls.make("low", X, EXAMPLE, ControlsConfig(low=(2, 4, 4)), None)
  want = np.asarray(X)[:, ::2].reshape(4, 2, 2, 4, 2, 4, 3).mean((3, 5))
  np.testing.assert_allclose(low, want.repeat(2, 1).repeat(4, 2).repeat(4, 3), atol=1e-6)
  np.testing.assert_array_equal(strength, 0)


def test_noise_of_a_volume_has_the_strength_that_is_told():
  x = jnp.zeros((4, 1, 64, 64, 3))
  for name, size in (("low", 4), ("first", 1)):
    volume, strength = controls.make(name, x, EXAMPLE | {"video": x}, ControlsConfig(), KEYS)
    assert len(set(np.asarray(strength).tolist())) == 4
    noise = np.asarray(volume)[:, 0, ::size, ::size]
    np.testing.assert_allclose(noise.std((1, 2, 3)), strength, rtol=0.1)


def test_blurred_edges_are_those_of_a_blurred_clip_and_a_step_has_its_height():
  step = np.zeros((4, 1, 8, 8, 3), np.float32)
  step[:, :, :, 4:] = 1
  example = EXAMPLE | {"video": jnp.asarray(step)}
  edges, _ = controls.make("edges", example["video"], example, ControlsConfig(), None)
  np.testing.assert_allclose(edges[0, 0, 3, :, 0], [0, 0, 0, 0.5, 0.5, 0, 0, 0], atol=1e-5)
  example |= {"blur": jnp.array([0.0, 1.0, 2.0, 3.0])}
  blurred, _ = controls.make("edges", example["video"], example, ControlsConfig(), KEYS)
  height = np.asarray(blurred[:, 0, 3, :, 0]).max(-1)
  np.testing.assert_allclose(height[:2], [0.5, 1 / 3], atol=1e-5)
  assert (np.diff(height) < 0).all()


def test_each_scalar_and_volume_can_be_left_out_by_itself():
  cond = Cond(
    scalars={"a": jnp.ones(2), "b": jnp.ones(2)}, volumes={"low": jnp.ones((2, 1, 1, 1, 1))}
  )
  rows = jnp.array([True, False])
  one = drop_one(cond, "scalars", "a", rows)
  np.testing.assert_array_equal(one.scalars["a"], [np.nan, 1])
  np.testing.assert_array_equal(one.scalars["b"], 1)
  np.testing.assert_array_equal(
    drop_one(cond, "volumes", "low", rows).volumes["low"][:, 0], [[[[0]]], [[[1]]]]
  )


STEERED = dict(
  model__scalars=("motion", "blur"), model__volumes={"edges": 1, "brush": 3},
  data__worlds__brush=True, condition__masks=("start", "ends", "sparse", "repaint", "canvas"),
  condition__drop_each=0.5,
)  # fmt: skip


def prepared(keys, **changes):
  task = tiny(**STEERED, **changes).task("worlds")
  example = task.source.decode(stack_examples(task.source, range(64)))
  return task, task.prepare({}, example, keys)


def test_training_draws_a_mask_per_row_and_measuring_takes_the_first():
  keys = jax.random.split(jax.random.key(0), 64)
  task, (x, cond) = prepared(keys)
  check_cond(cond, task.model.config)
  shares = np.asarray(cond.known_mask).mean((1, 2, 3, 4))
  whole = {tuple(m) for m in np.asarray(cond.known_mask[:, :, 0, 0, 0])}
  assert len(set(shares.tolist())) > 5 and {(1, 1, 0, 0), (1, 1, 0, 1), (1, 0, 0, 0)} <= whole
  _, (_, cond) = prepared(None)
  np.testing.assert_array_equal(cond.known_mask[:, :, 0, 0, 0], [[1, 1, 0, 0]] * 64)


def test_loss_with_all_controls_is_finite_and_has_no_part_in_what_is_given():
  task, _ = prepared(None)
  keys = jax.random.split(jax.random.key(0), 8)
  params = filled(task.model.abstract_params)
  loss, _ = jax.jit(task.loss)(params, stack_examples(task.source, range(8)), keys)
  assert np.isfinite(loss).all()


def test_unknown_control_is_named_before_anything_runs():
  from videojax.errors import ConfigError
  from videojax.runs.program import check_loss

  e = tiny(model__volumes={"depth": 1})
  with pytest.raises(ConfigError, match="depth"):
    check_loss(e, {"worlds": e.task("worlds")})


def test_frames_alone_are_denoised_as_images():
  cond = Cond(
    known_mask=jnp.zeros((2, 3, 1, 1, 1)).at[:, 0].set(1.0),
    known=jnp.arange(6.0).reshape(2, 3, 1, 1, 1), volumes={"low": jnp.ones((2, 3, 1, 1, 1))},
    scalars={"fps": jnp.array([1.0, 2.0])},
  )  # fmt: skip
  cut = each_frame(cond, 3)
  assert cut.known.shape == (3, 2, 1, 1, 1, 1)
  np.testing.assert_array_equal(cut.known[2, :, 0, 0, 0, 0], [2, 5])
  np.testing.assert_array_equal(cut.scalars["fps"], [[1, 2]] * 3)


def test_no_temporal_guidance_makes_frames_that_ignore_each_other():
  """With w_t = 0 the first frame's sample does not depend on the noise of the others."""
  e = tiny(
    model__known=None, condition__known_frames=0, data__worlds__known=0, model__patch=(1, 4, 4),
    evaluate__splits={"id": {"split": "train"}},
  )  # fmt: skip
  task, params = e.task("worlds"), filled(e.model.abstract_params, 0.3)
  example = task.source.decode(stack_examples(task.source, range(2)))

  def sampled(temporal, **kw):
    guidance = GuidanceConfig(temporal=temporal)
    make = lambda p: generate(task, Sampler(steps=2, **kw), guidance, p, example)
    return np.asarray(jax.jit(make)(params))

  same = sampled(0.0, shared_noise=True)  # images from one noise are one image
  np.testing.assert_allclose(same, np.broadcast_to(same[:, :1], same.shape), atol=1e-5)
  together = sampled(1.0, shared_noise=True)
  assert np.abs(together - together[:, :1]).max() > 1e-3


def test_drop_takes_volumes_and_image_tokens_away():
  cond = Cond(
    image=jnp.ones((2, 3, 4)),
    image_mask=jnp.ones((2, 3), bool),
    volumes={"low": jnp.ones((2, 1, 2, 2, 1))},
  )
  gone = drop(cond, ("image", "volumes"), jnp.array([True, False]))
  np.testing.assert_array_equal(gone.image_mask, [[False] * 3, [True] * 3])
  np.testing.assert_array_equal(gone.volumes["low"].sum((1, 2, 3, 4)), [0, 4])


def test_low_resolution_of_latents_is_of_pixels_and_the_same_as_an_earlier_stage_brings_it():
  """A latent position covers 2x2 pixels, a value of the low resolution 4x4."""
  e = tiny(
    model__patch=(1, 2, 2), model__known=None, model__volumes={"low": 3},
    model__scalars=("low_noise",), condition__known_frames=0, controls={"low": (1, 4, 4)},
    codec={"name": "unshuffle", "side": 2},
  )  # fmt: skip
  task = e.task("worlds")
  example = task.source.decode(stack_examples(task.source, range(2)))
  x, cond = task.prepare({}, example)
  assert x.shape == (2, 4, 8, 8, 12)
  coarse = controls.shrink(example["video"], (1, 4, 4))
  np.testing.assert_allclose(cond.volumes["low"], coarse.repeat(2, 2).repeat(2, 3), atol=1e-6)
  _, handed = task.prepare({}, continued(task, example, coarse))
  np.testing.assert_allclose(handed.volumes["low"], cond.volumes["low"], atol=1e-6)


def test_low_resolution_finer_than_the_latents_is_refused():
  with pytest.raises(ConfigError, match=r"low=\(1, 3, 3\) must be multiples.*\(1, 2, 2\)"):
    tiny(
      model__patch=(1, 2, 2), model__known=None, model__volumes={"low": 3},
      model__scalars=("low_noise",), condition__known_frames=0, controls={"low": (1, 3, 3)},
      codec={"name": "unshuffle", "side": 2},
    ).task("worlds")  # fmt: skip
