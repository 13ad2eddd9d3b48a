"""Captions of a folder: each reaches its file whole, or the row that is wrong is named."""

import json
from pathlib import Path

import pytest

from data_pipelines import captions
from videojax.errors import ConfigError


def read(folder: Path, texts: dict[str, bytes | str], *media: str) -> dict[str, str]:
  """The captions of a folder with these files."""
  for name, text in texts.items():
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
  return captions.read_captions(folder, [*texts, *(media or ("a.mp4",))])[0]


def row(caption: object, file: object = "a.mp4") -> str:
  return json.dumps({"file": file, "caption": caption}) + "\n"


@pytest.mark.parametrize(
  ("name", "text", "caption"),
  [
    ("captions.csv", 'file,caption\na.mp4,"a dog, running"\n', "a dog, running"),
    (
      "captions.csv",
      'caption,seconds,file\n"two\nlines ""quoted""",3,a.mp4\n',
      'two\nlines "quoted"',
    ),
    ("captions.csv", "\ufefffile,caption\r\n\r\na.mp4,ünder\r\n", "ünder"),
    ("captions.jsonl", "\n" + row("two\u2028lines") + "\n", "two\u2028lines"),
    ("captions.jsonl", "\ufeff" + row(""), ""),
    ("captions.jsonl", row(" x ", "./a.mp4"), "x"),
    ("a.txt", "\ufeff a cat\n", "a cat"),
  ],
)
def test_a_caption_reaches_its_file_whole(tmp_path: Path, name: str, text: str, caption: str):
  assert read(tmp_path, {name: text}) == {"a.mp4": caption}


@pytest.mark.parametrize(
  ("name", "text", "says"),
  [
    ("captions.csv", "file,caption\n\na.mp4,a red car, driving\n", "row 3: 3 cells, wanted 2"),
    ("captions.csv", "file,caption\na.mp4\n", "row 2: 1 cells"),
    (
      "captions.csv",
      "file,caption\na.mp4,x\na.mp4,x\n",
      "row 3: 'a.mp4' already has a caption, from .* row 2",
    ),
    ("captions.csv", "file,caption,caption\na.mp4,x,y\n", "row 1: wanted the columns"),
    ("captions.csv", "file;caption\na.mp4;x\n", "row 1: wanted .* found .'file;caption'"),
    ("captions.csv", "File,Caption\na.mp4,x\n", "row 1: wanted the columns"),
    ("captions.csv", "", "is empty"),
    ("captions.csv", 'file,caption\na.mp4,"never closed\nb.mp4,y\n', "row 2: unexpected end"),
    ("captions.csv", f"file,caption\na.mp4,{'x' * 131_073}\n", "row 2: field larger"),
    ("captions.csv", "file,caption\na.mp4,x\0y\n", "row 2: a null byte"),
    ("captions.csv", "file,caption\na.mp4,caf\xe9\n".encode("latin-1"), "line 2, byte 22"),
    ("captions.csv", "file,caption\na.mp4,x\n".encode("utf-16"), "not UTF-8 text .line 1"),
    ("captions.csv", "file,caption\na.mp4,x\n".encode("utf-16-le"), "row 1: "),
    (
      "captions.jsonl",
      row("x") + row("y", "./a.mp4"),
      "line 2: './a.mp4' already has a caption, from .* line 1",
    ),
    ("captions.jsonl", row(["a cat", "a feline"]), "line 1: the caption is .'a cat', 'a feline'"),
    ("captions.jsonl", row(0), "the caption is 0, wanted text"),
    ("captions.jsonl", row(None), "the caption is None"),
    ("captions.jsonl", row({"en": "x"}), "the caption is {'en'"),
    ("captions.jsonl", row("x", 7), "`file` is 7"),
    ("captions.jsonl", row("x", ""), "`file` is ''"),
    ("captions.jsonl", row("half \ud83d"), "line 1: a lone surrogate"),
    ("captions.jsonl", row("x" * 131_072), "line 1: the caption has 131072 characters"),
    ("captions.jsonl", "[]\n", "line 1: wanted the columns"),
    ("captions.jsonl", row("x") + "[" * 100_000 + "\n", "line 2 is damaged"),
    ("captions.jsonl", '{"file": "a.mp4", "caption": NaN}\n', "line 1 is damaged"),
    ("a.txt", b"caf\xe9", "a.txt is not UTF-8 text .line 1, byte 3"),
    ("a.txt", "x" * 131_072, "a.txt: the caption has 131072"),
    ("a.txt", "x\0y", "a.txt: a null byte"),
  ],
)
def test_what_is_no_row_of_one_file_and_its_caption_is_named(
  tmp_path: Path, name: str, text: bytes | str, says: str
):
  with pytest.raises(ConfigError, match=says) as caught:
    read(tmp_path, {name: text})
  assert str(tmp_path / name) in str(caught.value)


def test_tables_in_two_folders_do_not_overwrite_each_other(tmp_path: Path):
  texts = {"captions.jsonl": row("above", "sub/a.mp4"), "sub/captions.jsonl": row("below")}
  with pytest.raises(
    ConfigError, match="sub/captions.jsonl, line 1: 'a.mp4' already has a caption"
  ):
    read(tmp_path, texts, "sub/a.mp4")


def test_captions_of_what_is_no_film_are_said(tmp_path: Path):
  (tmp_path / "captions.jsonl").write_text(row("x", "gone.mp4") + row("y", "a.txt"))
  (tmp_path / "a.txt").write_text("z")
  found, lost = captions.read_captions(tmp_path, ["captions.jsonl", "a.txt", "a.mp4"])
  assert found == {"a.mp4": "z"} and lost == ["a.txt", "gone.mp4"]
