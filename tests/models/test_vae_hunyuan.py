import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_vae_hunyuan as golden
from tests.golden.parity import Reference, check_files
from tests.helpers import check_mesh, draw, filled, relative_error
from videojax.codecs import vae_hunyuan as codec
from videojax.models import vae_hunyuan
from videojax.specs import ModelSpec

STORED = np.load(Path(golden.__file__).with_name("vae_hunyuan.npz"))
VERSIONS = tuple(golden.SIZES)


def spec(version):
  return ModelSpec("vae_hunyuan", vae_hunyuan.Config(**golden.SIZES[version]))


def reference(version):
  model = spec(version)
  return Reference(STORED, model, vae_hunyuan.names(model.config), golden.fill, f"{version} ")


def inputs(version, case):
  return {k: jnp.asarray(x, jnp.float32) for k, x in golden.inputs(version, case).items()}


def both(version, params, v, frames=None):
  """Moments [...,2Z] of the video, and the decoded latent."""
  model = spec(version).network(params)
  moments = jnp.concatenate(model.encode(v["video"], frames), -1)
  return moments, model.decode(v["latent"], frames)


def check(version, case, moments, decoded):
  assert relative_error(moments, STORED[f"{version} {case} moments"]) < 1e-5
  assert relative_error(decoded[golden.SOME], STORED[f"{version} {case} decoded"]) < 1e-5


# --- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape(version):
  ours = reference(version)
  assert ours.there() == ours.shapes


@pytest.mark.parametrize("version, case", [key for key in golden.CASES if key[1] != "clip"])
def test_moments_and_decoded_frames_are_the_references(version, case):
  run = jax.jit(both, static_argnums=(0, 3))
  frames = 4 if case in golden.TILED else None
  check(version, case, *run(version, reference(version).params, inputs(version, case), frames))


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_moments_decoded_clip_and_every_gradient_are_the_references(version):
  v, ours = inputs(version, "clip"), reference(version)

  def loss(params):
    moments, decoded = both(version, params, v)
    total = (moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (moments, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(ours.params)
  check(version, "clip", *got)
  ours.check_gradients(grads)


# --- any length in bounded memory ---------------------------------------------------------------

SMALL = {
  "13B": dict(widths=(4, 8), time=(True,), blocks=1, groups=2, channels=4),
  "1.5": dict(widths=(8, 8), time=(True,), blocks=1, groups=None, channels=4),
}
SMALL = {
  version: ModelSpec("vae_hunyuan", vae_hunyuan.Config(**sizes)) for version, sizes in SMALL.items()
}
PARAMS = {version: filled(model.abstract_params, 0.2) for version, model in SMALL.items()}


@pytest.mark.parametrize("frames", [1, 2])
def test_chunks_give_what_the_whole_clip_gives_without_group_norm(frames):
  """4 latent frames: a first one, then three of one, or one of two and a rest of one."""
  video, latent = draw((1, 7, 4, 8, 3)), draw((1, 4, 2, 3, 4))

  @functools.partial(jax.jit, static_argnums=0)
  def run(frames, params):
    model = SMALL["1.5"].network(params)
    return *model.encode(video, frames), model.decode(latent, frames)

  assert relative_error(run(frames, PARAMS["1.5"]), run(None, PARAMS["1.5"])) < 1e-6


def test_tiles_with_group_norm_do_not_give_what_the_whole_clip_gives():
  model, video = SMALL["13B"].network(PARAMS["13B"]), draw((1, 17, 4, 4, 3))
  encode = jax.jit(lambda frames: model.encode(video, frames)[0], static_argnums=0)
  assert relative_error(encode(4), encode(None)) > 1e-3
  np.testing.assert_array_equal(encode(12), encode(None))  # one tile


def test_later_frames_do_not_change_earlier_latents_or_pixels_without_group_norm():
  model = SMALL["1.5"].network(PARAMS["1.5"])
  video, latent = draw((1, 7, 4, 4, 3)), draw((1, 4, 2, 2, 4))
  encode, decode = jax.jit(lambda x: model.encode(x)[0]), jax.jit(model.decode)
  changed = encode(video.at[:, 3:].add(1.0)) - encode(video)
  assert jnp.abs(changed[:, :2]).max() < 1e-5 < 1e-2 < jnp.abs(changed[:, 2:]).max()
  changed = decode(latent.at[:, 2:].add(1.0)) - decode(latent)
  assert jnp.abs(changed[:, :3]).max() < 1e-5 < 1e-2 < jnp.abs(changed[:, 3:]).max()


@pytest.mark.parametrize("groups, frames", [(2, 4), (None, 1)])
def test_parts_of_a_clip_need_a_fraction_of_the_memory_of_the_whole(groups, frames):
  sizes = dict(widths=(8, 8, 8), time=(False, True), blocks=1, channels=4)
  model = ModelSpec("vae_hunyuan", vae_hunyuan.Config(**sizes, groups=groups))

  def temporary(frames):
    latent = jax.ShapeDtypeStruct((1, 33, 8, 8, 4), jnp.float32)
    run = jax.jit(lambda p, z: model.network(p).decode(z, frames))
    memory = run.lower(model.abstract_params, latent).compile().memory_analysis()
    return memory.temp_size_in_bytes

  assert temporary(frames) < 0.4 * temporary(None)


# --- the codec --------------------------------------------------------------------------------


def coder(version, params=None, **changes):
  config = codec.Config(**dataclasses.asdict(SMALL[version].config), **changes)
  return codec.Codec(params or PARAMS[version], config)


@pytest.mark.parametrize("version, frames", [("13B", 4), ("1.5", 1)])
def test_latents_are_scaled_as_published(version, frames, monkeypatch):
  monkeypatch.setattr(vae_hunyuan, "SCALING", {4: 0.5})
  video = draw((1, 9, 4, 4, 3))

  @jax.jit
  def run(params):
    ours, model = coder(version, params, frames=frames), SMALL[version].network(params)
    latent, (mean, log_var) = ours.encode(video), model.encode(video, frames)
    decoded = model.decode(mean, frames)
    return latent, ours.moments(video)[1], ours.decode(latent), mean, log_var, decoded

  latent, got, decoded, *theirs = map(np.asarray, run(PARAMS[version]))
  assert latent.shape[1:] == coder(version).latent_shape(video.shape[1:])
  np.testing.assert_allclose(latent, theirs[0] * 0.5, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(got, theirs[1] + 2 * np.log(0.5), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(decoded, theirs[2], atol=1e-4)


def test_what_does_not_fit_is_refused_in_words():
  with pytest.raises(ValueError, match="12x9 does not divide into latent positions of 2x2"):
    coder("13B").latent_shape((5, 12, 9, 3))
  with pytest.raises(ValueError, match="16 frames .* use 1 \\+ 2 k frames, e.g. 15 or 17"):
    coder("1.5").latent_shape((16, 8, 8, 3))
  with pytest.raises(ValueError, match="frames=6: with group norm it must be a multiple of 4"):
    coder("13B", frames=6)
  wrong = lambda version, **changes: vae_hunyuan.Config(**golden.SIZES[version] | changes)
  with pytest.raises(ValueError, match="time=.* one entry fewer than widths"):
    wrong("13B", time=(True,))
  with pytest.raises(ValueError, match="widths=.* must be multiples of groups=3"):
    wrong("13B", groups=3)
  with pytest.raises(ValueError, match="12 is not a multiple of 8 that divides 32"):
    wrong("1.5", widths=(8, 8, 8, 12, 16))
  with pytest.raises(ValueError, match="last must be a multiple of twice channels=6"):
    wrong("1.5", channels=6)


def test_published_sizes_have_the_published_parameters_strides_and_scales():
  for version, number, strides, scaling in (
    ("13B", 246_478_803, (4, 8, 8), 0.476986),
    ("1.5", 1_260_634_115, (4, 16, 16), 1.03682),
  ):
    config = codec.Config(**vae_hunyuan.SIZES[version])
    model = ModelSpec("vae_hunyuan", config)
    assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)) == number
    assert config.strides == strides
    assert codec.Codec({}, config).scaling == pytest.approx(scaling)
    for layout in vae_hunyuan.LAYOUTS:
      names = vae_hunyuan.names(model.config, layout)
      assert set(names) == set(model.info) and len({n for n, _ in names.values()}) == len(names)


@pytest.mark.parametrize("version, some", [
  ("13B", {"encoder.down_blocks.0.downsamplers.0.conv.conv.weight",
           "encoder.mid_block.attentions.0.to_out.0.bias", "decoder.conv_norm_out.weight"}),
  ("1.5", {"encoder.down.3.downsample.conv.conv.weight", "encoder.mid.attn_1.q.bias",
           "decoder.up.4.block.1.norm2.gamma", "decoder.mid.block_2.conv1.conv.bias",
           "decoder.mid.attn_1.proj_out.weight", "encoder.norm_out.gamma"}),
])  # fmt: skip
def test_files_with_either_layout_of_names_load(version, some, tmp_path):
  assert some <= check_files(tmp_path, vae_hunyuan, spec(version), reference(version).params)


@pytest.mark.slow
@pytest.mark.parametrize("version, frames", [("13B", 4), ("1.5", None), ("1.5", 1)])
def test_mesh_does_not_show_in_latents_and_video(version, frames):
  ours = lambda params: coder(version, params, frames=frames)
  check_mesh(SMALL[version], PARAMS[version], ours, draw((4, 9, 8, 8, 3)))
