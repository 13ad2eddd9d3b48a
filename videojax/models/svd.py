"""Stable Video Diffusion's U-Net: an image U-Net whose every layer is blended with one along time.

A block is a residual block and a transformer within each frame; each is followed by its like along
time, and what goes on is s * within + (1 - s) * along, s = sigmoid of one learned number. A clip of
one frame is an image: there s is 1, and nothing along time is computed.

Source: Blattmann et al. 2023, arXiv:2311.15127; the layers along time are those of Blattmann et al.
2023, arXiv:2304.08818. What is computed, and every parameter, is that of diffusers'
UNetSpatioTemporalConditionModel (0.42.1); there an image has to be told by an indicator, which its
forward pass fixes to 0. Biases start at zero.

Shapes: B batch, T frames, H W height width, C channels, L tokens of the image or text, S = H*W,
D width of tokens, M width of the noise level's embedding.
"""

import dataclasses
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from videojax.models import layers, unet, unet_config
from videojax.models.attention import choose_kernel
from videojax.models.cond import Cond, check_cond
from videojax.models.time_blending import Block, Embed
from videojax.settings import Depth, Width
from videojax.sharding import constrain

FEATURES = 256  # sines and cosines of a scalar


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before. All but the last attend, as does the middle.
    blocks: per level on the way down; one more on the way up.
    head_dim: channels of a head; a level has as many heads as fit.
    groups: of group norm.
    channels: C of the clip.
    image: width of the image tokens that every layer attends to; None: none. Published: CLIP's
      embedding of the first frame, one token.
    text: the same of text (the paper's text-to-video model); at most one of the two.
    scalars: embedded and added to the noise level, in this order. 'fps' is embedded less one, as
      published; 'motion' 0 to 255 (127 usual); 'augmentation': noise in the volume.
    volumes: channels of each aligned volume by name. Published: 'first', the first frame's latents
      in every frame, before the scaling to unit variance.
    known: None, or how the channels of known frames are filled (not the paper's).
    dtype: of matmuls and convolutions; parameters stay fp32.
    remat: what the backward pass of a block recomputes (layers.REMATS).
    scan: False; blocks differ in size, so there is nothing to loop over.
    kernel, context: of attention (attention.py).
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  head_dim: Width
  groups: Width
  channels: Width
  image: Width | None = None
  text: Width | None = None
  scalars: tuple[str, ...] = ()
  volumes: Any = ()
  known: str | None = None
  dtype: str = "bfloat16"
  remat: str = "none"
  scan: bool = False
  kernel: str = "auto"
  context: str = "auto"

  patch: ClassVar[tuple[int, int, int]] = (1, 1, 1)
  classes: ClassVar[int | None] = None

  def __post_init__(self):
    unet_config.check(self)
    if self.image and self.text:
      raise ValueError(f"image={self.image} and text={self.text}: the model attends to one of them")

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    names = ("text", "image", "scalars", "known", "volumes")
    return tuple(name for name in names if getattr(self, name))

  @property
  def num_heads(self) -> int:
    """Heads at full resolution, the fewest of any level."""
    return self.width // self.head_dim

  @property
  def depth(self) -> int:
    """Blocks in units of one at full resolution, by tokens times channels: for estimates."""
    return unet_config.depth(self, stages(self))


SIZES = {
  # The published one.
  "1.5B": dict(width=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=64, groups=32),
  # For a CPU; ours.
  "nano": dict(width=32, multipliers=(1, 2), blocks=1, head_dim=16, groups=8),
}
PUBLISHED = dict(
  channels=4, image=1024, scalars=("fps", "motion", "augmentation"), volumes=dict(first=4)
)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14


def wider(cfg: Config) -> Config:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width)


def stages(cfg: Config) -> list[unet.Stage]:
  """The U in the order of its forward pass."""
  return unet.stages(cfg, attends=range(len(cfg.multipliers) - 1), middle=True)


class Level(nnx.Module):
  """The blocks of a stage, and the convolution that comes with a change of resolution."""

  def __init__(self, cfg: Config, stage: unet.Stage, *, rngs: nnx.Rngs):
    shapes, c = enumerate(stage.blocks), stage.blocks[-1].c_out
    self.blocks: Any = nnx.Dict({str(i): Block(cfg, stage, s, rngs=rngs) for i, s in shapes})
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    kw["stride"] = 2 if stage.place == "down" else 1
    self.sampler = unet.Conv(c, c, unet.SPACE, ("embed", None), **kw) if stage.sampler else None


class Model(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x. A network and nothing else."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, unet.Keys(rngs.params())
    c, kw = cfg.width, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.time, n = unet.TimeEmbed(c, **kw), len(cfg.scalars)
    self.scalars = Embed(n * FEATURES, 4 * c, 4 * c, **kw) if n else None
    self.conv_in = unet.Conv(layers.channels_in(cfg), c, unet.SPACE, ("patch", "embed"), **kw)
    make = lambda place: [Level(cfg, s, rngs=rngs) for s in stages(cfg) if s.place == place]
    self.down: Any = nnx.Dict({str(i): level for i, level in enumerate(make("down"))})
    self.mid = make("mid")[0]
    self.up: Any = nnx.Dict({str(i): level for i, level in enumerate(make("up"))})
    self.norm_out = unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_out = unet.Conv(c, cfg.channels, unet.SPACE, ("embed", "patch"), **kw)

  def __call__(
    self,
    x: Float[Array, "B T H W C"],
    t: Float[Array, " B #T"],
    cond: Cond,
    *,
    key: Key[Array, " B"] | None = None,
  ) -> Float[Array, "B T H W C"]:
    """The network's output for a noisy clip.

    Args:
      x: noisy clip, about unit variance; any height and width.
      t: noise level, ln(sigma) / 4 (time_unit 'edm'), one per clip or (not the paper's) per frame.
      cond: exactly the conditions that Config declares. What is dropped is zeros: image and text
        tokens outside the mask, the features of a scalar that is NaN, volumes.
      key: unused, the model is deterministic.
    """
    cfg = self.cfg
    check_cond(cond, cfg)
    seen = None
    if cfg.image or cfg.text:
      tokens, mask = (cond.image, cond.image_mask) if cfg.image else (cond.text, cond.text_mask)
      seen = jnp.where(mask[..., None], tokens, 0)  # [B,L,image|text]
    c = self.time(t)  # [B,1|T,M]
    if self.scalars is not None:
      c = c + self.scalars(scalar_features(cond, cfg))[:, None]
    c = constrain(c, "batch", "frames", None)
    run = lambda block, x: unet.run(block, x, c, seen, remat=cfg.remat)

    x = self.conv_in(constrain(layers.beside(x, cond, cfg), *unet.GRID, None))
    x = constrain(x, *unet.GRID, None)
    skips = [x]
    for level in unet.in_order(self.down):
      for block in unet.in_order(level.blocks):
        x = run(block, x)
        skips.append(x)
      if level.sampler is not None:
        x = constrain(level.sampler(x), *unet.GRID, None)
        skips.append(x)
    for block in unet.in_order(self.mid.blocks):
      x = run(block, x)
    for level in unet.in_order(self.up):
      for block in unet.in_order(level.blocks):
        x = run(block, jnp.concatenate([x, skips.pop()], -1))
      if level.sampler is not None:
        _, _, height, width, _ = skips[-1].shape
        x = constrain(level.sampler(unet.double(x, height, width)), *unet.GRID, None)
    return self.conv_out(jax.nn.silu(self.norm_out(x))).astype(jnp.float32)


def scalar_features(cond: Cond, cfg: Config) -> Float[Array, "B F"]:
  """Sines and cosines of all scalars; zeros of those that are NaN."""
  values = jnp.stack([cond.scalars[name] - (name == "fps") for name in cfg.scalars], -1)  # [B,n]
  gone = jnp.isnan(values)
  features = layers.sinusoid(jnp.where(gone, 0, values), FEATURES)  # [B,n,FEATURES]
  return jnp.where(gone[..., None], 0, features).reshape(len(values), -1)


def describe(cfg: Config, mesh: Any) -> str:
  """How attention is computed on this mesh, for people."""
  kernel = choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim)
  if mesh.shape["seq"] == 1:
    return kernel
  return f"{kernel}, frames and places in turn over seq={mesh.shape['seq']}, by all-to-all"


PARTS = unet_config.PARTS | {
  "scalars": "time",
  "frame": "time",
  "blend": "blends",
  "temporal": "temporal convolutions",
  "ff_in": "mlp",
  "norm_in": "norms",
}

# Our paths -> diffusers' names, one after the other.
_RENAMES = (
  (r"^(down|up)/(\d+)/blocks/(\d+)/", r"\1_blocks/\2/@/\3/"),
  (r"^mid/blocks/(\d+)/", r"mid_block/@/\1/"),
  (r"@/(\d+)/resnet/", r"resnets/\1/spatial_res_block/"),
  (r"@/(\d+)/temporal/", r"resnets/\1/temporal_res_block/"),
  (r"@/(\d+)/blend/factor", r"resnets/\1/time_mixer/mix_factor"),
  (r"@/(\d+)/attention/", r"attentions/\1/"),
  (r"^(down|up)/(\d+)/sampler", r"\1_blocks/\2/\1samplers/0/conv"),
  (r"(attentions/\d+)/space/", r"\1/transformer_blocks/0/"),
  (r"(attentions/\d+)/along/(block/)?", r"\1/temporal_transformer_blocks/0/"),
  (r"(attentions/\d+)/blend/factor", r"\1/time_mixer/mix_factor"),
  (r"(attentions/\d+)/frame/hidden", r"\1/time_pos_embed/linear_1"),
  (r"(attentions/\d+)/frame/out", r"\1/time_pos_embed/linear_2"),
  (r"^time/hidden", "time_embedding/linear_1"),
  (r"^time/out", "time_embedding/linear_2"),
  (r"^scalars/hidden", "add_embedding/linear_1"),
  (r"^scalars/out", "add_embedding/linear_2"),
  (r"^norm_out", "conv_norm_out"),
  (r"/time/", "/time_emb_proj/"),
  (r"/shortcut/", "/conv_shortcut/"),
  (r"/attention/", "/attn1/"),
  (r"/cross/", "/attn2/"),
  (r"/(q|k|v)/", r"/to_\1/"),
  (r"(attn\d)/out/", r"\1/to_out/0/"),
  (r"/(ff|ff_in)/up/", r"/\1/net/0/proj/"),
  (r"/(ff|ff_in)/down/", r"/\1/net/2/"),
  (r"/(kernel|scale)$", "/weight"),
  (r"/", "."),
)


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name in UNetSpatioTemporalConditionModel, and the layout there."""

  def name(path: str) -> str:
    for pattern, new in _RENAMES:
      path = re.sub(pattern, new, path)
    return path

  def layout(path: str, info: layers.ParamInfo) -> str:
    return "conv2d" if "/shortcut/kernel" in path else "weight" if info.inputs else "vector"

  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  return {path: (name(path), layout(path, i)) for path, i in info.items()}


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of UNetSpatioTemporalConditionModel that make it this network."""
  widths = [cfg.width * m for m in cfg.multipliers]
  attends = [i < len(widths) - 1 for i in range(len(widths))]
  block = lambda way, a: f"{'CrossAttn' * a}{way}BlockSpatioTemporal"
  return dict(
    _class_name="UNetSpatioTemporalConditionModel", in_channels=layers.channels_in(cfg),
    out_channels=cfg.channels, block_out_channels=widths, layers_per_block=cfg.blocks,
    num_attention_heads=[width // cfg.head_dim for width in widths],
    cross_attention_dim=cfg.image or cfg.text, addition_time_embed_dim=FEATURES,
    projection_class_embeddings_input_dim=FEATURES * len(cfg.scalars),
    down_block_types=[block("Down", a) for a in attends],
    up_block_types=[block("Up", a) for a in reversed(attends)],
  )  # fmt: skip
