"""A tiny vocabulary in both forms, and transformers' tokens, for tests/io/test_tokenizer.py.

  pip install transformers==5.24.0 sentencepiece==0.2.3 protobuf
  python -m tests.golden.make_tokenizer

Trained on this project's licence and a few captions in several scripts. Characters are normalised
by rules of the kind that published vocabularies have, but fewer: theirs take 300 kB.
"""

import contextlib
import json
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "tokenizer"
TEXTS = [
  "a red ball rolls to the left and hits a wall", "two cats play in the snow",
  "un café à Paris, la nuit", "一只猫在雪地里玩耍",
]  # fmt: skip
# Full-width A, e and a combining accent, an ellipsis; tab, newline and two spaces beyond ASCII.
RULES = "FF21\t41\n65 301\tE9\n2026\t2E 2E 2E\n9\t20\nA\t20\nA0\t20\n3000\t20\n"
CAPTIONS = [
  *TEXTS, "", " ", "  two  spaces\tand a tab\n", "cafe\u0301 \uff21\u2026\u00a0\u3000end",
  "zebra \U0001f993", 'The License (2.0) is for "works", i.e. 100 % of them!', 40 * "a", "雪 snow",
]  # fmt: skip
LENGTHS = (1, 6, 48)


def train() -> None:
  """Writes spiece.model, and the rules that it contains, in the working directory."""
  import sentencepiece

  lines = [line.strip() for line in (ROOT / "LICENSE").read_text().splitlines() if line.strip()]
  Path("rules.tsv").write_text(RULES)
  with open("spiece.model", "wb") as out:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines + 3 * TEXTS), model_writer=out, model_type="unigram",
      vocab_size=300, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0,
      normalization_rule_tsv="rules.tsv", num_threads=1, minloglevel=2,
    )  # fmt: skip


def main() -> None:
  from transformers import ByT5Tokenizer, T5Tokenizer

  DATA.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
    train()
    reference = T5Tokenizer.from_pretrained(directory, extra_ids=0)
    (DATA / "spiece.model").write_bytes(Path("spiece.model").read_bytes())
  compact = dict(ensure_ascii=False, separators=(",", ":"))
  form = json.loads(reference.backend_tokenizer.to_str())
  (DATA / "tokenizer.json").write_text(json.dumps(form, **compact))
  golden = {}
  for name, each in {"t5": reference, "byt5": ByT5Tokenizer()}.items():
    for length in LENGTHS:
      made = each(CAPTIONS, padding="max_length", truncation=True, max_length=length)
      golden[f"{name} {length}"] = {"ids": made["input_ids"], "mask": made["attention_mask"]}
  (DATA / "golden.json").write_text(json.dumps(golden, **compact))


if __name__ == "__main__":
  main()
