"""The loss of one output by itself: without penalties, losses of other outputs and weights of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.loss_identity import with_identified_loss

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(96, 6).astype("float32")
CLASSES = RANDOM.randint(0, 3, 96)
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
VALUES = 3 + X[:, :1] * 2


class All(Sampler):
    def due(self, step: int) -> bool:
        self._next = step + 1
        return True


def two_outputs(penalty: Any = None) -> Any:
    inputs = kl.Input((6,))
    hidden = kl.Dense(8, "relu", kernel_regularizer=penalty)(inputs)
    heads = kl.Dense(3, "softmax", name="kind")(hidden), kl.Dense(1, name="size")(hidden)
    return keras.Model(inputs, list(heads))


def one_output(units: int = 3, activation: str | None = "softmax", penalty: Any = None) -> Any:
    return keras.Sequential(
        [kl.Input((6,)), kl.Dense(8, "relu", kernel_regularizer=penalty), kl.Dense(units, activation)]
    )


def fitted(
    model: Any, y: Any, loss: Any, *, watched: bool = True, arguments: Any = None, **settings: Any
) -> tuple[Monitor, Any]:
    model.compile("sgd", loss, **settings)
    monitor = Monitor([], All(), quiet=True)
    if watched:
        monitor.attach(observe(model, None, None, monitor))
    history = model.fit(X, y, batch_size=32, epochs=2, shuffle=False, verbose=0, **(arguments or {}))
    monitor.close()
    assert not monitor._failed
    return monitor, history.history


@pytest.mark.slow
def test_loss_and_accuracy_are_those_of_the_first_output() -> None:
    loss, y = {"size": "mse", "kind": "categorical_crossentropy"}, {"kind": ONE_HOT, "size": VALUES}
    metrics = {"kind": [keras.metrics.CategoricalAccuracy("correct")]}
    validation = {"arguments": {"validation_data": (X, y)}}
    monitor, logs = fitted(two_outputs("l2"), y, loss, metrics=metrics, **validation)
    context, history = monitor.context, monitor.history
    assert (context.loss.family, context.output_activation, context.output_units) == ("cross_entropy", "softmax", 3)
    assert context.loss.composite
    assert history.targets.one_hot
    assert history.scalar("loss")[0] > history.scalar("data_loss")[0] + 5
    assert history.scalar("data_loss")[:3].mean() == pytest.approx(logs["kind_loss"][0], rel=1e-5)
    assert history.epochs("val_data_loss")[1] == pytest.approx(logs["val_kind_loss"], rel=1e-5)
    assert history.epochs("accuracy")[1] == pytest.approx(logs["kind_correct"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_output_without_a_loss_is_not_watched() -> None:
    monitor, _ = fitted(two_outputs(), VALUES, [None, "mse"])
    assert (monitor.context.loss.family, monitor.context.output_units) == ("squared_error", 1)
    assert monitor.history.scalar("data_loss") == pytest.approx(monitor.history.scalar("loss"), rel=1e-5)


@pytest.mark.slow
def test_penalties_are_no_part_of_it() -> None:
    def squares(y_true: Any, y_pred: Any) -> Any:
        return ops.mean(ops.square(y_true - y_pred), axis=-1)

    validation = {"validation_data": (X, VALUES)}
    monitor, _ = fitted(one_output(1, None, keras.regularizers.L2(0.1)), VALUES, squares, arguments=validation)
    history = monitor.history
    assert with_identified_loss(history, monitor.context).loss.family == "squared_error"
    penalties = (history.scalar("loss") - history.scalar("data_loss"))[[2, 5]]  # of the last steps of both epochs
    differences = history.epochs("val_loss")[1] - history.epochs("val_data_loss")[1]
    assert differences == pytest.approx(penalties)
    assert (penalties > 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "unequal"), [(np.full(96, 2.0), False), (np.arange(96) % 2, True)])
def test_weights_of_rows_are_no_part_of_it(weights: Any, unequal: bool) -> None:
    loss = keras.losses.CategoricalCrossentropy(reduction="sum")
    monitor, _ = fitted(one_output(), ONE_HOT, loss, arguments={"sample_weight": weights})
    assert monitor.context.loss.weighted is unequal
    ratios = monitor.history.scalar("loss") / monitor.history.scalar("data_loss")
    assert ratios == pytest.approx(np.full(6, 32 * weights[:32].mean()), rel=0.2 if unequal else 1e-4)


@pytest.mark.slow
def test_evaluations_between_batches_have_an_accuracy() -> None:
    model = one_output()
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    monitor = Monitor([], All(), quiet=True)
    monitor.attach(observe(model, None, None, monitor))
    values = []
    for _ in range(3):
        model.train_on_batch(X, ONE_HOT)
        values.append(model.evaluate(X, ONE_HOT, verbose=0))
    monitor.close()
    assert monitor.history.epochs("val_loss")[1] == pytest.approx([loss for loss, _ in values])
    assert monitor.history.epochs("val_accuracy")[1] == pytest.approx([accuracy for _, accuracy in values])


LOSSES: list[tuple[Callable[[], Any], Any, Any]] = [
    (lambda: one_output(1, None), VALUES, lambda y, p: ops.sqrt(ops.mean(ops.square(y - p)))),
    (lambda: one_output(1, None, "l2"), VALUES, lambda y, p: 0.5 * ops.mean(ops.square(y - p), -1)),
    (one_output, ONE_HOT, lambda y, p: -ops.sum(y * (1 - p) ** 2 * ops.log(p), -1)),
    (one_output, ONE_HOT, keras.losses.CategoricalFocalCrossentropy()),
    (lambda: one_output(3, None), CLASSES, keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
    (two_outputs, [ONE_HOT, VALUES], ["categorical_crossentropy", "log_cosh"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "y", "loss"), LOSSES)
def test_weights_are_equal_to_the_bit(build: Callable[[], Any], y: Any, loss: Any) -> None:
    weights = []
    for watched in (False, True):
        keras.utils.set_random_seed(0)
        model = build()
        monitor, _ = fitted(model, y, loss, watched=watched)
        weights.append(model.get_weights())
    assert np.isfinite(monitor.history.scalar("data_loss")).all()
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
