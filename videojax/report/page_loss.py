"""The report's sections on the loss: clips, frontier, sizes, law, noise levels, learning rate.

Each function takes report.json and the images, and returns HTML; '' where it does not apply.
"""

from collections.abc import Sequence

from videojax.report.markup import (
  Images,
  Part,
  bullets,
  count,
  figure,
  flop,
  image,
  interval,
  listed,
  number,
  paragraph,
  percent,
  plural,
  table,
)


def clips(report: Part, images: Images) -> str:
  part = report["samples"]
  if "why" in part:
    return ""
  columns = listed([f"{c['label']} ({count(c['params'])} parameters, loss {number(c['loss'])})"
                    for c in part["columns"]])  # fmt: skip
  rule = (
    "Each column is the cell with the lowest loss of its budget, all with the same starting noise; "
    f"the rows are the first {plural(part['clips'], 'evaluation clip')}, not a choice. Clips are "
    "enlarged without smoothing. "
  )
  given = (
    f"Framed in orange: {plural(part['given'], 'frame')} given to the model; the rest is generated."
    if part["given"]
    else "No frame was given to the model."
  )
  names = ", ".join(c["label"] for c in part["columns"])
  story = "The same clips, continued by models that were trained with more and more compute. "
  if len(part["columns"]) == 1:
    story = "True clips beside those of the model with the lowest loss. "
  return (
    paragraph(f"{story}1x is {flop(part['unit'])} FLOP. From left to right: {columns}.",
              f"They are cells with {part['series']}." if part["series"] else "")
    + image(images["samples.webp"], "webp", pixels=True, caption=rule + given,
            alt=f"Animation: true clips and the clips of models at {names} compute, side by side.")
    + image(images["samples.png"], "png", pixels=True,
            alt=f"Frames over time of one clip; rows: truth, {names}.",
            caption="Frames of the first clip over time, for paper. Top row: the truth.")
  )  # fmt: skip


def loss(report: Part, images: Images) -> str:
  if "frontier.svg" not in images:
    return ""
  ignorance = report["about"]["ignorance"]
  intro = paragraph(
    "The <em>frozen loss</em> asks every model the same question: given true clips under sixteen "
    "fixed amounts of noise, what is the clean clip? It is the squared error of the answer as a "
    f"share of the variance of the data, on {number(report['about']['clips'])} clips that are the "
    "same for every cell. 0 is perfect.",
    f"Always answering grey scores {number(ignorance['zero_model'])}, and the best answer that "
    f"looks at one pixel at a time {number(ignorance['wiener'])}."
    if ignorance["wiener"] else "",
  )  # fmt: skip
  drawn = figure(
    images, "frontier", "Frozen loss against training compute; the best cell of each budget "
    "joined.", "Frozen loss against training compute, both axes logarithmic. Bars are two standard "
    "errors (over clips and seeds)."
    + (" The dashed line is the fit to the best cell of each budget, with its 95&nbsp;% interval; "
       "held-out cells are not in it." if any(one["power"] for one in report["series"]) else ""),
  )  # fmt: skip
  return intro + drawn + "".join(_power_words(one) for one in report["series"])


def _power_words(one: Part) -> str:
  fit, of = one["power"], f" of {one['label']}" if one["label"] else ""
  if not fit:
    return paragraph(f"No power law is drawn{of}: it needs three budgets.")
  source = {
    "known": "the constant, which no amount of compute removes, is known",
    "law": "the constant, which no amount of compute removes, is that of the law further down, and "
           "taken for exact here",
    "assumed": "a constant that no amount of compute removes could not be told from the cells and "
               "is taken to be 0",
  }[fit["offset_from"]]  # fmt: skip
  return paragraph(
    f"The fit{of} is loss = {number(fit['offset'])} + k &middot; C<sup>&minus;&gamma;</sup> with "
    f"&gamma; = {interval(fit['gamma'], fit['low'], fit['high'])} over "
    f"{plural(fit['budgets'], 'budget')}; {source}."
  )


def isoflop(report: Part, images: Images) -> str:
  if "isoflop.svg" not in images:
    return ""
  out = paragraph(
    "Within a budget, a small model sees many clips and a large one few. Between them lies the "
    "size that reaches the lowest loss for that compute."
  ) + figure(
    images, "isoflop", "Frozen loss against parameters, one curve per budget.",
    "Each curve is one budget. The parabola (of the loss in the logarithm of the size) gives "
    "the minimum, the diamond, with its 95&nbsp;% interval. Hollow marks: the lowest cell is the "
    "smallest or the largest that was run, so that the minimum is not bracketed. Bars of the dots "
    "are two standard errors over clips and seeds; the clips are the same for all cells. Stars "
    "are held-out cells.",
  )  # fmt: skip
  for one in report["series"]:
    out += _minima(one)
  if "best_size.svg" in images:
    out += figure(images, "best_size", "Parameters at the minimum against compute.",
                   "The minima against compute, with 95&nbsp;% intervals; hollow: not bracketed. "
                   "The dashed line is the power law through them; a star is of held-out cells, "
                   "which are not in it.")  # fmt: skip
  return out


def _minima(one: Part) -> str:
  rows, warnings = [], []
  for part in one["isoflop"]["budgets"]:
    low, best = part["minimum"], min(part["points"], key=lambda p: p["loss"])
    rows.append([
      flop(part["budget"]), str(len(part["points"])),
      f"{count(best['params'])} ({best['cell']})", number(best["loss"]),
      interval(low["params"], low["low"], low["high"], count) if low else "none within reach",
      number(low["loss"]) if low else "&ndash;",
    ])  # fmt: skip
    warnings += [f"{flop(part['budget'])} FLOP: {w}" for w in part["warnings"]]
  head = ("budget (FLOP)", "sizes", "best size run", "its loss", "minimum, parameters",
          "loss there")  # fmt: skip
  out = table(head, rows, text=(2,), caption=one["label"]) if rows else ""
  size = one["isoflop"]["size_law"]
  if size:
    open_ended = any(part["edge"] for part in one["isoflop"]["budgets"])
    out += paragraph(
      f"Best size &prop; C<sup>a</sup> with a = "
      f"{interval(size['exponent'], size['low'], size['high'])} over "
      f"{plural(size['budgets'], 'budget')}"
      + (", minima that are not bracketed included." if open_ended else ".")
    )
    warnings += size["warnings"]
  return out + bullets(warnings) if warnings else out


def law(report: Part, images: Images) -> str:
  """The additive law, how well it describes the cells, and what it said of the held-out ones."""
  shown = [one for one in report["series"] if one["law"]]
  if not shown:
    return ""
  out = paragraph(
    "A law says what loss a model of N parameters will have after D tokens of training: "
    "L = E + A&thinsp;(N/N<sub>0</sub>)<sup>&minus;&alpha;</sup> + "
    "B&thinsp;(D/D<sub>0</sub>)<sup>&minus;&beta;</sup>. A is what the model's size costs at "
    "N<sub>0</sub> parameters, B what too little training costs at D<sub>0</sub> tokens, and E "
    "what neither removes. Held-out cells are not in the fit."
  )
  for one in shown:
    out += law_words(one)
  if "law.svg" in images:
    out += figure(
      images,
      "law",
      "Left: deviations of cells from the law. Right: predicted and measured loss.",
      "How far the measured loss of each setting is above the law, in per cent"
      + (f" (of {shown[0]['label']})" if len(shown) > 1 else "")
      + (
        "; and the held-out cells: predicted 95&nbsp;% interval, measured loss, and the best loss "
        "of the budget before."
        if report["held_out"]["cells"]
        else "."
      ),
    )
  return out + held_out(report["held_out"])


def law_words(one: Part) -> str:
  fit = one["law"]
  rows = [
    [name, interval(fit[key]["value"], fit[key]["low"], fit[key]["high"])]
    for name, key in (
      ("E", "E"), ("A", "A"), ("&alpha;", "alpha"), ("B", "B"), ("&beta;", "beta"),
      ("a = &beta; / (&alpha; + &beta;)", "a"),
    )
  ]  # fmt: skip
  said = (
    f"{one['label']} N<sub>0</sub> = {count(fit['N0'])}, D<sub>0</sub> = "
    f"{count(fit['D0'])}; {fit['cells']} cells"
    + (f" of at least {fit['least_steps']} steps" if fit["least_steps"] else "")
    + ", 95&nbsp;% intervals by bootstrap"
  )
  known = "" if fit["E_fitted"] else f" E = {number(fit['E']['value'])} was taken as known."
  return (
    table(("", "value"), rows, caption=said)
    + paragraph(
      f"The cells lie {percent(fit['residual'])} off the law (root mean square).{known} The best "
      "number of parameters for a budget C grows as C<sup>a</sup> under this law.",
    )
    + bullets(fit["warnings"])
  )


def held_out(part: Part) -> str:
  """The table of predictions, their seals and their score."""
  if not part["files"]:
    return ""
  lines = [
    f"{f['file']}: made {f['date']} from {f['from']} cells, seal "
    f"{'sound' if f['sound'] else '<strong>BROKEN</strong>'} <code>{f['sha256']}</code>"
    for f in part["files"]
  ]
  lines += [_best(f["budget"], best, part["cells"]) for f in part["files"] for best in f["best"]]
  out = "<h3>Predicted before it was run</h3>" + bullets(lines)
  rows = []
  for c in part["cells"]:
    told, verdict = c["predicted"], c["status"]
    if c["measured"] is not None:
      verdict = "inside" if c["inside"] else "<strong>outside</strong>"
      verdict += ", but dated too late" if c["late"] else ""
    rows.append([
      c["cell"], count(c["params"]),
      interval(told["mean"], told["low"], told["high"]), number(c["measured"]),
      percent(c["error"], sign=True), verdict, percent(c["baseline_error"], sign=True),
    ])  # fmt: skip
  head = ("cell", "parameters", "predicted loss", "measured", "error", "interval",
          "error of the baseline")  # fmt: skip
  out += table(head, rows, text=(5,), caption="Predicted and measured loss. The baseline says that "
               "nothing improves: the best loss of the largest budget before.")  # fmt: skip
  rows = [
    [f"{c['title']}, {c['split']}", flop(c["budget"]),
     interval(c["predicted"]["mean"], c["predicted"]["low"], c["predicted"]["high"]),
     number(c["measured"]), {None: "not run", True: "inside", False: "<strong>outside</strong>"}[
       c["inside"]]]
    for c in part["coherence"]
  ]  # fmt: skip
  if rows:
    titles = ("measure", "budget (FLOP)", "predicted", "measured", "interval")
    out += table(titles, rows, text=(4,), caption="Coherence of the cell with the lowest loss of "
                 "that budget.")  # fmt: skip
  return out


def _best(budget: float, best: Part, cells: Sequence[Part]) -> str:
  """What was said of the best size of a budget."""
  of = f"{flop(budget)} FLOP{', ' if best['series'] else ''}{best['series']}"
  if best["mean"] is None:
    return f"{of}: no best size was predicted ({best['why']})."
  size = interval(best["params"], best["params_low"], best["params_high"], count)
  loss = interval(best["mean"], best["low"], best["high"])
  ran = [c["measured"] for c in cells if c["budget"] == budget and c["measured"] is not None]
  came = f" The lowest of the held-out cells is {number(min(ran))}." if ran else ""
  return f"{of}: the best size was predicted to be {size} parameters, with a loss of {loss}.{came}"


def levels(report: Part, images: Images) -> str:
  part = report["levels"]
  if "levels.svg" not in images:
    return ""
  out = paragraph(
    "The frozen loss is the mean over sixteen amounts of noise. With little noise the question is "
    "how things look: edges and colours. With much noise it is what happens: the clip must be "
    "known almost without being seen.",
    f"Shown are the cells with {part['series']}." if part["series"] else "",
  ) + figure(
    images, "levels", "Squared error at sixteen noise levels, one line per budget.",
    "Error of the best cell of each budget at each noise level"
    + ("; right: the power of compute with which each falls, with its 95&nbsp;% interval."
       if part["exponents"] else "."),
  )  # fmt: skip
  if part["exponents"]:
    low, high = part["exponents"][0], part["exponents"][-1]
    out += paragraph(
      f"At the cleanest level the error falls with compute to the power {number(low['gamma'], 2)}, "
      f"at the noisiest to the power {number(high['gamma'], 2)}."
    )
  return out


def rates(report: Part, images: Images) -> str:
  part = report["rates"]
  if "rates.svg" not in images:
    return ""
  rows = []
  for curve in part["curves"]:
    best = curve["optimum"]
    note = "at the edge: not bracketed" if curve["edge"] else "bracketed"
    vertex = number(best.get("vertex"))
    name = ", ".join(filter(None, (curve["panel"], curve["label"])))
    rows.append([name, flop(curve["budget"]), str(len(curve["points"])),
                 number(best["rate"]), vertex, number(best["loss"]), note])  # fmt: skip
  head = ("cells", "budget (FLOP)", "rates", "best rate run", "vertex", "its loss", "")
  return (
    paragraph("Too small a step learns slowly, too large a one overshoots. Each line is one kind "
              "of cell; where the lines have their lowest point at the same place, the rate "
              "carries over from small models to large. Other sections use the best rate only.")
    + figure(images, "rates", "Frozen loss against learning rate, a line per size.",
             "Loss against learning rate; the circle marks the lowest cell of each line.")
    + table(head, rows, text=(0, 6), caption="The vertex is that of the parabola through the "
            "lowest cell and its two neighbours.")
  )  # fmt: skip
