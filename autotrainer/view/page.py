"""The page that follows runs: what is at which path."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from autotrainer.view.run_folder import RunFolder
from autotrainer.view.server import Content, Route
from autotrainer.view.summary import list_runs, run_details

__all__ = ["routes"]

_ASSETS = {"": "view.html", "view.css": "view.css", "view.js": "view.js"}
"""File of the folder ``assets`` by path."""

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

_READ_SECONDS = 0.4
"""Time that one request spends on reading logs, about; the page asks again."""


def routes(folder: RunFolder) -> Mapping[str, Route]:
    """Return what the server answers: the page, the list of runs, and each run by its number."""
    lock = threading.Lock()  # each request is answered by a thread of its own

    def runs() -> Content:
        with lock:
            folder.update(_READ_SECONDS)
            return Content.json(list_runs(folder))

    def run(number: str) -> Content | None:
        with lock:
            found = folder.runs.get(int(number))
            return None if found is None else Content.json(run_details(found))

    return {"(|view.css|view.js)": _asset, "runs": runs, r"runs/(\d{1,6})": run}


@cache
def _asset(path: str) -> Content:
    name = _ASSETS[path]
    body = files("autotrainer.view").joinpath("assets", name).read_bytes()
    return Content(_KINDS[name.rpartition(".")[2]], body)
