"""Loops of the user's own that watching must leave as they are, whatever they compile, draw, create or replace."""

from __future__ import annotations

import gc
import pickle
import random
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
from autotrainer.backends.keras3.watching import custom_loop
from autotrainer.monitoring.monitor import Monitor

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("loops around tf.GradientTape", allow_module_level=True)

RNG = np.random.default_rng(0)
X = tf.constant(RNG.normal(size=(32, 6)).astype("float32"))
Y = tf.reduce_sum(X, 1, keepdims=True)
LOSS = keras.losses.MeanSquaredError()


class Training:
    """A model and its optimizer."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(1)])
        self.optimizer: Any = keras.optimizers.SGD(0.01)

    def step(self, x: Any, y: Any, weight: Callable[[], Any] = lambda: 1.0) -> Any:
        with tf.GradientTape() as tape:
            loss = LOSS(y, self.model(x, training=True)) * weight()
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def watching(self, watched: bool) -> Any:
        return autotrainer.watch(self.model, self.optimizer, overhead=1.0) if watched else nullcontext()


def with_an_inner_function_of_given_types(training: Training) -> list[Any]:
    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])  # type: ignore[untyped-decorator]
    def weight(factor: Any) -> Any:
        return factor if isinstance(factor, tf.Tensor) else 2 * factor  # always gets a tensor

    step = tf.function(lambda x, y: training.step(x, y, lambda: weight(0.3)))
    return [float(step(X, Y)) for _ in range(4)]


def with_a_variable_that_its_first_call_makes(training: Training) -> list[Any]:
    averages: list[Any] = []
    training.optimizer.build(training.model.trainable_variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        loss = training.step(x, y)
        if not averages:
            averages.append(tf.Variable(loss))
        averages[0].assign(0.9 * averages[0] + 0.1 * loss)
        return averages[0].read_value()

    return [float(step(X, Y)) for _ in range(4)]


def with_constants_drawn_while_tracing(training: Training) -> list[Any]:
    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        return training.step(x * np.random.uniform(), y, random.random)

    return [*(float(step(X, Y)) for _ in range(4)), np.random.uniform(), random.random()]


def with_a_function_traced_between_steps(training: Training) -> list[Any]:
    noisy = tf.function(lambda x: training.model(x, training=False) + 0 * tf.random.normal([1]))
    values = []
    for _ in range(4):
        values.append(float(training.step(X, Y)))
        values.append(float(tf.reduce_sum(noisy(X))))
    return values


def with_gradients_of_a_compiled_function(training: Training) -> list[Any]:
    @tf.function  # type: ignore[untyped-decorator]
    def gradients(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = LOSS(y, training.model(x, training=True))
        return loss, tape.gradient(loss, training.model.trainable_variables)

    losses = []
    for rows in (32, 32, 20, 32):
        loss, values = gradients(X[:rows], Y[:rows])
        training.optimizer.apply(values, training.model.trainable_variables)
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(
    "script",
    [
        with_an_inner_function_of_given_types,
        with_a_variable_that_its_first_call_makes,
        with_constants_drawn_while_tracing,
        with_a_function_traced_between_steps,
        with_gradients_of_a_compiled_function,
    ],
)
def test_training_is_unchanged(script: Callable[[Training], list[Any]]) -> None:
    results = []
    for watched in (False, True):
        training = Training()
        with training.watching(watched) as monitor:
            values = script(training)
        results.append((values, [weight.tobytes() for weight in training.model.get_weights()]))
    assert results[0] == results[1]
    assert isinstance(monitor, Monitor)
    assert monitor.history.step == 3
    assert not monitor._failed


def test_call_that_the_user_has_replaced_stays() -> None:
    training = Training()
    training.model.call = replaced = tf.function(training.model.call)
    with training.watching(True):
        training.step(X, Y)
    assert vars(training.model)["call"] is replaced


def test_losses_can_be_pickled() -> None:
    with Training().watching(True):
        assert pickle.loads(pickle.dumps(keras.losses.mean_squared_error)) is keras.losses.mean_squared_error


@pytest.mark.parametrize("compiled", [False, True])
def test_loss_is_recorded_as_it_was_before_it_was_scaled(compiled: bool) -> None:
    training = Training()
    training.optimizer = keras.optimizers.LossScaleOptimizer(training.optimizer)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = LOSS(y, training.model(x, training=True))
            scaled = training.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, training.model.trainable_variables)
        training.optimizer.apply(gradients, training.model.trainable_variables)
        return loss

    function = tf.function(step) if compiled else step
    with training.watching(True) as monitor:
        losses = [float(function(X, Y)) for _ in range(4)]
    np.testing.assert_allclose(monitor.history.scalar("loss"), losses, rtol=1e-5)


def test_models_are_released_while_another_is_watched() -> None:
    other = Training()
    with other.watching(True):
        training = Training()
        function = tf.function(training.step)
        with training.watching(True):
            for _ in range(3):
                function(X, Y)
        gone = weakref.ref(training.model)
        del training, function
        gc.collect()
        assert gone() is None


def test_optimizers_that_take_turns_are_all_counted() -> None:
    training, second = Training(), keras.optimizers.SGD(0.001)
    first = training.optimizer
    with training.watching(True) as monitor:
        for step in range(12):
            training.optimizer = second if 4 <= step < 8 else first
            training.step(X, Y)
    assert monitor.history.step >= 10


def test_step_that_takes_long_to_trace_is_not_traced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_loop, "_TRACING", 0.0)
    training, traces = Training(), []

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        traces.append(1)
        return training.step(x, y)

    with autotrainer.watch(training.model, training.optimizer, overhead=1e-6) as monitor:
        losses = [float(step(X, Y)) for _ in range(3)]
    assert len(traces) == 1
    assert monitor.history.step == 2
    assert monitor.history.losses[1][-1] == pytest.approx(losses[-1], rel=1e-5)
