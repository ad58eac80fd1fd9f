"""Copies of Keras models compute what the originals do."""

from __future__ import annotations

import keras
import numpy as np

from autotrainer.backends.keras3.model.rebuilding import copy_model


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
