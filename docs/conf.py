"""Settings of the documentation: ``python -m sphinx -W docs build/docs``."""

from __future__ import annotations

import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from autotrainer import __version__, registry  # noqa: E402 - from this checkout
from autotrainer.cli.explain import Page, problem_page, repair_page  # noqa: E402

project = "autotrainer"
author = "the autotrainer developers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

linkcheck_ignore = ["https?://"]  # only what lies within: whether others' sites answer is no matter of a commit

html_theme = "furo"
html_title = f"autotrainer {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False

napoleon_numpy_docstring = False
default_role = "py:obj"  # single backticks in docstrings: a link where the name is documented here
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
suppress_warnings = ["ref.python"]  # a record that `autotrainer` and `autotrainer.rule` both export has two entries


def setup(app: Any) -> None:
    """Generate the pages of problems and repairs, and let docstrings hold Markdown fences."""
    app.connect("config-inited", lambda _app, _config: write_pages())
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)  # before Napoleon


def write_pages() -> None:
    """Write what ``autotrainer explain`` shows: one page for each problem and each repair, and two indexes."""
    problems = {rule.problem: problem_page(rule) for rule in registry.rules()}
    repairs = {repair.name: repair_page(repair) for repair in registry.repairs()}
    links = {name: f"../problems/{name}.md" for name in problems} | {name: f"../repairs/{name}.md" for name in repairs}
    intro = "`autotrainer explain` shows the same pages in the terminal."
    _write("problems", "Problems", f"One rule for each problem. {intro}", problems, links)
    _write("repairs", "Repairs", f"What `fit` and `Loop` can try. {intro}", repairs, links)


def _picture(folder: str, name: str, links: Mapping[str, str]) -> str:
    """Return the picture of a page with its caption; empty if ``make_pictures.py`` makes none."""
    captions = HERE / "_static" / folder / "captions.json"
    caption = json.loads(captions.read_text("utf-8")).get(name, "") if captions.exists() else ""
    if not caption:
        return ""
    alternative = re.sub(r"([*<>\[\]\\])", r"\\\1", caption.replace("`", ""))
    return f"![{alternative}](../_static/{folder}/{name}.svg)\n\n*{_prose(caption, links)}*\n\n"


def _write(folder: str, title: str, intro: str, pages: Mapping[str, Page], links: Mapping[str, str]) -> None:
    target = HERE / folder
    target.mkdir(exist_ok=True)
    for old in target.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    rows = []
    for name, page in pages.items():
        summary, *_ = page.text.partition("\n")
        _update(
            target / f"{name}.md",
            f"# {page.title}\n\n{_prose(summary, links)}\n\n{_picture(folder, name, links)}{_sections(page, links)}",
        )
        code = page.title.removesuffix(name).strip()
        rows.append(f"| [{name}]({name}.md) {code} | {_prose(summary, {})} |")
    table = "\n".join(["| name | in one sentence |", "|---|---|", *rows])
    toctree = "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])
    _update(target / "index.md", f"# {title}\n\n{intro}\n\n{table}\n\n{toctree}\n")


def _update(path: Path, text: str) -> None:
    """Write a file unless it is so already, so that Sphinx builds only what has changed."""
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


_BELOW = {"Threshold values": "Thresholds", "Repairs by name": "Repairs"}
"""Sections that stand below another one, without a heading of their own."""


def _sections(page: Page, links: Mapping[str, str]) -> str:
    parts = re.split(r"^(\S[^\n]*)\n(?=    )", page.text, flags=re.MULTILINE)
    sections: dict[str, str] = {}
    for heading, body in zip(map(str.strip, parts[1::2]), parts[2::2], strict=True):
        text = _section(heading, textwrap.dedent(body).strip(), links)
        if _BELOW.get(heading) in sections:
            sections[_BELOW[heading]] += f"\n{text}\n"
        else:
            sections[heading] = f"{text}\n"
    return "\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items())


def _section(heading: str, body: str, links: Mapping[str, str]) -> str:
    if heading == "Calibration":
        return _tables_and_prose(body, links)
    if heading == "Threshold values":
        joined = re.sub(r"\n +", " ", body)
        return "\n".join(re.sub(r"^(\S+) = ", r"* `\1` = ", _prose(line, links)) for line in joined.splitlines())
    if heading in ("Repairs by name", "Problems it addresses"):
        return ", ".join(f"[{name}]({links[name]})" for name in body.replace("\n", " ").split(", "))
    return _prose(body, links)


def _tables_and_prose(body: str, links: Mapping[str, str]) -> str:
    """Return text in which lines of tables begin with two spaces or a mark."""
    parts = []
    for table, lines in itertools.groupby(body.splitlines(), lambda line: line.startswith(("  ", "* "))):
        text = "\n".join(lines)
        parts.append(f"```text\n{text}\n```" if table else _prose(text, links))
    return "\n".join(parts)


def _prose(text: str, links: Mapping[str, str]) -> str:
    """Return text as Markdown: names of problems and repairs are links, signs that mean something there are escaped."""

    def convert(part: str) -> Iterator[str]:
        for code, plain in re.findall(r"``?([^`]+)``?|([^`]+)", part):
            if code:
                yield f"[`{code}`]({links[code]})" if code in links else f"`{code}`"
            else:
                yield re.sub(r"([*<>\[\]\\])", r"\\\1", plain)

    return "".join(convert(text))


def convert_docstring(_app: Any, kind: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Turn Markdown fences into code blocks, and keep Napoleon from taking what stands before a colon for a type."""
    if kind in ("attribute", "data", "property") and lines and ":" in lines[0]:
        lines[0] = f": {lines[0]}"
    result: list[str] = []
    inside = False
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        if line.lstrip().startswith("```"):
            inside = not inside
            language = line.strip().removeprefix("```") or "text"
            result += ["", f"{indent}.. code-block:: {language}", ""] if inside else [""]
        elif result and result[-1].strip() in ("Returns:", "Yields:"):
            result.append(f"{indent}: {line.lstrip()}")
        else:
            result.append(f"    {line}" if inside and line else line)
    lines[:] = result
