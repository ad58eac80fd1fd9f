"""Hours of training, in simulated time, with a fault each minute: the monitor never changes it, and outlives it all."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
import autotrainer.backends.keras3.watching.observer  # before its clock is replaced
from autotrainer.monitoring.sampler import Sampler


class RefusedError(Exception):
    """Raised by the user's code, and caught there."""


class Raise(keras.callbacks.Callback):  # type: ignore[misc]
    """Raises at the end of the first batch."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        raise self._error


class Training:
    """A user's training, watched or not."""

    def __init__(self, folder: Path, *, watched: bool) -> None:
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        self.random = np.random.default_rng(0)
        layers = keras.layers
        self.model = keras.Sequential(
            [layers.Input((6,)), layers.Dense(12, "relu"), layers.BatchNormalization(), layers.Dropout(0.1),
             layers.Dense(3, "softmax")]
        )  # fmt: skip
        self.model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
        self.folder, self.watched, self.monitor = folder, watched, None
        self.on_finding_raises = False
        self.watch()
        self.good = self.model.get_weights()

    def watch(self) -> None:
        """Watch the model, again if it is watched already."""
        if self.watched:
            self.monitor: Any = autotrainer.watch(
                self.model, log_dir=self.folder / "log", on_finding=self._on_finding
            )  # fmt: skip

    def _on_finding(self, finding: autotrainer.Finding) -> None:
        if self.on_finding_raises:
            raise RefusedError

    def batch(self, rows: int = 32) -> tuple[Any, Any]:
        x = self.random.normal(size=(rows, 6)).astype(np.float32)
        return x, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 1)

    def fit(self, x: Any, y: Any, **options: Any) -> None:
        self.model.fit(x, y, batch_size=16, verbose=0, **options)

    def minute(self) -> None:
        self.fit(*self.batch())

    def end_minute(self) -> str:
        """Return to the last good weights if the training has diverged, and return a digest of everything."""
        weights = self.model.get_weights()
        if all(np.isfinite(array).all() for array in weights):
            self.good = weights
        else:
            self.model.set_weights(self.good)
            for variable in self.model.optimizer.variables[2:]:
                variable.assign(np.zeros(variable.shape, np.float32))
        digest = hashlib.sha256()
        for array in (*self.model.get_weights(), *(np.asarray(v) for v in self.model.optimizer.variables)):
            digest.update(array.tobytes())
        digest.update(repr((np.random.get_state()[1][:4], random.getstate()[1][:4])).encode())  # type: ignore[index]
        return digest.hexdigest()


def _values(value: float) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        x, y = t.batch()
        x[3, 2] = value
        t.fit(x, y)

    return fault


def _rate(factor: float) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        rate = float(t.model.optimizer.learning_rate)
        t.model.optimizer.learning_rate = rate * factor
        t.minute()
        t.model.optimizer.learning_rate = rate

    return fault


def _raise_in_callback(error: BaseException) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        with suppress(RefusedError, KeyboardInterrupt, MemoryError):
            t.fit(*t.batch(), callbacks=[Raise(error)])

    return fault


def _loader_error(t: Training) -> None:
    class Lost(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            if number == 1:
                raise OSError(errno.EIO, "the disk is gone")
            return t.batch(16)

    with suppress(OSError):
        t.model.fit(Lost(), verbose=0, shuffle=False)


def _empty(t: Training) -> None:
    with suppress(ValueError, UserWarning):  # Keras warns that the data are exhausted
        t.fit(*t.batch(0))


def _save_and_copy(t: Training) -> None:
    t.model.save(t.folder / "model.keras")
    keras.models.clone_model(t.model)
    t.model.set_weights(t.model.get_weights())
    t.minute()


def _evaluate(t: Training) -> None:
    t.model.evaluate(*t.batch(), verbose=0)
    t.model.predict(t.batch()[0], verbose=0)
    t.fit(*t.batch(), validation_data=t.batch())


def _in_thread(t: Training) -> None:
    thread = threading.Thread(target=t.minute)
    thread.start()
    thread.join()


def _ask(t: Training) -> None:
    if t.monitor is not None:
        for answer in (
            t.monitor.findings,
            t.monitor.should_stop,
            str(t.monitor.report()),
            t.monitor.report().to_json(),
        ):
            assert answer is not None
    t.minute()


def _watch_again(t: Training) -> None:
    t.watch()
    t.minute()


def _close_and_watch(t: Training) -> None:
    if t.monitor is not None:
        t.monitor.close()
    t.minute()
    t.watch()


def _patched(context: Callable[[Training], Any]) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        with context(t):
            t.minute()

    return fault


@contextmanager
def _on_finding_raises(t: Training) -> Iterator[None]:
    t.on_finding_raises = True
    yield
    t.on_finding_raises = False


@contextmanager
def _full_disk(t: Training) -> Iterator[None]:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    if t.monitor is not None and t.monitor._log._log is not None:
        t.monitor._log._log._lines.file.close()
        t.monitor._log._log._lines.file = Full()
    yield


@contextmanager
def _broken_stderr(t: Training) -> Iterator[None]:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    stderr, sys.stderr = sys.stderr, Broken()
    try:
        yield
    finally:
        sys.stderr = stderr


@contextmanager
def _strict(t: Training) -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


@contextmanager
def _no_collection(t: Training) -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@contextmanager
def _logging_off(t: Training) -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# No fault within a compiled step: how much of a step that fails has run by then is up to TensorFlow.
FAULTS: dict[str, Callable[[Training], None]] = {
    "nan in a batch": _values(float("nan")),
    "infinity in a batch": _values(float("inf")),
    "huge value in a batch": _values(1e30),
    "learning rate up": _rate(1e3),
    "learning rate down": _rate(1e-6),
    "exception in a callback": _raise_in_callback(RefusedError()),
    "Ctrl-C in a callback": _raise_in_callback(KeyboardInterrupt()),
    "no memory in a callback": _raise_in_callback(MemoryError()),
    "loader error": _loader_error,
    "no rows": _empty,
    "saved and copied": _save_and_copy,
    "evaluated": _evaluate,
    "other thread": _in_thread,
    "asked for findings": _ask,
    "on_finding raises": _patched(_on_finding_raises),
    "full disk": _patched(_full_disk),
    "broken stderr": _patched(_broken_stderr),
    "NumPy raises": _patched(_strict),
    "no garbage collection": _patched(_no_collection),
    "logging off": _patched(_logging_off),
    "watched again": _watch_again,
    "closed and watched": _close_and_watch,
}


def _train(minutes: int, folder: Path, clock: Any, *, watched: bool) -> tuple[Training, list[tuple[str, str]]]:
    plan = np.random.default_rng(minutes)
    names = [*FAULTS, "clock jumps forward", "clock jumps back"]
    training, digests = Training(folder, watched=watched), []
    for minute in range(minutes):
        name = names[minute % len(names)] if minute < len(names) else str(plan.choice(names))
        training.minute()
        if name.startswith("clock"):
            clock.jump(7200.0 if name.endswith("forward") else -1800.0, after=int(plan.integers(1, 20)))
            training.minute()
        else:
            FAULTS[name](training)
        digests.append((name, training.end_minute()))
        clock.advance(60.0)
        if training.monitor is not None:
            sampler = training.monitor.sampler
            assert isinstance(sampler, Sampler)
            assert 0 <= sampler.spent < float("inf"), name
            assert len(training.monitor.history.steps) < 2000, "the history is bounded"
    return training, digests


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("minutes", [24, 80])
def test_hours_of_faults_change_nothing(
    minutes: int, tmp_path: Path, simulated_clock: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    _, plain = _train(minutes, tmp_path, simulated_clock, watched=False)
    training, watched = _train(minutes, tmp_path, simulated_clock, watched=True)
    first = next((a for a, b in zip(plain, watched, strict=True) if a != b), None)
    assert first is None, "the first minute after which the training differs"
    record_property("attacks", minutes)
    training.watch()
    for _ in range(2):
        training.fit(np.full((32, 6), np.nan, np.float32), training.batch()[1])
    training.monitor.close()
    assert "nonfinite" in {finding.problem for finding in training.monitor.findings}, "it still works"
    assert "watching the Keras training failed" not in caplog.text
