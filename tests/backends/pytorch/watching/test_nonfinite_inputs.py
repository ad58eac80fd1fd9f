"""Rows that lack a value, in batches that no sample saw: looked for once the loss is lost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer import Monitor

torch.set_num_threads(1)

BATCHES, ROWS = 40, 4


def _rows() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, BATCHES * ROWS * 2).reshape(BATCHES, ROWS, 2)
    return x, x.sum(-1, keepdim=True)


def _train(monitor: Monitor, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss_fn = nn.MSELoss()
    for _ in range(3):
        for inputs, targets in zip(x, y, strict=True):
            optimizer.zero_grad()
            loss = loss_fn(model(inputs), targets)
            monitor.log(loss=loss)
            loss.backward()
            optimizer.step()
        monitor.end_epoch()


def _watched(x: Tensor, y: Tensor, rate: float) -> tuple[Monitor, nn.Module]:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    with autotrainer.watch(model, optimizer, epochs=3, overhead=1e-9) as monitor:
        _train(monitor, model, optimizer, x, y)
    return monitor, model


def test_the_batch_is_found_in_the_next_epoch() -> None:
    x, y = _rows()
    x[25, 1, 0] = math.nan
    monitor, model = _watched(x, y, 0.01)
    sampled = monitor.history.scalar("input_nonfinite")
    found = next(f for f in monitor.findings if f.problem == "nonfinite_data")
    assert not sampled.any()
    assert found.severity == "error"
    assert "Inputs contain NaN or infinite values, in 1 of" in found.message
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("rate", [0.01, 1e30])
def test_finite_inputs_are_not_blamed(rate: float) -> None:
    monitor, model = _watched(*_rows(), rate)
    assert "nonfinite_data" not in {f.problem for f in monitor.findings}
    assert ("nonfinite" in {f.problem for f in monitor.findings}) == (rate > 1)
    assert not model._forward_pre_hooks


def test_validation_inputs_do_not_count() -> None:
    x, y = _rows()
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1e30)
    with autotrainer.watch(model, optimizer, epochs=3, overhead=1e-9) as monitor:
        _train(monitor, model, optimizer, x, y)
        with torch.no_grad():
            model(torch.full((2, 2), math.nan))
    assert "nonfinite_data" not in {f.problem for f in monitor.findings}
