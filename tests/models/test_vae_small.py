import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import draw, filled, relative_error
from videojax.models import vae_small
from videojax.specs import ModelSpec


def spec(**changes):
  return ModelSpec(
    "vae_small", vae_small.Config(**{**vae_small.SIZES["tiny"], "channels": 4} | changes)
  )


@pytest.mark.parametrize("time", [1, 2, 4, 8])
@pytest.mark.parametrize("space", [4, 8, 16, 32])
def test_any_compression_gives_latents_of_its_strides_and_clips_of_their_size(time, space):
  model = spec(time=time, space=space, patch=4)
  assert model.config.strides == (time, space, space)
  video = jax.ShapeDtypeStruct((2, 1 + 2 * time, space, 2 * space, 3), np.float32)
  encode = lambda p, x: model.network(p).encode(x)[0]
  latent = jax.eval_shape(encode, model.abstract_params, video)
  assert latent.shape == (2, 3, 1, 2, 4)
  back = jax.eval_shape(lambda p, z: model.network(p).decode(z), model.abstract_params, latent)
  assert back.shape == video.shape


def test_frames_are_merged_in_the_last_steps():
  assert spec(time=2, space=16, patch=4).config.steps == [(False, True), (True, True)]
  assert spec(time=4, space=4, patch=4).config.steps == [(True, False), (True, False)]


def test_chunks_give_what_the_whole_clip_gives():
  model, video, latent = spec(), draw((1, 7, 8, 4, 3)), draw((1, 4, 2, 1, 4))

  @functools.partial(jax.jit, static_argnums=0)
  def run(frames, params):
    network = model.network(params)
    return *network.encode(video, frames), network.decode(latent, frames)

  params = filled(model.abstract_params, 0.2)
  assert relative_error(run(2, params), run(None, params)) < 1e-6


def test_gradients_are_finite_where_pixels_are_zero():
  model = spec()
  loss = lambda p: sum((x**2).sum() for x in model.network(p).encode(jnp.zeros((1, 3, 4, 4, 3))))
  grads = jax.jit(jax.grad(loss))(model.init(jax.random.key(0)))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_sizes_that_are_no_powers_of_two_are_refused():
  with pytest.raises(ValueError, match="time=3 must be a power of two"):
    spec(time=3)
  with pytest.raises(ValueError, match="patch=8 must not be above space=4"):
    spec(patch=8)
