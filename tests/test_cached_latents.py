"""A model trains on cached latents as it does with the codec in the step, or not at all."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import clips, encode_build, latent_files, latents
from experiments import codec as codec_experiment
from experiments import from_latents
from tests.helpers import draw, filled, relative_error, tiny
from videojax.codecs import vae_svd as codec_file
from videojax.config import resolve
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.io.integrity import params_sha256
from videojax.models import vae_svd
from videojax.modes import finished_run
from videojax.runs import weights
from videojax.runs.program import Program
from videojax.sharding import MeshConfig, by_path, make_mesh
from videojax.specs import CODEC, CodecSpec
from videojax.task import check_cached
from videojax.train import train

pytestmark = pytest.mark.slow

ONE = jax.devices()[:1]
SIZES = dict(width=8, multipliers=(1, 2), blocks=1, groups=4, channels=4)
SMALL = dict(width=8, blocks=1, time=2, space=4, patch=2, channels=4)
EVALUATE = dict(
  evaluate__clips=4, evaluate__coherence_clips=4, evaluate__reference_clips=4,
  evaluate__batch_size=4, evaluate__splits={"held_out": {"split": "validation"}},
)  # fmt: skip


@pytest.fixture(scope="module")
def films(tmp_path_factory):
  """A dataset of smooth clips: 10 to train on, 4 held out."""
  out = tmp_path_factory.mktemp("films") / "clips"
  coarse = np.asarray(draw((14, 5, 2, 2, 3)))
  videos = np.clip(127.5 + 60 * coarse, 0, 255).astype(np.uint8).repeat(8, 2).repeat(8, 3)
  examples = [{"video": v, "caption": f"clip {i}", "id": i} for i, v in enumerate(videos)]
  splits = {"train": examples[:10], "validation": examples[10:]}
  clips.write_clips(out, splits, frames=5, height=16, width=16, fps=5.0, description="squares")
  return out


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """Published weights of a tiny autoencoder that samples its latents widely."""
  directory, spec = tmp_path_factory.mktemp("vae"), CodecSpec("vae_svd", codec_file.Config(**SIZES))
  params = filled(spec.network.abstract_params, 0.2)
  weights.save(directory, vae_svd, spec.network.config, spec.network.info, by_path(params))
  return directory


def encoded(films, published, out, stored):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vae_svd, "SIZES", {"this": SIZES})
    patch.setattr(latent_files, "STORED", stored)
    encode_build.build(encode_build.Options(str(films), "vae_svd", str(published), batch=3), out)
  return out


@pytest.fixture(scope="module")
def half(films, published, tmp_path_factory):
  return encoded(films, published, tmp_path_factory.mktemp("half") / "latents", np.float16)


@pytest.fixture(scope="module")
def whole(films, published, tmp_path_factory):
  """As `half`, but stored in single precision."""
  return encoded(films, published, tmp_path_factory.mktemp("whole") / "latents", np.float32)


def latent_run(source, path, given, **changes):
  codec = dict(name="vae_svd", weights=None if given is None else str(given), **SIZES)
  base = dict(
    codec=codec, data={"clips": dict(name=source, path=str(path))}, total_steps=2, batch_size=4,
    model__channels=4, model__depth=1, model__patch=(1, 4, 4), checkpoint__save_every_steps=2,
  )  # fmt: skip
  return tiny(**{**base, **EVALUATE, **changes})


def losses(e):
  """The loss of each row of a batch, and the gradient, with all weights filled."""
  task = e.task("clips")
  params = filled(task.model.abstract_params, 0.1)
  codec = Program(e, make_mesh(MeshConfig(data=1), ONE)).create(0).frozen
  rows, keys = stack_examples(task.source, range(4)), jax.random.split(jax.random.key(3), 4)
  rows = jax.tree.map(jnp.asarray, rows)

  def mean(params):
    loss = task.loss(params | codec, rows, keys)[0]
    return loss.mean(), loss

  (_, loss), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
  return loss, gradient


def test_a_step_from_single_precision_moments_equals_one_with_the_codec_in_it(
  films, whole, published
):
  want, got = (
    losses(latent_run(*args, published)) for args in (("clips", films), ("latents", whole))
  )
  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
  assert relative_error(got[1], want[1]) < 1e-5


def test_a_step_from_stored_moments_differs_by_their_rounding_alone(films, half, published):
  want, got = (
    losses(latent_run(*args, published)) for args in (("clips", films), ("latents", half))
  )
  np.testing.assert_allclose(got[0], want[0], rtol=1e-4)
  assert relative_error(got[1], want[1]) < 5e-3


def test_latents_are_drawn_anew_in_training_and_are_means_in_measures(half, published):
  task = latent_run("latents", half, published).task("clips")
  example = task.source.decode(jax.tree.map(jnp.asarray, stack_examples(task.source, [0, 1])))
  one, other = (jax.random.split(jax.random.key(i), 2) for i in (0, 1))
  prepare = lambda keys: task.prepare({}, example, keys)[0]
  np.testing.assert_array_equal(prepare(None), example["latent_mean"])
  assert np.abs(prepare(one) - prepare(other)).max() > 1e-3
  np.testing.assert_array_equal(prepare(one), prepare(one))


@pytest.fixture(scope="module")
def runs(films, half, published, tmp_path_factory):
  """Finished runs on clips and on their latents."""
  place = tmp_path_factory.mktemp("runs")
  made = {}
  for source, path in (("clips", films), ("latents", half)):
    e = latent_run(source, path, published)
    made[source] = place / source, e, train(e, place / source, devices=ONE)
  return made


def test_a_run_on_latents_ends_where_one_on_the_clips_does(runs):
  want, got = (runs[source][2].frozen_loss for source in ("clips", "latents"))
  for name in ("init", "final", "wiener", "zero_model"):
    assert getattr(got, name) == pytest.approx(getattr(want, name), rel=2e-3), name
  step = lambda source: json.loads((runs[source][0] / "metrics.jsonl").read_text().splitlines()[-1])
  assert step("latents")["loss"] == pytest.approx(step("clips")["loss"], rel=2e-3)


def test_samples_are_pixels_beside_what_the_codec_decodes(runs):
  [path] = (runs["latents"][0] / "samples").glob("*.npz")
  with np.load(path) as numbers:
    assert numbers["video"].shape == numbers["truth"].shape == (4, 5, 16, 16, 3)
    assert numbers["truth"].std() > 0


def test_measures_of_true_video_are_left_out_in_words(runs, capsys):
  workdir, e, result = runs["latents"]
  assert result.coherence == {}
  changed = latent_run("latents", e.data["clips"].settings["path"], e.codec.config.weights,
                       evaluate__fvd_clips=2)  # fmt: skip
  finished_run.evaluate(changed, workdir)
  assert "without true video: coherence and FVD are left out" in capsys.readouterr().out
  assert json.loads((workdir / "evaluation.json").read_text())["fvd"] is None
  finished_run.sample(e, workdir)
  assert list((workdir / "samples" / "held_out").glob("*.mp4"))


def test_encoding_is_no_work_of_a_step_on_latents(films, half, published):
  flops = lambda *args: latent_run(*args, published).task("clips").encode_flops
  assert flops("latents", half) == 0 < flops("clips", films)


def test_latents_of_another_codec_are_refused_in_words(half, published):
  with pytest.raises(ConfigError, match="'vae_svd', .* other settings .blocks 1 there, 2 here"):
    latent_run("latents", half, published, codec__blocks=2).task("clips")
  small = dict(name="vae_small", **SMALL)
  with pytest.raises(ConfigError, match="'vae_svd', but the run's codec is 'vae_small': set"):
    latent_run("latents", half, None, codec=small).task("clips")


def test_latents_of_other_parameters_are_refused_before_a_step_is_compiled(
  half, published, tmp_path, monkeypatch
):
  monkeypatch.setattr(Program, "compile", lambda self: pytest.fail("compiled"))
  spec = CodecSpec("vae_svd", codec_file.Config(**SIZES))
  other = jax.tree.map(lambda x: 1.01 * x, filled(spec.network.abstract_params, 0.2))
  weights.save(tmp_path / "vae", vae_svd, spec.network.config, spec.network.info, by_path(other))
  for codec, says in ((tmp_path / "vae", "come from .*vae"), (None, "are random .codec.weights")):
    with pytest.raises(ConfigError, match=f"other parameters .* whose parameters {says}"):
      train(latent_run("latents", half, codec), tmp_path / "run", devices=ONE)
  assert not (tmp_path / "run").exists()


def test_random_parameters_are_accepted_if_they_are_those_that_made_the_latents(half, tmp_path):
  e = latent_run("latents", half, None)
  codec = Program(e, make_mesh(MeshConfig(data=1), ONE)).create(0).frozen
  task = e.task("clips")
  with pytest.raises(ConfigError, match="are random"):
    check_cached([task], codec)
  object.__setattr__(task.source.cached, "params_sha256", params_sha256(codec[CODEC]))
  check_cached([task], codec)


def test_what_needs_pixels_refuses_latents_in_words(half, published, runs):
  edges = latent_run(
    "latents", half, published, model__volumes=(("edges", 1),), model__scalars=("blur",)
  )
  with pytest.raises(ConfigError, match=r"conditions need \['video'\], which the data does not"):
    Program(edges, make_mesh(MeshConfig(data=1), ONE))
  autoencoder = tiny(
    model=dict(name="vae_svd", **SIZES), data={"clips": dict(name="latents", path=str(half))},
    condition={}, codec=dict(name="vae_svd", **SIZES), **EVALUATE,
  )  # fmt: skip
  with pytest.raises(ConfigError, match=r"need \['video'\]"):
    Program(autoencoder, make_mesh(MeshConfig(data=1), ONE))
  workdir, e, _ = runs["latents"]
  with finished_run.opened(e, workdir) as (evaluator, _, _), pytest.raises(ConfigError) as raised:
    evaluator.need_video("cascade")
  assert "holds latents without true video, which cascade needs" in str(raised.value)


def test_a_trained_autoencoder_encodes_clips_for_runs_that_use_it(films, tmp_path):
  e = tiny(
    model=dict(name="vae_small", **SMALL), data={"clips": dict(name="clips", path=str(films))},
    condition={}, total_steps=2, batch_size=4, **EVALUATE,
  )  # fmt: skip
  run, out = tmp_path / "codec", tmp_path / "latents"
  told = train(e, run, devices=ONE).reconstruction
  encode_build.build(encode_build.Options(str(films), str(run), batch=3), out)
  codec = dict(name="vae_small", weights=str(run), **SMALL)
  want, got = (
    losses(latent_run(*args, None, codec=codec, model__patch=(1, 2, 2)))
    for args in (("clips", films), ("latents", out))
  )
  np.testing.assert_allclose(got[0], want[0], rtol=1e-3)
  card = latents.read_card(out)
  assert card["latent"] == [3, 4, 4, 4] and len(told.latent_mean) == 4
  # The experiments that go on from a dataset read their sizes from it.
  made = resolve(from_latents.get_config(str(out)).to_dict())
  assert made.codec.config == dataclasses.replace(tiny(codec=codec).codec.config, weights=None)
  assert made.task("latents").latent_shape == (3, 4, 4, 4) and made.model.config.text == "bytes"
  trained = resolve(codec_experiment.get_config(f"2x4,{films}").to_dict())
  assert list(trained.evaluate.splits) == ["validation"] and trained.learns_codec


@pytest.mark.parametrize("module", [from_latents, codec_experiment])
def test_experiments_on_a_dataset_that_is_not_there_say_how_to_make_it(module, tmp_path):
  arg = str(tmp_path) if module is from_latents else f"4x8,{tmp_path}"
  with pytest.raises(ConfigError, match="make some with `python -m data_pipelines"):
    module.get_config(arg)


def test_a_run_that_trained_no_autoencoder_and_weights_beside_a_run_are_refused(
  films, runs, tmp_path
):
  run = str(runs["clips"][0])
  for given, says in ((None, "has trained dit, which is no autoencoder"), ("x", "leave this out")):
    with pytest.raises(ConfigError, match=says):
      encode_build.build(encode_build.Options(str(films), run, given), tmp_path / "o")
