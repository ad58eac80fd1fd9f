"""Layers unlike their siblings, and normalizations that do not normalize, in real trainings of both frameworks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.records.findings import Severity

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 12, size=(240, 6))
CLASSES = (TOKENS[:, 0] > TOKENS[:, 5]).astype("int64")
UNITS, BLOCKS, EPOCHS = 16, 4, 8
FRAMEWORKS = ("pytorch", "keras3")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(UNITS), nn.MultiheadAttention(UNITS, 2, batch_first=True)
        self.ln_2, self.fc1, self.fc2 = nn.LayerNorm(UNITS), nn.Linear(UNITS, 32), nn.Linear(32, UNITS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.ln_1(x)
        x = x + self.attn(inner, inner, inner, need_weights=False)[0]
        out: torch.Tensor = x + self.fc2(torch.nn.functional.gelu(self.fc1(self.ln_2(x))))
        return out


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(12, UNITS), nn.Embedding(6, UNITS)
        self.h, self.head = nn.ModuleList(Block() for _ in range(BLOCKS)), nn.Linear(UNITS, 2)

    def forward(self, tokens: torch.Tensor) -> Any:
        x = self.tokens(tokens) + self.positions.weight
        for block in self.h:
            x = block(x)
        return self.head(x.mean(1))


class KerasBlock(keras.layers.Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ln_1, self.attn = keras.layers.LayerNormalization(), keras.layers.MultiHeadAttention(2, UNITS // 2)
        self.ln_2 = keras.layers.LayerNormalization()
        self.fc1, self.fc2 = keras.layers.Dense(32, "gelu"), keras.layers.Dense(UNITS)

    def call(self, x: Any) -> Any:
        inner = self.ln_1(x)
        x = x + self.attn(inner, inner)
        return x + self.fc2(self.fc1(self.ln_2(x)))


def torch_network(fault: str) -> Network:
    torch.manual_seed(0)
    model = Network()
    block: Any = model.h[2]
    with torch.no_grad():
        if fault == "key":
            block.attn.in_proj_weight[UNITS : 2 * UNITS] *= 40
        elif fault == "frozen":
            block.fc1.requires_grad_(False)
        elif fault == "epsilon":
            block.ln_2.eps = 100.0
        elif fault == "scale":
            block.ln_2.weight *= 8
    return model


def keras_network(fault: str) -> Any:
    keras.backend.clear_session()  # names of blocks begin again
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(12, UNITS)(inputs)
    x = x + keras.layers.Embedding(6, UNITS)(keras.ops.arange(6))
    blocks = [KerasBlock() for _ in range(BLOCKS)]
    for block in blocks:
        x = block(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(x))
    block = blocks[2]
    if fault == "key":
        block.attn.key_dense.kernel.assign(block.attn.key_dense.kernel * 40)
    elif fault == "frozen":
        block.fc1.trainable = False
    elif fault == "epsilon":
        block.ln_2.epsilon = 100.0
    elif fault == "scale":
        block.ln_2.gamma.assign(block.ln_2.gamma * 8)
    return model


def findings(framework: str, fault: str) -> dict[str, Any]:
    options: dict[str, Any] = {"overhead": 1.0, "select": ("sibling_outlier", "abnormal_normalization")}
    if framework == "keras3":
        model = keras_network(fault)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        with autotrainer.watch(model, **options) as monitor:
            model.fit(TOKENS, CLASSES, epochs=EPOCHS, batch_size=24, verbose=0)
    else:
        network = torch_network(fault)
        optimizer, loss_fn = torch.optim.Adam(network.parameters(), 1e-3), nn.CrossEntropyLoss()
        x, y = torch.from_numpy(TOKENS), torch.from_numpy(CLASSES)
        with autotrainer.watch(network, optimizer, loss_fn=loss_fn, epochs=EPOCHS, **options) as monitor:
            for _ in range(EPOCHS):
                for rows in torch.randperm(len(x)).split(24):
                    optimizer.zero_grad()
                    loss_fn(network(x[rows]), y[rows]).backward()
                    optimizer.step()
    return {f.problem: f for f in monitor.findings if f.severity is not Severity.INFO}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(
    ("fault", "problem", "words"),
    [
        ("key", "sibling_outlier", "key projection of"),
        ("frozen", "sibling_outlier", "first feed-forward matrix of"),
        ("epsilon", "abnormal_normalization", "shrinks its input"),
        ("scale", "abnormal_normalization", "scale of the normalization"),
    ],
)
def test_component_is_named(framework: str, fault: str, problem: str, words: str) -> None:
    raised = findings(framework, fault)
    assert set(raised) == {problem}
    assert words in raised[problem].message
    assert "lock 2" in raised[problem].message or "lock_2" in raised[problem].message


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_blocks_that_are_alike_are_silent(framework: str) -> None:
    assert findings(framework, "") == {}
