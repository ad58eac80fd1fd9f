"""Copies of Keras models compute what the originals do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from autotrainer.backends.keras3.model.copying import check_copy
from autotrainer.backends.keras3.model.rebuilding import copy_model
from autotrainer.errors import InputError


def test_copies_keep_what_preprocessing_layers_have_learned() -> None:
    rows = np.random.default_rng(0).normal(5, 3, (50, 4)).astype("float32")
    normalization, discretization = keras.layers.Normalization(), keras.layers.Discretization(num_bins=4)
    normalization.adapt(rows)
    discretization.adapt(rows)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [normalization(inputs), discretization(inputs)])
    nested = keras.Sequential([keras.Input((4,)), normalization])
    for original in (model, nested):
        for ours, theirs in zip(*(keras.tree.flatten(m(rows)) for m in (copy_model(original), original)), strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))


@pytest.mark.parametrize(
    ("layer", "rows"),
    [
        (lambda: keras.layers.IntegerLookup(), [[3], [5], [9]]),
        (lambda: keras.layers.IntegerLookup(output_mode="tf_idf"), [[3], [5], [9]]),
        (lambda: keras.layers.IntegerLookup(vocabulary=[3, 5]), [[3], [5], [9]]),
        (lambda: keras.layers.StringLookup(output_mode="one_hot"), [["a"], ["b"], ["z"]]),
        (lambda: keras.layers.TextVectorization(output_sequence_length=3), [["a b"], ["b c b"], ["z"]]),
        (lambda: keras.layers.TextVectorization(output_mode="tf_idf"), [["a b"], ["b c b"], ["z"]]),
    ],
)
def test_copies_keep_the_vocabulary(layer: Callable[[], Any], rows: Any) -> None:
    lookup, given = layer(), tf.constant(rows)
    if not lookup.get_config()["vocabulary"]:
        lookup.adapt(given[:2])
    inputs = keras.Input((1,), dtype=given.dtype.name)
    model = keras.Model(inputs, lookup(inputs))
    np.testing.assert_array_equal(copy_model(model)(given), model(given))


class Parts(keras.Model):
    """A model of several models with a graph, and of a layer inside another."""

    def __init__(self, encoder: Any, decoder: Any, units: int = 4) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.each = keras.layers.TimeDistributed(keras.layers.Dense(units))

    def call(self, x: Any) -> Any:
        return self.decoder(keras.ops.mean(self.each(keras.ops.expand_dims(self.encoder(x), 1)), axis=1))


def _parts(units: int = 4) -> Any:
    first, second = keras.Input((3,)), keras.Input((units,))
    model = Parts(
        keras.Model(first, keras.layers.Dense(2)(first)), keras.Model(second, keras.layers.Dense(3)(second)), units
    )
    model(np.zeros((2, 3), "float32"))
    return model


def test_models_of_models_that_a_callable_builds_again_are_copies() -> None:
    check_copy(_parts(), _parts())
    with pytest.raises(InputError, match="the copy differs"):
        check_copy(_parts(), _parts(5))
