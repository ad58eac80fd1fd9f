"""What a notebook shows while a training is watched, and that the training does not notice it."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

import autotrainer
from autotrainer.adapter.stopwatch import Stopwatch
from tests.autotrainer.reporting.notebook.fakes import Notebook, checked


def _train(**options: Any) -> tuple[autotrainer.Monitor, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    x, y = torch.randn(128, 4), torch.randn(128, 1)
    model = nn.Linear(4, 1)
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), lr=5.0), nn.MSELoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=3, **options) as monitor:
        for _ in range(3):
            for rows in torch.split(torch.randperm(128), 16):
                optimizer.zero_grad()
                loss_fn(model(x[rows]), y[rows]).backward()
                optimizer.step()
            monitor.end_epoch(val_loss=1.0)
    return monitor, model.weight.detach().numpy().tobytes()


def test_run_is_shown_and_weights_stay_the_same_to_the_bit(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, watched = _train()
    monkeypatch.setitem(sys.modules, "IPython", None)
    _, plain = _train()
    assert watched == plain
    first, last = (notebook.shown[at]["text/html"] for at in (0, -1))
    assert "watching" in first
    for part in ("ended", "step 24", "3 of 3 epochs", "val_loss 1", "AT408 learning_rate_too_high", "<svg"):
        assert part in checked(last)
    assert "val_loss 1" in notebook.shown[-1]["text/plain"]
    assert "learning_rate_too_high" in checked(monitor._repr_html_())


def test_interrupted_run_is_shown_as_such(notebook: Notebook) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(on_finding=_interrupt)
    assert "interrupted" in notebook.shown[-1]["text/html"]


def _interrupt(finding: autotrainer.Finding) -> None:
    raise KeyboardInterrupt


def test_progress_false_shows_nothing(notebook: Notebook) -> None:
    _train(progress=False)
    assert not notebook.shown


def test_display_that_fails_is_reported_once(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notebook.display, "display", lambda *_, **__: 1 / 0)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        monitor, _ = _train()
    assert [r.message for r in caplog.records if "display" in r.message] == [
        "the display failed and is switched off; the training continues: ZeroDivisionError('division by zero')"
    ]
    assert monitor.findings


def test_time_of_the_display_is_no_part_of_the_allowance() -> None:
    now = [0.0]
    watch = Stopwatch(clock=lambda: now[0], processor=lambda: now[0] / 2)
    with watch:
        now[0] += 1.0
        with watch.paused():
            now[0] += 10.0
        now[0] += 1.0
    assert (watch.wall, watch.work) == (2.0, 1.0)
    with watch.paused():
        now[0] += 10.0
    assert (watch.wall, watch.work) == (2.0, 1.0)
