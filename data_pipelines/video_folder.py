"""Makes a dataset of clips from a folder of real videos.

    python -m data_pipelines.video_folder --source=DIR --out=DIR --frames=16 --size=64
        [--beam [-- --runner=... (Apache Beam's own options)]]

Stage one cuts each file (video_cut) into OUT.partial, and continues from there if it was
interrupted. Stage two (video_dataset) assigns the clips to splits and writes OUT atomically: a tfds
dataset (clips), `manifest.jsonl`, a data card `README.md`, `contact_sheet.png`, and
`video_folder.json`, from which the same command later sees that nothing is left to do. An existing
OUT is never changed. With --beam the same functions run on many machines (video_beam).
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path

from data_pipelines import video_beam, video_dataset
from data_pipelines.video_build import build
from videojax.errors import ConfigError
from videojax.io.claim import claim


def _parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.video_folder",
    description="Cuts a folder of real videos into a dataset of clips.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--source", required=True, help="folder of videos, images and captions, read recursively")
  add("--out", required=True, help="the dataset: a directory that does not exist yet")
  add("--frames", type=int, required=True, help="frames per clip; 1: images")
  add("--size", type=int, required=True, help="height and width in pixels")
  add("--fps", type=float, help="frames per second (default: each file's own)")
  add("--stride", type=int, help="frames from one clip's start to the next (default: --frames)")
  add("--splits", default="train:0.9,validation:0.1", help="name:share,... (default: %(default)s)")
  add("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
  add("--beam", action="store_true", help="run on Apache Beam; arguments after -- are Beam's own")
  argv = sys.argv[1:] if argv is None else argv
  end = argv.index("--") if "--" in argv else len(argv)
  flags = parser.parse_args(argv[:end], argparse.Namespace(beam_options=argv[end + 1 :]))
  if not flags.source or not flags.out:
    parser.error("--source and --out must not be empty")
  if flags.beam_options and not flags.beam:
    parser.error("arguments after -- are for Apache Beam: add --beam")
  if "://" in flags.source + flags.out and not flags.beam:
    parser.error("URLs need --beam")
  return flags


def _claimed(out: str) -> contextlib.AbstractContextManager[None]:
  """A lock against other processes that make this dataset; a URL cannot be locked."""
  path = Path(out).absolute()
  return contextlib.nullcontext() if "://" in out else claim(path.parent, "video_folder", path.name)


def main(argv: list[str] | None = None) -> int:
  """The command; returns its exit code: 0: the dataset exists, 2: an error, 130: interrupted."""
  flags = _parse(argv)
  try:
    if flags.workers < 1:
      raise ConfigError(f"--workers must be at least 1, got {flags.workers}")
    stride = flags.frames if flags.stride is None else flags.stride
    options = video_dataset.Options(flags.frames, flags.size, flags.fps, stride, flags.splits)
    with _claimed(flags.out):
      if flags.beam:
        print(video_beam.build(flags.source, flags.out, options, flags.beam_options))
      else:
        print(build(Path(flags.source), Path(flags.out), options, flags.workers))
  except (ValueError, OSError) as error:
    print(f"video_folder: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("video_folder: interrupted; run the same command again to continue", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
