import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_vae_ltx as golden
from tests.golden.parity import Reference, check_files
from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import vae_ltx as codec
from videojax.models import vae_ltx
from videojax.specs import ModelSpec

STORED = np.load(Path(golden.__file__).with_name("vae_ltx.npz"))
SPEC = ModelSpec("vae_ltx", vae_ltx.Config(**golden.SIZE))
REFERENCE = Reference(STORED, SPEC, vae_ltx.names(SPEC.config), golden.fill)


def inputs(case):
  return {k: jnp.asarray(x, jnp.float32) for k, x in golden.inputs(case).items()}


def both(params, v):
  """Moments [...,2Z] of the video, and the decoded latent."""
  model = SPEC.network(params)
  decoded = model.decode(v["latent"], level=v["level"])
  return jnp.concatenate(model.encode(v["video"]), -1), decoded


def check(case, moments, decoded):
  assert relative_error(moments, STORED[f"{case} moments"]) < 1e-5
  assert relative_error(decoded[golden.SOME], STORED[f"{case} decoded"]) < 1e-5


# --- the reference ----------------------------------------------------------------------------


def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape():
  assert REFERENCE.there() == REFERENCE.shapes


@pytest.mark.parametrize("case", ["image", "long"])
def test_moments_and_decoded_frames_are_the_references(case):
  got = jax.jit(both)(REFERENCE.params, inputs(case))
  check(case, *got)


def test_moments_decoded_clip_and_every_gradient_are_the_references():
  v = inputs("clip")

  def loss(params):
    moments, decoded = both(params, v)
    total = (moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (moments, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(REFERENCE.params)
  check("clip", *got)
  REFERENCE.check_gradients(grads)


# --- any length in bounded memory ---------------------------------------------------------------

SMALL = ModelSpec("vae_ltx", vae_ltx.Config(
  widths=(4, 8), blocks=(1, 1), steps=("spatiotemporal",), decoder_width=8, decoder_blocks=(1, 1),
  channels=4,
))  # fmt: skip
PARAMS = filled(SMALL.abstract_params, 0.2)


@pytest.mark.parametrize("frames", [1, 2])
def test_chunks_are_encoded_as_the_whole_clip(frames):
  """4 latent frames: a first one, then three of one, or one of two and a rest of one."""
  video = draw((1, 7, 8, 16, 3))
  run = jax.jit(lambda frames, p: SMALL.network(p).encode(video, frames), static_argnums=0)
  assert relative_error(run(frames, PARAMS), run(None, PARAMS)) < 1e-6


def test_later_frames_do_not_change_earlier_latents_but_change_earlier_pixels():
  model = SMALL.network(PARAMS)
  video, latent = draw((1, 7, 8, 8, 3)), draw((1, 4, 1, 1, 4))
  encode, decode = jax.jit(lambda x: model.encode(x)[0]), jax.jit(model.decode)
  changed = encode(video.at[:, 3:].add(1.0)) - encode(video)
  assert jnp.abs(changed[:, :2]).max() < 1e-5 < 1e-2 < jnp.abs(changed[:, 2:]).max()
  assert jnp.abs(decode(latent.at[:, 2:].add(1.0)) - decode(latent))[:, :3].max() > 1e-3


# --- the codec --------------------------------------------------------------------------------


def coder(params=PARAMS, **changes):
  return codec.Codec(params, codec.Config(**dataclasses.asdict(SMALL.config), **changes))


def test_latents_are_normalised_by_the_statistics_among_the_weights():
  video, params = draw((1, 5, 8, 8, 3)), PARAMS | {"deviation": 0.5 + jnp.arange(4.0)}

  @jax.jit
  def run(params):
    ours, model = coder(params), SMALL.network(params)
    latent, (mean, log_var) = ours.encode(video), model.encode(video)
    return latent, ours.moments(video)[1], ours.decode(latent), mean, log_var, model.decode(mean)

  latent, got, decoded, *theirs = map(np.asarray, run(params))
  shift, scale = map(np.asarray, (params["mean"], params["deviation"]))
  assert latent.shape[1:] == coder().latent_shape(video.shape[1:])
  np.testing.assert_allclose(latent, (theirs[0] - shift) / scale, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got, theirs[1] - 2 * np.log(scale), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(decoded, theirs[2], atol=1e-4)


def test_fresh_weights_have_statistics_that_change_nothing():
  fresh = SMALL.init(jax.random.key(0))
  assert (fresh["mean"] == 0).all() and (fresh["deviation"] == 1).all()
  assert fresh["unit"] == 1000


def test_noise_is_mixed_into_latents_by_keys_of_rows():
  latent, keys = draw((2, 2, 1, 1, 4)), jax.random.split(jax.random.key(0), 2)
  noise = jax.vmap(lambda key: jax.random.normal(key, (2, 1, 1, 4)))(keys)
  raw = latent * PARAMS["deviation"].reshape(1, 1, 1, 1, 4) + PARAMS["mean"].reshape(1, 1, 1, 1, 4)
  want = SMALL.network(PARAMS).decode(0.975 * raw + 0.025 * noise)
  np.testing.assert_allclose(coder().decode(latent, keys), want, atol=1e-5)


def test_what_does_not_fit_is_refused_in_words():
  with pytest.raises(ValueError, match="12x8 does not divide into latent positions of 8x8"):
    coder().latent_shape((5, 12, 8, 3))
  with pytest.raises(ValueError, match="16 frames .* use 1 \\+ 2 k frames, e.g. 15 or 17"):
    coder().latent_shape((16, 8, 8, 3))
  wrong = lambda **changes: vae_ltx.Config(**golden.SIZE | changes)
  with pytest.raises(ValueError, match="one entry per level, and steps=.* one fewer"):
    wrong(blocks=(1, 1))
  with pytest.raises(ValueError, match="halve time, .* as often as the decoder doubles them, 2 "):
    wrong(decoder_blocks=(1, 1, 1))
  with pytest.raises(ValueError, match="no step between levels 'spatiotemporl'"):
    wrong(steps=("spatial", "temporal", "spatiotemporal", "spatiotemporl"))
  with pytest.raises(ValueError, match="a spatial step from 8 channels .* 12 does not fit"):
    wrong(widths=(8, 12, 16, 32, 64))
  with pytest.raises(ValueError, match="decoder_width=48 must be a multiple of 32"):
    wrong(decoder_width=48)


def test_published_sizes_have_the_published_parameters_and_strides():
  model = ModelSpec("vae_ltx", vae_ltx.Config(**vae_ltx.SIZES["0.9.5"]))
  number = sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params))
  assert number == 1_246_913_522 + 2 * 128  # and the statistics
  assert model.config.strides == (8, 32, 32)
  for layout in vae_ltx.LAYOUTS:
    names = vae_ltx.names(model.config, layout)
    assert set(names) == set(model.info) and len({n for n, _ in names.values()}) == len(names)


def test_files_with_either_layout_of_names_load(tmp_path):
  others = ("vae.per_channel_statistics.mean-of-stds_over_std-of-means", "model.diffusion_model.x")
  assert {
    "vae.encoder.down_blocks.3.conv.conv.bias", "vae.encoder.conv_out.conv.weight",
    "vae.encoder.down_blocks.8.res_blocks.0.conv1.conv.weight", "vae.decoder.conv_in.conv.bias",
    "vae.decoder.up_blocks.0.time_embedder.timestep_embedder.linear_1.weight",
    "vae.decoder.up_blocks.2.res_blocks.1.scale_shift_table", "vae.decoder.last_scale_shift_table",
    "vae.decoder.last_time_embedder.timestep_embedder.linear_2.bias",
    "vae.per_channel_statistics.std-of-means", "vae.decoder.timestep_scale_multiplier",
  } <= check_files(tmp_path, vae_ltx, SPEC, REFERENCE.params, others)  # fmt: skip


@pytest.mark.slow
def test_mesh_does_not_show_in_latents_and_video():
  check_mesh(SMALL, PARAMS, lambda params: coder(params, frames=1), draw((4, 5, 16, 16, 3)))
