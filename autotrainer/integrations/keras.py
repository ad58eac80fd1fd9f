"""A callback for Keras: what `autotrainer.watch` sees around ``fit``, from within."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from autotrainer.integrations._callback import StopOn, WatchSession, require
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Finding
from autotrainer.reporting.files import write_atomic

keras: Any = require("keras", "keras", minimum="3.5")

__all__ = ["AutoTrainer"]

_STATE_FILE = "autotrainer.json"
"""File of the state, in the folder of `keras.callbacks.BackupAndRestore`."""


class AutoTrainer(keras.callbacks.Callback):
    """Watches the ``fit`` that it is given to, as ``with autotrainer.watch(model)`` around it does.

    ```python
    from autotrainer.integrations.keras import AutoTrainer

    watcher = AutoTrainer(stop_on="error")
    model.fit(x, y, validation_split=0.2, epochs=20, callbacks=[watcher])
    print(watcher.monitor.report())
    ```

    A later ``fit`` of the same model goes on in the same history unless the model was compiled anew, and a ``fit``
    that `keras.callbacks.BackupAndRestore` resumes does, too: the state is kept in its folder, if that is a local
    one. Put it behind callbacks that add values to the logs. A ``fit`` that ends with an exception is closed as soon
    as Python drops the exception, at the next ``fit`` at the latest: Keras tells callbacks nothing of it.

    Args:
        stop_on: ``"error"`` or ``"warning"``: findings that end the training, by ``model.stop_training``, after the
            batch in which they are found; None for none.
        **options: Options of `autotrainer.watch`. Epochs and steps are those of ``fit``.

    Attributes:
        stopped_by: The finding that has ended the training; None if none has.

    Raises:
        ConfigError: If Keras is older than version 3.5, or an option is unknown or invalid.
    """

    def __init__(self, *, stop_on: StopOn | None = None, **options: Any) -> None:
        super().__init__()
        self._options = {**options, "stop_on": stop_on}
        self._user_on_finding = options.get("on_finding")
        note = weak_method(self._note_finding)
        self._session = WatchSession("AutoTrainer", **{**self._options, "on_finding": note})
        self._observer: Any = None
        self._watched: Any = None
        self._traced: Any = None
        self._exception: Any = None
        self._backup: Path | None = None

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the present or latest ``fit``; None before the first."""
        return self._session.monitor

    @property
    def stopped_by(self) -> Finding | None:
        """The finding that has ended the training; None if none has."""
        return self._session.stopped_by

    # -- called by Keras --------------------------------------------------------------------------------------------

    def set_model(self, model: Any) -> None:
        """Take the model, before ``fit`` makes its train function."""
        super().set_model(model)
        self._traced = getattr(model, "train_function", None)

    def on_train_begin(self, logs: Any = None) -> None:
        """Attach to the model.

        Raises:
            StateError: If two such callbacks watch the same ``fit``.
        """
        self._end_interrupted()
        session, callbacks = self._session, self._callbacks()
        self._find_backup(callbacks)
        self._watched = self.model  # which JAX lets nobody read between steps through `model`
        self._observer = session.start(self._watched, position=self._position()).observer
        if self._observer is not None:
            self._observer.join_fit(self._traced)
            params = self.params or {}
            self._observer.start_fit(params.get("epochs"), params.get("steps"))
            if callbacks is not None:
                self._exception = weakref.finalize(callbacks, weak_method(self._end_interrupted))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Register the start of an epoch."""
        if self._observer is not None:
            self._observer.start_epoch(epoch)

    def on_test_begin(self, logs: Any = None) -> None:
        """Register the start of an evaluation within the ``fit``."""
        if self._observer is not None:
            self._observer.start_test()

    def on_test_end(self, logs: Any = None) -> None:
        """Register the end of an evaluation within the ``fit``."""
        if self._observer is not None:
            self._observer.end_test()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report the values of an epoch, and end the training if a finding asks for it."""
        if self._observer is not None:
            self._observer.end_epoch(logs or {})
            if self._session.should_stop:
                self._watched.stop_training = True
            self._save_state()

    def on_train_end(self, logs: Any = None) -> None:
        """Detach from the model: the verdict is final."""
        self._close(None)

    # -- copies -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self._options}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state["options"])  # type: ignore[misc]

    # -- internal ---------------------------------------------------------------------------------------------------

    def _note_finding(self, finding: Finding) -> None:
        if self._observer is not None and self._session.should_stop:  # else it is the final verdict
            self._watched.stop_training = True  # Keras reads it after each batch
        if self._user_on_finding is not None:
            self._user_on_finding(finding)

    def _end_interrupted(self) -> None:
        """Close the monitor of a ``fit`` that an exception has ended."""
        if self._session.running:
            self._close(InterruptedError("fit has not come to its end"))

    def _close(self, exception: BaseException | None) -> None:
        if self._exception is not None:
            self._exception.detach()
        if self._observer is not None:
            with self._session.guard():
                self._observer.leave_fit()
        self._observer = self._exception = None
        self._session.close(exception, position=self._position())

    def _position(self) -> tuple[int, int] | None:
        """Return which optimizer the model has, and how many steps it has taken; None if unknown."""
        optimizer = getattr(self._model, "optimizer", None)
        iterations = getattr(optimizer, "iterations", None)
        return None if iterations is None else (id(optimizer), int(keras.ops.convert_to_numpy(iterations)))

    def _callbacks(self) -> Any:
        """Return the `keras.callbacks.CallbackList` that calls this callback; None if it can't be reached."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            caller = frame.f_locals.get("self")
            if isinstance(caller, keras.callbacks.CallbackList) and any(each is self for each in caller.callbacks):
                return caller
            frame = frame.f_back
        return None

    def _find_backup(self, callbacks: Any) -> None:
        """Find the local folder of the backups of the ``fit``, and take the state in it."""
        each_callback = [] if callbacks is None else callbacks.callbacks
        backups = [each for each in each_callback if isinstance(each, keras.callbacks.BackupAndRestore)]
        local = [Path(each.backup_dir) for each in backups if "://" not in str(each.backup_dir)]
        self._backup = local[0] / _STATE_FILE if local else None
        if self._backup is not None and self._backup.exists():
            with self._session.guard():
                self._session.load_state_dict(json.loads(self._backup.read_text("utf-8")))

    def _save_state(self) -> None:
        monitor = self.monitor
        if self._backup is not None and monitor is not None:
            with self._session.guard(), monitor.sampler.stopwatch, monitor.sampler.evaluations:
                write_atomic(self._backup, json.dumps(self._session.state_dict()))
