"""The report as one HTML page for readers who have never seen the code.

Its text and tables are in templates/; values passed to them are escaped text, never markup.
"""

import base64
from collections.abc import Mapping

import jinja2

from videojax.report import number_text
from videojax.report.report_json import Report

FILTERS = ("number", "scientific", "count", "percent", "plus_minus", "interval", "duration",
           "moment", "plural", "listed", "words")  # fmt: skip
TYPES = {"svg": "image/svg+xml", "webp": "image/webp", "png": "image/png", "csv": "text/csv"}
PARTS = {"compile": "compiling", "data_wait": "waiting for data", "step": "training",
         "save": "saving", "evaluate": "evaluating"}  # fmt: skip


def page(report: Report, images: Mapping[str, bytes]) -> str:
  """The self-contained HTML page.

  Args:
    report: report.json.
    images: figures (NAME.svg), their numbers (NAME.csv), clips (samples.webp, samples.png).
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("videojax.report"), autoescape=True, trim_blocks=True,
    lstrip_blocks=True, undefined=jinja2.StrictUndefined,
  )  # fmt: skip
  environment.filters |= {name: getattr(number_text, name) for name in FILTERS}
  inside = {name: _data_uri(name, data) for name, data in images.items()}
  template = environment.get_template("page.html.jinja")
  text = template.render(report=report, images=inside, count=number_text.count, parts=PARTS)
  return text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be written


def _data_uri(name: str, data: bytes) -> str:
  return f"data:{TYPES[name.split('.')[-1]]};base64,{base64.b64encode(data).decode()}"
