import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_taehv as golden
from tests.golden.parity import Reference, check_files
from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import taehv as codec
from videojax.models import taehv
from videojax.specs import ModelSpec

STORED = np.load(Path(golden.__file__).with_name("taehv.npz"))
VERSIONS = tuple(golden.CHANNELS)


def spec(version):
  return ModelSpec("taehv", taehv.Config(**taehv.SIZES[version]))


@functools.cache
def reference(version):
  model = spec(version)
  fill = functools.cache(golden.fill)
  return Reference(STORED, model, taehv.names(model.config), fill, f"{version} ")


def inputs(version, case):
  return {k: jnp.asarray(x, jnp.float32) for k, x in golden.inputs(version, case).items()}


@functools.partial(jax.jit, static_argnums=0)
def both(version, params, v):
  model = spec(version).network(params)
  return model.encode(v["video"])[0], model.decode(v["latent"])


# --- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape(version):
  ours = reference(version)
  assert ours.there() == ours.shapes


@pytest.mark.parametrize("version, case", [k for k in golden.CASES if k != ("wan2.1", "clip")])
def test_latents_and_decoded_frames_are_the_references(version, case):
  got = both(version, reference(version).params, inputs(version, case))
  for name, out in zip(("encoded", "decoded"), got):
    assert relative_error(out, STORED[f"{version} {case} {name}"]) < 1e-5


@pytest.mark.parametrize(
  "version", ["wan2.1", *(pytest.param(v, marks=pytest.mark.slow) for v in VERSIONS[1:])]
)
def test_latents_decoded_clip_and_every_gradient_are_the_references(version):
  v, ours = inputs(version, "clip"), reference(version)

  def loss(params):
    encoded, decoded = both(version, params, v)
    total = (encoded * v["encoded probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (encoded, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(ours.params)
  for name, out in zip(("encoded", "decoded"), got):
    assert relative_error(out, STORED[f"{version} clip {name}"]) < 1e-5
  ours.check_gradients(grads)


def test_published_sizes_have_the_published_parameters_and_strides():
  count = lambda params: sum(leaf.size for leaf in jax.tree.leaves(params))
  for version, number, decoder, side in (
    ("wan2.1", 11_315_539, 9_844_611, 8),
    ("wan2.2", 11_418_108, 9_923_532, 16),
    ("hunyuan1.5", 11_372_012, 9_886_668, 16),
  ):
    model = spec(version)
    assert count(model.abstract_params) == number
    assert count(model.abstract_params["decoder"]) == decoder
    assert model.config.strides == (4, side, side)
    names = taehv.names(model.config)
    assert set(names) == set(model.info) and len({n for n, _ in names.values()}) == len(names)


# --- any length in bounded memory ---------------------------------------------------------------

SMALL = ModelSpec("taehv", taehv.Config(
  width=8, decoder_widths=(16, 8, 8), time=(True, False), patch=2, channels=4
))  # fmt: skip
PARAMS = filled(SMALL.abstract_params, 0.2)
VIDEO, LATENT = jax.nn.sigmoid(draw((1, 7, 8, 16, 3))), draw((1, 4, 1, 2, 4))


@pytest.mark.parametrize("frames", [1, 2])
def test_chunks_give_what_the_whole_clip_gives(frames):
  """4 latent frames: a first one, then three of one, or one of two and a rest of one."""

  @functools.partial(jax.jit, static_argnums=0)
  def run(frames, params):
    model = SMALL.network(params)
    return model.encode(VIDEO, frames)[0], model.decode(LATENT, frames)

  got, want = run(frames, PARAMS), run(None, PARAMS)
  assert [x.shape for x in got] == [(1, 4, 1, 2, 4), VIDEO.shape]
  assert relative_error(got, want) < 1e-6


def test_memory_of_decoding_in_chunks_does_not_grow_with_the_length():
  model = ModelSpec("taehv", dataclasses.replace(SMALL.config, patch=1))

  def temporary(length, frames):
    latent = jax.ShapeDtypeStruct((1, length, 8, 8, 4), jnp.float32)
    run = jax.jit(lambda p, z: model.network(p).decode(z, frames))
    memory = run.lower(model.abstract_params, latent).compile().memory_analysis()
    return memory.temp_size_in_bytes - length * 2 * 32 * 32 * 3 * 4  # without the video itself

  assert temporary(33, 1) < 1.3 * temporary(9, 1) < 0.2 * temporary(33, None)


# --- the codec and files ------------------------------------------------------------------------


def coder():
  return codec.Codec(PARAMS, codec.Config(**dataclasses.asdict(SMALL.config), frames=2))


def test_the_codec_converts_pixels_and_its_latents_are_certain():
  @jax.jit
  def run(params):
    ours, model = codec.Codec(params, coder().config), SMALL.network(params)
    latent = ours.encode(2 * VIDEO - 1, jax.random.split(jax.random.key(0), 1))
    return latent, ours.decode(latent), model.encode(VIDEO)[0], model.decode(latent)

  latent, decoded, *theirs = run(PARAMS)
  assert latent.shape[1:] == coder().latent_shape(VIDEO.shape[1:]) and coder().scaling == 1
  np.testing.assert_allclose(latent, theirs[0], atol=1e-5)
  np.testing.assert_allclose(decoded, 2 * theirs[1] - 1, atol=1e-5)


def test_sizes_and_clips_that_do_not_fit_are_refused_in_words():
  with pytest.raises(ValueError, match="decoder_widths=.* one entry more than time="):
    taehv.Config(**taehv.SIZES["wan2.1"] | dict(time=(True, True)))
  with pytest.raises(ValueError, match="12x8 does not divide into latent positions of 8x8"):
    coder().latent_shape((5, 12, 8, 3))
  with pytest.raises(ValueError, match="6 frames .* use 1 \\+ 2 k frames, e.g. 5 or 7"):
    coder().latent_shape((6, 8, 8, 3))


def test_a_file_with_the_published_names_loads(tmp_path):
  check_files(tmp_path, taehv, SMALL, PARAMS)


@pytest.mark.slow
def test_mesh_does_not_show_in_latents_and_video():
  video = 2 * jax.nn.sigmoid(draw((4, 7, 8, 16, 3))) - 1
  check_mesh(SMALL, PARAMS, lambda params: codec.Codec(params, coder().config), video)
