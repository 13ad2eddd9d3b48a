import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import check_flops, draw, filled
from videojax.models import image_inflation, lumiere
from videojax.models.cond import Cond, drop
from videojax.optim import split_frozen
from videojax.scaling import mup
from videojax.sharding import by_path
from videojax.specs import ModelSpec

BASE = dict(
  width=16, multipliers=(1, 2), blocks=1, attends=1, head_dim=8, temporal_blocks=2, groups=4,
  channels=3, dtype="float32",
)  # fmt: skip
SHAPE = (2, 4, 4, 6, 3)
T = jnp.array([[300.0], [700.0]])


def spec(**changes):
  return ModelSpec("lumiere", lumiere.Config(**{**BASE, **changes}))


def clip(shape=SHAPE, seed=0):
  return draw(shape, seed)


def part(params, like):
  """The parameters of another model, out of those of a larger one."""
  return {k: part(params[k], v) if isinstance(v, dict) else params[k] for k, v in like.items()}


@pytest.fixture(scope="module")
def network():
  """Compiled once: the video model, every parameter filled."""
  model = spec()
  params = filled(model.abstract_params, 0.2)
  return jax.jit(lambda x, t=T: model.network(params)(x, t, Cond()))


# --- from images to video -----------------------------------------------------------------------


def test_the_image_models_parameters_are_some_of_the_video_models():
  """And what training freezes, if all else but what is temporal is frozen."""
  video, image = (
    {p: v.shape for p, v in by_path(spec(temporal=t).abstract_params).items()}
    for t in (True, False)
  )
  assert image.items() < video.items()
  trainable, frozen = split_frozen(spec().abstract_params, "(?!.*temporal)")
  assert by_path(frozen).keys() == image.keys()
  assert by_path(trainable).keys() == video.keys() - image.keys()


def test_an_image_passes_through_the_image_model_alone(network):
  image, params = spec(temporal=False), filled(spec().abstract_params, 0.2)
  x = clip((2, 1, 4, 6, 3))
  alone = jax.jit(image.network(part(params, image.abstract_params)))
  np.testing.assert_array_equal(network(x), alone(x, T, Cond()))


def test_a_clip_of_held_frames_starts_as_the_image_model_frame_by_frame():
  """Held for 2 frames, which a frame of the coarser of two levels stands for."""
  sizes = dict(attends=0, multipliers=(1, 1))
  video, image = spec(**sizes), spec(**sizes, temporal=False)
  params = video.init(jax.random.key(0))
  as_image = jax.jit(image.network(part(params, image.abstract_params)))
  as_video = jax.jit(video.network(params))
  held, moving = jnp.repeat(clip((2, 2, 4, 6, 3)), 2, 1), clip((2, 4, 4, 6, 3))
  np.testing.assert_allclose(as_video(held, T, Cond()), as_image(held, T, Cond()), atol=1e-5)
  assert jnp.abs(as_video(moving, T, Cond()) - as_image(moving, T, Cond())).max() > 1e-2


@pytest.mark.parametrize(
  "make",
  [
    lambda kw: image_inflation.Convolutions(16, 4, **kw),
    lambda kw: image_inflation.TimeAttention(
      spec(groups=4, head_dim=8).config, 16, rngs=kw["rngs"]
    ),
  ],
)
def test_inflation_starts_as_the_identity_and_does_not_stay_it(make):
  block = make(dict(rngs=nnx.Rngs(0), dtype=jnp.float32))
  x = clip((1, 3, 4, 4, 16))
  np.testing.assert_array_equal(block(x), x)
  grads = nnx.grad(lambda block: (block(x) * clip(x.shape, 1)).sum())(block)
  assert any(jnp.abs(g).max() > 1e-3 for g in jax.tree.leaves(grads))


def test_halving_starts_as_the_first_of_two_frames_and_doubling_as_the_same_frame_twice():
  kw = dict(rngs=nnx.Rngs(0), dtype=jnp.float32)
  x = clip((1, 4, 2, 3, 8))
  np.testing.assert_array_equal(image_inflation.Halve(8, **kw)(x), x[:, ::2])
  np.testing.assert_array_equal(image_inflation.Double(8, **kw)(x), jnp.repeat(x, 2, 1))


def test_halving_is_a_strided_convolution_along_time_and_doubling_its_transpose():
  kw, x = dict(rngs=nnx.Rngs(0), dtype=jnp.float32), clip((1, 4, 1, 1, 8))
  halve, double, kernel = (
    image_inflation.Halve(8, **kw),
    image_inflation.Double(8, **kw),
    clip((2, 8, 8), 1),
  )
  halve.conv.kernel[...], double.conv.kernel[...] = kernel, jnp.moveaxis(kernel, 2, 0)
  y, transpose = jax.vjp(halve, x)
  want = jax.lax.conv(
    jnp.swapaxes(x[:, :, 0, 0], 1, 2), jnp.transpose(kernel, (2, 1, 0)), (2,), "VALID"
  )  # [B,C,T/2]
  np.testing.assert_allclose(y[:, :, 0, 0], jnp.swapaxes(want, 1, 2), atol=1e-5)
  np.testing.assert_allclose(double(y), transpose(y)[0], atol=1e-5)


# --- behaviour ----------------------------------------------------------------------------------


def test_the_whole_clip_is_one_pass_the_last_frame_moves_the_first(network):
  x = clip()
  moved = network(x.at[:, -1].add(1.0)) - network(x)
  assert jnp.abs(moved[:, 0]).max() > 1e-3


@pytest.mark.parametrize("frames", [3, 5])
def test_frames_that_cannot_be_halved_are_named(network, frames):
  with pytest.raises(ValueError, match=f"{frames} frames .* multiple of 2"):
    network(clip((2, frames, 4, 6, 3)))


def test_one_level_per_frame_equals_one_level_per_clip_where_they_agree(network):
  same = network(clip(), jnp.broadcast_to(T, (2, 4)))
  np.testing.assert_allclose(same, network(clip()), atol=1e-5)


ALL = dict(text=16, scalars=("low_noise",), known="zeros", volumes=dict(low=3))


def everything(shape=SHAPE, seed=1):
  b, frames = shape[:2]
  mask = jnp.arange(b * 5).reshape(b, 5) % 7 > 0
  return Cond(
    text=clip((b, 5, 16), seed), text_mask=mask, scalars=dict(low_noise=jnp.linspace(100, 900, b)),
    known_mask=jnp.zeros((b, frames, 1, 1, 1)).at[:, :1].set(1.0), known=clip(shape, seed + 1),
    volumes=dict(low=clip(shape, seed + 2)),
  )  # fmt: skip


def test_every_condition_moves_the_output_and_a_dropped_one_says_nothing():
  model = spec(**ALL)
  params = filled(model.abstract_params, 0.2)
  network = jax.jit(lambda cond: model.network(params)(clip(), T, cond))
  one, other = everything(), everything(seed=7)
  base = network(one)
  for changes in (
    dict(text=other.text),
    dict(scalars=dict(low_noise=one.scalars["low_noise"] + 50)),
    dict(known=one.known.at[:, 0].add(1.0)),
    dict(volumes=other.volumes),
  ):
    assert jnp.abs(network(dataclasses.replace(one, **changes)) - base).max() > 1e-3, changes
  unknown = dataclasses.replace(one, known=one.known.at[:, 1:].set(9.0))
  np.testing.assert_array_equal(network(unknown), base)
  names = ("text", "scalars", "volumes")
  gone = [network(dataclasses.replace(drop(c, names), known=one.known)) for c in (one, other)]
  np.testing.assert_array_equal(*gone)


def test_image_conditioning_has_the_papers_seven_channels():
  kernel = spec(known="zeros").abstract_params["conv_in"]["kernel"]
  assert kernel.shape == (1, 3, 3, 7, 16)


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(width=20), "width=20 is not divisible by head_dim=8"),
    (dict(multipliers=()), "one per level"),
    (dict(attends=3), "attends=3 must be 0 to 2"),
    (dict(temporal_blocks=0), "temporal_blocks=0 must be >= 1"),
  ],
)
def test_impossible_sizes_are_named(changes, words):
  with pytest.raises(ValueError, match=words):
    spec(**changes)


# --- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "changes,shape,levels",
  [
    (ALL, (4, 7, 6, 3), 1),
    (dict(multipliers=(1, 1, 2), blocks=2, attends=2), (4, 8, 12, 3), 4),  # one frame, coarsest
    (dict(), (1, 4, 4, 3), 1),
    (dict(temporal=False), (3, 4, 4, 3), 3),
    (dict(multipliers=(1,), attends=0), (3, 4, 4, 3), 1),
  ],
)
@pytest.mark.usefixtures("nothing_computed_again")
def test_traced_flops_are_those_of_the_forward_and_backward_jaxpr(changes, shape, levels):
  check_flops(spec(**changes), shape, levels, length=5)


@pytest.mark.parametrize(
  "name,changes,millions",
  [
    ("base", dict(known="zeros"), 3611.529219),
    ("base", dict(known="zeros", temporal=False), 2877.215747),
    ("ssr", dict(volumes=dict(low=3), scalars=("low_noise",)), 545.857923),
  ],
)
def test_our_reading_of_the_published_sizes_has_these_parameters(name, changes, millions):
  sizes = {**lumiere.SIZES[name], **lumiere.PUBLISHED, **changes}
  leaves = jax.tree.leaves(ModelSpec("lumiere", lumiere.Config(**sizes)).abstract_params)
  assert sum(leaf.size for leaf in leaves) == round(millions * 1e6)


ROLES = {
  "conv_in/kernel": "input", "conv_out/kernel": "output",
  "scalars/low_noise/hidden/kernel": "input", "scalars/low_noise/out/kernel": "hidden",
  "down/0/temporal_sampler/conv/kernel": "hidden",
  "up/0/temporal_sampler/conv/kernel": "hidden", "up/0/temporal_sampler/conv/bias": "vector",
  "down/0/blocks/0/temporal/0/conv_time/kernel": "hidden",
  "down/0/blocks/0/temporal/0/project/kernel": "hidden",
  "mid/blocks/1/temporal/1/attention/q/kernel": "hidden",
}  # fmt: skip


def test_mup_tells_inputs_outputs_and_hidden_parameters_apart():
  shapes = lambda m: {path: leaf.shape for path, leaf in by_path(m.abstract_params).items()}
  wide = spec(**ALL).wider
  rules = mup.rules(wide.info, shapes(wide), shapes(wide.wider), 2.0)
  assert {path: rules[path].role for path in ROLES} == ROLES
  for path in ("down/0/temporal_sampler/conv/kernel", "up/0/temporal_sampler/conv/kernel"):
    assert rules[path][1:] == pytest.approx((1.0, 0.5))  # nearest at every width
