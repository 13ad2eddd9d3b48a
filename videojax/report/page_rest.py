"""The report's other sections: coherence, settings, noise, the table of cells, cost, terms.

Each function takes report.json and the images, and returns HTML; '' where it does not apply.
"""

from collections.abc import Sequence

from videojax.report.markup import (
  Images,
  Part,
  count,
  duration,
  figure,
  flop,
  interval,
  listed,
  number,
  paragraph,
  percent,
  plural,
  plus_minus,
  table,
)

PARTS = {
  "compile": "compiling",
  "data_wait": "waiting for data",
  "step": "training",
  "save": "saving",
  "evaluate": "evaluating",
}
FALLS = {
  "power": "what is above the floor",
  "rate": "odds of failing",
  "survival": "hazard per frame",
}


# --- coherence ----------------------------------------------------------------------------------


def coherence(report: Part, images: Images) -> str:
  part = report["coherence"]
  if "why" in part:
    return ""
  clips = f"{part['clips']} clips" if part["clips"] else "clips"
  out = paragraph(
    f"Each cell continues {clips} per split, and what is seen in them is compared with the "
    "simulator that made the true ones. Three things stand beside every number: the "
    "<em>floor</em>, what the true clips score (no measure is perfect); the last given frame "
    "repeated, which keeps everything and moves nothing; and every disc going straight on with "
    "its last velocity.",
    f"The splits are {listed(report['about']['splits'])}; the first is the one of the "
    "frozen loss." if len(report["about"]["splits"]) > 1 else "",
    f"Against compute and size, this section shows the cells with {part['series']}."
    if part["series"] else "",
  )  # fmt: skip
  if "coherence.svg" in images:
    out += figure(
      images, "coherence", "Coherence measures against training compute, one panel per measure.",
      "Lines join the cells with the lowest loss of each budget (bars: two standard errors); faint "
      "marks are all other cells, stars are held-out ones"
      + (", hollow marks lie before the onset of the measure" if part["onset"] else "")
      + ". Dashed: the fit with its 95&nbsp;% interval, where its exponent is surely above 0.",
    )  # fmt: skip
  return out + _values(part) + _exponents(part) + _sizes(part) + _predictors(part, images)


def _values(part: Part) -> str:
  """The best cell of the largest budget beside floor and baselines."""
  rows = []
  for m in part["measures"]:
    for split, one in m["splits"].items():
      last = one["frontier"][-1]
      arrow = "&darr;" if m["better"] == "down" else "&uarr;"
      rows.append([
        f"{m['title']} {arrow}", m["unit"], split,
        plus_minus(last["value"], last["stderr"]), number(m["floor"]), number(m["copy_last"]),
        number(m["extrapolate"]),
      ])  # fmt: skip
  head = ("measure", "unit", "split", "best cell, largest budget", "floor", "last frame repeated",
          "straight on")  # fmt: skip
  return table(head, rows, text=(1, 2), caption="Coherence of the cell with the lowest loss of the "
               "largest budget that has the measure, with one standard error. &darr;: lower is "
               "better.")  # fmt: skip


def _exponents(part: Part) -> str:
  if not part["exponents"]:
    return ""
  rows = [
    [r["title"], r["split"], interval(r["gamma"], r["low"], r["high"]),
     FALLS[r["form"]], str(r["budgets"])]
    for r in part["exponents"]
  ]  # fmt: skip
  rule = "".join(
    f" {name.replace('_', ' ').capitalize()} is fitted only from its onset on: to "
    f"cells that have less than {number(value)} on the first split. Before, nothing is known of "
    "motion, whatever the compute."
    for name, value in part["onset"].items()
  )
  skipped = [f"{k}: {why}" for k, why in part["unfitted"].items()]
  return (
    "<h3>How fast each falls</h3>"
    + paragraph("Fitted through the cells with the lowest loss of each budget. An error is its "
                "floor plus k &middot; C<sup>&minus;&gamma;</sup>; of a share, the odds of failing "
                "fall as C<sup>&minus;&gamma;</sup> (binomial likelihood); of survival, the hazard "
                "per frame does.", rule)
    + table(("measure", "split", "&gamma; [95 %]", "what falls", "budgets"), rows, text=(1, 3))
    + (f'<p class="small">Not fitted: {"; ".join(skipped)}.</p>' if skipped else "")
  )  # fmt: skip


def _sizes(part: Part) -> str:
  rows = part["best_sizes"]
  if not rows:
    return ""
  lines = []
  for name in dict.fromkeys(r["measure"] for r in rows):
    some = [r for r in rows if r["measure"] == name]
    smaller = [r for r in some if r["best_params"] < r["loss_params"]]
    larger = [r for r in some if r["best_params"] > r["loss_params"]]
    lines.append([
      some[0]["title"], str(len(some)),
      f"{len(smaller)} ({sum(r['resolved'] for r in smaller)})",
      str(len(some) - len(smaller) - len(larger)),
      f"{len(larger)} ({sum(r['resolved'] for r in larger)})",
    ])  # fmt: skip
  detail = [
    [flop(r["budget"]), r["title"], r["split"], count(r["loss_params"]),
     number(r["loss_value"]), count(r["best_params"]), number(r["best_value"]),
     plus_minus(r["gain"], r["stderr"]) if r["best_cell"] != r["loss_cell"] else "same cell"]
    for r in rows
  ]  # fmt: skip
  head = ("budget (FLOP)", "measure", "split", "best by loss", "it scores", "best by measure",
          "it scores", "gain &plusmn; error")  # fmt: skip
  return (
    "<h3>Is the best model for coherence smaller than the best for loss?</h3>"
    + table(("measure", "comparisons", "smaller", "the same", "larger"), lines,
            caption="One comparison per budget and split; in brackets how many differ by more than "
            "two standard errors over clips, paired: both models see the same clips.")
    + "<details><summary>Every comparison</summary>" + table(head, detail, text=(1, 2))
    + "</details>"
    + '<p class="small">The error is over clips and does not hold what another seed would change; '
    "the best of several cells also looks better than it is.</p>"
  )  # fmt: skip


def _predictors(part: Part, images: Images) -> str:
  found = part["predictors"]
  if not found["table"]:
    return ""
  names = found["names"]
  rows = []
  for r in found["table"]:
    top = max(r["r2"].values())
    marks = [f"<strong>{v:.2f}</strong>" if v == top else f"{v:.2f}" for v in r["r2"].values()]
    rows.append([r["title"], r["split"], str(r["cells"]), *marks])
  out = "<h3>Which part of the loss predicts coherence?</h3>" + table(
    ("measure", "split", "cells", *names.values()), rows, text=(1,),
    caption="R&sup2;: the share of the variance of the logarithm of the measure, over cells, that "
    "the logarithm of one number explains; 1 is all of it. The largest of each row is bold.",
  )  # fmt: skip
  levels = range(len(found["table"][0]["by_level"]))
  out += "<h3>At which noise level?</h3>" + table(
    ("measure", "split", *(f"{(i + 0.5) / len(levels):.2f}" for i in levels)),
    [
      [r["title"], r["split"], *(f"{v:.2f}" for v in r["by_level"])]
      for r in found["table"]
    ],
    text=(1,), caption="The same R&sup2; for the loss at each of the levels t, the cleanest first.",
  )  # fmt: skip
  if "predictors.svg" in images:
    out += figure(images, "predictors", "A coherence measure against parts of the loss.",
                   "A dot per setting, coloured by budget.")  # fmt: skip
  return out


# --- other settings, noise, cells, cost ---------------------------------------------------------


def by_key(report: Part, images: Images) -> str:
  part = report["by_key"]
  if "by_key.svg" not in images:
    return ""
  keys = listed([k.split(".")[-1].replace("_", " ") for k in part["keys"]])
  matched = (
    "Values are compared at equal compute: the mark of a budget is the best cell with that value."
    if part["matched"] else
    "No two values were run at the same compute, so that the marks do not compare: read them with "
    "the compute beside them."
  )  # fmt: skip
  rows = [
    [r["label"], flop(r["budget"]), r["cell"], count(r["params"]),
     plus_minus(r["loss"], r["stderr"]), str(r["seeds"])]
    for r in sorted(part["rows"], key=lambda r: (r["budget"], part["labels"].index(r["label"])))
  ]  # fmt: skip
  head = ("setting", "budget (FLOP)", "best cell", "parameters", "loss", "seeds")
  return (
    paragraph(f"This sweep also varies {keys}. {matched}")
    + figure(images, "by_key", "Loss and coherence by setting, coloured by budget.",
              "Loss and coherence by setting; bars are two standard errors.")
    + table(head, rows, text=(2,))
  )  # fmt: skip


def noise(report: Part, images: Images) -> str:
  part = report["noise"]
  lines = []
  if part["log_sd"] is None:
    lines.append("No setting was run with more than one seed, so that the difference between two "
                 "cells may be luck; nothing on this page can say how much of it is.")  # fmt: skip
  else:
    lines.append(
      f"{plural(len(part['groups']), 'setting')} with several seeds: repeats have a standard "
      f"deviation of {percent(part['log_sd'])} in loss ({plural(part['freedom'], 'degree')} of "
      f"freedom). {plural(part['single'], 'setting')} ran once: a difference of less than about "
      f"{percent(2 * 2**0.5 * part['log_sd'], 0)} between two of them is not resolved."
    )
  if part["clips"] is not None:
    lines.append(
      f"The evaluation clips add {percent(part['clips'])} to each loss, but the same clips are "
      "used for all cells, so that differences between cells are surer than that."
    )
  resolved = [n for n in part["neighbours"] if n["stderr"]]
  if resolved:
    lines.append(_neighbours(resolved, part["log_sd"]))
  out = "".join(paragraph(line) for line in lines)
  if part["groups"]:
    rows = [[g["cell"], flop(g["budget"]), count(g["params"]), str(g["seeds"]),
             number(g["loss"]), percent(g["log_sd"])] for g in part["groups"]]  # fmt: skip
    head = ("first cell", "budget (FLOP)", "parameters", "seeds", "mean loss", "sd over seeds")
    out += "<details open><summary>Settings with several seeds</summary>"
    out += table(head, rows) + "</details>"
  return out


def _neighbours(rows: Sequence[Part], log_sd: float | None) -> str:
  clear = sum(abs(n["log_ratio"]) > 2 * n["stderr"] for n in rows)
  text = (
    f"Of {plural(len(rows), 'pair')} of neighbouring sizes at the same budget, {clear} differ by "
    "more than two standard errors over clips (paired)"
  )
  if log_sd is None:
    return text + "."
  both = [(n["stderr"] ** 2 + 2 * log_sd**2) ** 0.5 for n in rows]
  sure = sum(abs(n["log_ratio"]) > 2 * error for n, error in zip(rows, both))
  return f"{text}; with what one seed more or less changes, {sure}."


def cells(report: Part, images: Images) -> str:
  rows, classes = [], []
  shown = list(dict.fromkeys(k for c in report["cells"] for k in c["coherence"]))
  wanted = [k for k in shown if k.split("@")[0] == "velocity_error"][:2] or shown[:2]
  for c in report["cells"]:
    state = c["status"] if c["status"] != "failed" else f"failed: {c['why']}"
    rows.append([
      c["name"], state, flop(c["budget"]), count(c["params"]), count(c["tokens"]),
      number(c["steps"]), plus_minus(c["loss"], c["stderr"]),
      *(number(c["coherence"].get(k)) for k in wanted), duration(c["seconds"]),
    ])  # fmt: skip
    classes.append({"failed": "failed"}.get(c["status"], "held" if c["held_out"] else ""))
  head = ("cell", "status", "budget (FLOP)", "parameters", "tokens", "steps", "loss",
          *(k.replace("_", " ").replace("@", ", ") for k in wanted), "time")  # fmt: skip
  said = "Loss with its standard error over clips. An asterisk marks held-out cells; what has not "
  said += "run shows what is planned. The same table, of finished cells, is in cells.csv."
  return table(head, rows, text=(1,), caption=said, classes=classes)


def cost(report: Part, images: Images) -> str:
  part = report["cost"]
  split = listed([f"{duration(s)} {PARTS.get(name, name)}"
                  for name, s in part["seconds_by_part"].items() if s >= 0.5])  # fmt: skip
  lines = [
    f"{plural(part['cells'], 'finished cell')} took {flop(part['flops'])} FLOP of training "
    f"(three forward passes per step; evaluation is not counted), {count(part['tokens'])} tokens "
    f"and {duration(part['seconds'])} of wall-clock time: {split}."
  ]
  if part["cells"] > 1:
    lines.append(
      "Where a longer cell went on from a shorter one, what they share counts in both: the sums "
      "are what the cells take one by one, the most that was spent."
    )
  if part["planned_seconds"]:
    lines.append(f"Training was expected to take {duration(part['planned_seconds'])}.")
  if part["money"] is not None:
    lines.append(f"At {part['price']:,.2f} per hour that is {part['money']:,.2f} "
                 "(the price and its currency are the sweep's).")  # fmt: skip
  if part["not_counted"]:
    lines.append(f"Not counted, because they have left no account: "
                 f"{listed(part['not_counted'])}.")  # fmt: skip
  return paragraph(*lines)


# --- terms --------------------------------------------------------------------------------------


def terms(report: Part, images: Images) -> str:
  about = report["about"]
  pairs = [
    ("Cell", "one training run of the sweep, with its own directory, settings and seed."),
    ("FLOP, compute, budget", "multiplications and additions of training, counted from the model's "
     "matrix products, three forward passes per step. A budget is the compute a cell may use."),
    ("Parameters (N)", "numbers that training adjusts: the size of a model."),
    ("Token (D)", "one patch of a clip as the model sees it; D counts all that were trained on."),
    ("Seed", "the start of all randomness of a run. Two seeds are two repeats."),
    ("Frozen loss", "squared error of the clean clip that the model believes in, over sixteen "
     "fixed amounts of noise, as a share of the variance of the data; the same clips and the same "
     "noise for every cell."),
    ("Held out", "not used in any fit; predicted, with date and seal, before it was run. The seal "
     "(SHA-256) changes when one character of the prediction does."),
    ("Standard error", "how far the mean would move with other clips, or other seeds."),
    ("95 % interval", "by bootstrap: the fit is repeated on resampled and re-noised cells, and the "
     "middle 95 % of the answers are kept. A real result falls outside once in twenty times if the "
     "form of the law is right; the interval knows nothing of a wrong form."),
    ("Exponent", "the power with which something falls: .5 means that 4 times the compute halves "
     "it."),
  ]  # fmt: skip
  if "why" not in report["coherence"]:
    pairs += [
      (m["title"] + (f" ({m['unit']})" if m["unit"] else ""), m["meaning"])
      for m in report["coherence"]["measures"]
    ]
    made = [f"{name} ({', '.join(f'{k} {v}' for k, v in settings.items())})"
            for name, settings in about["split_settings"].items()]  # fmt: skip
    pairs.append(("Split", "a set of evaluation clips, with what sets its data apart: "
                  + listed(made) + "."))  # fmt: skip
  items = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in pairs)
  code = listed(about["commits"])
  foot = f'<p class="small">Code of the runs: {code}.</p>' if code else ""
  return f"<dl>{items}</dl>{foot}"
