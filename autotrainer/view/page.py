"""The page that follows runs: what is at which path."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from autotrainer.comparison.compare import compare_runs
from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.reporting.page.assets import LIBRARY, SCRIPTS, asset
from autotrainer.reporting.page.chart_data import chart_data
from autotrainer.safe_text import safe_line, safe_text
from autotrainer.view.followed_run import FollowedRun
from autotrainer.view.run_folder import RunFolder
from autotrainer.view.server import Content, Route
from autotrainer.view.summary import list_runs, summary

__all__ = ["routes"]

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_OWN = {"": "view.html", "view.css": "view.css", "view.js": "view.js", "compare.js": "compare.js"}
_OF_REPORT = (LIBRARY, *SCRIPTS, "page.css")

_READ_SECONDS = 0.4
"""Time that one request spends on reading logs, about; the page asks again."""


def routes(folder: RunFolder) -> Mapping[str, Route]:
    """Return what the server answers: the page, the list of runs, each run by its number, and comparisons of two."""
    lock = threading.Lock()  # each request is answered by a thread of its own

    def runs() -> Content:
        with lock:
            folder.update(_READ_SECONDS)
            return Content.json(list_runs(folder))

    def details(number: str) -> Content | None:
        with lock:
            found = folder.runs.get(int(number))
            return None if found is None else Content.json(_details(found))

    def compare(first: str, second: str) -> Content | None:
        with lock:
            baseline, run = (folder.runs.get(int(number)) for number in (first, second))
            measured = [each for each in (baseline, run) if each is not None and len(each.run.history.steps)]
            return Content.json(_comparison(*measured)) if len(measured) == 2 else None

    fixed = "|".join(map(re.escape, (*_OWN, *_OF_REPORT)))
    return {f"({fixed})": _file, "runs": runs, r"runs/(\d{1,6})": details, r"compare/(\d{1,6})/(\d{1,6})": compare}


def _details(run: FollowedRun) -> dict[str, Any]:
    """Return the report of a run as HTML, without its charts, and what the charts show."""
    report = run.report
    html = report.to_html().partition("<main>")[2].partition("</main>")[0]  # names in it are escaped
    return {**summary(run), "html": html, "data": chart_data(report.to_dict())}


def _comparison(baseline: FollowedRun, run: FollowedRun) -> dict[str, str]:
    sides = [
        [ComparedRun(each.name, each.run.history, each.run.context, tuple(each.report.findings))]
        for each in (baseline, run)
    ]
    return {
        "title": safe_line(f"{run.name} compared with {baseline.name}"),
        "text": safe_text(compare_runs(*sides).text),
    }


@cache
def _file(name: str) -> Content:
    """Return one of the fixed files."""
    kind = _KINDS[_OWN.get(name, name).rpartition(".")[2]]
    own = name in _OWN
    text = files("autotrainer.view").joinpath("assets", _OWN[name]).read_text("utf-8") if own else asset(name)
    return Content(kind, text.encode())
