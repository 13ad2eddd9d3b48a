import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_vae_wan as golden
from tests.golden.parity import Reference, check_files
from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import vae_wan as codec
from videojax.models import vae_wan
from videojax.specs import ModelSpec

STORED = np.load(Path(golden.__file__).with_name("vae_wan.npz"))
VERSIONS = tuple(golden.SIZES)


def spec(version):
  return ModelSpec("vae_wan", vae_wan.Config(**golden.SIZES[version]))


def reference(version):
  model = spec(version)
  return Reference(STORED, model, vae_wan.names(model.config), golden.fill, f"{version} ")


def inputs(version, case):
  return {k: jnp.asarray(x, jnp.float32) for k, x in golden.inputs(version, case).items()}


def both(version, params, v):
  """Moments [...,2Z] of the video, and the decoded latent."""
  model = spec(version).network(params)
  return jnp.concatenate(model.encode(v["video"]), -1), model.decode(v["latent"])


# --- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape(version):
  ours = reference(version)
  assert ours.there() == ours.shapes


@pytest.mark.parametrize("version, case", [key for key in golden.CASES if key[1] != "clip"])
def test_moments_and_decoded_frames_are_the_references(version, case):
  run = jax.jit(both, static_argnums=0)
  got = run(version, reference(version).params, inputs(version, case))
  for name, out in zip(("moments", "decoded"), got):
    assert relative_error(out, STORED[f"{version} {case} {name}"]) < 1e-5


@pytest.mark.parametrize("version", VERSIONS)
def test_moments_decoded_clip_and_every_gradient_are_the_references(version):
  v, ours = inputs(version, "clip"), reference(version)

  def loss(params):
    moments, decoded = both(version, params, v)
    total = (moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (moments, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(ours.params)
  for name, out in zip(("moments", "decoded"), got):
    assert relative_error(out, STORED[f"{version} clip {name}"]) < 1e-5
  ours.check_gradients(grads)


# --- any length in bounded memory ---------------------------------------------------------------

SMALL = {
  version: ModelSpec("vae_wan", vae_wan.Config(
    width=8, decoder_width=8, multipliers=(1, 1 if version == "2.2" else 2), time=(True,), blocks=1,
    channels=4, shortcuts=version == "2.2",
  ))
  for version in VERSIONS
}  # fmt: skip
PARAMS = {version: filled(model.abstract_params, 0.2) for version, model in SMALL.items()}


@pytest.mark.parametrize("version, frames", [("2.1", 1), ("2.2", 2)])
def test_chunks_give_what_the_whole_clip_gives(version, frames):
  """4 latent frames: a first one, then three of one, or one of two and a rest of one."""
  video, latent = draw((1, 7, 8, 16, 3)), draw((1, 4, 2, 3, 4))

  @functools.partial(jax.jit, static_argnums=0)
  def run(frames, params):
    model = SMALL[version].network(params)
    return *model.encode(video, frames), model.decode(latent, frames)

  assert relative_error(run(frames, PARAMS[version]), run(None, PARAMS[version])) < 1e-6


def test_later_frames_do_not_change_earlier_latents_or_pixels():
  model = SMALL["2.1"].network(PARAMS["2.1"])
  video, latent = draw((1, 7, 4, 4, 3)), draw((1, 4, 2, 2, 4))
  encode, decode = jax.jit(lambda x: model.encode(x)[0]), jax.jit(model.decode)
  changed = encode(video.at[:, 3:].add(1.0)) - encode(video)
  assert jnp.abs(changed[:, :2]).max() < 1e-5 < 1e-2 < jnp.abs(changed[:, 2:]).max()
  changed = decode(latent.at[:, 2:].add(1.0)) - decode(latent)
  assert jnp.abs(changed[:, :3]).max() < 1e-5 < 1e-2 < jnp.abs(changed[:, 3:]).max()


def test_memory_of_decoding_in_chunks_does_not_grow_with_the_length():
  model = SMALL["2.1"]

  def temporary(length, frames):
    latent = jax.ShapeDtypeStruct((1, length, 8, 8, 4), jnp.float32)
    run = jax.jit(lambda p, z: model.network(p).decode(z, frames))
    memory = run.lower(model.abstract_params, latent).compile().memory_analysis()
    return memory.temp_size_in_bytes - 2 * length * 2 * 16 * 16 * 3 * 4  # without the video itself

  assert temporary(33, 1) < 1.2 * temporary(9, 1) < 0.6 * temporary(33, None)


# --- the codec --------------------------------------------------------------------------------


def coder(version="2.1", **changes):
  config = codec.Config(**dataclasses.asdict(SMALL[version].config), **changes)
  return codec.Codec(PARAMS[version], config)


def test_latents_are_normalised_by_the_published_statistics(monkeypatch):
  statistics = {4: ((0.1, 0.2, 0.3, 0.4), (1.0, 2.0, 3.0, 4.0))}
  monkeypatch.setattr(vae_wan, "STATISTICS", statistics)
  ours, video = coder(), draw((1, 5, 4, 4, 3))

  @jax.jit
  def run(params):
    ours, model = coder(), SMALL["2.1"].network(params)
    latent, (mean, log_var) = ours.encode(video), model.encode(video)
    return latent, ours.moments(video)[1], ours.decode(latent), mean, log_var, model.decode(mean)

  latent, got, decoded, *theirs = map(np.asarray, run(ours.params))
  shift, scale = map(np.array, statistics[4])
  assert latent.shape[1:] == ours.latent_shape(video.shape[1:])
  np.testing.assert_allclose(latent, (theirs[0] - shift) / scale, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got, theirs[1] - 2 * np.log(scale), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(decoded, theirs[2], atol=1e-4)


def test_clips_that_do_not_fit_are_refused_in_words():
  with pytest.raises(ValueError, match="12x9 does not divide into latent positions of 2x2"):
    coder().latent_shape((5, 12, 9, 3))
  with pytest.raises(ValueError, match="16 frames .* use 1 \\+ 2 k frames, e.g. 15 or 17"):
    coder().latent_shape((16, 8, 8, 3))
  with pytest.raises(ValueError, match="time=.* one entry fewer than multipliers"):
    vae_wan.Config(**golden.SIZES["2.1"] | dict(time=(True,)))
  with pytest.raises(ValueError, match="last level cannot have more channels"):
    vae_wan.Config(**golden.SIZES["2.2"] | dict(multipliers=(1, 2, 2, 4)))


def test_published_sizes_have_the_published_parameters_strides_and_statistics():
  for version, number, strides in (
    ("2.1", 126_892_531, (4, 8, 8)),
    ("2.2", 704_688_668, (4, 16, 16)),
  ):
    model = ModelSpec("vae_wan", vae_wan.Config(**vae_wan.SIZES[version]))
    assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)) == number
    assert model.config.strides == strides
    for values in vae_wan.statistics(model.config):
      assert len(values) == model.config.channels
    for layout in vae_wan.LAYOUTS:
      names = vae_wan.names(model.config, layout)
      assert set(names) == set(model.info) and len({n for n, _ in names.values()}) == len(names)


@pytest.mark.parametrize("version, some", [
  ("2.1", {"encoder.downsamples.1.resample.1.weight", "encoder.downsamples.5.time_conv.bias",
           "decoder.upsamples.3.residual.3.gamma", "decoder.head.2.bias", "conv1.weight"}),
  ("2.2", {"encoder.downsamples.1.downsamples.1.time_conv.weight", "encoder.middle.1.proj.bias",
           "decoder.upsamples.0.upsamples.2.resample.1.bias", "conv2.bias"}),
])  # fmt: skip
def test_files_with_either_layout_of_names_load(version, some, tmp_path):
  assert some <= check_files(tmp_path, vae_wan, spec(version), reference(version).params)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [None, 1])
def test_mesh_does_not_show_in_latents_and_video(frames):
  config = codec.Config(**dataclasses.asdict(SMALL["2.1"].config), frames=frames)
  check_mesh(SMALL["2.1"], PARAMS["2.1"], lambda p: codec.Codec(p, config), draw((4, 5, 8, 8, 3)))
