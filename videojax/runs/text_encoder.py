"""The frozen text encoder of a run: T5 or umT5 with its tokenizer, on this machine's devices.

Shapes: B batch, L text tokens, D their width.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from videojax.codecs.cached import config_json
from videojax.codecs.captions import ENCODERS, TextCard, TextConfig
from videojax.errors import ConfigError
from videojax.io import schema
from videojax.io.integrity import params_sha256
from videojax.io.tokenizer import Tokenizer
from videojax.models import t5
from videojax.runs import weights
from videojax.runs.run_state import placed
from videojax.scaling import flops
from videojax.sharding import by_path, local_mesh, path_name, put_batch
from videojax.specs import ModelSpec

BATCH = 8  # prompts that are encoded together


class Published(TypedDict):
  """What a config.json of transformers says of an encoder's sizes."""

  vocab_size: int
  d_model: int
  num_layers: int
  num_heads: int
  d_kv: int
  d_ff: int


class TextEncoder:
  """T5 or umT5 with its tokenizer, on the devices of a mesh.

  Args:
    config: all of its settings are given.
    mesh: of the devices.
  Attributes:
    card: what it is.

  Raises:
    ConfigError: a setting is missing; or weights or tokenizer are missing, damaged, or do not fit
      each other.
  """

  def __init__(self, config: TextConfig, mesh: Mesh):
    missing = [f"text.{name}" for name, value in vars(config).items() if value is None]
    if missing:
      raise ConfigError(f"to encode texts, set {', '.join(missing)}")
    assert config.encoder and config.weights and config.tokenizer and config.length
    path, tokenizer = Path(config.weights), Path(config.tokenizer)
    self.config, self.length, self._mesh = _sizes(config.encoder, path), config.length, mesh
    self._tokenizer = Tokenizer.read(tokenizer)
    self._tokenizer.check_table(self.config.vocab)
    spec = ModelSpec("t5", self.config)
    abstract = placed(spec, mesh)
    have = weights.load(path, spec.module, spec.config, spec.info, by_path(abstract))
    self._params = jax.tree_util.tree_map_with_path(lambda p, _: have[path_name(p)], abstract)
    run = lambda params, tokens, mask: spec.network(params)(tokens, mask)
    self._run = jax.jit(run)
    row = jax.ShapeDtypeStruct((1, self.length), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, self.length), jnp.bool_)
    products = flops.trace(run, abstract, row, mask)
    self.card: TextCard = {
      "name": config.encoder,
      "config": config_json(self.config),
      "params_sha256": params_sha256(self._params),
      "tokenizer_sha256": hashlib.sha256(tokenizer.read_bytes()).hexdigest(),
      "length": self.length,
      "width": self.config.width,
      "flops_per_clip": flops.forward(products)["total"],
    }

  def __call__(self, captions: Sequence[str]) -> tuple[list[Float[np.ndarray, "_ D"]], int]:
    """Embeddings of each caption's own tokens, and how many captions were cut."""
    ids, mask, cut = self._tokenizer.encode(captions, self.length)  # [B,L]
    place = lambda x: put_batch(x, self._mesh, len(captions))
    found = jax.device_get(self._run(self._params, place(ids), place(mask)))  # [B,L,D]
    return [row[:n] for row, n in zip(found, mask.sum(1))], cut


Embedded = Mapping[str, np.ndarray]  # `text` [L,D], zero padded, and `text_mask` [L]


def embed(
  config: TextConfig, texts: Sequence[str], width: int, trained: TextCard | None
) -> tuple[dict[str, Embedded], TextCard]:
  """Embeds texts with the encoder that a model was trained with, and frees it again.

  Prints how many texts were cut.

  Args:
    config: of the encoder.
    width: of the embeddings that the model reads.
    trained: what encoded the captions of the training data, if that is known.
  Returns: the embedding of each text, with '' masked everywhere; and what made them.
  Raises:
    ConfigError: see TextEncoder; or it is another encoder than the one in training.
  """
  if trained is not None:
    name, length = config.encoder or trained["name"], config.length or trained["length"]
    config = dataclasses.replace(config, encoder=name, length=length)
  encoder = TextEncoder(config, local_mesh(BATCH))
  if trained is not None:
    _check_same(encoder.card, trained)
  if encoder.config.width != width:
    raise ConfigError(
      f"text: the encoder's embeddings are {encoder.config.width} wide, but the model reads {width}"
    )
  length = encoder.length
  out: dict[str, Embedded] = {
    "": {"text": np.zeros((length, width), np.float32), "text_mask": np.zeros(length, bool)}
  }
  words, cuts = [text for text in dict.fromkeys(texts) if text], 0
  for start in range(0, len(words), BATCH):
    part = words[start : start + BATCH]
    found, cut = encoder([*part, *[""] * (BATCH - len(part))])
    cuts += cut
    for text, rows in zip(part, found):
      padded = np.pad(np.asarray(rows, np.float32), ((0, length - len(rows)), (0, 0)))
      out[text] = {"text": padded, "text_mask": np.arange(length) < len(rows)}
  if cuts:
    print(
      f"{cuts} of {len(words)} texts are longer than the {length} tokens that the model reads, and "
      "are cut there"
    )
  return out, encoder.card


def _check_same(own: TextCard, trained: TextCard) -> None:
  """Raises ConfigError unless the encoder is the one in training."""
  differing = [name for name in trained if own.get(name) != trained.get(name)]
  if differing:
    told = (f"{name} {_brief(trained, name)} there, {_brief(own, name)} here" for name in differing)
    raise ConfigError(f"text: the model was trained with another text encoder: {'; '.join(told)}")


def _brief(card: TextCard, name: str) -> str:
  text = str(card.get(name))
  return f"{text[:12]}..." if name.endswith("sha256") else text


def _sizes(name: str, path: Path) -> t5.Config:
  """The sizes of an encoder: of its config.json, or the published ones."""
  size: dict[str, Any] = dict(t5.SIZES[ENCODERS[name]])
  file = (path if path.is_dir() else path.parent) / "config.json"
  if file.exists():
    read = schema.read_as(file, Published)
    size |= dict(
      vocab=read["vocab_size"], width=read["d_model"], depth=read["num_layers"],
      num_heads=read["num_heads"], head_dim=read["d_kv"], hidden=read["d_ff"],
    )  # fmt: skip
  try:
    return t5.Config(**size)
  except ValueError as error:
    raise ConfigError(f"{file}: {error}") from None
