"""Weights after some steps are equal to the bit with and without watching (TensorFlow on a CPU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(96, 12).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int64")
IMAGES = RANDOM.randn(48, 8, 8, 3).astype("float32")
TOKENS = RANDOM.randint(1, 20, (64, 6))


class Some(Sampler):
    """Samples two of three steps, whatever the cost."""

    def due(self, step: int) -> bool:
        self._next = step + 1
        return step % 3 != 1


def mlp() -> Any:
    return keras.Sequential(
        [
            kl.Input((12,)),
            kl.Dense(32),
            kl.ReLU(),
            kl.Dropout(0.3),
            kl.Dense(16, "gelu"),
            kl.BatchNormalization(),
            kl.LeakyReLU(),
            kl.LayerNormalization(),
            kl.Dense(2, "softmax"),
        ]
    )


def unbuilt() -> Any:
    return keras.Sequential([kl.Dense(16, "relu"), kl.Dropout(0.2), kl.Dense(2, "softmax")])


def regrouped() -> Any:
    """The gradient of the scales is a product, which TensorFlow reorders if it has no other use."""
    return keras.Sequential([kl.Input((12,)), kl.Dense(16), kl.BatchNormalization(), kl.ReLU(), kl.Dense(2, "softmax")])


def cnn() -> Any:
    return keras.Sequential(
        [
            kl.Input((8, 8, 3)),
            kl.Conv2D(8, 3, padding="same"),
            kl.BatchNormalization(),
            kl.Activation("swish"),
            kl.MaxPooling2D(),
            kl.SeparableConv2D(8, 2, activation="elu"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2, "softmax"),
        ]
    )


def recurrent() -> Any:
    return keras.Sequential(
        [
            kl.Input((6,), dtype="int32"),
            kl.Embedding(20, 6, mask_zero=True),
            kl.Bidirectional(kl.LSTM(4, return_sequences=True, dropout=0.1)),
            kl.TimeDistributed(kl.Dense(4, "relu")),
            kl.GRU(4),
            kl.Dense(2, "softmax"),
        ]
    )


def attention() -> Any:
    inputs = kl.Input((6,), dtype="int32")
    hidden = kl.Embedding(20, 8)(inputs)
    hidden = kl.LayerNormalization()(hidden + kl.MultiHeadAttention(2, 4, dropout=0.1)(hidden, hidden))
    return keras.Model(inputs, kl.Dense(2, "softmax")(kl.GlobalAveragePooling1D()(hidden)))


class Subclass(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.out = kl.Dense(2)
        self.hidden = kl.Dense(16, "relu")
        self.drop = kl.Dropout(0.2)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return keras.ops.softmax(self.out(self.drop(self.hidden(inputs), training=training)))


DATA: dict[Any, tuple[Any, Any]] = {cnn: (IMAGES, Y[:48]), recurrent: (TOKENS, Y[:64]), attention: (TOKENS, Y[:64])}
ADAM: Callable[[], Any] = lambda: keras.optimizers.Adam(1e-2)  # noqa: E731
SGD: Callable[[], Any] = lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=1.0)  # noqa: E731
MOMENTUM: Callable[[], Any] = lambda: keras.optimizers.SGD(0.1, momentum=0.9)  # noqa: E731


def trained(
    build: Any,
    watched: bool,
    optimizer: Any,
    settings: dict[str, Any],
    arguments: dict[str, Any],
    fits: int = 1,
    planned: int = 10_000,
) -> tuple[list[Any], Monitor, dict[str, Any]]:
    keras.utils.set_random_seed(3)
    model = build()
    model.compile(optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"], **settings)
    x, y = DATA.get(build, (X, Y))
    monitor = Monitor([], Some(), quiet=True)
    if fits > 1:
        model.fit(x, y, epochs=1, verbose=0)
    if watched:
        # this run is so short that one train function would take all steps; planned as long, it uses two
        monitor.attach(observe(model, None, None, monitor, steps=planned))
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, **arguments).history
    monitor.close()
    return model.get_weights(), monitor, history


CASES: list[tuple[Any, Any, dict[str, Any], dict[str, Any], int]] = [
    (mlp, ADAM, {}, {}, 1),
    (mlp, SGD, {"jit_compile": True}, {}, 1),
    (mlp, SGD, {"jit_compile": False}, {"class_weight": {0: 1.0, 1: 3.0}, "validation_split": 0.25}, 1),
    (mlp, ADAM, {"run_eagerly": True}, {}, 1),
    (mlp, ADAM, {"steps_per_execution": 2}, {}, 1),
    (mlp, ADAM, {"weighted_metrics": ["accuracy"]}, {"sample_weight": np.linspace(0, 1, 96)}, 2),
    (unbuilt, ADAM, {}, {}, 1),
    (regrouped, MOMENTUM, {}, {}, 1),
    (cnn, ADAM, {}, {}, 1),
    (recurrent, SGD, {}, {}, 1),
    (attention, ADAM, {}, {}, 1),
    (Subclass, SGD, {}, {}, 1),
]


UNWATCHED: dict[int, tuple[list[Any], dict[str, Any]]] = {}
"""Weights and history of the trainings that are not watched, by the settings, which are used once."""


def unwatched(build: Any, optimizer: Any, settings: Any, arguments: Any, fits: int) -> tuple[list[Any], dict[str, Any]]:
    if id(settings) not in UNWATCHED:
        weights, _, logs = trained(build, False, optimizer, settings, arguments, fits)
        UNWATCHED[id(settings)] = weights, logs
    return UNWATCHED[id(settings)]


@pytest.mark.parametrize(("build", "optimizer", "settings", "arguments", "fits"), CASES)
def test_weights_are_equal_to_the_bit(build: Any, optimizer: Any, settings: Any, arguments: Any, fits: int) -> None:
    weights, logs = unwatched(build, optimizer, settings, arguments, fits)
    watched, monitor, watched_logs = trained(build, True, optimizer, settings, arguments, fits)
    assert len(monitor.history.steps) > 2
    assert not monitor._failed
    assert all(np.array_equal(a, b) for a, b in zip(weights, watched, strict=True))
    assert logs == watched_logs


@pytest.mark.parametrize(("build", "optimizer", "settings", "arguments", "fits"), CASES[:6])
def test_weights_are_equal_in_a_short_run(build: Any, optimizer: Any, settings: Any, arguments: Any, fits: int) -> None:
    weights, logs = unwatched(build, optimizer, settings, arguments, fits)
    watched, monitor, watched_logs = trained(build, True, optimizer, settings, arguments, fits, planned=12)
    assert len(monitor.history.steps) > 2
    assert not monitor._failed
    assert all(np.array_equal(a, b) for a, b in zip(weights, watched, strict=True))
    assert logs == watched_logs


@pytest.mark.slow
def test_model_that_xla_would_round_differently() -> None:
    """If its step returned gradients and activations, the kernels would differ by 1e-5."""

    def build() -> Any:
        return keras.Sequential(
            [
                kl.Input((20, 20, 3)),
                kl.Conv2D(32, 3, activation="relu"),
                kl.Conv2D(32, 3, padding="same"),
                kl.BatchNormalization(),
                kl.Activation("swish"),
                kl.SeparableConv2D(32, 3),
                kl.LayerNormalization(),
                kl.MaxPooling2D(),
                kl.Flatten(),
                kl.Dense(64, "elu"),
                kl.Dense(2, "softmax"),
            ]
        )

    DATA[build] = RANDOM.randn(32, 20, 20, 3).astype("float32"), Y[:32]
    settings = {"jit_compile": True}
    weights, _, _ = trained(build, False, keras.optimizers.AdamW, settings, {})
    watched, monitor, _ = trained(build, True, keras.optimizers.AdamW, settings, {})
    assert all(np.array_equal(a, b) for a, b in zip(weights, watched, strict=True))
    assert np.isfinite(monitor.history.scalar("loss")).all()
    assert np.isfinite(monitor.history.scalar("input_std")).all()


def test_no_random_number_is_drawn() -> None:
    keras.utils.set_random_seed(0)
    model = mlp()
    model.compile("adam", "sparse_categorical_crossentropy")
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    monitor = Monitor([], Some(), quiet=True)
    monitor.attach(observe(model, None, None, monitor))
    model.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(32), verbose=0, shuffle=False)
    monitor.close()
    assert np.array_equal(before, np.random.get_state()[1])
