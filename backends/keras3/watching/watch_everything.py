"""Watching each ``fit`` and ``train_on_batch`` of an unchanged script, and its own loops.

The two methods are replaced in `keras.Model`, not in the models: overrides in subclasses are still called first.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from autotrainer.adapter.backend import OpenWatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.watching.loop_detector import LoopDetector
from autotrainer.monitoring.monitor import is_watched
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["watch_everything"]

Fit = Callable[..., Any]


@contextmanager
def watch_everything(open_watch: OpenWatch) -> Iterator[None]:
    """Watch each training in the block."""
    detector = LoopDetector()  # patches the same methods for longer, below
    models = _WatchedModels(open_watch, keras.Model.fit, detector.trained_by_keras)
    detector.watch = models.watch
    methods = [
        (keras.Model, "fit", models.fit()),
        (keras.Model, "train_on_batch", models.train_on_batch(keras.Model.train_on_batch)),
    ]
    inherited = [name not in vars(owner) for owner, name, _ in methods]
    originals = [getattr(owner, name) for owner, name, _ in methods]
    for owner, name, method in methods:
        setattr(owner, name, method)
    try:
        yield
    finally:
        for (owner, name, method), original, inherits in zip(methods, originals, inherited, strict=True):
            if vars(owner).get(name) is not method:
                continue  # the script has replaced it again
            if inherits:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        detector.close()


class _WatchedModels:
    """The models that are watched, each with its watched ``fit``.

    Args:
        open_watch: Starts to watch a model.
        fit: ``fit`` of `keras.Model`.
        on_training: Called with each model that Keras trains.
    """

    def __init__(self, open_watch: OpenWatch, fit: Fit, on_training: Callable[[Any], None]) -> None:
        self._open_watch, self._original_fit, self._on_training = open_watch, fit, on_training
        self._watched: dict[int, tuple[weakref.ref[Any], Recorder, Fit]] = {}
        self._failed = False
        self._replaces: Sequence[Recorder] = ()

    def fit(self) -> Fit:
        """Return a ``fit`` that first starts to watch the model."""
        original = self._original_fit

        @functools.wraps(original)
        @passes_on
        def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
            watched = self._watched_fit(model)
            self._on_training(model)
            return original(model, *args, **kwargs) if watched is None else watched(*args, **kwargs)

        return fit

    def train_on_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``train_on_batch`` that first starts to watch the model."""

        @functools.wraps(original)
        @passes_on
        def train_on_batch(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._watched_fit(model)
            self._on_training(model)
            return original(model, *args, **kwargs)

        return train_on_batch

    def watch(self, model: Any, replaces: Sequence[Recorder] = ()) -> Recorder | None:
        """Watch a model that the script's own loop trains.

        Args:
            model: The model.
            replaces: Monitors of models that are parts of this one; they are dropped.

        Returns:
            Its monitor; None if it is not watched.
        """
        self._replaces = replaces
        try:
            self._watched_fit(model)
        finally:
            self._replaces = ()
        reference, monitor, _ = self._watched.get(id(model), (None, None, None))
        return monitor if reference is not None and reference() is model else None

    def _watched_fit(self, model: Any) -> Fit | None:
        """Return the watched ``fit`` of a model; None if it is not watched."""
        reference, monitor, watched = self._watched.get(id(model), (None, None, None))
        if reference is not None and reference() is model and monitor is not None and not monitor.closed:
            return watched
        try:
            return self._watch(model)
        except Exception as error:  # noqa: BLE001 - nothing may reach the script
            if not self._failed:
                self._failed = True
                logger.warning("a training of Keras is not watched; the script goes on: %r", error)
            return None

    def _watch(self, model: Any) -> Fit | None:
        if is_watched(model):
            return None
        with patched(model, "fit", functools.partial(self._original_fit, model)):
            monitor = self._open_watch(
                model, None, None, self._replaces
            )  # wraps Keras' fit, not the override that called it
            watched: Fit = vars(model)["fit"]
        self._watched = {key: entry for key, entry in self._watched.items() if not entry[1].closed}
        if monitor is None:
            return None
        self._watched[id(model)] = weakref.ref(model), monitor, watched
        return watched
