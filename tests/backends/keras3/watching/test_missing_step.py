"""Loops of the user's own that compute gradients, but never call an optimizer."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import autotrainer

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("loops around tf.GradientTape", allow_module_level=True)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=(8, 1)).astype("float32")


@pytest.mark.parametrize(
    ("by_hand", "found"), [pytest.param(False, True, id="forgotten"), pytest.param(True, False, id="by the loop")]
)
def test_an_optimizer_that_is_never_called(by_hand: bool, found: bool) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with autotrainer.watch(model, keras.optimizers.SGD(0.1)) as monitor:
        for _ in range(120):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(X) - Y) ** 2)
            gradients = tape.gradient(loss, model.trainable_variables)
            if by_hand:
                for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
                    weight.assign(weight - 0.1 * gradient)
    assert ("parameters_not_optimized" in {each.problem for each in monitor.findings}) is found
