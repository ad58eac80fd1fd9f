"""A notebook that keeps what it shows, and a check of its HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

from autotrainer.reporting.notebook.cell_output import CellOutput


class Notebook:
    """Stands for the package IPython: keeps what is displayed, and lets time pass."""

    def __init__(self, cost: float = 0.0) -> None:
        self.shown: list[dict[str, Any]] = []
        self.now, self.cost = 100.0, cost
        self.display = SimpleNamespace(display=self._display)

    def _display(self, content: dict[str, str], **options: Any) -> None:
        self.now += self.cost
        self.shown.append({**content, **options})

    def get_ipython(self) -> Any:
        return SimpleNamespace(kernel=None)

    def output(self) -> CellOutput:
        return CellOutput(self, clock=lambda: self.now)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.styles: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "span", "pre", "svg", "path", "details", "summary"}
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag != "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(html: str) -> str:
    """Return HTML whose tags are balanced and harmless, and whose text has the color of the page or a background."""
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    for style in tags.styles:
        color = re.search(r"(?<!-)\bcolor:([^;]+)", style)
        assert color is None or color[1] == "inherit" or "background:#" in style
    assert "\u202e" not in html
    return html
