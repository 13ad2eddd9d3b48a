"""Tensor names of U-Nets in diffusers, which its image and video models share."""

import re
from collections.abc import Iterable, Mapping

from videojax.models.layers import ParamInfo

Renames = Iterable[tuple[str, str]]
# Our paths -> diffusers' names, applied in order.
RENAMES = (
  (r"^(down|up)/(\d+)/blocks/(\d+)/(\w+)", r"\1_blocks/\2/\4s/\3"),
  (r"^mid/blocks/(\d+)/(\w+)", r"mid_block/\2s/\1"),
  (r"^(down|up)/(\d+)/sampler", r"\1_blocks/\2/\1samplers/0/conv"),
  (r"(temp_convs/\d+)/norm(\d)", r"\1/conv\2/0"),
  (r"(temp_convs/\d+)/conv1/(kernel|bias)", r"\1/conv1/2/\2"),
  (r"(temp_convs/\d+)/conv(\d)/(kernel|bias)", r"\1/conv\2/3/\3"),
  (r"^time/hidden", "time_embedding/linear_1"),
  (r"^time/out", "time_embedding/linear_2"),
  (r"^norm_out", "conv_norm_out"),
  (r"/time/", "/time_emb_proj/"),
  (r"/shortcut/", "/conv_shortcut/"),
  (r"/block/", "/transformer_blocks/0/"),
  (r"/attention/", "/attn1/"),
  (r"/(cross|again)/", "/attn2/"),
  (r"/(q|k|v)/", r"/to_\1/"),
  (r"(attn\d)/out/", r"\1/to_out/0/"),
  (r"/ff/up/", "/ff/net/0/proj/"),
  (r"/ff/down/", "/ff/net/2/"),
  (r"/(kernel|scale)$", "/weight"),
  (r"/", "."),
)


def renamed(path: str, renames: Renames) -> str:
  """The path after all substitutions (pattern, new), applied in order."""
  for pattern, new in renames:
    path = re.sub(pattern, new, path)
  return path


def names(info: Mapping[str, ParamInfo], renames: Renames = RENAMES) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in diffusers, and its layout there (runs/weights.py)."""

  def layout(path: str, inputs: int) -> str:
    if path.endswith("shortcut/kernel"):
      return "conv2d"
    return "weight" if inputs else "vector"

  return {path: (renamed(path, renames), layout(path, i.inputs)) for path, i in info.items()}
