"""Stable Video Diffusion's U-Net: an image U-Net whose layers are blended with temporal layers.

A block is a spatial residual block and a spatial transformer; each is followed by its temporal
counterpart, and the output is s * spatial + (1 - s) * temporal, where s is the sigmoid of a learned
number. For an image, a clip of one frame, s is 1 and temporal layers are not computed.

Source: Blattmann et al. 2023, arXiv:2311.15127; the temporal layers are those of Blattmann et al.
2023, arXiv:2304.08818. The computation and all parameters are those of diffusers'
UNetSpatioTemporalConditionModel (0.42.1), except that images are marked there with an indicator,
which its forward pass fixes to 0. Biases start at zero.

Shapes: B batch, T frames, H W height width, C channels, L tokens of the image or text, S = H*W,
D width of tokens, M width of the noise level's embedding.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from videojax.models import diffusers_names, layers, time_blending, unet, unet_config
from videojax.models.attention import choose_kernel
from videojax.models.cond import Cond
from videojax.settings import Width
from videojax.sharding import constrain

FEATURES = 256  # number of sines and cosines per scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(unet_config.Config):
  """All levels but the last have attention, and so has the middle.

  Attributes:
    image: width of the image tokens that every transformer attends to; None: no tokens. Published:
      CLIP's embedding of the first frame, one token.
    text: the same for text (the paper's text-to-video model); at most one of the two.
    scalars: embedded and added to the noise level, in this order. 'fps': fps - 1 is embedded, as
      published; 'motion': 0 to 255 (usually 127); 'augmentation': std of the noise in the volume.
    volumes: published: 'first', the first frame's latents in every frame, before the scaling to
      unit variance.
    known: not in the paper.
  """

  image: Width | None = None
  scalars: tuple[str, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    if self.image and self.text:
      raise ValueError(
        f"image={self.image} and text={self.text}: the model can attend to only one of them"
      )

  @property
  def uses(self) -> tuple[str, ...]:
    return (*super().uses, *["image"] * bool(self.image))


SIZES = {
  # The published one.
  "1.5B": dict(width=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=64, groups=32),
  # For a CPU; ours.
  "nano": dict(width=32, multipliers=(1, 2), blocks=1, head_dim=16, groups=8),
  # For tests; ours.
  "tiny": dict(width=16, multipliers=(1, 2), blocks=1, head_dim=8, groups=8),
}
PUBLISHED = dict(
  channels=4, image=1024, scalars=("fps", "motion", "augmentation"), volumes=dict(first=4)
)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14
wider = unet_config.wider


class Model(unet.UNet):
  """A U-Net whose noise-level input is ln(sigma) / 4 (time_unit 'edm').

  Dropped conditions are zeros: image and text tokens outside the mask, features of scalars that are
  NaN, volumes.
  """

  Block = time_blending.Block

  def make_scalars(self, rngs: nnx.Rngs) -> time_blending.Embed | None:
    n, m, dtype = len(self.cfg.scalars), 4 * self.cfg.width, jnp.dtype(self.cfg.dtype)
    return time_blending.Embed(n * FEATURES, m, m, rngs=rngs, dtype=dtype) if n else None

  def embed(self, t: Float[Array, " B #T"], cond: Cond) -> Float[Array, " B #T M"]:
    c = self.time(t)  # [B,1|T,M]
    if self.scalars is not None:
      c = c + self.scalars(scalar_features(cond, self.cfg))[:, None]
    return constrain(c, "batch", "frames", None)

  def see(self, x: Array, cond: Cond) -> Float[Array, "B L D"] | None:
    if self.cfg.image:
      return unet.visible(cond.image, cond.image_mask)
    return super().see(x, cond)


def scalar_features(cond: Cond, cfg: Config) -> Float[Array, "B F"]:
  """Sines and cosines of all scalars; zeros for scalars that are NaN."""
  values = jnp.stack([cond.scalars[name] - (name == "fps") for name in cfg.scalars], -1)  # [B,n]
  gone = jnp.isnan(values)
  features = layers.sinusoid(jnp.where(gone, 0, values), FEATURES)  # [B,n,FEATURES]
  return jnp.where(gone[..., None], 0, features).reshape(len(values), -1)


def describe(cfg: Config, mesh: Mesh | AbstractMesh) -> str:
  """How attention is computed on this mesh, in words for the console."""
  kernel = choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim)
  return unet_config.in_turn(kernel, mesh, "places")


PARTS = unet_config.PARTS | {
  "scalars": "time",
  "frame": "time",
  "blend": "blends",
  "temporal": "temporal convolutions",
  "ff_in": "mlp",
  "norm_in": "norms",
}

# Our paths -> diffusers' names, applied in order.
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
  """Path of a parameter -> its name in UNetSpatioTemporalConditionModel, and its layout there."""
  model = nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0)))
  return diffusers_names.names(layers.param_info(model), _RENAMES)


def published_config(cfg: Config) -> dict[str, Any]:
  """The arguments of UNetSpatioTemporalConditionModel that give this network."""
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
