import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_cosmos_tokenizer as golden
from tests.golden.parity import Reference, check_files
from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import cosmos_tokenizer as codec
from videojax.models import cosmos_names, cosmos_statistics, cosmos_tokenizer
from videojax.models.haar import haar, unhaar
from videojax.models.quantize import FSQ
from videojax.specs import ModelSpec

STORED = np.load(Path(golden.__file__).with_name("cosmos_tokenizer.npz"))
SLOW = ("CV8x16x16", "DV4x8x8")
slow = lambda size: pytest.mark.slow if size in SLOW else ()


def spec(size):
  return ModelSpec("cosmos_tokenizer", cosmos_tokenizer.Config(**golden.SIZES[size]))


def reference(size):
  model = spec(size)
  layout = "original" if size.startswith("DV") else "diffusers"
  names = cosmos_tokenizer.names(model.config, layout)
  return Reference(STORED, model, names, golden.fill, f"{size} ")


def inputs(size, case):
  return {k: jnp.asarray(x, jnp.float32) for k, x in golden.inputs(size, case).items()}


def both(size, params, v):
  model = spec(size).network(params)
  return model.encode(v["video"])[0], model.decode(v["latent"])


# --- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", golden.SIZES)
def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape(size):
  ours = reference(size)
  assert ours.there() == ours.shapes
  unused = cosmos_tokenizer.unused(ours.model.config)
  assert all(name.startswith(unused) for name in STORED[f"{size} unused"])
  assert not any(name.startswith(unused) for name in ours.shapes)


@pytest.mark.parametrize("size, case", [key for key in golden.CASES if key[1] != "clip"])
def test_latents_and_decoded_frames_are_the_references(size, case):
  got = jax.jit(both, static_argnums=0)(size, reference(size).params, inputs(size, case))
  for name, out in zip(("encoded", "decoded"), got):
    assert relative_error(out, STORED[f"{size} {case} {name}"]) < 1e-5


@pytest.mark.parametrize("size", [pytest.param(s, marks=slow(s)) for s in golden.SIZES])
def test_latents_decoded_clip_and_every_gradient_are_the_references(size):
  v, ours = inputs(size, "clip"), reference(size)

  def loss(params):
    encoded, decoded = both(size, params, v)
    total = (encoded * v["encoded probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (encoded, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(ours.params)
  for name, out in zip(("encoded", "decoded"), got):
    assert relative_error(out, STORED[f"{size} clip {name}"]) < 1e-5
  if ours.model.config.levels:
    indices = FSQ(ours.model.config.levels).indices_of(got[0])
    np.testing.assert_array_equal(indices, STORED[f"{size} clip indices"])
  ours.check_gradients(grads)


def test_published_sizes_have_the_published_parameters_and_strides():
  for size, number, strides in (
    ("CV4x8x8", 85_783_232, (4, 8, 8)), ("CV8x8x8", 105_653_696, (8, 8, 8)),
    ("CV8x16x16", 110_898_624, (8, 16, 16)), ("DV4x8x8", 104_669_558, (4, 8, 8)),
    ("DV8x8x8", 105_653_366, (8, 8, 8)), ("DV8x16x16", 110_898_294, (8, 16, 16)),
  ):  # fmt: skip
    model = ModelSpec("cosmos_tokenizer", cosmos_tokenizer.Config(**cosmos_tokenizer.SIZES[size]))
    assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)) == number, size
    assert model.config.strides == strides
    for layout in cosmos_tokenizer.LAYOUTS if size == "CV4x8x8" else ():
      names = cosmos_tokenizer.names(model.config, layout)
      assert set(names) == set(model.info) and len({n for n, _ in names.values()}) == len(names)


# --- the Haar transform ---------------------------------------------------------------------------


def test_haar_bands_are_means_and_half_differences_of_neighbours():
  x = draw((2, 4, 6, 2, 3))
  got = haar(x)
  assert got.shape == (2, 2, 3, 1, 24)
  np.testing.assert_allclose(unhaar(got), x, atol=1e-6)
  cubes = np.asarray(x).reshape(2, 2, 2, 3, 2, 1, 2, 3).transpose(0, 1, 3, 5, 2, 4, 6, 7)
  sign = lambda high: np.array([1, -1 if high else 1])
  for band in range(8):
    t, h, w = band >> 2 & 1, band >> 1 & 1, band & 1
    want = np.einsum("bxyzijkc,i,j,k->bxyzc", cubes, sign(t), sign(h), sign(w)) / 8
    np.testing.assert_allclose(got[..., 3 * band : 3 * band + 3], want, atol=1e-6)


# --- any length -----------------------------------------------------------------------------------

SMALL = ModelSpec("cosmos_tokenizer", cosmos_tokenizer.Config(
  width=4, multipliers=(1, 2, 2), decoder_multipliers=(1, 2, 2), space=1, time=1, blocks=1, inner=4,
  channels=3, levels=(),
))  # fmt: skip
PARAMS = filled(SMALL.abstract_params, 0.3)
VIDEO, LATENT = draw((1, 25, 8, 16, 3)), draw((1, 4, 1, 2, 3))


@pytest.mark.parametrize("frames", [1, 2])
def test_chunks_give_what_the_whole_clip_gives(frames):
  """4 latent frames: a first one, then three of one, or one of two and a rest of one."""

  @functools.partial(jax.jit, static_argnums=0)
  def run(frames, params):
    model = SMALL.network(params)
    return model.encode(VIDEO, frames)[0], model.decode(LATENT, frames)

  got, want = run(frames, PARAMS), run(None, PARAMS)
  assert [x.shape for x in got] == [LATENT.shape, VIDEO.shape]
  assert relative_error(got, want) < 1e-6


def test_later_frames_do_not_change_earlier_latents_or_pixels():
  model = SMALL.network(PARAMS)
  encode, decode = jax.jit(lambda x: model.encode(x)[0]), jax.jit(model.decode)
  later = lambda x: 0.1 * draw(x.shape, 1)
  changed = encode(VIDEO.at[:, 9:].add(later(VIDEO[:, 9:]))) - encode(VIDEO)
  assert jnp.abs(changed[:, :2]).max() < 1e-5 < 1e-4 < jnp.abs(changed[:, 2:]).max()
  changed = decode(LATENT.at[:, 2:].add(later(LATENT[:, 2:]))) - decode(LATENT)
  assert jnp.abs(changed[:, :9]).max() < 1e-5 < 1e-4 < jnp.abs(changed[:, 9:]).max()


def test_memory_of_decoding_in_chunks_hardly_grows_with_the_length():
  def temporary(length, frames):
    latent = jax.ShapeDtypeStruct((1, length, 4, 4, 3), jnp.float32)
    run = jax.jit(lambda p, z: SMALL.network(p).decode(z, frames))
    memory = run.lower(SMALL.abstract_params, latent).compile().memory_analysis()
    return memory.temp_size_in_bytes - length * 8 * 32 * 32 * 3 * 4  # without the video itself

  assert temporary(33, 1) < 1.2 * temporary(9, 1) < 0.2 * temporary(33, None)


# --- the codec --------------------------------------------------------------------------------


def coder(**changes):
  return codec.Codec(PARAMS, codec.Config(**dataclasses.asdict(SMALL.config) | changes))


def test_latents_of_the_published_tokenizer_are_normalised_per_channel_and_frame(monkeypatch):
  mean, deviation = np.asarray(draw((3, 2))), 0.5 + np.asarray(draw((3, 2), 1)) ** 2  # 2 frames
  monkeypatch.setattr(cosmos_tokenizer, "statistics", lambda cfg: (mean.T, deviation.T))
  ours = coder()

  @jax.jit
  def run(params):
    ours, model = codec.Codec(params, coder().config), SMALL.network(params)
    latent = ours.encode(VIDEO, jax.random.split(jax.random.key(0), 1))
    theirs = model.encode(VIDEO)[0]
    return latent, theirs, ours.decode(latent), model.decode(theirs)

  latent, theirs, decoded, want_decoded = run(PARAMS)
  assert latent.shape[1:] == ours.latent_shape(VIDEO.shape[1:])
  for frame, column in enumerate((0, 1, 1, 1)):  # the last column is that of all later frames
    want = (np.asarray(theirs[:, frame]) - mean[:, column]) / deviation[:, column]
    np.testing.assert_allclose(latent[:, frame], want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(decoded, want_decoded, atol=1e-4)


def test_statistics_are_those_of_the_published_tokenizer_alone():
  of = lambda size: cosmos_tokenizer.statistics(
    cosmos_tokenizer.Config(**cosmos_tokenizer.SIZES[size])
  )
  mean, deviation = of("CV8x8x8")
  assert mean.shape == deviation.shape == (16, 16)
  assert mean[1, 0] == cosmos_statistics.MEAN[0][1] == -0.0171717
  assert deviation[0, 15] == 0.44025335
  for size in ("CV4x8x8", "DV8x8x8"):
    mean, deviation = of(size)
    assert (
      (mean == 0).all() and (deviation == 1).all() and mean.shape[1] == 16 - 10 * (size[0] == "D")
    )


def test_discrete_latents_are_codes_and_tokens_their_indices():
  sizes = golden.SIZES["DV8x16x16"] | dict(multipliers=(1, 2, 2), decoder_multipliers=(1, 2, 2))
  model = ModelSpec("cosmos_tokenizer", cosmos_tokenizer.Config(**sizes))
  params = filled(model.abstract_params, 0.5)
  video = draw((1, 9, 16, 32, 3))

  @jax.jit
  def run(params):
    ours = codec.Codec(params, codec.Config(**sizes))
    tokens, latent = ours.tokens(video), ours.encode(video)
    return tokens, latent, ours.from_tokens(tokens), ours.decode(latent)

  tokens, latent, *decoded = run(params)
  assert tokens.shape == (1, 2, 1, 2) and latent.shape == (1, 2, 1, 2, 6)
  np.testing.assert_array_equal(FSQ(sizes["levels"]).codes_of(tokens), latent)
  np.testing.assert_allclose(*decoded, atol=1e-5)
  with pytest.raises(ValueError, match="continuous Cosmos tokenizer .* has no tokens"):
    coder().tokens(video)


def test_sizes_and_clips_that_do_not_fit_are_refused_in_words():
  with pytest.raises(ValueError, match="12x9 does not divide into latent positions of 8x8"):
    coder().latent_shape((9, 12, 9, 3))
  with pytest.raises(ValueError, match="16 frames .* use 1 \\+ 8 k frames, e.g. 9 or 17"):
    coder().latent_shape((16, 8, 8, 3))
  with pytest.raises(ValueError, match="space=1 and time=1 do not fit .* decoder_multipliers"):
    coder(decoder_multipliers=(1, 2))
  with pytest.raises(ValueError, match="at least one level each"):
    coder(decoder_multipliers=())
  with pytest.raises(ValueError, match="levels=.* one entry per number of a code: channels=3"):
    coder(levels=(8, 8))


@pytest.mark.parametrize("size", ["CV8x8x8", pytest.param("DV8x16x16", marks=pytest.mark.slow)])
def test_files_with_either_layout_of_names_load(size, tmp_path):
  model = spec(size)
  extra = [f"{n}bias" for n in cosmos_tokenizer.unused(model.config)]
  assert len(extra) == {"CV8x8x8": 6, "DV8x16x16": 2}[size]
  others = [*extra, *(f"{n}wavelets" for n in cosmos_names.OTHER_PARTS)]
  params = filled(model.abstract_params)
  original = check_files(tmp_path, cosmos_tokenizer, model, params, others)
  assert "decoder.up.2.block.0.conv1.1.conv3d.weight" in original


@pytest.mark.slow
@pytest.mark.parametrize("frames", [None, 1])
def test_mesh_does_not_show_in_latents_and_video(frames):
  config = coder(frames=frames).config
  check_mesh(SMALL, PARAMS, lambda p: codec.Codec(p, config), draw((4, 9, 16, 16, 3)))
