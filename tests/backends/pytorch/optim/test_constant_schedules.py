"""Schedulers that never change the rate are recognized, and are no wrong schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

import autotrainer
from autotrainer.backends.pytorch.optim.constant_schedules import is_constant

FACTOR = 0.5


def _closure() -> Callable[[int], float]:
    rate = 0.3
    return lambda step: rate


def _generator() -> Callable[[int], float]:
    rates: Iterator[float] = iter([1.0] * 1000)
    return lambda step: next(rates)


def _sequence(*parts: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda o: schedulers.SequentialLR(o, [part(o) for part in parts], milestones=[3] * (len(parts) - 1))


CONSTANT: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda step: 1.0),
    "variable": lambda o: schedulers.LambdaLR(o, lambda step: FACTOR),
    "closure": lambda o: schedulers.LambdaLR(o, _closure()),
    "constant": lambda o: schedulers.ConstantLR(o, factor=1.0),
    "linear": lambda o: schedulers.LinearLR(o, 1.0, 1.0),
    "gamma of 1": lambda o: schedulers.StepLR(o, 2, gamma=1.0),
    "sequence": _sequence(lambda o: schedulers.ConstantLR(o, 1.0), lambda o: schedulers.LambdaLR(o, lambda step: 1)),
}
CHANGING: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda step: 1.0 if step < 10**6 else 0.1),
    "calls": lambda o: schedulers.LambdaLR(o, _generator()),
    "constant": lambda o: schedulers.ConstantLR(o),
    "steps": lambda o: schedulers.StepLR(o, 1000),
    "multiplied": lambda o: schedulers.MultiplicativeLR(o, lambda step: 1.0),
    "sequence": _sequence(lambda o: schedulers.ConstantLR(o, 1.0), lambda o: schedulers.StepLR(o, 2)),
}


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)


@pytest.mark.parametrize("name", CONSTANT)
def test_constant(name: str) -> None:
    assert is_constant(CONSTANT[name](_optimizer()))


@pytest.mark.parametrize("name", CHANGING)
def test_changing(name: str) -> None:
    assert not is_constant(CHANGING[name](_optimizer()))
    assert not is_constant(None)


def _train(make: Callable[[Any], Any], steps_per_epoch: int) -> autotrainer.Monitor:
    """Train without success, so that whatever is wrong with the schedule counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    scheduler, loss = make(optimizer), nn.CrossEntropyLoss()
    x, y = torch.randn(128, 8), torch.randint(0, 3, (128,))
    with autotrainer.watch(model, optimizer, loss_fn=loss, epochs=8, overhead=1.0, select="wrong_schedule") as monitor:
        for _ in range(8):
            for i in range(0, 128, 16):
                optimizer.zero_grad()
                loss(model(x[i : i + 16]), y[i : i + 16]).backward()
                optimizer.step()
                if steps_per_epoch > 1:
                    scheduler.step()
            if steps_per_epoch == 1:
                scheduler.step()
            monitor.end_epoch()
    return monitor


@pytest.mark.parametrize("steps_per_epoch", [0, 1, 8])
@pytest.mark.parametrize("name", ["lambda", "constant", "gamma of 1"])
def test_a_constant_schedule_is_no_wrong_schedule(name: str, steps_per_epoch: int) -> None:
    assert _train(CONSTANT[name], steps_per_epoch).findings == []


@pytest.mark.parametrize("name", ["lambda", "steps"])
def test_a_schedule_that_should_change_the_rate_is(name: str) -> None:
    assert [finding.problem for finding in _train(CHANGING[name], 1).findings] == ["wrong_schedule"]


def test_a_reduced_rate_at_the_start_does_not_end_early() -> None:
    assert _train(lambda o: schedulers.ConstantLR(o, factor=0.5, total_iters=2), 1).findings == []
