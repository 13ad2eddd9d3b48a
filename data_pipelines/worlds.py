"""Simulated worlds of discs that move, bounce, collide, fall and hide: clip, exact state, caption.

The loader carries an index; `Source.decode` draws, simulates and renders the clip on the device.
Seed, split and index determine the clip. Each split has its own stream of random numbers, so that
an evaluation clip is never a training clip. The physics is in world_physics.py.

  python -m data_pipelines.worlds --out=DIR --clips=1000 --size=32 --frames=16 --split=train,id

stores some clips as a tfds dataset.

Shapes: B batch, T frames, H W height width, C channels, M most discs, L caption bytes.
World: [0, extent]^2, x to the right, y down; speeds in world units per second. Mass is radius^2.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8, UInt32

from data_pipelines import world_physics as physics
from data_pipelines.indexed import Indexed, make_clips, stream
from data_pipelines.world_config import (
  BACKGROUND,
  OCCLUDER_COLOR,
  PALETTE,
  SCENES,
  SIZES,
  SPLITS,
  Config,
)
from data_pipelines.world_draws import Start, draw, draw_camera
from data_pipelines.world_physics import DISCS
from videojax import settings
from videojax.data import caption_text


def _words(*words: str) -> np.ndarray:
  """A table of zero-padded UTF-8 bytes, one row per word."""
  width = max(len(word) for word in words)
  return np.stack([np.frombuffer(w.encode().ljust(width, b"\0"), np.uint8) for w in words])


SIZE_WORDS = _words(*SIZES)
COLOR_WORDS = _words(*(f" {name} disc moves " for name in PALETTE))
WAY_WORDS = _words("right", "left", "down", "up")
SPEED_WORDS = _words(" slow", " fast")
SCENE_WORDS = _words("", " under gravity", " behind a bar")
COMMA = _words("", ", ")
CAPTION_BYTES = 128  # L; the longest caption has 123


def caption(config: Config, start: Start) -> UInt8[Array, " L"]:
  """A caption such as "large red disc moves right fast, small blue disc moves up slow".

  Direction and speed are those of the first frame: the direction of the larger component, and the
  half of the training range that contains the speed.

  Args:
    config: the world.
    start: the clip's first frame.

  Returns:
    UTF-8 bytes, zero padded to CAPTION_BYTES.
  """
  x, y = start.velocity.T  # [M] each
  level = jnp.abs(x) >= jnp.abs(y)
  way = jnp.where(level, x < 0, 2 + (y < 0))  # [M]
  large = start.radius > sum(config.radius) / 2
  fast = jnp.sqrt(x**2 + y**2) > sum(config.speed) / 2
  columns = ((SIZE_WORDS, large), (COLOR_WORDS, start.color), (WAY_WORDS, way), (SPEED_WORDS, fast))
  words = [jnp.asarray(table)[word.astype(jnp.int32)] for table, word in columns]  # [M,width] each
  comma = jnp.asarray(COMMA)[(jnp.arange(DISCS) > 0).astype(jnp.int32)]  # [M,2]
  discs = jnp.where(start.present[:, None], jnp.concatenate([comma, *words], 1), 0)
  scene = jnp.where(start.gravity[1] > 0, 1, jnp.where(jnp.any(start.occluder > 0), 2, 0))
  text = jnp.concatenate([discs.reshape(-1), jnp.asarray(SCENE_WORDS)[scene]])
  text = text[jnp.argsort(text == 0, stable=True)]  # moves the words' padding to the end
  return jnp.pad(text, (0, CAPTION_BYTES - len(text)))


def make_clip(config: Config, index: UInt32[Array | np.ndarray, ""]) -> dict[str, Any]:
  """One example without the batch axis; see `Source.decode`."""
  start = draw(config, index)
  position, velocity, contact = physics.simulate(
    start.position,
    start.velocity,
    start.radius,
    start.present,
    start.gravity,
    extent=config.extent,
    frames=config.frames,
    fps=config.fps,
  )
  pan, zoom = draw_camera(config, index)
  radius = start.radius
  if config.moves_camera:
    position, velocity, radius = physics.seen(
      position, velocity, radius, pan, zoom, extent=config.extent, fps=config.fps
    )
  color = jnp.array(list(PALETTE.values()))[start.color] * start.present[:, None]  # [M,3]
  hidden = physics.hidden(position, start.radius, start.occluder)  # [T,M]
  state = {
    "position": position,
    "velocity": velocity,
    "radius": start.radius,
    "color": color,
    "present": start.present,
    "visible": jnp.clip(1 - hidden, 0.0, 1.0) * start.present[None],
    "gravity": start.gravity,
    "occluder": start.occluder,
    "background": jnp.array(BACKGROUND),
    "occluder_color": jnp.array(OCCLUDER_COLOR),
    "contact": contact,
  }
  names = "color", "present", "occluder", "background", "occluder_color"
  scene = {name: state[name] for name in names}
  count = jnp.maximum(jnp.sum(start.present), 1)
  out = {
    "video": physics.render(
      position, radius=radius, size=config.size, extent=config.extent, **scene
    ),
    "id": index ^ stream(config.split),
    "fps": jnp.float32(config.fps),
    "caption": caption(config, start),
    "state": state,
    # Scalars that a model may use as conditions; speeds in world units/s, the zoom's rate in 1/s.
    "motion": jnp.sum(jnp.sqrt(jnp.sum(start.velocity**2, -1))) / count,
    "pan_x": pan[0],
    "pan_y": pan[1],
    "zoom": zoom,
  }
  if config.brush:
    out["brush"] = brush(config, position[0], velocity[0], start)
  return out


def brush(
  config: Config, position: Float[Array, "M 2"], velocity: Float[Array, "M 2"], start: Start
) -> Float[Array, "T H W 3"]:
  """Strokes over the moving discs of the first frame: where they are, and their displacement.

  Returns:
    The same for every frame: 1 under a stroke and -1 elsewhere (0 means that no brush is given),
    and the displacement per frame along x and y in tenths of the picture's side.
  """
  moves = start.present & (jnp.sum(velocity**2, -1) > 0)
  per_frame = 10 * velocity / (config.fps * config.extent)  # [M,2]
  stroke = jnp.concatenate([jnp.ones_like(per_frame[:, :1]), per_frame], -1)  # [M,3]
  drawn = physics.render(
    position[None], start.radius, stroke, moves, jnp.zeros(4), jnp.zeros(3), jnp.zeros(3),
    size=config.size, extent=config.extent,
  )  # fmt: skip
  drawn = jnp.concatenate([2 * drawn[..., :1] - 1, drawn[..., 1:]], -1)
  return jnp.broadcast_to(drawn, (config.frames, *drawn.shape[1:]))


class Source(Indexed):
  """Clips of a world: the loader carries indices, and the device makes the clips.

  Args:
    config: the world.
  """

  def __init__(self, config: Config):
    shape = (config.frames, config.size, config.size, 3)
    super().__init__(shape, config.clips if config.split == "train" else None)
    self.config = config

  def decode(self, carried: dict[str, UInt32[Array | np.ndarray, " B"]]) -> dict[str, Any]:
    """Draws, simulates and renders the clips; jittable. A clip does not depend on its batch.

    Args:
      carried: `index` [B].

    Returns:
      `video` float32 [B,T,H,W,3] in [-1,1]; `id` uint32 [B]; `fps` float32 [B]; `caption` uint8
      [B,L]; `state`: `position` and `velocity` [B,T,M,2] (world units, and per second), `radius`
      [B,M], `color` [B,M,3], `present` bool [B,M], `visible` [B,T,M] (fraction of the area not
      behind the occluder), `gravity` [B,2], `occluder` [B,4] (x0,y0,x1,y1; all zero: none),
      `background` [B,3], `occluder_color` [B,3], `contact` [B,T,M] (contacts so far). Absent
      discs are zero. Scalars float32 [B]: `motion` (mean speed at the first frame), `pan_x`,
      `pan_y`, `zoom`; and `brush` [B,T,H,W,3] where the config asks for it.
    """
    return make_clips(make_clip, self.config, carried["index"])


def _examples(config: Config, clips: int, batch: int = 64) -> Iterator[dict[str, Any]]:
  """Yields the first `clips` clips as `write_clips` expects them."""
  source = Source(config)
  for first in range(0, clips, batch):
    made = source.decode({"index": np.arange(first, first + batch, dtype=np.uint32)})
    video = np.asarray(jnp.round((made["video"] + 1) * 127.5).astype(jnp.uint8))
    for row in range(min(batch, clips - first)):
      words = caption_text(np.asarray(made["caption"][row]))
      yield {"video": video[row], "caption": words, "id": int(made["id"][row])}


def _numbers(splits: str, clips: int) -> Iterator[tuple[str, int]]:
  """(split, number of clips) from 'train:4000,id'."""
  for part in splits.split(","):
    name, _, number = part.partition(":")
    if number and not (number.isdecimal() and 0 < int(number) <= settings.MOST):
      raise ValueError(f"--split={splits}: {number} is not a number of clips")
    yield name, int(number) if number else clips


def main(arguments: list[str] | None = None) -> None:
  """The command: stores clips as a tfds dataset."""
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.worlds",
    description="Stores clips of a simulated world as a tfds dataset.",
  )
  parser.add_argument("--out", type=Path, required=True, help="directory that does not exist yet")
  parser.add_argument("--clips", type=int, default=1000, help="per split (default: %(default)s)")
  parser.add_argument("--size", type=int, required=True, help="height and width, pixels")
  parser.add_argument("--frames", type=int, required=True)
  parser.add_argument("--known", type=int, default=Config.known, help="frames a model is shown")
  parser.add_argument("--seed", type=int, default=Config.seed)
  about = (
    f"comma separated, each with its own number of clips if told, train:4000: {', '.join(SPLITS)}"
  )
  parser.add_argument("--split", default=Config.split, help=about)
  parser.add_argument(
    "--scenes", default=",".join(Config.scenes), help=f"comma separated: {', '.join(SCENES)}"
  )
  flags = parser.parse_args(arguments)
  # Imported only here: a machine that makes clips on the fly does not need tfds.
  from data_pipelines.clips import write_clips

  same = {"size": flags.size, "frames": flags.frames, "known": flags.known, "seed": flags.seed}
  same["scenes"] = tuple(flags.scenes.split(","))
  try:
    numbers = dict(_numbers(flags.split, flags.clips))
    configs = {split: Config(split=split, **same) for split in numbers}
    counts = write_clips(
      flags.out,
      {split: _examples(config, numbers[split]) for split, config in configs.items()},
      frames=flags.frames,
      height=flags.size,
      width=flags.size,
      fps=Config.fps,
      description=f"Simulated worlds: {', '.join(same['scenes'])}",
      extra_metadata={"known": flags.known, "seed": flags.seed},
    )
  except (ValueError, OSError) as error:
    parser.error(str(error))
  print(f"wrote {flags.out}: " + ", ".join(f"{n} clips of {s}" for s, n in counts.items()))


if __name__ == "__main__":
  main()
