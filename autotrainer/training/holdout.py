"""The hold-out split: a part of the training data becomes validation data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, finite_rows

__all__ = ["hold_out"]

_STRIDE = 5
"""Every fifth row is held out: 20 %."""
_MAX_CLASS_SHARE = 0.1
"""Integer targets with more distinct values than a tenth of the rows are counts, ages or identifiers, not classes."""


def hold_out(data: ArrayData, seed: int) -> tuple[ArrayData, ArrayData]:
    """Hold out 20 % of the rows, drawn at random and stratified by class.

    Rows with non-finite values stay in the training data, because a prediction for them can't be scored.

    Args:
        data: All rows.
        seed: Seed of the draw.

    Returns:
        Training and validation data, rows in their original order. A class of at least two rows has at least one row
        in both.

    Raises:
        DataError: If there are fewer than two rows.
    """
    rows = data.rows
    if rows < 2:
        raise DataError("train_data has a single row, which can't be split: give validation_data")
    order = np.random.default_rng(seed).permutation(rows)
    finite = finite_rows(data)
    order = order[np.isin(order, finite)] if 1 < len(finite) < rows else order
    labels = _labels(data.targets)
    held = np.zeros(rows, bool)
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
        _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    held[order[min(_STRIDE // 2, len(order) - 1) :: _STRIDE]] = True
    if labels is not None:
        for begin, count in zip(first, counts, strict=True):
            members = order[begin : begin + count]
            if count > 1 and not held[members].any():
                held[members[0]] = True
    return data.take(np.flatnonzero(~held)), data.take(np.flatnonzero(held))


def _labels(targets: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return the class index of each row, or None if the targets are not classes."""
    data = DataSummary()
    data.add_targets(targets)
    summary = data.targets
    if summary.one_hot and targets.ndim == 2:
        columns: NDArray[np.int64] = np.argmax(targets, axis=1)
        return columns
    is_label = targets.size == len(targets) and summary.integral
    if not is_label or not 2 <= summary.classes <= max(2, _MAX_CLASS_SHARE * len(targets)):
        return None
    labels: NDArray[np.int64] = np.unique(targets.reshape(-1), return_inverse=True)[1]
    return labels.reshape(-1)
