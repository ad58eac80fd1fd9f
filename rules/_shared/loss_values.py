"""Which loss the numbers are: the loss of a batch compared with what known losses give on the rows that were copied."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS, PROBABLE
from autotrainer.records.task import TaskContext

__all__ = [
    "CROSSED",
    "LOSS_VALUE_NEEDS",
    "Crossed",
    "broadcast",
    "computes_binary_entropy",
    "computes_cross_entropy",
    "computes_squared_error",
    "measures_distance",
]

CROSSED: Mapping[str, str] = MappingProxyType(
    {
        "squared_error": "crossed_error",
        "absolute_error": "crossed_absolute_error",
        "binary_entropy": "crossed_binary_entropy",
    }
)
"""Losses row by row, each with the name of that of every output with every target."""

LOSS_VALUE_NEEDS = frozenset(
    {"loss", "batch_size", "output_min", "output_max", "cross_entropy", *CROSSED, *CROSSED.values()}
)
"""Columns that are compared."""

_SAME = 1e-3
"""Relative difference of two ways to compute one loss, at most: half precision leaves 5e-4, single precision 1e-6."""

_APART = 1e-3
"""Relative difference of both ways from which the loss can tell which of them it is: 1000 times what single precision
leaves."""

_NEARER = 0.1
"""Difference from the way that it is ÷ difference of both ways, at most."""

_EXACT = 1e-4
"""Relative difference from a binary cross-entropy, at most, where that is what makes the targets wrong: clips that keep
logarithms off zero and single precision leave less, another factor or smoothing more."""

_DECIDED = 0.01
"""Distance of a probability from one half from which it tells the form of the loss; of a logit, four times as much (the
slope of the logistic function there is a quarter)."""

_ENOUGH = 3
"""Samples of such outputs, at least, of which half must be exact: chance leaves one in 20 of them so."""

_FULL_ROWS = 2
"""Fewest rows of a batch from which broadcasting can be told."""

_SAMPLES = 2
"""Samples, at least: one could be chance."""


_ALIKE, _PAIRS = 0.8, 8
"""Rank correlation, from sample to sample, of a loss with the squared error from which it measures the same distance:
eight samples of unrelated values reach it in one of a hundred cases."""

_ABOUT = 0.05
"""Relative difference from the squared error or its root, at most, where only some rows of a batch are copied."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A loss of every output with every target.

    Attributes:
        name: Name of the loss row by row, of `CROSSED`.
        loss: The loss, in the last sample that tells it.
        by_rows: What it would be there row by row.
        crossed: What it is of every output with every target.
    """

    name: str
    loss: float
    by_rows: float
    crossed: float


def computes_binary_entropy(history: RunHistory, context: TaskContext) -> bool:
    """Say whether the loss is, by its numbers, a binary cross-entropy, whatever the targets, row by row or broadcast.

    Outputs that are all about one half are no evidence: any logistic loss is ln 2 there.
    """
    size, value, activation = history.scalar("batch_size"), history.scalar("loss"), context.output_activation
    low, high = history.scalar("output_min"), history.scalar("output_max")
    decided = np.ones(len(value), bool)
    if activation is None or activation in PROBABLE:
        decided &= np.maximum(np.abs(low - 0.5), np.abs(high - 0.5)) >= _DECIDED
    if activation is None or activation not in PROBABLE:
        decided &= np.maximum(np.abs(low), np.abs(high)) >= 4 * _DECIDED
    gap = np.abs(value - history.scalar("binary_entropy"))
    gap = np.fmin(gap, np.abs(value - history.scalar("crossed_binary_entropy"))) / np.maximum(np.abs(value), 1e-12)
    gap = gap[(size >= 1) & (size <= MAX_ROWS) & np.isfinite(value) & decided & np.isfinite(gap)]
    return len(gap) >= _ENOUGH and bool(np.median(gap) <= _EXACT)


def computes_cross_entropy(history: RunHistory) -> bool:
    """Say whether the loss is, by its numbers, a mean cross-entropy over classes, or of a binary answer."""
    size, value = history.scalar("batch_size"), history.scalar("loss")
    gap = np.fmin(np.abs(value - history.scalar("cross_entropy")), np.abs(value - history.scalar("binary_entropy")))
    gap = (gap / np.maximum(np.abs(value), 1e-12))[(size <= MAX_ROWS) & np.isfinite(value)]
    gap = gap[np.isfinite(gap)]
    return len(gap) >= _ENOUGH and bool(np.median(gap) <= _SAME)


def computes_squared_error(history: RunHistory) -> bool:
    """Say whether the loss is, by its numbers, a mean squared error."""
    size, value = history.scalar("batch_size"), history.scalar("loss")
    gap = np.abs(value - history.scalar("squared_error")) / np.maximum(np.abs(value), 1e-12)
    gap = gap[(size <= MAX_ROWS) & np.isfinite(value) & np.isfinite(gap)]
    return len(gap) >= _ENOUGH and bool(np.median(gap) <= _SAME)


def broadcast(history: RunHistory) -> Crossed | None:
    """Return the loss that is, by its numbers, that of every output with every target, and not one row by row."""
    size, value = history.scalar("batch_size"), history.scalar("loss")
    scale = np.maximum(np.abs(value), 1e-12)
    for name, of_all in CROSSED.items():
        rows, crossed = history.scalar(name), history.scalar(of_all)
        whole = (size >= _FULL_ROWS) & (size <= MAX_ROWS) & np.isfinite(value) & np.isfinite(rows)
        whole &= np.isfinite(crossed) & (np.abs(crossed - rows) > _APART * scale)
        if whole.sum() < _SAMPLES:
            continue
        off = np.abs(value - crossed)[whole]
        if np.median(off / scale[whole]) > _SAME or np.median(off / np.abs(crossed - rows)[whole]) > _NEARER:
            continue
        return Crossed(name, *(float(values[whole][-1]) for values in (value, rows, crossed)))
    return None


def measures_distance(history: RunHistory) -> bool | None:
    """Say whether the loss, by its numbers, grows with the distance of outputs and targets; None if that is not known.

    A loss that ranks, correlates or takes another scale does not: outputs may then be anywhere.
    """
    value, error = history.scalar("loss"), history.scalar("squared_error")
    known = np.isfinite(value) & np.isfinite(error)
    value, error = value[known], error[known]
    if len(value) < _PAIRS:
        return None
    with np.errstate(all="ignore"):
        if any(np.median(np.abs(value**power / error - 1)) <= _ABOUT for power in (1, 2)):
            return True
    moves = np.diff(value), np.diff(error)
    if not all(np.ptp(move) > 0 for move in moves):
        return False
    ranks = np.array([np.argsort(np.argsort(move)) for move in moves])
    return bool(np.corrcoef(ranks)[0, 1] >= _ALIKE)
