"""What an autoencoder learns: to reconstruct clips from few numbers.

The seam is the one of denoising: the loop uses only `loss(params, rows, keys) -> [B]`.

  loss = pixels |x - y| + squares (x - y)^2 + features |f(x) - f(y)|
         + kl KL(q(z|x) || N(0, 1)) / values of a clip - adversarial D(y)

as for latent diffusion's autoencoder (Rombach et al. 2022, arXiv:2112.10752, appendix G); discrete
codes have the quantiser's loss in place of the divergence. A discriminator D learns beside, from
its own loss (models/critic.py).

Shapes: B batch, T frames, H W height width, C channels, Z of latents.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from videojax import settings
from videojax.codecs.autoencoder import drawn, latent_shape
from videojax.models.critic import hinge
from videojax.scaling import flops
from videojax.scaling.flops import Product
from videojax.settings import Range
from videojax.sharding import by_path
from videojax.task import Task

Weight = Annotated[float, Range(0, 1e6)]
FEATURES = (16, 32, 64)  # channels of the fixed random network, each at half the resolution


@dataclasses.dataclass(frozen=True)
class ReconstructConfig:
  """Weights of the parts of an autoencoder's loss; of no effect for other models.

  Attributes:
    pixels: of the mean absolute error of pixels.
    squares: of their mean squared error. Absolute error alone is lowest where small things are left
      out, because the median of each pixel is the background.
    features: of the mean absolute error of the features of a fixed random network, which compares
      edges and textures rather than values.
    kl: of the divergence of the latents from a standard normal, summed over a clip's latents and
      divided by its number of pixel values.
    adversarial: of minus the discriminator's mean score; above 0, the model must have a `critic`.
  """

  pixels: Weight = 1.0
  squares: Weight = 1.0
  features: Weight = 0.0
  kl: Weight = 1e-4
  adversarial: Weight = 0.0

  def __post_init__(self):
    settings.check(self)


@dataclasses.dataclass(frozen=True)
class Reconstruction(Task):
  """The task of an autoencoder: its model has encode and decode, and no conditions."""

  reconstruct: ReconstructConfig = ReconstructConfig()

  def __post_init__(self):
    self.latent_shape  # noqa: B018  # raises if the clip does not fit
    critic = getattr(self.model.config, "critic", None)
    if bool(critic) != bool(self.reconstruct.adversarial):
      raise ValueError(
        f"model.critic={critic} and reconstruct.adversarial={self.reconstruct.adversarial}: set "
        "both for a discriminator, or neither"
      )

  @property
  def given(self) -> np.ndarray:
    """[T]: no frame is given."""
    return np.zeros(self.source.shape[0], bool)

  @property
  def known_frames(self) -> int:
    return 0

  @property
  def needs(self) -> list[str]:
    return ["video"]

  @property
  def latent_shape(self) -> tuple[int, int, int, int]:
    return latent_shape(self.model.config, self.source.shape)

  @property
  def tokens(self) -> int:
    """Latent positions of one clip."""
    return math.prod(self.latent_shape[:3])

  @property
  def abstract_params(self) -> dict:
    return self.model.abstract_params

  def products(self, frames: int | None = None) -> list[Product]:
    """The matrix products of encoding and decoding one clip; those of `features` and of a
    discriminator are not counted.

    Args: frames: number of leading frames; None: all.
    """
    clip = (1, frames or self.source.shape[0], *self.source.shape[1:])
    video = jax.ShapeDtypeStruct(clip, jnp.float32)
    parts = [self.model.part(path) for path in by_path(self.abstract_params)]
    return flops.trace(self.reconstructed, self.abstract_params, video, parts=parts)

  def reconstructed(self, params: dict, video: Float[Array, "B T H W 3"]) -> Array:
    """The clips, encoded to their mean latents and decoded again."""
    return self.through(params, video)[0]

  def through(
    self, params: dict, video: Float[Array, "B T H W 3"]
  ) -> tuple[Array, Array, Array, Array | None]:
    """The reconstructed clips; mean and log variance of the latents; indices of codes, if any."""
    network = self.model.network(params)
    mean, log_var, _, indices = network.bottleneck(video)
    return network.decode(mean), mean, log_var, indices

  def loss(
    self, params: dict, carried: Mapping[str, Any], keys: Key[Array, " B"]
  ) -> tuple[Float[Array, " B"], dict[str, Array]]:
    """The training loss of each row, and its parts, which are logged."""
    x = self.source.decode(dict(carried))["video"]
    network, c = self.model.network(params), self.reconstruct
    mean, log_var, penalty, indices = network.bottleneck(x)
    over, values = (1, 2, 3, 4), math.prod(x.shape[1:])
    if indices is None:
      y = network.decode(drawn(mean, log_var, keys))
      divergence = 0.5 * (jnp.square(mean) + jnp.exp(log_var) - 1 - log_var).sum(over) / values
      parts, loss = {"kl": divergence}, c.kl * divergence
    else:
      y, parts = network.decode(mean), {"codes": jnp.broadcast_to(penalty, len(x))}
      loss = parts["codes"]
    parts |= {"pixels": jnp.abs(x - y).mean(over), "squares": jnp.square(x - y).mean(over)}
    loss += c.pixels * parts["pixels"] + c.squares * parts["squares"]
    if c.features:
      parts["features"] = sum(
        jnp.abs(a - b).mean(over) for a, b in zip(features(x), features(y))
      ) / len(FEATURES)
      loss += c.features * parts["features"]
    if c.adversarial:
      stopped = jax.tree.map(jax.lax.stop_gradient, params["critic"])
      judge = self.model.network(params | {"critic": stopped}).critic
      parts["adversarial"] = -judge(y).mean(over)
      parts["critic"] = hinge(network.critic(x), network.critic(jax.lax.stop_gradient(y)))
      loss += c.adversarial * parts["adversarial"] + parts["critic"]
    return loss, parts


def features(video: Float[Array, "B T H W 3"]) -> list[Array]:
  """Features of each frame at three resolutions, by convolutions that are drawn once, from key 0.

  Each has unit variance for white noise.
  """
  x, out = video.reshape(-1, *video.shape[2:]), []
  how: dict[str, Any] = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))
  for i, channels in enumerate(FEATURES):
    shape = (3, 3, x.shape[-1], channels)
    kernel = jax.random.normal(jax.random.key(i), shape) / math.sqrt(math.prod(shape[:3]))
    x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", **how)
    x = math.sqrt(2) * jax.nn.relu(x)
    out.append(x.reshape(*video.shape[:2], *x.shape[1:]))
  return out
