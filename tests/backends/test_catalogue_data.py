"""Problems of data and training length in real trainings of both frameworks, and their absence."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import autotrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(480, 8)).astype("float32")
CLASSES = X[:, :4].argmax(1)
ORDER = np.argsort(CLASSES, kind="stable")
RARE = (np.arange(1200) < 48).astype("float32")[:, None]
FAINT = (RNG.normal(size=(1200, 8)) + 0.8 * RARE).astype("float32")
"""One row in 25 is of the second class, shifted by less than its spread: the first is usually the better prediction."""

SORTED: dict[str, Any] = {"x": X[ORDER], "y": CLASSES[ORDER], "epochs": 6}
UNEQUAL: dict[str, Any] = {"x": FAINT, "y": RARE, "hidden": (4,), "rate": 3e-3, "epochs": 8}
BRIEF: dict[str, Any] = {"epochs": 1, "rate": 1e-4}

FRAMEWORKS = pytest.mark.parametrize("framework", ["pytorch", "keras3"])


def torch_model(units: int, hidden: tuple[int, ...], output_scale: float, dropout: float = 0.0) -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    before = 8
    for n in hidden:
        layers += [nn.Linear(before, n), nn.Tanh(), nn.Dropout(dropout)]
        before = n
    last = nn.Linear(before, units)
    with torch.no_grad():
        last.weight *= output_scale
    return nn.Sequential(*layers, last)


def keras_model(
    units: int, hidden: tuple[int, ...], output_scale: float, loss: Any, rate: float, dropout: float = 0.0
) -> Any:
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    blocks = [layer for n in hidden for layer in (dense(n, "tanh"), keras.layers.Dropout(dropout))]
    model = keras.Sequential([keras.Input((8,)), *blocks, dense(units)])
    model.layers[-1].kernel.assign(model.layers[-1].kernel * output_scale)
    model.compile(keras.optimizers.Adam(rate), loss)
    return model


def train(
    framework: str,
    problem: str,
    *,
    x: NDArray[Any] = X,
    y: NDArray[Any] = CLASSES,
    hidden: tuple[int, ...] = (16, 16),
    epochs: int = 8,
    rate: float = 0.02,
    shuffle: bool = True,
    output_scale: float = 1.0,
    weight: float = 1.0,
    dropout: float = 0.0,
) -> list[Any]:
    """Train and return the findings of one problem; the last fifth of shuffled rows is held back."""
    labels = y.ndim == 2
    held = np.random.default_rng(1).permutation(len(x))[: len(x) // 5]
    kept = np.setdiff1d(np.arange(len(x)), held)  # in order
    x_held, y_held, x, y = x[held], y[held], x[kept], y[kept]
    units = 1 if labels else 4
    if framework == "keras3":
        loss = keras.losses.BinaryCrossentropy if labels else keras.losses.SparseCategoricalCrossentropy
        model = keras_model(units, hidden, output_scale, loss(from_logits=True), rate, dropout)
        weights = {0: 1.0, 1: weight} if labels else None
        with autotrainer.watch(model, select=problem, overhead=1.0) as monitor:
            model.fit(
                x, y, batch_size=32, epochs=epochs, shuffle=shuffle, verbose=0, class_weight=weights,
                validation_data=(x_held, y_held),
            )  # fmt: skip
        return [f for f in monitor.findings if f.severity != "info"]
    network = torch_model(units, hidden, output_scale, dropout)
    criterion: nn.Module = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight)) if labels else nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), rate)
    rows = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(rows, 32, shuffle=shuffle)
    with autotrainer.watch(
        network, optimizer, loss_fn=criterion, epochs=epochs, select=problem, overhead=1.0
    ) as watching:
        for _ in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                criterion(network(inputs), targets).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                outputs = network(torch.from_numpy(x_held)).numpy()
            network.train()
            right = (outputs > 0) == y_held if labels else outputs.argmax(1) == y_held
            watching.end_epoch(val_accuracy=float(right.mean()))
    return [f for f in watching.findings if f.severity != "info"]


@FRAMEWORKS
@pytest.mark.parametrize(
    ("problem", "bad", "good"),
    [
        pytest.param("unshuffled_data", SORTED | {"shuffle": False}, SORTED, id="unshuffled_data"),
        pytest.param("class_imbalance", UNEQUAL, UNEQUAL | {"weight": 24.0}, id="class_imbalance"),
        pytest.param("class_imbalance", UNEQUAL | {"weight": 1 / 24}, UNEQUAL | {"weight": 8.0}, id="inverted weights"),
        pytest.param("too_few_epochs", {"epochs": 2, "rate": 1e-3}, {"epochs": 8}, id="too_few_epochs"),
        pytest.param("insufficient_capacity", {"hidden": (1, 16)}, {"hidden": (16, 16)}, id="insufficient_capacity"),
        pytest.param("insufficient_capacity", {"dropout": 0.95}, {"dropout": 0.2}, id="heavy dropout"),
        pytest.param("abnormal_initial_loss", BRIEF | {"output_scale": 60.0}, BRIEF, id="abnormal_initial_loss"),
    ],
)
def test_problem_is_found_only_where_it_exists(
    framework: str, problem: str, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    assert [f.problem for f in train(framework, problem, **bad)] == [problem]
    assert train(framework, problem, **good) == []


def loaders(shuffle: bool) -> Any:
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X[ORDER]), torch.from_numpy(CLASSES[ORDER]))
    return torch.utils.data.DataLoader(rows, 48, shuffle=shuffle)


@FRAMEWORKS
def test_check_finds_problems_before_training(framework: str) -> None:
    loss: Any = nn.CrossEntropyLoss()
    model: Any = torch_model(4, (16,), 1.0)
    large: Any = torch_model(4, (16,), 60.0)
    if framework == "keras3":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model, large = (keras_model(4, (16,), scale, loss, 0.01) for scale in (1.0, 60.0))

    def problems(model: Any, data: Any) -> list[str]:
        chosen = ("unshuffled_data", "abnormal_initial_loss")
        return [f.problem for f in autotrainer.check(model, data, loss=loss, select=chosen)]

    assert problems(model, loaders(False)) == ["unshuffled_data"]
    assert problems(model, loaders(True)) == []
    assert problems(model, (X[ORDER], CLASSES[ORDER])) == []  # arrays: their order is not that of training
    assert problems(large, (X, CLASSES)) == ["abnormal_initial_loss"]
