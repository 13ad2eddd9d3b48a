"""Published systems, one experiment each: the published form, and one for two CPU cores.

The small forms of the U-Nets share data, objective and batch, and take as many steps as cost what
the quickstart's DiT does, 1.4e13 FLOP, so that they compare. Those of latents see squares of 2x2
pixels as one position, in place of an autoencoder's.
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

  8 frames of 16x16 pixels, the first 2 given, so that motion can be measured; no text. All are
  told the last known frame and its change (known="last"), whatever their papers do.

  Args:
    model: name and sizes.
    steps: of training, in the small form.
    least: sizes of the smoke form: two steps, for tests; None: the small form.
    side: of the squares of pixels that are one position of the model.
    world: what differs in the world (size, frames, known, fps): for stages of cascades.
  """
  c = quickstart.get_config("" if least is None else "smoke")
  c.total_steps = steps if least is None else 2
  c.model = dict(channels=3 * side**2, dtype="float32", **{**model, **(least or {})})
  if side > 1:
    c.codec = dict(name="unshuffle", side=side)
  c.optim.learning_rate = 2e-3
  c.data.worlds.update(world)
  return complete(c)
