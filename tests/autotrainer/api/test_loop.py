"""What `Loop` shows below the cell of a notebook, and how long its result says that the training was."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from tests.autotrainer.reporting.notebook.fakes import Notebook, checked

EPOCHS, STEPS = 4, 4


def _train(rate: float = 5.0, leave: int | None = None, **options: Any) -> autotrainer.Loop:
    torch.manual_seed(0)
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    model = nn.Linear(4, 1)
    loader = DataLoader(TensorDataset(x, y), 64 // STEPS)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    loop = autotrainer.Loop(model, optimizer, nn.MSELoss(), loader, epochs=EPOCHS, budget=3.0, **options)
    for epoch in loop:
        for inputs, targets in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(inputs), targets).backward()
            loop.optimizer.step()
        if epoch == leave:
            break
        with torch.no_grad():
            loop.end_epoch(val_loss=float(loop.loss_fn(loop.model(x), y)))
    return loop


def test_all_trainings_are_shown_in_one_output(notebook: Notebook) -> None:
    loop = _train()
    assert loop.attempt > 0, "nothing was repaired"
    assert len({each["display_id"] for each in notebook.shown}) == 1
    last = checked(notebook.shown[-1]["text/html"])
    assert "progressbar" in notebook.shown[0]["text/html"]
    assert "progressbar" not in last
    assert "baseline training: epoch" in last
    assert f"attempt {loop.attempt}: epoch" in last


def test_a_loop_that_is_left_is_shown_as_ended(notebook: Notebook) -> None:
    _train(0.01, leave=2)
    assert f"baseline training: epoch 2 of {EPOCHS}" in notebook.shown[-1]["text/html"]
    assert notebook.shown[-1]["text/plain"] == "autotrainer, ended"


def test_nothing_is_shown_if_unwanted_or_outside_of_a_notebook(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(0.01, progress=False)
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _train(0.01)
    assert notebook.shown == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("off", [False, True])
def test_result_knows_the_length_of_the_training(off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if off:
        monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    assert _train(0.01).result.baseline_steps == EPOCHS * STEPS
