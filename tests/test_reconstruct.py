"""An autoencoder trains through the one loop, and a model trains in its latents."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import count_jaxpr, draw, relative_error, tiny
from videojax.config import to_json
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.models.critic import hinge
from videojax.modes.finished_run import evaluate
from videojax.reconstruct import features
from videojax.runs.program import Program
from videojax.scaling import flops
from videojax.sharding import MeshConfig, make_mesh
from videojax.specs import CODEC
from videojax.train import train

pytestmark = pytest.mark.slow

ONE = jax.devices()[:1]
SIZES = dict(width=8, blocks=1, time=2, space=4, patch=2, channels=4)
WORLD = dict(name="worlds", size=16, frames=5, known=2, scenes=("one",))
EVALUATE = dict(
  evaluate__clips=4,
  evaluate__coherence_clips=4,
  evaluate__reference_clips=4,
  evaluate__batch_size=4,
)


def codec_run(**changes):
  base = dict(
    model=dict(name="vae_small", **SIZES), data={"worlds": WORLD}, total_steps=8,
    condition={}, optim__learning_rate=3e-3, checkpoint__save_every_steps=4,
  )  # fmt: skip
  return tiny(**{**base, **EVALUATE, **changes})


def latent_run(weights, **changes):
  base = dict(
    codec=dict(name="vae_small", weights=weights, **SIZES), data={"worlds": WORLD}, total_steps=2,
    model__channels=4, model__depth=1, model__patch=(1, 2, 2), condition__known_frames=2,
  )  # fmt: skip
  return tiny(**{**base, **EVALUATE, **changes})


# With a discriminator.
JUDGED = dict(
  model=dict(name="vae_small", **SIZES, critic=4),
  reconstruct=dict(adversarial=0.05),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("codec") / "run"
  return workdir, train(codec_run(**JUDGED), workdir, devices=ONE)


def test_the_record_says_what_is_lost_and_what_the_latents_are_like(run):
  workdir, result = run
  told = result.reconstruction
  assert result.frozen_loss is None and result.loss == told.error > 0
  assert told.values_per_latent == 5 * 16 * 16 * 3 / (3 * 4 * 4 * 4)
  assert len(told.latent_mean) == len(told.latent_deviation) == 4
  assert result.coherence["position_error_px"]["floor"] < 0.1
  assert json.loads((workdir / "result.json").read_text())["reconstruction"]["psnr_db"] > 0
  assert list((workdir / "samples").glob("*.mp4"))
  assert result.flops["total"] == pytest.approx(
    sum(v for k, v in result.flops.items() if k != "total")
  )


def test_training_lowers_the_error(run):
  losses = [json.loads(line) for line in (run[0] / "metrics.jsonl").read_text().splitlines()]
  first = json.loads((run[0] / "initial.json").read_text())["frozen_loss"]
  assert run[1].reconstruction.error < first and math.isfinite(losses[-1]["kl"])


def test_loss_is_the_sum_of_its_parts_and_kl_that_of_normals():
  e = codec_run(reconstruct=dict(pixels=2.0, squares=3.0, features=0.5, kl=0.25))
  task = e.task("worlds")
  rows, keys = stack_examples(task.source, [0, 1]), jax.random.split(jax.random.key(0), 2)
  params = e.model.init(jax.random.key(1))
  loss, parts = jax.jit(task.loss)(params, rows, keys)
  want = 2 * parts["pixels"] + 3 * parts["squares"] + 0.5 * parts["features"] + 0.25 * parts["kl"]
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  mean, log_var = e.model.network(params).encode(task.source.decode(rows)["video"])
  normal = jax.scipy.stats.norm
  x = (
    jax.random.normal(jax.random.key(2), (4000, *mean.shape)) * jnp.exp(log_var / 2)[None]
    + mean[None]
  )
  ratio = normal.logpdf(x, mean[None], jnp.exp(log_var / 2)[None]) - normal.logpdf(x)
  sampled = ratio.mean(0).sum((1, 2, 3, 4)) / (5 * 16 * 16 * 3)
  np.testing.assert_allclose(parts["kl"], sampled, rtol=0.05)


def test_discriminator_and_coder_each_learn_from_their_own_loss_alone():
  """One gradient of one sum has the gradients of two players."""
  e = codec_run(**JUDGED)
  task, network = e.task("worlds"), e.model.network
  rows, keys = stack_examples(task.source, [0, 1]), jax.random.split(jax.random.key(0), 2)
  params = e.model.init(jax.random.key(1))
  video = task.source.decode(rows)["video"]
  part = lambda name: jax.jit(
    jax.grad(lambda p: task.loss(p, rows, keys)[1][name].mean())
  )  # fmt: skip
  got = jax.jit(jax.grad(lambda p: task.loss(p, rows, keys)[0].mean()))(params)
  judged, fooled = part("critic")(params), part("adversarial")(params)
  assert relative_error(got["critic"], judged["critic"]) < 1e-6
  assert all(not np.any(g) for g in jax.tree.leaves(fooled["critic"]))
  assert all(not np.any(g) for g in jax.tree.leaves((judged["encoder"], judged["decoder"])))
  assert all(np.any(g) for g in jax.tree.leaves(fooled["decoder"]))
  real = network(params).critic(video)
  np.testing.assert_allclose(
    hinge(real, -real), jax.nn.relu(1 - real).mean((1, 2, 3, 4)), rtol=1e-5
  )
  assert not np.any(hinge(jnp.full((2, 3), 1.5), jnp.full((2, 3), -1.5)))


def test_a_discriminator_without_its_weight_is_refused_in_words():
  with pytest.raises(ConfigError, match="set both for a discriminator, or neither"):
    codec_run(model=JUDGED["model"]).task("worlds")


def test_traced_flops_are_those_of_the_jaxpr():
  task = codec_run().task("worlds")
  video = jax.ShapeDtypeStruct((1, *task.source.shape), jnp.float32)
  jaxpr = jax.make_jaxpr(task.reconstructed)(task.abstract_params, video)
  assert flops.forward(task.products())["total"] == count_jaxpr(jaxpr.jaxpr) > 0


@pytest.mark.parametrize("codes", [dict(codes="fsq", levels=(3, 3, 3, 3)), dict(codes="lfq")])
def test_codes_are_discrete_and_every_parameter_learns_through_them(codes):
  e = codec_run(model=dict(name="vae_small", **SIZES, **codes))
  task = e.task("worlds")
  rows, keys = stack_examples(task.source, [0, 1]), jax.random.split(jax.random.key(0), 2)
  params = e.model.init(jax.random.key(1))
  grads = jax.jit(jax.grad(lambda p: task.loss(p, rows, keys)[0].mean()))(params)
  grads.pop("statistics")
  assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))
  video = task.source.decode(rows)["video"]
  latents, log_var, _, indices = e.model.network(params).bottleneck(video)
  assert set(np.unique(np.round(latents, 5))) <= {-1.0, 0.0, 1.0} and log_var.max() == -30
  assert indices.min() >= 0 and indices.max() < e.model.config.quantizer.number


@pytest.mark.slow
def test_the_record_of_a_discrete_codec_counts_its_codes(tmp_path):
  codes = dict(codes="fsq", levels=(3, 3, 3, 3))
  told = train(
    codec_run(model=dict(name="vae_small", **SIZES, **codes)), tmp_path / "run", devices=ONE
  ).reconstruction  # fmt: skip
  assert told.codes == 81 and 0 < told.codes_used <= 1 and 1 <= told.perplexity <= 81


def test_features_have_unit_variance_for_white_noise_and_ignore_nothing():
  video = draw((2, 1, 64, 64, 3))
  for made in features(video):
    assert 0.5 < float((made**2).mean()) < 2
  moved = features(jnp.roll(video, 1, 3))
  assert all(jnp.abs(a - b).mean() > 0.1 for a, b in zip(features(video), moved))


def test_a_model_trains_in_the_latents_of_a_finished_codec(run, tmp_path):
  workdir, codec = run
  e = latent_run(str(workdir))
  program = Program(e, make_mesh(MeshConfig(data=1), ONE))
  frozen = program.create(0).frozen[CODEC]
  told = codec.reconstruction
  np.testing.assert_allclose(frozen["statistics"]["mean"], told.latent_mean, rtol=1e-6)
  task = e.task("worlds")
  example = task.source.decode(stack_examples(task.source, range(4)))
  latents = jax.jit(lambda p: task.prepare({CODEC: p}, example)[0])(frozen)
  assert latents.shape == (4, 3, 4, 4, 4)
  assert abs(float(latents.mean())) < 0.5 and 0.5 < float(latents.std()) < 2
  result = train(e, tmp_path / "latent", devices=ONE)
  assert result.frozen_loss.final > 0 and result.coherence["position_error_px"]["floor"] < 0.1


def test_weights_of_another_codec_or_of_an_unfinished_run_are_refused(run, tmp_path):
  mesh = make_mesh(MeshConfig(data=1), ONE)
  wider = latent_run(str(run[0]), codec__width=16)
  with pytest.raises(ConfigError, match="has trained vae_small with .*'width': 8"):
    Program(wider, mesh).create(0)
  part = tmp_path / "part"
  (part / "checkpoints").mkdir(parents=True)
  (part / "config.json").write_text(json.dumps(to_json(codec_run())))
  with pytest.raises(ConfigError, match="has not finished"):
    Program(latent_run(str(part)), mesh).create(0)


def test_clips_that_the_codec_cannot_merge_are_refused_in_words():
  with pytest.raises(ConfigError, match="4 frames .* use 1 \\+ 2 k frames, e.g. 3 or 5"):
    codec_run(data={"worlds": WORLD | dict(frames=4)}).task("worlds")


@pytest.mark.parametrize("mode", ["generate", "plan", "bench", "effects", "coordinates"])
def test_modes_of_denoisers_refuse_an_autoencoder_in_words(mode):
  with pytest.raises(ConfigError, match=f"--mode={mode} is for models that denoise"):
    codec_run().denoising(mode)
  assert latent_run(None).denoising(mode) == latent_run(None)


@pytest.mark.slow
def test_an_interrupted_codec_run_ends_with_the_bits_of_a_whole_one(run, tmp_path):
  train(codec_run(**JUDGED, total_steps=4), tmp_path / "run", devices=ONE)
  again = train(codec_run(**JUDGED), tmp_path / "run", devices=ONE)
  assert again.params_sha256 == run[1].params_sha256


@pytest.mark.slow
def test_evaluating_a_codec_writes_its_rate_and_distortion_beside_classical_ones(run, tmp_path):
  workdir = shutil.copytree(run[0], tmp_path / "run")
  evaluate(codec_run(**JUDGED), workdir)
  written = json.loads((workdir / "evaluation.json").read_text())
  assert written["reconstruction"]["error"] == pytest.approx(run[1].reconstruction.error, rel=1e-4)
  rows = written["rate_distortion"]
  own = [row for row in rows if row["codec"] == "vae_small"]
  assert {row["codec"] for row in rows} > {"vae_small", "x264 4:4:4", "svt-av1 4:2:0"}
  rates = [row["bits_per_pixel"] for row in own]
  assert (
    rates == sorted(rates, reverse=True)
    and rates[0] < 32 / written["reconstruction"]["values_per_latent"] * 3
  )
  assert (workdir / "rate_distortion.csv").exists() and (workdir / "rate_distortion.png").exists()
