"""Published systems, one experiment each: the published form, and a small form for two CPU cores.

The small forms of the U-Nets share data, objective and batch size, and train with as many FLOPs as
the quickstart's DiT, 1.4e13, so that they can be compared. Small forms of latent models see squares
of 2x2 pixels as one position, instead of an autoencoder's latents.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments import quickstart
from videojax.config import complete


def on_worlds(
  model: dict[str, Any],
  steps: int,
  least: dict[str, Any] | None = None,
  *,
  side: int = 1,
  **world: Any,
) -> ConfigDict:
  """A small U-Net on the world of experiments/quickstart.py, with its objective and measures.

  8 frames of 16x16 pixels, the first 2 given, so that motion can be measured; no text. All models
  are given the last known frame and its change (known="last"), unlike in their papers.

  Args:
    model: name and sizes.
    steps: training steps of the small form.
    least: sizes of the smoke form (two steps, for tests); None: the small form.
    side: side in pixels of the squares that are one position of the model.
    world: settings of the world to change (size, frames, known, fps), for stages of cascades.
  """
  c = quickstart.get_config("" if least is None else "smoke")
  c.total_steps = steps if least is None else 2
  c.model = dict(channels=3 * side**2, dtype="float32", **{**model, **(least or {})})
  if side > 1:
    c.codec = dict(name="unshuffle", side=side)
  c.optim.learning_rate = 2e-3
  c.data.worlds.update(world)
  return complete(c)
