"""What is known of a loss: whether it compares row by row, broadcasts, and measures a distance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import MAX_ROWS
from autotrainer.records.task import TaskContext

__all__ = [
    "BROADCAST_COLUMNS",
    "LOSS_VALUE_NEEDS",
    "BroadcastLoss",
    "broadcast_loss",
    "is_plain_entropy",
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

LOSS_VALUE_NEEDS = frozenset({"loss", "data_loss", "batch_size", *BROADCAST_COLUMNS, *BROADCAST_COLUMNS.values()})
"""Columns that are read here."""

_PLAIN = frozenset(
    {"crossentropy", "crossentropyloss", "nllloss", "categoricalcrossentropy", "sparsecategoricalcrossentropy"}
)
"""Names of losses, without underscores, that compare each output with the target at its position. Others, subclasses of
these included, may shift or mask the targets themselves."""

_SAME = 1e-3
"""Largest relative difference between two computations of one loss: half precision leaves 5e-4, single precision
1e-6."""

_DISTINCT = 1e-3
"""Smallest relative difference between both forms of a loss that distinguishes them: 1000 times the error of single
precision."""

_CLOSER = 0.1
"""Largest difference from the form that it is ÷ difference between both forms."""

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


def broadcast_loss(history: RunHistory) -> BroadcastLoss | None:
    """Return the loss if its values are those of every output with every target, not row by row; else None."""
    size, value = history.scalar("batch_size"), history.data_losses
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


def is_plain_entropy(context: TaskContext) -> bool:
    """Return whether the loss is a cross-entropy of each output with the target at its position, and no more."""
    known = context.loss.name.lower().replace("_", "") in _PLAIN or context.loss.identified  # by its values
    return known and context.loss.family == "cross_entropy"


def measures_distance(history: RunHistory) -> bool | None:
    """Return whether the loss grows with the distance between outputs and targets, by its values; None if unknown.

    A loss that ranks, correlates or uses another scale does not: outputs may then be anywhere.
    """
    value, error = history.data_losses, history.scalar("squared_error")
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
