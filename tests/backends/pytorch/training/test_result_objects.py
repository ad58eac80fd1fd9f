"""What a result keeps: attempts hold no weights."""

from __future__ import annotations

import gc
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

torch.set_num_threads(1)


def tensors_of(item: Any) -> list[str]:
    """Tensors, modules, optimizers and large arrays that an object refers to."""
    found, visited, waiting = [], set[int](), [item]
    while waiting:
        each = waiting.pop()
        if id(each) in visited or isinstance(each, type | ModuleType | FunctionType | BuiltinFunctionType):
            continue
        visited.add(id(each))
        if isinstance(each, torch.Tensor | nn.Module | torch.optim.Optimizer):
            found.append(type(each).__name__)
        elif isinstance(each, np.ndarray) and each.size > 200:
            found.append("array")
        else:
            waiting += gc.get_referents(each)
    return found


@pytest.mark.slow
def test_attempts_plan_and_findings_hold_no_weights() -> None:
    x = np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int64")
    result = autotrainer.fit(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.Sigmoid(), nn.Linear(16, 16), nn.Sigmoid(), nn.Linear(16, 2)),
        (x, y),
        loss=nn.CrossEntropyLoss(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, 1e-4),
        epochs=4,
        budget=3.0,
        progress=False,
    )
    assert result.attempts
    assert tensors_of(result.model)
    for part in (*result.attempts, result.plan, *result.findings):
        assert not tensors_of(part)
