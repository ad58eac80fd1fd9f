"""Class weights: those that Keras can apply are used, others are refused before the training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import autotrainer
from autotrainer.backends.keras3.data.sample_weights import weighted
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, StreamData

X = np.random.RandomState(0).randn(60, 6).astype("float32")
Y = np.arange(60) % 3
HOT = np.eye(3, dtype="float32")[Y]


def model(units: int = 3, loss: str = "sparse_categorical_crossentropy", **options: Any) -> Any:
    made = keras.Sequential([kl.Input((6,)), kl.Dense(units, "softmax" if units > 1 else "sigmoid"), *options.values()])
    made.compile("sgd", loss)
    return made


def fit(data: Any, weights: Any, made: Any = None, validation: Any = (X, Y)) -> Any:
    return autotrainer.fit(
        model() if made is None else made,
        data,
        validation,
        epochs=1,
        batch_size=16,
        metric="loss",
        repair=False,
        progress=False,
        fit_args={"class_weight": weights, "shuffle": False},
    )


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X[index * 20 :][:20], Y[index * 20 :][:20]


def dataset(*arrays: Any) -> Any:
    return tf.data.Dataset.from_tensor_slices(arrays).batch(16)


@pytest.mark.parametrize(("weights", "missing"), [({0: 1.0}, "1, 2"), ({0: 1.0, 1: 2}, "2")])
def test_classes_without_a_weight_are_named(weights: Any, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"occur in the targets: {missing};"):
        fit(dataset(X, Y), weights)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (Y, [4, 3, 1]),
        (HOT, [4, 3, 1]),
        (Y[:, None], [4, 3, 1]),
        (np.where(Y > 0, 1, -1), [1, 3, 3]),
        (Y.astype("float32"), [4, 3, 1]),
    ],
)
def test_arrays_get_row_weights_as_in_keras(targets: Any, expected: list[float]) -> None:
    weights = weighted(ArrayData(X, targets), None, {0: 4.0, 1: 3.0}).weights  # type: ignore[union-attr]
    assert weights is not None
    assert weights.tolist() == expected * 20


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ArrayData(X, Y, np.ones(60)), "together with sample weights"),
        (StreamData(dataset(X, Y, np.ones(60))), "together with sample weights"),
        (StreamData([(X, Y)]), "for a list"),
        (StreamData(dataset(X, (Y, Y))), "single output"),
        (ArrayData(X, np.stack([Y, Y], 1)), "several class indices a row"),
        (ArrayData(X, np.where(Y > 0, Y, np.nan)), "not finite"),
    ],
)
def test_unsupported_class_weights_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weighted(data, None, {0: 1.0, 1: 2.0, 2: 1.0})


@pytest.mark.parametrize("weights", [{2: 5.0}, {0.0: 1, 1.0: 1, 2.0: 5}])
@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (lambda: (X, Y), Y),
        (lambda: dataset(X, Y), Y),
        (Batches, Y),
        (lambda: (X, HOT), HOT),
        (lambda: (X, Y[:, None]), Y[:, None]),
    ],
)
def test_class_weights_act_as_in_keras(make: Callable[[], Any], targets: Any, weights: Any) -> None:
    given = model(loss="categorical_crossentropy" if targets is HOT else "sparse_categorical_crossentropy")
    expected = keras.models.clone_model(given)
    expected.set_weights(given.get_weights())
    expected.compile("sgd", given.loss)
    size = 20 if make is Batches else 16
    by_row = np.array([weights.get(int(label), 1.0) for label in Y])
    expected.fit(X, targets, sample_weight=by_row, batch_size=size, verbose=0, shuffle=False)
    result = fit(make(), weights, given, (X, targets))
    np.testing.assert_allclose(result.model.get_weights()[0], expected.get_weights()[0], rtol=1e-4)


def test_sequences_are_weighted_by_time_step() -> None:
    made = keras.Sequential([kl.Input((4, 2)), kl.Dense(3, "softmax")])
    made.compile("sgd", "sparse_categorical_crossentropy")
    x, y = np.zeros((20, 4, 2), "float32"), np.arange(80).reshape(20, 4, 1) % 3
    result = fit((x, y), {2: 3.0}, made, (x, y))
    assert result.history["loss"][0] > 1.2 * np.log(3)


def test_empty_class_weights_become_none() -> None:
    assert fit((X, Y), {}).history["loss"]


@pytest.mark.parametrize("make", [lambda: (X, Y), Batches])
def test_classes_beyond_the_largest_weighted_one_have_weight_one(make: Callable[[], Any]) -> None:
    given, expected = model(), model()
    expected.set_weights(given.get_weights())
    size = 20 if make is Batches else 16
    expected.fit(X, Y, sample_weight=np.where(Y == 0, 5.0, 1.0), batch_size=size, verbose=0, shuffle=False)
    result = fit(make(), {0: 5.0}, given)
    np.testing.assert_allclose(result.model.get_weights()[0], expected.get_weights()[0], rtol=1e-4)


def test_duplicate_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="together with the weights of train_data"):
        weighted(ArrayData(X, Y, np.ones(60)), np.ones(60), None)
