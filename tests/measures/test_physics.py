"""Coherence against closed forms: discs drawn here, at known places, by the renderer's rule."""

import functools

import jax
import numpy as np
import pytest

from videojax.measures import disc_masses, physics

EXTENT, FPS, KNOWN, T = 10.0, 10.0, 3, 13
TIME = np.arange(T) / FPS
RED, GREEN, BLUE = (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0)
YELLOW = (1.0, 1.0, -1.0)
NOWHERE = (0.0, 0.0, 0.0, 0.0)


def box(occluder, size):
  """Area of each pixel [H,W] inside (x0,y0,x1,y1)."""
  low = np.arange(size) * EXTENT / size
  high = low + EXTENT / size
  x0, y0, x1, y1 = occluder
  x = np.clip(np.minimum(high, x1) - np.maximum(low, x0), 0, None)
  y = np.clip(np.minimum(high, y1) - np.maximum(low, y0), 0, None)
  return y[:, None] * x[None, :] * (size / EXTENT) ** 2


def paint(position, radius, color, size, occluder=NOWHERE, frames=None):
  """Frames [T,H,W,3] of discs at position [T,M,2] on grey, behind a black occluder."""
  centre = (np.arange(size) + 0.5) * EXTENT / size
  video = np.zeros((len(position), size, size, 3)) if frames is None else frames.copy()
  for m, (r, c) in enumerate(zip(radius, color)):
    dx = centre[None, None, :] - position[:, m, 0, None, None]
    dy = centre[None, :, None] - position[:, m, 1, None, None]
    cover = np.clip(0.5 + (r - np.hypot(dx, dy)) * size / EXTENT, 0, 1)[..., None]
    video = video * (1 - cover) + cover * np.array(c)
  cover = box(occluder, size)[None, :, :, None]
  return (video * (1 - cover) - cover).astype(np.float32)


def world(position, velocity, radius, color, *, gravity=(0.0, 0.0), contact=None, occluder=NOWHERE):
  """One clip's state, padded to two discs: position and velocity are [T,m,2]."""
  discs = position.shape[1]

  def pad(x, axis):
    widths = [(0, 2 - discs) if a == axis else (0, 0) for a in range(np.ndim(x))]
    return np.pad(np.asarray(x, np.float32), widths)

  x0, y0, x1, y1 = occluder
  visible = np.ones((T, discs))
  for m, r in enumerate(radius):  # by area, on a fine grid of points of the disc
    u = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * 2), -1)
    u = u[np.sum(u**2, -1) < 1] * r + position[:, m, None]  # [T,points,2]
    inside = (u[..., 0] > x0) & (u[..., 0] < x1) & (u[..., 1] > y0) & (u[..., 1] < y1)
    visible[:, m] = 1 - inside.mean(-1)
  return {
    "position": pad(position, 1),
    "velocity": pad(velocity, 1),
    "radius": pad(radius, 0),
    "color": pad(color, 0),
    "present": np.arange(2) < discs,
    "visible": pad(visible, 1),
    "gravity": np.array(gravity, np.float32),
    "occluder": np.array(occluder, np.float32),
    "background": np.zeros(3, np.float32),
    "occluder_color": -np.ones(3, np.float32),
    "contact": pad(np.zeros((T, discs)) if contact is None else contact, 1),
  }


def moving(*discs, **kwargs):
  """The state of discs (start, velocity, radius, color) in uniform motion."""
  start, velocity, radius, color = (np.array(x, float) for x in zip(*discs))
  position = start[None] + velocity[None] * TIME[:, None, None]
  return world(position, np.broadcast_to(velocity, position.shape), radius, color, **kwargs)


def film(state, size=32, frames=None):
  """The true clip of a state, or `frames` with its discs painted over."""
  real = state["present"]
  return paint(
    state["position"][:, real], state["radius"][real], state["color"][real], size,
    state["occluder"], frames,
  )  # fmt: skip


@jax.jit
def run(video, state, fps):
  return physics.measure(video, state, extent=EXTENT, fps=fps, known=KNOWN)


@jax.jit
def extrapolated(video, state):
  return physics.extrapolate(video, state, extent=EXTENT, fps=FPS, known=KNOWN)


def measured(videos, states, fps=FPS):
  """Measures of up to 8 clips; a single one gives floats."""
  single = isinstance(states, dict)
  videos, states = ([videos], [states]) if single else (videos, states)
  fill = [0] * (8 - len(states))  # one shape, one compilation
  video = np.stack([*videos, *(videos[i] for i in fill)])
  state = jax.tree.map(lambda *x: np.stack(x), *states, *(states[i] for i in fill))
  out = {k: np.asarray(v)[: len(states)] for k, v in run(video, state, np.full(8, fps)).items()}
  return {k: float(v[0]) for k, v in out.items()} if single else out


def batched(state):
  return jax.tree.map(lambda x: x[None], state)


def scenes():
  """Eight clips: uniform motion, any direction, in radii of 1.1 to 5.1 px at 16 and 32 px."""
  rng = np.random.default_rng(0)
  states = []
  for _ in range(8):
    angle, speed, radius = (
      rng.uniform(0, 2 * np.pi, 2),
      rng.uniform(0.5, 2, 2),
      rng.uniform(0.7, 1.6, 2),
    )
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1) * [0.4, 1.0]
    middle = np.array([[2.6, 5.0], [7.4, 5.0]]) + rng.uniform(-0.2, 0.2, (2, 2))
    states.append(moving(*zip(middle - 0.6 * velocity, velocity, radius, (RED, GREEN))))
  return states


def collision(pass_through=False):
  """Two discs that meet head-on at .67 s: elastic, closed form."""
  radius, before, when = np.array([1.0, 1.3]), np.array([2.0, -1.5]), 0.67
  mass = radius**2
  after = 2 * np.sum(mass * before) / np.sum(mass) - before
  after = before if pass_through else after
  meet = 5.2 + np.array([-radius[0], radius[1]])
  late = (when <= TIME)[:, None]
  speed = np.where(late, after, before)
  x = meet + speed * (TIME[:, None] - when)
  zero = np.zeros_like(x)
  position, velocity = np.stack([x, zero + 5.1], -1), np.stack([speed, zero], -1)
  contact = np.broadcast_to(late, x.shape)
  return world(position, velocity, radius, (RED, BLUE), contact=contact)


def falling(g=2.5):
  velocity = np.stack([np.full(T, 1.0), -1.0 + g * TIME], -1)[:, None]
  position = np.stack([3 + TIME, 5 - TIME + g * TIME**2 / 2], -1)[:, None]
  return world(position, velocity, [1.1], [RED], gravity=(0.0, g))


def behind_bar(left=3.7, right=6.2):
  """A disc that is wholly hidden for some frames and then comes out again."""
  return moving(((1.2, 5.0), (6.5, 0.0), 0.9, RED), occluder=(left, 0.0, right, 10.0))


ONE = moving(((4.0, 3.0), (1.5, 2.0), 1.2, RED))  # 2.5 world units/s
TWO = moving(((2.5, 3.0), (0.0, 2.0), 1.2, RED), ((7.5, 6.0), (-1.0, 0.5), 1.2, GREEN))


@pytest.mark.parametrize(("size", "mass_error"), [(16, 0.05), (32, 0.02), (64, 0.01)])
def test_a_disc_is_seen_where_it_is_with_the_mass_it_has(size, mass_error):
  states = scenes()
  state = jax.tree.map(lambda *x: np.stack(x), *states)
  look = jax.jit(functools.partial(disc_masses.observe, extent=EXTENT))
  seen = look(np.stack([film(s, size) for s in states]), state)
  away = np.linalg.norm(seen["centroid"] - state["position"] * size / EXTENT, axis=-1)
  assert away.max() < 0.06
  mass = np.pi * ((state["radius"] * size / EXTENT) ** 2 + 1 / 12)[:, None]
  np.testing.assert_allclose(seen["mass"] / mass, 1, atol=mass_error)
  assert np.max(seen["other_mass"]) < 1e-3


@pytest.mark.parametrize(
  ("size", "position", "velocity", "color", "radius"),
  [(16, 0.03, 0.025, 0.05, 0.006), (32, 0.015, 0.008, 0.02, 0.002), (64, 0.01, 0.003, 0.01, 0.001)],
)
def test_true_clips_are_coherent_to_the_floor(size, position, velocity, color, radius):
  states = [*scenes()[:5], collision(), falling(), behind_bar()]
  out = measured([film(s, size) for s in states], states)
  assert np.all(out["permanence"] == 1)
  assert np.all(out["survival_frames"] == T - KNOWN)
  moves = slice(0, 7)  # few frames of the last are whole
  assert np.mean(out["position_error_px"]) < position
  assert np.mean(out["velocity_error"][moves]) < velocity
  assert np.mean(out["color_drift"]) < color
  assert np.mean(out["radius_drift"]) < radius
  assert np.mean(out["momentum_error"][moves]) < velocity
  assert np.mean(out["energy_error"][moves]) < velocity


def test_a_shift_of_the_unknown_frames_is_the_position_error():
  moved = {**TWO, "position": TWO["position"] + np.array([0.9, -1.2], np.float32) * EXTENT / 32}
  video = np.concatenate([film(TWO)[:KNOWN], film(moved)[KNOWN:]])
  out = measured(video, TWO)
  assert out["position_error_px"] == pytest.approx(1.5, abs=0.02)
  assert out["velocity_error"] < 0.01
  assert out["permanence"] == 1


def test_a_fifth_too_fast_is_a_fifth_of_the_speed_and_of_the_momentum():
  fast = moving(((4.0, 3.0), (1.8, 2.4), 1.2, RED))
  out = measured(film(fast), ONE)
  assert out["velocity_error"] == pytest.approx(0.5, abs=0.01)
  assert out["momentum_error"] == pytest.approx(0.2, abs=0.005)
  assert out["energy_error"] == pytest.approx(0.44, abs=0.01)


def test_velocity_is_per_second_whatever_the_frame_rate():
  still = {**ONE, "position": ONE["position"][:1].repeat(T, 0)}
  assert measured(film(ONE), still, fps=5.0)["velocity_error"] == pytest.approx(1.25, abs=0.01)


@pytest.mark.parametrize("change", [(-0.3, 0.0, 0.0), (-0.1, 0.3, 0.1), (0.0, 0.5, 0.0)])
def test_a_recoloured_disc_drifts_by_the_distance_of_the_colours_and_stays_its_own(change):
  painted = {**TWO, "color": TWO["color"] + np.array([change, (0, 0, 0)], np.float32)}
  out = measured([film(TWO), film(painted)], [TWO, TWO])
  floor, drift = out["color_drift"]
  assert abs(drift - np.linalg.norm(change) / 2) < floor + 0.01
  assert np.all(out["permanence"] == 1)
  assert np.all(out["position_error_px"] < 0.03)


@pytest.mark.parametrize(("scale", "permanence"), [(1.08, 1), (0.91, 1), (1.12, 0), (0.87, 0)])
def test_a_fifth_of_the_mass_decides_permanence(scale, permanence):
  out = measured(film({**ONE, "radius": ONE["radius"] * scale}), ONE)
  assert out["permanence"] == permanence
  assert out["radius_drift"] == pytest.approx(abs(scale - 1), abs=0.003)
  assert out["position_error_px"] < 0.02


@pytest.mark.parametrize("last", [KNOWN, 7, T - 1])
def test_a_disc_gone_from_frame_k_on_is_permanent_until_then(last):
  video = film(ONE)
  video[last:] = 0
  back = film(ONE)
  back[last] = 0
  out = measured([video, back], [ONE, ONE])
  lost = np.array([T - last, 1])
  np.testing.assert_allclose(out["permanence"], 1 - lost / (T - KNOWN), rtol=1e-6)
  assert np.all(out["survival_frames"] == last - KNOWN)  # coming back is no survival


def test_a_vanished_disc_is_charged_half_the_diagonal_and_has_no_velocity():
  video = film(ONE)
  video[KNOWN:] = 0
  out = measured(video, ONE)
  assert out["position_error_px"] == pytest.approx(32 / np.sqrt(2))
  assert out["radius_drift"] == 1
  for name in ("velocity_error", "momentum_error", "energy_error", "color_drift"):
    assert np.isnan(out[name])


@pytest.mark.parametrize("color", [YELLOW, BLUE, (-1.0, -1.0, -1.0), RED, (0.2, 1.0, 0.2)])
def test_a_disc_too_many_breaks_permanence_whatever_its_colour(color):
  extra = paint(np.full((T, 1, 2), 8.0), [0.7], [color], 32, frames=film(ONE))
  assert measured(extra, ONE)["permanence"] == 0


def test_a_disc_torn_in_two_breaks_permanence_though_no_mass_is_lost():
  apart = np.array([[1.5, 0.0], [-1.5, 0.0]])
  halves = ONE["position"][:, :1] + apart[None]
  video = paint(halves, ONE["radius"][:1].repeat(2) / np.sqrt(2), [RED, RED], 32)
  assert measured(video, ONE)["permanence"] == 0


def test_a_swapped_pair_of_equal_discs_is_an_error():
  swapped = {**TWO, "color": TWO["color"][::-1]}
  out = measured(film(swapped), TWO)
  apart = np.linalg.norm(TWO["position"][KNOWN:, 0] - TWO["position"][KNOWN:, 1], axis=-1)
  assert out["position_error_px"] == pytest.approx(np.mean(apart) * 3.2, abs=0.05)
  assert out["velocity_error"] == pytest.approx(np.hypot(1, 1.5), abs=0.01)


def test_hidden_frames_count_for_permanence_only():
  state = behind_bar()
  video = film(state)
  hidden = state["visible"][:, 0] < 0.999
  assert np.any(state["visible"][:, 0] == 0)
  video[hidden] = film({**state, "present": np.array([False, False])})[hidden]
  out = measured(video, state)
  assert out["position_error_px"] < 0.03
  assert out["permanence"] < 1  # the half-hidden ones should have shown


def test_a_disc_that_does_not_come_back_breaks_permanence_after_occlusion():
  state = behind_bar()
  video, visible = film(state), state["visible"][:, 0]
  back = (np.cumsum(visible < 0.25) > 0) & (visible >= 0.5)
  assert measured(video, state)["permanence_after_occlusion"] == 1
  video[back] = film({**state, "present": np.array([False, False])})[back]
  out = measured(video, state)
  assert out["permanence_after_occlusion"] == 0
  assert out["permanence"] > 0
  assert np.isnan(measured(film(ONE), ONE)["permanence_after_occlusion"])


def test_a_missing_occluder_and_a_disc_in_front_of_it_break_permanence():
  state = behind_bar(3.75, 6.25)  # whole pixels: a mixed one shows the disc as foreign colour
  bar = film({**state, "present": np.array([False, False])})
  video = paint(state["position"][:, :1], [0.9], [RED], 32, frames=bar)
  unknown = state["visible"][KNOWN:, 0]
  out = measured(video, state)
  assert out["permanence"] == pytest.approx(np.mean(unknown > 0.8))
  assert measured(film({**state, "occluder": np.zeros(4)}), state)["permanence"] == 0


def test_an_elastic_collision_keeps_momentum_and_energy_and_a_ghostly_one_does_not():
  true = collision()
  out = measured([film(true), film(collision(pass_through=True))], [true, true])
  assert out["momentum_error"][0] < 0.005
  assert out["energy_error"][0] < 0.005
  assert out["velocity_error"][0] < 0.015
  assert out["velocity_error"][1] > 1


def test_momentum_is_that_of_all_discs_and_errors_of_opposite_discs_cancel_in_it():
  def apart(v):
    return moving(((4.0, 5.0), (-v, 0.0), 1.0, RED), ((6.0, 5.0), (v, 0.0), 1.0, GREEN))

  out = measured(film(apart(1.5)), apart(1.0))
  assert out["momentum_error"] < 0.005
  assert out["energy_error"] == pytest.approx(1.25, abs=0.02)


def test_copy_last_stands_still():
  video = np.asarray(physics.copy_last(film(ONE)[None], KNOWN))[0]
  assert np.array_equal(video[:KNOWN], film(ONE)[:KNOWN])
  out = measured(video, ONE)
  moved = np.linalg.norm(ONE["position"][KNOWN:, 0] - ONE["position"][KNOWN - 1, 0], axis=-1)
  assert out["permanence"] == 1
  assert out["position_error_px"] == pytest.approx(np.mean(moved) * 3.2, abs=0.03)
  assert out["velocity_error"] == pytest.approx(2.5, abs=0.01)
  assert out["momentum_error"] == pytest.approx(1, abs=0.005)
  assert out["energy_error"] == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("state", [TWO, behind_bar()], ids=["two", "behind bar"])
def test_extrapolate_is_exact_for_uniform_motion(state):
  video = film(state)
  given = np.where(np.arange(T)[:, None, None, None] < KNOWN, video, np.float32("nan"))
  out = extrapolated(given[None], batched(state))
  np.testing.assert_allclose(out[0], video, atol=1e-4)


def test_extrapolate_misses_gravity_by_g_times_the_time():
  state = falling()
  video = extrapolated(film(state)[None], batched(state))
  out = measured(np.asarray(video)[0], state)
  late = TIME[KNOWN:] - TIME[KNOWN - 1]
  assert out["velocity_error"] == pytest.approx(2.5 * np.mean(late), abs=0.01)
  assert out["position_error_px"] == pytest.approx(3.2 * 1.25 * np.mean(late**2), abs=0.03)


def test_energy_counts_height():
  state = falling()
  lifted = {**state, "position": state["position"] - np.array([0.0, 0.5], np.float32)}
  out = measured(film(lifted), state)
  kinetic = 0.5 * np.mean(np.sum(state["velocity"][KNOWN:, 0] ** 2, -1))
  assert out["energy_error"] == pytest.approx(2.5 * 0.5 / kinetic, abs=0.01)


@pytest.mark.parametrize(("sd", "position", "velocity"), [(0.05, 0.04, 0.015), (0.1, 0.06, 0.03)])
def test_pixel_noise_moves_the_floor_little_and_breaks_no_true_clip(sd, position, velocity):
  states = [*scenes()[:6], collision(), falling()]
  noise = sd * np.random.default_rng(1).standard_normal((8, T, 32, 32, 3)).astype(np.float32)
  out = measured(list(np.stack([film(s) for s in states]) + noise), states)
  assert np.all(out["permanence"] == 1)
  assert np.mean(out["position_error_px"]) < position
  assert np.mean(out["velocity_error"]) < velocity


def test_pixels_that_are_no_numbers_are_violations_not_gaps():
  video = film(ONE)
  video[6:] = np.nan
  out = measured(video, ONE)
  assert out["survival_frames"] == 6 - KNOWN
  assert out["position_error_px"] > 10


def test_the_table_leaves_undefined_clips_out_and_counts_the_rest():
  nan = float("nan")
  table = physics.coherence_table({"a": np.array([1.0, nan, 3.0]), "b": [2.0], "c": [nan]})
  assert table["a"] == {"mean": 2.0, "stderr": 1.0, "n": 2}
  assert (table["b"]["mean"], table["b"]["n"], table["c"]["n"]) == (2.0, 1, 0)
  assert np.isnan([table["b"]["stderr"], table["c"]["mean"], table["c"]["stderr"]]).all()


def test_every_measure_is_described():
  assert set(measured(film(ONE), ONE)) == set(physics.MEASURES)


def test_what_cannot_be_measured_is_refused():
  video, state = film(ONE)[None], batched(ONE)
  measure = functools.partial(physics.measure, extent=EXTENT, fps=FPS)
  for known in (0, T):
    with pytest.raises(ValueError, match=f"known={known} of {T}"):
      measure(video, state, known=known)
  with pytest.raises(ValueError, match="square"):
    measure(video[:, :, 1:], state, known=KNOWN)
  with pytest.raises(ValueError, match="no contact"):
    measure(video, {k: v for k, v in state.items() if k != "contact"}, known=KNOWN)
