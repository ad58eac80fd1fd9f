"""Trainings that get the same batch in each step, in both frameworks, and such that may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(480, 8)).astype("float32")
Y = X[:, :4].argmax(1)
KEPT, HELD, BATCH, STEPS, EPOCHS = 320, slice(320, 480), 16, 20, 6
DATA = TensorDataset(torch.from_numpy(X[:KEPT]), torch.from_numpy(Y[:KEPT]))


def anew(loader: DataLoader[Any]) -> Iterator[Any]:
    return (next(iter(loader)) for _ in range(STEPS))


def pytorch_findings(batches: Any, *, shuffle: bool = False, evaluate: bool = True, rows: int = KEPT) -> dict[str, str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer, loss_fn = torch.optim.Adam(model.parameters(), 0.02), nn.CrossEntropyLoss()
    loader = DataLoader(torch.utils.data.Subset(DATA, range(rows)), BATCH, shuffle=shuffle)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=EPOCHS) as monitor:
        for _ in range(EPOCHS):
            for x, y in batches(loader):
                optimizer.zero_grad()
                loss_fn(model(x), y).backward()
                optimizer.step()
            if evaluate:
                with torch.no_grad():
                    right = model(torch.from_numpy(X[HELD])).argmax(1).numpy() == Y[HELD]
                monitor.end_epoch(val_accuracy=float(right.mean()))
    return {f.problem: str(f.severity) for f in monitor.findings}


@pytest.mark.parametrize(
    ("batches", "options", "expected"),
    [
        pytest.param(anew, {}, "error", id="next(iter(loader)) in the loop"),
        pytest.param(anew, {"evaluate": False}, "warning", id="without validation"),
        pytest.param(lambda loader: [next(iter(loader))] * STEPS, {}, "warning", id="kept batch"),
        pytest.param(anew, {"shuffle": True}, None, id="shuffled"),
        pytest.param(lambda loader: loader, {}, None, id="whole passes"),
        pytest.param(lambda loader: list(loader) * STEPS, {"rows": BATCH, "evaluate": False}, None, id="few rows"),
    ],
)
def test_same_batch_in_pytorch(batches: Any, options: dict[str, Any], expected: str | None) -> None:
    found = pytorch_findings(batches, **options)
    assert found.get("repeated_batch") == expected
    assert "validation_mismatch" not in found


def keras_findings(data: Any, *, evaluate: bool = True, **options: Any) -> dict[str, str]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    held = (X[HELD], Y[HELD]) if evaluate else None
    with autotrainer.watch(model) as monitor:
        model.fit(data, epochs=EPOCHS, verbose=0, shuffle=False, validation_data=held, **options)
    return {f.problem: str(f.severity) for f in monitor.findings}


def batched(rows: int = KEPT) -> Any:
    return tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows])).batch(BATCH)


@pytest.mark.parametrize(
    ("data", "options", "expected"),
    [
        pytest.param(lambda: batched().take(1).repeat(), {}, "error", id="take(1)"),
        pytest.param(lambda: batched().take(1).cache().repeat().prefetch(1), {}, "error", id="further operations"),
        pytest.param(lambda: batched().take(1).repeat(), {"evaluate": False}, None, id="test on one batch"),
        pytest.param(lambda: batched(BATCH).repeat(), {}, "warning", id="few rows"),
        pytest.param(lambda: batched().repeat(), {}, None, id="all batches"),
    ],
)
@pytest.mark.slow
def test_same_batch_in_keras(data: Any, options: dict[str, Any], expected: str | None) -> None:
    found = keras_findings(data(), steps_per_epoch=STEPS, **options)
    assert found.get("repeated_batch") == expected
    assert "validation_mismatch" not in found
