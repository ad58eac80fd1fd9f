"""Trainings whose loss weights classes: judged by balanced accuracy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import autotrainer

RNG = np.random.default_rng(12)
X = RNG.normal(size=(1900, 10)).astype("float32")
Y = (X[:, 0] + X[:, 1] * X[:, 2] + RNG.normal(0, 0.3, 1900) > 1.9).astype("int64")


def classifier() -> Any:
    model = keras.Sequential([keras.Input((10,)), layers.Dense(32, "relu"), layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    return model


@pytest.mark.parametrize(
    ("weights", "status"),
    [
        ({0: 0.55, 1: 5.0}, "healthy"),  # whose accuracy is below the share of the common class
        ({0: 5.0, 1: 0.55}, "repaired"),
    ],
)
def test_rare_class_counts_as_much_as_the_common_one(weights: dict[int, float], status: str) -> None:
    keras.utils.set_random_seed(0)
    result = autotrainer.fit(
        classifier,
        (X[:1400], Y[:1400, None]),
        (X[1400:], Y[1400:, None]),
        epochs=25,
        budget=3.0,
        metric="balanced_accuracy",
        progress=False,
        fit_args={"class_weight": weights},
    )
    assert (result.status, result.metric) == (status, "balanced_accuracy")
    assert result.score > 0.8
    assert ("weighted in the loss" in str(result.plan)) is (status == "repaired")
