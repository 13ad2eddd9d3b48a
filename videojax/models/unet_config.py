"""What the configs of all U-Nets have in common: checks, a depth, how they attend, parts."""

from collections.abc import Iterable
from typing import Any

from videojax import settings
from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.attention import CONTEXTS, KERNELS, choose_kernel


def check(cfg: Any) -> None:
  """Checks the fields of a frozen config, and what no U-Net can do without.

  Args:
    cfg: a model's Config.
  Raises:
    ValueError: an impossible value, with the field's name.
  """
  settings.check(cfg)
  object.__setattr__(cfg, "volumes", layers.as_volumes(cfg.volumes))
  if not cfg.multipliers:
    raise ValueError(f"multipliers={cfg.multipliers} must be numbers >= 1, one per level")
  for name in ("head_dim", "groups"):
    if cfg.width % getattr(cfg, name):
      raise ValueError(f"width={cfg.width} is not divisible by {name}={getattr(cfg, name)}")
  if cfg.width % 2:
    raise ValueError(f"width={cfg.width} must be even: sines and cosines of the noise level")
  if cfg.scan:
    raise ValueError("scan=True: the blocks of a U-Net differ in size, use scan=False")
  check_choice("dtype", cfg.dtype, ("float32", "bfloat16"))
  check_choice("remat policy", cfg.remat, layers.REMATS)
  check_choice("attention kernel", cfg.kernel, KERNELS)
  check_choice("context parallelism", cfg.context, CONTEXTS)
  if cfg.known is not None:
    check_choice("known fill", cfg.known, layers.KNOWN_FILLS)


def depth(cfg: Any, stages: Iterable[Any], fewer: int = 4) -> int:
  """Blocks in units of one at full resolution, by tokens times channels: for estimates.

  Args:
    stages: unet.stages' of the model.
    fewer: by which the positions are, from one level to the next.
  """
  shapes = [(shape, stage.level) for stage in stages for shape in stage.blocks]
  return round(sum(s.c_out / cfg.width / fewer**level for s, level in shapes))


def describe(cfg: Any, mesh: Any) -> str:
  """How attention is computed on this mesh, for people."""
  kernel = choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim)
  if mesh.shape["seq"] == 1:
    return kernel
  return f"{kernel}, frames and rows in turn over seq={mesh.shape['seq']}, by all-to-all"


# The first element of a parameter's path that stands here -> the part that it is listed under.
PARTS = {
  "conv_in": "in and out", "conv_out": "in and out", "norm_out": "norms", "time": "time",
  "sampler": "samplers", "conv1": "spatial convolutions", "conv2": "spatial convolutions",
  "shortcut": "spatial convolutions", "cross": "text", "ff": "mlp", "norm": "norms",
  "norm1": "norms", "norm2": "norms", "norm3": "norms", "proj_in": "attention projections",
  "proj_out": "attention projections", "q": "attention projections", "k": "attention projections",
  "v": "attention projections", "out": "attention projections",
}  # fmt: skip
