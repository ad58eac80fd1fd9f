"""`check` in both frameworks: problems before the first step, without side effects."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)).astype("float32")
CLASSES = X[:, :3].argmax(1)
LABELS = (X[:, :1] > 0).astype("float32")
VALUES = (X[:, :1] * 2 + X[:, 1:2]).astype("float32")
HOLES = X.copy()
HOLES[5, 2] = np.nan


def torch_model(units: int, output: str | None, start: float | None = None) -> nn.Module:
    torch.manual_seed(0)
    last = {"relu": nn.ReLU(), "softmax": nn.Softmax(1), "sigmoid": nn.Sigmoid()}
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, units), *([last[output]] if output else []))
    if start is not None:
        for layer in (model[0], model[2]):
            nn.init.constant_(layer.weight, start)
            nn.init.zeros_(layer.bias)
    return model


def keras_model(units: int, output: str | None, start: float | None = None) -> Any:
    keras.utils.set_random_seed(0)
    drawn = "glorot_uniform" if start is None else keras.initializers.Constant(start)
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((6,)),
            dense(16, "relu", kernel_initializer=drawn),
            dense(units, output, kernel_initializer=drawn),
        ]
    )


LOSSES: dict[str, tuple[Callable[[], Any], str]] = {
    "cross_entropy": (nn.CrossEntropyLoss, "sparse_categorical_crossentropy"),
    "logits": (nn.BCEWithLogitsLoss, "binary_crossentropy"),
    "binary": (nn.BCELoss, "binary_crossentropy"),
    "squared": (nn.MSELoss, "mse"),
}


@pytest.mark.filterwarnings("ignore:(?s).*softmax over axis:UserWarning")
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
@pytest.mark.parametrize(
    ("model", "data", "loss", "problem"),
    [
        pytest.param((3, "relu"), (X, CLASSES), "cross_entropy", "improper_output_activation", id="relu output"),
        pytest.param((1, "softmax"), (X, LABELS), "binary", "improper_output_activation", id="softmax of one unit"),
        pytest.param((1, "sigmoid"), (X, VALUES - 9), "squared", "improper_output_activation", id="out of reach"),
        pytest.param((1, "sigmoid"), (X * 300 + 500, LABELS), "binary", "abnormal_data", id="raw inputs"),
        pytest.param((1, "sigmoid"), (HOLES, LABELS), "binary", "nonfinite_data", id="a hole in the data"),
        pytest.param((1, None), (X, VALUES * 1e4 + 1e5), "squared", "unscaled_targets", id="raw targets"),
        pytest.param((1, "sigmoid", 0.0), (X, LABELS), "binary", "poor_initialization", id="all weights zero"),
        pytest.param((1, "sigmoid", 0.1), (X, LABELS), "binary", "poor_initialization", id="all weights equal"),
        pytest.param((1, "sigmoid"), (X, LABELS), "binary", None, id="sound classifier"),
        pytest.param((1, None), (X, VALUES), "squared", None, id="sound regression"),
    ],
)
def test_check_finds_problems_and_changes_nothing(
    framework: str, model: Any, data: Any, loss: str, problem: str | None
) -> None:
    if framework == "pytorch":
        built: Any = torch_model(*model)
        before = [p.detach().clone().numpy() for p in built.parameters()]
    else:
        built = keras_model(*model)
        before = built.get_weights()
    loss_fn: Any = LOSSES[loss][0]() if framework == "pytorch" else LOSSES[loss][1]
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    findings = autotrainer.check(built, data, loss=loss_fn)
    serious = [f for f in findings if f.severity != "info"]
    assert ([f.problem for f in serious] == []) if problem is None else (problem in [f.problem for f in serious])
    assert all(f.step == 0 and f.epoch == 0 for f in findings)
    after = [p.detach().numpy() for p in built.parameters()] if framework == "pytorch" else built.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()


SOFT = (np.eye(3)[CLASSES] * 0.9 + 0.1 / 3).astype("float32")
HOT = np.eye(3, dtype="float32")[CLASSES]
SPARSE, DENSE = "sparse_categorical_crossentropy", "categorical_crossentropy"


def problems(model: Any, data: Any, loss: Any) -> list[str]:
    return [f.problem for f in autotrainer.check(model, data, loss=loss) if f.severity == "error"]


@pytest.mark.parametrize("loader", [False, True], ids=["arrays", "loader"])
@pytest.mark.parametrize(
    ("units", "targets", "loss", "wrong"),
    [
        pytest.param(3, CLASSES, nn.CrossEntropyLoss(), False, id="class indices"),
        pytest.param(3, CLASSES.astype("float32"), nn.CrossEntropyLoss(), True, id="class indices as floats"),
        pytest.param(3, CLASSES[:, None], nn.CrossEntropyLoss(), True, id="class indices in a column"),
        pytest.param(3, SOFT, nn.CrossEntropyLoss(), False, id="class probabilities"),
        pytest.param(3, HOT, nn.CrossEntropyLoss(), False, id="one-hot"),
        pytest.param(3, HOT.astype(int), nn.CrossEntropyLoss(), True, id="one-hot as whole numbers"),
        pytest.param(1, VALUES, nn.MSELoss(), False, id="columns"),
        pytest.param(1, VALUES[:, 0], nn.MSELoss(), True, id="squared error broadcasts"),
        pytest.param(1, VALUES[:, 0], nn.L1Loss(), True, id="absolute error broadcasts"),
        pytest.param(1, LABELS, nn.BCEWithLogitsLoss(), False, id="labels"),
        pytest.param(1, LABELS[:, 0], nn.BCEWithLogitsLoss(), True, id="labels without a column"),
        pytest.param(1, LABELS.astype(int), nn.BCEWithLogitsLoss(), True, id="labels as whole numbers"),
    ],
)
def test_target_mismatch_in_pytorch(units: int, targets: Any, loss: Any, wrong: bool, loader: bool) -> None:
    data: Any = (X, targets)
    if loader:
        pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(targets))
        data = torch.utils.data.DataLoader(pairs, batch_size=50)
    assert problems(torch_model(units, None), data, loss) == (["target_mismatch"] if wrong else [])


@pytest.mark.parametrize(
    ("units", "output", "targets", "loss", "wrong"),
    [
        pytest.param(3, "softmax", CLASSES, SPARSE, False, id="class indices"),
        pytest.param(3, "softmax", CLASSES[:, None].astype("float32"), SPARSE, False, id="indices as Keras takes them"),
        pytest.param(3, "softmax", HOT, SPARSE, True, id="one-hot for indices"),
        pytest.param(3, "softmax", CLASSES, DENSE, True, id="indices for one-hot"),
        pytest.param(3, "softmax", SOFT, DENSE, False, id="class probabilities"),
        pytest.param(1, "sigmoid", LABELS[:, 0], "binary_crossentropy", False, id="Keras adds the column"),
        pytest.param(1, "sigmoid", LABELS.astype(int), "binary_crossentropy", False, id="labels as whole numbers"),
        pytest.param(2, "sigmoid", LABELS[:, 0], "binary_crossentropy", True, id="one label for two outputs"),
        pytest.param(1, None, VALUES[:, 0], "mse", False, id="Keras adds the column for numbers"),
        pytest.param(3, None, VALUES, "mse", True, id="one column for three"),
    ],
)
def test_target_mismatch_in_keras(units: int, output: str | None, targets: Any, loss: str, wrong: bool) -> None:
    assert problems(keras_model(units, output), (X, targets), loss) == (["target_mismatch"] if wrong else [])


def test_custom_loss_may_reshape_its_inputs() -> None:
    class Squeezing(nn.MSELoss):
        def forward(self, outputs: Any, targets: Any) -> Any:
            return super().forward(outputs.squeeze(-1), targets)

    x = torch.randn(64, 4)
    findings = autotrainer.check(nn.Linear(4, 1), (x, x.sum(1)), loss=Squeezing())
    assert "target_mismatch" not in {f.problem for f in findings}
