"""One output of a cell, updated only as often as costs nothing, and only in notebooks."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from autotrainer.reporting.notebook.cell_output import CellOutput
from tests.autotrainer.reporting.notebook.fakes import Notebook


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
        (SimpleNamespace(), False),  # being imported
        (SimpleNamespace(get_ipython=lambda: None), False),  # imported, but not running
        (SimpleNamespace(get_ipython=lambda: SimpleNamespace()), False),  # in a terminal
        (Notebook(), True),
    ],
)
def test_notebook_is_recognized(monkeypatch: pytest.MonkeyPatch, ipython: Any, is_notebook: bool) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert (CellOutput.of_running_cell() is not None) == is_notebook
