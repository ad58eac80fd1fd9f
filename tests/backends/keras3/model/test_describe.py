from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

from autotrainer.backends.keras3.model.describe import context_of, layers, optimizer_info
from autotrainer.backends.keras3.model.watched_layers import watched_layers


def test_optimizers() -> None:
    sgd = optimizer_info(keras.optimizers.SGD(0.1, momentum=0.9))
    assert (sgd.name, round(sgd.learning_rate, 6), sgd.momentum, sgd.weight_decay) == ("sgd", 0.1, 0.9, 0.0)
    decay = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.9)
    assert optimizer_info(keras.optimizers.AdamW(decay)).learning_rate == pytest.approx(0.5)
    assert optimizer_info("rmsprop").name == "rmsprop"
    assert optimizer_info(None).name == "unknown"


def test_layers_of_a_sequential_model() -> None:
    model = keras.Sequential(
        [
            kl.Input((8, 8, 3)),
            kl.Conv2D(4, 3, name="conv"),
            kl.BatchNormalization(name="norm"),
            kl.ReLU(name="relu"),
            kl.MaxPooling2D(),
            kl.Flatten(),
            kl.Dense(5, "tanh", name="hidden", trainable=False),
            kl.Dropout(0.1),
            kl.Dense(2, name="out"),
            kl.Softmax(name="softmax"),
        ]
    )
    found = {info.name: info for info in layers(model)}
    assert list(found) == ["conv", "norm", "relu", "hidden", "out", "softmax"]
    assert [i.kind for i in found.values()] == ["conv", "norm", "activation", "dense", "dense", "activation"]
    assert [i.activation for i in found.values()] == ["relu", "relu", "relu", "tanh", "softmax", "softmax"]
    assert [i.hidden for i in found.values()] == [True, True, True, True, False, False]
    assert (found["conv"].parameters, found["conv"].units) == (4 * 3 * 9 + 4, 4)
    assert (found["hidden"].frozen, found["hidden"].parameters) == (True, 0)
    assert not found["norm"].frozen


def test_nested_and_wrapped_layers_have_the_names_of_both() -> None:
    inner = keras.Sequential([kl.Input((6, 4)), kl.Dense(3, "relu", name="first")], name="inner")
    inputs = kl.Input((6,), dtype="int32")
    hidden = inner(kl.Embedding(10, 4, name="embedding")(inputs))
    hidden = kl.Bidirectional(kl.LSTM(2, return_sequences=True, name="lstm"), name="both")(hidden)
    hidden = kl.TimeDistributed(kl.Dense(2, "tanh", name="each"), name="time")(hidden)
    model = keras.Model(inputs, kl.Dense(1, "sigmoid", name="out")(kl.GRU(2, name="gru")(hidden)))
    found = {info.name: info for info in layers(model)}
    names = ["embedding", "inner/first", "both/forward_lstm", "both/backward_lstm", "time/each", "gru", "out"]
    assert list(found) == names
    assert found["both/forward_lstm"].kind == "recurrent"
    assert [info.name for info in found.values() if not info.hidden] == ["out"]


def two_outputs() -> Any:
    inputs = kl.Input((4,))
    hidden = kl.Dense(3, "relu")(inputs)
    return keras.Model(inputs, [kl.Dense(2, "softmax", name="a")(hidden), kl.Dense(1, name="b")(hidden)])


def operation() -> Any:
    inputs = kl.Input((4,))
    return keras.Model(inputs, keras.ops.sigmoid(kl.Dense(1)(inputs)))


@pytest.mark.parametrize(
    ("build", "activation", "units"),
    [
        (lambda: keras.Sequential([kl.Input((4,)), kl.Dense(3, "softmax")]), "softmax", 3),
        (lambda: keras.Sequential([kl.Input((4,)), kl.Dense(3), kl.Activation("sigmoid")]), "sigmoid", 3),
        (lambda: keras.Sequential([kl.Input((4,)), kl.Dense(3), kl.Reshape((3, 1))]), "linear", 1),
        (lambda: keras.Sequential([kl.Input((4,)), kl.Dense(3), kl.Lambda(lambda x: x * 2)]), None, 3),
        (operation, "sigmoid", 1),
        (two_outputs, "softmax", 2),
        (lambda: keras.Sequential([kl.Dense(3, "relu")]), "relu", 3),
    ],
)
def test_output(build: Any, activation: str | None, units: int) -> None:
    model = build()
    context = context_of(model, watched_layers(model), "mse", "sgd")
    assert (context.output_activation, context.output_units) == (activation, units)
    assert any(not layer.hidden for layer in context.layers)


class Written(keras.Model):  # type: ignore[misc]  # Keras has no types
    """Calls its activation in code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = kl.Dense(4), kl.Dense(4, "tanh"), kl.Dense(1)

    def call(self, x: Any) -> Any:
        return self.last(self.second(keras.ops.gelu(self.first(x))))


def test_what_follows_a_layer_in_user_code_is_unknown() -> None:
    model = Written()
    model(np.zeros((2, 3), "float32"))
    assert [info.activation for info in layers(model)] == [None, "tanh", None]


@pytest.mark.parametrize(("adapted", "kind"), [(True, "scaled"), (False, "values")])
def test_normalization_scales_inputs_once_it_is_adapted(*, adapted: bool, kind: str) -> None:
    normalization = keras.layers.Normalization()
    if adapted:
        normalization.adapt(np.arange(8.0).reshape(4, 2))
    model = keras.Sequential([keras.Input((2,)), normalization, keras.layers.Dense(1)])
    assert context_of(model, watched_layers(model), "mse", None).input_kind == kind
