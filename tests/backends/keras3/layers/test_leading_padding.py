"""Tests of the layer that moves padding to the start, and of a training that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import autotrainer
from autotrainer.backends.keras3.layers.leading_padding import LeadingPadding
from autotrainer.backends.keras3.surgery.surgery import Surgeon
from autotrainer.edits import LeadPadding
from autotrainer.errors import ConfigError

TOKENS = [[5, 6, 0, 0], [5, 0, 7, 0], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 8, 9]]
LEADING = [[0, 0, 5, 6], [0, 5, 0, 7], [1, 2, 3, 4], [0, 0, 0, 0], [0, 0, 8, 9]]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_padding_moves_to_the_start_and_tokens_keep_their_order(dtype: str, tmp_path: Path) -> None:
    inputs = keras.Input((None,), dtype=dtype)
    model = keras.Model(inputs, LeadingPadding(0)(inputs))
    model.save(tmp_path / "model.keras")
    outputs = keras.models.load_model(tmp_path / "model.keras")(np.array(TOKENS, dtype))
    assert keras.ops.convert_to_numpy(outputs).tolist() == LEADING
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype


def last_output(*, masked: bool, functional: bool) -> Any:
    stack = [layers.Embedding(30, 16, mask_zero=masked), layers.GRU(24), layers.Dense(2, "softmax")]
    if functional:
        inputs = outputs = keras.Input((60,))
        for layer in stack:
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
    else:
        model = keras.Sequential([keras.Input((60,), dtype="int32"), *stack])
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("masked", [False, True])
def test_last_output_behind_padding_is_repaired(*, masked: bool) -> None:
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    x = rng.integers(1, 30, (640, 60))
    y = (x[:, 0] < 15).astype("int64")
    x = np.where(np.arange(60) < rng.integers(2, 6, (640, 1)), x, 0)
    result = autotrainer.fit(
        last_output(masked=masked, functional=not masked),
        (x[:480], y[:480]),
        (x[480:], y[480:]),
        epochs=10,
        budget=3.0,
        progress=False,
    )
    assert result.status == ("healthy" if masked else "repaired")
    assert result.score > 0.9
    assert ("(token 0) moved" in str(result.plan)) is not masked


def numbers() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(2)])


def two_inputs() -> Any:
    tokens, others = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
    return keras.Model([tokens, others], layers.Add()([layers.Embedding(9, 2)(each) for each in (tokens, others)]))


@pytest.mark.parametrize(("build", "reason"), [(numbers, "no embedding"), (two_inputs, "not a single array")])
def test_models_that_do_not_read_tokens_alone_are_refused(build: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Surgeon(build()).check(LeadPadding(0))
