"""Curves that pictures show: points of a recorded run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotrainer.records.history import RunHistory
from pictures.run import Curve

__all__ = ["by_layer", "epochs", "layer", "measured", "scalar", "smoothed"]

Points = tuple[Sequence[float], Sequence[float]]


def scalar(column: str) -> Curve:
    """Return the curve of a value of the step."""
    return lambda history: (history.steps, history.scalar(column))


def smoothed(column: str, window: int) -> Curve:
    """Return the curve of the mean of a value over the last sampled steps that have it."""

    def curve(history: RunHistory) -> Points:
        values = history.scalar(column)
        known = np.isfinite(values)
        total = np.cumsum(values[known])
        count = np.arange(1, len(total) + 1)
        late = count > window
        mean = np.where(late, total - np.where(late, np.roll(total, window), 0), total) / np.minimum(count, window)
        return history.steps[known], mean

    return curve


def layer(column: str, number: int) -> Curve:
    """Return the curve of a statistic of one layer."""
    return lambda history: (history.steps, history.layer(column)[:, number])


def measured(column: str) -> Curve:
    """Return the curve of a statistic of the first layer that has it."""

    def curve(history: RunHistory) -> Points:
        table = history.layer(column)
        return history.steps, table[:, np.flatnonzero(np.isfinite(table).any(axis=0))[0]]

    return curve


def by_layer(column: str, step: int) -> Curve:
    """Return a statistic of all layers that have it, at the first sampled step from one on."""

    def curve(history: RunHistory) -> Points:
        row = history.layer(column)[np.searchsorted(history.steps, step)]
        known = np.flatnonzero(np.isfinite(row))
        return range(1, len(known) + 1), row[known]

    return curve


def epochs(name: str) -> Curve:
    """Return the curve of a value of the epochs."""
    return lambda history: history.epochs(name)
