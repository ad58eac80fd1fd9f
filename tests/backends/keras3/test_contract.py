"""The Keras backend passes the contract of all backends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from autotrainer import registry
from autotrainer.adapter import Backend
from autotrainer.testing import BackendContract


class TestKeras(BackendContract):
    @property
    def backend(self) -> Backend:
        return next(b for b in registry.backends() if b.name == "keras3")

    def given(self) -> Mapping[str, Any]:
        initial = [keras.initializers.GlorotUniform(seed) for seed in range(3)]
        model = keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(8, "tanh", kernel_initializer=initial[0], name="first"),
                keras.layers.Dense(8, "tanh", kernel_initializer=initial[1], name="second"),
                keras.layers.Dense(1, "sigmoid", kernel_initializer=initial[2], name="out"),
            ]
        )
        return {"model": model, "loss": "binary_crossentropy", "optimizer": keras.optimizers.SGD(0.1)}

    def test_trainings_can_be_paused(self) -> None:
        assert self.backend.trainer(self.request()).resumable

    def weights(self, model: Any) -> list[np.ndarray[Any, Any]]:
        return [np.array(value) for value in model.get_weights()]
