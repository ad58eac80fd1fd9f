"""Options of `watch` that do not reach a backend."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.errors import ConfigError


def _watch(**options: Any) -> autotrainer.Monitor:
    model = nn.Linear(2, 1)
    return autotrainer.watch(model, torch.optim.SGD(model.parameters(), 0.1), **options)


@pytest.mark.parametrize("name", ["epochs", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "3", True])
def test_invalid_planned_length_is_rejected(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number >= 1"):
        _watch(**{name: value})


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_planned_length_accepts_numpy_integers(value: Any) -> None:
    with _watch(epochs=value, steps=value) as monitor:
        context = monitor.context
    assert (context.planned_epochs, context.planned_steps) == (3, 3)
    assert type(context.planned_epochs) is int  # as the run log and the report need it


@pytest.mark.slow
def test_a_watched_training_loads_no_module_that_it_does_not_need(
    run_python: Callable[..., CompletedProcess[str]],
) -> None:
    code = """
import sys
import torch
import autotrainer
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with autotrainer.watch(model, optimizer) as monitor:
    for _ in range(9):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).square().mean().backward()
        optimizer.step()
    rooms = (
        "autotrainer.repairs.", "autotrainer.comparison", "autotrainer.reporting.report", "autotrainer.search",
        "autotrainer.reporting.charts", "autotrainer.training", "autotrainer.backends.keras3.watching",
    )
    print(len(monitor.history.steps), [name for name in sys.modules if name.startswith(rooms)])
"""
    assert run_python(code).stdout == "9 []\n"
