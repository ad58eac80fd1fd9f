"""The progress of `fit`: a bar in a terminal, one output in a notebook, nothing in a file."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from autotrainer.training.progress import Progress
from tests.autotrainer.reporting.notebook.fakes import Notebook


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _train(progress: Progress, trainings: int = 2) -> None:
    with progress:
        for number in range(trainings):
            progress.begin(f"attempt {number}" if number else "baseline training", 2)
            for epoch in range(2):
                progress.update(epoch, 0.5 + number / 10)


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    _train(Progress(True))
    text = stream.getvalue()
    assert "attempt 1" in text
    assert "score 0.6" in text
    assert text.endswith("\x1b[2K")  # it is gone at the end


@pytest.mark.parametrize(("stream", "enabled"), [(io.StringIO(), True), (_Terminal(), False), (None, True)])
def test_files_get_nothing(monkeypatch: pytest.MonkeyPatch, stream: Any, enabled: bool) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    _train(Progress(enabled))
    assert stream is None or stream.getvalue() == ""


def test_notebook_gets_one_output_that_stays(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    _train(Progress(True))
    assert len({each["display_id"] for each in notebook.shown}) == 1
    last = notebook.shown[-1]["text/html"]
    assert "baseline training: epoch 2 of 2, score 0.5" in last
    assert "attempt 1: epoch 2 of 2, score 0.6" in last
    assert "progressbar" in notebook.shown[0]["text/html"]
    assert "progressbar" not in last
    assert stream.getvalue() == ""


def test_notebook_shows_the_original_and_the_latest_of_many(notebook: Notebook) -> None:
    _train(Progress(True), 20)
    last = notebook.shown[-1]["text/html"]
    assert last.count(": epoch") == 8
    assert "baseline training" in last
    assert "12 trainings in between" in last
    assert "attempt 19" in last


def test_display_that_fails_is_switched_off(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(notebook.display, "display", lambda *_, **__: calls.append(1 / 0))
    progress = Progress(True)
    _train(progress)
    assert progress._display is None
    assert not calls
