"""Encodes a dataset of clips once, so that training does not encode it in every step.

    python -m data_pipelines.encode --source=CLIPS --codec=RUN --out=LATENTS
    python -m data_pipelines.encode --source=CLIPS --codec=vae_wan --weights=FILE --out=LATENTS \\
        --text=umt5 --text-weights=DIR --tokenizer=FILE --length=512 [--part=1/8]

CLIPS is a dataset of `clips`, LATENTS one for the data source `latents`. The work goes in pieces,
each a file of the result, in OUT.partial; a killed command costs one piece, and the same command
continues. --part=i/n does every n-th piece, for n processes that share a disk; the one that ends
last writes the metadata. --beam encodes each piece on a worker of Apache Beam; SOURCE and OUT must
then be directories that all workers see, and Beam's own options follow after --. The result has the
same bytes whatever was killed and however it was divided, if the device computes the same in every
process, as CPUs do; its card `latents.json` says what made it.
"""

import argparse
import re
import sys
from pathlib import Path

from data_pipelines import beam_tools
from data_pipelines.encode_build import Options, build
from videojax.codecs.captions import ENCODERS, TextConfig


def _parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    prog="python -m data_pipelines.encode",
    description="Encodes a dataset of clips once, for training in latents.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--source", required=True, help="directory of a dataset of clips")
  add("--codec", required=True, help="run directory of an autoencoder, or a codec's name")
  add("--weights", help="published weights of the codec")
  add("--out", required=True, help="the dataset: a directory that does not exist yet")
  add("--text", choices=sorted(ENCODERS), help="also encode the captions, with this encoder")
  add("--text-weights", help="directory of the text encoder's weights")
  add("--tokenizer", help="the text encoder's tokenizer.json or spiece.model")
  add("--length", type=int, help="tokens per caption at most")
  add("--frames", type=int, help="leading frames of each clip (default: all)")
  add("--batch", type=int, default=Options.batch, help="clips at a time (default: %(default)s)")
  add("--piece", type=int, default=Options.piece, help="clips per file (default: %(default)s)")
  add("--part", default="1/1", help="i/n: only every n-th piece, from the i-th")
  add("--beam", action="store_true", help="run on Apache Beam; arguments after -- are Beam's own")
  argv = list(sys.argv[1:] if argv is None else argv)
  end = argv.index("--") if "--" in argv else len(argv)
  flags = parser.parse_args(argv[:end])
  if argv[end:] and not flags.beam:
    parser.error("arguments after -- are for Apache Beam: add --beam")
  if flags.beam and "://" in f"{flags.source}{flags.out}":
    parser.error("--beam: --source and --out must be directories that every worker sees, not URLs")
  flags.beam = argv[end + 1 :] if flags.beam else None
  words = {name: getattr(flags, name) for name in ("text", "text_weights", "tokenizer", "length")}
  missing = [f"--{name.replace('_', '-')}" for name, value in words.items() if value is None]
  if 0 < len(missing) < len(words):
    parser.error(f"to encode captions, add {', '.join(missing)}")
  flags.words = None if missing else tuple(words.values())
  found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", flags.part)
  if not found or int(found[1]) > int(found[2]):
    parser.error(f"--part={flags.part} must be i/n with 1 <= i <= n, e.g. 2/8")
  flags.part = int(found[1]), int(found[2])
  return flags


def main(argv: list[str] | None = None) -> int:
  """The command; returns its exit code: 0: this part is done, 2: an error, 130: interrupted."""
  flags = _parse(argv)
  same = {name: getattr(flags, name) for name in ("source", "codec", "weights")}
  sizes = {name: getattr(flags, name) for name in ("frames", "batch", "piece")}
  try:
    text = TextConfig(*flags.words) if flags.words else None
    if flags.beam is not None:
      beam_tools.check(flags.source, flags.out, flags.beam)
    print(build(Options(**same, **sizes, text=text), Path(flags.out), flags.part, flags.beam))
  except (ValueError, OSError) as error:
    print(f"encode: {error}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("encode: interrupted; run the same command again to continue", file=sys.stderr)
    return 130
  return 0


if __name__ == "__main__":
  sys.exit(main())
