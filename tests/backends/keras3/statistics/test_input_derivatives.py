"""Losses of derivatives of the outputs by the inputs, as those of physics-informed networks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import autotrainer

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tapes of TensorFlow")


@pytest.mark.parametrize(
    ("activation", "order", "compiled", "largest", "found"),
    [
        pytest.param("relu", 2, True, "zero", True, id="second derivatives with relu"),
        pytest.param("relu", 2, False, "zero", True, id="the same in eager code"),
        pytest.param("tanh", 2, True, "some", False, id="second derivatives with tanh"),
        pytest.param("relu", 1, True, "none", False, id="first derivatives, as of a gradient penalty"),
    ],
)
def test_derivatives_by_inputs(activation: str, order: int, compiled: bool, largest: str, found: bool) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(8, activation, bias_initializer="normal"), keras.layers.Dense(1)]
    )
    optimizer = keras.optimizers.SGD(0.01)

    def step(x: Any) -> None:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as second:
                second.watch(x)
                with tf.GradientTape() as first:
                    first.watch(x)
                    u = model(x)
                derivative = first.gradient(u, x)
            if order == 2:
                derivative = second.gradient(derivative, x)
            loss = tf.reduce_mean((derivative + 1) ** 2) + tf.reduce_mean(model(tf.zeros((2, 1))) ** 2)
        optimizer.apply(outer.gradient(loss, model.trainable_variables), model.trainable_variables)

    take = tf.function(step) if compiled else step
    x = tf.constant(np.random.default_rng(0).uniform(-1, 1, (16, 1)).astype("float32"))
    with autotrainer.watch(model, optimizer, overhead=1, select=["no_gradient"]) as monitor:
        for _ in range(20):
            take(x)
    values = monitor.history.scalar("second_derivative")
    assert {"zero": (values == 0).all(), "some": (values > 0).all(), "none": np.isnan(values).all()}[largest]
    assert [finding.severity for finding in monitor.findings] == (["error"] if found else [])
