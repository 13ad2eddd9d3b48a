"""A dataset of clips is encoded once: what is stored, and that kills and parts do not change it."""

import dataclasses
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import beam_tools, clips, data_card, encode, encode_build, latent_files, latents
from tests.golden.make_tokenizer import DATA
from tests.helpers import filled, tiny
from videojax.codecs import vae_svd as codec_file
from videojax.codecs.captions import TextConfig
from videojax.data import stack_examples
from videojax.errors import ConfigError
from videojax.io.integrity import params_sha256
from videojax.io.tokenizer import Tokenizer
from videojax.models import t5, vae_svd
from videojax.modes import generate as mode
from videojax.modes.prompt_examples import Examples
from videojax.modes.prompts import Row
from videojax.runs import text_encoder, weights
from videojax.sharding import MeshConfig, by_path, make_mesh
from videojax.specs import CODEC, CodecSpec, ModelSpec

SIZES = dict(width=8, multipliers=(1, 2), blocks=1, groups=4, channels=4)
TEXT = dict(vocab=400, width=16, depth=1, num_heads=2, head_dim=8, hidden=32, positions="every")
CAPTIONS = ["a red ball", "two cats play in the snow", "", "ü"]
# A batch that does not divide over the suite's fake devices: one device, no collectives.
BATCH, PIECE, TRAIN, HELD_OUT = 3, 4, 18, 3


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A dataset of 18 clips to train on and 3 held out."""
  out = tmp_path_factory.mktemp("data") / "clips"
  rng = np.random.default_rng(0)
  examples = [
    {"video": rng.integers(0, 256, (2, 8, 8, 3), np.uint8), "caption": CAPTIONS[i % 4], "id": 7 * i}
    for i in range(TRAIN + HELD_OUT)
  ]
  splits = {"train": examples[:TRAIN], "validation": examples[TRAIN:]}
  clips.write_clips(out, splits, frames=2, height=8, width=8, fps=5.0, description="noise")
  return out


@pytest.fixture(scope="module", autouse=True)
def published(tmp_path_factory):
  """Published weights of a tiny autoencoder, the only size that --codec=vae_svd knows here."""
  directory = tmp_path_factory.mktemp("vae")
  spec = CodecSpec("vae_svd", codec_file.Config(**SIZES))
  params = filled(spec.network.abstract_params, 0.2)
  weights.save(directory, vae_svd, spec.network.config, spec.network.info, by_path(params))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(vae_svd, "SIZES", {"other": {**SIZES, "width": 16}, "this": SIZES})
    yield directory, spec, params


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """The flags of a tiny umT5 with a real tokenizer, and its parameters."""
  directory, spec = tmp_path_factory.mktemp("t5"), ModelSpec("t5", t5.Config(**TEXT))
  params = filled(spec.abstract_params, 0.3)
  weights.save(directory, t5, spec.config, spec.info, by_path(params))
  told = dict(vocab_size=400, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=32)
  (directory / "config.json").write_text(json.dumps(told))
  flags = ["--text=umt5", f"--text-weights={directory}", f"--tokenizer={DATA / 'spiece.model'}"]
  return [*flags, "--length=6"], spec, params


def flags_of(source, published, out, *more):
  sizes = [f"--batch={BATCH}", f"--piece={PIECE}"]
  codec = ["--codec=vae_svd", f"--weights={published[0]}"]
  return [f"--source={source}", f"--out={out}", *codec, *sizes, *more]


@pytest.fixture(scope="module")
def made(source, published, text, tmp_path_factory):
  """The dataset of one undisturbed command, with captions encoded."""
  out = tmp_path_factory.mktemp("made") / "latents"
  assert encode.main(flags_of(source, published, out, *text[0])) == 0
  return out


def contents(directory: Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in directory.iterdir()}


def moments(source, published, split):
  """(examples, mean, log variance) of a split, by the codec itself."""
  read = clips.Source(clips.Config(str(source), split))
  rows = [read[i] for i in range(len(read))]
  video = read.decode({"video": jnp.stack([row["video"] for row in rows])})["video"]
  codec = published[1].of({CODEC: published[2]})
  return (rows, *map(np.asarray, jax.jit(codec.moments)(video)))


def test_a_latent_is_stored_with_half_precisions_error_and_its_clips_fields(
  source, published, made
):
  for split in ("train", "validation"):
    rows, mean, log_var = moments(source, published, split)
    read = latents.Source(latents.Config(str(made), split))
    assert len(read) == len(rows) and read.shape == (2, 8, 8, 3)
    for i, row in enumerate(rows):
      example = read[i]
      for name, want in (("mean", mean[i]), ("log_var", log_var[i])):
        assert example[name].dtype == np.float16
        np.testing.assert_allclose(example[name], want, rtol=2**-11, atol=1e-5)
      for name in ("id", "fps", "caption"):
        np.testing.assert_array_equal(example[name], row[name])


def test_text_is_stored_at_its_true_length_and_given_padded(text, made):
  ids, mask, cut = Tokenizer.read(DATA / "spiece.model").encode(CAPTIONS, 6)
  want = np.asarray(jax.jit(text[1].network(text[2]))(jnp.asarray(ids), jnp.asarray(mask)))
  source = latents.Source(latents.Config(str(made)))
  rows = [source[i] for i in range(4)]
  example = source.decode({name: jnp.stack([row[name] for row in rows]) for name in rows[0]})
  assert example["text"].shape == (4, 6, 16) and cut == 2
  np.testing.assert_array_equal(example["text_mask"], mask)
  np.testing.assert_allclose(example["text"], want * mask[..., None], rtol=2**-11, atol=1e-5)
  record = source._records[2]  # the empty caption: only the end
  assert len(record["text"]) == 1 * 16 * 2 and record["text_length"] == 1
  cuts = [i % 4 < 2 for i in range(TRAIN + HELD_OUT)]  # the first two of CAPTIONS
  assert source.card["captions_cut"] == sum(cuts)


def test_embeddings_reach_the_model_as_its_text(published, text, made):
  codec = dict(name="vae_svd", weights=str(published[0]), **SIZES)
  task = tiny(
    codec=codec, data={"latents": dict(name="latents", path=str(made))}, model__channels=4,
    model__text=16, model__patch=(1, 2, 2), condition__known_frames=1,
  ).task("latents")  # fmt: skip
  rows = jax.tree.map(jnp.asarray, stack_examples(task.source, range(4)))
  cond = task.prepare({}, task.source.decode(rows))[1]
  assert cond.text.shape == (4, 6, 16) and cond.text_mask.sum(1).tolist() == [6, 6, 1, 3]
  loss = lambda rows: task.loss(
    filled(task.model.abstract_params), rows, jax.random.split(jax.random.key(0), 4)
  )[0]
  other = rows | {"text": rows["text"].at[:, 0].add(1)}
  assert np.abs(jax.jit(loss)(rows) - jax.jit(loss)(other)).max() > 1e-6


def reading(published, text, made):
  """An experiment whose model reads the embeddings, and the settings of their encoder."""
  codec = dict(name="vae_svd", weights=str(published[0]), **SIZES)
  values = (flag.partition("=")[2] for flag in text[0][1:3])
  config = TextConfig(**dict(zip(("weights", "tokenizer"), values)))
  return tiny(
    codec=codec, data={"latents": dict(name="latents", path=str(made))}, model__channels=4,
    model__text=16, model__patch=(1, 2, 2), model__known=None, condition__known_frames=0,
    text=vars(config),
  )  # fmt: skip


def test_prompts_are_embedded_as_the_captions_in_training_were(published, made, text, capsys):
  source = latents.Source(latents.Config(str(made)))
  embedded, _ = text_encoder.embed(reading(published, text, made).text, CAPTIONS, 16, source.text)
  assert "2 of 3 texts are longer than the 6 tokens" in capsys.readouterr().out
  rows = source.decode({name: jnp.asarray(value)[None] for name, value in source[0].items()})
  np.testing.assert_allclose(embedded[CAPTIONS[0]]["text"], rows["text"][0], rtol=2**-10, atol=1e-5)
  np.testing.assert_array_equal(embedded[CAPTIONS[0]]["text_mask"], rows["text_mask"][0])
  assert not embedded[""]["text_mask"].any()


@pytest.mark.parametrize(
  "changes,words",
  [
    (dict(weights=None), "set text.weights"),
    (dict(encoder="t5"), "another text encoder: name umt5 there, t5 here"),
    (dict(length=5), "length 6 there, 5 here"),
    (dict(tokenizer=str(DATA / "tokenizer.json")), "tokenizer_sha256"),
  ],
)
def test_another_text_encoder_than_in_training_is_refused(published, text, made, changes, words):
  source = latents.Source(latents.Config(str(made)))
  config = dataclasses.replace(reading(published, text, made).text, **changes)
  with pytest.raises(ConfigError, match=words):
    text_encoder.embed(config, CAPTIONS, 16, source.text)


def test_clips_follow_prompts_that_the_encoder_reads(published, text, made):
  e, rows = reading(published, text, made), [Row("a red ball"), Row("a blue sea"), Row("")]
  examples = Examples(e.task("latents"))
  examples.check(rows)
  examples.embedded, sha = mode._embedded(e, examples.task, rows)
  assert sha == examples.task.source.text["params_sha256"]
  assert examples.text(["", "a red ball"])["text_mask"].sum(1).tolist() == [0, 6]
  params = filled(e.model.abstract_params) | {CODEC: published[2]}
  clips = [mode._clip({}, row, examples.given(row)) for row in rows]
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  with jax.set_mesh(mesh):
    red, blue, none = (video for _, video, _ in mode._made(e, examples, params, mesh, clips))
  assert min(np.abs(a - b).max() for a, b in ((red, blue), (red, none), (blue, none))) > 1e-4


def test_beam_makes_the_files_that_one_machine_makes(
  source, published, text, made, tmp_path, monkeypatch
):
  """Each piece by a pickled function of a number, as Beam's workers call it."""

  def map_all(function, items, place, arguments):
    assert arguments == ["--runner=DirectRunner"]
    return [pickle.loads(pickle.dumps(function))(json.loads(json.dumps(i))) for i in items]

  monkeypatch.setattr(beam_tools, "map_all", map_all)
  monkeypatch.setattr(beam_tools, "check", lambda *_: None)
  flags = flags_of(source, published, tmp_path / "latents", *text[0], "--beam")
  assert encode.main([*flags, "--", "--runner=DirectRunner"]) == 0
  assert contents(tmp_path / "latents") == contents(made)


@pytest.mark.parametrize(
  "flags,words",
  [(["--", "--runner=x"], "add --beam"), (["--beam", "--out=gs://b"], "directories that every")],
)
def test_flags_of_beam_that_cannot_work_are_refused(source, published, flags, words, capsys):
  with pytest.raises(SystemExit):
    encode.main([*flags_of(source, published, "out"), *flags])
  assert words in capsys.readouterr().err


def test_tfds_opens_it_without_our_code(made):
  code = (
    "import sys, tensorflow_datasets as tfds\n"
    f"b = tfds.builder_from_directory({str(made)!r})\n"
    "s = b.as_data_source('train')\n"
    "print(len(s), s[1]['id'], s[1]['mean'].shape, s[1]['frames'], s[1]['height'])\n"
    "assert 'data_pipelines' not in sys.modules and 'tensorflow' not in sys.modules\n"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["18", "7", "(2,", "4,", "4,", "4)", "2", "8"]


def test_the_card_tells_of_the_codec_and_has_the_statistics_of_each_split(source, published, made):
  card = latents.read_card(made)
  assert card["codec"]["name"] == "vae_svd" and card["codec"]["config"]["width"] == 8
  assert card["codec"]["params_sha256"] == params_sha256(published[2])
  assert card["codec"]["flops_per_clip"] == published[1].encode_flops((2, 8, 8, 3)) > 0
  assert card["source"]["description"] == "noise" and card["source"]["crop"] is None
  for split in ("train", "validation"):
    rows, mean, log_var = moments(source, published, split)
    told = card["statistics"][split]
    assert told["clips"] == len(rows)
    over = (0, 1, 2, 3)
    np.testing.assert_allclose(told["mean"], mean.mean(over, np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["deviation"], mean.std(over, np.float64), rtol=1e-5)
    np.testing.assert_allclose(told["noise"], np.exp(log_var).mean(over, np.float64), rtol=1e-5)


def test_the_crop_rule_is_that_of_the_data_card_of_the_source(source, tmp_path):
  assert "They are {crop}; pixels" in data_card.CARD
  for name, content in contents(source).items():
    (tmp_path / name).write_bytes(content)
  (tmp_path / "README.md").write_text(
    f"Frames are even. They are {data_card.CROP}; pixels are not."
  )
  crop = encode_build._source_card(tmp_path)["crop"]
  assert crop == (
    "scaled by area averaging so that the shorter side fits, and cropped in the centre"
  )


def test_a_damaged_record_of_a_piece_means_that_it_is_encoded_again(
  source, published, made, tmp_path, text
):
  out = tmp_path / "o"
  flags = flags_of(source, published, out, *text[0])
  assert encode.main([*flags, "--part=1/2"]) == 0
  (tmp_path / "o.partial" / "pieces" / "train-00000.json").write_text('{"size": 1')
  for part in ("2/2", "1/2"):
    assert encode.main([*flags, f"--part={part}"]) == 0
  assert contents(out) == contents(made)


@pytest.mark.slow
def test_a_command_killed_three_times_makes_the_files_of_an_undisturbed_one(
  source, published, text, made, tmp_path, monkeypatch
):
  write, flags = (
    encode_build.files.write_json,
    flags_of(source, published, tmp_path / "latents", *text[0]),
  )
  for number in (0, 1, 2):
    left = number

    def dying(path, value):
      nonlocal left
      if path.parent.name == "pieces":
        left -= 1
        if left < 0:  # the piece's file is there, but not the record that it is whole
          raise KeyboardInterrupt
      write(path, value)

    monkeypatch.setattr(encode_build.files, "write_json", dying)
    assert encode.main(flags) == 130
    assert not (tmp_path / "latents").exists()
  monkeypatch.setattr(encode_build.files, "write_json", write)
  done = {p.name for p in (tmp_path / "latents.partial" / "pieces").iterdir()}
  assert len(done) == 0 + 1 + 2
  assert encode.main(flags) == 0
  assert contents(tmp_path / "latents") == contents(made)
  assert [p.name for p in tmp_path.iterdir()] == ["latents"]


CHILD = """
import os, signal, sys
from data_pipelines import encode, encode_build
from videojax.models import vae_svd
sizes, limit = eval(sys.argv[1]), int(sys.argv[2])
vae_svd.SIZES = {"this": sizes}
seen, example = 0, encode_build.Encoding._example
def dying(*args):
  global seen
  seen += 1
  if seen > limit:
    os.kill(os.getpid(), signal.SIGKILL)
  return example(*args)
encode_build.Encoding._example = dying
sys.exit(encode.main(sys.argv[3:]))
"""


def test_a_file_has_the_same_bytes_in_another_process(made, tmp_path):
  code = (
    "import sys; from pathlib import Path\n"
    "from data_pipelines import latent_files, latents\n"
    "made, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
    "records = latents.Source(latents.Config(str(made), 'validation'))._records\n"
    "examples = (records[i] for i in range(len(records)))\n"
    "latent_files.write_piece(out, latents.read_card(made), examples)\n"
  )
  subprocess.run([sys.executable, "-c", code, made, tmp_path / "file"], check=True)
  [stored] = made.glob("latents-validation*")
  assert (tmp_path / "file").read_bytes() == stored.read_bytes()


@pytest.mark.slow
def test_ten_sigkills_in_the_middle_of_pieces_change_no_byte(source, published, text, tmp_path):
  first = tmp_path / "undisturbed"
  whole, flags = (
    flags_of(source, published, out, *text[0]) for out in (first, tmp_path / "latents")
  )
  run = lambda limit, flags: subprocess.run(
    [sys.executable, "-c", CHILD, repr(SIZES), str(limit), *flags], capture_output=True, text=True
  )
  assert (done := run(99, whole)).returncode == 0, done.stderr
  for limit in (1, 3, 5, 2, 6, 1, 5, 7, 2, 1):
    done = run(limit, flags)
    assert done.returncode == -9, done.stderr
  assert run(99, flags).returncode == 0
  assert contents(tmp_path / "latents") == contents(first)


@pytest.mark.slow
def test_two_parts_in_any_order_make_the_files_of_one(
  source, published, text, made, tmp_path, capsys
):
  for out, order in ((tmp_path / "a", "12"), (tmp_path / "b", "21")):
    flags = flags_of(source, published, out, *text[0])
    assert encode.main([*flags, f"--part={order[0]}/2"]) == 0
    assert "pieces are still to be done, by the other parts" in capsys.readouterr().out
    assert not out.exists()
    assert encode.main([*flags, f"--part={order[1]}/2"]) == 0
    assert contents(out) == contents(made)


def test_the_same_command_again_changes_nothing_and_another_one_is_refused(
  source, published, text, made, capsys
):
  before = contents(made)
  assert encode.main(flags_of(source, published, made, *text[0])) == 0
  assert "is up to date" in capsys.readouterr().out
  assert encode.main(flags_of(source, published, made)) == 2
  assert "was made otherwise: text.config.depth was 1, now None" in capsys.readouterr().err
  assert contents(made) == before


def test_unfinished_work_of_another_kind_is_refused(source, published, tmp_path, monkeypatch):
  def stop(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(encode_build, "_encode_piece", stop)
    assert encode.main(flags_of(source, published, tmp_path / "o")) == 130
  options = encode_build.Options(
    str(source), "vae_svd", str(published[0]), frames=1, batch=BATCH, piece=PIECE
  )
  with pytest.raises(ConfigError, match=r"unfinished work of another kind: .*video was \[2, 8"):
    encode_build.build(options, tmp_path / "o")


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (["--codec=vae_sdv"], "is no run directory, and .*did you mean 'vae_svd'"),
    (["--codec=identity"], "nothing to cache"),
    (["--weights=/nowhere"], "codec.weights: .*nowhere"),
    (["--source=/nowhere"], "no directory /nowhere: it should hold a dataset of clips"),
    (["--frames=3"], "clips of 2 frames, but frames=3"),
    (["--batch=0"], "batch=0 must be >= 1"),
  ],
)
def test_what_cannot_be_encoded_is_told_in_words(
  source, published, tmp_path, changes, says, capsys
):
  assert encode.main([*flags_of(source, published, tmp_path / "o"), *changes]) == 2
  assert re.search(says, capsys.readouterr().err)
  assert not list(tmp_path.iterdir())


def test_a_codec_without_weights_and_clips_of_another_size_are_refused(source, published, tmp_path):
  with pytest.raises(ConfigError, match="needs --weights=PATH, its published weights"):
    encode_build.build(encode_build.Options(str(source), "vae_svd"), tmp_path / "o")
  odd = tmp_path / "odd"
  example = {"video": np.zeros((1, 5, 8, 3), np.uint8), "caption": "", "id": 0}
  clips.write_clips(odd, {"train": [example]}, frames=1, height=5, width=8, fps=1.0, description="")
  with pytest.raises(ConfigError, match="a clip of 5x8 does not divide into latent positions"):
    encode_build.build(encode_build.Options(str(odd), "vae_svd", str(published[0])), tmp_path / "o")


def test_numbers_that_half_precision_does_not_hold_are_refused_by_name():
  with pytest.raises(ConfigError, match="mean of clip 3 cannot be stored as float16: .* 70000"):
    latent_files.stored(np.float32([1, 7e4]), "float16", "mean of clip 3")
  with pytest.raises(ConfigError, match="largest magnitude is nan"):
    latent_files.stored(np.float32([np.nan]), "float16", "x")


def test_a_directory_without_latents_or_with_a_damaged_card_is_told_so(source, made, tmp_path):
  with pytest.raises(ConfigError, match="no directory .*missing"):
    latents.Source(latents.Config(str(tmp_path / "missing")))
  with pytest.raises(ConfigError, match=r"holds no latents \(it lacks latents.json\)"):
    latents.Source(latents.Config(str(source)))
  for name, content in contents(made).items():
    (tmp_path / name).write_bytes(content)
  card = json.loads((tmp_path / "latents.json").read_text())
  (tmp_path / "latents.json").write_text(json.dumps(card | {"latent": [2, 4, 4, 5]}))
  with pytest.raises(ConfigError, match="does not fit its latents.json"):
    latents.Source(latents.Config(str(tmp_path)))
  with pytest.raises(ValueError, match="no split 'test'; it has: train, validation"):
    latents.Source(latents.Config(str(made), split="test"))


def test_latents_that_are_certain_are_stored_without_a_variance(
  source, published, tmp_path, monkeypatch
):
  """A log variance of -inf, as Cosmos and TAEHV give, cannot be stored in half precision."""
  monkeypatch.setattr(codec_file.Codec, "certain", True)
  uncertain = codec_file.Codec.moments

  def moments(self, video):
    mean, log_var = uncertain(self, video)
    return mean, jnp.full_like(log_var, -jnp.inf)

  monkeypatch.setattr(codec_file.Codec, "moments", moments)
  assert encode.main(flags_of(source, published, tmp_path / "certain")) == 0
  read = latents.Source(latents.Config(str(tmp_path / "certain")))
  assert not read.card["stochastic"] and "log_var" not in read[0] and "mean" in read[0]
