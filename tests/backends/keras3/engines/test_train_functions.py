"""How often a training step is traced: once in a short run, else once for each of two train functions."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl

from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler

X = np.random.RandomState(0).randn(64, 4).astype("float32")


class Counting(keras.Sequential):  # type: ignore[misc]
    traces = 0

    def train_step(self, *data: Any) -> Any:
        self.traces += 1
        return super().train_step(*data)


def traces(fits: int = 1, before: int = 0, **planned: Any) -> int:
    model = Counting([kl.Input((4,)), kl.Dense(1)])
    model.compile("sgd", "mse")
    for _ in range(before):
        model.fit(X, X[:, :1], batch_size=4, verbose=0)
    model.traces = 0
    monitor = Monitor([], StepSampler(), quiet=True)
    monitor.attach(observe(model, None, None, monitor, **planned))
    for _ in range(fits):
        model.fit(X, X[:, :1], batch_size=4, verbose=0)
    monitor.close()
    assert len(monitor.history.steps) > 10
    assert not monitor._failed
    found, model.traces = model.traces, 0
    model.fit(X, X[:, :1], batch_size=4, verbose=0)
    return found


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, 1),
        ({"fits": 2}, 1),
        ({"fits": 5}, 2),  # longer than first planned
        ({"fits": 4, "steps": 10_000}, 2),
        ({"before": 1}, 1),  # the instrumented one: Keras' own is traced already
    ],
)
def test_a_short_run_is_traced_once(arguments: Any, expected: int) -> None:
    assert traces(**arguments) == expected
