"""Epoch values of models whose training or evaluation step does not update Keras' metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

import autotrainer
from autotrainer.records import history_tables

X = np.random.RandomState(0).randn(96, 8).astype("float32")
Y = X.sum(axis=1, keepdims=True)


class CustomStep(keras.Model):  # type: ignore[misc]
    """Reports its loss as ``reports`` says; Keras' metrics are never updated."""

    def __init__(self, reports: str = "loss", custom_test: bool = False) -> None:
        super().__init__()
        self.hidden, self.out = kl.Dense(8, "relu"), kl.Dense(1)
        self.reports, self.custom_test = reports, custom_test
        self.parts = [keras.metrics.Mean(name) for name in ("total_loss", "kl_loss")]

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs))

    def train_step(self, data: Any) -> Any:
        x, y = data[:2]
        with tf.GradientTape() as tape:
            loss = ops.mean((self(x, training=True) - y) ** 2)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        if self.reports == "all metrics":
            self.parts[0].update_state(loss)
            self.parts[1].update_state(loss / 2)
            return {m.name: m.result() for m in self.metrics}
        if self.reports == "all names":
            return {m.name: loss if m.name == "loss" else 0.0 for m in self.metrics}
        return {self.reports: loss}


class CustomTestStep(CustomStep):
    def test_step(self, data: Any) -> Any:
        x, y = data[:2]
        return {m.name: ops.mean((self(x) - y) ** 2) for m in self.metrics}


def fitted(model: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    model.compile("sgd", "mse")
    with autotrainer.watch(model) as monitor:
        logs = model.fit(X, Y, epochs=3, verbose=0, shuffle=False, batch_size=32, **options).history
    return monitor.history, logs


def last_losses(reports: str) -> list[float]:
    """Return the loss of the last batch of each epoch."""
    keras.utils.set_random_seed(0)
    model = CustomStep(reports)
    model.compile("sgd", "mse")
    found = [
        model.train_on_batch(X[i : i + 32], Y[i : i + 32], return_dict=True) for _ in range(3) for i in (0, 32, 64)
    ]
    return [float(logs["loss"]) for logs in found[2::3]]


@pytest.mark.parametrize("options", [{}, {"validation_data": (X, Y)}])
@pytest.mark.parametrize("reports", ["loss", "all names"])
def test_loss_returned_without_a_metric(reports: str, options: Any) -> None:
    expected = last_losses(reports)
    keras.utils.set_random_seed(0)
    history, logs = fitted(CustomStep(reports), **options)
    assert reports == "loss" or logs["loss"] == [0.0] * 3  # what Keras logs
    np.testing.assert_allclose(history.epochs("loss")[1], expected, rtol=1e-5)
    assert set(history.epoch_names) <= {"loss", "val_loss", "total_loss", "kl_loss"} | {"val_total_loss", "val_kl_loss"}


def test_unmeasured_metrics_are_omitted() -> None:
    history, logs = fitted(CustomStep("all metrics"))
    assert logs["loss"] == [0.0] * 3
    np.testing.assert_allclose(history.epochs("loss")[1], logs["total_loss"])
    assert set(history.epoch_names) == {"loss", "kl_loss"}
    steps, losses = history.losses
    assert len(steps) >= 8
    assert (losses > 0.1).all()
    np.testing.assert_allclose(losses[steps // 3 == 1].mean(), logs["total_loss"][1], rtol=0.5)


def test_evaluation_step_that_does_not_update_metrics() -> None:
    history, logs = fitted(CustomTestStep("loss"), validation_data=(X, Y))
    assert logs["val_loss"] == [0.0] * 3
    assert set(history.epoch_names) == {"loss"}


def test_managed_trainings_report_the_same_values() -> None:
    model = CustomStep("loss")
    model.compile("sgd", "mse")
    result = autotrainer.fit(model, (X, Y), (X, Y), epochs=3, repair=False, progress=False)
    assert len(result.history["loss"]) == 3
    assert min(result.history["loss"]) > 0


def test_log_of_epochs_of_one_batch_grows_more_slowly_than_their_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(history_tables, "_EPOCHS", 16)
    model = keras.Sequential([keras.Input((8,)), kl.Dense(4, "relu"), kl.Dense(1)])
    model.compile("sgd", "mse")
    with autotrainer.watch(model, select=("AT1", "AT3"), log_dir=tmp_path) as monitor:
        model.fit(X, Y, batch_size=96, epochs=96, verbose=0)
    lines = sum('"type":"epoch"' in line for line in Path(str(monitor.log_path)).read_text().splitlines())
    assert monitor.history.epoch == 96
    assert len(monitor.history.ended_epochs) < 20
    samples = len(monitor.history.steps)
    assert lines < 16 + 9 * np.log2(96 / 16) + samples, "some for each doubling, and one with each sample"
    assert str(autotrainer.replay(str(monitor.log_path), select=("AT1", "AT3"))) == str(monitor.report())
