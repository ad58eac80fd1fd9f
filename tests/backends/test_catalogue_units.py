"""Units, representations, attention and Adam's memory in real trainings of both frameworks, bad and sound ones."""

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
CLASSES = X[:, :3].argmax(1)
VALUES = (X[:, :1] * 2 + X[:, 1:2]).astype("float32")
TOKENS = RNG.integers(0, 40, size=(240, 8))
LATER = (TOKENS[:, 4:].sum(1) > TOKENS[:, :4].sum(1)).astype("int64")
EPOCHS = 12
FRAMEWORKS = ("pytorch", "keras3")
every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


class AttentionBlock(nn.Module):
    """Residual self-attention over embedded tokens, the mean over time, and a dense output."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(40, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, 2)
        with torch.no_grad():
            self.attention.in_proj_weight *= gain

    def forward(self, tokens: torch.Tensor) -> Any:
        x = self.words(tokens)
        inner = self.norm(x)
        return self.out((x + self.attention(inner, inner, inner, need_weights=False)[0]).mean(1))


def torch_mlp(activation: str, bias: float, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    kind = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}[activation]
    second = nn.Linear(16, 16)
    nn.init.constant_(second.bias, bias)
    return nn.Sequential(nn.Linear(6, 16), kind(), second, kind(), nn.Linear(16, outputs))


def keras_mlp(activation: str, bias: float, outputs: int) -> Any:
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    second = dense(16, activation, bias_initializer=keras.initializers.Constant(bias))
    return keras.Sequential([keras.Input((6,)), dense(16, activation), second, dense(outputs)])


def mlp(framework: str, activation: str, bias: float = 0.0, outputs: int = 3) -> Any:
    return (torch_mlp if framework == "pytorch" else keras_mlp)(activation, bias, outputs)


def attention_model(framework: str, gain: float) -> Any:
    if framework == "pytorch":
        torch.manual_seed(0)
        return AttentionBlock(gain)
    keras.utils.set_random_seed(0)
    tokens = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(40, 16)(tokens)
    inner = keras.layers.LayerNormalization()(x)
    attention = keras.layers.MultiHeadAttention(2, 8)
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()([x, attention(inner, inner)]))
    model = keras.Model(tokens, keras.layers.Dense(2)(x))
    for variable in attention.weights:
        if "kernel" in variable.name and "output" not in variable.path:
            variable.assign(variable * gain)
    return model


def classes_loss(framework: str) -> Any:
    return nn.CrossEntropyLoss() if framework == "pytorch" else keras.losses.SparseCategoricalCrossentropy(True)


def watched(
    framework: str, model: Any, x: Any, y: Any, loss: Any, *, rate: float = 0.01, epochs: int = EPOCHS, **adam: Any
) -> Any:
    """Train by Adam, watched; ``adam`` are its further settings, by the names of PyTorch."""
    if framework == "keras3":
        model.compile(keras.optimizers.Adam(rate, epsilon=adam.get("eps", 1e-7)), loss)
        with autotrainer.watch(model, overhead=1.0) as monitor:
            model.fit(x, y, epochs=epochs, batch_size=24, verbose=0)
        return monitor
    optimizer = torch.optim.Adam(model.parameters(), rate, **adam)
    inputs, targets = torch.tensor(x), torch.tensor(y)
    with autotrainer.watch(model, optimizer, loss_fn=loss, epochs=epochs, overhead=1.0) as monitor:
        for _ in range(epochs):
            for i in range(0, len(inputs), 24):
                optimizer.zero_grad()
                value = loss(model(inputs[i : i + 24]), targets[i : i + 24])
                value.backward()
                optimizer.step()
            monitor.end_epoch()
    return monitor


def finding_of(monitor: Any, problem: str) -> Any:
    return next((f for f in monitor.findings if f.problem == problem and f.severity != "info"), None)


def errors(monitor: Any) -> list[str]:
    return [str(f) for f in monitor.findings if f.severity == "error"]


@every_framework
@pytest.mark.parametrize(
    ("problem", "activation", "bias"),
    [("saturated_activation", "tanh", 12.0), ("dormant_neurons", "gelu", -30.0)],
)
def test_saturated_and_dormant_units(framework: str, problem: str, activation: str, bias: float) -> None:
    faulty = watched(framework, mlp(framework, activation, bias), X, CLASSES, classes_loss(framework))
    found = finding_of(faulty, problem)
    assert found is not None
    assert found.severity == "error"
    order = [f.problem for f in faulty.findings]
    assert order.index(problem) < order.index("not_learning")
    healthy = watched(framework, mlp(framework, activation), X, CLASSES, classes_loss(framework))
    assert finding_of(healthy, problem) is None
    assert errors(healthy) == []


@every_framework
def test_saturation_before_the_first_step(framework: str) -> None:
    raw = autotrainer.check(mlp(framework, "tanh"), (X * 300, CLASSES), loss=classes_loss(framework))
    found = {f.problem: f for f in raw}
    assert found["saturated_activation"].severity == "warning"
    assert found["saturated_activation"].caused_by == "abnormal_data"
    assert autotrainer.check(mlp(framework, "tanh"), (X, CLASSES), loss=classes_loss(framework)) == []


class CollapsingLoss(nn.Module):
    """Pulls all outputs together, as a loss for pairs without negatives does; ``apart`` keeps their variance up."""

    def __init__(self, apart: float) -> None:
        super().__init__()
        self.apart = apart

    def forward(self, outputs: torch.Tensor, _: Any) -> torch.Tensor:
        together = ((outputs - outputs.mean(0)) ** 2).mean()
        return together + self.apart * torch.relu(1 - outputs.std(0)).mean()


def collapsing_loss(apart: float) -> Any:
    def loss(_: Any, outputs: Any) -> Any:
        ops = keras.ops
        together = ops.mean((outputs - ops.mean(outputs, axis=0)) ** 2)
        return together + apart * ops.mean(ops.relu(1 - ops.std(outputs, axis=0)))

    return loss


@every_framework
def test_representation_collapse(framework: str) -> None:
    zeros = np.zeros((len(X), 1), "float32")
    for apart in (0.0, 5.0):
        loss = CollapsingLoss(apart) if framework == "pytorch" else collapsing_loss(apart)
        model = mlp(framework, "relu")
        if framework == "pytorch":
            nn.init.ones_(model[-1].bias)
        else:
            model.layers[-1].bias.assign(np.ones(3))
        monitor = watched(framework, model, X, zeros, loss, rate=0.03, epochs=30)
        found = finding_of(monitor, "representation_collapse")
        assert (found is not None) is (apart == 0)
        assert apart == 0 or errors(monitor) == []


@every_framework
def test_attention_entropy_collapse(framework: str) -> None:
    collapsed, healthy = (
        watched(
            framework, attention_model(framework, gain), TOKENS, LATER, classes_loss(framework), rate=0.003, epochs=8
        )
        for gain in (40.0, 1.0)
    )
    found = finding_of(collapsed, "attention_entropy_collapse")
    assert found is not None
    assert "attention" in found.layers[0]
    assert found.evidence["entropy"] < 0.1
    assert found.evidence["largest_logit"] > 100
    assert finding_of(healthy, "attention_entropy_collapse") is None


def negated(framework: str) -> Any:
    """Return the negative squared error: the wrong sign makes gradients outgrow their second moment forever."""
    if framework == "keras3":
        return lambda targets, outputs: -keras.ops.mean((targets - outputs) ** 2)

    class Negated(nn.Module):
        def forward(self, outputs: Any, targets: Any) -> Any:
            return -((outputs - targets) ** 2).mean()

    return Negated()


@every_framework
def test_gradients_outgrow_the_second_moment(framework: str) -> None:
    wrong = watched(framework, mlp(framework, "relu", outputs=1), X, VALUES, negated(framework))
    found = finding_of(wrong, "stale_second_moment")
    assert found is not None
    assert found.evidence["ratio"] > 2.3
    squared = nn.MSELoss() if framework == "pytorch" else "mse"
    right = watched(framework, mlp(framework, "relu", outputs=1), X, VALUES, squared)
    assert finding_of(right, "stale_second_moment") is None
    assert errors(right) == []


@every_framework
def test_epsilon_above_all_gradients(framework: str) -> None:
    monitor = watched(framework, mlp(framework, "tanh"), X, CLASSES, classes_loss(framework), eps=1e3)
    found = finding_of(monitor, "stale_second_moment")
    assert found is not None
    assert found.evidence["ratio"] < 1e-2
