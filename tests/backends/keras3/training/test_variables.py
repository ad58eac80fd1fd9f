"""The variables of a training exist before its first step, which is then traced once."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
from autotrainer.backends.keras3.data.batches import ArrayBatches
from autotrainer.backends.keras3.training.variables import make_variables
from autotrainer.records.data import ArrayData

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
BATCHES = ArrayBatches(ArrayData(X, X[:, :1]), 4, True, None)


class OwnStep(keras.Model):  # type: ignore[misc]
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def compiled(kind: type = keras.Model, loss: Any = "mse", **settings: Any) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    model = kind(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
    model.compile("adam", loss, metrics=["mae"], **settings)
    return model


def is_made(model: Any) -> bool:
    return bool(model.optimizer.built and model._compile_metrics.built)


def test_the_step_is_traced_once_and_computes_the_same() -> None:
    weights, traced = [], []
    for prepared in (False, True):
        model, calls = compiled(), [0]
        step = model.train_step

        def counted(data: Any, step: Any = step, calls: list[int] = calls) -> Any:
            calls[0] += 1
            return step(data)

        model.train_step = counted
        if prepared:
            make_variables(model, BATCHES)
            assert is_made(model)
        history = model.fit(X, X[:, :1], batch_size=4, epochs=2, verbose=0).history
        weights.append([*(w.tobytes() for w in model.get_weights()), str(history)])
        traced.append(calls[0])
    assert traced == [2, 1]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("model", [lambda: compiled(OwnStep), lambda: compiled(run_eagerly=True)])
def test_models_that_may_do_without_are_left_alone(model: Any) -> None:
    made = model()
    make_variables(made, BATCHES)
    assert not is_made(made)


class FailingMetric(keras.metrics.Mean):  # type: ignore[misc]
    calls = 0

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        self.calls += 1
        raise LookupError(f"the user's own, in call {self.calls}")


def failing_loss(targets: Any, outputs: Any) -> Any:
    raise LookupError("the user's own")


@pytest.mark.parametrize("settings", [{"loss": failing_loss}, {"loss": "mse", "metrics": [FailingMetric()]}])
def test_an_error_of_loss_or_metric_is_left_to_the_training(settings: dict[str, Any]) -> None:
    model = compiled()
    model.compile("adam", **settings)
    assert not make_variables(model, BATCHES)
    with pytest.raises(LookupError, match="the user's own"):
        autotrainer.fit(model, (X, X[:, :1]), (X, X[:, :1]), epochs=1, progress=False)


def test_a_metric_begins_anew_after_a_failure() -> None:
    """The observed step calls it once, and once more without us, as it has failed: but for these, never before."""
    model = compiled()
    model.compile("adam", "mse", metrics=[FailingMetric()])
    with pytest.raises(LookupError, match="call 2"):
        autotrainer.fit(model, (X, X[:, :1]), (X, X[:, :1]), epochs=1, progress=False)
