"""Simulated worlds against mechanics, geometry, and a small-step simulation in float64."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import world_physics as physics
from data_pipelines import worlds
from data_pipelines.world_config import GRAVITY, PALETTE, SCENES, SIZES, SPLITS, UNSEEN, Config
from data_pipelines.worlds import Source, caption_text

ALL = tuple(SCENES)
EVALUATION = tuple(split for split in SPLITS if split != "train")
ROUNDING = 2e-5  # world units: some ulps of a coordinate of 10, over a few contacts


def config(**changes) -> Config:
  return Config(**({"size": 32, "frames": 16, "scenes": ALL} | changes))


@functools.cache
def clips(world: Config, count: int) -> dict:
  """The first clips without their pictures, which are then never rendered."""
  decode = Source(world).decode

  def made(index):
    return {k: v for k, v in decode({"index": index}).items() if k != "video"}

  quick = {"xla_backend_optimization_level": 0}  # these tests mostly compile
  made = jax.jit(made, compiler_options=quick)
  return jax.tree.map(np.asarray, made(np.arange(count, dtype=np.uint32)))


@functools.cache
def pictures() -> dict:
  """64 whole clips of all scenes."""
  batch = Source(config()).decode({"index": np.arange(64, dtype=np.uint32)})
  return jax.tree.map(np.asarray, batch)


FRAMES, FPS = 64, 10.0
SIMULATE = jax.jit(
  functools.partial(physics.simulate, extent=10.0, frames=FRAMES, fps=FPS),
)
CLOCK = np.arange(FRAMES) / FPS


def simulate(discs: list[tuple], gravity: float = 0.0):
  """Position, velocity [T,M,2] and contacts [T,M] of discs given as (x, y, vx, vy, r)."""
  rows = np.zeros((physics.DISCS, 5), np.float32)
  rows[: len(discs)] = discs
  present = np.arange(physics.DISCS) < len(discs)
  pull = np.array([0.0, gravity], np.float32)
  made = SIMULATE(rows[:, :2], rows[:, 2:4], rows[:, 4], present, pull)
  return tuple(np.asarray(x) for x in made)


def gaps(state: dict) -> np.ndarray:
  """The least distance between the edges of two discs that exist, or of a disc and a wall."""
  position, radius, present = state["position"], state["radius"], state["present"]
  edge = np.where(present, radius, 0)[:, None, :, None]
  inside = np.minimum(position - edge, 10 - edge - position)
  least = np.where(present[:, None, :, None], inside, np.inf).min((1, 2, 3))
  for i, j in zip(*physics.PAIR):
    apart = np.linalg.norm(position[:, :, i] - position[:, :, j], axis=-1)
    apart = apart - (radius[:, i] + radius[:, j])[:, None]
    pair = (present[:, i] & present[:, j])[:, None]
    least = np.minimum(least, np.where(pair, apart, np.inf).min(1))
  return least


def small_steps(state: dict, fps: float, extent: float, step: float = 2e-4) -> np.ndarray:
  """Positions [B,T,M,2] by small steps in float64: each contact is noticed by its overlap."""
  position = state["position"][:, 0].astype(np.float64)
  velocity = state["velocity"][:, 0].astype(np.float64)
  radius, present = state["radius"].astype(np.float64), state["present"]
  gravity = state["gravity"].astype(np.float64)[:, None] * present[..., None]
  edge, mass = np.where(present, radius, 0)[..., None], np.maximum(radius, 1e-9) ** 2
  path = [position.copy()]
  for _ in range(state["position"].shape[1] - 1):
    for _ in range(round(1 / fps / step)):
      position += velocity * step + gravity * step**2 / 2
      velocity += gravity * step
      for sign, wall in ((1.0, edge), (-1.0, extent - edge)):
        out = (sign * (position - wall) < 0) & (sign * velocity < 0) & present[..., None]
        position = np.where(out, 2 * wall - position, position)
        velocity = np.where(out, -velocity, velocity)
      for i, j in zip(*physics.PAIR):
        apart, drift = position[:, j] - position[:, i], velocity[:, j] - velocity[:, i]
        distance = np.linalg.norm(apart, axis=-1)
        depth = radius[:, i] + radius[:, j] - distance
        normal = apart / np.maximum(distance, 1e-9)[:, None]
        closing = -(drift * normal).sum(-1)
        hit = (depth > 0) & (closing > 0) & present[:, i] & present[:, j]
        if not hit.any():
          continue
        late = np.where(hit, depth / np.where(hit, closing, 1), 0)[:, None]
        back_i = position[:, i] - velocity[:, i] * late
        back_j = position[:, j] - velocity[:, j] * late
        normal = (back_j - back_i) / np.maximum(np.linalg.norm(back_j - back_i, axis=-1), 1e-9)[
          :, None
        ]
        closing = ((velocity[:, i] - velocity[:, j]) * normal).sum(-1)
        push = 2 * closing / (1 / mass[:, i] + 1 / mass[:, j])
        push = np.where(hit, push, 0)[:, None] * normal
        velocity[:, i] -= push / mass[:, i, None]
        velocity[:, j] += push / mass[:, j, None]
        position[:, i] = back_i + velocity[:, i] * late
        position[:, j] = back_j + velocity[:, j] * late
    path.append(position.copy())
  return np.stack(path, 1)


# Mechanics


@pytest.mark.parametrize("radii", [(1.0, 1.0), (0.7, 1.4), (2.0, 0.5)])
def test_a_head_on_collision_is_that_of_the_textbook_at_the_exact_time(radii):
  (r1, r2), (x1, x2), (v1, v2) = radii, (2.5, 7.5), (1.3, -0.9)
  position, velocity, contact = simulate([(x1, 5, v1, 0, r1), (x2, 5, v2, 0, r2)])
  m1, m2 = r1**2, r2**2
  meet = (x2 - x1 - r1 - r2) / (v1 - v2)
  after1 = ((m1 - m2) * v1 + 2 * m2 * v2) / (m1 + m2)
  after2 = ((m2 - m1) * v2 + 2 * m1 * v1) / (m1 + m2)
  speed = np.where(meet <= CLOCK[:, None], [after1, after2], [v1, v2])  # [T,2]
  before = np.minimum(CLOCK, meet)[:, None]
  free = [x1, x2] + before * [v1, v2] + (CLOCK[:, None] - before) * [after1, after2]
  away = ((free > radii) & (free < 10 - np.array(radii))).all(-1)  # from the walls
  away = np.cumprod(away).astype(bool)
  assert away.sum() > 10 * meet + 5
  np.testing.assert_allclose(position[away, :2, 0], free[away], atol=1e-5)
  np.testing.assert_allclose(velocity[away, :2, 0], speed[away], rtol=1e-5)
  np.testing.assert_array_equal(contact[away, 0], (meet <= CLOCK)[away])
  np.testing.assert_array_equal(contact[away, 1], (meet <= CLOCK)[away])
  np.testing.assert_allclose(position[:, :2, 1], 5.0, rtol=1e-6)


def test_a_thrown_disc_flies_a_parabola_and_bounces_to_the_height_it_had():
  x, y, vx, vy, r, g = 3.0, 4.0, 1.7, -2.2, 0.9, 2.5
  position, velocity, contact = simulate([(x, y, vx, vy, r)], gravity=g)
  t, free = CLOCK[:20], slice(20)
  np.testing.assert_array_equal(contact[free, 0], 0)
  np.testing.assert_allclose(position[free, 0, 0], x + vx * t, rtol=1e-6)
  np.testing.assert_allclose(position[free, 0, 1], y + vy * t + g * t**2 / 2, rtol=1e-6)
  np.testing.assert_allclose(velocity[free, 0, 1], vy + g * t, atol=2e-6)
  # Dropped from rest it is back after twice the fall: here each second, for six seconds.
  g = 2 * (10 - r - y) / 0.5**2
  position, _, contact = simulate([(5, y, 0, 0, r)], gravity=g)
  np.testing.assert_allclose(position[:61:10, 0, 1], y, atol=1e-3)
  np.testing.assert_array_equal(contact[:61:10, 0], np.arange(7))


def test_a_disc_between_walls_is_a_folded_straight_line():
  x, v, r = 3.1, 5.3, 1.2
  position, velocity, contact = simulate([(x, 5, v, 0, r)])
  span = 10 - 2 * r
  walked = x - r + v * CLOCK
  folded = np.abs((walked + span) % (2 * span) - span)  # a triangle wave
  np.testing.assert_allclose(position[:, 0, 0], r + folded, atol=1e-4)
  np.testing.assert_array_equal(contact[:, 0], np.floor(walked / span))
  np.testing.assert_allclose(np.abs(velocity[:, 0, 0]), v, rtol=1e-6)


def test_energy_is_conserved_in_every_scene():
  state = clips(config(), 2000)["state"]
  mass = state["radius"][:, None].astype(np.float64) ** 2
  height = 10 - state["position"][..., 1]
  kinetic = 0.5 * (state["velocity"].astype(np.float64) ** 2).sum(-1)
  energy = (mass * (kinetic + state["gravity"][:, None, 1:] * height)).sum(-1)  # [B,T]
  np.testing.assert_allclose(energy, np.broadcast_to(energy[:, :1], energy.shape), rtol=1e-5)


def test_momentum_is_conserved_when_three_discs_collide():
  # Three discs that run at a point, far from any wall.
  rng = np.random.default_rng(0)
  angle = rng.uniform(0, 2 * np.pi, (500, 1)) + np.array([0, 2.1, 4.2])
  way = np.stack([np.cos(angle), np.sin(angle)], -1)  # [B,M,2]
  position = 20 - 4 * way + rng.uniform(-0.5, 0.5, way.shape)
  velocity = way * rng.uniform(1, 4, (500, 3, 1))
  radius = rng.uniform(0.7, 1.4, (500, 3))
  run = functools.partial(physics.simulate, extent=40.0, frames=32, fps=FPS)
  present, still = np.ones((500, 3), bool), np.zeros((500, 2), np.float32)
  start = (x.astype(np.float32) for x in (position, velocity, radius))
  _, speed, contact = jax.jit(jax.vmap(run))(*start, present, still)
  momentum = radius[:, None, :, None] ** 2 * np.asarray(speed, np.float64)
  drift = np.linalg.norm((momentum - momentum[:, :1]).sum(2), axis=-1)
  assert (drift / np.linalg.norm(momentum[:, 0], axis=-1).sum(-1)[:, None]).max() < 1e-5
  assert (np.asarray(contact)[:, -1].sum(-1) >= 2).mean() > 0.9


def test_discs_never_overlap_and_never_leave_the_box():
  worst = min(gaps(clips(config(), 2000)["state"]).min(), gaps(clips(long(), 500)["state"]).min())
  assert worst > -ROUNDING


def long() -> Config:
  return config(scenes=("three",), frames=100, speed=(4.0, 6.0))


def test_the_motion_is_that_of_small_steps_in_float64():
  state = {k: v[:200] for k, v in clips(config(), 2000)["state"].items()}
  error = np.abs(small_steps(state, 10.0, 10.0) - state["position"]).max((1, 2, 3))
  contacts = state["contact"][:, -1].max(-1)
  assert (contacts >= 1).sum() > 80 and (contacts >= 2).sum() > 20
  falls = state["gravity"][:, 1] > 0
  # At the floor the reference gains what gravity gives in a step: 7e-4 units/s.
  assert error[falls].max() < 2e-3
  assert error[~falls].max() < 1e-4


def test_no_motion_reaches_the_bound_on_contacts():
  # The bound turns positions to NaN; the longest and fastest motion here has no such.
  state = clips(long(), 500)["state"]
  assert np.isfinite(state["position"]).all()
  assert state["contact"][:, -1].sum(-1).max() < 0.1 * physics.CONTACTS_PER_FRAME * 100


def test_beyond_the_bound_on_contacts_the_motion_is_nan_and_not_wrong():
  # Dropped from 1e-6 above the floor it hums: 2e5 contacts, where the bound is 4096.
  position, *_ = simulate([(5, 9, 1e-4, 0, 1.0 - 1e-6)], gravity=1e4)
  assert np.isnan(position).all()


# Pictures


def test_a_lone_disc_is_drawn_where_it_is_and_as_large_as_it_is():
  batch = pictures()
  lone = (batch["state"]["present"].sum(1) == 1) & ~batch["state"]["occluder"].any(1)
  assert lone.sum() > 10
  video, state = batch["video"][lone], {k: v[lone] for k, v in batch["state"].items()}
  cover = np.einsum("bthwc,bc->bthw", video, state["color"][:, 0]) / 3
  mass = cover.sum((2, 3))
  centre = np.arange(32) + 0.5
  x, y = (cover.sum(2) * centre).sum(-1) / mass, (cover.sum(3) * centre).sum(-1) / mass
  where, radius = state["position"][:, :, 0] * 3.2, state["radius"][:, :1] * 3.2  # pixels
  assert np.hypot(x - where[..., 0], y - where[..., 1]).max() < 0.06
  # An edge one pixel wide adds pi/12 of a pixel, 2 % at a radius of 2.04 pixels.
  assert np.abs(mass / (np.pi * radius**2 + np.pi / 12) - 1).max() < 0.02
  assert np.abs(mass / (np.pi * radius**2) - 1)[radius[:, 0] > 3].max() < 0.02


@pytest.mark.parametrize("bar", [(3.0, 0.0, 5.2, 10.0), (0.0, 4.1, 10.0, 4.9), (0.0,) * 4])
def test_visible_is_the_fraction_of_the_disc_that_is_drawn(bar):
  size, radius = 128, np.array([1.3, 0.8, 0.0], np.float32)
  rng = np.random.default_rng(0)
  position = rng.uniform(1.4, 8.6, (40, 3, 2)).astype(np.float32)
  hidden = physics.hidden(jnp.array(position), jnp.array(radius), jnp.array(bar))
  draw = jax.jit(functools.partial(physics.render, size=size, extent=10.0))
  black = np.zeros(3, np.float32)
  for disc in (0, 1):
    color = np.eye(3, dtype=np.float32)
    alone = np.arange(3) == disc
    mass = [
      np.asarray(draw(position, radius, color, alone, np.float32(b), black, black)).sum((1, 2, 3))
      for b in (bar, (0.0,) * 4)
    ]
    np.testing.assert_allclose(1 - hidden[:, disc], mass[0] / mass[1], atol=0.01)


def test_any_resolution_shows_the_same_world():
  state = pictures()["state"]
  names = "position", "radius", "color", "present", "occluder", "background", "occluder_color"
  drawn = {}
  for size in (16, 64):
    render = functools.partial(physics.render, size=size, extent=10.0)
    drawn[size] = np.asarray(jax.jit(jax.vmap(render))(*(state[name][:16] for name in names)))
  pooled = drawn[64].reshape(16, 16, 16, 4, 16, 4, 3).mean((3, 5))
  # Not equal: at 16 pixels an edge is four times as wide.
  assert np.abs(pooled - drawn[16]).max() < 0.3
  assert np.abs(pooled - drawn[16]).mean() < 0.01


def test_the_video_is_composed_of_the_colours_of_the_state():
  batch = pictures()
  video, state = batch["video"], batch["state"]
  assert video.dtype == np.float32 and np.abs(video).max() <= 1 + 1e-6
  checked = 0
  for clip, frame, disc in np.argwhere(state["visible"] == 1):
    column, row = (state["position"][clip, frame, disc] * 3.2).astype(int)
    np.testing.assert_allclose(
      video[clip, frame, row, column], state["color"][clip, disc], atol=1e-5
    )
    checked += 1
  assert checked > 1000


# The camera, still discs and strokes


def test_panning_camera_moves_the_picture_of_discs_that_stand_still():
  world = config(scenes=("one",), still=1.0, pan=2.0, size=16, frames=4)
  state, made = clips(world, 16)["state"], clips(world, 16)
  path = state["position"][:, :, 0]  # [B,T,2]
  pan = np.stack([made["pan_x"], made["pan_y"]], -1)
  assert np.abs(pan).max() > 1 and (made["motion"] == 0).all()
  np.testing.assert_allclose(path[:, 3] - path[:, 0], -pan * 3 / world.fps, atol=ROUNDING)
  np.testing.assert_allclose(state["velocity"][:, 2, 0], -pan, atol=ROUNDING)


def test_zooming_camera_moves_discs_away_from_the_middle_and_enlarges_them():
  world = config(scenes=("one",), still=1.0, zoom=1.0, size=32, frames=4)
  made = jax.tree.map(np.asarray, Source(world).decode({"index": np.arange(16, dtype=np.uint32)}))
  away = made["state"]["position"][:, :, 0] - 5.0
  grown = np.exp(made["zoom"] * 3 / world.fps)
  np.testing.assert_allclose(away[:, 3], away[:, 0] * grown[:, None], rtol=1e-4)
  mass = np.abs(made["video"]).sum((2, 3, 4))  # discs are far from the edge where they shrink
  shrinks = made["zoom"] < 0
  np.testing.assert_allclose((mass[:, 3] / mass[:, 0])[shrinks], grown[shrinks] ** 2, rtol=0.02)


def test_share_of_still_discs_is_the_one_asked_for():
  velocity = clips(config(scenes=("two",), still=0.25, frames=2, known=1), 1000)["state"][
    "velocity"
  ]
  still = (velocity[:, 0, :2] == 0).all(-1)
  assert still.mean() == pytest.approx(0.25, abs=0.03)


def test_brush_strokes_lie_on_moving_discs_and_tell_their_displacement():
  world = config(scenes=("two",), still=0.5, brush=True, size=32, frames=2, known=1)
  made = jax.tree.map(np.asarray, Source(world).decode({"index": np.arange(64, dtype=np.uint32)}))
  state, brush = made["state"], made["brush"]
  np.testing.assert_array_equal(brush[:, 0], brush[:, 1])
  for clip in range(64):
    for disc in range(2):
      row, column = (state["position"][clip, 0, disc, ::-1] * 3.2).astype(int)
      velocity = state["velocity"][clip, 0, disc]
      moves = 1.0 if (velocity != 0).any() else -1.0
      want = [moves, *(10 * velocity / (world.fps * world.extent))]
      np.testing.assert_allclose(brush[clip, 0, row, column], want, atol=1e-5)
  covered = (brush[..., 0] > 0).any((1, 2, 3))
  np.testing.assert_array_equal(covered, (state["velocity"][:, 0] != 0).any((1, 2)))


def test_old_worlds_are_unchanged_where_nothing_is_asked_for():
  """The first clip's numbers, as written before cameras were."""
  video = pictures()["video"]
  assert float(video.astype(np.float64).sum()) == pytest.approx(-42411.062, abs=0.05)


# The source


def test_a_clip_does_not_depend_on_its_batch():
  index = np.array([63, 7, 0, 41, 7], np.uint32)
  few = jax.tree.map(np.asarray, Source(config()).decode({"index": index}))
  many = jax.tree.map(lambda x: x[index], pictures())
  jax.tree.map(np.testing.assert_array_equal, few, many)


def test_the_example_has_the_agreed_schema():
  source = Source(config(frames=8, size=16))
  carried = [source[i] for i in (0, 5, len(source) - 1)]
  assert len(source) == 2**31 - 1 and not source.finite and source.shape == (8, 16, 16, 3)
  batch = jax.eval_shape(source.decode, {"index": np.stack([c["index"] for c in carried])})
  shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), batch)
  f = "float32"
  assert shapes == {
    "video": ((3, 8, 16, 16, 3), f),
    "id": ((3,), "uint32"),
    "fps": ((3,), f),
    "caption": ((3, worlds.CAPTION_BYTES), "uint8"),
    "state": {
      "position": ((3, 8, 3, 2), f),
      "velocity": ((3, 8, 3, 2), f),
      "radius": ((3, 3), f),
      "color": ((3, 3, 3), f),
      "present": ((3, 3), "bool"),
      "visible": ((3, 8, 3), f),
      "gravity": ((3, 2), f),
      "occluder": ((3, 4), f),
      "background": ((3, 3), f),
      "occluder_color": ((3, 3), f),
      "contact": ((3, 8, 3), f),
    },
    **dict.fromkeys(("motion", "pan_x", "pan_y", "zoom"), ((3,), f)),
  }
  with pytest.raises(IndexError):
    source[len(source)]


def test_ids_are_unique_and_splits_and_seeds_share_no_clip():
  batches = [clips(world, 2000) for world in (config(), config(split="id"))]
  assert len(np.unique(np.concatenate([batch["id"] for batch in batches]))) == 4000
  starts = [batch["state"]["position"][:, 0, 0] for batch in batches]
  draw = jax.jit(jax.vmap(functools.partial(worlds.draw, config(seed=1))))
  starts.append(np.asarray(draw(np.arange(2000, dtype=np.uint32)).position)[:, 0])
  assert len(np.unique(np.concatenate(starts), axis=0)) == 6000


def test_absent_discs_are_zero():
  state = clips(config(), 2000)["state"]
  absent = ~state["present"]
  assert absent.any()
  for name in ("radius", "color"):
    assert not state[name][absent].any(), name
  for name in ("position", "velocity", "visible", "contact"):
    assert not np.moveaxis(state[name], 1, 2)[absent].any(), name


# Splits


@pytest.mark.parametrize("split", EVALUATION)
def test_the_known_frames_of_every_evaluation_clip_determine_the_rest(split):
  state = clips(config(split=split), 2000)["state"]
  assert np.isfinite(state["position"]).all()
  known, present = slice(0, 3), state["present"]
  assert (state["contact"][:, known] == 0).all()
  assert (state["visible"][:, known] == present[:, None]).all()
  assert gaps({k: v[:, known] if k == "position" else v for k, v in state.items()}).min() > 0
  gravity = state["gravity"][:, 1]
  assert ((gravity == 0) | ((gravity >= 10 * GRAVITY[0]) & (gravity <= 10 * GRAVITY[1]))).all()


def test_a_collision_comes_after_the_known_frames_and_before_the_last():
  for split in ("train", "id", "fast", "slow", "radius"):
    state = clips(config(split=split), 2000)["state"]
    contact = state["contact"]
    line = state["velocity"][:, 0, 0] * state["velocity"][:, 0, 1, ::-1] * [1, -1]
    speed = np.linalg.norm(state["velocity"][:, 0], axis=-1)
    parallel = np.abs(line.sum(-1)) < 1e-4 * speed[:, 0] * speed[:, 1]
    head_on = parallel & (state["present"].sum(1) == 2) & (speed[:, :2].min(1) > 1e-3)
    assert head_on.mean() > 0.1, split
    assert (contact[head_on, 2, :2] == 0).all() and (contact[head_on, -1, :2] >= 1).all()


def test_every_scene_is_as_likely_as_named():
  for split in ("train", "id", "fast"):
    state = clips(config(split=split), 2000)["state"]
    shares = {
      "gravity": state["gravity"][:, 1] > 0,
      "occluder": state["occluder"].any(1),
      "three": state["present"].sum(1) == 3,
    }
    for name, share in shares.items():  # 1/6; 4 standard errors
      assert abs(share.mean() - 1 / 6) < 4 * np.sqrt(5 / 36 / 2000), (split, name)


@pytest.mark.parametrize(
  "split, low, high",
  [("train", 1.0, 4.0), ("id", 1.0, 4.0), ("fast", 4.5, 6.0), ("slow", 0.0, 0.8)],
)
def test_speeds_are_in_the_range_of_the_split(split, low, high):
  state = clips(config(split=split), 2000)["state"]
  speed = np.linalg.norm(state["velocity"][:, 0], axis=-1)[state["present"]]
  assert low - 1e-5 <= speed.min() < low + 0.05 and high - 0.05 < speed.max() <= high + 1e-5


def test_radii_are_in_the_range_of_the_split():
  for split in ("train", "fast"):
    state = clips(config(split=split), 2000)["state"]
    radius = state["radius"][state["present"]]
    assert 0.7 - 1e-6 <= radius.min() < 0.71 and 1.39 < radius.max() <= 1.4 + 1e-6
  state = clips(config(split="radius"), 2000)["state"]
  radius = state["radius"][state["present"]]
  assert (((radius > 0.48) & (radius < 0.6)) | ((radius > 1.49) & (radius < 2.01))).all()
  assert 0.3 < (radius < 1).mean() < 0.7


def looks(state: dict) -> set[tuple[str, str]]:
  """The pairs of colour and size that occur."""
  color, radius = state["color"][state["present"]], state["radius"][state["present"]]
  named = {value: name for name, value in PALETTE.items()}
  return {(named[tuple(c.tolist())], SIZES[int(r > 1.05)]) for c, r in zip(color, radius)}


def test_the_combinations_are_those_that_training_never_shows():
  train = looks(clips(config(), 2000)["state"])
  held = looks(clips(config(split="combination"), 2000)["state"])
  assert held == set(UNSEEN.items())
  assert not train & held
  assert train | held == {(color, size) for color in PALETTE for size in SIZES}
  for split in ("id", "fast", "slow", "count", "occluder"):
    assert looks(clips(config(split=split), 2000)["state"]) <= train


def test_the_colours_of_a_clip_are_linearly_independent():
  state = clips(config(split="count"), 2000)["state"]
  assert (state["present"].sum(1) == 3).all()
  assert np.abs(np.linalg.det(state["color"])).min() > 1


def test_the_occluder_hides_at_least_half_a_disc_in_an_unknown_frame():
  state = clips(config(split="occluder"), 2000)["state"]
  assert (state["visible"][:, 3:, 0].min(1) <= 0.5 + 1e-5).all()
  assert (state["visible"][:, 3:, 0].min(1) < 0.01).mean() > 0.1  # and some wholly


# Captions


def test_captions_name_colours_sizes_ways_and_scene():
  batch = clips(config(), 2000)
  state, seen = batch["state"], set()
  named = {value: name for name, value in PALETTE.items()}
  for row in range(300):
    parts = []
    for disc in np.flatnonzero(state["present"][row]):
      x, y = state["velocity"][row, 0, disc]
      way = ("right" if x > 0 else "left") if abs(x) >= abs(y) else ("down" if y > 0 else "up")
      size = "large" if state["radius"][row, disc] > 1.05 else "small"
      pace = "fast" if np.hypot(x, y) > 2.5 else "slow"
      color = named[tuple(state["color"][row, disc].tolist())]
      parts.append(f"{size} {color} disc moves {way} {pace}")
    scene = " under gravity" if state["gravity"][row, 1] else ""
    scene = " behind a bar" if state["occluder"][row].any() else scene
    text = caption_text(batch["caption"][row])
    assert text == ", ".join(parts) + scene
    seen.add(text)
  assert len(seen) > 150


def test_the_longest_caption_fits():
  disc = f"{max(SIZES, key=len)} {max(PALETTE, key=len)} disc moves right fast"
  longest = len(", ".join([disc] * physics.DISCS) + " under gravity")
  assert longest <= worlds.CAPTION_BYTES


# Errors and the command


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"split": "test"}, "no split 'test'"),
    ({"scenes": ("one", "tow")}, "no scenes"),
    ({"scenes": ()}, "no scenes"),
    ({"known": 16}, "known must be"),
    ({"split": "id", "known": 2, "scenes": ("gravity",)}, "known >= 3, because gravity"),
    ({"split": "id", "known": 1, "scenes": ("one",)}, "known >= 2, because velocity"),
    ({"size": 0}, "size=0 must be >= 1"),
    ({"fps": float("inf")}, "fps=inf must be a finite number and > 0"),
    ({"extent": float("nan")}, "extent=nan must be a finite number and > 0"),
    ({"pan": float("nan")}, "pan=nan must be a finite number and >= 0"),
    ({"zoom": float("inf")}, "zoom=inf must be a finite number and >= 0"),
    ({"speed": (1.0, float("inf"))}, "each a finite number"),
    ({"size": 4}, "half a pixel"),
    ({"radius": (2.0, 3.0)}, "of the box"),
    ({"radius": (1.0, 1.0), "split": "combination"}, "no small and large"),
    ({"frames": 40, "known": 30, "split": "fast"}, "always touch within"),
    ({"frames": 4, "split": "occluder", "speed": (0.5, 1.0)}, "behind a bar"),
    ({"speed": (4.0, 1.0)}, "lowest, highest"),
    ({"seed": -1}, "seed=-1 must be >= 0"),
  ],
)
def test_an_impossible_world_is_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    config(**changes)


def test_the_command_freezes_the_clips_that_the_source_makes(tmp_path):
  from data_pipelines import clips as stored

  out = tmp_path / "frozen"
  flags = f"--out={out} --clips=5 --size=16 --frames=4 --known=2 --split=id --scenes=one,two"
  worlds.main(flags.split())
  world = Config(size=16, frames=4, known=2, split="id", scenes=("one", "two"))
  made = Source(world).decode({"index": np.arange(64, dtype=np.uint32)})
  read = stored.Source(stored.Config(str(out), "id", caption_bytes=worlds.CAPTION_BYTES))
  assert len(read) == 5 and read.shape == (4, 16, 16, 3)
  rows = {int(read[i]["id"]): read[i] for i in range(5)}
  for row in range(5):
    clip = rows[int(made["id"][row])]
    assert np.abs(clip["video"] / 127.5 - 1 - made["video"][row]).max() < 1 / 255 + 1e-5
    assert clip["fps"] == 10
    assert caption_text(clip["caption"]) == caption_text(made["caption"][row])


def test_the_command_refuses_an_impossible_world_and_writes_nothing(tmp_path, capsys):
  with pytest.raises(SystemExit):
    worlds.main(f"--out={tmp_path}/x --clips=2 --size=16 --frames=4 --split=ood".split())
  assert "no split 'ood'" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


@pytest.mark.timing
def test_worlds_make_500_clips_a_second():
  decode = jax.jit(Source(config()).decode)
  batch = np.arange(64, dtype=np.uint32)
  jax.block_until_ready(decode({"index": batch}))
  begin = time.perf_counter()
  for step in range(1, 21):
    jax.block_until_ready(decode({"index": batch + np.uint32(64 * step)}))
  rate = 20 * 64 / (time.perf_counter() - begin)
  print(f"{rate:.0f} clips/s of 16x32x32, batch 64, {jax.devices()[0].device_kind}")
  assert rate >= 500
