"""Shared building blocks: parameters with logical axis names, embeddings, patches, stacks.

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
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float

from videojax.models.cond import Cond
from videojax.models.context import SAVED
from videojax.sharding import splits

Axes = tuple[str | None, ...]
REMATS = ("none", "attention_dots", "attention_narrow", "attention", "offload", "full")
KNOWN_FILLS = ("zeros", "last")
BLOCK_INPUT, STATISTICS = "block input", "statistics"  # remat policies may save these and SAVED


# --- parameters -------------------------------------------------------------------------------


class Init(NamedTuple):
  """A parameter's initialiser; muP also asks for its std at other fans (scaling/mup.py).

  Attributes:
    kind: 'xavier' (Glorot & Bengio 2010, uniform), 'normal' or 'constant'.
    value: std of 'normal', the value of 'constant'.
  """

  kind: str
  value: float = 0.0

  def std(self, fan_in: int | float, fan_out: int | float) -> float:
    """Standard deviation; 0 for a constant."""
    if self.kind == "xavier":
      return math.sqrt(2 / (fan_in + fan_out))
    return self.value if self.kind == "normal" else 0.0

  def draw(self, key: Array, shape: tuple[int, ...], inputs: int) -> Array:
    """Draws an initial value; kernels may have several input and output axes (heads, head dim)."""
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
  """An fp32 master parameter, annotated with its logical axes, input axes and initialiser.

  Args:
    rngs: for the initial value.
    init: the initialiser.
    shape: without the axes of a stack.
    axes: logical axis names (sharding.RULES), one per axis of `shape`.
    inputs: number of leading axes that a matrix product contracts; 0: not a matrix.
  """
  value = init.draw(rngs.params(), shape, inputs)
  return nnx.Param(value, axes=axes, inputs=inputs, start=init)


class ParamInfo(NamedTuple):
  """A parameter's logical axes (those of its stack first), number of input axes, initialiser."""

  axes: Axes
  inputs: int
  init: Init


def param_info(model: nnx.Module) -> dict[str, ParamInfo]:
  """Path ('blocks/attention/qkv/kernel') -> ParamInfo of every parameter."""

  def info(variable: Any) -> ParamInfo:
    stacked = len(variable.shape) - len(variable.axes)
    return ParamInfo(("layers",) * stacked + tuple(variable.axes), variable.inputs, variable.start)

  flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
  return {"/".join(map(str, path)): info(variable) for path, variable in flat}


class Linear(nnx.Module):
  """x [..., *d_in] -> [..., *d_out]; d_in and d_out may be several axes (heads, head dim).

  Initialised as in DiT: Xavier uniform on the two-dimensional matrix, zero bias.
  """

  def __init__(
    self,
    d_in: tuple[int, ...],
    d_out: tuple[int, ...],
    axes: Axes,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
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
    """The result split along its first axis (queries, keys, values), with one product for each.

    Slices of a single product would be copied, because kernels need contiguous arrays.
    """
    kernels = apart(self.kernel[...].astype(self.dtype), self.contract)
    biases = [None] * len(kernels) if self.bias is None else apart(self.bias[...], 0)
    return [self._product(x, kernel, bias) for kernel, bias in zip(kernels, biases)]

  def _product(self, x: Array, kernel: Array, bias: Array | None) -> Array:
    y = product(x.astype(self.dtype), kernel.astype(self.dtype), self.contract)
    return y if bias is None else y + lead(bias.astype(self.dtype), y)


def product(x: Array, kernel: Array, contract: int = 1) -> Array:
  """jnp.tensordot, with the row axes merged into one unless one after the first may be sharded.

  With several row axes, XLA makes transposed copies for the gradients on a GPU, and the product
  takes three times as long on a CPU.
  """
  rows, inputs = x.shape[: x.ndim - contract], x.shape[x.ndim - contract :]
  if len(rows) < 2 or splits("tokens"):
    return jnp.tensordot(x, kernel, contract)
  y = jnp.tensordot(x.reshape(-1, *inputs), kernel, contract)
  return y.reshape(*rows, *y.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def apart(x: Array, axis: int) -> list[Array]:
  """jnp.unstack, whose gradients are stacked only once.

  If XLA fused the stacking into its consumers, it would repeat it for each of them.
  """
  return list(jnp.unstack(x, axis=axis))


apart.defvjp(
  lambda x, axis: (apart(x, axis), None),
  lambda axis, _, g: (jax.lax.optimization_barrier(jnp.stack(g, axis)),),
)


def lead(p: Array, like: Array) -> Array:
  """`p` with leading axes of size one, so that it broadcasts against the last axes of `like`."""
  return p.reshape((1,) * (like.ndim - p.ndim) + p.shape)


# --- conditions -------------------------------------------------------------------------------


def sinusoid(t: Float[Array, "*B"], dim: int, max_period: float = 1e4) -> Float[Array, "*B dim"]:
  """cos and sin features of a scalar (Vaswani et al. 2017, DiT's order: cosines first)."""
  half = dim // 2
  freqs = np.exp(-math.log(max_period) * np.arange(half) / half).astype(np.float32)
  angles = t.astype(jnp.float32)[..., None] * freqs.reshape((1,) * t.ndim + (half,))
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


class ScalarEmbed(nnx.Module):
  """A scalar -> sinusoid (256) -> Linear, SiLU, Linear -> [*B, D]; NaN gives the learned null.

  The noise level, 0 to 1000, has no null and is not scaled. Other scalars are of order one and are
  multiplied by ten, because the sinusoid would hardly distinguish them otherwise.
  """

  FEATURES, TENTHS = 256, 10.0

  def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike, null: bool):
    init = normal(0.02)  # as DiT's timestep MLP
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
    cond: has `known_mask` and `known`.
    fill: values at unknown positions: 'zeros' (F = 1 + C), or 'last': the last known value in time
      and its change since the known value before it (F = 1 + 2C).
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
  """The clip with all aligned conditions as further channels: known frames, volumes by name.

  Args:
    x: noisy clip.
    cond: conditions.
    cfg: a model's config, with `known` and `volumes`.
  Raises:
    ValueError: a volume's shape is not the clip's.
  """
  parts = [x] + ([known_channels(x, cond, cfg.known)] if cfg.known else [])
  for name, channels in cfg.volumes:
    want = (*x.shape[:-1], channels)
    if cond.volumes[name].shape != want:
      raise ValueError(f"volume {name!r} has shape {cond.volumes[name].shape}, wanted {want}")
    parts.append(cond.volumes[name].astype(x.dtype))
  return jnp.concatenate(parts, -1)


def channels_in(cfg: Any) -> int:
  """I, the number of channels that `beside` returns."""
  volumes = sum(channels for _, channels in cfg.volumes)
  return cfg.channels + known_channel_count(cfg.channels, cfg.known) + volumes


def as_volumes(volumes: Any) -> tuple[tuple[str, int], ...]:
  """A model's `volumes` as (name, channels) pairs sorted by name; from such pairs or a mapping.

  Raises:
    ValueError: they are neither pairs nor a mapping.
  """
  try:
    pairs = tuple(sorted(dict(volumes).items()))
  except (TypeError, ValueError):
    pairs = ((None, None),)
  if not all(isinstance(name, str) and type(n) is int and n > 0 for name, n in pairs):
    raise ValueError(
      f"volumes={volumes!r} must give the channels of each by name, as volumes=dict(low=3) in the "
      "experiment's file; --config.model.volumes.low=1 then overrides the file"
    )
  return pairs


# --- patches and positions --------------------------------------------------------------------


def patchify(x: Float[Array, "B T H W C"], patch: tuple[int, int, int]) -> Float[Array, "B t N P"]:
  """Cuts a clip into space-time patches, one token each.

  Raises:
    ValueError: the patch does not divide the clip.
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
  """Angles of 3-D rotary embeddings: each head's pairs are divided between t, h and w.

  Source: Su et al. 2021, for each axis; h and w get a third of the pairs each, t the rest.
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
  """Rotates the two halves (a, b) of each head."""
  cos, sin = (f(angles)[None, :, :, None] for f in (jnp.cos, jnp.sin))  # [1,t,N,1,E/2]
  return [a * cos - b * sin, b * cos + a * sin]


@functools.lru_cache
def sincos_2d(h: int, w: int, dim: int) -> Float[np.ndarray, "N dim"]:
  """DiT's fixed positions: half of the features for the column, half for the row, sines first."""
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
  """The jax.checkpoint policy of a name in REMATS, except 'none'."""
  policies = jax.checkpoint_policies
  if remat == "full":
    return policies.nothing_saveable
  if remat == "offload":
    return policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[], names_which_can_be_offloaded=[SAVED, BLOCK_INPUT],
      offload_src="device", offload_dst="pinned_host",
    )  # fmt: skip
  # cuDNN's kernel has additional residuals that cannot be saved by name.
  cudnn = lambda primitive, *_, **__: "dot_product_attention_fwd" in primitive.name
  attention = policies.save_from_both_policies(
    policies.save_only_these_names(SAVED, STATISTICS), cudnn
  )
  if remat == "attention":
    return attention
  dots = _narrow_dots if remat == "attention_narrow" else policies.dots_with_no_batch_dims_saveable
  return policies.save_from_both_policies(dots, attention)


def _narrow_dots(primitive: Any, *shapes: Any, **params: Any) -> bool:
  """Whether this is a weight product that does not widen its input (the mlp's first one does)."""
  dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  if not dots(primitive, *shapes, **params):
    return False
  inputs = math.prod(shapes[1].shape[axis] for axis in params["dimension_numbers"][0][1])
  return shapes[1].size <= inputs**2


def run_stack(blocks: nnx.Module, x: Array, *args: Any, remat: str, scan: bool) -> Array:
  """Applies all blocks in order: `x = block(x, *args)`.

  Args:
    blocks: from `stack`.
    remat: what is saved for the backward pass; everything else is recomputed. 'none': all
      activations are saved; 'attention_dots': outputs of attention and of weight products;
      'attention_narrow': the same without the mlp's hidden activations; 'attention': outputs of
      attention; 'offload': those and each block's input, in host memory; 'full': each block's
      input.
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
