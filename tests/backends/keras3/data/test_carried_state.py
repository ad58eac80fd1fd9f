"""Stateful recurrent layers whose batches are shuffled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from autotrainer.backends.keras3.data.carried_state import carries_state_of_shuffled_rows

X = np.zeros((16, 4, 1), "float32")


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return X[index * 4 : index * 4 + 4], X[index * 4 : index * 4 + 4]


def dataset(shuffled: bool) -> Any:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, X))
    return (data.shuffle(16) if shuffled else data).batch(4).prefetch(1)


def pieces_of_shuffled_series() -> Any:
    tf = pytest.importorskip("tensorflow")
    series = tf.data.Dataset.from_tensor_slices((X, X)).shuffle(16)
    return series.flat_map(lambda x, y: tf.data.Dataset.from_tensors((x, y)).repeat(4)).batch(4)


@pytest.mark.parametrize(
    ("stateful", "arguments", "expected"),
    [
        pytest.param(True, lambda: {"x": X, "batch_size": 4}, True, id="arrays, by default"),
        pytest.param(True, lambda: {"x": X, "batch_size": 4, "shuffle": False}, False, id="arrays in order"),
        pytest.param(True, lambda: {"x": X, "batch_size": 16}, False, id="a single batch"),
        pytest.param(False, lambda: {"x": X, "batch_size": 4}, False, id="stateless"),
        pytest.param(True, lambda: {"x": Batches()}, True, id="indexed batches, by default"),
        pytest.param(True, lambda: {"x": Batches(), "shuffle": False}, False, id="indexed batches in order"),
        pytest.param(True, lambda: {"x": dataset(True)}, True, id="a shuffled data set"),
        pytest.param(True, lambda: {"x": dataset(False)}, False, id="a data set in order"),
        pytest.param(True, lambda: {"x": pieces_of_shuffled_series()}, False, id="pieces of shuffled series, in order"),
        pytest.param(True, lambda: {"x": iter([(X, X)])}, False, id="a generator, in unknown order"),
    ],
)
def test_state_of_shuffled_rows(stateful: bool, arguments: Callable[[], dict[str, Any]], expected: bool) -> None:
    given = arguments()
    layer = keras.layers.GRU(4, return_sequences=True, stateful=stateful)
    model = keras.Sequential([keras.Input(batch_shape=(4, 4, 1)), layer, keras.layers.Dense(1)])
    assert carries_state_of_shuffled_rows(model, given) == expected
