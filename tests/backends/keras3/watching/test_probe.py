"""What `check` observes of a model without changing it."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from autotrainer.backends.keras3.watching.probe import probe
from autotrainer.errors import DataError, InputError
from autotrainer.records.signals import LAYER_COLUMNS

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(300, 12).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")


def build(*, built: bool = True) -> Any:
    first = [kl.Input((12,))] if built else []
    return keras.Sequential(
        [*first, kl.Dense(8, "relu", name="a"), kl.Dropout(0.5), kl.BatchNormalization(name="n"), kl.Dense(2, name="b")]
    )


@pytest.mark.parametrize("built", [True, False])
def test_probe_changes_nothing(built: bool) -> None:
    keras.utils.set_random_seed(0)
    model = build(built=built)
    weights = model.get_weights()
    states = random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    context, seen = probe(model, (X, Y), loss, keras.optimizers.SGD(0.5), 4)
    assert model.built is built
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert states[0] == random.getstate()
    assert np.array_equal(states[1], np.random.get_state()[1])
    assert [o.batch_size for o in seen] == [256, 44]
    assert [o.learning_rate for o in seen] == [0.5, 0.5]
    assert all(0.1 < o.loss < 5 for o in seen)
    assert (context.train_rows, context.output_activation, context.loss.expects) == (300, "linear", "logits")
    assert [info.name for info in context.layers] == ["a", "n", "b"]
    table = seen[0].layers
    assert np.isfinite(table[:, LAYER_COLUMNS.index("activation_std")]).all()
    assert np.isnan(table[:, LAYER_COLUMNS.index("grad_norm")]).all()
    # batch normalization uses the batch, as in training
    assert table[1, LAYER_COLUMNS.index("activation_std")] == pytest.approx(1, rel=0.05)


class Sequence(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return X[index * 100 : index * 100 + 100], Y[index * 100 : index * 100 + 100]


@pytest.mark.parametrize(
    "data",
    [
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(100),
        Sequence(),
        [(X[:100], Y[:100])] * 5,
        (tf.constant(X[:100]), tf.constant(Y[:100])),
    ],
)
def test_kinds_of_data(data: Any) -> None:
    model = build()
    model.compile("rmsprop", "mse")
    context, seen = probe(model, data, None, None, 2)
    assert seen[0].batch_size == 100
    assert (context.optimizer.name, context.loss.family) == ("rmsprop", "squared_error")
    assert np.isnan(seen[0].loss)  # targets of shape (100,) against outputs of shape (100, 2)
    assert seen[0].outputs is not None
    assert seen[0].outputs.shape == (100, 2)
    np.testing.assert_array_equal(seen[0].targets, Y[:100])


class Unclonable(keras.Model):  # type: ignore[misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = kl.Dense(width)

    def call(self, inputs: Any) -> Any:
        return self.out(inputs)

    def get_config(self) -> Any:
        raise NotImplementedError


def test_uncopyable_model_without_weights() -> None:
    model = Unclonable(2)
    _, seen = probe(model, (X, Y), "mse", "sgd", 1)
    assert not model.built
    assert seen[0].outputs is None
    assert seen[0].inputs is not None
    assert np.isnan(seen[0].layers).all()


def test_wrong_objects_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(256, 3\) \(float32\)"):
        probe(build(), (X[:, :3], Y), "mse", None, 1)
    with pytest.raises(DataError):
        probe(build(), [], "mse", None, 1)
    with pytest.raises(InputError, match="not a Keras loss"):
        probe(build(), (X, Y), "no such loss", None, 1)
    with pytest.raises(InputError, match="optimizer must be"):
        probe(build(), (X, Y), "mse", 3, 1)
