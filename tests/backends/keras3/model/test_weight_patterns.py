"""Initial weights of a special form, detected from the weights alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.backends.keras3.model.weight_patterns import with_weight_forms

dense, conv = keras.layers.Dense, keras.layers.Conv2D
HALF = keras.initializers.Constant(0.5)


def equal_units(shape: tuple[int, ...], dtype: Any = None) -> Any:
    column = np.arange(1.0, np.prod(shape[:-1]) + 1).reshape(*shape[:-1], 1)
    return keras.ops.convert_to_tensor(np.broadcast_to(column, shape), dtype)


def equal_inputs(shape: tuple[int, ...], dtype: Any = None) -> Any:
    return keras.ops.convert_to_tensor(np.broadcast_to(np.arange(1.0, shape[-1] + 1), shape), dtype)


@pytest.mark.parametrize(
    ("layer", "shape", "form"),
    [
        pytest.param(dense(4), (3,), "", id="random"),
        pytest.param(dense(20), (20,), "", id="random, trained"),
        pytest.param(dense(20, trainable=False), (20,), "drawn", id="random, frozen"),
        pytest.param(
            dense(20, kernel_initializer="he_uniform", trainable=False),
            (20,),
            "drawn",
            id="another initializer, frozen",
        ),
        pytest.param(dense(4, trainable=False), (3,), "", id="too few weights to tell"),
        pytest.param(dense(20, kernel_initializer="orthogonal", trainable=False), (20,), "", id="frozen, not drawn"),
        pytest.param(dense(4, kernel_initializer=HALF), (3,), "constant", id="constant"),
        pytest.param(dense(4, kernel_initializer="zeros"), (3,), "zero", id="zero"),
        pytest.param(dense(1, kernel_initializer=HALF), (3,), "equal_inputs", id="constant, one unit"),
        pytest.param(dense(4, kernel_initializer=equal_units), (3,), "equal_units", id="equal columns"),
        pytest.param(dense(4, kernel_initializer=equal_inputs), (3,), "equal_inputs", id="equal rows"),
        pytest.param(dense(4), (1,), "", id="one input"),
        pytest.param(dense(1), (1,), "", id="one input, one unit"),
        pytest.param(dense(4, kernel_initializer="zeros"), (1,), "zero", id="zero, one input"),
        pytest.param(dense(1, kernel_initializer="zeros"), (3,), "zero", id="zero, one unit"),
        pytest.param(dense(4, kernel_initializer=HALF), (1,), "constant", id="constant, one input"),
        pytest.param(conv(4, 1), (8, 8, 1), "", id="one channel"),
        pytest.param(
            conv(4, 3, kernel_initializer=equal_units), (8, 8, 1), "equal_units", id="equal filters, one channel"
        ),
        pytest.param(conv(4, 3), (8, 8, 2), "", id="convolution"),
        pytest.param(conv(4, 3, kernel_initializer=equal_units), (8, 8, 2), "equal_units", id="equal filters"),
        pytest.param(
            keras.layers.Conv2DTranspose(4, 3, kernel_initializer=HALF), (8, 8, 2), "constant", id="transposed"
        ),
        pytest.param(keras.layers.GRU(4), (5, 2), "", id="recurrent"),
        pytest.param(
            keras.layers.GRU(4, kernel_initializer=HALF, recurrent_initializer=HALF),
            (5, 2),
            "constant",
            id="recurrent, constant",
        ),
        pytest.param(keras.layers.DepthwiseConv2D(3, depthwise_initializer=HALF), (8, 8, 2), "", id="depthwise"),
        pytest.param(conv(4, 3, groups=2, kernel_initializer=HALF), (8, 8, 2), "", id="groups"),
        pytest.param(keras.layers.BatchNormalization(), (3,), "", id="normalization"),
    ],
)
def test_weight_form(layer: Any, shape: tuple[int, ...], form: str) -> None:
    model = keras.Sequential([keras.Input(shape), layer])
    assert [part.info.start for part in with_weight_forms(watched_layers(model))] == [form]


@pytest.mark.parametrize("copied", [True, False])
def test_a_frozen_copy_of_a_trained_layer_is_no_forgotten_one(copied: bool) -> None:
    model = keras.Sequential([keras.Input((32,)), dense(32), dense(32)])
    if copied:
        model.layers[1].set_weights(model.layers[0].get_weights())
    model.layers[1].trainable = False
    assert [part.info.start for part in with_weight_forms(watched_layers(model))] == ["", "" if copied else "drawn"]
