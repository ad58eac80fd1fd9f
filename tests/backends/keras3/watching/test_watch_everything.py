"""Watching the trainings of an unchanged script: each ``fit`` is watched, and none is changed."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.monitoring.monitor import Monitor

Script = Callable[[], list[Any]]
Seen = list[tuple[str, Monitor]]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 8)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int32")
STEPS = 12  # in two epochs


def mlp(last: str = "softmax") -> Any:
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(2, last)]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fit(model: Any, **options: Any) -> Any:
    model.fit(X, Y, batch_size=16, verbose=0, **{"epochs": 2, **options})
    return model


def one_fit() -> list[Any]:
    return [fit(mlp())]


def two_models() -> list[Any]:
    return [fit(mlp()), fit(mlp())]


def two_fits_of_one() -> list[Any]:
    return [fit(fit(mlp(), epochs=1), epochs=1)]


def by_batches() -> list[Any]:
    model = mlp()
    for start in [*range(0, 96, 16)] * 2:
        model.train_on_batch(X[start : start + 16], Y[start : start + 16])
    return [model]


class CustomFit(keras.Model):  # type: ignore[misc]
    """Does something else before it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(2, "softmax")
        self.fits = 0

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def fit(self, x: Any, y: Any, **options: Any) -> Any:
        self.fits += 1
        return super().fit(x, y, **options)


def custom_fit() -> list[Any]:
    model = CustomFit()
    model.compile("sgd", "sparse_categorical_crossentropy")
    fit(model, epochs=1)
    fit(model, epochs=1)
    assert model.fits == 2
    return [model]


def run(script: Script, **options: Any) -> tuple[list[Any], Seen]:
    keras.utils.set_random_seed(0)
    trainings = Trainings(options)
    with watched_frameworks(trainings):
        return script(), trainings.close(finished=True)


def same_weights(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("script", "models"), [(one_fit, 1), (two_models, 2), (two_fits_of_one, 1), (by_batches, 1), (custom_fit, 1)]
)
def test_each_training_is_watched_and_none_is_changed(script: Script, models: int) -> None:
    keras.utils.set_random_seed(0)
    expected = script()
    found, seen = run(script)
    assert all(map(same_weights, expected, found))
    assert len(seen) == models
    for _, monitor in seen:
        assert monitor.history.steps[0] == (script is custom_fit)  # it has no weights before
        assert monitor.history.step == STEPS - 1
        assert monitor.context.planned_epochs == (None if script is by_batches else 2)
        assert monitor.closed
    assert not {"fit", "train_on_batch"} & vars(keras.Model).keys()
    assert not {"fit", "make_train_function"} & vars(found[0]).keys()


def test_problems_are_errors_since_the_length_is_known() -> None:
    ((name, monitor),) = run(lambda: [fit(mlp("relu"), epochs=6)])[1]
    assert name == "Sequential"
    assert "improper_output_activation" in {f.problem for f in monitor.findings if f.severity == "error"}


def test_trainings_of_autotrainer_are_not_watched_twice() -> None:
    def script() -> list[Any]:
        model = mlp()
        with autotrainer.watch(model) as monitor:
            fit(model)
        assert monitor.history.step == STEPS - 1
        autotrainer.fit(mlp(), (X, Y), epochs=1, repair=False, progress=False)
        return []

    assert run(script)[1] == []


def test_finished_trainings_are_released() -> None:
    models: list[weakref.ref[Any]] = []

    def script() -> list[Any]:
        for _ in range(4):
            models.append(weakref.ref(fit(mlp(), epochs=1)))
            keras.utils.clear_session()
        gc.collect()
        return []

    run(script)
    assert models[0]() is None


def test_failures_do_not_reach_the_script(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    keras.utils.set_random_seed(0)
    expected = two_models()

    def broken(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(Trainings, "open", broken)
    with caplog.at_level(logging.WARNING, "autotrainer"):
        found, seen = run(two_models)
    assert all(map(same_weights, expected, found))
    assert seen == []
    assert sum("broken" in message for message in caplog.messages) == 1
