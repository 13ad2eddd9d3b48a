import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_vae_cogvideox as golden
from tests.golden.drawn import weight
from tests.golden.parity import Reference, check_files
from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import vae_cogvideox as codec
from videojax.models import vae_cogvideox
from videojax.specs import ModelSpec

STORED = np.load(Path(golden.__file__).with_name("vae_cogvideox.npz"))
SPEC = ModelSpec("vae_cogvideox", vae_cogvideox.Config(**golden.SIZE))
REFERENCE = Reference(STORED, SPEC, vae_cogvideox.names(SPEC.config), weight)


def inputs(case):
  return {k: jnp.asarray(x, jnp.float32) for k, x in golden.inputs(case).items()}


def both(params, v, frames):
  """Moments [...,2Z] of the video, and the decoded latent."""
  model = SPEC.network(params)
  moments = jnp.concatenate(model.encode(v["video"], frames), -1)
  return moments, model.decode(v["latent"], frames)


def check(case, moments, decoded):
  assert relative_error(moments, STORED[f"{case} moments"]) < 1e-5
  assert relative_error(decoded[golden.SOME], STORED[f"{case} decoded"]) < 1e-5


# --- the reference ----------------------------------------------------------------------------


def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape():
  assert REFERENCE.there() == REFERENCE.shapes


@pytest.mark.parametrize("case", [case for case in golden.CASES if case != "clip"])
def test_moments_and_decoded_frames_are_the_references(case):
  run = jax.jit(both, static_argnums=2)
  check(case, *run(REFERENCE.params, inputs(case), golden.CASES[case][1]))


@pytest.mark.slow
def test_moments_decoded_clip_and_every_gradient_are_the_references():
  v = inputs("clip")

  def loss(params):
    moments, decoded = both(params, v, golden.CASES["clip"][1])
    total = (moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (moments, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(REFERENCE.params)
  check("clip", *got)
  REFERENCE.check_gradients(grads)


# --- chunks, and the codec ------------------------------------------------------------------------

SMALL = ModelSpec("vae_cogvideox", vae_cogvideox.Config(
  widths=(4, 8), time=(True,), blocks=1, groups=2, channels=4, scaling=0.5
))  # fmt: skip
PARAMS = filled(SMALL.abstract_params, 0.2)


def test_chunks_do_not_give_what_the_whole_clip_gives_but_depend_on_no_later_one():
  model, video = SMALL.network(PARAMS), draw((1, 9, 4, 4, 3))
  encode = jax.jit(lambda x, frames: model.encode(x, frames)[0], static_argnums=1)
  assert relative_error(encode(video, 2), encode(video, None)) > 1e-3
  np.testing.assert_array_equal(encode(video, 6), encode(video, None))  # one chunk
  changed = encode(video.at[:, 5:].add(1.0), 2) - encode(video, 2)
  assert jnp.abs(changed[:, :3]).max() < 1e-5 < 1e-2 < jnp.abs(changed[:, 3:]).max()


def coder(params=PARAMS, **changes):
  return codec.Codec(params, codec.Config(**dataclasses.asdict(SMALL.config), **changes))


@pytest.mark.parametrize("frames", [2, None])
def test_latents_are_scaled_as_published(frames):
  video = draw((1, 9, 4, 4, 3))

  @jax.jit
  def run(params):
    ours, model = coder(params, frames=frames), SMALL.network(params)
    latent, (mean, log_var) = ours.encode(video), model.encode(video, frames)
    decoded = model.decode(mean, frames)
    return latent, ours.moments(video)[1], ours.decode(latent), mean, log_var, decoded

  latent, got, decoded, *theirs = map(np.asarray, run(PARAMS))
  assert latent.shape[1:] == coder().latent_shape(video.shape[1:])
  assert decoded.shape == video.shape
  np.testing.assert_allclose(latent, theirs[0] * 0.5, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got, theirs[1] + 2 * np.log(0.5), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(decoded, theirs[2], atol=1e-4)


def test_a_codec_processes_as_many_frames_together_as_the_published_programs():
  assert codec.Config(**vae_cogvideox.SIZES["2B"]).frames == 2


def test_what_does_not_fit_is_refused_in_words():
  with pytest.raises(ValueError, match="12x9 does not divide into latent positions of 2x2"):
    coder().latent_shape((5, 12, 9, 3))
  with pytest.raises(ValueError, match="16 frames .* use 1 \\+ 2 k frames, e.g. 15 or 17"):
    coder().latent_shape((16, 8, 8, 3))
  with pytest.raises(ValueError, match="7 frames has 4 latents, .* 1 \\+ 4 k frames, e.g. 5 or 9"):
    coder().latent_shape((7, 8, 8, 3))
  with pytest.raises(ValueError, match="frames=3 must be even"):
    coder(frames=3)
  with pytest.raises(ValueError, match="time=.* one entry fewer than widths"):
    vae_cogvideox.Config(**golden.SIZE | dict(time=(True,)))
  with pytest.raises(ValueError, match="widths=.* must be multiples of groups=8"):
    vae_cogvideox.Config(**golden.SIZE | dict(groups=8))


def test_published_sizes_have_the_published_parameters_strides_and_scales():
  for version, scaling in (("2B", 1.15258426), ("5B", 0.7)):
    config = codec.Config(**vae_cogvideox.SIZES[version])
    model = ModelSpec("vae_cogvideox", config)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)) == 215_583_907
    assert config.strides == (4, 8, 8)
    assert codec.Codec({}, config).scaling == pytest.approx(scaling)
    for layout in vae_cogvideox.LAYOUTS:
      names = vae_cogvideox.names(model.config, layout)
      assert set(names) == set(model.info) and len({n for n, _ in names.values()}) == len(names)


def test_files_with_either_layout_of_names_load(tmp_path):
  original = vae_cogvideox.names(SPEC.config, "original")
  assert original["decoder/blocks/0/1/conv1/kernel"][0] == "decoder.up.3.block.1.conv1.conv.weight"
  assert {
    "encoder.down.1.block.0.nin_shortcut.weight", "encoder.down.0.downsample.conv.bias",
    "encoder.down.2.block.0.norm1.weight", "encoder.mid.block_1.conv1.conv.weight",
    "decoder.mid.block_2.norm2.conv_y.conv.bias", "decoder.up.1.upsample.conv.weight",
    "decoder.up.0.block.1.norm1.norm_layer.bias", "decoder.norm_out.conv_b.conv.weight",
    "encoder.norm_out.bias", "decoder.conv_out.conv.bias",
  } <= check_files(tmp_path, vae_cogvideox, SPEC, REFERENCE.params)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("frames", [None, 2])
def test_mesh_does_not_show_in_latents_and_video(frames):
  check_mesh(SMALL, PARAMS, lambda params: coder(params, frames=frames), draw((4, 9, 8, 8, 3)))
