"""Small models with all controls, on worlds where the correct effect of each control is known.

  python -m videojax.launch --config=experiments/controls.py --workdir=runs/controls
  python -m videojax.launch --config=experiments/controls.py --workdir=runs/controls --mode=effects

The DiT of experiments/quickstart.py is given the first frame (in half of the rows), or the first
and the last, every fourth, all but a box, or only a box; strokes of a motion brush; blurred edges;
strength of motion, frame rate, pan and zoom of the camera. Each control is dropped in half of the
rows, so that any one of them also steers alone. A third of the discs stand still; if the camera
moves, all of them do: with both motions combined, a pan hardly determines what is seen, and the
model does not learn it. A sixth of the steps are single frames, for temporal guidance.

':scalars' takes only the scalars. Beside strokes and edges, which are more informative, scalars are
needed in about one row in twenty, and 12,000 steps do not teach them.
Expect, on two cores: frozen loss .087 (affine denoiser .807), a stroke of .541 px per frame
followed at .438, 13 min 5 s; ':scalars' 7 min 49 s, loss not given: docs/controls.md.
"""

from ml_collections import ConfigDict

from experiments import quickstart
from videojax.config import complete
from videojax.errors import check_choice

FPS = (5.0, 7.0, 10.0)
SCALARS = ("motion", "fps", "pan_x", "pan_y", "zoom")


def get_config(arg: str = "") -> ConfigDict:
  """arg '': all controls; 'scalars': only scalars; 'smoke': two steps of a tiny model for tests."""
  check_choice("variant", arg, ("", "scalars", "smoke"))
  smoke, alone = arg == "smoke", arg == "scalars"
  c = quickstart.get_config("smoke" if smoke else "")
  world = dict(name="worlds", size=16, frames=8, known=1, scenes=("one", "two"), brush=not alone)
  moving = dict(world, still=0.0 if alone else 0.33, weight=2)
  c.data = {f"fps{fps:.0f}": dict(moving, fps=fps) for fps in (FPS[1:2] if smoke else FPS)}
  c.data["camera"] = dict(world, fps=7.0, still=1.0, pan=2.0, zoom=0.5, weight=4)
  c.model.scalars = SCALARS
  c.condition = dict(drop_each=0.3 if alone else 0.5)
  if not alone:
    c.data["images"] = dict(moving, frames=1, known=0, fps=7.0)
    c.model.scalars = (*SCALARS, "blur")
    c.model.volumes = (("brush", 3), ("edges", 1))
    c.condition.masks = ("start",) * 4 + ("ends", "sparse", "repaint", "canvas")
  c.evaluate.splits = dict(id=dict(split="train", seed=1))
  c.evaluate.update(main="id", source="fps7", coherence_clips=0)
  if not smoke:
    c.total_steps = 8_000 if alone else 12_000
    c.optim.learning_rate = 2.5e-3
  return complete(c)
