"""--mode=effects: measures what each control does to sampled clips of worlds, in its own unit.

Each control is set to values that do not come from the data while all others are omitted, and the
motion of the sampled discs is measured by their centroids (measures/disc_masses.py). The requested
value is listed beside the measured one: a control without effect shows constant measurements.

Shapes: B batch, T frames, H W height width, M discs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from videojax import controls
from videojax.config import Experiment
from videojax.errors import ConfigError
from videojax.evaluate import Evaluator, check_finite
from videojax.io import files, media
from videojax.io.log import phase
from videojax.measures.disc_masses import checked_state, exact, observe_clip
from videojax.modes.finished_run import opened
from videojax.sample import GuidanceConfig, generate

CLIPS = 64
LAG = 3  # frames over which a displacement is measured, from the first
PLAIN = GuidanceConfig()


@dataclasses.dataclass(frozen=True)
class Effect:
  """One row of the table: a control, the requested value, and the measured effect.

  Attributes:
    control, asked: name of the control and the requested value.
    measure: what is measured, with its unit.
    value, stderr: mean over clips, and its standard error.
    wanted: the value that a perfect control would give; None: undefined.
  """

  control: str
  asked: str
  measure: str
  value: float
  stderr: float
  wanted: float | None = None


class Steered:
  """Samples clips with one control given and the others omitted.

  Args:
    evaluator: of the run.
    params: weights.
  """

  def __init__(self, evaluator: Evaluator, params: dict):
    self.evaluator, self.task, self.params = evaluator, evaluator.train_task, params
    batches = [x for x, _ in evaluator.examples(evaluator.first, CLIPS)]
    self.example = jax.tree.map(lambda *x: jnp.concatenate(x)[:CLIPS], *batches)
    self.truth = np.asarray(self.example["video"])
    self.world, self.fps = evaluator.world, float(self.example["fps"][0])
    self.size = self.truth.shape[2]
    self._generate = jax.jit(self._make, static_argnums=2)

  def _make(self, params: dict, example: dict[str, Any], guidance: GuidanceConfig) -> Array:
    return generate(self.task, self.evaluator.experiment.sampler, guidance, params, example)

  def sample(
    self, given: Mapping[str, Any], guidance: GuidanceConfig = PLAIN, mask: str = "start"
  ) -> Float[np.ndarray, "B T H W 3"]:
    """Clips with only the controls in `given`: each a number, or an array for all rows."""
    config, rows = self.task.model.config, len(self.truth)
    example = dict(self.example) | {"known_mask": self.mask(mask)}
    for name in config.scalars:
      value = jnp.asarray(given.get(name, np.nan), jnp.float32)
      example[name] = jnp.broadcast_to(value, (rows,))
    for name, channels in config.volumes:
      nothing = jnp.zeros((*self.truth.shape[:-1], channels))
      example[name] = given.get(name, nothing)
    video = self._generate(self.params, example, guidance)
    check_finite(video)
    return np.asarray(video)

  def given(self, name: str) -> list[bool]:
    """Which frames a mask gives entirely; unknown names count as 'start'."""
    mask = name if name in controls.MASKS else "start"
    if mask not in controls.WHOLE:
      return [False] * self.truth.shape[1]
    known, every = max(self.task.condition.known_frames or 0, 1), self.task.controls.every
    return controls.given_frames(mask, self.truth.shape[1], known, every)

  def mask(self, name: str) -> Float[Array, "B T H W 1"]:
    """1 where the clip is given; the same for all rows, except with regions."""
    rows, frames, height, width, _ = self.truth.shape
    if name not in controls.WHOLE:
      keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(self.example["id"])
      boxes = jax.vmap(lambda key: controls.region(name, (height, width), key))(keys)
      mask = boxes[:, None, :, :, None]
    else:
      mask = jnp.float32(self.given(name)).reshape(1, -1, 1, 1, 1)
    return jnp.broadcast_to(mask, (rows, frames, height, width, 1))

  def centroids(self, video: Float[np.ndarray, "B T H W 3"]) -> Float[np.ndarray, "B T M 2"]:
    """Centroid of each disc in world units; NaN where it is not visible or not present."""
    state = checked_state(video, self.example["state"])
    with exact():
      seen = _observe(jnp.asarray(video), state, self.world.extent)
    found = np.array(seen) * (self.world.extent / self.size)
    return np.where(np.asarray(state["present"])[:, None, :, None], found, np.nan)

  def velocity(self, video: Float[np.ndarray, "B T H W 3"], fps: float) -> np.ndarray:
    """Mean velocity [B,M,2] over the first LAG frames, world units/s."""
    where = self.centroids(video)
    return (where[:, LAG] - where[:, 0]) * fps / LAG


@jax.jit(static_argnums=2)
def _observe(video: Array, state: dict[str, Array], extent: float) -> Array:
  return jax.vmap(lambda v, s: observe_clip(v, s, extent)["centroid"])(video, state)


def mean(values: np.ndarray) -> tuple[float, float]:
  """Mean over clips and its standard error; NaN is ignored."""
  values = np.asarray(values, np.float64).reshape(-1)
  values = values[~np.isnan(values)]
  if len(values) < 2:
    return float("nan"), float("nan")
  return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def per_clip(x: np.ndarray) -> np.ndarray:
  """Mean over the visible discs of each clip, [B]."""
  seen = ~np.isnan(x)
  count = seen.sum(-1)
  return np.where(count > 0, np.nansum(x, -1) / np.maximum(count, 1), np.nan)


# --- the controls -----------------------------------------------------------------------------


def _speeds(s: Steered) -> list[Effect]:
  out = []
  for asked in (0.5, 1.5, 2.5, 3.5):
    speed = np.linalg.norm(s.velocity(s.sample({"motion": asked}), s.fps), axis=-1)
    value = mean(per_clip(speed))
    out.append(Effect("motion", f"{asked}", "speed, world units/s", *value, asked))
  return out


def _rates(s: Steered) -> list[Effect]:
  out, motion = [], 2.5
  for fps in sorted({float(x.settings["fps"]) for x in s.evaluator.experiment.data.values()}):
    step = np.linalg.norm(s.velocity(s.sample({"fps": fps, "motion": motion}), 1.0), axis=-1)
    value = mean(per_clip(step * s.size / s.world.extent))
    wanted = motion / fps * s.size / s.world.extent
    out.append(Effect("fps", f"{fps:.0f}", f"px per frame at motion {motion}", *value, wanted))
  return out


def _pans(s: Steered, name: str) -> list[Effect]:
  axis = "xy".index(name[-1])
  measure = f"mean velocity along {name[-1]}, world units/s"
  pans = lambda asked: s.velocity(s.sample({name: asked}), s.fps)[..., axis]
  return [
    Effect(name, f"{asked}", measure, *mean(per_clip(pans(asked))), -asked)
    for asked in (-1.5, 0.0, 1.5)
  ]


def _zooms(s: Steered) -> list[Effect]:
  out = []
  for asked in (-0.4, 0.0, 0.4):
    video = s.sample({"zoom": asked})
    away = s.centroids(video)[:, 0] - s.world.extent / 2  # [B,M,2]
    fled = s.velocity(video, s.fps)
    seen = ~np.isnan(fled[..., 0])
    # Least squares of velocity = rate * distance from the middle, over all discs.
    part = lambda rows, a=away, f=fled, n=seen: float(
      (f * a)[rows][n[rows]].sum() / max(np.square(a[rows][n[rows]]).sum(), 1e-9)
    )
    rate, rows = part(np.arange(len(away))), np.arange(len(away))
    draws = np.random.default_rng(0).choice(rows, (200, len(rows)))
    spread = float(np.std([part(draw) for draw in draws]))
    out.append(Effect("zoom", f"{asked}", "rate away from the middle, 1/s", rate, spread, asked))
  return out


def _strokes(s: Steered) -> list[Effect]:
  """Discs under a stroke should follow it, also when it is reversed; others should not move."""
  brush, velocity = s.example["brush"], np.asarray(s.example["state"]["velocity"])[:, 0]
  moves = np.linalg.norm(velocity, axis=-1) > 0  # strokes lie on these, [B,M]
  present = np.asarray(s.example["state"]["present"])
  out, unit = [], "px per frame"
  scale = s.size / s.world.extent / s.fps
  turned = jnp.concatenate([brush[..., :1], -brush[..., 1:]], -1)
  for asked, stroke, sign in (("as drawn", brush, 1), ("reversed", turned, -1)):
    got = s.velocity(s.sample({"brush": stroke}), s.fps)
    along = (got * velocity).sum(-1) / np.maximum(np.linalg.norm(velocity, axis=-1), 1e-9)
    under = np.where(moves, along * scale, np.nan)
    speed = mean(per_clip(np.where(moves, np.linalg.norm(velocity, axis=-1) * scale, np.nan)))[0]
    measure = f"{unit} along the drawn direction, under the stroke"
    out.append(Effect("brush", asked, measure, *mean(per_clip(under)), sign * speed))
    still = np.where(present & ~moves, np.linalg.norm(got, axis=-1) * scale, np.nan)
    out.append(Effect("brush", asked, f"{unit}, discs outside", *mean(per_clip(still)), 0.0))
  free = np.linalg.norm(s.velocity(s.sample({}), s.fps), axis=-1) * scale
  free = per_clip(np.where(present & ~moves, free, np.nan))
  out.append(Effect("brush", "none", f"{unit}, the same discs", *mean(free)))
  return out


def _structure(s: Steered) -> list[Effect]:
  """The blurrier the edges, the less they should determine the positions."""
  out, levels = [], s.task.controls.blurs
  truth = s.centroids(s.truth)
  for level in (0, levels // 2, levels - 1, None):
    given: dict[str, Any] = {}
    if level is not None:
      blur = {"blur": jnp.full(len(s.truth), float(level))}
      example = dict(s.example) | blur
      edges, _ = controls.make("edges", example["video"], example, s.task.controls, None)
      given = {"edges": edges, **blur}
    error = np.linalg.norm(s.centroids(s.sample(given)) - truth, axis=-1)[:, 1:]
    error = per_clip(error.reshape(len(error), -1)) * s.size / s.world.extent
    asked = "none" if level is None else f"blur {level}"
    out.append(Effect("edges", asked, "distance from true centres, px", *mean(error)))
  return out


def _parts(s: Steered) -> list[Effect]:
  """Error where nothing is given, beside that of the first frame or of another clip's sample.

  The content of a region is not determined, so even a perfect sample differs from the truth there;
  another clip's sample does not depend on what is given around the region.
  """
  out, variance = [], s.truth.var()
  for name in dict.fromkeys(s.task.condition.masks):
    mask, video = np.asarray(s.mask(name)), s.sample({}, mask=name)
    unknown = np.broadcast_to(1 - mask, s.truth.shape)
    per = lambda x, u=unknown: (np.square(x - s.truth) * u).sum((1, 2, 3, 4)) / u.sum((1, 2, 3, 4))
    value, spread = mean(per(video) / variance)
    other = np.roll(video, 1, axis=0)
    begun = mask[:, 0].all()
    idle, what = (s.truth[:, :1], "frame 0") if begun else (other, "another clip's")
    measure = f"squared error where nothing is given, in variances (baseline: {what})"
    kept = mean(per(np.broadcast_to(idle, s.truth.shape)) / variance)[0]
    out.append(Effect("mask", name, measure, value, spread, kept))
  return out


def _temporal(s: Steered) -> list[Effect]:
  out = []
  change = lambda video: np.abs(np.diff(video[:, 1:], axis=1)).mean((1, 2, 3, 4))
  for scale in (0.0, 0.5, 1.0, 1.5):
    video = s.sample({}, GuidanceConfig(temporal=scale))
    value = mean(change(video) / change(s.truth).mean())
    out.append(Effect("temporal guidance", f"{scale}", "change per frame / true", *value, None))
  return out


def sees_images(e: Experiment) -> bool:
  """Whether the training data includes single frames, which temporal guidance needs."""
  return any(source.settings.get("frames") == 1 for source in e.data.values())


def measured(s: Steered) -> list[Effect]:
  """Effects of all controls that the model declares."""
  config, task = s.task.model.config, s.task
  volumes = [name for name, _ in config.volumes]
  rows: list[tuple[bool, Callable[[], list[Effect]]]] = [
    ("motion" in config.scalars, lambda: _speeds(s)),
    ({"fps", "motion"} <= set(config.scalars), lambda: _rates(s)),
    ("pan_x" in config.scalars, lambda: _pans(s, "pan_x")),
    ("pan_y" in config.scalars, lambda: _pans(s, "pan_y")),
    ("zoom" in config.scalars, lambda: _zooms(s)),
    ("brush" in volumes, lambda: _strokes(s)),
    ("edges" in volumes, lambda: _structure(s)),
    (len(task.condition.masks) > 1, lambda: _parts(s)),
    (sees_images(s.evaluator.experiment), lambda: _temporal(s)),
  ]  # fmt: skip
  return [effect for there, measure in rows if there for effect in measure()]


# --- the mode ---------------------------------------------------------------------------------


def pictures(s: Steered, rows: int = 6) -> dict[str, np.ndarray]:
  """The first clips with each control, by the name of the picture."""
  config = s.task.model.config
  asked: dict[str, dict[str, Any]] = {"nothing": {}}
  asked |= {f"motion {m}": {"motion": m} for m in (0.5, 3.5) if "motion" in config.scalars}
  asked |= {f"pan_x {p}": {"pan_x": p} for p in (-1.5, 1.5) if "pan_x" in config.scalars}
  asked |= {f"zoom {z}": {"zoom": z} for z in (-0.4, 0.4) if "zoom" in config.scalars}
  if any(name == "brush" for name, _ in config.volumes):
    asked["brush"] = {"brush": s.example["brush"]}
  out = {name: s.sample(given)[:rows] for name, given in asked.items()}
  return out | {m: s.sample({}, mask=m)[:rows] for m in s.task.condition.masks[1:]}


def effects(experiment: Experiment, workdir: Path) -> None:
  """Measures the controls of a run; writes effects.json and effects/*.webp."""
  config, masks = experiment.model.config, experiment.condition.masks
  if not (config.scalars or config.volumes or len(masks) > 1 or sees_images(experiment)):
    raise ConfigError(
      f"{workdir} has no control to measure: its model takes no scalars and no volumes, and its "
      "condition.masks has one entry; experiments/controls.py trains controls (docs/controls.md)"
    )
  with opened(experiment, workdir) as (evaluator, params, step):
    evaluator.need_video("the effect of controls")
    steered = Steered(evaluator, params)
    with phase("measuring the controls"):
      table = measured(steered)
      shown = pictures(steered)
  files.write_json(
    workdir / "effects.json", {"step": step, "effects": [dataclasses.asdict(x) for x in table]}
  )
  (workdir / "effects").mkdir(exist_ok=True)
  for name, video in shown.items():
    truth = media.to_uint8(steered.truth[: len(video)])
    media.write_grid(
      workdir / "effects" / f"{name.replace(' ', '_')}.webp", media.to_uint8(video), truth,
      [name] * len(video), fps=steered.fps, given=steered.given(name),
    )  # fmt: skip
  for x in table:
    wanted = "" if x.wanted is None else f"   ({x.wanted:.3g})"
    print(f"{x.control:18s}{x.asked:14s}{x.value:8.3f} +- {x.stderr:.3f}{wanted:12s} {x.measure}")
  print(f"{workdir}/effects.json")
