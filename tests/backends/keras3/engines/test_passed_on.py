"""Layers whose output another layer receives as it is have no activation in user code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from autotrainer.backends.keras3.engines.step_recorder import StepRecorder
from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.monitoring.guard import StatisticGuard


class Net(keras.Model):  # type: ignore[misc]  # Keras has no types
    """Calls a function between two layers."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.last, self.function = layers.Dense(4), layers.Dense(2), function

    def call(self, x: Any) -> Any:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "passed_on"),
    [
        (lambda x: x, {0}),
        (ops.gelu, set()),
        (lambda x: x * ops.sigmoid(x), set()),
        (lambda x: x + 1, set()),
    ],
)
def test_layers_without_a_function_behind_them(function: Callable[[Any], Any], passed_on: set[int]) -> None:
    model, x = Net(function), np.ones((3, 5), "float32")
    model(x)
    recorder = StepRecorder(model, watched_layers(model), StatisticGuard(lambda *_, **__: None))
    recorder.record(lambda: model(x))
    assert recorder.passed_on == passed_on
