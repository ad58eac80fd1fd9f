"""Watching each ``fit`` and ``train_on_batch`` of an unchanged script.

The two methods are replaced in `keras.Model`, not in the models: overrides in subclasses are still called first.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from autotrainer.adapter.backend import OpenWatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.monitoring.monitor import is_watched
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.output import logger

__all__ = ["watch_everything"]

Fit = Callable[..., Any]


@contextmanager
def watch_everything(open_watch: OpenWatch) -> Iterator[None]:
    """Watch each training in the block."""
    models = _WatchedModels(open_watch, keras.Model.fit)
    methods = [
        (keras.Model, "fit", models.fit()),
        (keras.Model, "train_on_batch", models.train_on_batch(keras.Model.train_on_batch)),
        (keras.optimizers.Optimizer, "apply", models.apply(keras.optimizers.Optimizer.apply)),
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


class _WatchedModels:
    """The models that are watched, each with its watched ``fit``.

    Args:
        open_watch: Starts to watch a model.
        fit: ``fit`` of `keras.Model`.
    """

    def __init__(self, open_watch: OpenWatch, fit: Fit) -> None:
        self._open_watch, self._original_fit = open_watch, fit
        self._watched: dict[int, tuple[weakref.ref[Any], Recorder, Fit]] = {}
        self._failed = False
        self._depth = 0  # calls of ``fit`` and ``train_on_batch`` that are going on
        self._reported_loop = False

    def fit(self) -> Fit:
        """Return a ``fit`` that first starts to watch the model."""
        original = self._original_fit

        @functools.wraps(original)
        @passes_on
        def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
            watched = self._watched_fit(model)
            self._depth += 1
            try:
                return original(model, *args, **kwargs) if watched is None else watched(*args, **kwargs)
            finally:
                self._depth -= 1

        return fit

    def train_on_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a ``train_on_batch`` that first starts to watch the model."""

        @functools.wraps(original)
        @passes_on
        def train_on_batch(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._watched_fit(model)
            self._depth += 1
            try:
                return original(model, *args, **kwargs)
            finally:
                self._depth -= 1

        return train_on_batch

    def apply(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return an ``apply`` of optimizers that reports steps of a training loop that can't be watched."""

        @functools.wraps(original)
        @passes_on
        def apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if not (self._depth or self._reported_loop):
                self._reported_loop = True
                logger.warning(
                    "a training loop of the script's own takes steps and is not watched: of Keras, only fit() and "
                    "train_on_batch() are"
                )
            return original(optimizer, *args, **kwargs)

        return apply

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
            monitor = self._open_watch(model, None, None)  # wraps Keras' fit, not the override that called it
            watched: Fit = vars(model)["fit"]
        self._watched = {key: entry for key, entry in self._watched.items() if not entry[1].closed}
        if monitor is None:
            return None
        self._watched[id(model)] = weakref.ref(model), monitor, watched
        return watched
