"""Fingerprint of a training: model, loss and optimizer, in both frameworks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch

from autotrainer import registry
from autotrainer.adapter.spec import FitRequest
from autotrainer.records.data import ArrayData
from autotrainer.workers.fingerprint import digest

DATA = ArrayData(np.zeros((8, 4), np.float32), np.array([0, 1] * 4))


class _Scaled(torch.nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scale * self.layer(inputs)


def _torch(change: str) -> dict[str, str]:
    torch.manual_seed(change == "weights")
    body: Any = _Scaled(2.0 if change == "attribute" else 1.0)
    model = torch.nn.Sequential(body, torch.nn.Dropout(0.2 if change == "layer" else 0.1))
    rate = 0.2 if change == "rate" else 0.1
    kind = torch.optim.Adam if change == "optimizer" else torch.optim.SGD
    loss: Any = torch.nn.CrossEntropyLoss(label_smoothing=0.1 if change == "loss" else 0.0)
    return _identity(FitRequest(model, DATA, DATA, loss, kind(model.parameters(), lr=rate), 1, 4))


def _keras(change: str) -> dict[str, str]:
    keras.utils.clear_session()  # layer names are numbered within a process
    keras.utils.set_random_seed(int(change == "weights"))
    hidden = keras.layers.Dense(4, "tanh" if change == "attribute" else "relu")
    rest = [keras.layers.Dropout(0.2 if change == "layer" else 0.1), keras.layers.Dense(2)]
    model = keras.Sequential([keras.layers.Input((4,)), hidden, *rest])
    rate = 0.2 if change == "rate" else 0.1
    kind = keras.optimizers.Adam if change == "optimizer" else keras.optimizers.SGD
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=change == "loss")
    return _identity(FitRequest(model, DATA, DATA, loss, kind(rate), 1, 4))


def _identity(request: FitRequest) -> dict[str, str]:
    identity = registry.backend_of(request.model).trainer(request).identity()
    return {name: digest(value) for name, value in identity.items()}


@pytest.mark.parametrize("build", [_torch, _keras])
@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("weights", "model"),
        ("layer", "model"),
        ("attribute", "model"),
        ("rate", "optimizer"),
        ("optimizer", "optimizer"),
        ("loss", "loss"),
        ("nothing", None),
    ],
)
def test_changes_affect_only_their_part(build: Any, change: str, part: str | None) -> None:
    original, changed = build(""), build(change)
    assert [name for name in original if original[name] != changed[name]] == ([part] if part else [])


def _scaled_by(factor: float) -> Any:
    return lambda values: factor * values


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (_scaled_by(2.0), _scaled_by(2.0), True),
        (_scaled_by(2.0), _scaled_by(3.0), False),
        (lambda v: v + 1, lambda v: v + 2, False),
        (lambda v: v + 1, lambda v: v - 1, False),
        (np.zeros(3), np.zeros(3), True),
        (np.zeros(3), np.zeros(3, np.float32), False),
        (np.zeros((3, 1)), np.zeros((1, 3)), False),
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.zeros(2), False),
        ({"a": 1, "b": {2, 3}}, {"a": 1, "b": {3, 2}}, True),
        ([1, 2], [1, "2"], False),
        ([[1], 2], [1, [2]], False),
        (float("nan"), float("nan"), True),
        (object(), object(), True),
        (_Scaled, _Scaled, True),
        (_Scaled, torch.nn.Linear, False),
    ],
)
def test_equal_values_have_equal_digests(one: Any, other: Any, same: bool) -> None:
    assert (digest(one) == digest(other)) == same


def test_recursive_values() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    other: list[Any] = [1]
    other.append(other)
    assert digest(ring) == digest(other)
