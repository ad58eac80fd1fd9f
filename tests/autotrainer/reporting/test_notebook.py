"""What notebooks show: escaped, readable on light and dark pages, and updated only as often as costs nothing."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest

import autotrainer
from autotrainer.edits import SetLearningRate
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.notebook import CellOutput, finding_lines
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.reporting.report import Report

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\n&amp;"


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


class _Tags(HTMLParser):
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


def _checked(html: str) -> str:
    """Return HTML whose tags are balanced and harmless, and whose text has the color of the page or a background."""
    tags = _Tags()
    tags.feed(html)
    assert not tags.open
    for style in tags.styles:
        color = re.search(r"(?<!-)\bcolor:([^;]+)", style)
        assert color is None or color[1] == "inherit" or "background:#" in style
    assert "\u202e" not in html
    return html


def _finding(problem: str = "dying_relu", **fields: Any) -> Finding:
    values = {"code": "AT201", "severity": Severity.ERROR, "confidence": 0.9, "message": "it is bad"}
    return Finding(problem, **{**values, **fields})


OUTCOME = Outcome(
    status="repaired",
    stopped_by="done",
    metric="accuracy",
    score=0.9,
    baseline_score=0.5,
    test_score=0.88,
    baseline_test_score=0.5,
    cost=2.0,
    patch=f"learning rate: {HOSTILE}",
    changes=(),
    attempts=(AttemptRow(("scale_learning_rate",), 0.9, 1.0, None, (), True, None, 0, ""),),
    left_out={},
)


@pytest.mark.parametrize(
    ("shown", "parts"),
    [
        (_finding(), ["error AT201 dying_relu", "it is bad"]),
        (_finding(HOSTILE, message=HOSTILE, layers=(HOSTILE,), place=HOSTILE, repairs=(HOSTILE,)), ["&lt;script&gt;"]),
        (_finding(evidence={"share": 0.5, HOSTILE: float("nan")}), ["share = 0.5"]),
        (_finding(severity=Severity.INFO, repairs=("x",)), ["info AT201"]),
        (_finding(layers=tuple("abcdefgh")), ["layers: a, b, c, d, e, f, …"]),
        (Report(), ["no problem found"]),
        (Report((_finding(),), {"steps": 3}, {"loss": ((0.0, 2.0), (1.0, 1.0))}), ["1 error in 3 steps", "loss 2 → 1"]),
        (Report((_finding("a"), _finding("b", caused_by="a"))), ["causes b [error]"]),
        (Report((), {"notes": [HOSTILE], "framework": HOSTILE}, {"loss": ((0.0, 1.0), (1.0, 2.0))}), ["&lt;img"]),
        (Report((_finding(),), {}, {}, OUTCOME), ["repaired", "0.5 → 0.9", "Changes to make", "&lt;script&gt;"]),
        (
            autotrainer.RepairPlan(("scale_learning_rate",), (SetLearningRate(0.1),), ("not_learning",)),
            ["fixes not_learning", "0.1"],
        ),
    ],
)
def test_objects_are_shown_as_html(shown: Any, parts: list[str]) -> None:
    html = _checked(shown._repr_html_())
    for part in parts:
        assert part in html


def test_running_cell_names_the_roots_that_are_present() -> None:
    findings = [_finding(name) for name in "abc"] + [
        _finding("d", caused_by="a"),
        _finding("e", severity=Severity.INFO),
    ]
    html = _checked(finding_lines(findings, 2))
    assert "AT201 a" in html
    assert "causes d" in html
    assert "AT201 b" in html
    assert "1 more problem" in html
    assert "AT201 e" not in html


@pytest.mark.parametrize(("cost", "pause"), [(0.0, 1.0), (0.0005, 1.0), (0.02, 20.0)])
def test_output_takes_a_thousandth_of_the_time_at_most(cost: float, pause: float) -> None:
    notebook = Notebook(cost)
    output = notebook.output()
    output.show(lambda: ("first", ""))
    shown_at = notebook.now
    while len(notebook.shown) == 1:
        notebook.now += 0.1
        output.show(lambda: ("second", ""))
    assert notebook.now - shown_at - cost == pytest.approx(pause, abs=0.11)
    output.show(lambda: ("last", ""), at_once=True)
    assert [each["text/html"] for each in notebook.shown] == ["first", "second", "last"]


def test_output_is_one_that_is_updated() -> None:
    notebook = Notebook()
    output = notebook.output()
    for _ in range(3):
        output.show(lambda: ("html", "text"), at_once=True)
    assert [each["update"] for each in notebook.shown] == [False, True, True]
    assert len({each["display_id"] for each in notebook.shown}) == 1
    other = notebook.output()
    other.show(lambda: ("html", "text"))
    assert notebook.shown[-1]["display_id"] != notebook.shown[0]["display_id"]


@pytest.mark.parametrize(
    ("ipython", "is_notebook"),
    [
        (None, False),
        (SimpleNamespace(get_ipython=lambda: None), False),  # imported, but not running
        (SimpleNamespace(get_ipython=lambda: SimpleNamespace()), False),  # in a terminal
        (Notebook(), True),
    ],
)
def test_notebook_is_recognized(monkeypatch: pytest.MonkeyPatch, ipython: Any, is_notebook: bool) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert (CellOutput.of_running_cell() is not None) == is_notebook
