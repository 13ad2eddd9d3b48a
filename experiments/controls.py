"""One small model that takes every control, on worlds where what each should do is known.

  python -m videojax.launch --config=experiments/controls.py --workdir=runs/controls
  python -m videojax.launch --config=experiments/controls.py --workdir=runs/controls --mode=effects

The DiT of experiments/quickstart.py is given the first frame (in half of the rows), or the first
and the last, every fourth, all but a box, or a box alone; strength of motion, frame rate, pan and
zoom of the camera; strokes of a motion brush; blurred edges. Each is left out in half of the rows,
so that any one of them steers alone. A third of the discs stand still; where the camera moves all
of them do: with both at once a pan says little of what will be seen, and nothing is learned of it.
A sixth of the steps are single frames, for temporal guidance. Hardware, time and effects:
docs/controls.md.
"""

from ml_collections import ConfigDict

from experiments import quickstart
from videojax.config import complete
from videojax.errors import check_choice

FPS = (5.0, 7.0, 10.0)


def get_config(arg: str = "") -> ConfigDict:
  """arg 'smoke': two steps of a tiny model, for tests."""
  check_choice("variant", arg, ("", "smoke"))
  c = quickstart.get_config(arg)
  world = dict(name="worlds", size=16, known=1, scenes=("one", "two"), still=0.33, brush=True)
  rates = FPS[1:2] if arg == "smoke" else FPS
  c.data = {f"fps{fps:.0f}": dict(world, frames=8, fps=fps, weight=2) for fps in rates}
  c.data["camera"] = dict(world, frames=8, fps=7.0, still=1.0, pan=2.0, zoom=0.5, weight=4)
  c.data["images"] = dict(world, frames=1, known=0, fps=7.0, weight=2)
  c.model.scalars = ("motion", "fps", "pan_x", "pan_y", "zoom", "blur")
  c.model.volumes = (("brush", 3), ("edges", 1))
  c.condition = dict(
    known_frames=1, masks=("start",) * 4 + ("ends", "sparse", "repaint", "canvas"), drop_each=0.5
  )
  c.evaluate.splits = dict(id=dict(split="train", seed=1))
  c.evaluate.update(main="id", source="fps7", coherence_clips=0)
  if arg != "smoke":
    c.total_steps = 12_000
    c.optim.learning_rate = 2.5e-3
  return complete(c)
