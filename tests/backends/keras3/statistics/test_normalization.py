"""Outputs of normalizations against their scale."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest

from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.statistics.normalization import norm_vectors, normalization_values
from autotrainer.records.signals import LayerInfo

X = np.random.default_rng(0).normal(1, 3, (6, 5, 8)).astype("float32")


class ScaledRMSNorm(keras.layers.Layer):
    """Multiplies by 1 + scale, as in Gemma."""

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="scale")

    def call(self, x: Any) -> Any:
        return x * keras.ops.rsqrt(keras.ops.mean(x * x, -1, keepdims=True)) * (1 + self.scale)


class TimeLayerNormalization(ScaledRMSNorm):
    """Normalizes over time by mistake."""

    def call(self, x: Any) -> Any:
        return x * keras.ops.rsqrt(keras.ops.mean(x * x, 1, keepdims=True)) * (1 + self.scale)


TimeRMSNorm = type("TimeRMSNorm", (TimeLayerNormalization,), {})


def values(layer: Any, x: np.ndarray[Any, Any] = X, **arguments: Any) -> dict[str, float]:
    layer.build(x.shape)
    draw = np.random.default_rng(1)
    for weight in layer.trainable_variables:
        weight.assign(draw.uniform(0.5, 3.0, weight.shape))
    watched = WatchedLayer(LayerInfo("norm", "norm"), layer, layer, tuple(layer.trainable_variables), "linear")
    return normalization_values(watched, layer(x, **arguments), norm_vectors(watched))


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: keras.layers.LayerNormalization(epsilon=1e-6), id="layer"),
        pytest.param(lambda: keras.layers.LayerNormalization(axis=(1, 2), epsilon=1e-6), id="layer over two axes"),
        pytest.param(lambda: keras.layers.GroupNormalization(2, epsilon=1e-6), id="group"),
        pytest.param(ScaledRMSNorm, id="one plus weight"),
    ],
)
def test_values_before_scale_and_bias_have_a_size_of_1(layer: Any) -> None:
    measured = values(layer())
    assert measured["normalized_rms"] == pytest.approx(1, abs=2e-3)
    assert measured["normalized_peak"] == pytest.approx(1, abs=2e-3)


def test_batch_statistics() -> None:
    rows = X.reshape(-1, 8)
    trained = values(keras.layers.BatchNormalization(epsilon=1e-6), rows, training=True)
    assert trained["normalized_peak"] == pytest.approx(1, abs=2e-3)
    frozen = values(keras.layers.BatchNormalization(trainable=False), rows)
    assert frozen["normalized_rms"] > 2
    assert math.isnan(frozen.get("normalized_peak", math.nan))


def test_wrong_axis_and_large_epsilon_show() -> None:
    assert values(TimeRMSNorm())["normalized_peak"] > 1.2
    assert values(keras.layers.LayerNormalization(epsilon=100.0))["normalized_rms"] < 0.4


def test_scale_and_bias() -> None:
    layer = keras.layers.LayerNormalization()
    measured = values(layer)
    scale, bias = (np.asarray(w) for w in layer.trainable_variables)
    assert measured["scale_rms"] == pytest.approx(np.sqrt((scale**2).mean()), rel=1e-5)
    assert measured["bias_rms"] == pytest.approx(np.sqrt((bias**2).mean()), rel=1e-5)
