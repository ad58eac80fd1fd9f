"""A softmax over another axis of images than that of the classes is named and repaired."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import autotrainer
from autotrainer.backends.keras3.model.loss_kinds import loss_info

RNG = np.random.default_rng(0)
X = RNG.normal(0, 1, (240, 8, 8, 1)).astype("float32")
Y = np.digitize(X[..., 0], [-0.5, 0.5])


def build(axis: int) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    values = layers.Conv2D(3, 1)(layers.Conv2D(16, 1, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Softmax(axis=axis)(values))
    model.compile(keras.optimizers.Adam(2e-2), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_over_the_rows_of_an_image(axis: int) -> None:
    result = autotrainer.fit(
        lambda: build(axis), (X[:160], Y[:160]), (X[160:], Y[160:]), epochs=12, budget=3.0, progress=False
    )
    assert result.status == ("healthy" if axis == -1 else "repaired")
    assert result.score > 0.9
    if axis == 1:
        assert "output activation softmax" in str(result.plan)


def test_loss_of_classes_in_another_axis() -> None:
    assert [loss_info(keras.losses.CategoricalCrossentropy(axis=axis)).class_axis for axis in (1, -1)] == [1, -1]
