"""Managed trainings that pause at the end of an epoch and continue later with another `fit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.runtime.keras_internals import weight_memory_size
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state, save_random_state

__all__ = ["Checkpoint", "can_pause", "resumable_fit"]

_MAX_BYTES = 1 << 30
"""Largest size of a model that can pause: several may, each with its optimizer and a copy of itself."""


class Checkpoint:
    """The state of a model and of the random generators at the end of an epoch.

    It has to be restored because the end of `fit` may change weights: the optimizer's averages, the best weights.

    Args:
        model: The model. Its optimizer is not part of it.
    """

    def __init__(self, model: Any) -> None:
        self._variables = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in model.variables]
        self._restore_random_state = save_random_state()

    def restore(self) -> None:
        """Restore the state; call it inside `preserve_random_state`."""
        for variable, value in self._variables:
            variable.assign(value)
        self._restore_random_state()


def resumable_fit(fit: Callable[[], None], is_paused: Callable[[], bool]) -> Generator[None]:
    """Train with as many `fit` calls as needed; see `autotrainer.adapter.spec.PausedTraining`.

    Args:
        fit: Calls `fit` for the rest of the training.
        is_paused: Returns whether the latest `fit` ended in a pause.

    Yields:
        At each pause. The observer stays attached until the monitor is closed.
    """
    while True:
        with preserve_random_state(), _without_retracing_warnings():
            fit()
        if not is_paused():
            return
        yield


def can_pause(model: Any) -> bool:
    """Return whether a model can be kept while others are trained: it is in host memory and not too large."""
    on_host = all("cpu" in str(v.value.device).lower() for v in model.variables)
    return on_host and weight_memory_size(model.variables) <= _MAX_BYTES


@contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Suppress TensorFlow's warning about retracing: each training traces its own functions on purpose."""
    logger = logging.getLogger("tensorflow")

    def is_other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in str(record.msg)

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
