"""Unusual but healthy trainings in Keras: none may have an error at any time, or a warning at its end.

Trainings that are unusual only in their data are those of PyTorch alone: signals are equal in both (`test_parity.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import autotrainer
from autotrainer.records.findings import Finding, Severity

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(640, 8)).astype("float32")
CLASSES = X[:, :3].argmax(1)
VALUES = X[:, :1] * 2 + np.sin(2 * X[:, 1:2])
POINTS = (RANDOM.normal(size=(640, 2)) @ RANDOM.normal(size=(2, 12)) / 2).astype("float32")
TOKENS = (np.arange(17) * RANDOM.integers(1, 4, size=(320, 1)) + np.arange(320)[:, None]) % 24
STEPS = 300
"""Steps of 15 epochs of 20 batches, as most trainings here have."""


def numbers() -> np.random.Generator:
    return np.random.default_rng(1)


@dataclass
class Run:
    """One training: a compiled model, the arguments of `fit`, and its final score."""

    model: Any
    x: Any
    y: Any
    score: Callable[[], float]
    minimum_score: float
    """Minimum score of a healthy training."""
    epochs: int = 15
    fit: dict[str, Any] = field(default_factory=dict)


Case = Callable[[], Run]
CASES: dict[str, Case] = {}
SLOW = ("full_batch", "transformer_without_warm_up", "gradient_accumulation", "weights_tied")


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def cross_entropy() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(*sizes: int, activation: str = "relu", inputs: int = 8) -> Any:
    hidden = [layers.Dense(size, activation) for size in sizes[:-1]]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(sizes[-1])])


def predicted(model: Any, x: Any) -> Any:
    return np.asarray(model(x, training=False), "float32")


def trained(
    model: Any,
    optimizer: Any,
    loss: Any = None,
    *,
    x: Any = X,
    y: Any = CLASSES,
    size: int = 32,
    minimum_score: float = 0.85,
    epochs: int = 15,
    score: Callable[[], float] | None = None,
    metrics: Any = None,
    **fit: Any,
) -> Run:
    """Return a training by `fit`, on classes, or on values if a loss is passed."""
    model.compile(optimizer, loss or cross_entropy(), metrics=["accuracy"] if loss is None else metrics)

    def accuracy() -> float:
        return float((predicted(model, x).argmax(-1) == y).mean())

    def explained() -> float:
        return 1 - float(((predicted(model, x) - y) ** 2).mean() / np.var(y, axis=0).mean())

    score = score or (accuracy if loss is None else explained)
    return Run(model, x, y, score, minimum_score, epochs, {"batch_size": size, **fit})


def adam(rate: Any = 0.01, **more: Any) -> Any:
    return keras.optimizers.Adam(rate, **more)


# -- data ---------------------------------------------------------------------------------------------------------


@case
def tiny_data() -> Run:
    model = dense(16, 1, activation="tanh")
    return trained(model, adam(), "mse", x=X[:30], y=VALUES[:30], size=5, epochs=35)


@case
def untouched_rows_of_an_embedding() -> Run:
    words = numbers().integers(0, 50, size=(640, 6))
    y = ((words < 25).sum(1) > 3).astype("int64")
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(5000, 8), layers.Flatten()])
    model.add(layers.Dense(2))
    return trained(model, adam(0.02), x=words, y=y)


@case
def sorted_evaluation_data() -> Run:
    order = CLASSES.argsort()
    return trained(dense(32, 32, 3), adam(), epochs=10, validation_data=(X[order], CLASSES[order]))


# -- regularization -----------------------------------------------------------------------------------------------


@case
def heavy_dropout() -> Run:
    inner = [layers.Dense(64, "relu"), layers.Dropout(0.5), layers.Dense(64, "relu"), layers.Dropout(0.5)]
    return trained(keras.Sequential([keras.Input((8,)), *inner, layers.Dense(3)]), adam(0.005))


@case
def strong_weight_decay() -> Run:
    return trained(dense(32, 32, 3), keras.optimizers.AdamW(0.01, weight_decay=0.1))


# -- learning rates -----------------------------------------------------------------------------------------------


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A rate times a function of the fraction of steps."""

    def __init__(self, rate: float, factor: Callable[[Any], Any]) -> None:
        super().__init__()
        self.rate, self.factor = rate, factor

    def __call__(self, step: Any) -> Any:
        return self.rate * self.factor(ops.minimum(ops.cast(step, "float32") / STEPS, 1.0))

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "factor": self.factor}


@case
def warm_up_from_zero() -> Run:
    return trained(dense(32, 32, 3), adam(Schedule(0.01, lambda t: ops.minimum(1.0, t / 0.3))))


@case
def cosine_to_zero() -> Run:
    return trained(dense(32, 32, 3), adam(Schedule(0.01, lambda t: 0.5 + 0.5 * ops.cos(math.pi * t))))


@case
def cyclic_rate() -> Run:
    cycle = Schedule(0.1, lambda t: 0.01 + 0.99 * ops.abs(1 - (t * 8) % 2))
    return trained(dense(32, 32, 3), keras.optimizers.SGD(cycle, momentum=0.9))


@case
def reduced_on_plateau() -> Run:
    callback = keras.callbacks.ReduceLROnPlateau("loss", patience=2)
    return trained(dense(32, 32, 3), keras.optimizers.SGD(0.05, momentum=0.9), epochs=25, callbacks=[callback])


# -- what is trained ----------------------------------------------------------------------------------------------


def pretrained() -> Any:
    """Return a network pretrained on another task."""
    body = keras.Sequential([keras.Input((8,)), layers.Dense(32), layers.BatchNormalization(), layers.ReLU()])
    body.add(layers.Dense(32, "relu"))
    whole = keras.Sequential([body, layers.Dense(8)])
    whole.compile(adam(), "mse")
    whole.fit(X, X, epochs=5, verbose=0)
    return body


@case
def fine_tuning_with_frozen_layers() -> Run:
    body = pretrained()
    for layer in body.layers[:2]:
        layer.trainable = False  # a frozen batch normalization runs in inference mode
    return trained(keras.Sequential([body, layers.Dense(3)]), adam(0.005))


@case
def linear_probing() -> Run:
    body = pretrained()
    body.trainable = False
    return trained(keras.Sequential([body, layers.Dense(3)]), adam(0.02), epochs=20)


@case
def batch_norm_last() -> Run:
    inner = [layers.Dense(32, "relu"), layers.Dense(3), layers.BatchNormalization(momentum=0.9)]
    return trained(keras.Sequential([keras.Input((8,)), *inner]), adam(0.02))


@case
def many_inactive_units() -> Run:
    bias = keras.initializers.Constant(-1.0)
    wide = layers.Dense(2048, "relu", kernel_initializer="he_uniform", bias_initializer=bias)
    return trained(keras.Sequential([keras.Input((8,)), wide, layers.Dense(3)]), adam(0.001))


@case
def averaged_weights() -> Run:
    return trained(dense(32, 32, 3), adam(use_ema=True, ema_momentum=0.95))


# -- how steps are made -------------------------------------------------------------------------------------------


@case
def gradient_accumulation() -> Run:
    return trained(dense(32, 32, 3), adam(0.02, gradient_accumulation_steps=4), epochs=30)


@case
def batch_size_one() -> Run:
    return trained(dense(16, 3), adam(0.003), x=X[:200], y=CLASSES[:200], size=1, epochs=8)


@case
def full_batch() -> Run:
    return trained(dense(32, 32, 3), adam(), size=640, epochs=80)


@case
def clipped_gradients() -> Run:
    return trained(dense(32, 32, 3), keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0))


@case
def half_precision() -> Run:
    inner = [layers.Dense(32, "relu", dtype="mixed_bfloat16") for _ in range(2)]
    return trained(keras.Sequential([keras.Input((8,)), *inner, layers.Dense(3)]), adam())


# -- losses -------------------------------------------------------------------------------------------------------


@case
def contrastive_loss() -> Run:
    random = numbers()
    pairs = np.stack([POINTS + 0.1 * random.normal(size=POINTS.shape) for _ in range(2)], 1).astype("float32")

    def loss(_: Any, made: Any) -> Any:
        made = made / (ops.norm(made, axis=2, keepdims=True) + 1e-6)
        logits = made[:, 0] @ ops.transpose(made[:, 1]) / 0.2
        return keras.losses.sparse_categorical_crossentropy(ops.arange(64), logits, from_logits=True)

    inner = dense(32, 8, inputs=12)
    inputs = keras.Input((2, 12))
    model = keras.Model(inputs, ops.stack([inner(inputs[:, 0]), inner(inputs[:, 1])], axis=1))

    def score() -> float:
        return -float(ops.mean(loss(None, model(pairs[:64]))))

    return trained(
        model, adam(0.003), loss, x=pairs, y=np.zeros(640), size=64, score=score, minimum_score=-3.0, epochs=30
    )


@case
def negative_likelihood() -> Run:
    y = (X[:, :1] * 0.1 + 0.01 * numbers().normal(size=(640, 1))).astype("float32")

    def loss(targets: Any, outputs: Any) -> Any:
        spread = ops.softplus(outputs[:, 1:]) * 0.05 + 1e-6
        return 0.5 * (ops.log(spread) + (targets - outputs[:, :1]) ** 2 / spread)

    model = dense(32, 2)

    def score() -> float:
        return 1 - float(((predicted(model, X)[:, :1] - y) ** 2).mean() / y.var())

    return trained(model, adam(0.005), loss, y=y, score=score, minimum_score=0.6, epochs=20)


class Sampling(layers.Layer):
    """Samples from a normal distribution and adds its KL divergence from the standard one to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        mean, spread = ops.split(x, 2, axis=1)
        self.add_loss(0.002 * ops.mean(ops.sum(ops.exp(spread) + mean**2 - 1 - spread, axis=1)))
        return mean + ops.exp(spread / 2) * keras.random.normal(ops.shape(mean), seed=self.seeds)


@case
def ranks_of_prices() -> Run:
    """Outputs need only increase with the targets."""
    y, model = (5000 + 100 * X[:, :1]).astype("float32"), dense(16, 1)

    def loss(targets: Any, outputs: Any) -> Any:
        order = ops.sign(targets - ops.transpose(targets))
        return ops.mean(ops.softplus(-(outputs - ops.transpose(outputs)) * order))

    def score() -> float:
        return float(np.corrcoef(predicted(model, X)[:, 0], y[:, 0])[0, 1])

    return trained(model, adam(), loss, y=y, score=score, minimum_score=0.9)


@case
def variational_autoencoder() -> Run:
    inner = [layers.Dense(32, "relu"), layers.Dense(8), Sampling(), layers.Dense(32, "relu"), layers.Dense(12)]
    model = keras.Sequential([keras.Input((12,)), *inner])
    return trained(model, adam(0.005), "mse", x=POINTS, y=POINTS, minimum_score=0.6, epochs=20)


@case
def narrow_autoencoder() -> Run:
    inner = [layers.Dense(32, "relu"), layers.Dense(2), layers.Dense(32, "relu"), layers.Dense(12)]
    return trained(keras.Sequential([keras.Input((12,)), *inner]), adam(), "mse", x=POINTS, y=POINTS)


@case
def triplet_loss() -> Run:
    random = numbers()
    alike = [random.choice(np.flatnonzero(c == CLASSES)) for c in CLASSES]
    other = [random.choice(np.flatnonzero(c != CLASSES)) for c in CLASSES]
    triplets = np.stack([X, X[alike], X[other]], 1)

    def loss(_: Any, made: Any) -> Any:
        near, far = (ops.sqrt(ops.sum((made[:, 0] - made[:, i]) ** 2, axis=1) + 1e-6) for i in (1, 2))
        return ops.relu(near - far + 1.0)

    inner = dense(32, 4)
    inputs = keras.Input((3, 8))
    model = keras.Model(inputs, ops.stack([inner(inputs[:, i]) for i in range(3)], axis=1))

    def score() -> float:
        made = predicted(inner, X)
        apart = ((made[:, None] - made[None]) ** 2).sum(2) + np.eye(640) * 1e9
        return float((CLASSES[apart.argmin(1)] == CLASSES).mean())

    return trained(model, adam(0.003), loss, x=triplets, y=np.zeros(640), score=score, minimum_score=0.8, epochs=20)


@case
def multi_label() -> Run:
    y = (X[:, :4] > 0.8).astype("float32")
    model = dense(32, 4)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return trained(
        model, adam(), loss, y=y, minimum_score=0.93, score=lambda: float(((predicted(model, X) > 0) == y).mean())
    )


@case
def two_tasks() -> Run:
    inputs = keras.Input((8,))
    inner = layers.Dense(32, "relu")(layers.Dense(32, "relu")(inputs))
    model = keras.Model(inputs, [layers.Dense(3, name="kind")(inner), layers.Dense(1, name="value")(inner)])
    score = lambda: float((np.asarray(model(X)[0]).argmax(1) == CLASSES).mean())  # noqa: E731
    return trained(model, adam(), [cross_entropy(), "mse"], y=[CLASSES, VALUES], score=score)


@case
def siamese_network() -> Run:
    random = numbers()
    same = random.random((640, 1)) < 0.5
    second = np.where(same, X[:, :4] + 0.2 * random.normal(size=(640, 4)), X[:, 4:]).astype("float32")
    inner = dense(32, 8, inputs=4)
    one, two = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([one, two], layers.Dense(1)(ops.abs(inner(one) - inner(two))))
    x = [X[:, :4], second]
    score = lambda: float(((predicted(model, x) > 0) == same).mean())  # noqa: E731
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return trained(model, adam(), loss, x=x, y=same.astype("float32"), score=score)


# -- sequences ----------------------------------------------------------------------------------------------------


def words_and_places() -> Any:
    inputs = keras.Input((16,), dtype="int32")
    return inputs, layers.Embedding(24, 32)(inputs) + layers.Embedding(16, 32)(ops.arange(16))


def next_token(model: Any, optimizer: Any, epochs: int = 20) -> Run:
    x, y = TOKENS[:, :-1], TOKENS[:, 1:]
    score = lambda: float((predicted(model, x).argmax(-1) == y)[:, 2:].mean())  # noqa: E731
    return trained(model, optimizer, x=x, y=y, score=score, minimum_score=0.8, epochs=epochs)


@case
def transformer_without_warm_up() -> Run:
    inputs, x = words_and_places()
    inner = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 16)(inner, inner, use_causal_mask=True)
    x = x + layers.Dense(32)(layers.Dense(64, "relu")(layers.LayerNormalization()(x)))
    return next_token(keras.Model(inputs, layers.Dense(24)(x)), adam(0.005), epochs=40)


class TiedOutput(layers.Layer):
    """Maps vectors to words by the weights of an embedding."""

    def __init__(self, words: Any) -> None:
        super().__init__()
        self.words = words

    def call(self, x: Any) -> Any:
        return x @ ops.transpose(self.words.embeddings)


@case
def weights_tied() -> Run:
    words = layers.Embedding(24, 32, embeddings_initializer="glorot_uniform")
    inputs = keras.Input((16,), dtype="int32")
    return next_token(
        keras.Model(inputs, TiedOutput(words)(layers.GRU(32, return_sequences=True)(words(inputs)))), adam()
    )


@case
def language_near_its_entropy() -> Run:
    """Next tokens have the same distribution at every position: no context helps."""
    random = numbers()
    table = np.exp(2 * random.normal(size=(24, 24)))
    table /= table.sum(1, keepdims=True)
    tokens = [random.integers(24, size=640)]
    for _ in range(8):
        tokens.append((random.random((640, 1)) > table[tokens[-1]].cumsum(1)).sum(1).clip(0, 23))
    text = np.stack(tokens, 1)
    model = keras.Sequential([keras.Input((8,), dtype="int32"), layers.Embedding(24, 24), layers.Dense(24)])
    entropy = -(table * np.log(table)).sum(1).mean()
    x, y = text[:, :-1], text[:, 1:]
    score = lambda: float(entropy - ops.mean(cross_entropy()(y, model(x))))  # noqa: E731
    return trained(model, adam(0.02), x=x, y=y, score=score, minimum_score=-0.15)


# -- weak, shifted or hidden signals -----------------------------------------------------------------------


def roc_auc(model: Any, x: Any, y: Any) -> float:
    """Return the area under the ROC curve."""
    outputs = predicted(model, x)
    scores = outputs[:, -1] - (outputs[:, 0] if outputs.shape[1] > 1 else 0)
    return float((scores[y == 1][:, None] > scores[y == 0][None]).mean())


@case
def weak_signal_of_rare_events() -> Run:
    """No prediction is more accurate than the most common class, yet the ranking is good."""
    random = numbers()
    x = random.normal(size=(3000, 8)).astype("float32")
    y = (random.random(3000) < 1 / (1 + np.exp(2.5 - 0.9 * x[:, 0] - 0.5 * x[:, 1]))).astype("int64")
    model, loss = dense(16, 1), keras.losses.BinaryCrossentropy(from_logits=True)
    score = lambda: roc_auc(model, x, y)  # noqa: E731
    return trained(model, adam(), loss, x=x, y=y[:, None], size=64, epochs=10, score=score, minimum_score=0.7)


@case
def weighted_classes() -> Run:
    """Class weights shift predictions to the rare class: accuracy is below that of the most common class."""
    random = numbers()
    x = random.normal(size=(1600, 8)).astype("float32")
    y = (x[:, 0] + 0.8 * random.normal(size=1600) > 1.7).astype("int64")
    model, weights = dense(16, 2), {0: 0.2, 1: 1.8}
    score = lambda: roc_auc(model, x, y)  # noqa: E731
    return trained(model, adam(0.003), x=x, y=y, epochs=10, score=score, class_weight=weights)


# -- the tests ----------------------------------------------------------------------------------------------------


def watched(run: Run) -> tuple[Any, list[Finding]]:
    """Train; return the monitor and all findings raised during training."""
    raised: list[Finding] = []
    with autotrainer.watch(run.model, overhead=1.0, on_finding=raised.append) as monitor:
        run.model.fit(run.x, run.y, epochs=run.epochs, verbose=0, **run.fit)
    return monitor, raised


def of(findings: list[Finding], severity: Severity) -> list[str]:
    return [f"step {f.step}: {f}" for f in findings if f.severity is severity]


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in CASES])
def test_no_error_or_warning(name: str) -> None:
    run = CASES[name]()
    monitor, raised = watched(run)
    assert run.score() >= run.minimum_score
    assert of(raised, Severity.ERROR) == []
    assert of(monitor.findings, Severity.WARNING) == []


@pytest.mark.parametrize("steps", [3, 10, 30])
def test_first_steps_have_no_finding(steps: int) -> None:
    x = numbers().normal(size=(32 * steps, 8)).astype("float32")
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: setattr(model, "stop_training", True))
    model = dense(32, 32, 3)
    run = trained(model, adam(), x=x, y=x[:, :3].argmax(1), callbacks=[stop])
    monitor, raised = watched(run)
    assert monitor.history.step == steps - 1
    assert of(raised, Severity.ERROR) == []
