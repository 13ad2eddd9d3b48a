"""Names of the Cosmos tokenizers' tensors in diffusers' and NVIDIA's files."""

from collections.abc import Collection
from typing import Any

LAYOUTS = ("diffusers", "original")
# Constants that NVIDIA's files hold beside the weights.
OTHER_PARTS = ("encoder.patcher3d.", "decoder.unpatcher3d.", "quantizer.")
_MIDDLE = {
  "diffusers": dict(mid1="mid_block.resnets.0", within="mid_block.attentions.0",
                    along="mid_block.temp_attentions.0", mid2="mid_block.resnets.1"),
  "original": dict(mid1="mid.block_1", within="mid.attn_1.0", along="mid.attn_1.1",
                   mid2="mid.block_2"),
}  # fmt: skip
_INSIDE = {
  "diffusers": dict(q="to_q", k="to_k", v="to_v", out="to_out.0", shortcut="conv_shortcut"),
  "original": dict(out="proj_out", shortcut="nin_shortcut"),
}
_FACTORS = {"diffusers": dict(space="conv_s", time="conv_t"), "original": dict(space="0", time="1")}
# The convolutions of a step, in the order in which they run.
_STEPS = {
  "encoder": dict(space="conv1", time="conv2", mix="conv3"),
  "decoder": dict(time="conv1", space="conv2", mix="conv3"),
}


def published(path: str, layout: str, decoder_levels: int) -> tuple[str, str]:
  """The name of one of our parameters, and its layout (runs/weights.py)."""
  *where, leaf = path.split("/")
  norm = "norm" in where[-1]
  name = [*_module(where, layout, decoder_levels), "norm" if norm else "conv3d"]
  if layout == "diffusers" and not norm:
    del name[-1]
  kind = "conv3d" if leaf == "kernel" else "vector"
  return ".".join([*name, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)]), kind


def unused(used: Collection[str], down: int, up: int) -> tuple[str, ...]:
  """Beginnings of names of convolutions that NVIDIA's code makes, and saves, but never calls.

  Args:
    used: names in the original layout.
    down, up: number of levels of the encoder and the decoder.
  """
  steps = [f"encoder.down.{i}.downsample" for i in range(down - 1)]
  steps += [f"decoder.up.{i}.upsample" for i in range(1, up)]
  convs = (f"{step}.conv{n}.conv3d." for step in steps for n in (1, 2, 3))
  return tuple(conv for conv in convs if f"{conv}weight" not in used)


def _module(where: list[str], layout: str, decoder_levels: int) -> list[str]:
  """The published module of one of ours."""
  coder, *rest = where
  if not rest:
    return [dict(latent="quant_conv", inner="post_quant_conv")[coder]]
  factors, down, diffusers = _FACTORS[layout], coder == "encoder", layout == "diffusers"
  if rest[0] in ("conv_in", "conv_out"):
    return [coder, rest[0], factors[rest[1]]]
  if rest[0] == "norm_out":
    return where
  if rest[0] in _MIDDLE[layout]:
    return [coder, _MIDDLE[layout][rest[0]], *_inside(rest[1:], layout)]
  level = int(rest[1])
  if not down and not diffusers:
    level = decoder_levels - 1 - level  # finest first
  side = ("down" if down else "up") + ("_blocks" if diffusers else "")
  if rest[0] == "steps":
    sampler = ("down" if down else "up") + ("samplers.0" if diffusers else "sample")
    return [coder, side, str(level), sampler, _STEPS[coder][rest[2]]]
  block = "resnets" if diffusers else "block"
  return [coder, side, str(level), block, rest[2], *_inside(rest[3:], layout)]


def _inside(where: list[str], layout: str) -> list[str]:
  """The published part of a block or an attention."""
  part, *factor = where
  return [_INSIDE[layout].get(part, part), *(_FACTORS[layout][f] for f in factor)]


def published_config(cfg: Any) -> dict[str, Any]:
  """The arguments of AutoencoderKLCosmos, or of NVIDIA's CausalDiscreteVideoTokenizer."""
  t, h, _ = cfg.strides
  if cfg.levels:
    return dict(
      name="DV", channels=cfg.width, channels_mult=list(cfg.multipliers), in_channels=3,
      out_channels=3, num_res_blocks=cfg.blocks, patch_size=4, patch_method="haar",
      z_channels=cfg.inner, z_factor=1, embedding_dim=cfg.channels, levels=list(cfg.levels),
      quantizer="FSQ", spatial_compression=h, temporal_compression=t, encoder="FACTORIZED",
      decoder="FACTORIZED", attn_resolutions=[], resolution=1024, dropout=0.0, num_groups=1,
      legacy_mode=False,
    )  # fmt: skip
  widths = lambda multipliers: [cfg.width * m for m in multipliers]
  down, up = widths(cfg.multipliers), widths(cfg.decoder_multipliers)
  return dict(
    _class_name="AutoencoderKLCosmos", in_channels=3, out_channels=3, latent_channels=cfg.channels,
    encoder_block_out_channels=[cfg.width, *down], decode_block_out_channels=[*up, up[-1]],
    num_layers=cfg.blocks, patch_size=4, patch_type="haar", spatial_compression_ratio=h,
    temporal_compression_ratio=t,
  )  # fmt: skip
