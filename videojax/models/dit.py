"""Video diffusion transformer over space-time patches (Peebles & Xie 2023, with time).

Blocks are adaLN-zero; attention is joint over all tokens, or alternates between spatial (even
blocks) and temporal (odd blocks), as in Latte. Positions are 3-D RoPE, or DiT's fixed sines.

Shapes: B batch, T frames, H W height width, C channels, t h w token grid, N = h*w tokens per frame,
S = t*N tokens, D width, K heads, E head dim, F mlp width, L text tokens, P numbers per patch.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Key

from videojax.errors import check_choice
from videojax.models import layers
from videojax.models.attention import attention, choose_kernel
from videojax.models.attention import describe as how_attention
from videojax.models.cond import Cond, check_cond
from videojax.models.contract import check_sizes
from videojax.models.elementwise import RMSNorm, gelu_tanh, layer_norm
from videojax.models.layers import Linear
from videojax.models.text import ByteEncoder
from videojax.settings import Count, Depth, Positive, Range, Width
from videojax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes have no default; see SIZES.

  Attributes:
    width, depth, num_heads: D, number of blocks, K.
    patch: (frames, height, width) of a patch.
    channels: C of the clip.
    head_dim: E; 0: D / K.
    attention: 'joint' or 'alternating' (depth must be even).
    modulation: of adaLN: 'block', one matrix per block; or 'shared', one matrix for all blocks and
      six vectors per block (PixArt-alpha's adaLN-single, Chen et al. 2023; Wan).
    position: 'rope' or 'sincos' (one sine table for space and one for time, as in DiT and Latte).
    text: 'bytes': train a ByteEncoder; a number: take embeddings of that width; None: no text.
    classes: number of labels, without the null label.
    scalars: names of scalar conditions.
    known: None, or how the channels of known frames are filled.
    volumes: name -> channels of each aligned volume.
    out_channels: output channels per channel of the clip; 2 for DiT's learned variance, which is
      discarded.
    dtype: of matmuls; parameters stay fp32.
    remat: what the backward pass recomputes (layers.REMATS).
    scan: whether blocks run as one compiled loop.
    kernel, context: of attention (attention.py).
  """

  width: Width
  depth: Depth
  num_heads: Width
  patch: tuple[Width, Width, Width]
  channels: Width
  head_dim: Annotated[int, Range(0, 2**17)] = 0
  mlp_ratio: Annotated[float, Range(0, 64, open_low=True)] = 4.0
  attention: str = "joint"
  modulation: str = "block"
  position: str = "rope"
  rope_theta: Positive = 1e4
  qk_norm: bool = True
  qkv_bias: bool = False
  text: str | Width | None = None
  classes: Count | None = None
  scalars: tuple[str, ...] = ()
  known: str | None = None
  volumes: Any = ()
  out_channels: Width = 1
  dtype: str = "bfloat16"
  remat: str = "none"
  scan: bool = True
  kernel: str = "auto"
  context: str = "auto"

  def __post_init__(self):
    check_sizes(self)
    if not self.head_dim:
      if self.width % self.num_heads:
        raise ValueError(f"width={self.width} is not divisible by num_heads={self.num_heads}")
      object.__setattr__(self, "head_dim", self.width // self.num_heads)
    if self.position == "rope" and self.head_dim % 2:
      raise ValueError(f"head_dim={self.head_dim} must be even for position='rope'")
    if self.position == "sincos" and self.width % 4:
      raise ValueError(f"width={self.width} must be divisible by 4 for position='sincos'")
    if self.attention == "alternating" and self.depth % 2:
      raise ValueError(f"depth={self.depth} must be even for attention='alternating'")
    check_choice("attention", self.attention, ("joint", "alternating"))
    check_choice("modulation", self.modulation, ("block", "shared"))
    check_choice("position", self.position, ("rope", "sincos"))
    if isinstance(self.text, str):
      check_choice("text", self.text, ("bytes",))

  @property
  def mlp(self) -> int:
    return round(self.width * self.mlp_ratio)

  @property
  def text_width(self) -> int:
    """Width of the text tokens in cross-attention; 0: no text."""
    if isinstance(self.text, int):
      return self.text
    return self.width if self.text == "bytes" else 0

  @property
  def uses(self) -> tuple[str, ...]:
    """The fields of Cond that this model takes."""
    given = dict(text=self.text, label=self.classes, scalars=self.scalars, known=self.known)
    given["volumes"] = self.volumes
    return tuple(name for name, value in given.items() if value)


SIZES = {
  # Peebles & Xie 2023, Table 1.
  "S": dict(width=384, depth=12, num_heads=6),
  "B": dict(width=768, depth=12, num_heads=12),
  "L": dict(width=1024, depth=24, num_heads=16),
  "XL": dict(width=1152, depth=28, num_heads=16),
  # For a CPU; ours.
  "nano": dict(width=64, depth=2, num_heads=2),
  "micro": dict(width=128, depth=4, num_heads=2),
  "tiny": dict(width=32, depth=2, num_heads=4),  # for tests
}


def wider(cfg: Config) -> Config:
  """The same model with twice the width and heads, from which muP infers which axes grow."""
  return dataclasses.replace(cfg, width=2 * cfg.width, num_heads=2 * cfg.num_heads)


# The DiT paper's exact settings, on latents of 4 channels, for comparison.
DIT_IMAGE = dict(
  channels=4, position="sincos", qk_norm=False, qkv_bias=True, classes=1000, out_channels=2
)


class SelfAttention(nnx.Module):
  """Self-attention over a clip ('joint'), within frames ('space'), or across frames ('time')."""

  def __init__(self, cfg: Config, over: Literal["joint", "space", "time"], *, rngs: nnx.Rngs):
    d, k, e = cfg.width, cfg.num_heads, cfg.head_dim
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    axes = ("embed", None, "heads", "head_dim")
    self.qkv = Linear((d,), (3, k, e), axes, bias=cfg.qkv_bias, **kw)
    self.out = Linear((k, e), (d,), ("heads", "head_dim", "embed"), **kw)
    self.q_norm = RMSNorm(e, rngs=rngs) if cfg.qk_norm else None
    self.k_norm = RMSNorm(e, rngs=rngs) if cfg.qk_norm else None
    self.over, self.kernel, self.context = over, cfg.kernel, cfg.context

  def __call__(
    self, x: Float[Array, "B t N D"], angles: Float[np.ndarray, "t N half"] | None
  ) -> Float[Array, "B t N D"]:
    b, t, n, _ = x.shape
    q, k, v = self.qkv.parts(x)  # each [B,t,N,K,E]
    if self.q_norm is not None and self.k_norm is not None:
      q, k = self.q_norm(q, angles), self.k_norm(k, angles)
    elif angles is not None:
      q, k = layers.rotate(q, angles), layers.rotate(k, angles)
    axes: tuple[str, ...] = ("batch", "frames", "sequence")
    if self.over == "joint":
      axes = ("batch", "sequence")
      q, k, v = (y.reshape(b, t * n, *y.shape[3:]) for y in (q, k, v))  # [B,S,K,E]
    elif self.over == "time":
      axes = ("batch", "tokens", "sequence")
      q, k, v = (jnp.swapaxes(y, 1, 2) for y in (q, k, v))  # [B,N,t,K,E]
    y = attention(q, k, v, axes=axes, kernel=self.kernel, context=self.context)
    if self.over == "time":
      y = jnp.swapaxes(y, 1, 2)
    return self.out(y.reshape(b, t, n, *y.shape[-2:]))


class CrossAttention(nnx.Module):
  """Attention from all tokens to the text, which begins with a learned null token."""

  def __init__(self, cfg: Config, text_width: int, *, rngs: nnx.Rngs):
    d, k, e = cfg.width, cfg.num_heads, cfg.head_dim
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    self.q = Linear((d,), (k, e), ("embed", "heads", "head_dim"), bias=cfg.qkv_bias, **kw)
    axes = ("embed", None, "heads", "head_dim")
    self.kv = Linear((text_width,), (2, k, e), axes, bias=cfg.qkv_bias, **kw)
    # Zero: with or without text, the block is the identity at initialisation.
    self.out = Linear((k, e), (d,), ("heads", "head_dim", "embed"), init=layers.ZEROS, **kw)
    self.kernel = cfg.kernel

  def __call__(self, x: Float[Array, "B t N D"], text: Array, lengths: Array) -> Array:
    b, t, n, _ = x.shape
    q = self.q(layer_norm(x)).reshape(b, t * n, *self.q.kernel.shape[1:])  # [B,S,K,E]
    k, v = self.kv.parts(text)  # each [B,L,K,E]
    y = attention(q, k, v, lengths, axes=("batch", "sequence"), keys=None, kernel=self.kernel)
    return x + self.out(y).reshape(x.shape)


class Block(nnx.Module):
  """adaLN-zero: the condition gives (shift, scale, gate) for attention and for the mlp."""

  def __init__(
    self, cfg: Config, over: Literal["joint", "space", "time"], text: int, *, rngs: nnx.Rngs
  ):
    d, f = cfg.width, cfg.mlp
    kw: dict[str, Any] = dict(rngs=rngs, dtype=jnp.dtype(cfg.dtype))
    # Zero gates: every block is the identity at initialisation.
    axes, shared = ("embed", None, None), cfg.modulation == "shared"
    self.ada = None if shared else Linear((d,), (6, d), axes, init=layers.ZEROS, **kw)
    self.ada_table = layers.param(rngs, layers.ZEROS, (6, d), (None, "embed")) if shared else None
    self.attention = SelfAttention(cfg, over, rngs=rngs)
    # Only joint and spatial blocks, which see whole frames, attend to the text.
    self.cross = CrossAttention(cfg, text, rngs=rngs) if text and over != "time" else None
    self.up = Linear((d,), (f,), ("embed", "mlp"), **kw)
    self.down = Linear((f,), (d,), ("mlp", "embed"), **kw)
    # Temporal blocks keep all frames of a position on one device, others all positions of a frame.
    self.grid = (None, "tokens") if over == "time" else ("frames", "tokens")

  def __call__(self, x, c, angles, text, lengths):
    x = constrain(x, "batch", *self.grid, None)
    # c: [B,1|t,D], or with shared modulation all six vectors [B,1|t,6,D]
    six = c if self.ada is None else self.ada(c)
    if self.ada_table is not None:
      six = six + self.ada_table[...].astype(c.dtype)[None, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.moveaxis(six, 2, 0)  # [B,1|t,D]
    y = layer_norm(x, shift1, scale1)
    x = x + gate1[:, :, None] * self.attention(y, angles)
    if self.cross is not None:
      x = self.cross(x, text, lengths)
    y = layer_norm(x, shift2, scale2)
    y = gelu_tanh(constrain(self.up(y), "batch", *self.grid, "act_mlp"))
    x = x + gate2[:, :, None] * self.down(y)
    return constrain(x, "batch", *self.grid, None)  # [B,t,N,D]


class Pair(nnx.Module):
  """A spatial block, then a temporal block."""

  def __init__(self, cfg: Config, text: int, *, rngs: nnx.Rngs):
    self.spatial = Block(cfg, "space", text, rngs=rngs)
    self.temporal = Block(cfg, "time", text, rngs=rngs)

  def __call__(self, x, c, angles, text, lengths):
    return self.temporal(self.spatial(x, c, angles, text, lengths), c, angles, text, lengths)


class Model(nnx.Module):
  """x [B,T,H,W,C] at noise level t -> like x."""

  def __init__(self, cfg: Config, *, rngs: nnx.Rngs):
    self.cfg = cfg
    d, dtype = cfg.width, jnp.dtype(cfg.dtype)
    kw: dict[str, Any] = dict(rngs=rngs, dtype=dtype)
    patch_numbers = math.prod(cfg.patch)
    self.patch = Linear((patch_numbers * layers.channels_in(cfg),), (d,), ("patch", "embed"), **kw)
    self.time = layers.ScalarEmbed(d, null=False, **kw)
    self.scalars: Any = nnx.Dict(
      {name: layers.ScalarEmbed(d, null=True, **kw) for name in cfg.scalars}
    )
    self.label = (
      layers.param(rngs, layers.normal(0.02), (cfg.classes + 1, d), ("vocab", "embed"))
      if cfg.classes
      else None
    )
    axes, shared = ("embed", None, None), cfg.modulation == "shared"
    self.ada = Linear((d,), (6, d), axes, init=layers.ZEROS, **kw) if shared else None
    text = cfg.text_width
    self.text = ByteEncoder(d, cfg.num_heads, **kw) if cfg.text == "bytes" else None
    self.null_text = layers.param(rngs, layers.normal(0.02), (text,), (None,)) if text else None
    if cfg.attention == "joint":
      self.blocks = layers.stack(lambda r: Block(cfg, "joint", text, rngs=r), cfg.depth, rngs)
    else:
      self.blocks = layers.stack(lambda r: Pair(cfg, text, rngs=r), cfg.depth // 2, rngs)
    self.head_ada = Linear((d,), (2, d), ("embed", None, None), init=layers.ZEROS, **kw)
    # Zero: the output is zero at initialisation.
    p_out = patch_numbers * cfg.channels * cfg.out_channels
    self.head = Linear((d,), (p_out,), ("embed", "patch"), init=layers.ZEROS, **kw)

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
      x: noisy clip of about unit variance.
      t: noise level in the unit of DiT's sinusoid (0 to 1000), one per clip or per frame; constant
        within a temporal patch.
      cond: exactly the conditions that Config declares.
      key: unused: the model is deterministic.
    """
    cfg = self.cfg
    check_cond(cond, cfg)
    shape = x.shape
    x = layers.beside(x, cond, cfg)
    if shape[1] == 1 and cfg.patch[0] > 1:  # an image is one frame, repeated to fill a patch
      x = jnp.repeat(x, cfg.patch[0], axis=1)
    pt, ph, pw = cfg.patch
    grid = (x.shape[1] // pt, x.shape[2] // ph, x.shape[3] // pw)  # (t, h, w)
    x = self.patch(layers.patchify(x, cfg.patch))  # [B,t,N,D]
    angles = None
    if cfg.position == "rope":
      angles = layers.rope_angles(grid, cfg.head_dim, cfg.rope_theta)  # [t,N,E/2]
    else:
      x = x + layers.sincos_2d(grid[1], grid[2], cfg.width)[None, None].astype(x.dtype)
      if grid[0] > 1:
        frames = layers.sincos_1d(np.arange(grid[0]), cfg.width)  # [t,D]
        x = x + frames[None, :, None].astype(x.dtype)
    if t.shape[1] > 1:  # one level per temporal patch
      t = t[:, :: cfg.patch[0]]
    c = self.time(t)  # [B,1|t,D]
    if self.label is not None:
      null = self.label.shape[0] - 1
      # The last row is for dropped labels only; a label that does not exist gives NaN.
      row = jnp.where(cond.label < 0, null, jnp.where(cond.label < null, cond.label, null + 1))
      table = self.label[...].astype(c.dtype)
      c = c + table.at[row].get(mode="fill", fill_value=jnp.nan)[:, None]
    for name, embed in self.scalars.items():
      c = c + embed(cond.scalars[name])[:, None]
    c = jax.nn.silu(c)
    text, lengths = self.encode_text(cond)

    each = c if self.ada is None else self.ada(c)  # [B,1|t,D] or [B,1|t,6,D]
    if cfg.attention == "joint" and c.shape[1] == 1:
      # One long frame, so that seq shards all S tokens; it might not divide the t frames.
      x = x.reshape(x.shape[0], 1, -1, cfg.width)  # [B,1,S,D]
      angles = None if angles is None else angles.reshape(1, -1, angles.shape[-1])
    x = constrain(x, "batch", "frames", "tokens", None)
    x = layers.run_stack(
      self.blocks, x, each, angles, text, lengths, remat=cfg.remat, scan=cfg.scan
    )

    shift, scale = jnp.moveaxis(self.head_ada(c), 2, 0)  # [B,1|t,D]
    x = self.head(layer_norm(x, shift, scale))
    x = x.reshape(x.shape[0], grid[0], -1, x.shape[-1])  # [B,t,N,P]
    x = layers.unpatchify(x.astype(jnp.float32), cfg.patch, grid)
    return x[:, : shape[1], ..., : cfg.channels]  # [B,T,H,W,C]

  def encode_text(self, cond: Cond) -> tuple[Array | None, Array | None]:
    """Text tokens after the null token, [B,1+L,D], and the number of valid ones, [B]."""
    if self.null_text is None:
      return None, None
    b = cond.text.shape[0]
    lengths = cond.text_mask.sum(-1, dtype=jnp.int32)
    # Real tokens go first, wherever the padding is, because attention masks by length.
    order = jnp.argsort(~cond.text_mask, -1, stable=True)
    text = jnp.take_along_axis(
      cond.text, order.reshape(*order.shape, *(1,) * (cond.text.ndim - 2)), 1
    )
    text = self.text(text, lengths) if self.text is not None else text
    null = jnp.broadcast_to(self.null_text[...].astype(text.dtype), (b, 1, text.shape[-1]))
    return jnp.concatenate([null, text], 1), 1 + lengths


def describe(cfg: Config, mesh: Mesh | AbstractMesh) -> str:
  """How attention is computed on this mesh, in words for the console."""
  kernel = choose_kernel(cfg.kernel, dtype=cfg.dtype, head_dim=cfg.head_dim)
  if cfg.attention == "joint" or mesh.shape["seq"] == 1:
    return how_attention(cfg.context, kernel=kernel, heads=cfg.num_heads, mesh=mesh)
  return f"{kernel}, frames and places in turn over seq={mesh.shape['seq']}, by all-to-all"


# Element of a parameter's path -> the part that it is listed under.
PARTS = {
  "patch": "patchify", "time": "time", "scalars": "scalars", "label": "label", "text": "text",
  "null_text": "text", "head_ada": "adaLN", "head": "head",
  "ada": "adaLN", "ada_table": "adaLN", "attention": "attention projections", "cross": "text",
  "up": "mlp", "down": "mlp",
}  # fmt: skip
