"""The experiment whose unfinished run and sweep lie beside this file."""

from typing import Any

from ml_collections import ConfigDict

from videojax.scaling.cells import Cell, cells, product, vary

DIT = dict(name="dit", width=16, depth=1, num_heads=2, patch=(2, 4, 4), channels=3)
UNET = dict(
  name="modelscope",
  width=8,
  multipliers=(1, 1),
  blocks=1,
  head_dim=4,
  in_heads=2,
  groups=4,
  channels=3,
)


def get_config(arg: str = "dit") -> ConfigDict:
  model = dict(DIT if arg == "dit" else UNET, known="last", dtype="float32")
  return ConfigDict(
    dict(
      total_steps=8, batch_size=8, log_every_steps=1, model=model,
      data=dict(worlds=dict(name="worlds", size=16, frames=4, known=2, scenes=("one",))),
      denoiser=dict(prediction="velocity"), objective={}, condition=dict(known_frames=2),
      optim=dict(learning_rate=1e-3), sampler=dict(steps=2), checkpoint=dict(save_every_steps=4),
      evaluate=dict(
        splits=dict(id=dict(split="id")), clips=4, coherence_clips=4, reference_clips=16,
        batch_size=4,
      ),
    )
  )  # fmt: skip


def get_sweep(arg: str = "") -> list[Cell]:
  return cells(product(vary("budget", 1.6e8, 3.2e8), vary("model.width", 16, 24)))


def get_notes(arg: str = "") -> dict[str, Any]:
  return {"title": "A sweep made before the rooms", "irreducible": 0.0}
