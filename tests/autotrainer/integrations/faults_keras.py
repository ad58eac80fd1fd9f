"""Trainings of Keras with one fault each, for comparing the callback with `autotrainer.watch` around ``fit``.

They take 32 steps, so that TensorFlow traces one train function only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

import autotrainer
from autotrainer import Monitor

__all__ = ["FAULTS", "HEALTHY", "Training", "make_training", "plain_monitor", "problems"]

ROWS, FEATURES, CLASSES = 320, 8, 3


@dataclass
class Training:
    """A compiled model and the arguments of its ``fit``; the same for equal names."""

    model: Any
    x: NDArray[Any]
    y: NDArray[Any]
    arguments: dict[str, Any] = field(default_factory=dict)

    def fit(self, *callbacks: Any, **arguments: Any) -> Any:
        """Train the model."""
        defaults = {"validation_split": 0.2, "batch_size": 32, "epochs": 4, "verbose": 0, "shuffle": False}
        return self.model.fit(self.x, self.y, callbacks=list(callbacks), **{**defaults, **self.arguments, **arguments})


def make_training(name: str) -> Training:
    """Make a training by its name in `FAULTS`, or `HEALTHY`."""
    keras.utils.set_random_seed(0)
    return {HEALTHY: _healthy, **FAULTS}[name]()


def plain_monitor(name: str) -> Monitor:
    """Watch a training from outside, as its callback should."""
    training = make_training(name)
    with autotrainer.watch(training.model, overhead=1.0) as monitor:
        training.fit()
    return monitor


def problems(monitor: Monitor | None) -> dict[str, str]:
    """Return the severities of the findings by problem, but for those that are mere facts."""
    assert monitor is not None
    return {f.problem: str(f.severity) for f in monitor.findings if f.severity is not autotrainer.Severity.INFO}


def _network(activation: str = "relu", depth: int = 1, output: str | None = "softmax", **options: Any) -> Any:
    hidden = [layers.Dense(32, activation, name=f"hidden_{number}", **options) for number in range(depth)]
    return keras.Sequential([keras.Input((FEATURES,)), *hidden, layers.Dense(CLASSES, output, name="out", **options)])


def _training(
    model: Any, rate: float = 0.1, loss: str = "sparse_categorical_crossentropy", scale: float = 1.0, **arguments: Any
) -> Training:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    y = (x @ random.normal(size=(FEATURES, CLASSES))).argmax(axis=1)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
    return Training(model, x * scale, y, arguments)


def _healthy() -> Training:
    return _training(_network(), epochs=30)


def _dead_relu() -> Training:
    return _training(_network(bias_initializer=keras.initializers.Constant(-100.0)))


def _frozen_layer() -> Training:
    model = _network(depth=3)
    model.layers[1].trainable = False
    return _training(model)


def _shuffled_labels() -> Training:
    training = _training(_network())
    training.y = np.random.default_rng(1).permutation(training.y)
    return training


HEALTHY = "healthy"
FAULTS: dict[str, Callable[[], Training]] = {
    "dead_relu": _dead_relu,
    "frozen_layer": _frozen_layer,
    "rate_too_high": lambda: _training(_network(), rate=1000.0),
    "rate_too_low": lambda: _training(_network(), rate=1e-6),
    "relu_output": lambda: _training(_network(output="relu")),
    "shuffled_labels": _shuffled_labels,
    "sigmoid_stack": lambda: _training(_network("sigmoid", depth=9)),
    "unscaled_inputs": lambda: _training(_network("tanh"), scale=1e4),
    "zero_weights": lambda: _training(_network(depth=2, kernel_initializer="zeros")),
}
"""The trainings by name."""
