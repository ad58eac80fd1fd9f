"""Models with several outputs, one of which has targets in another unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import autotrainer
from autotrainer.backends.keras3.surgery.surgery import Surgeon
from autotrainer.edits import ScaleEachTarget
from autotrainer.errors import ConfigError

RNG = np.random.default_rng(16)
X = RNG.normal(size=(1200, 10)).astype("float32")
PRICE = (X[:, 0] + X[:, 1] * X[:, 2]).astype("float32")[:, None]
KIND = np.digitize(X[:, 3] * X[:, 4] + X[:, 5], [-0.6, 0.6])


def two_outputs(*, named: bool) -> Any:
    inputs = keras.Input((10,))
    hidden = layers.Dense(64, "relu")(layers.Dense(64, "relu")(inputs))
    outputs = {"price": layers.Dense(1, name="price"), "kind": layers.Dense(3, "softmax", name="kind")}
    made = {name: layer(hidden) for name, layer in outputs.items()}
    model = keras.Model(inputs, made if named else list(made.values())[::-1])
    losses = {"price": "mse", "kind": "sparse_categorical_crossentropy"}
    model.compile(keras.optimizers.Adam(2e-3), losses)
    return model


def rows(start: int, end: int, price: np.ndarray) -> Any:
    data = tf.data.Dataset.from_tensor_slices((X[start:end], {"price": price[start:end], "kind": KIND[start:end]}))
    return (data.shuffle(900, seed=1) if start == 0 else data).batch(32)


@pytest.mark.parametrize(("named", "raw"), [(True, True), (False, True), (True, False)])
def test_targets_in_the_unit_of_prices_do_not_outweigh_the_classes(*, named: bool, raw: bool, tmp_path: Path) -> None:
    price = 3000 + 800 * PRICE if raw else PRICE
    keras.utils.set_random_seed(0)
    result = autotrainer.fit(
        two_outputs(named=named),
        rows(0, 900, price),
        rows(900, 1200, price),
        epochs=15,
        budget=3.0,
        progress=False,
    )
    assert result.status == ("repaired" if raw else "healthy")
    assert result.score > 0.8
    assert ("`price`: mean" in str(result.plan)) is raw
    if raw and not named:
        result.model.save(tmp_path / "model.keras")
        kind, prices = keras.models.load_model(tmp_path / "model.keras").predict(X[900:], verbose=0)
        assert (kind.argmax(1) == KIND[900:]).mean() > 0.8
        assert np.corrcoef(prices[:, 0], price[900:, 0])[0, 1] > 0.7
        assert abs(prices.mean() - price.mean()) < 400


def single() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def chained() -> Any:
    inputs = keras.Input((4,))
    price = layers.Dense(1, name="price")(inputs)
    return keras.Model(inputs, {"price": price, "kind": layers.Dense(3, name="kind")(price)})


@pytest.mark.parametrize(("build", "reason"), [(single, "a single output"), (chained, "layer of its own")])
def test_outputs_that_others_depend_on_are_refused(build: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Surgeon(build()).check(ScaleEachTarget(("price",), (3000.0,), (800.0,)))
