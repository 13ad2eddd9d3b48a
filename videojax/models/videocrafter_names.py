"""Tensor names of VideoCrafter in its published checkpoints."""

import re
from collections.abc import Mapping

from videojax.models.diffusers_names import renamed
from videojax.models.layers import ParamInfo

# Our paths -> the reference's names, applied in order.
_RENAMES = (
  (r"^conv_in", "input_blocks/0/0"), (r"^norm_out", "out/0"), (r"^conv_out", "out/2"),
  (r"^time/hidden", "time_embed/0"), (r"^time/out", "time_embed/2"),
  (r"^scalars/(\w+)/hidden", r"\1_embedding/0"), (r"^scalars/(\w+)/out", r"\1_embedding/2"),
  (r"^transformer_in", "init_attn/0"),
  (r"/resnet/norm1/", "/resnet/in_layers/0/"), (r"/resnet/conv1/", "/resnet/in_layers/2/"),
  (r"/resnet/time/", "/resnet/emb_layers/1/"), (r"/resnet/norm2/", "/resnet/out_layers/0/"),
  (r"/resnet/conv2/", "/resnet/out_layers/3/"), (r"/shortcut/", "/skip_connection/"),
  (r"/temp_conv/norm(\d)/", r"/resnet/temopral_conv/conv\1/0/"),
  (r"/temp_conv/conv1/", "/resnet/temopral_conv/conv1/2/"),
  (r"/temp_conv/conv(\d)/", r"/resnet/temopral_conv/conv\1/3/"),
  (r"/block/attention/", "/transformer_blocks/0/attn1/"),
  (r"/block/(cross|again)/", "/transformer_blocks/0/attn2/"),
  (r"/block/", "/transformer_blocks/0/"),
  (r"^mid/blocks/1/resnet", "middle_block/3"), (r"^mid/blocks/0", "middle_block"),
  (r"/resnet/", "/0/"), (r"/attention/", "/1/"), (r"/temp_attention/", "/2/"),
  (r"/([qkv])/", r"/to_\1/"), (r"/([kv])_image/", r"/to_\1_ip/"),
  (r"(attn\d)/out/", r"\1/to_out/0/"),
  (r"/([kv])\w+_distance$", r"/relative_position_\1/embeddings_table"),
  (r"/ff/up/", "/ff/net/0/proj/"), (r"/ff/down/", "/ff/net/2/"),
  (r"/(kernel|scale)$", "/weight"), (r"^", "model/diffusion_model/"), (r"/", "."),
)  # fmt: skip
# The other contents of a published checkpoint: its VAE, encoders and schedule.
OTHER_PARTS = (
  "first_stage_model.", "cond_stage_model.", "embedder.", "image_proj_model.", "scale_arr",
  "betas", "alphas_", "sqrt_", "log_", "posterior_",
)  # fmt: skip


def names(info: Mapping[str, ParamInfo], blocks: int) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name and layout in a published checkpoint (runs/weights.py).

  Names are 'model.diffusion_model.' followed by those of the reference's UNetModel.

  Args:
    info: of the model's parameters.
    blocks: number per level on the way down.
  """

  def numbered(match: re.Match) -> str:
    """A block, or a stage's sampler, in the reference's list of down or up blocks."""
    way, stage, block = match[1], int(match[2]), match[3]
    n = stage * (blocks + 1) + int(blocks if block is None else block)
    if way == "down":
      return f"input_blocks/{n + 1}" + ("/0/op" if block is None else "")
    return f"output_blocks/{n}" + (f"/{3 if stage else 1}/conv" if block is None else "")

  def name(path: str) -> str:
    path = re.sub(r"^(down|up)/(\d+)/(?:sampler|blocks/(\d+))", numbered, path)
    return renamed(path, _RENAMES)

  def layout(path: str, inputs: int) -> str:
    if path.endswith("_distance"):
      return "table"
    if path.endswith("shortcut/kernel"):
      return "conv2d"
    if re.match(r"transformer_in/proj_(in|out)/kernel", path):
      return "conv1d"
    return "weight" if inputs else "vector"

  return {path: (name(path), layout(path, i.inputs)) for path, i in info.items()}
