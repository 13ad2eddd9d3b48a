"""Latents train through the one loop; the codec's weights are in the state and never change."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import filled, relative_error, tiny
from videojax.codecs import unshuffle
from videojax.config import from_json
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.io.checkpoint import Checkpointer
from videojax.models import vae_svd
from videojax.modes.finished_run import evaluate, sample
from videojax.runs import weights
from videojax.runs.program import Program, lower_step
from videojax.runs.resume import (
  load_weights,
)
from videojax.runs.run_state import (
  restore_weights,
)
from videojax.sample import generate
from videojax.sharding import MeshConfig, by_path, make_mesh, put_batch
from videojax.specs import CODEC
from videojax.task import without_codec
from videojax.train import train

ONE = jax.devices()[:1]
SIZES = dict(width=8, multipliers=(1, 2), blocks=1, groups=4, channels=4)
LATENT = dict(
  total_steps=2, model__channels=4, model__depth=1, model__patch=(1, 4, 4),
  checkpoint__save_every_steps=1, evaluate__clips=2, evaluate__coherence_clips=2,
  evaluate__reference_clips=4, evaluate__batch_size=2,
)  # fmt: skip


def latent(weights=None, **changes):
  codec = dict(name="vae_svd", weights=weights, **SIZES)
  return tiny(**{**LATENT, "codec": codec, **changes})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """(path, parameters) of an autoencoder with every tensor filled."""
  directory, network = tmp_path_factory.mktemp("vae"), latent().codec.network
  params = filled(network.abstract_params, 0.2)
  weights.save(directory, vae_svd, network.config, network.info, by_path(params))
  return str(directory), params


@pytest.fixture(scope="module")
def run(published, tmp_path_factory):
  """A finished run in latents; the file of its codec's weights is gone."""
  workdir = tmp_path_factory.mktemp("latent") / "run"
  e = latent(shutil.copytree(published[0], workdir.with_name("vae")).as_posix())
  result = train(e, workdir, devices=ONE)
  shutil.rmtree(e.codec.config.weights)
  return workdir, e, result


def test_unshuffled_latents_hold_the_pixels_of_their_square_and_lose_nothing():
  codec = unshuffle.Codec(config=unshuffle.Config(side=2))
  video = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 6, 3)), jnp.float32)
  latent = codec.encode(video)
  assert latent.shape == (2, *codec.latent_shape(video.shape[1:])) == (2, 3, 2, 3, 12)
  np.testing.assert_array_equal(latent[:, :, 1, 2].reshape(2, 3, 2, 2, 3), video[:, :, 2:4, 4:6])
  np.testing.assert_array_equal(codec.decode(latent), video)
  with pytest.raises(ValueError, match="clip of 4x7 does not divide into squares of 2x2"):
    codec.latent_shape((3, 4, 7, 3))


@pytest.mark.slow
def test_a_run_in_latents_shows_and_measures_pixels(run):
  workdir, e, result = run
  [path] = (workdir / "samples").glob("*.npz")
  with np.load(path) as numbers:
    assert numbers["video"].shape == numbers["truth"].shape == (2, 4, 16, 16, 3)
  position = result.coherence["position_error_px"]
  assert position["floor"] < 0.1  # of true pixels, not of decoded ones
  assert result.tokens == 2 * 8 * 4 * 2 * 2  # 8x8 latents in patches of 4x4
  assert 0 < result.frozen_loss.wiener < result.frozen_loss.zero_model


@pytest.mark.slow
def test_weights_of_the_codec_come_from_the_file_and_never_change(run, published):
  workdir, e, _ = run
  program = Program(e, make_mesh(MeshConfig(data=1), ONE))
  with Checkpointer(workdir / "checkpoints", keep_last=1) as checkpoints:
    state = checkpoints.restore(program.abstract).state
  jax.tree.map(np.testing.assert_array_equal, state.frozen[CODEC], published[1])
  assert CODEC not in state.trainable and CODEC not in state.ema["0.100"]


@pytest.mark.slow
def test_evaluate_and_sample_need_the_run_directory_alone(run):
  workdir, _, result = run
  e = from_json(json.loads((workdir / "config.json").read_text()))
  evaluate(e, workdir)
  written = json.loads((workdir / "evaluation.json").read_text())
  assert written["frozen_loss"]["mean"] == pytest.approx(result.frozen_loss.final, rel=1e-5)
  sample(e, workdir)
  assert list((workdir / "samples" / "id").glob("*.mp4"))


@pytest.mark.slow
def test_resumed_run_ends_with_the_bits_of_a_whole_one(run, published, tmp_path):
  train(latent(published[0], total_steps=1), tmp_path / "run", devices=ONE)
  again = train(latent(published[0]), tmp_path / "run", devices=ONE)
  assert again.params_sha256 == run[2].params_sha256


@pytest.mark.slow
def test_weights_taken_from_a_run_are_the_models_alone(run, published):
  workdir, e, _ = run
  other = latent(init_from=str(workdir))  # with a codec of its own
  mesh = make_mesh(MeshConfig(data=1), ONE)
  with jax.set_mesh(mesh):
    program = Program(other, mesh)
    state = program.create(0)
    taken = load_weights(other, state, program)
    want = restore_weights(e, workdir, mesh)[0]
  jax.tree.map(np.testing.assert_array_equal, taken["trainable"], without_codec(want))
  jax.tree.map(np.testing.assert_array_equal, taken["frozen"], state.frozen)
  assert relative_error(state.frozen[CODEC], published[1]) > 0.1


def test_weights_of_the_codec_are_no_constants_of_the_compiled_step():
  e = latent()
  mesh = make_mesh(MeshConfig(data=1), ONE)
  with jax.set_mesh(mesh):
    program = Program(e, mesh)
    text = lower_step(program, program.tasks["worlds"]).as_text()
  largest = max((line for line in text.splitlines() if "stablehlo.constant" in line), key=len)
  assert len(largest) < 5000, largest[:200]


def test_training_takes_samples_of_latents_keyed_by_row_and_measures_means(published):
  task, params = latent().task("worlds"), {CODEC: published[1]}
  example = task.source.decode(stack_examples(task.source, range(2)))
  keys = jax.random.split(jax.random.key(0), 2)
  prepare = jax.jit(lambda x, k: task.prepare(params, x, k)[0])
  mean, sampled = prepare(example, None), prepare(example, keys)
  assert mean.shape == (2, *task.latent_shape) == (2, 4, 8, 8, 4)
  np.testing.assert_array_equal(mean, prepare(example, None))
  assert np.abs(sampled - mean).max() > 1e-3
  alone = prepare(jax.tree.map(lambda x: x[1:], example), keys[1:])
  np.testing.assert_allclose(alone[0], sampled[1], rtol=1e-4, atol=1e-5)


def test_what_lies_over_pixels_is_brought_onto_the_latents():
  e = latent(model__volumes=(("edges", 1), ("first", 4)), model__scalars=("blur",))
  task = e.task("worlds")
  example = task.source.decode(stack_examples(task.source, range(2)))
  params = {CODEC: filled(e.codec.network.abstract_params, 0.2)}
  mask = np.zeros((2, 4, 16, 16, 1), np.float32)
  mask[:, :, :5] = 1  # rows 4 and 5 are one row of latents
  x, cond = task.prepare(params, dict(example) | {"known_mask": jnp.asarray(mask)})
  assert cond.volumes["edges"].shape == (2, 4, 8, 8, 1)
  np.testing.assert_array_equal(cond.known_mask[0, 0, :, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0])
  spread = np.std(cond.volumes["first"] - x[:, :1] / vae_svd.SCALING)
  assert spread == pytest.approx(0.02 / vae_svd.SCALING, rel=0.3)


@pytest.mark.slow
def test_eight_devices_train_and_sample_as_one():
  e = latent()

  def measured(mesh, devices):
    mesh = make_mesh(mesh, devices)
    with jax.set_mesh(mesh):
      program = Program(e, mesh)
      task, state = program.tasks["worlds"], program.abstract
      params = filled(task.abstract_params, 0.2)
      place = lambda leaf, like: jax.device_put(leaf, like.sharding)
      params = jax.tree.map(place, params, state.trainable | state.frozen)
      rows = put_batch(stack_examples(task.source, range(8)), mesh, 8)
      keys = jax.random.split(jax.random.key(0), 8)

      def run(params, rows, keys):
        own, codec = without_codec(params), {CODEC: params[CODEC]}
        loss = lambda p: task.loss(p | codec, rows, keys)[0].mean()
        clips = generate(task, e.sampler, e.guidance, params, task.source.decode(rows))
        return jax.value_and_grad(loss)(own), clips

      return jax.device_get(jax.jit(run)(params, rows, keys))

  one = measured(MeshConfig(data=1), ONE)
  eight = measured(MeshConfig(data=2, fsdp=2, seq=2), jax.devices())
  assert relative_error(eight, one) < 1e-5


def test_a_codec_that_is_not_there_and_a_setting_it_has_not_are_named(tmp_path):
  with pytest.raises(ConfigError, match="no codec videojax/codecs/vae_sdv.py"):
    tiny(codec=dict(name="vae_sdv"))
  with pytest.raises(ConfigError, match="did you mean 'width'"):
    tiny(codec=dict(name="vae_svd", **(SIZES | {"widht": 8})))
  with pytest.raises(ConfigError, match="codec lacks width"):
    tiny(codec=dict(name="vae_svd"))
  with pytest.raises(ConfigError, match="codec.weights: .*nowhere is not a run directory"):
    train(latent(str(tmp_path / "nowhere")), tmp_path / "run", devices=ONE)
  assert not (tmp_path / "run").exists()
