"""The report as one HTML page for people who have never seen the code; made from report.json."""

from collections.abc import Sequence

from videojax.report import page_loss, page_rest
from videojax.report.markup import (
  Images,
  Part,
  bullets,
  count,
  document,
  escaped,
  flop,
  interval,
  listed,
  loud,
  moment,
  number,
  paragraph,
  percent,
  plural,
)


def page(report: Part, images: Images) -> str:
  """HTML with everything inside it.

  Args:
    report: report.json.
    images: figures (NAME.svg), clips (samples.webp, samples.png).
  """
  report = escaped(report)
  makers = (
    ("clips", "What compute looks like", page_loss.clips),
    ("loss", "Loss against compute", page_loss.loss),
    ("size", "The best size at each budget", page_loss.isoflop),
    ("law", "A law of the loss, and whether it predicts", page_loss.law),
    ("coherence", "Coherence against compute", page_rest.coherence),
    ("levels", "Where in the noise the loss falls", page_loss.levels),
    ("rates", "Learning rate", page_loss.rates),
    ("settings", "Other settings", page_rest.by_key),
    ("noise", "Seeds and noise", page_rest.noise),
    ("cells", "All cells", page_rest.cells),
    ("cost", "What it cost", page_rest.cost),
    ("terms", "Terms", page_rest.terms),
  )
  sections = [(a, title, body) for a, title, make in makers if (body := make(report, images))]
  if report["left_out"]:
    sections.append(("left-out", "What is not on this page", bullets(report["left_out"])))
  return document(report["about"]["title"], sections, _head(report))


# --- the top ------------------------------------------------------------------------------------


def _head(report: Part) -> str:
  about = report["about"]
  warnings = [loud(text) for text in report["warnings"]]
  return "\n".join([
    f"<h1>{about['title']}: what compute bought</h1>",
    paragraph(about["description"]) if about["description"] else "",
    _what(about),
    *warnings,
    "<h3>In short</h3>",
    bullets(in_short(report)),
  ])  # fmt: skip


def _what(about: Part) -> str:
  statuses = about["statuses"]
  told = listed([f"{n} {status}" for status, n in statuses.items() if n])
  when = about["started"]
  ran = f" between {moment(when[0])} and {moment(when[1])} (UTC)" if when else ""
  if when and moment(when[0]) == moment(when[1]):
    ran = f" on {moment(when[0])} (UTC)"
  where = f", on {listed(about['devices'])}" if about["devices"] else ""
  seeds = listed([f"{s['groups']} with {plural(s['seeds'], 'seed')}" for s in about["seeds"]])
  sizes = about["sizes"]
  spread = f"{count(sizes[0])} to {count(sizes[-1])}" if len(sizes) > 1 else count(sizes[0])
  budgets = listed([flop(b) for b in about["budgets"]])
  return paragraph(
    f"A sweep trains the same kind of model many times and changes a few things between the runs. "
    f"Each run is a <em>cell</em>. This one has {sum(statuses.values())} cells: {told}.",
    f"The finished ones are {sum(s['groups'] for s in about['seeds'])} different settings "
    f"({seeds}), with {spread} parameters and {budgets} FLOP of training each.",
    f"They were started{ran}{where}." if ran or where else "",
  )


def in_short(report: Part) -> list[str]:
  """The findings, each one sentence with its numbers."""
  out = []
  for one in report["series"]:
    of = f" ({one['label']})" if one["label"] else ""
    fit = one["power"]
    if fit:
      out.append(
        f"Ten times the compute multiplies the lowest loss{of} by "
        f"{number(10 ** -fit['gamma'], 2)}: the exponent is "
        f"{interval(fit['gamma'], fit['low'], fit['high'])}."
      )
    size = one["isoflop"]["size_law"]
    if size:
      out.append(
        f"The best size{of} grows as compute to the power "
        f"{interval(size['exponent'], size['low'], size['high'])}."
      )
  out += _held_out_in_short(report["held_out"]["cells"])
  curves = report["rates"].get("curves", [])
  if curves:
    best = sorted(c["optimum"]["rate"] for c in curves)
    out.append(
      f"The best learning rate is {number(best[0])} to {number(best[-1])} over "
      f"{plural(len(curves), 'curve')}, {sum(not c['edge'] for c in curves)} of them with worse "
      "rates on both sides."
    )
  out += _coherence_in_short(report["coherence"])
  noise = report["noise"]
  if noise["log_sd"] is not None:
    out.append(f"Repeats with another seed differ by {percent(noise['log_sd'])} in loss (one "
               "standard deviation).")  # fmt: skip
  else:
    out.append("Every setting was run with one seed: how far repeats differ is not known.")
  failed = report["about"]["statuses"]["failed"]
  if failed:
    names = [c["name"] for c in report["cells"] if c["status"] == "failed"]
    out.append(f"{plural(failed, 'cell')} failed: {listed(names[:6])}"
               + (" and more." if len(names) > 6 else "."))  # fmt: skip
  return out


def _held_out_in_short(cells: Sequence[Part]) -> list[str]:
  run = [c for c in cells if c["measured"] is not None and not c["late"]]
  if not run:
    return []
  inside = sum(c["inside"] for c in run)
  worst = max(run, key=lambda c: abs(c["error"]))
  base = max(abs(c["baseline_error"]) for c in run)
  return [
    f"{plural(len(run), 'cell')} of the largest budget {'was' if len(run) == 1 else 'were'} "
    f"predicted before being run: {inside} of {len(run)} inside the 95&nbsp;% interval, the "
    f"largest error {percent(worst['error'], sign=True)}. Repeating the best loss of the budget "
    f"before would have been off by up to {percent(base)}."
  ]


def _coherence_in_short(part: Part) -> list[str]:
  rows = part.get("exponents", [])
  name = next((r["measure"] for r in rows if r["measure"] == "velocity_error"),
              rows[0]["measure"] if rows else "")  # fmt: skip
  what = {"power": "{} ({})", "rate": "The odds of failing in {} ({})",
          "survival": "The hazard per frame behind {} ({})"}  # fmt: skip
  out = [
    f"{what[r['form']].format(r['title'], r['split'])} "
    f"fall{'' if r['form'] == 'rate' else 's'} as compute to the power &minus;&gamma;, "
    f"&gamma; = {interval(r['gamma'], r['low'], r['high'])}."
    for r in rows if r["measure"] == name
  ]  # fmt: skip
  sizes = [r for r in part.get("best_sizes", []) if r["measure"] == "velocity_error"]
  return out + [_smaller(sizes)] if sizes else out


def _smaller(rows: Sequence[Part]) -> str:
  """Answers 'is the best model for coherence smaller?' for one measure."""
  smaller = [r for r in rows if r["best_params"] < r["loss_params"]]
  larger = sum(r["best_params"] > r["loss_params"] for r in rows)
  sure = sum(r["resolved"] for r in smaller)
  return (
    f"Of {plural(len(rows), 'comparison')} (one per budget and split), the best model by "
    f"{rows[0]['title'].lower()} is smaller than the best by loss in {len(smaller)} and larger in "
    f"{larger}"
    + (f"; {sure} of the smaller ones are better by more than two standard errors over clips."
       if smaller else ".")
  )  # fmt: skip
