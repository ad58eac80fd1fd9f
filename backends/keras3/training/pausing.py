"""Managed trainings that are paused at the end of an epoch, and go on later with another `fit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.utils.summary_utils import weight_memory_size

from autotrainer.backends.keras3.runtime.random_state import preserve_random_state, save_random_state

__all__ = ["PauseState", "can_rest", "rounds"]

_LARGEST = 1 << 30
"""Bytes of a model up to which it can rest: several do so at once, each with its optimizer and a copy of itself."""


class PauseState:
    """What a model and the random generators are at the end of an epoch.

    The ends of `fit` and of a training change the weights: averages of the optimizer, the best weights.

    Args:
        model: The model. Its optimizer stays as it is.
    """

    def __init__(self, model: Any) -> None:
        self._variables = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in model.variables]
        self._put_back_random_state = save_random_state()

    def put_back(self) -> None:
        """Put it all back; call it inside `preserve_random_state`."""
        for variable, value in self._variables:
            variable.assign(value)
        self._put_back_random_state()


def rounds(fit: Callable[[], None], is_paused: Callable[[], bool]) -> Generator[None]:
    """Train by as many `fit` as it takes: see `autotrainer.adapter.spec.PausedTraining`.

    Args:
        fit: Calls `fit` for what is left of it.
        is_paused: Returns whether the latest `fit` ended in a pause.

    Yields:
        Where the training is paused. What watches the model stays on it until the monitor is closed.
    """
    while True:
        with preserve_random_state(), _without_retracing_warnings():
            fit()
        if not is_paused():
            return
        yield


def can_rest(model: Any) -> bool:
    """Say whether a model can be kept while others are trained: not on a device for one model, nor a huge one."""
    here = all("cpu" in str(v.value.device).lower() for v in model.variables)
    return here and weight_memory_size(model.variables) <= _LARGEST


@contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Keep TensorFlow from warning that a function is traced again: each training traces its own, on purpose."""
    logger = logging.getLogger("tensorflow")

    def other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in str(record.msg)

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
