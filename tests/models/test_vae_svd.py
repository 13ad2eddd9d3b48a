import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import make_vae_svd as golden
from tests.helpers import check_mesh, count_jaxpr, draw, filled, relative_error
from videojax.codecs import vae_svd as codec
from videojax.models import vae_svd
from videojax.runs import weights
from videojax.scaling import flops
from videojax.sharding import by_path
from videojax.specs import CodecSpec, ModelSpec


def spec(**changes):
  sizes = dict(golden.SIZES, channels=golden.CHANNELS)
  return ModelSpec("vae_svd", vae_svd.Config(**{**sizes, **changes}))


# --- the reference ----------------------------------------------------------------------------

STORED = np.load(Path(golden.__file__).with_name("vae_svd.npz"))
REFERENCE = spec()
NAMES = vae_svd.names(REFERENCE.config)


def from_reference(value):
  """Our parameters, each from `value(name in the reference)`."""

  def one(path, leaf):
    name, layout = NAMES["/".join(key.key for key in path)]
    return jnp.asarray(weights.from_torch(value(name), layout, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(one, REFERENCE.abstract_params)


def reference_shapes():
  shapes = (tuple(int(n) for n in s.strip("(),").split(",")) for s in STORED["shapes"])
  return dict(zip(STORED["names"].tolist(), shapes))


def reference_params():
  shapes = reference_shapes()
  return from_reference(lambda name: golden.weight(name, shapes[name]))


def inputs(case):
  return {name: jnp.asarray(x, jnp.float32) for name, x in golden.inputs(case).items()}


def both(params, v):
  """Moments [...,2Z] of the video, and the decoded latent."""
  model = REFERENCE.network(params)
  return jnp.concatenate(model.encode(v["video"]), -1), model.decode(v["latent"])


def test_every_tensor_of_the_reference_is_one_of_ours_with_its_shape():
  ours = by_path(REFERENCE.abstract_params)
  there = {
    name: weights.there(layout, ours[path].shape, REFERENCE.info[path].inputs)
    for path, (name, layout) in NAMES.items()
  }
  assert len(there) == len(ours) and there == reference_shapes()


def test_moments_and_decoded_image_are_the_references():
  moments, decoded = jax.jit(both)(reference_params(), inputs("image"))
  assert relative_error(moments, STORED["image moments"]) < 1e-5
  assert relative_error(decoded, STORED["image decoded"]) < 1e-5


def test_moments_decoded_clip_and_every_gradient_are_the_references():
  v = inputs("clip")

  def loss(params):
    moments, decoded = both(params, v)
    total = (moments * v["moments probe"]).sum() + (decoded * v["decoded probe"]).sum()
    return total, (moments, decoded)

  (_, got), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(reference_params())
  for name, out in zip(("moments", "decoded"), got):
    assert relative_error(out, STORED[f"clip {name}"]) < 1e-5
  shapes = reference_shapes()
  probes = by_path(from_reference(lambda n: golden.draw(f"{n} probe", shapes[n])))
  norm = dict(zip(STORED["names"].tolist(), STORED["norms"]))
  along = dict(zip(STORED["names"].tolist(), STORED["along"]))
  for path, g in by_path(grads).items():
    g, name = np.asarray(g, np.float64), NAMES[path][0]
    if path.endswith("k/bias"):  # zero: what is added to all keys alike changes no softmax
      assert norm[name] < 1e-9 and np.linalg.norm(g) < 1e-3
      continue
    assert abs(np.linalg.norm(g) - norm[name]) < 1e-4 * norm[name], path
    assert abs(np.vdot(g, probes[path]) - along[name]) < 1e-3 * norm[name], path


# --- the codec --------------------------------------------------------------------------------

SMALL = spec(width=16, blocks=1, groups=8)


PARAMS = filled(SMALL.abstract_params, 0.2)
encode = jax.jit(lambda c, *args: c.encode(*args))
decode = jax.jit(lambda c, latent: c.decode(latent))


def settings(config, **changes):
  return codec.Config(**dataclasses.asdict(config), **changes)


def coder(**changes):
  return codec.Codec(PARAMS, settings(SMALL.config, **changes))


def test_codec_is_the_network_with_latents_scaled_once():
  ours, video = coder(), draw((2, 3, 8, 12, 3))
  mean, log_var = jax.jit(lambda p, v: SMALL.network(p).encode(v))(PARAMS, video)
  latent, keys = encode(ours, video), jax.random.split(jax.random.key(0), 2)
  assert latent.shape[1:] == ours.latent_shape(video.shape[1:])
  np.testing.assert_allclose(latent, 0.18215 * mean, rtol=1e-4, atol=1e-5)
  decoded = jax.jit(lambda p, z: SMALL.network(p).decode(z))(PARAMS, mean)
  np.testing.assert_allclose(decode(ours, latent), decoded, rtol=1e-3, atol=1e-4)
  sampled = encode(ours, video, keys) / 0.18215
  spread = (sampled - mean) / jnp.exp(0.5 * log_var)
  assert abs(spread.std() - 1) < 0.1 and jnp.abs(spread.mean()) < 0.2
  swapped = encode(ours, video[::-1], keys[::-1])[::-1] / 0.18215
  np.testing.assert_allclose(swapped, sampled, atol=1e-4)  # a row's noise is its key's


@pytest.mark.slow
def test_frames_are_encoded_apart_and_decoded_together_unless_told():
  ours, video = coder(), draw((1, 4, 8, 8, 3))
  latent = encode(ours, video)
  order = jnp.array([2, 0, 3, 1])
  np.testing.assert_allclose(encode(ours, video[:, order]), latent[:, order], atol=1e-5)
  together, in_pieces = decode(ours, latent), decode(coder(frames=2), latent)
  np.testing.assert_allclose(in_pieces[:, :2], decode(ours, latent[:, :2]), atol=1e-5)
  np.testing.assert_allclose(in_pieces[:, 2:], decode(ours, latent[:, 2:]), atol=1e-5)
  assert together.shape == video.shape and jnp.abs(together - in_pieces).max() > 1e-3


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="7x8 does not divide into latent positions of 2x2"):
    coder().encode(jnp.zeros((1, 1, 7, 8, 3)))
  with pytest.raises(ValueError, match="width=20 is not divisible by groups=8"):
    spec(width=20, groups=8)


# --- counts and meshes ------------------------------------------------------------------------


def test_the_published_size_has_the_published_parameters_and_strides():
  model = ModelSpec("vae_svd", vae_svd.Config(**vae_svd.SIZES["98M"], **vae_svd.PUBLISHED))
  assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract_params)) == 97_742_847
  assert set(model.info) == set(vae_svd.names(model.config))
  ours = codec.Codec(None, settings(model.config))
  assert ours.strides == (1, 8, 8) and ours.latent_shape((14, 576, 1024, 3)) == (14, 72, 128, 4)


@pytest.mark.parametrize("decode", [False, True])
def test_traced_flops_are_those_of_the_jaxpr(decode):
  x = jnp.zeros((1, 3, 4, 6, 4) if decode else (1, 3, 8, 12, 3))
  run = lambda p, x: getattr(SMALL.network(p), "decode" if decode else "encode")(x)
  count = count_jaxpr(jax.make_jaxpr(run)(SMALL.abstract_params, x).jaxpr)
  assert count == flops.forward(flops.trace(run, SMALL.abstract_params, x))["total"] > 0
  spec = CodecSpec("vae_svd", settings(SMALL.config))
  assert (spec.decode_flops if decode else spec.encode_flops)((3, 8, 12, 3)) == count


@pytest.mark.slow
@pytest.mark.parametrize("frames", [4, 3])
def test_mesh_does_not_show_in_latents_and_video(frames):
  """3 frames do not divide by seq=2."""
  check_mesh(
    SMALL, PARAMS, lambda p: codec.Codec(p, settings(SMALL.config)), draw((4, frames, 8, 8, 3))
  )
