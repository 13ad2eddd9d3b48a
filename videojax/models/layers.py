"""What several architectures share: parameters with logical axes, embeddings, patches, stacks.

Shapes: B batch, T frames, H W height width, C channels, t h w the token grid, N = h*w tokens per
frame, D width, K heads, E head dim, P numbers per patch.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, ArrayLike, Float

from videojax.models.cond import Cond
from videojax.models.context import SAVED
from videojax.sharding import splits

Axes = tuple[str | None, ...]
REMATS = ("none", "attention_dots", "attention_narrow", "attention", "offload", "full")
KNOWN_FILLS = ("zeros", "last")
BLOCK_INPUT, STATISTICS = "block input", "statistics"  # what remat policies may keep, with SAVED


# --- parameters -------------------------------------------------------------------------------


class Init(NamedTuple):
  """How a parameter starts; its std can be asked at other fans too, as muP does (scaling/mup.py).

  Attributes:
    kind: 'xavier' (Glorot & Bengio 2010, uniform), 'normal' or 'constant'.
    value: std of 'normal', the value of 'constant'.
  """

  kind: str
  value: float = 0.0

  def std(self, fan_in: int | float, fan_out: int | float) -> float:
    """Standard deviation; 0 of a constant."""
    if self.kind == "xavier":
      return math.sqrt(2 / (fan_in + fan_out))
    return self.value if self.kind == "normal" else 0.0

  def draw(self, key: Array, shape: tuple[int, ...], inputs: int) -> Array:
    """The initial value; kernels may have several input and output axes (heads, head dim)."""
    if self.kind == "constant":
      return jnp.full(shape, self.value, jnp.float32)
    if self.kind == "normal":
      return self.value * jax.random.normal(key, shape, jnp.float32)
    limit = math.sqrt(3) * self.std(math.prod(shape[:inputs]), math.prod(shape[inputs:]))
    return jax.random.uniform(key, shape, jnp.float32, -limit, limit)


XAVIER, ZEROS, ONES = Init("xavier"), Init("constant", 0.0), Init("constant", 1.0)


def normal(std: float) -> Init:
  return Init("normal", std)


def param(
  rngs: nnx.Rngs, init: Init, shape: tuple[int, ...], axes: Axes, inputs: int = 0
) -> nnx.Param:
  """An fp32 master parameter that knows its logical axes, its start and which axes are inputs.

  Args:
    rngs: for the initial value.
    init: how it starts.
    shape: without the axes of a stack.
    axes: logical names (sharding.RULES), one per axis of `shape`.
    inputs: leading axes that a matrix product contracts; 0: not a matrix.
  """
  value = init.draw(rngs.params(), shape, inputs)
  return nnx.Param(value, axes=axes, inputs=inputs, start=init)


class ParamInfo(NamedTuple):
  """What a parameter says of itself: logical axes (those of its stack first), inputs, start."""

  axes: Axes
  inputs: int
  init: Init


def param_info(model: nnx.Module) -> dict[str, ParamInfo]:
  """ParamInfo of every parameter by path ('blocks/attention/qkv/kernel')."""

  def info(variable: Any) -> ParamInfo:
    stacked = len(variable.shape) - len(variable.axes)
    return ParamInfo(("layers",) * stacked + tuple(variable.axes), variable.inputs, variable.start)

  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {"/".join(map(str, path)): info(variable) for path, variable in flat}


class Linear(nnx.Module):
  """x [..., *d_in] -> [..., *d_out]; d_in and d_out may be several axes (heads, head dim).

  Initialised as DiT does: Xavier uniform on the two-dimensional matrix, zero bias.
  """

  def __init__(
    self,
    d_in: tuple[int, ...],
    d_out: tuple[int, ...],
    axes: Axes,
    *,
    rngs: nnx.Rngs,
    dtype: Any,
    init: Init = XAVIER,
    bias: bool = True,
  ):
    self.kernel = param(rngs, init, d_in + d_out, axes, inputs=len(d_in))
    self.bias = param(rngs, ZEROS, d_out, axes[len(d_in) :]) if bias else None
    self.contract, self.dtype = len(d_in), dtype

  def __call__(self, x: Array) -> Array:
    bias = None if self.bias is None else self.bias[...]
    return self._product(x, self.kernel[...], bias)

  def parts(self, x: Array) -> list[Array]:
    """The result cut along its first axis (queries, keys, values), each by a product of its own.

    Cut from one product they would be copied: kernels want each in one piece.
    """
    kernels = apart(self.kernel[...].astype(self.dtype), self.contract)
    biases = [None] * len(kernels) if self.bias is None else apart(self.bias[...], 0)
    return [self._product(x, kernel, bias) for kernel, bias in zip(kernels, biases)]

  def _product(self, x: Array, kernel: Array, bias: Array | None) -> Array:
    y = product(x.astype(self.dtype), kernel.astype(self.dtype), self.contract)
    return y if bias is None else y + lead(bias.astype(self.dtype), y)


def product(x: Array, kernel: Array, contract: int = 1) -> Array:
  """jnp.tensordot, on one axis of rows where no other than the first can be split.

  Of several axes a GPU's compiler makes transposed copies for the gradients, and on a CPU they take
  three times as long.
  """
  rows, inputs = x.shape[: x.ndim - contract], x.shape[x.ndim - contract :]
  if len(rows) < 2 or splits("tokens"):
    return jnp.tensordot(x, kernel, contract)
  y = jnp.tensordot(x.reshape(-1, *inputs), kernel, contract)
  return y.reshape(*rows, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def apart(x: Array, axis: int) -> list[Array]:
  """`x` cut along an axis that goes, as by jnp.unstack.

  The gradients are put together once: a compiler that merges that with what uses the whole does it
  again for every use, from as many pieces.
  """
  return list(jnp.unstack(x, axis=axis))


apart.defvjp(
  lambda x, axis: (apart(x, axis), None),
  lambda axis, _, g: (jax.lax.optimization_barrier(jnp.stack(g, axis)),),
)


def lead(p: Array, like: Array) -> Array:
  """`p` with leading axes of one, to go along the last axes of `like`."""
  return p.reshape((1,) * (like.ndim - p.ndim) + p.shape)


# --- conditions -------------------------------------------------------------------------------


def sinusoid(t: Float[Array, "*B"], dim: int, max_period: float = 1e4) -> Float[Array, "*B dim"]:
  """cos and sin features of a scalar (Vaswani et al. 2017, DiT's order: cosines first)."""
  half = dim // 2
  freqs = np.exp(-math.log(max_period) * np.arange(half) / half).astype(np.float32)
  angles = t.astype(jnp.float32)[..., None] * freqs.reshape((1,) * t.ndim + (half,))
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class ScalarEmbed(nnx.Module):
  """A scalar -> sinusoid (256) -> Linear, SiLU, Linear -> [*B, D]; NaN is the learned null.

  The noise level, 0 to 1000, has no null and is told as it is; others, of about one, in tenths: as
  they are the sinusoid would hardly tell them apart.
  """

  FEATURES, TENTHS = 256, 10.0

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: Any, null: bool):
    init = normal(0.02)  # DiT initialises its timestep MLP so
    self.hidden = Linear(
      (self.FEATURES,), (width,), (None, "embed"), rngs=rngs, dtype=dtype, init=init
    )
    self.out = Linear((width,), (width,), ("embed", None), rngs=rngs, dtype=dtype, init=init)
    self.null = param(rngs, ZEROS, (width,), (None,)) if null else None

  def __call__(self, value: Float[Array, "*B"]) -> Float[Array, "*B D"]:
    missing = jnp.isnan(value)
    told = jnp.where(missing, 0.0, value) * (1.0 if self.null is None else self.TENTHS)
    y = self.out(jax.nn.silu(self.hidden(sinusoid(told, self.FEATURES))))
    if self.null is None:
      return y
    return jnp.where(missing[..., None], lead(self.null[...].astype(y.dtype), y), y)


def known_channels(
  x: Float[Array, "B T H W C"], cond: Cond, fill: str
) -> Float[Array, "B T H W F"]:
  """Mask and clean values as extra channels: image-to-video, extension, in-betweening, repaint.

  Args:
    x: noisy clip, for the shape.
    cond: with `known_mask` and `known`.
    fill: what stands at unknown positions: 'zeros' (F = 1 + C), or 'last', the last known value
      in time and its change since the known value before it (F = 1 + 2C).
  """
  mask = jnp.broadcast_to(cond.known_mask, (*x.shape[:-1], 1)).astype(x.dtype)  # [B,T,H,W,1]
  values = jnp.where(mask > 0, cond.known.astype(x.dtype), 0)
  if fill == "zeros":
    return jnp.concatenate([mask, values], -1)
  frame = jnp.arange(x.shape[1]).reshape(1, -1, 1, 1, 1)
  last = jax.lax.cummax(jnp.where(mask > 0, frame, -1), axis=1)  # [B,T,H,W,1] index or -1
  before = jnp.concatenate([jnp.full_like(last[:, :1], -1), last[:, :-1]], 1)

  def take(source: Array, index: Array) -> Array:
    index_c = jnp.broadcast_to(index, source.shape)
    return jnp.where(index_c < 0, 0, jnp.take_along_axis(source, jnp.maximum(index_c, 0), 1))

  change = jnp.where((mask > 0) & (before >= 0), values - take(values, before), 0)
  return jnp.concatenate([mask, take(values, last), take(change, last)], -1)


def known_channel_count(channels: int, fill: str | None) -> int:
  return 0 if fill is None else 1 + channels * (1 if fill == "zeros" else 2)


def beside(x: Float[Array, "B T H W C"], cond: Cond, cfg: Any) -> Float[Array, "B T H W I"]:
  """The clip with the conditions that have its shape as further channels: known, volumes by name.

  Args:
    x: noisy clip.
    cond: conditions.
    cfg: a model's, with `known` and `volumes`.
  Raises:
    ValueError: a volume whose shape is not the clip's.
  """
  parts = [x] + ([known_channels(x, cond, cfg.known)] if cfg.known else [])
  for name, channels in cfg.volumes:
    want = (*x.shape[:-1], channels)
    if cond.volumes[name].shape != want:
      raise ValueError(f"volume {name!r} has shape {cond.volumes[name].shape}, not {want}")
    parts.append(cond.volumes[name].astype(x.dtype))
  return jnp.concatenate(parts, -1)


def channels_in(cfg: Any) -> int:
  """I of `beside`."""
  volumes = sum(channels for _, channels in cfg.volumes)
  return cfg.channels + known_channel_count(cfg.channels, cfg.known) + volumes


def as_volumes(volumes: Any) -> tuple[tuple[str, int], ...]:
  """A model's `volumes` as pairs of name and channels, by name; from such pairs or a mapping.

  Raises:
    ValueError: they are neither.
  """
  try:
    pairs = tuple(sorted(dict(volumes).items()))
  except (TypeError, ValueError):
    pairs = ((None, None),)
  if not all(isinstance(name, str) and type(n) is int and n > 0 for name, n in pairs):
    raise ValueError(
      f"volumes={volumes!r} must give the channels of each by name, as volumes=dict(low=3) in the "
      "experiment's file; --config.model.volumes.low=1 changes what the file has"
    )
  return pairs


# --- patches and positions --------------------------------------------------------------------


def patchify(x: Float[Array, "B T H W C"], patch: tuple[int, int, int]) -> Float[Array, "B t N P"]:
  """Cuts a clip into space-time patches, one token each.

  Raises:
    ValueError: where the patch does not divide the clip.
  """
  b, frames, height, width, c = x.shape
  pt, ph, pw = patch
  if frames % pt or height % ph or width % pw:
    raise ValueError(
      f"patch {patch} (frames, height, width) does not divide a clip of {frames} frames of "
      f"{height}x{width}: change the model's patch or the data's frames and size"
    )
  t, h, w = frames // pt, height // ph, width // pw
  x = x.reshape(b, t, pt, h, ph, w, pw, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
  return x.reshape(b, t, h * w, pt * ph * pw * c)  # [B,t,N,P]


def unpatchify(
  x: Float[Array, "B t N P"], patch: tuple[int, int, int], grid: tuple[int, int, int]
) -> Float[Array, "B T H W C"]:
  """The inverse of `patchify`."""
  (pt, ph, pw), (t, h, w) = patch, grid
  c = x.shape[-1] // (pt * ph * pw)
  x = x.reshape(x.shape[0], t, h, w, pt, ph, pw, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
  return x.reshape(x.shape[0], t * pt, h * ph, w * pw, c)


@functools.lru_cache
def rope_angles(
  grid: tuple[int, int, int], head_dim: int, theta: float
) -> Float[np.ndarray, "t N half"]:
  """Angles of 3-D rotary embeddings: the head's pairs are shared among t, h and w.

  Source: Su et al. 2021 per axis; a third of the pairs each for h and w, the rest for t.
  """
  pairs = head_dim // 2
  per_axis = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
  axes = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")  # three [t,h,w]
  angles = [
    axis[..., None] * theta ** (-np.arange(n) / max(n, 1)) for axis, n in zip(axes, per_axis)
  ]
  flat = np.concatenate(angles, -1)
  return flat.reshape(grid[0], -1, pairs).astype(np.float32)  # [t,N,E/2]


def rotate(x: Float[Array, "B t N K E"], angles: Float[ArrayLike, "t N half"]) -> Array:
  """Rotates the pairs (x_i, x_{i+E/2}) of each head by the token's angles; in fp32."""
  a, b = jnp.split(x.astype(jnp.float32), 2, -1)
  return jnp.concatenate(turn(a, b, jnp.asarray(angles)), -1).astype(x.dtype)


def turn(a: Array, b: Array, angles: Array) -> list[Array]:
  """The halves of heads, rotated."""
  cos, sin = (f(angles)[None, :, :, None] for f in (jnp.cos, jnp.sin))  # [1,t,N,1,E/2]
  return [a * cos - b * sin, b * cos + a * sin]


@functools.lru_cache
def sincos_2d(h: int, w: int, dim: int) -> Float[np.ndarray, "N dim"]:
  """DiT's fixed positions: half the features for the column, half for the row, sines first."""
  rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
  halves = [sincos_1d(axis.reshape(-1), dim // 2) for axis in (columns, rows)]
  return np.concatenate(halves, -1).astype(np.float32)


def sincos_1d(position: np.ndarray, dim: int) -> np.ndarray:
  """[n] -> [n,dim]: sines, then cosines, of position * 10000^(-i/(dim/2))."""
  angles = position[:, None] * 1e4 ** (-np.arange(dim // 2) / (dim / 2))
  return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)


# --- stacks of blocks -------------------------------------------------------------------------


def stack(make_block: Callable[[nnx.Rngs], nnx.Module], depth: int, rngs: nnx.Rngs) -> nnx.Module:
  """`depth` blocks as one module whose parameters have a leading axis ('layers' to sharding)."""

  @nnx.split_rngs(splits=depth)
  @nnx.vmap(in_axes=(0,), out_axes=0)
  def make(r: nnx.Rngs) -> nnx.Module:
    return make_block(r)

  return make(rngs)


def remat_policy(remat: str) -> Any:
  """The jax.checkpoint policy of a name in REMATS but 'none'."""
  policies = jax.checkpoint_policies
  if remat == "full":
    return policies.nothing_saveable
  if remat == "offload":
    return policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[], names_which_can_be_offloaded=[SAVED, BLOCK_INPUT],
      offload_src="device", offload_dst="pinned_host",
    )  # fmt: skip
  # cuDNN's kernel has residuals of its own that no name reaches.
  cudnn = lambda primitive, *_, **__: "dot_product_attention_fwd" in primitive.name
  attention = policies.save_from_both_policies(
    policies.save_only_these_names(SAVED, STATISTICS), cudnn
  )
  if remat == "attention":
    return attention
  dots = _narrow_dots if remat == "attention_narrow" else policies.dots_with_no_batch_dims_saveable
  return policies.save_from_both_policies(dots, attention)


def _narrow_dots(primitive: Any, *shapes: Any, **params: Any) -> bool:
  """Weight products that do not widen what they are given: not the mlp's first."""
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  if not dots(primitive, *shapes, **params):
    return False
  inputs = math.prod(shapes[1].shape[axis] for axis in params["dimension_numbers"][0][1])
  return shapes[1].size <= inputs**2


def run_stack(blocks: nnx.Module, x: Array, *args: Any, remat: str, scan: bool) -> Array:
  """x through all blocks in order: `x = block(x, *args)`.

  Args:
    blocks: from `stack`.
    remat: what is kept for the backward pass, the rest is recomputed. 'none': every activation is
      kept; 'attention_dots': outputs of attention and of weight products; 'attention_narrow': the
      same without the mlp's hidden ones; 'attention': outputs of attention; 'offload': they and
      each block's input, in the host's memory; 'full': each block's input.
    scan: one compiled body for all layers (compile time does not grow with depth), or unrolled.
  """
  graphdef, params = nnx.split(blocks)

  def body(x: Array, layer: Any) -> tuple[Array, None]:
    return nnx.merge(graphdef, layer)(checkpoint_name(x, BLOCK_INPUT), *args), None

  if remat != "none":
    body = jax.checkpoint(body, policy=remat_policy(remat), prevent_cse=not scan)
  if scan:
    return jax.lax.scan(body, x, params)[0]
  leaves, tree = jax.tree.flatten(params)
  for layer in zip(*(apart(leaf, 0) for leaf in leaves)):
    x, _ = body(x, jax.tree.unflatten(tree, layer))
  return x
