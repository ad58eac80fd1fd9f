"""`check` in both frameworks: what is wrong before the first step, and that looking changes nothing."""

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


def torch_model(units: int, output: str | None, zero: bool = False) -> nn.Module:
    torch.manual_seed(0)
    last = {"relu": nn.ReLU(), "softmax": nn.Softmax(1), "sigmoid": nn.Sigmoid()}
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, units), *([last[output]] if output else []))
    if zero:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    return model


def keras_model(units: int, output: str | None, zero: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    start = "zeros" if zero else "glorot_uniform"
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((6,)),
            dense(16, "relu", kernel_initializer=start),
            dense(units, output, kernel_initializer=start),
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
        pytest.param((1, "sigmoid", True), (X, LABELS), "binary", "poor_initialization", id="all weights zero"),
        pytest.param((1, "sigmoid"), (X, LABELS), "binary", None, id="sound classifier"),
        pytest.param((1, None), (X, VALUES), "squared", None, id="sound regression"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_changes(
    framework: str, model: Any, data: Any, loss: str, problem: str | None
) -> None:
    if framework == "pytorch":
        built: Any = torch_model(*model)
        before = [p.detach().clone().numpy() for p in built.parameters()]
    else:
        built = keras_model(*model)
        before = built.get_weights()
    given: Any = LOSSES[loss][0]() if framework == "pytorch" else LOSSES[loss][1]
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    findings = autotrainer.check(built, data, loss=given)
    serious = [f for f in findings if f.severity != "info"]
    assert ([f.problem for f in serious] == []) if problem is None else (problem in [f.problem for f in serious])
    assert all(f.step == 0 and f.epoch == 0 for f in findings)
    after = [p.detach().numpy() for p in built.parameters()] if framework == "pytorch" else built.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()
