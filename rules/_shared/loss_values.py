"""Which loss function produced the values: the loss of a batch, compared with known losses on its sampled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS, PROBABILITY_ACTIVATIONS
from autotrainer.records.task import TaskContext

__all__ = [
    "BROADCAST_COLUMNS",
    "LOSS_VALUE_NEEDS",
    "BroadcastLoss",
    "broadcast_loss",
    "computes_binary_entropy",
    "computes_cross_entropy",
    "computes_squared_error",
    "measures_distance",
]

BROADCAST_COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "squared_error": "crossed_error",
        "absolute_error": "crossed_absolute_error",
        "binary_entropy": "crossed_binary_entropy",
    }
)
"""Column of each row-by-row loss → column of the same loss broadcast: of every output with every target."""

LOSS_VALUE_NEEDS = frozenset(
    {"loss", "batch_size", "output_min", "output_max", "cross_entropy", *BROADCAST_COLUMNS, *BROADCAST_COLUMNS.values()}
)
"""Columns that are read here."""

_SAME = 1e-3
"""Largest relative difference between two computations of one loss: half precision leaves 5e-4, single precision
1e-6."""

_DISTINCT = 1e-3
"""Smallest relative difference between both forms of a loss that distinguishes them: 1000 times the error of single
precision."""

_CLOSER = 0.1
"""Largest difference from the form that it is ÷ difference between both forms."""

_EXACT = 1e-4
"""Largest relative difference from a binary cross-entropy that blames the targets: single precision and clipping of the
logarithms leave less, another factor or label smoothing more."""

_DECIDED = 0.01
"""Distance of a probability from one half from which it shows the form of the loss; for a logit, four times as much
(the slope of the logistic function there is a quarter)."""

_MIN_SAMPLES = 3
"""Fewest such samples, of which half must match: by chance, one in 20 does."""

_MIN_ROWS = 2
"""Fewest rows of a batch in which broadcasting shows."""

_MIN_BROADCAST_SAMPLES = 2
"""Fewest samples of a broadcast loss: one could be chance."""

_CORRELATED, _MIN_PAIRS = 0.8, 8
"""Rank correlation between the changes of a loss and of the squared error from which both measure the same distance:
unrelated values reach it in eight samples in one of a hundred cases."""

_NEAR = 0.05
"""Largest relative difference from the squared error or its root, as only some rows of a batch are sampled."""


@dataclass(frozen=True, slots=True)
class BroadcastLoss:
    """A loss of every output with every target.

    Attributes:
        name: Column of the row-by-row loss, of `BROADCAST_COLUMNS`.
        loss: The loss, in the last sample that distinguishes both forms.
        by_rows: The row-by-row loss of that sample.
        broadcast: The loss of every output with every target of that sample.
    """

    name: str
    loss: float
    by_rows: float
    broadcast: float


def computes_binary_entropy(history: RunHistory, context: TaskContext) -> bool:
    """Return whether the values of the loss are a binary cross-entropy, for any targets, row by row or broadcast.

    Outputs that are all about one half are not evidence: every logistic loss is ln 2 there.
    """
    size, value, activation = history.scalar("batch_size"), history.scalar("loss"), context.output_activation
    low, high = history.scalar("output_min"), history.scalar("output_max")
    decided = np.ones(len(value), bool)
    if activation is None or activation in PROBABILITY_ACTIVATIONS:
        decided &= np.maximum(np.abs(low - 0.5), np.abs(high - 0.5)) >= _DECIDED
    if activation is None or activation not in PROBABILITY_ACTIVATIONS:
        decided &= np.maximum(np.abs(low), np.abs(high)) >= 4 * _DECIDED
    gap = np.abs(value - history.scalar("binary_entropy"))
    gap = np.fmin(gap, np.abs(value - history.scalar("crossed_binary_entropy"))) / np.maximum(np.abs(value), 1e-12)
    gap = gap[(size >= 1) & (size <= MAX_ROWS) & np.isfinite(value) & decided & np.isfinite(gap)]
    return len(gap) >= _MIN_SAMPLES and bool(np.median(gap) <= _EXACT)


def computes_cross_entropy(history: RunHistory) -> bool:
    """Return whether the values of the loss are a mean cross-entropy, categorical or binary."""
    size, value = history.scalar("batch_size"), history.scalar("loss")
    gap = np.fmin(np.abs(value - history.scalar("cross_entropy")), np.abs(value - history.scalar("binary_entropy")))
    gap = (gap / np.maximum(np.abs(value), 1e-12))[(size <= MAX_ROWS) & np.isfinite(value)]
    gap = gap[np.isfinite(gap)]
    return len(gap) >= _MIN_SAMPLES and bool(np.median(gap) <= _SAME)


def computes_squared_error(history: RunHistory) -> bool:
    """Return whether the values of the loss are a mean squared error."""
    size, value = history.scalar("batch_size"), history.scalar("loss")
    gap = np.abs(value - history.scalar("squared_error")) / np.maximum(np.abs(value), 1e-12)
    gap = gap[(size <= MAX_ROWS) & np.isfinite(value) & np.isfinite(gap)]
    return len(gap) >= _MIN_SAMPLES and bool(np.median(gap) <= _SAME)


def broadcast_loss(history: RunHistory) -> BroadcastLoss | None:
    """Return the loss if its values are those of every output with every target, not row by row; else None."""
    size, value = history.scalar("batch_size"), history.scalar("loss")
    scale = np.maximum(np.abs(value), 1e-12)
    for name, column in BROADCAST_COLUMNS.items():
        rows, crossed = history.scalar(name), history.scalar(column)
        distinct = (size >= _MIN_ROWS) & (size <= MAX_ROWS) & np.isfinite(value) & np.isfinite(rows)
        distinct &= np.isfinite(crossed) & (np.abs(crossed - rows) > _DISTINCT * scale)
        if distinct.sum() < _MIN_BROADCAST_SAMPLES:
            continue
        gap = np.abs(value - crossed)[distinct]
        if np.median(gap / scale[distinct]) > _SAME or np.median(gap / np.abs(crossed - rows)[distinct]) > _CLOSER:
            continue
        return BroadcastLoss(name, *(float(values[distinct][-1]) for values in (value, rows, crossed)))
    return None


def measures_distance(history: RunHistory) -> bool | None:
    """Return whether the loss grows with the distance between outputs and targets, by its values; None if unknown.

    A loss that ranks, correlates or uses another scale does not: outputs may then be anywhere.
    """
    value, error = history.scalar("loss"), history.scalar("squared_error")
    valid = np.isfinite(value) & np.isfinite(error)
    value, error = value[valid], error[valid]
    if len(value) < _MIN_PAIRS:
        return None
    with np.errstate(all="ignore"):
        if any(np.median(np.abs(value**power / error - 1)) <= _NEAR for power in (1, 2)):
            return True
    moves = np.diff(value), np.diff(error)
    if not all(np.ptp(move) > 0 for move in moves):
        return False
    ranks = np.array([np.argsort(np.argsort(move)) for move in moves])
    return bool(np.corrcoef(ranks)[0, 1] >= _CORRELATED)
