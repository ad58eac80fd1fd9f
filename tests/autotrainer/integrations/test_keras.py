"""The callback for Keras shows what `watch` shows from outside, in all three backends."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
from autotrainer.errors import ConfigError, StateError
from autotrainer.integrations.keras import AutoTrainer
from tests.autotrainer.integrations.faults_keras import FAULTS, HEALTHY, make_training, plain_monitor, problems

pytestmark = pytest.mark.integrations


class Failing(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch == self._epoch:
            raise RuntimeError("the disk is full")


def fit_and_fail(training: Any, *callbacks: Any, **arguments: Any) -> None:
    """Train until a callback raises, and drop the exception."""
    try:
        training.fit(*callbacks, **arguments)
    except RuntimeError:
        return
    pytest.fail("no exception")


@pytest.mark.parametrize("fault", FAULTS)
def test_finds_what_watch_finds(fault: str) -> None:
    expected = plain_monitor(fault)
    callback, training = AutoTrainer(overhead=1.0), make_training(fault)
    training.fit(callback)
    monitor = callback.monitor
    assert monitor is not None
    assert problems(monitor) == problems(expected) != {}
    assert monitor.history.step == expected.history.step
    assert monitor.history.epoch == expected.history.epoch
    assert monitor.history.epoch_names == expected.history.epoch_names
    assert monitor.context.planned_steps == expected.context.planned_steps
    assert monitor.context.train_rows == expected.context.train_rows
    assert monitor.context.asked.keys() == expected.context.asked.keys()
    assert monitor.history.losses[1] == pytest.approx(expected.history.losses[1], nan_ok=True)


def test_a_healthy_training_stays_silent_and_what_it_is_to_the_bit() -> None:
    callback, training, plain = AutoTrainer(stop_on="warning"), make_training(HEALTHY), make_training(HEALTHY)
    history, expected = training.fit(callback).history, plain.fit().history
    assert problems(callback.monitor) == {}
    assert callback.stopped_by is None
    assert history == expected
    for ours, theirs in zip(training.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "fit" not in vars(training.model)
    assert "autotrainer" not in training.model.train_function.__module__


ENGINE = """
from tests.autotrainer.integrations.faults_keras import make_training, plain_monitor, problems
import autotrainer
from autotrainer.integrations.keras import AutoTrainer

callback, training, plain = AutoTrainer(overhead=1.0), make_training("dead_relu"), make_training("dead_relu")
training.fit(callback)
plain.fit()
monitor, expected = callback.monitor, plain_monitor("dead_relu")
assert problems(monitor) == problems(expected), (problems(monitor), problems(expected))
assert (monitor.history.step, monitor.history.epoch) == (expected.history.step, expected.history.epoch)
assert all((a == b).all() for a, b in zip(training.model.get_weights(), plain.model.get_weights(), strict=True))
assert monitor.history.layers and len(monitor.history.steps) > 20

callback, training = AutoTrainer(stop_on="error"), make_training("rate_too_high")
training.fit(callback)
assert callback.stopped_by is not None
assert callback.monitor.history.step < 31
print("done")
"""


@pytest.mark.parametrize("engine", ["torch", "jax"])
def test_the_other_backends_of_keras(engine: str, run_python: Callable[..., Any]) -> None:
    done = run_python(ENGINE, KERAS_BACKEND=engine, JAX_PLATFORMS="cpu")
    assert done.stdout.endswith("done\n"), done.stderr


def test_stops_after_the_batch_that_shows_an_error() -> None:
    findings: list[autotrainer.Finding] = []
    callback = AutoTrainer(stop_on="error", on_finding=findings.append)
    history = make_training("rate_too_high").fit(callback, epochs=50).history
    assert callback.stopped_by in findings
    assert callback.stopped_by is not None
    assert callback.stopped_by.severity == "error"
    assert len(history["loss"]) < 5
    assert callback.monitor is not None
    assert callback.monitor.closed


def test_a_later_fit_goes_on_unless_the_model_is_compiled_anew() -> None:
    callback, training = AutoTrainer(), make_training(HEALTHY)
    lengths = []
    for _ in range(2):
        training.fit(callback, epochs=2)
        assert callback.monitor is not None
        lengths.append((callback.monitor.history.step, callback.monitor.history.epoch))
        assert callback.monitor.context.planned_epochs == 2 * len(lengths)
    training.model.compile("sgd", "sparse_categorical_crossentropy")
    training.fit(callback, epochs=2)
    lengths.append((callback.monitor.history.step, callback.monitor.history.epoch))  # type: ignore[union-attr]
    assert lengths == [(15, 2), (31, 4), (15, 2)]


def test_an_exception_closes_the_monitor_and_a_new_fit_goes_on() -> None:
    callback, training = AutoTrainer(), make_training(HEALTHY)
    fit_and_fail(training, callback, Failing(1), epochs=4)
    first = callback.monitor
    assert first is not None
    assert first.closed
    assert first.interrupted
    assert first.history.step == 15
    training.fit(callback, initial_epoch=1, epochs=2)
    assert callback.monitor is not first
    assert callback.monitor is not None
    assert callback.monitor.history.step == 23


def test_a_restored_fit_goes_on_in_one_history(tmp_path: Path) -> None:
    def fit(callback: AutoTrainer, *others: Any) -> None:
        make_training(HEALTHY).fit(keras.callbacks.BackupAndRestore(tmp_path / "backup"), callback, *others, epochs=4)

    with pytest.raises(RuntimeError, match="disk"):
        fit(AutoTrainer(), Failing(1))
    assert (tmp_path / "backup" / "autotrainer.json").exists()
    callback = AutoTrainer()
    fit(callback)
    monitor = callback.monitor
    assert monitor is not None
    assert (monitor.history.step, monitor.history.epoch) == (31, 4)
    assert monitor.context.planned_epochs == 4
    assert not (tmp_path / "backup").exists()


def test_a_restored_fit_of_a_model_with_other_automatic_names_goes_on_in_one_history(tmp_path: Path) -> None:
    def fit(callback: AutoTrainer, *others: Any) -> None:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1)]
        model = keras.Sequential(layers)  # whose layers get the next numbers
        model.compile(optimizer="adam", loss="mse")
        x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        model.fit(x, x.sum(axis=1), epochs=4, verbose=0, callbacks=[backup, callback, *others])

    with pytest.raises(RuntimeError, match="disk"):
        fit(AutoTrainer(), Failing(1))
    callback = AutoTrainer()
    fit(callback)
    monitor = callback.monitor
    assert monitor is not None
    assert (monitor.history.steps[0], monitor.history.step, monitor.history.epoch) == (0, 7, 4)
    assert [layer.name for layer in monitor.history.layers] == [layer.name for layer in monitor.context.layers]


def test_evaluations_and_other_models_are_left_alone() -> None:
    callback, training = AutoTrainer(), make_training(HEALTHY)
    training.model.evaluate(training.x, training.y, callbacks=[callback], verbose=0)
    assert callback.monitor is None
    training.fit(callback, epochs=1)
    training.model.evaluate(training.x, training.y, callbacks=[callback], verbose=0)
    assert callback.monitor is not None
    assert callback.monitor.history.epoch == 1


def test_watch_within_the_block_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    callback, training = AutoTrainer(), make_training(HEALTHY)
    with autotrainer.watch(training.model):
        training.fit(callback, epochs=2)
    assert callback.monitor is not None
    assert (callback.monitor.history.step, callback.monitor.history.epoch) == (15, 2)


def test_copies_have_their_own_monitor() -> None:
    callback, training = AutoTrainer(stop_on="error", overhead=0.5), make_training(HEALTHY)
    training.fit(callback, epochs=1)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.monitor is None
        make_training(HEALTHY).fit(other, epochs=1)
        assert other.monitor is not callback.monitor
        assert other.monitor.history.step == 7


def test_misuse_is_one_clear_line() -> None:
    with pytest.raises(StateError, match="use one"):
        make_training(HEALTHY).fit(AutoTrainer(), AutoTrainer(), epochs=1)
    with pytest.raises(ConfigError, match="stop_on"):
        AutoTrainer(stop_on="never")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'select'"):
        AutoTrainer(selects="nan")


def test_off_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    callback = AutoTrainer(stop_on="error")
    assert len(make_training("rate_too_high").fit(callback, epochs=2).history["loss"]) == 2
    assert callback.monitor is not None
    assert callback.monitor.history.step == -1


def test_a_missing_library_names_its_extra(run_python: Callable[..., Any]) -> None:
    code = "import sys; sys.modules['keras'] = None\nimport autotrainer.integrations.keras"
    done = run_python(code)
    assert "pip install 'autotrainer-monitor[keras]'" in done.stderr
