"""Several outputs: targets and losses that are given by name belong to the outputs of these names, in any order."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import autotrainer

RNG = np.random.default_rng(0)
X = RNG.normal(size=(320, 6)).astype("float32")
TARGETS = {"topic": (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0), "price": X[:, 2:3] + X[:, 3:4]}
LOSSES = {"topic": "sparse_categorical_crossentropy", "price": "mse"}


def compiled(order: tuple[str, str], *, named: bool) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = layers.Dense(32, "relu")(inputs)
    outputs = {
        "topic": layers.Dense(3, "softmax", name="topic")(hidden),
        "price": layers.Dense(1, name="price")(hidden),
    }
    model = keras.Model(inputs, outputs if named else list(outputs.values()))
    model.compile(keras.optimizers.Adam(1e-2), {name: LOSSES[name] for name in order})
    return model


@pytest.mark.parametrize("order", [("topic", "price"), ("price", "topic")], ids="-".join)
@pytest.mark.parametrize("named", [True, False])
def test_targets_by_name_are_those_of_the_outputs(named: bool, order: tuple[str, str]) -> None:
    data = tf.data.Dataset.from_tensor_slices((X, TARGETS)).shuffle(320, seed=0).batch(32)
    model = compiled(order, named=named)
    assert not [f for f in autotrainer.check(model, data) if f.severity.name == "ERROR"]
    with autotrainer.watch(model) as monitor:
        model.fit(data, epochs=12, shuffle=False, verbose=0)
    assert not [f for f in monitor.findings if f.severity.name == "ERROR"]
    classes = monitor.context.loss.family == "cross_entropy"
    assert (monitor.context.output_units, monitor.history.targets.classes) == ((3, 3) if classes else (1, 0))
    result = autotrainer.fit(lambda: compiled(order, named=named), data, data, epochs=12, budget=2.0, progress=False)
    assert result.status == "healthy"
    assert result.score > 0.9
