"""Small pieces of a page: numbers in words, tables, figures. No scripts, nothing from elsewhere.

Text in is HTML: what a sweep says has gone through `escaped` before (page.page).
"""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from videojax.io.log import clock_text
from videojax.report.plotting import short

Number = float | int | None
Part = Mapping[str, Any]  # of report.json
Images = Mapping[str, bytes]  # file name -> contents


def escaped(value: Any) -> Any:
  """A part of report.json whose every text, keys included, is text in HTML and never markup.

  The page is made of what this returns and of literals: none of its makers has to escape anything.
  """
  if isinstance(value, str):
    return escape(value.encode("utf-8", "replace").decode())
  if isinstance(value, Mapping):
    return {escaped(k): escaped(v) for k, v in value.items()}
  return [escaped(v) for v in value] if isinstance(value, list | tuple) else value


CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1c1c1c;
  background: #fff; max-width: 54rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #ccc; }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .3rem; }
p, ul, dl { margin: .5rem 0; }
nav { font-size: .92rem; }
nav a { margin-right: .9rem; white-space: nowrap; }
a { color: #0b57a4; }
figure { margin: 1rem 0; }
.wide { overflow-x: auto; }
figure img { display: block; width: 100%; min-width: 34rem; height: auto; }
figure img.pixels { width: auto; max-width: 100%; min-width: 0; }
figcaption { font-size: .9rem; color: #444; margin-top: .3rem; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
sub, sup { line-height: 0; font-size: .75em; }
figure.table figcaption { margin: 0 0 .3rem; }
th, td { padding: .22rem .55rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  vertical-align: top; white-space: nowrap; }
th { border-bottom: 1px solid #888; font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.long { white-space: normal; min-width: 14rem; text-align: left; }
tr.failed td { background: #fff3ec; }
tr.held td:first-child::after { content: " *"; color: #b34700; }
.loud { border: 2px solid #b34700; background: #fff3ec; padding: .5rem .8rem; margin: 1rem 0; }
.small { font-size: .9rem; color: #444; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0 0 0 1.2rem; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media print { nav { display: none; } body { max-width: none; font-size: 11pt; }
  h2, h3 { break-after: avoid; } figure, tr { break-inside: avoid; }
  figure img { min-width: 0; } .wide { overflow: visible; }
  table { font-size: 8pt; } th, td { white-space: normal; padding: .15rem .3rem; } }
"""


def number(value: Any, digits: int = 3) -> str:
  """'0.0153', '1.2e-5' as HTML; an en dash where there is none."""
  if value is None or (isinstance(value, float) and not math.isfinite(value)):
    return "&ndash;"
  if isinstance(value, int):
    return f"{value:,}"
  if value and not 1e-4 <= abs(value) < 1e6:
    return scientific(value, digits)
  return f"{value:.{_decimals(value, digits)}f}".replace("-", "&minus;")


def _decimals(value: float | int, digits: int) -> int:
  return max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0


def scientific(value: float | int, digits: int = 3) -> str:
  """'1.6x10^14' as HTML."""
  mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
  mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
  power = f"10<sup>{str(int(exponent)).replace('-', '&minus;')}</sup>"
  return power if mantissa == "1" else f"{mantissa}&times;{power}"


def flop(value: Number) -> str:
  return "&ndash;" if value is None else scientific(value)


def count(value: Number) -> str:
  """'1.21M' parameters or tokens."""
  return "&ndash;" if value is None else short(value)


def percent(value: Number, digits: int = 1, *, sign: bool = False) -> str:
  if value is None or not math.isfinite(value):
    return "&ndash;"
  text = f"{100 * value:+.{digits}f}" if sign else f"{100 * value:.{digits}f}"
  return text.replace("-", "&minus;") + "&nbsp;%"


def plus_minus(value: Number, stderr: Number) -> str:
  """'0.0153 +- 0.0004', both to the decimals of two digits of the error."""
  if value is None or stderr is None or not stderr or not math.isfinite(stderr):
    return number(value)
  decimals = min(6, max(_decimals(stderr, 2), 0))
  return f"{value:.{decimals}f}&nbsp;&plusmn;&nbsp;{stderr:.{decimals}f}".replace("-", "&minus;")


def interval(value: Number, low: Number, high: Number, form: Any = number) -> str:
  """'0.44 [0.42, 0.47]'; without the brackets where there is no interval."""
  if low is None or high is None:
    return str(form(value))
  return f"{form(value)} [{form(low)}, {form(high)}]"


def duration(seconds: Number) -> str:
  """'48 s', '12 min', '3.4 h'."""
  return "&ndash;" if seconds is None else clock_text(seconds).replace(" ", "&nbsp;")


def moment(iso: str) -> str:
  """'2026-11-24 10:40' of '2026-11-24T10:40:15Z'."""
  return iso[:16].replace("T", " ")


def plural(count: int, word: str) -> str:
  return f"{count} {word}{'' if count == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
  """'a, b and c'."""
  return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 2 else items)


def table(
  head: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  caption: str = "",
  text: Sequence[int] = (),
  classes: Sequence[str] | None = None,
) -> str:
  """A table of HTML cells; `text` are the columns that are words, `classes` those of the rows."""
  kind = lambda i: ' class="text"' if i in text else ""
  top = "".join(f'<th scope="col"{kind(i)}>{h}</th>' for i, h in enumerate(head))
  body = []
  for place, row in enumerate(rows):
    style = f' class="{classes[place]}"' if classes and classes[place] else ""
    body.append(f"<tr{style}>" + "".join(f"<td{kind(i)}>{c}</td>" for i, c in enumerate(row))
                + "</tr>")  # fmt: skip
  said = f"<figcaption>{caption}</figcaption>" if caption else ""
  return (f'<figure class="table">{said}<div class="wide"><table><thead><tr>{top}</tr></thead>'
          "<tbody>" + "\n".join(body) + "</tbody></table></div></figure>")  # fmt: skip


def image(data: bytes, kind: str, *, alt: str, caption: str, pixels: bool = False) -> str:
  """A figure with its picture inside; `kind` is svg+xml, webp or png."""
  inside = base64.b64encode(data).decode()
  style = ' class="pixels"' if pixels else ""
  return (
    f'<figure><div class="wide"><img{style} alt="{alt}" '
    f'src="data:image/{kind};base64,{inside}"></div><figcaption>{caption}</figcaption></figure>'
  )


def figure(images: Images, name: str, alt: str, caption: str) -> str:
  """A drawing of the report, by name."""
  return image(images[f"{name}.svg"], "svg+xml", alt=alt, caption=caption)


def paragraph(*sentences: str) -> str:
  return f"<p>{' '.join(s for s in sentences if s)}</p>"


def bullets(items: Sequence[str]) -> str:
  return "<ul>" + "".join(f"<li>{item}</li>" for item in items if item) + "</ul>"


def loud(text: str) -> str:
  return f'<p class="loud" role="alert">{text}</p>'


def document(title: str, sections: Sequence[tuple[str, str, str]], before: str) -> str:
  """A page of (anchor, heading, body)."""
  links = "".join(f'<a href="#{anchor}">{heading}</a> ' for anchor, heading, _ in sections)
  bodies = "\n".join(
    f'<section id="{anchor}"><h2>{heading}</h2>\n{body}</section>'
    for anchor, heading, body in sections
  )
  return (
    f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{title}</title>\n<style>{CSS}</style></head>\n<body><main>\n"
    f'{before}\n<nav aria-label="Sections">{links}</nav>\n{bodies}\n</main></body></html>\n'
  )
