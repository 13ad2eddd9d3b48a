"""Published weights: what is no finite floating-point tensor of the download is refused by name."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from videojax.errors import ConfigError
from videojax.io.tensors import INDEX, Tensors, write
from videojax.measures import i3d

V = np.array([1.5, -2.0, 3.25], np.float32)


def raw(path, dtype, value):
  """A safetensors file of one tensor 'x' of any type."""
  head = {"x": {"dtype": dtype, "shape": list(value.shape), "data_offsets": [0, value.nbytes]}}
  text = json.dumps(head).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + value.tobytes())
  return path


@pytest.mark.parametrize(
  "dtype,kind", [("F64", float), ("F32", "f4"), ("F16", "f2"), ("BF16", ml_dtypes.bfloat16)]
)
def test_floating_point_tensors_come_in_float32(tmp_path, dtype, kind):
  got = Tensors(raw(tmp_path / "a.safetensors", dtype, V.astype(kind))).read("x")
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, V)


@pytest.mark.parametrize(
  "dtype,kind",
  [
    ("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2),
    ("F8_E8M0", "u1"), ("I8", "i1"), ("U16", "u2"), ("I64", "i8"), ("BOOL", "?"), ("C64", "c8"),
  ],
)  # fmt: skip
def test_quantized_and_integer_tensors_are_refused_by_name(tmp_path, dtype, kind):
  tensors = Tensors(raw(tmp_path / "a.safetensors", dtype, np.abs(V).astype(kind)))
  with pytest.raises(ConfigError, match=f"tensor x of .*a.safetensors has type {dtype}"):
    tensors.read("x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, value):
  tensors = Tensors(raw(tmp_path / "a.safetensors", "F64", np.array([1.0, value])))
  with pytest.raises(ConfigError, match="tensor x of .*a.safetensors: 1 of 2 values are not"):
    tensors.read("x")


INDICES = [
  "", "[]", "null", "5", '"text"', "{}", '{"weight_map": null}', '{"weight_map": []}', "[" * 10**5,
  b'{"weight_map": {"x": "\xff"}}',
  '{"weight_map": {}}', '{"weight_map": {"x": NaN}}', b"\xff\xfe",
  *(json.dumps({"weight_map": {"x": name}}) for name in (
    5, None, [], {}, "", ".", "..", "../out.safetensors", "sub/../../out.safetensors", "/a",
    "./a.safetensors", "a\0b", "missing.safetensors", "x" * 5000,
  )),
]  # fmt: skip


@pytest.mark.parametrize("text", INDICES, ids=range(len(INDICES)))
def test_index_of_another_form_is_refused_and_names_files_beside_it_only(tmp_path, text):
  save_file({"x": V}, tmp_path / "out.safetensors")
  (tmp_path / "model").mkdir()
  save_file({"x": V}, tmp_path / "model" / "a.safetensors")
  index = tmp_path / "model" / f"diffusion_pytorch_model.safetensors{INDEX}"
  index.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(ConfigError, match="model"):
    Tensors(tmp_path / "model")
  index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
  np.testing.assert_array_equal(Tensors(tmp_path / "model").read("x"), V)


def test_directory_of_transformers_is_read_by_its_index_whatever_the_files_are_called(tmp_path):
  shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  for name, file in zip("xy", shards):
    write(tmp_path / file, {name: V})
  with pytest.raises(ConfigError, match="2 safetensors files: name one of model-00001-of-00002"):
    Tensors(tmp_path)
  index = {"weight_map": dict(zip("xy", shards))}
  (tmp_path / f"model.safetensors{INDEX}").write_text(json.dumps(index))
  np.testing.assert_array_equal(Tensors(tmp_path).read("y"), V)


def test_files_of_an_index_may_be_links_as_in_hugging_faces_cache(tmp_path):
  save_file({"x": V}, tmp_path / "blob")
  (tmp_path / "model").mkdir()
  (tmp_path / "model" / "a.safetensors").symlink_to(tmp_path / "blob")
  index = tmp_path / "model" / f"m.safetensors{INDEX}"
  index.write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
  np.testing.assert_array_equal(Tensors(index).read("x"), V)


@pytest.mark.parametrize(
  "name,content,words",
  [
    ("weights.ckpt", b"", "is a pickle"),
    ("WEIGHTS.PT", b"", "is a pickle"),
    ("weights.safetensors", b"damaged", "cannot be read as safetensors"),
    ("weights.safetensors", b"", "cannot be read as safetensors"),
    ("weights.safetensors", b"\2" + bytes(7) + b"[]", "cannot be read as safetensors"),
    ("nothing.here", None, "there is no such file"),
    ("n\0thing", None, "there is no such file"),
    ("n" * 5000, None, "there is no such file"),
  ],
)
@pytest.mark.parametrize("reader", [Tensors, i3d.load])
def test_files_that_cannot_be_used_are_named(tmp_path, name, content, words, reader):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises(ConfigError, match=words):
    reader(tmp_path / name)


def test_a_pipe_a_device_or_a_directory_named_as_weights_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "pipe.safetensors")
  (tmp_path / "folder.safetensors").mkdir()
  index = tmp_path / f"m.safetensors{INDEX}"
  index.write_text(json.dumps({"weight_map": {"x": "folder.safetensors"}}))
  for path in (tmp_path / "pipe.safetensors", tmp_path, index):
    with pytest.raises(ConfigError, match="not a regular file|name one of|has . safetensors files"):
      Tensors(path)
  os.mkfifo(tmp_path / f"p{INDEX}")
  for path in (tmp_path / f"p{INDEX}", type(tmp_path)("/dev/zero")):
    with pytest.raises(ConfigError, match="not a regular file"):
      Tensors(path)


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path):
  (tmp_path / "a.safetensors").mkdir()
  with pytest.raises(ConfigError, match="a.safetensors cannot be written"):
    write(tmp_path / "a.safetensors", {"x": V})
  assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
