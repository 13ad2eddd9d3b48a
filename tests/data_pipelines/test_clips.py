"""The format of clips on disk: what is written is read, and nothing is half written."""

import concurrent.futures
import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from data_pipelines import clips
from videojax import data
from videojax.errors import ConfigError


def make_videos(count: int, frames: int = 4, size: int = 8, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, frames, size, size, 3), np.uint8)  # [N,T,H,W,C]


def write(out: Path, videos: np.ndarray, **changes) -> dict[str, int]:
  examples = [
    {"video": video, "caption": f"clip {i}", "id": 1000 + i, "fps": 8.0 + i}
    for i, video in enumerate(videos)
  ]
  frames, size = videos.shape[1:3]
  splits = {"train": examples[:-2], "validation": examples[-2:]}
  keywords = {
    "frames": frames, "height": size, "width": size, "fps": 8.0, "description": "noise"
  } | changes  # fmt: skip
  return clips.write_clips(out, splits, **keywords)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
  out = tmp_path_factory.mktemp("data") / "clips"
  videos = make_videos(7)
  assert write(out, videos) == {"train": 5, "validation": 2}
  return out, videos


def test_a_clip_is_read_as_it_was_written(dataset: tuple[Path, np.ndarray]):
  out, videos = dataset
  source = clips.Source(clips.Config(str(out), caption_bytes=8))
  assert len(source) == 5 and source.shape == (4, 8, 8, 3) and source.finite
  example = source[3]
  np.testing.assert_array_equal(example["video"], videos[3])
  assert example["video"].dtype == np.uint8
  assert example["caption"].tobytes() == b"clip 3\0\0"
  assert example["fps"] == 11 and example["fps"].dtype == np.float32
  assert example["id"] == 1003 and example["id"].dtype == np.uint32


def test_tfds_reads_it_without_our_code_and_without_tensorflow(dataset: tuple[Path, np.ndarray]):
  out, videos = dataset
  code = (
    "import sys, tensorflow_datasets as tfds\n"
    f"b = tfds.builder_from_directory({str(out)!r})\n"
    "s = b.as_data_source('validation')\n"
    "print(len(s), s[1]['id'], int(s[1]['video'].sum()), b.info.metadata['fps'])\n"
    "assert 'tensorflow' not in sys.modules and 'data_pipelines' not in sys.modules\n"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.split() == ["2", "1006", str(videos[6].sum()), "8.0"]


def test_the_largest_id_survives_and_a_split_can_be_sliced(tmp_path: Path):
  video = make_videos(1)[0]
  examples = [{"video": video, "caption": "", "id": i} for i in (2**32 - 1, 0)]
  clips.write_clips(
    tmp_path / "c", {"train": examples}, frames=4, height=8, width=8, fps=5.0, description=""
  )
  source = clips.Source(clips.Config(str(tmp_path / "c"), split="train[:50%]", frames=3))
  assert len(source) == 1
  assert source[0]["id"] == 2**32 - 1 and source[0]["fps"] == 5


def test_decode_maps_black_to_minus_one_and_white_to_one(dataset: tuple[Path, np.ndarray]):
  source = clips.Source(clips.Config(str(dataset[0])))
  carried = {
    "video": np.array([[0, 255]], np.uint8).reshape(1, 1, 1, 2, 1),
    "id": np.ones(1, np.uint32),
  }
  batch = jax.jit(source.decode)(carried)
  assert batch["video"].dtype == np.float32
  np.testing.assert_allclose(batch["video"].ravel(), [-1, 1], atol=1e-6)
  np.testing.assert_array_equal(batch["id"], [1])


def test_fewer_frames_are_the_first_ones(dataset: tuple[Path, np.ndarray]):
  out, videos = dataset
  source = clips.Source(clips.Config(str(out), frames=2))
  assert source.shape == (2, 8, 8, 3)
  np.testing.assert_array_equal(source[0]["video"], videos[0, :2])


def test_threads_read_the_same_as_one_thread(dataset: tuple[Path, np.ndarray]):
  out, videos = dataset
  source = clips.Source(clips.Config(str(out)))
  order = np.random.default_rng(0).integers(0, 5, 400).tolist()
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    read = list(pool.map(source.__getitem__, order))
  for index, example in zip(order, read):
    np.testing.assert_array_equal(example["video"], videos[index])


def test_a_source_can_be_sent_to_another_process(dataset: tuple[Path, np.ndarray]):
  source = pickle.loads(pickle.dumps(clips.Source(clips.Config(str(dataset[0])))))
  np.testing.assert_array_equal(source[1]["video"], dataset[1][1])


def test_videos_are_stored_as_bytes_and_not_as_lists_of_integers(
  dataset: tuple[Path, np.ndarray],
):
  features = json.loads((dataset[0] / "features.json").read_text())["featuresDict"]["features"]
  assert features["video"]["tensor"]["encoding"] == "bytes"


@pytest.mark.parametrize(
  ("caption", "length", "stored"),
  [
    ("abc", 5, b"abc\0\0"),
    ("abc", 2, b"ab"),
    ("", 3, b"\0\0\0"),
    ("aüb", 2, b"a\0"),
    ("a", 0, b""),
  ],
)
def test_a_caption_is_cut_at_a_whole_character(caption: str, length: int, stored: bytes):
  assert data.encode_caption(caption.encode(), length).tobytes() == stored


@pytest.mark.parametrize(
  ("break_it", "says"),
  [
    (lambda e: e.update(video=e["video"][:-1]), r"video is uint8\(3, 8, 8, 3\), wanted uint8\(4"),
    (lambda e: e.update(video=e["video"].astype(float)), "video is float64"),
    (lambda e: e.update(id=7), "another clip has this id"),
    (lambda e: e.update(id=-1), "from 0 to 2"),
  ],
)
def test_an_example_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, break_it, says: str):
  video = make_videos(1)[0]
  examples = [{"video": video, "caption": "", "id": i} for i in (7, 8)]
  break_it(examples[1])
  with pytest.raises(ValueError, match=says):
    clips.write_clips(
      tmp_path / "c", {"train": examples}, frames=4, height=8, width=8, fps=5.0, description=""
    )
  assert not list(tmp_path.iterdir())


def test_an_empty_split_and_a_directory_in_use_are_refused(tmp_path: Path):
  keywords = {"frames": 1, "height": 2, "width": 2, "fps": 1.0, "description": ""}
  with pytest.raises(ValueError, match="split 'train' has no clips"):
    clips.write_clips(tmp_path / "c", {"train": []}, **keywords)
  assert not list(tmp_path.iterdir())
  (tmp_path / "mine.txt").write_text("mine")
  with pytest.raises(ValueError, match="already exists"):
    clips.write_clips(tmp_path, {"train": []}, **keywords)
  assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    ({"split": "test"}, "no split 'test'; it has: train, validation"),
    ({"frames": 5}, "clips of 4 frames, but frames=5"),
    ({"size": 16}, r"clips of 8x8 pixels \(HxW\), but size=16"),
    ({"frames": 0}, "frames=0 must be >= 1, or None"),
    ({"caption_bytes": -1}, "caption_bytes=-1 must be >= 0"),
  ],
)
def test_a_config_that_does_not_fit_the_data_is_told_so(
  dataset: tuple[Path, np.ndarray], changes: dict, says: str
):
  with pytest.raises(ValueError, match=says):
    clips.Source(clips.Config(str(dataset[0]), **changes))


def test_a_directory_without_clips_is_told_so(tmp_path: Path):
  def error(path: Path) -> str:
    with pytest.raises(ValueError) as caught:
      clips.Source(clips.Config(str(path)))
    return str(caught.value)

  assert "no directory" in error(tmp_path / "missing")
  assert "is empty" in error(tmp_path)
  (tmp_path / "a.txt").write_text("hello")
  assert "not a tfds dataset" in error(tmp_path)
  for name in ("dataset_info.json", "features.json"):
    (tmp_path / name).write_text("{")
  assert "features.json is damaged" in error(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path):
  write(tmp_path / "c", make_videos(4))
  (tmp_path / "c" / "clips-train.array_record-00000").unlink()
  with pytest.raises(ValueError, match="damaged: clips-train.array_record-00000 is missing"):
    clips.Source(clips.Config(str(tmp_path / "c")))
  assert len(clips.Source(clips.Config(str(tmp_path / "c"), split="validation"))) == 2


def _edit(path: Path, change) -> None:
  value = json.loads(path.read_text())
  change(value)
  path.write_text(json.dumps(value))


def _class(name: str) -> dict:
  return {"pythonClassName": name, "tensor": {"dtype": "uint8", "shape": {}}}


EVIL = "evil_features.Feature"
SEQUENCE = "tensorflow_datasets.core.features.sequence_feature.Sequence"


@pytest.mark.parametrize(
  "change",
  [
    lambda f: f.update(pythonClassName=EVIL),
    lambda f: f["featuresDict"]["features"]["video"].update(pythonClassName=EVIL),
    lambda f: f["featuresDict"]["features"].update(more=_class(EVIL)),
    lambda f: f["featuresDict"]["features"].update(more={"python_class_name": EVIL, "text": {}}),
    lambda f: f["featuresDict"]["features"].update(
      more={"pythonClassName": SEQUENCE, "sequence": {"feature": _class(EVIL)}}
    ),
    lambda f: f.update(type=EVIL, content={}),
    lambda f: f["featuresDict"]["features"]["fps"]["tensor"].update(dtype=EVIL),
    lambda f: f["featuresDict"]["features"]["fps"].update(
      featuresDict={"features": {"x": _class(EVIL)}}
    ),
  ],
)
def test_a_dataset_imports_no_code(tmp_path: Path, monkeypatch, change):
  write(tmp_path / "c", make_videos(4))
  (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
  monkeypatch.syspath_prepend(tmp_path)
  _edit(tmp_path / "c" / "features.json", change)
  with pytest.raises(ConfigError, match="features.json"):
    clips.Source(clips.Config(str(tmp_path / "c")))
  assert not (tmp_path / "ran").exists() and "evil_features" not in sys.modules


def test_the_module_that_a_dataset_names_is_not_imported(tmp_path: Path, monkeypatch):
  write(tmp_path / "c", make_videos(4))
  (tmp_path / "evil_module.py").write_text("raise SystemExit\n")
  monkeypatch.syspath_prepend(tmp_path)
  _edit(tmp_path / "c" / "dataset_info.json", lambda i: i.update(moduleName="evil_module"))
  source = pickle.loads(pickle.dumps(clips.Source(clips.Config(str(tmp_path / "c")))))
  assert source[0]["id"] == 1000 and "evil_module" not in sys.modules


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (lambda i: i.update(name="../other/clips"), "which is not a file name"),
    (lambda i: i["splits"][0].update(filepathTemplate="../{SPLIT}"), "which is not a file name"),
    (
      lambda i: i["splits"][0].update(filepathTemplate="{SPLIT:>999999999}"),
      "which is not a file name",
    ),
    (
      lambda i: i["splits"][0].update(filepath_template="/etc/passwd"),
      "unknown field 'filepath_template'",
    ),
    (lambda i: i["splits"][0].update(name="../x"), "which is not a file name"),
    (lambda i: i["splits"][0].update(shardLengths=["4"]), "holds 2 records, but .* says 4"),
    (lambda i: i["splits"][0].update(shardLengths=[-1]), "whole numbers"),
    (lambda i: i["splits"][0].update(shardLengths=[]), "no clips in it"),
    (lambda i: i.update(fileFormat="tfrecord"), "wanted 'array_record'"),
    (lambda i: i.update(splits=None), "wanted `splits`"),
    (lambda i: i.update(version="new"), "cannot be read as a tfds dataset"),
    (lambda i: i.update(unknown=1), "cannot be read as a tfds dataset"),
  ],
)
def test_what_a_dataset_says_of_its_files_is_checked(tmp_path: Path, change, says: str):
  write(tmp_path / "c", make_videos(4))
  _edit(tmp_path / "c" / "dataset_info.json", change)
  with pytest.raises(ValueError, match=says):
    clips.Source(clips.Config(str(tmp_path / "c")))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 100_000, "\x00"])
def test_files_that_are_no_json_object_are_named(tmp_path: Path, text: str):
  for name in ("features.json", "dataset_info.json", "metadata.json"):
    out = tmp_path / name.replace(".", "")
    write(out, make_videos(4))
    (out / name).write_text(text)
    if name == "metadata.json" and text in ("null", "[]"):
      continue  # nothing of it is used
    with pytest.raises(ConfigError, match=name):
      clips.Source(clips.Config(str(out)))


@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_a_shard_that_is_cut_short_is_named_when_it_is_opened(tmp_path: Path, share: float):
  write(tmp_path / "c", make_videos(40, 8, 32))
  shard = tmp_path / "c" / "clips-train.array_record-00000"
  shard.write_bytes(shard.read_bytes()[: int(shard.stat().st_size * share)])
  with pytest.raises(ConfigError, match="clips-train.array_record-00000 is truncated"):
    clips.Source(clips.Config(str(tmp_path / "c")))


def test_a_damaged_record_is_one_line_with_its_shard_in_the_loaders_threads_too(tmp_path: Path):
  write(tmp_path / "c", make_videos(40, 8, 32))
  shard = tmp_path / "c" / "clips-train.array_record-00000"
  damaged = bytearray(shard.read_bytes())
  damaged[200_000:200_100] = bytes(100)
  shard.write_bytes(damaged)
  source = clips.Source(clips.Config(str(tmp_path / "c")))
  loader = data.Loader({"c": source}, [1], batch_size=4, seed=0)
  with pytest.raises(ConfigError, match="array_record-00000 is damaged") as caught:
    list(zip(range(20), loader.batches()))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("name", "dtype"), [("video", "int8"), ("id", "int64"), ("fps", "float64")]
)
def test_numbers_of_another_type_are_not_taken_for_pixels(tmp_path: Path, name: str, dtype: str):
  write(tmp_path / "c", make_videos(4))
  _edit(
    tmp_path / "c" / "features.json",
    lambda f: f["featuresDict"]["features"][name]["tensor"].update(dtype=dtype),
  )
  with pytest.raises(ConfigError, match=f"wanted video uint8.*found .*{name} {dtype}"):
    clips.Source(clips.Config(str(tmp_path / "c")))


def test_a_full_disk_leaves_one_line_and_no_dataset(tmp_path: Path):
  """Files of at most 100 kB stand for it."""
  code = (
    "import resource, sys, numpy as np\n"
    "from data_pipelines import clips\n"
    "from videojax.errors import ConfigError\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    "video = np.random.default_rng(0).integers(0, 255, (400, 1, 16, 16, 3), np.uint8)\n"
    "examples = [dict(video=v, caption='', id=i) for i, v in enumerate(video)]\n"
    "size = dict(frames=1, height=16, width=16, fps=1.0, description='')\n"
    "try:\n"
    f"  clips.write_clips({str(tmp_path / 'c')!r}, dict(train=examples), **size)\n"
    "except ConfigError as error:\n"
    "  print(error)\n"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert "cannot be written" in done.stdout and "File too large" in done.stdout
  assert not list(tmp_path.iterdir())
