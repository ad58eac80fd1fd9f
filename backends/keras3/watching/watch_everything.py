"""Watches each ``fit`` and ``train_on_batch`` of a script that knows nothing of it.

The two methods are exchanged in the class, not in the model: what a subclass makes of them stays what is called first.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from autotrainer.adapter.backend import OpenWatch
from autotrainer.adapter.observer import Recorder
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.monitoring.monitor import is_watched

__all__ = ["watch_everything"]

logger = logging.getLogger("autotrainer")

Fit = Callable[..., Any]


@contextmanager
def watch_everything(open_watch: OpenWatch) -> Iterator[None]:
    """Watch each training in the block."""
    seen = _Seen(open_watch, keras.Model.fit)
    methods = {"fit": seen.fit(), "train_on_batch": seen.train_on_batch(keras.Model.train_on_batch)}
    for name, method in methods.items():
        setattr(keras.Model, name, method)
    try:
        yield
    finally:
        for name, method in methods.items():
            if vars(keras.Model).get(name) is method:
                delattr(keras.Model, name)  # it is inherited again


class _Seen:
    """Models whose trainings are watched, each with what its ``fit`` has become.

    Args:
        open_watch: Watches a model.
        fit: ``fit`` as Keras has it.
    """

    def __init__(self, open_watch: OpenWatch, fit: Fit) -> None:
        self._open, self._own = open_watch, fit
        self._watched: dict[int, tuple[weakref.ref[Any], Recorder, Fit]] = {}
        self._failed = False

    def fit(self) -> Fit:
        """Return ``fit`` that has the model watched first."""
        own = self._own

        @functools.wraps(own)
        def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
            watched = self._fit_of(model)
            return own(model, *args, **kwargs) if watched is None else watched(*args, **kwargs)

        return fit

    def train_on_batch(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``train_on_batch`` that has the model watched first."""

        @functools.wraps(own)
        def train_on_batch(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._fit_of(model)
            return own(model, *args, **kwargs)

        return train_on_batch

    def _fit_of(self, model: Any) -> Fit | None:
        """Return the watched ``fit`` of a model; None where it is left alone."""
        reference, monitor, watched = self._watched.get(id(model), (None, None, None))
        if reference is not None and reference() is model and monitor is not None and not monitor.closed:
            return watched
        try:
            return self._begin(model)
        except Exception as error:  # noqa: BLE001 - nothing may reach the script
            if not self._failed:
                self._failed = True
                logger.warning("a training of Keras is not watched; the script goes on: %r", error)
            return None

    def _begin(self, model: Any) -> Fit | None:
        if is_watched(model):
            return None
        with patched(model, "fit", functools.partial(self._own, model)):
            monitor = self._open(model, None, None)  # has Keras' own fit wrapped, not that of a subclass which led here
            watched: Fit = vars(model)["fit"]
        self._watched = {key: entry for key, entry in self._watched.items() if not entry[1].closed}
        if monitor is None:
            return None
        self._watched[id(model)] = weakref.ref(model), monitor, watched
        return watched
