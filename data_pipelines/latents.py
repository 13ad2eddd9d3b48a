"""Clips that a codec has encoded before (`encode`): training does not encode them again.

The moments of a clip take the place of its video. A latent is drawn from them in each step with the
key of its row, as the codec in the step would draw it.

Shapes: B batch, L text tokens, D their width, t h w latent frames, height and width, Z channels.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import latent_files, tfds_files
from videojax import settings
from videojax.codecs.cached import Cached
from videojax.codecs.captions import TextCard
from videojax.data import Carried, encode_caption
from videojax.errors import ConfigError
from videojax.io import schema
from videojax.settings import Range

DTYPES = "float16", "float32"  # that the card may name
MAKE = "make one with `python -m data_pipelines.encode`"


@dataclasses.dataclass(frozen=True)
class Config:
  """Which latents are read.

  Args:
    path: directory of a dataset that `data_pipelines.encode` wrote.
    split: its split; tfds slices such as 'train[:10%]' work.
    caption_bytes: longer captions are cut at a whole character, shorter ones are zero padded.
  """

  path: str
  split: str = "train"
  caption_bytes: Annotated[int, Range(0, 2**16)] = 64

  def __post_init__(self) -> None:
    settings.check(self)


class Source:
  """Random access to stored latents; safe from several threads.

  Attributes:
    shape: (T,H,W,3) of the clips that were encoded.
    cached: the codec that encoded them.

  Raises:
    ConfigError: the directory is missing or holds something else, or one of its files is damaged.
    ValueError: there is no such split.
  """

  finite = True

  def __init__(self, config: Config):
    self.config, path = config, Path(config.path)
    self.card = read_card(path)
    frames, height, width, channels = self.card["video"]
    self.shape = (frames, height, width, channels)
    codec, self.text = self.card["codec"], self.card["text"]
    self.cached = Cached(config.path, codec["name"], codec["config"], codec["params_sha256"])
    self._records = tfds_files.Records(path, _opened(path, self.card), config.split)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Carried:
    """Example `index` as stored; `text` [L,D] is zero padded to the encoder's length."""
    record = self._records[index]
    example: Carried = {name: record[name] for name in ("mean", "log_var") if name in record}
    if self.text:
      example |= self._padded(record, self.text, index)
    return example | {
      "caption": encode_caption(record["caption"], self.config.caption_bytes),
      "fps": np.float32(record["fps"]),
      "id": np.uint32(record["id"]),
    }

  def _padded(self, record: dict[str, Any], text: TextCard, index: int) -> Carried:
    tokens = int(record["text_length"])
    padded = np.zeros((text["length"], text["width"]), self.card["stored"])  # [L,D]
    with tfds_files.errors(f"{self.config.path}: the text of clip {index} is damaged"):
      found = np.frombuffer(record["text"], self.card["stored"])
      padded[:tokens] = found.reshape(tokens, text["width"])
    return {"text": padded, "text_length": np.int32(tokens)}

  def decode(self, carried: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch as models see it: `latent_mean` and `latent_log_var` take the place of `video`."""
    out = {name: carried[name] for name in ("caption", "fps", "id")}
    for name in ("mean", "log_var"):
      if name in carried:
        out[f"latent_{name}"] = carried[name].astype(jnp.float32)
    if "text" in carried:
      out["text"] = carried["text"].astype(jnp.float32)
      positions = jnp.arange(out["text"].shape[1])[None]
      out["text_mask"] = positions < carried["text_length"][:, None]
    return out


def read_card(path: Path) -> latent_files.Card:
  """The card of the dataset in `path`; raises ConfigError if it is no finished one of latents."""
  if not path.is_dir():
    raise ConfigError(f"no directory {path}: it should hold latents of clips; {MAKE}")
  if not (path / latent_files.CARD).exists():
    raise ConfigError(f"{path} holds no latents (it lacks {latent_files.CARD}); {MAKE}")
  card: latent_files.Card = schema.read_as(path / latent_files.CARD, latent_files.Card)
  shapes = card["video"], card["latent"]
  text = [] if card["text"] is None else [card["text"]["length"], card["text"]["width"]]
  sound = all(len(shape) == 4 for shape in shapes) and min(*shapes[0], *shapes[1], *text) > 0
  if not sound or card["stored"] not in DTYPES or "statistics" not in card:
    raise ConfigError(f"{path / latent_files.CARD} is not the card of finished latents; {MAKE}")
  return card


def _opened(path: Path, card: latent_files.Card) -> Any:
  """The tfds builder; raises ConfigError if its features are not those that the card tells of."""
  builder = tfds_files.open_dataset(path)
  found, wanted = (
    {name: (np.dtype(f.np_dtype).name, f.shape) for name, f in form.items()}
    for form in (builder.info.features, latent_files.features(card))
  )
  if found != wanted:
    raise ConfigError(f"{path} does not fit its {latent_files.CARD}: it holds {found}")
  return builder
