"""Units that start equal are found before and during training and repaired; intended constants are not reported."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 6)).astype("float32")
Y = X[:, :3].argmax(1)
LOSSES: dict[str, Any] = {"pytorch": nn.CrossEntropyLoss(), "keras3": "sparse_categorical_crossentropy"}


class Branches(nn.Module):
    """A residual network whose branches end in zero weights, or a frozen layer with a low-rank adapter (LoRA)."""

    def __init__(self, *, adapter: bool = False, zero_head: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 16).requires_grad_(not adapter)
        self.into, self.back = nn.Linear(16, 4), nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)
        for layer in (self.back, *([self.head] if zero_head else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.relu(self.stem(x))
        return self.head(x + self.back(torch.relu(self.into(x))))


def keras_branches(zero_head: bool) -> Any:
    dense = keras.layers.Dense
    inputs = keras.Input((6,))
    x = dense(16, "relu")(inputs)
    back = dense(16, kernel_initializer="zeros")(dense(4, "relu")(x))
    normal = keras.layers.BatchNormalization()(keras.layers.LayerNormalization()(keras.layers.Add()([x, back])))
    return keras.Model(inputs, dense(3, "softmax", kernel_initializer="zeros" if zero_head else "he_normal")(normal))


def normalized() -> nn.Module:
    narrow = nn.Linear(1, 16)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1), narrow, nn.LayerNorm(16), nn.Linear(16, 3)
    )


@pytest.mark.parametrize(
    ("model", "framework"),
    [
        pytest.param(lambda: Branches(), "pytorch", id="residual branch"),
        pytest.param(lambda: Branches(zero_head=True), "pytorch", id="residual branch and zero output"),
        pytest.param(lambda: Branches(adapter=True), "pytorch", id="adapter"),
        pytest.param(normalized, "pytorch", id="normalization, one unit"),
        pytest.param(lambda: keras_branches(False), "keras3", id="Keras, residual branch"),
        pytest.param(lambda: keras_branches(True), "keras3", id="Keras, residual branch and zero output"),
    ],
)
def test_intended_constants_have_no_finding(model: Any, framework: str) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    findings = autotrainer.check(model(), (X, Y), loss=LOSSES[framework])
    assert [str(f) for f in findings if f.severity != "info"] == []


def torch_network(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def keras_network(value: float) -> Any:
    start = keras.initializers.Constant(value)
    layers = [
        keras.layers.Dense(n, a, kernel_initializer=start) for n, a in ((16, "relu"), (16, "relu"), (3, "softmax"))
    ]
    return keras.Sequential([keras.Input((6,)), *layers])


@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_equal_units_are_reinitialized(framework: str) -> None:
    torch.set_num_threads(1)
    model = torch_network(0.1) if framework == "pytorch" else keras_network(0.1)
    optimizer: Any = keras.optimizers.Adam(0.01)
    if framework == "pytorch":

        def optimizer(parameters: Any) -> Any:
            return torch.optim.Adam(parameters, 0.01)

    result = autotrainer.fit(
        model, (X, Y), loss=LOSSES[framework], optimizer=optimizer, epochs=15, budget=5.0, progress=False
    )
    assert result.findings[0].problem == "poor_initialization"
    assert result.findings[0].severity == "error"
    assert result.status == "repaired"
    assert result.plan is not None
    assert "reinitialize" in result.plan.repairs
    assert result.score > result.baseline_score + 0.1
