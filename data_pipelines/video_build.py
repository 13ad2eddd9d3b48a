"""Makes a dataset from a folder of videos, on one machine or a cluster: `video_folder`'s work."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from data_pipelines import captions, data_card, video_cut, video_dataset
from videojax.errors import ConfigError
from videojax.io import files

CLAIM = "cutting.json"


class Cluster(video_dataset.Pieces):
  """Machines that run both stages instead of this machine's processes."""

  def cut(self, media: Sequence[str]) -> list[dict[str, Any]]:
    """Stage one: cuts every file; returns the records in the order of `media`."""
    raise NotImplementedError


def build(
  source: Path,
  out: Path,
  options: video_dataset.Options,
  workers: int,
  cluster: Cluster | None = None,
  identities: Mapping[str, list[int]] | None = None,
) -> str:
  """Makes the dataset unless it is already there.

  Args:
    source: folder of videos and images.
    out: the dataset; must not exist yet, unless it is the same one.
    options: the settings of clips and splits.
    workers: number of worker processes; 1: work in this process.
    cluster: does the work instead of the workers.
    identities: file -> identity; None: search `source`.

  Returns:
    A summary in words.

  Raises:
    ConfigError: the folder does not exist or has no clips in it, or `out` holds something else.
  """
  if not source.is_dir():
    raise ConfigError(f"--source: no directory {source}")
  partial = partial_of(out)
  left_out: dict[str, str] = {}
  if identities is None:
    identities, left_out = _search(source, (out, partial))
  state = {
    "options": dataclasses.asdict(options),
    "files": {**identities, **dict.fromkeys(left_out, [-1, -1])},
  }
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    return _finished(out, partial, state)
  texts, lost = captions.read_captions(source, identities)
  if not texts:
    more = data_card.listing("; skipped", left_out) if left_out else ""
    raise ConfigError(f"--source: {source} has no files in it; nothing was written{more}")
  _claim(partial, options.cutting())
  pieces, dataset = partial / "pieces", partial / "dataset"
  if cluster:
    records = cluster.cut(list(texts))
  else:
    records = _cut_all(source, list(texts), pieces, options.cutting(), workers)
  records += [video_cut.left_out(name, reason) for name, reason in left_out.items()]
  frames = cluster or video_dataset.Pieces(str(pieces), options)
  try:
    summary = video_dataset.write(dataset, source, records, texts, frames, state)
  except video_dataset.NoClipsError:
    shutil.rmtree(partial)  # the next attempt may have other options
    raise
  dataset.replace(out)
  shutil.rmtree(partial)
  if lost:
    summary += data_card.listing("\ncaptions of missing files", dict.fromkeys(lost, ""))
  return f"{summary}\nwritten to {out} (its README.md is the data card)"


def partial_of(out: Path) -> Path:
  """The directory of unfinished work."""
  return out.absolute().with_name(f"{out.absolute().name}.partial")


def _search(source: Path, ours: tuple[Path, ...]) -> tuple[dict[str, list[int]], dict[str, str]]:
  """({file: identity} below `source`, {name: reason} of everything that is not read)."""
  found = _list(source, ours)
  left_out = {name: reason for name, reason in found.items() if reason}
  return {n: video_cut.identity(source / n) for n in found if n not in left_out}, left_out


def _list(source: Path, ours: tuple[Path, ...]) -> dict[str, str]:
  """Lists what is below `source`, following links, without hidden files and our own output.

  Returns:
    Sorted {POSIX path: why it is not read, or '' if it is}. If several links lead to one folder,
    only the first is read, so that loops end and no video occurs twice.
  """
  found: dict[str, str] = {}
  read: dict[tuple[int, int], str] = {}  # folder -> the path under which it is read
  skip = [_inode(our.stat()) for our in ours if our.exists()]
  folders: list[Path] = [source]
  links: list[Path] = []
  while folders or links:
    folder = folders.pop() if folders else links.pop(0)  # real folders come before links to them
    name = folder.relative_to(source).as_posix()
    try:
      entries = sorted(folder.iterdir())
    except OSError as error:
      found[name] = f"a folder that cannot be read ({error.strerror})"
      continue
    first = read.setdefault(_inode(folder.stat()), name)
    if first != name:
      found[name] = f"a link to a folder that is already read as {data_card.shown(first)}"
      continue
    for path in entries:
      if path.name.startswith("."):
        continue
      status, reason = _status(path)
      if status and stat.S_ISDIR(status.st_mode):
        if _inode(status) not in skip:
          (links if path.is_symlink() else folders).append(path)
      else:
        found[path.relative_to(source).as_posix()] = reason
  return dict(sorted(found.items()))


def _inode(status: os.stat_result) -> tuple[int, int]:
  return status.st_dev, status.st_ino


def _status(path: Path) -> tuple[os.stat_result | None, str]:
  """(stat result, why the path cannot be read as a file or '').

  A dead link gives (None, ''): it is reported where it is read.
  """
  try:
    status = path.stat()
  except FileNotFoundError:
    return None, ""
  except OSError as error:
    return None, f"cannot be read ({error.strerror})"
  regular = stat.S_ISREG(status.st_mode)
  return status, "" if regular else "not a regular file but a pipe, a socket or a device"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
  return ", ".join(
    f"--{name} was {old.get(name)}, now {new[name]}" for name in new if old.get(name) != new[name]
  )


def _finished(out: Path, partial: Path, state: Mapping[str, Any]) -> str:
  """The summary of the dataset in `out`; raises ConfigError if it is not what we would make."""
  if not (out / video_dataset.RECORD).is_file():
    raise ConfigError(
      f"--out: {out} is not a dataset of video_folder; nothing was written. Choose another --out"
    )
  record = files.read_json(out / video_dataset.RECORD)
  if not isinstance(record, dict) or not all(
    isinstance(record.get(name), kind)
    for name, kind in (("options", dict), ("files", dict), ("summary", str))
  ):
    raise ConfigError(
      f"{out / video_dataset.RECORD} is damaged; choose another --out, or delete it"
    )
  if different := _differences(record["options"], state["options"]):
    raise ConfigError(
      f"--out: {out} was made with other options: {different}. Nothing was written: choose "
      "another --out, or delete it"
    )
  old, new = record["files"], state["files"]
  changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
  if changed:
    raise ConfigError(
      f"--out: {out} was made from other files: {len(changed)} are new, changed or gone "
      f"({data_card.shown(changed[0])}, ...). Nothing was written: choose another --out, or "
      "delete it"
    )
  if (partial / CLAIM).exists():  # the command was killed before its last step
    shutil.rmtree(partial)
  return f"{out} is up to date\n{record['summary']}"


def _claim(partial: Path, cutting: video_cut.Cutting) -> None:
  """Creates the directory of stage one, or checks that the same command left it."""
  claim, wanted = partial / CLAIM, dataclasses.asdict(cutting)
  if not partial.exists() or not any(partial.iterdir()):
    partial.mkdir(parents=True, exist_ok=True)
    files.write_json(claim, wanted)
    return
  if not claim.exists():
    raise ConfigError(f"{partial} was not made by this command: move it, or choose another --out")
  claimed = files.read_json(claim)
  if different := _differences(claimed if isinstance(claimed, dict) else {}, wanted):
    raise ConfigError(
      f"{partial} holds unfinished work with other options: {different}. Nothing was written: "
      "finish it with those, delete it, or choose another --out"
    )


def _cut_all(
  source: Path, media: list[str], pieces: Path, cutting: video_cut.Cutting, workers: int
) -> list[dict[str, Any]]:
  """Stage one: cuts every file not yet cut; returns the records in the order of `media`."""
  pieces.mkdir(exist_ok=True)
  jobs: dict[str, Callable[[], dict[str, Any]]] = {
    name: functools.partial(video_cut.cut_file, source / name, name, pieces, cutting)
    for name in media
  }
  records = {}
  with _progress() as progress:
    task = progress.add_task("cutting", total=len(jobs), clips=0)
    try:
      for record in _results(jobs.values(), min(workers, len(jobs))):
        records[record["name"]] = record
        kept = sum(clip["reason"] == "kept" for clip in record["clips"])
        progress.update(task, advance=1, clips=progress.tasks[task].fields["clips"] + kept)
    except concurrent.futures.BrokenExecutor as error:
      begun = [name for name in media if video_cut.is_begun(pieces, name)]
      raise ConfigError(
        "a worker process died (out of memory, or a video that crashes its decoder); the same "
        "command continues from here\n"
        + data_card.listing("it was cutting one of", dict.fromkeys(begun, ""))
      ) from error
  return [records[name] for name in media]


def _results(jobs: Iterable[Callable[[], Any]], workers: int) -> Iterator[Any]:
  """Yields the results of all jobs as they finish."""
  if workers == 1:
    yield from (job() for job in jobs)
    return
  # spawn: forking a process that has threads (progress bar, codecs) can hang
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker) as pool:
    futures = [pool.submit(job) for job in jobs]
    try:
      for future in concurrent.futures.as_completed(futures):
        yield future.result()
    finally:
      pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
  """Makes a worker exit immediately and silently when its parent does."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  parent = multiprocessing.parent_process()

  def follow() -> None:
    if parent is not None:
      multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)

  threading.Thread(target=follow, daemon=True).start()


def _progress() -> rich.progress.Progress:
  return rich.progress.Progress(
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TextColumn("files, {task.fields[clips]} clips,"),
    rich.progress.TimeRemainingColumn(),
    console=rich.console.Console(stderr=True),
  )
