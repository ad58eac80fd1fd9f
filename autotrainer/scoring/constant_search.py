"""The constant outputs with the lowest loss, found without gradients: for any framework, and any loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from autotrainer.records.signals import Floats

__all__ = ["MOST_VALUES", "best_constants"]

MOST_VALUES = 32
"""Outputs of a row, at most, of which constants are looked for."""
_LOSSES = 300
"""Losses that a search may take."""
_GROWTH, _DECLINE = 2.0, 0.4
_SMALLEST = 1e-5
"""Step, relative to the value or to 1, at which a constant has settled."""


def best_constants(loss: Callable[[Floats], float], start: Floats) -> tuple[Floats, int]:
    """Return the constants with the lowest loss that a search finds, and the number of losses that it took.

    It follows one constant after the other, with steps that grow while they lower the loss, and change sign and decline
    when they do not (Hooke and Jeeves 1961): the loss found is reached by constants, if not the lowest.

    Args:
        loss: The loss of constant outputs of one row; values that are not finite are avoided.
        start: Constants to begin with, whose loss is finite.
    """
    constants = np.array(start, np.float64).reshape(-1)
    least, count = loss(constants.reshape(start.shape)), 1
    steps = 0.5 * np.maximum(1.0, np.abs(constants))
    while math.isfinite(least) and count < _LOSSES:
        active = np.flatnonzero(np.abs(steps) > _SMALLEST * np.maximum(1.0, np.abs(constants)))
        if not len(active):
            break
        for place in active:
            for sign in (1, -1):
                tried = constants.copy()
                tried[place] += sign * steps[place]
                value = loss(tried.reshape(start.shape))
                count += 1
                if value < least:
                    constants, least = tried, value
                    steps[place] *= sign * _GROWTH
                    break
            else:
                steps[place] *= _DECLINE
    return constants.reshape(start.shape), count
