"""An original training whose cause is proven in its first steps is paused, in both frameworks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning"),  # it is the fault
]

EPOCHS = 10


def _torch() -> dict[str, Any]:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1), nn.Softmax(-1))
    return {"model": model, "loss": nn.BCELoss(), "optimizer": torch.optim.Adam(model.parameters(), 0.02)}


def _keras() -> dict[str, Any]:
    start = keras.initializers.GlorotUniform(0)
    hidden = keras.layers.Dense(32, "relu", kernel_initializer=start)
    model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1, "softmax", kernel_initializer=start)])
    return {"model": model, "loss": "binary_crossentropy", "optimizer": keras.optimizers.Adam(0.02)}


MAKE = {"pytorch": _torch, "keras3": _keras}


@pytest.fixture(params=list(MAKE))
def make(request: pytest.FixtureRequest) -> Callable[[], dict[str, Any]]:
    return MAKE[request.param]


def _rows(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of two classes that a line separates, but for a share whose labels are random."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1000, 2)).astype(np.float32)
    y = np.where(random.random(1000) < noise, random.random(1000) < 0.5, x.sum(axis=1) > 0)
    return x, y.astype(np.float32)[:, None]


def _fit(training: dict[str, Any], noise: float = 0.0, **options: Any) -> autotrainer.Result:
    options = {"epochs": EPOCHS, "budget": 3.0, "progress": False, **options}
    return autotrainer.fit(**training, train_data=_rows(noise), **options)


def _weights(result: autotrainer.Result) -> list[np.ndarray]:
    model = result.model
    values = model.state_dict().values() if isinstance(model, nn.Module) else model.get_weights()
    return [np.array(value) for value in values]


def test_original_is_paused_within_its_first_epoch(make: Callable[[], dict[str, Any]]) -> None:
    result = _fit(make())
    assert (result.status, result.baseline_ended, result.baseline_epochs) == ("repaired", "beaten", 0)
    assert 0 < result.baseline_steps <= 0.05 * EPOCHS * 25
    assert result.findings[0].problem == "improper_output_activation"
    assert result.score > 0.97 > 0.6 > result.baseline_score
    assert result.cost < 1.1


def test_original_goes_on_where_a_training_could_be_better(make: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    training, options = make(), {"noise": 0.4, "test_data": _rows(0.4), "log_dir": tmp_path}
    result = _fit(training, **options)
    assert [bool(a.plan.edits) for a in result.attempts[:2]] == [True, False]
    assert result.attempts[1].verdict == "original"
    assert result.status == "repaired"
    again = _fit(training, resume=True, **options)
    for name in ("score", "baseline_score", "test_score", "baseline_test_score", "cost", "findings", "attempts"):
        assert getattr(again, name) == getattr(result, name), name
    assert all(map(np.array_equal, _weights(again), _weights(result)))


def test_callbacks_of_the_user_see_the_whole_original() -> None:
    ends: list[int] = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(epoch))
    result = _fit(_keras(), fit_args={"callbacks": [callback]}, budget=2.5)
    assert result.baseline_ended != "beaten"
    assert ends == list(range(result.baseline_epochs))
