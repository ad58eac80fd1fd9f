"""Holding back a part of the training data for validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, finite_rows

__all__ = ["hold_out"]

_EVERY = 5
_MAX_CLASS_SHARE = 0.1
"""More classes than a tenth of the rows are no classes: counts, ages, identifiers."""


def hold_out(data: ArrayData, seed: int) -> tuple[ArrayData, ArrayData]:
    """Hold back 20 % of the rows, drawn at random and, for classes, from each class alike.

    Rows with values that are not finite stay in the training data: no prediction for them could be judged.

    Args:
        data: All rows.
        seed: Seed of the draw.

    Returns:
        Training and validation data, rows in their given order. A class of at least two rows has at least one in
        both.

    Raises:
        DataError: If there are less than two rows.
    """
    rows = data.rows
    if rows < 2:
        raise DataError("train_data has one row: there is nothing to hold back; give validation_data")
    order = np.random.default_rng(seed).permutation(rows)
    good = finite_rows(data)
    order = order[np.isin(order, good)] if 1 < len(good) < rows else order
    labels = _labels(data.targets)
    held = np.zeros(rows, bool)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
        _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    held[order[min(_EVERY // 2, len(order) - 1) :: _EVERY]] = True
    if labels is not None:
        for begin, count in zip(first, counts, strict=True):
            members = order[begin : begin + count]
            if count > 1 and not held[members].any():
                held[members[0]] = True
    return data.take(np.flatnonzero(~held)), data.take(np.flatnonzero(held))


def _labels(targets: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return the class of each row as an index, or None where the targets are no classes."""
    summary = DataSummary()
    summary.add_targets(targets)
    seen = summary.targets
    if seen.one_hot and targets.ndim == 2:
        columns: NDArray[np.int64] = np.argmax(targets, axis=1)
        return columns
    if (
        targets.size != len(targets)
        or not seen.integral
        or not 2 <= seen.classes <= max(2, _MAX_CLASS_SHARE * len(targets))
    ):
        return None
    labels: NDArray[np.int64] = np.unique(targets.reshape(-1), return_inverse=True)[1]
    return labels.reshape(-1)
