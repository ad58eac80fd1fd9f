"""Variables that outputs depend on, but that neither the model nor an optimizer has; and losses that ignore targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="variables of TensorFlow")


class Linear(keras.layers.Layer):
    """A linear map whose weights are made in one of several ways."""

    def __init__(self, make: Callable[[keras.layers.Layer], Any]) -> None:
        super().__init__()
        self.make = make

    def build(self, shape: Any) -> None:
        self.w = [self.make(self)]

    def call(self, x: Any) -> Any:
        return keras.ops.tanh(keras.ops.matmul(x, keras.ops.convert_to_tensor(self.w[0])))


def variable(layer: Any = None, **options: Any) -> Any:
    import tensorflow as tf

    return tf.Variable(np.random.default_rng(0).normal(size=(8, 16)).astype("float32"), **options)


def weight(layer: Any) -> Any:
    return layer.add_weight(shape=(8, 16))


def fixed(layer: Any) -> Any:
    return variable(trainable=False)


def constant(layer: Any) -> Any:
    import tensorflow as tf

    return tf.Variable(np.full((8, 16), 0.1, "float32"))


def data() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(128, 8)).astype("float32")
    return x, (x[:, :1] > 0).astype("float32")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(variable, 128, id="a variable of TensorFlow"),
        pytest.param(weight, 0, id="a weight of the layer"),
        pytest.param(fixed, 0, id="fixed on purpose"),
        pytest.param(constant, 0, id="a setting"),
    ],
)
def test_variables_outside_of_the_model(make: Callable[[Any], Any], expected: int) -> None:
    keras.utils.set_random_seed(0)
    x, y = data()
    model = keras.Sequential([keras.Input((8,)), Linear(make), keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    with autotrainer.watch(model, overhead=1, select=["parameters_not_optimized"]) as monitor:
        model.fit(x, y, epochs=5, batch_size=16, verbose=0)
    assert monitor.history.scalar("outside_parameters")[-1] == expected
    assert [finding.evidence["parameters"] for finding in monitor.findings] == ([expected] if expected else [])


class Anew(keras.Model):
    """Makes its hidden layer in each call, if there is none."""

    def __init__(self, hidden: Any) -> None:
        super().__init__()
        self.first, self.last = keras.layers.Dense(16, "relu"), keras.layers.Dense(1)
        self.outside = (lambda: hidden) if hidden is not None else (lambda: keras.layers.Dense(16, "relu"))

    def call(self, x: Any) -> Any:
        return self.last(self.outside()(self.first(x)))


@pytest.mark.parametrize(
    ("outside", "trained", "expected"),
    [
        pytest.param(False, False, 272, id="made in each call"),
        pytest.param(True, False, 272, id="kept elsewhere"),
        pytest.param(True, True, 0, id="another optimizer trains it"),
    ],
)
def test_layers_outside_of_the_model_in_a_custom_loop(outside: bool, trained: bool, expected: int) -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    x, y = data()
    hidden = keras.layers.Dense(16, "relu") if outside else None
    model, optimizer, other = Anew(hidden), keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)
    loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)
    model(x[:1])
    with autotrainer.watch(model, optimizer, overhead=1, select=["parameters_not_optimized"]) as monitor:
        for _ in range(20):
            with tf.GradientTape(persistent=True) as tape:
                loss = loss_fn(y, model(x, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            if trained:
                assert hidden is not None
                other.apply(tape.gradient(loss, hidden.trainable_variables), hidden.trainable_variables)
    assert monitor.history.scalar("outside_parameters")[-1] == expected


def of_outputs_alone(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(keras.ops.round(y_pred) - y_pred), -1)


def of_embeddings(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(y_pred[:, :2] - y_pred[:, 2:]), -1)


def squared(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.square(keras.ops.cast(y_true, "float32") - y_pred), -1)


@pytest.mark.parametrize(
    ("loss", "units", "targets", "expected"),
    [
        pytest.param(of_outputs_alone, 1, "labels", ["error"], id="a loss of the outputs alone"),
        pytest.param(squared, 1, "labels", [], id="a loss of both"),
        pytest.param(of_outputs_alone, 1, "zeros", [], id="targets that are all the same"),
        pytest.param(of_embeddings, 4, "labels", ["info"], id="labels of embeddings, for a metric"),
    ],
)
def test_loss_that_ignores_the_targets(loss: Any, units: int, targets: str, expected: list[str]) -> None:
    keras.utils.set_random_seed(0)
    x, y = data()
    y = np.roll(y, 1, axis=0) if targets == "labels" else np.zeros_like(y)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(units, "sigmoid")])
    model.compile(keras.optimizers.SGD(0.01), loss)
    with autotrainer.watch(model, overhead=1, select=["improper_loss"]) as monitor:
        model.fit(x, y, epochs=8, batch_size=16, verbose=0)
    ignored = monitor.history.scalar("targets_ignored")
    assert ignored[-1] == (loss is not squared)
    assert [finding.severity for finding in monitor.findings] == expected
