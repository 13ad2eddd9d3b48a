import json
import shutil
import sys

import numpy as np
import pytest

from tests.golden.make_tokenizer import CAPTIONS, DATA, LENGTHS
from videojax.errors import ConfigError
from videojax.io.tokenizer import BYTES, Tokenizer

FILES = ("tokenizer.json", "spiece.model")
GOLDEN = json.loads((DATA / "golden.json").read_text())


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("file", [*FILES, "bytes"])
def test_tokens_are_those_of_transformers_in_every_script(file, length):
  made = BYTES if file == "bytes" else Tokenizer.read(DATA / file)
  ids, mask, _ = made.encode(CAPTIONS, length)
  assert ids.dtype == np.int32 and mask.dtype == bool
  want = GOLDEN[f"{'byt5' if file == 'bytes' else 't5'} {length}"]
  for i, caption in enumerate(CAPTIONS):
    assert ids[i].tolist() == want["ids"][i], caption
    assert mask[i].tolist() == want["mask"][i], caption


@pytest.mark.parametrize("file", FILES)
def test_captions_longer_than_the_limit_are_counted_and_still_end(file):
  made = Tokenizer.read(DATA / file)
  caption = "two cats play in the snow"
  full = int(made.encode([caption], 100)[1].sum())
  ids, mask, cut = made.encode([caption, "a", caption], full)
  assert cut == 0 and mask[0].all() and ids[0, -1] == made.end
  shorter, mask, cut = made.encode([caption, "a", caption], full - 1)
  assert cut == 2 and mask[0].all() and shorter[0, -1] == made.end
  np.testing.assert_array_equal(shorter[0, :-1], ids[0, : full - 2])
  with pytest.raises(ValueError, match="length=0 must be >= 1"):
    made.encode([caption], 0)


def test_no_captions_give_no_rows():
  for made in (*(Tokenizer.read(DATA / file) for file in FILES), BYTES):
    ids, mask, cut = made.encode([], 5)
    assert ids.shape == mask.shape == (0, 5) and cut == 0


def test_limits_and_padding_that_a_file_asks_for_are_ignored(tmp_path):
  form = json.loads((DATA / "tokenizer.json").read_text())
  form["truncation"] = dict(direction="Left", max_length=3, strategy="LongestFirst", stride=0)
  form["padding"] = dict(
    strategy={"Fixed": 20}, direction="Left", pad_to_multiple_of=None, pad_id=7, pad_type_id=0,
    pad_token="a",
  )  # fmt: skip
  (tmp_path / "tokenizer.json").write_text(json.dumps(form))
  ids, mask, _ = Tokenizer.read(tmp_path / "tokenizer.json").encode(CAPTIONS, 48)
  assert ids.tolist() == GOLDEN["t5 48"]["ids"] and mask.tolist() == GOLDEN["t5 48"]["mask"]


def test_ids_beyond_the_encoders_table_are_refused():
  for file in FILES:
    made = Tokenizer.read(DATA / file)
    assert made.size == 300
    made.check_table(300)
    with pytest.raises(ConfigError, match="ids up to 299, but the .* table has only 299 rows"):
      made.check_table(299)
  BYTES.check_table(384)
  assert BYTES.encode(["\xff" * 3], 9)[0].max() < BYTES.size


# --- what is no tokenizer ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.yaml", "vocab", "."])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
  with pytest.raises(ConfigError, match="must be the file of a tokenizer, tokenizer.json or"):
    Tokenizer.read(tmp_path / name)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(tmp_path, file):
  with pytest.raises(ConfigError, match=f"{file} does not exist"):
    Tokenizer.read(tmp_path / file)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\0junk", b"[1]"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named(tmp_path, file, content):
  (tmp_path / file).write_bytes(content)
  with pytest.raises(ConfigError, match=f"{file} cannot be read as a"):
    Tokenizer.read(tmp_path / file)


@pytest.mark.parametrize("token,other", [("<pad>", "<nothing>"), ("</s>", "<eos>")])
def test_a_tokenizer_of_another_family_is_refused(tmp_path, token, other):
  text = (DATA / "tokenizer.json").read_text().replace(f'"{token}"', f'"{other}"')
  (tmp_path / "tokenizer.json").write_text(text)
  with pytest.raises(ConfigError, match="is not a tokenizer of T5"):
    Tokenizer.read(tmp_path / "tokenizer.json")


def test_a_sentencepiece_model_without_padding_is_refused(tmp_path):
  import sentencepiece

  with open(tmp_path / "spiece.model", "wb") as out:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CAPTIONS), model_writer=out, vocab_size=60, minloglevel=2
    )
  with pytest.raises(ConfigError, match="its <pad> must be token 0"):
    Tokenizer.read(tmp_path / "spiece.model")


@pytest.mark.parametrize(
  "file,package", [("tokenizer.json", "tokenizers"), ("spiece.model", "sentencepiece")]
)
def test_without_its_package_a_file_is_refused_with_the_command_that_installs_it(
  monkeypatch, tmp_path, file, package
):
  shutil.copy(DATA / file, tmp_path / file)
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ConfigError, match=rf"{package} is not installed.*'videojax\[text\]'"):
    Tokenizer.read(tmp_path / file)
