"""Momentum of batch normalization in both frameworks: running statistics that evaluations can't rely on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

RNG = np.random.default_rng(0)
X = (4 + 0.1 * RNG.normal(size=(480, 8))).astype("float32")
Y = X[:, :4].argmax(1)
KEPT, BATCH, EPOCHS = 320, 16, 6
HELD = torch.from_numpy(X[KEPT:])


def pytorch_findings(momentum: float | None, validated: bool = True) -> list[Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32, momentum=momentum), nn.ReLU(), nn.Linear(32, 4))
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 0.01), nn.CrossEntropyLoss()
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=EPOCHS) as monitor:
        for _ in range(EPOCHS):
            for rows in torch.randperm(KEPT).split(BATCH):
                optimizer.zero_grad()
                loss_fn(model(torch.from_numpy(X)[rows]), torch.from_numpy(Y)[rows]).backward()
                optimizer.step()
            if not validated:
                continue
            model.eval()
            with torch.no_grad():
                right = model(HELD).argmax(1).numpy() == Y[KEPT:]
            model.train()
            monitor.end_epoch(val_accuracy=float(right.mean()))
    return monitor.findings


def keras_findings(momentum: float, validated: bool = True) -> list[Any]:
    keras.utils.set_random_seed(0)
    norm = keras.layers.BatchNormalization(momentum=momentum)
    layers = [keras.layers.Dense(32), norm, keras.layers.ReLU(), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    held = (X[KEPT:], Y[KEPT:]) if validated else None
    with autotrainer.watch(model) as monitor:
        model.fit(X[:KEPT], Y[:KEPT], batch_size=BATCH, epochs=EPOCHS, verbose=0, validation_data=held)
    return monitor.findings


def check(findings: list[Any], expected: str | None) -> None:
    found = [f for f in findings if f.problem == "abnormal_normalization" and str(f.severity) != "info"]
    assert [str(f.severity) for f in found] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("momentum", "validated", "expected"),
    [(1e-4, True, "error"), (0.1, True, None), (None, True, None), (1e-4, False, "warning"), (0.1, False, None)],
)
def test_running_statistics_in_pytorch(momentum: float | None, validated: bool, expected: str | None) -> None:
    check(pytorch_findings(momentum, validated), expected)


@pytest.mark.parametrize(
    ("momentum", "validated", "expected"),
    [(0.9999, True, "error"), (0.9, True, None), (0.9999, False, "warning"), (0.9, False, None)],
)
@pytest.mark.slow
def test_running_statistics_in_keras(momentum: float, validated: bool, expected: str | None) -> None:
    check(keras_findings(momentum, validated), expected)
