"""VideoCrafter's U-Net: an image U-Net with attention along time in every block that attends.

A block is a residual block, in two variants with convolutions along time, then a transformer within
each frame (with attention to the text, and in one variant to an image) and one along time, which in
the other two knows how far apart frames are. The frame rate joins the noise level. Every branch and
the last convolution start at zero.

Source: Chen et al. 2023, arXiv:2310.19512 (VideoCrafter1); Chen et al. 2024, arXiv:2401.09047
(VideoCrafter2). What is computed, and every parameter, is that of UNetModel in openaimodel3d.py of
github.com/AILab-CVC/VideoCrafter (commit 11bcd76) as its four configs set it; its dropout of 0.1 in
temporal convolutions is left out, and biases start at zero.

Shapes: B batch, T frames, H W height width, C channels, L text tokens, I image tokens, M width of
time embedding.
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
from videojax.models.videocrafter_attention import Transformer, from_zero
from videojax.settings import Count, Depth, Natural, Width
from videojax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width: channels at full resolution.
    multipliers: channels of each level in units of `width`; each has half the resolution of the one
      before. All but the last attend, as does the middle.
    blocks: per level on the way down; one more on the way up.
    head_dim: channels of a head; a level has as many heads as fit.
    in_heads: of the temporal transformer after the first convolution.
    groups: of group norm.
    temporal_conv: convolutions along time in every residual block.
    channels: C of the clip.
    text: width of the given embeddings; None: no cross-attention.
    image_tokens: I, of the text's width, attended to beside the text with keys and values of their
      own; 0: none.
    scalars: names of scalar conditions, each embedded as the noise level is; the paper's is 'fps'.
    reach: frames apart that attention along time tells apart, farther ones count as so far; None:
      it knows nothing of distance.
    known: None, or how the channels of known frames are filled (not the paper's).
    volumes: channels of each aligned volume by name (not the paper's).
    dtype: of matmuls and convolutions; parameters stay fp32.
    remat: what the backward pass of a block recomputes (layers.REMATS).
    scan: False; blocks differ in size, so there is nothing to loop over.
    kernel, context: of attention (attention.py); where it knows distances it is XLA's.
  """

  width: Width
  multipliers: tuple[Depth, ...]
  blocks: Depth
  head_dim: Width
  in_heads: Width
  groups: Width
  temporal_conv: bool
  channels: Width
  text: Width | None = None
  image_tokens: Natural = 0
  scalars: tuple[str, ...] = ()
  reach: Count | None = None
  known: str | None = None
  volumes: Any = ()
  dtype: str = "bfloat16"
  remat: str = "none"
  scan: bool = False
  kernel: str = "auto"
  context: str = "auto"

  patch: ClassVar[tuple[int, int, int]] = (1, 1, 1)
  classes: ClassVar[int | None] = None

  def __post_init__(self):
    unet_config.check(self)
    if self.multipliers[:1] != (1,):
      raise ValueError(f"multipliers={self.multipliers} must be numbers >= 1, by level, 1 first")
    if self.image_tokens < 0 or (self.image_tokens and not self.text):
      raise ValueError(
        f"image_tokens={self.image_tokens} with text={self.text}: image tokens are seen beside a "
        "text and have its width, so set text"
      )

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    given = dict(
      text=self.text, image=self.image_tokens, scalars=self.scalars, known=self.known,
      volumes=self.volumes,
    )  # fmt: skip
    return tuple(name for name, value in given.items() if value)

  @property
  def num_heads(self) -> int:
    """Heads at full resolution, the fewest of any level."""
    return self.width // self.head_dim

  @property
  def depth(self) -> int:
    """Blocks in units of one at full resolution, by tokens times channels: for estimates."""
    return unet_config.depth(self, stages(self))


_PAPER = dict(width=320, multipliers=(1, 2, 4, 4), blocks=2, head_dim=64, in_heads=8, groups=32)
SIZES: dict[str, dict[str, Any]] = {
  # The published ones, by their configs' names: parameters in tests/models/test_videocrafter.py.
  "512-v2": dict(**_PAPER, temporal_conv=True, scalars=("fps",)),  # VideoCrafter2
  "1024-v1": dict(**_PAPER, temporal_conv=False, scalars=("fps",), reach=16),
  "512-v1": dict(**_PAPER, temporal_conv=False, reach=16),
  "i2v-512": dict(**_PAPER, temporal_conv=True, scalars=("fps",), image_tokens=16),
  # For a CPU; ours.
  "nano": dict(
    width=32, multipliers=(1, 2), blocks=1, head_dim=16, in_heads=1, groups=8, temporal_conv=True
  ),
}  # fmt: skip
PUBLISHED = dict(channels=4, text=1024)  # latents of Stable Diffusion, OpenCLIP's ViT-H/14


def wider(cfg: Config) -> Config:
  """The same model twice as wide, with twice the heads: what muP tells its axes apart by."""
  return dataclasses.replace(cfg, width=2 * cfg.width, in_heads=2 * cfg.in_heads)


def stages(cfg: Config) -> list[unet.Stage]:
  """The U in the order of its forward pass."""
  return unet.stages(cfg, range(len(cfg.multipliers) - 1), middle=True)


class Block(nnx.Module):
  """Within the frames, along time, and both again with attention."""

  def __init__(self, cfg: Config, shape: unet.BlockShape, *, rngs: nnx.Rngs):
    c, kw = shape.c_out, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.resnet = unet.ResNet(shape.c_in, c, 4 * cfg.width, cfg.groups, eps=1e-5, **kw)
    from_zero(self.resnet.conv2)
    self.temp_conv = unet.TemporalConv(c, cfg.groups, **kw) if cfg.temporal_conv else None
    make = lambda over: Transformer(cfg, c, c // cfg.head_dim, over, rngs=rngs)
    self.attention = make("space") if shape.attends else None
    self.temp_attention = make("time") if shape.attends else None

  def __call__(
    self, x: Float[Array, "B T H W C"], c: Float[Array, " B #T M"], text: Array | None
  ) -> Array:
    x = self.resnet(x, c)
    if self.temp_conv is not None:
      x = self.temp_conv(x)
    if self.attention is not None and self.temp_attention is not None:
      x = self.temp_attention(self.attention(x, text), None)
    return x


class Level(nnx.Module):
  """The blocks of a stage, and the convolution that comes with a change of resolution."""

  def __init__(self, cfg: Config, stage: unet.Stage, *, rngs: nnx.Rngs):
    shapes, c = enumerate(stage.blocks), stage.blocks[-1].c_out
    self.blocks: Any = nnx.Dict({str(i): Block(cfg, shape, rngs=rngs) for i, shape in shapes})
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    kw["stride"] = 2 if stage.place == "down" else 1
    self.sampler = unet.Conv(c, c, unet.SPACE, ("embed", None), **kw) if stage.sampler else None


class Model(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x. A network and nothing else."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg, rngs = cfg, unet.Keys(rngs.params())
    c, kw = cfg.width, dict[str, Any](rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.time = unet.TimeEmbed(c, **kw)
    self.scalars: Any = nnx.Dict({name: unet.TimeEmbed(c, **kw) for name in cfg.scalars})
    self.conv_in = unet.Conv(layers.channels_in(cfg), c, unet.SPACE, ("patch", "embed"), **kw)
    self.transformer_in = Transformer(cfg, c, cfg.in_heads, "time", rngs=rngs)
    make = lambda place: [Level(cfg, s, rngs=rngs) for s in stages(cfg) if s.place == place]
    self.down: Any = nnx.Dict({str(i): level for i, level in enumerate(make("down"))})
    self.mid = make("mid")[0]
    self.up: Any = nnx.Dict({str(i): level for i, level in enumerate(make("up"))})
    self.norm_out = unet.GroupNorm(c, cfg.groups, frames=False, eps=1e-5, rngs=rngs)
    self.conv_out = from_zero(unet.Conv(c, cfg.channels, unet.SPACE, ("embed", "patch"), **kw))

  def embed(self, t: Float[Array, " B #T"], cond: Cond) -> Float[Array, " B #T M"]:
    """The noise level and the scalars as one vector."""
    c = self.time(t)
    for name, embed in self.scalars.items():
      value = cond.scalars[name][:, None]  # [B,1]
      given = ~jnp.isnan(value)
      c = c + jnp.where(given[..., None], embed(jnp.where(given, value, 0.0)), 0)
    return c

  def sources(self, cond: Cond) -> Float[Array, "B L text"] | None:
    """Text tokens, and image tokens behind them."""
    if not self.cfg.text:
      return None
    text = jnp.where(cond.text_mask[..., None], cond.text, 0)  # [B,L,text]
    if not self.cfg.image_tokens:
      return text
    if cond.image.shape[1] != self.cfg.image_tokens:
      raise ValueError(f"{cond.image.shape[1]} image tokens, not {self.cfg.image_tokens}")
    return jnp.concatenate([text, jnp.where(cond.image_mask[..., None], cond.image, 0)], 1)

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
      t: noise level, 0 to 1000, one per clip or (not the paper's) per frame.
      cond: exactly the conditions that Config declares. A token outside its mask is a zero vector:
        it is attended to, as the reference attends to its padding, and says nothing. Image tokens
        are what CLIP's resampler makes of an image; it is no part of the U-Net. A scalar that is
        NaN adds nothing to the noise level's embedding (the reference always has one; of the
        frame rate 16 if none is given).
      key: unused, the model is deterministic.
    """
    cfg = self.cfg
    check_cond(cond, cfg)
    c, text = self.embed(t, cond), self.sources(cond)  # [B,1|T,M], [B,L+I,text]
    run = lambda block, x: unet.run(block, x, c, text, remat=cfg.remat)

    x = self.conv_in(constrain(layers.beside(x, cond, cfg), *unet.GRID, None))
    x = self.transformer_in(constrain(x, *unet.GRID, None), None)
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


def describe(cfg: Config, mesh: Any) -> str:
  """How attention is computed on this mesh, for people."""
  kernel = choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim)
  kernel += ", xla along time (distances)" if cfg.reach else ""
  if mesh.shape["seq"] == 1:
    return kernel
  return f"{kernel}, frames and rows in turn over seq={mesh.shape['seq']}, by all-to-all"


PARTS = unet_config.PARTS | {
  "scalars": "time",
  "temp_conv": "temporal convolutions",
  "key_distance": "attention scores",
  "value_distance": "attention scores",
}

# Our paths -> the reference's names, one after the other.
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
# What a published checkpoint has beside the U-Net: its VAE, encoders and schedule.
OTHER_PARTS = (
  "first_stage_model.", "cond_stage_model.", "embedder.", "image_proj_model.", "scale_arr",
  "betas", "alphas_", "sqrt_", "log_", "posterior_",
)  # fmt: skip


def names(cfg: Config) -> dict[str, tuple[str, str]]:
  """Path of a parameter -> its name and layout in a published checkpoint (runs/weights.py).

  They begin with 'model.diffusion_model.'; behind it they are those of the reference's UNetModel.
  """

  def numbered(match: re.Match) -> str:
    """A block, or the sampler behind a stage's last, in the reference's list of one way."""
    way, stage, block = match[1], int(match[2]), match[3]
    n = stage * (cfg.blocks + 1) + int(cfg.blocks if block is None else block)
    if way == "down":
      return f"input_blocks/{n + 1}" + ("/0/op" if block is None else "")
    return f"output_blocks/{n}" + (f"/{3 if stage else 1}/conv" if block is None else "")

  def name(path: str) -> str:
    path = re.sub(r"^(down|up)/(\d+)/(?:sampler|blocks/(\d+))", numbered, path)
    for pattern, new in _RENAMES:
      path = re.sub(pattern, new, path)
    return path

  def layout(path: str, inputs: int) -> str:
    if path.endswith("_distance"):
      return "table"
    if path.endswith("shortcut/kernel"):
      return "conv2d"
    if re.match(r"transformer_in/proj_(in|out)/kernel", path):
      return "conv1d"
    return "weight" if inputs else "vector"

  info = layers.param_info(nnx.eval_shape(lambda: Model(cfg, rngs=nnx.Rngs(0))))
  return {path: (name(path), layout(path, i.inputs)) for path, i in info.items()}
