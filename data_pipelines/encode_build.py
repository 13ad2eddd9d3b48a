"""Encodes a dataset of clips piece by piece, each a file of the result: `encode`'s work."""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import beam_tools, clips, data_card, encoders, latent_files, latents
from data_pipelines.encoders import ClipEncoder
from data_pipelines.latent_files import CARD, Card, Piece, SourceCard, Statistics
from videojax import settings
from videojax.codecs.captions import TextConfig
from videojax.config import flatten
from videojax.errors import ConfigError
from videojax.io import files
from videojax.io.claim import InUseError, claim
from videojax.io.log import phase
from videojax.runs.text_encoder import TextEncoder
from videojax.sharding import local_mesh

JOB = "job.json"
TOLD = 4  # differences that a message names
PACKAGES = ("jax", "jaxlib", "flax", "tensorflow-datasets", "array-record")


@dataclasses.dataclass(frozen=True)
class Options:
  """What determines the dataset.

  Attributes:
    source: directory of the clips.
    codec: run directory of an autoencoder, or the name of a published codec.
    weights: of a published codec.
    text: the text encoder; None: captions stay bytes.
    frames: leading frames of each clip that are encoded; None: all.
    batch: clips that are encoded together, as memory allows.
    piece: clips per file.
  """

  source: str
  codec: str
  weights: str | None = None
  text: TextConfig | None = None
  frames: settings.Width | None = None
  batch: settings.Count = 8
  piece: settings.Count = 256

  def __post_init__(self) -> None:
    settings.check(self)


class Encoding:
  """A dataset of clips, and the networks that encode it.

  Args:
    options: see Options.
  Attributes:
    job: the card, as far as it is known before the work.

  Raises:
    ConfigError: there are no clips or no weights, or they do not fit each other.
  """

  def __init__(self, options: Options):
    candidates, path = encoders.codecs(options.codec, options.weights), Path(options.source)
    splits = clips.open_clips(path).info.splits
    configs = {
      split: clips.Config(options.source, split, options.frames, caption_bytes=clips.LONGEST)
      for split in splits
    }
    self.sources = {split: clips.Source(config) for split, config in configs.items()}
    shape, mesh = next(iter(self.sources.values())).shape, local_mesh(options.batch)
    with phase("reading the weights"):
      self.codec = ClipEncoder(candidates, shape, mesh)
      self.text = TextEncoder(options.text, mesh) if options.text else None
    self.job: Card = {
      "codec": self.codec.card,
      "text": self.text.card if self.text else None,
      "source": _source_card(path),
      "splits": {split: len(source) for split, source in self.sources.items()},
      "video": list(shape),
      "latent": list(self.codec.latent),
      "stochastic": self.codec.stochastic,
      "stored": np.dtype(latent_files.STORED).name,
      "batch": options.batch,
      "piece": options.piece,
      "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
      | {"devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}"},
    }

  def encode(self, piece: Piece, tally: "Tally") -> Iterator[dict[str, Any]]:
    """Yields the examples of a piece, as stored; adds them to `tally`."""
    source, size = self.sources[piece.split], self.job["batch"]
    for start in range(piece.start, piece.stop, size):
      rows = [source[i] for i in range(start, min(start + size, piece.stop))]
      padded = np.pad(np.arange(len(rows)), (0, size - len(rows)), mode="edge")
      moments = self.codec(np.stack([rows[i]["video"] for i in padded]))
      captions = [row["caption"].tobytes().rstrip(b"\0") for row in rows]
      texts = self._texts(captions, tally)
      for i, (row, caption) in enumerate(zip(rows, captions)):
        own = {name: values[i] for name, values in moments.items()}
        tally.add(row, caption, own)
        yield self._example(piece.split, row, caption, own | texts[i])

  def _texts(self, captions: list[bytes], tally: "Tally") -> list[dict[str, np.ndarray]]:
    """The embeddings of each caption of a batch; a whole batch is encoded, padded with ''."""
    if self.text is None:
      return [{}] * len(captions)
    words = [caption.decode("utf-8", errors="replace") for caption in captions]
    found, cut = self.text([*words, *[""] * (self.job["batch"] - len(words))])
    tally.cut += cut
    return [{"text": text} for text in found[: len(words)]]

  def _example(
    self, split: str, row: Mapping[str, Any], caption: bytes, made: Mapping[str, np.ndarray]
  ) -> dict[str, Any]:
    """An example as it is stored; raises ConfigError if a number is not finite."""
    what = f"clip {row['id']} of split {split!r}"
    out: dict[str, Any] = {
      name: latent_files.stored(values, self.job["stored"], f"{name} of {what}")
      for name, values in made.items()
    }
    if "text" in out:
      out |= {"text": out["text"].tobytes(), "text_length": len(out["text"])}
    frames, height, width, _ = self.job["video"]
    sizes = {"frames": frames, "height": height, "width": width}
    return out | sizes | {"caption": caption, "id": row["id"], "fps": row["fps"]}


class Tally:
  """What the card needs to know of a piece: sums per channel, and a hash of each clip."""

  def __init__(self) -> None:
    self.sums: dict[str, np.ndarray] = {}
    self.positions, self.cut, self.hashes = 0, 0, list[str]()

  def add(self, row: Mapping[str, Any], caption: bytes, moments: Mapping[str, np.ndarray]) -> None:
    digest = hashlib.sha256(
      f"{row['id']} {row['fps']} {row['video'].shape} {len(caption)}".encode()
    )
    digest.update(caption)
    digest.update(row["video"].tobytes())
    self.hashes.append(digest.hexdigest())
    mean = moments["mean"].astype(np.float64)
    parts = {"mean": mean, "square": mean**2}
    if "log_var" in moments:
      parts["noise"] = np.exp(moments["log_var"].astype(np.float64))
    for name, values in parts.items():
      self.sums[name] = self.sums.get(name, 0) + values.sum((0, 1, 2))  # [Z]
    self.positions += mean[..., 0].size

  def record(self, size: int) -> dict[str, Any]:
    return {
      "size": size, "positions": self.positions, "cut": self.cut, "hashes": self.hashes,
      "sums": {name: values.tolist() for name, values in self.sums.items()},
    }  # fmt: skip


def build(
  options: Options,
  out: Path,
  part: tuple[int, int] = (1, 1),
  beam: Sequence[str] | None = None,
) -> str:
  """Encodes the part of the dataset that is not yet encoded, and finishes it if all is.

  Args:
    options: what determines the dataset.
    out: the dataset; must not exist yet, unless it is the same one.
    part: (i, n): every n-th piece, from the i-th.
    beam: Apache Beam's own options, to encode each piece on a worker; None: on this machine.

  Returns:
    A summary in words.

  Raises:
    ConfigError: see Encoding; or `out` holds something else; or another process does this part.
  """
  out = out.absolute()
  encoding = Encoding(options)
  job, partial = encoding.job, out.with_name(f"{out.name}.partial")
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    return _finished(out, partial, job)
  with claim(out.parent, "encode", f"{out.name}-{part[0]}-of-{part[1]}"):
    _open(partial, job)
    pieces = latent_files.pieces(job)
    mine = [piece for piece in pieces[part[0] - 1 :: part[1]] if not _record(partial, piece)]
    if beam is not None:
      task = functools.partial(_encode_on_worker, options, partial)
      numbers = [pieces.index(piece) for piece in mine]
      beam_tools.map_all(task, numbers, str(partial / "beam"), beam)
      return _finish(partial, out, job)
    with phase("encoding, clips", sum(piece.stop - piece.start for piece in mine)) as advance:
      for piece in mine:
        _encode_piece(encoding, piece, partial)
        advance(piece.stop - piece.start)
  return _finish(partial, out, job)


def _encode_on_worker(options: Options, partial: Path, number: int) -> int:
  """Encodes a piece in the directory that all workers see; a worker reads the weights once."""
  encoding = _encoding(options)
  if encoding.job != (job := files.read_json(partial / JOB)):
    raise ConfigError(f"a worker differs: {_differences(job, encoding.job)}")
  _encode_piece(encoding, latent_files.pieces(encoding.job)[number], partial)
  return number


_encoding = functools.lru_cache(maxsize=1)(Encoding)


def _encode_piece(encoding: Encoding, piece: Piece, partial: Path) -> None:
  """Writes a piece's file, then the record that says that it is whole."""
  tally = Tally()
  size = latent_files.write_piece(
    piece.path(partial / "dataset"), encoding.job, encoding.encode(piece, tally)
  )
  files.write_json(partial / "pieces" / f"{piece.name}.json", tally.record(size))


def _record(partial: Path, piece: Piece) -> dict[str, Any] | None:
  """The record of a piece; None if it is not done, or damaged, so that it is done again."""
  with contextlib.suppress(ConfigError):
    return files.read_json(partial / "pieces" / f"{piece.name}.json")
  return None


def _finish(partial: Path, out: Path, job: Card) -> str:
  """Writes the metadata and moves the dataset to its place, if every piece is done."""
  done = [_record(partial, piece) for piece in latent_files.pieces(job)] if partial.exists() else []
  if (out / CARD).is_file():  # another part that saw the last piece was faster
    return summary(latents.read_card(out), out)
  if missing := done.count(None):
    return f"{missing} of {len(done)} pieces are still to be done, by the other parts"
  try:
    with claim(out.parent, "encode", out.name):
      if not partial.exists():  # likewise
        return summary(latents.read_card(out), out)
      records = [record for record in done if record is not None]
      card = _card(job, records)
      latent_files.write_metadata(partial / "dataset", card, [r["size"] for r in records])
      for left in (partial / "dataset").glob(".*"):  # of a process that was killed
        left.unlink()
      (partial / "dataset").replace(out)
      shutil.rmtree(partial)
  except InUseError:
    return f"all pieces are done; another part is writing {out}"
  return summary(card, out)


def _card(job: Card, records: list[dict[str, Any]]) -> Card:
  """The whole card, from the records of all pieces in order."""
  digest, statistics = hashlib.sha256(), dict[str, Statistics]()
  for record in records:
    for text in record["hashes"]:
      digest.update(bytes.fromhex(text))
  for split, count in job["splits"].items():
    own = [r for p, r in zip(latent_files.pieces(job), records) if p.split == split]
    positions = sum(record["positions"] for record in own)
    mean_of = {
      name: np.sum([record["sums"][name] for record in own], axis=0) / positions
      for name in own[0]["sums"]
    }
    variance = np.maximum(mean_of["square"] - mean_of["mean"] ** 2, 0)
    statistics[split] = {
      "clips": count,
      "mean": mean_of["mean"].tolist(),
      "deviation": np.sqrt(variance).tolist(),
      "noise": mean_of["noise"].tolist() if "noise" in mean_of else None,
    }
  cut = sum(record["cut"] for record in records)
  return job | {
    "clips_sha256": digest.hexdigest(), "statistics": statistics, "captions_cut": cut
  }  # fmt: skip


def summary(card: Card, out: Path) -> str:
  """A finished dataset in a few lines."""
  clips_of = ", ".join(f"{count} {split}" for split, count in card["splits"].items())
  size = sum(path.stat().st_size for path in out.iterdir()) / sum(card["splits"].values())
  lines = [f"{clips_of} clips as latents {card['latent']}, {size:,.0f} bytes each, in {out}"]
  if card["captions_cut"]:
    assert card["text"]
    most = card["text"]["length"]
    lines.append(f"{card['captions_cut']} captions have more than {most} tokens and were cut")
  return "\n".join(lines)


def _finished(out: Path, partial: Path, job: Card) -> str:
  """The summary of the dataset in `out`; raises ConfigError if it is not what we would make."""
  if not (out / CARD).is_file():
    raise ConfigError(
      f"--out: {out} holds no latents; nothing was written. Choose another directory"
    )
  card = files.read_json(out / CARD)
  # A finished dataset is none the worse for newer packages; pieces of two versions do not mix.
  if different := _differences(card, {k: v for k, v in job.items() if k != "versions"}):
    raise ConfigError(
      f"--out: {out} was made otherwise: {different}. Nothing was written: choose another --out, "
      "or delete it"
    )
  if (partial / JOB).exists():  # the command was killed before its last step
    shutil.rmtree(partial)
  return f"{out} is up to date\n{summary(card, out)}"


def _open(partial: Path, job: Card) -> None:
  """Makes the directory of unfinished work, or checks that the same command left it."""
  path = partial / JOB
  if path.exists():
    if different := _differences(files.read_json(path), job):
      raise ConfigError(
        f"{partial} holds unfinished work of another kind: {different}. Nothing was written: "
        "finish it as it was begun, delete it, or choose another --out"
      )
  elif partial.exists() and any(not p.name.startswith(".") for p in partial.iterdir()):
    raise ConfigError(f"{partial} was not made by this command: move it, or choose another --out")
  (partial / "dataset").mkdir(parents=True, exist_ok=True)
  files.write_json(path, job)


def _differences(old: Any, new: Mapping[str, Any]) -> str:
  """What differs from the parts of a card that are known before the work, in words."""
  was = flatten({key: old.get(key) for key in new} if isinstance(old, dict) else {})
  now = flatten(dict(new))
  changed = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
  more = [f"and {len(changed) - TOLD} more"] if len(changed) > TOLD else []
  told = [f"{key} was {was.get(key)}, now {now.get(key)}" for key in changed[:TOLD]]
  return "; ".join([*told, *more])


def _source_card(path: Path) -> SourceCard:
  """What is known of a dataset of clips without reading them."""
  digest = hashlib.sha256()
  for file in sorted(path.iterdir()):
    digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
    if file.name in ("dataset_info.json", "features.json"):
      digest.update(file.read_bytes())
  readme = path / "README.md"
  told = readme.read_text() if readme.is_file() else ""
  return {
    "name": path.resolve().name,
    "description": clips.open_clips(path).info.description,
    "crop": " ".join(data_card.CROP.split()) if data_card.CROP in told else None,
    "files_sha256": digest.hexdigest(),
  }
