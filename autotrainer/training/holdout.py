"""The hold-out split: a part of the training data becomes validation data, if it has enough rows for that."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import DataError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, arrays_of, finite_rows

__all__ = ["can_hold_out", "hold_out"]

_STRIDE = 5
"""Every fifth row is held out: 20 %."""
_MIN_HELD = 5
"""Fewest held-out rows that can show anything: where one model is right and the other wrong on each of n rows, a paired
sign test has p = 2⁻ⁿ (McNemar 1947), which is below 5 % from n = 5 on. A fifth of 24 rows is less."""
_MAX_CLASS_SHARE = 0.1
"""Integer targets with more distinct values than a tenth of the rows are counts, ages or identifiers, not classes."""
_MAX_TABLE_COLUMNS = 16
"""Maximum columns of a truth table: with more, it has over 65,536 rows."""


def can_hold_out(data: ArrayData, *, indices: bool = False) -> bool:
    """Return whether rows can be held out without losing what the model is to learn from them.

    They can't if there would be fewer than five, the fewest that a test can decide on: of the only row of a class none
    is held out. Nor if the rows are a truth table, all combinations of two-valued inputs: no other input exists then,
    and a row that is held out can't be predicted from the others.

    Args:
        data: All rows.
        indices: Whether integer targets are known to be class indices.
    """
    labels = _labels(data.targets, indices=indices)
    spare = data.rows if labels is None else int(_has_company(labels).sum())
    return spare // _STRIDE >= _MIN_HELD and not _is_truth_table(data)


def hold_out(data: ArrayData, seed: int, *, indices: bool = False) -> tuple[ArrayData, ArrayData]:
    """Hold out 20 % of the rows, drawn at random and stratified by class.

    Rows with non-finite values stay in the training data, because a prediction for them can't be scored.

    Args:
        data: All rows.
        seed: Seed of the draw.
        indices: Whether integer targets are known to be class indices, however many there are.

    Returns:
        Training and validation data, rows in their original order. Each class has at least one row in the training
        data; with two rows or more also in the validation data, if there are ten rows a class on average.

    Raises:
        DataError: If there are fewer than two rows.
    """
    rows = data.rows
    if rows < 2:
        raise DataError("train_data has a single row, which can't be split: give validation_data")
    order = np.random.default_rng(seed).permutation(rows)
    finite = finite_rows(data)
    order = order[np.isin(order, finite)] if 1 < len(finite) < rows else order
    labels = _labels(data.targets, indices=indices)
    held = np.zeros(rows, bool)
    if labels is not None:
        shared = _has_company(labels)[order]
        order = order[shared] if shared.any() else order
        order = order[np.argsort(labels[order], kind="stable")]
        _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    held[order[min(_STRIDE // 2, len(order) - 1) :: _STRIDE]] = True
    if labels is not None:
        for begin, count in zip(first, counts, strict=True):
            members = order[begin : begin + count]
            if len(counts) <= _max_classes(rows) and count > 1 and not held[members].any():
                held[members[0]] = True
    return data.take(np.flatnonzero(~held)), data.take(np.flatnonzero(held))


def _max_classes(rows: int) -> float:
    return max(2.0, _MAX_CLASS_SHARE * rows)


def _labels(targets: NDArray[Any], *, indices: bool) -> NDArray[np.int64] | None:
    """Return the class index of each row, or None if the targets are not classes."""
    data = DataSummary()
    data.add_targets(targets)
    summary = data.targets
    if summary.one_hot and targets.ndim == 2:
        columns: NDArray[np.int64] = np.argmax(targets, axis=1)
        return columns
    is_label = targets.size == len(targets) and summary.integral
    classes = summary.classes >= 2 and (indices or summary.classes <= _max_classes(len(targets)))
    if not is_label or not classes:
        return None
    labels: NDArray[np.int64] = np.unique(targets.reshape(-1), return_inverse=True)[1]
    return labels.reshape(-1)


def _has_company(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each row whether another one has the same label."""
    _, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shared: NDArray[np.bool_] = counts[index] > 1
    return shared


def _is_truth_table(data: ArrayData) -> bool:
    """Return whether the inputs are all combinations of two-valued columns, each less often than rows are held out."""
    flat = [array.reshape(data.rows, -1) for array in arrays_of(data.inputs)]
    if sum(part.shape[1] for part in flat) > _MAX_TABLE_COLUMNS:
        return False
    columns = [column for part in flat for column in part.T]
    values = [np.unique(column) for column in columns]
    varying = [column for column, distinct in zip(columns, values, strict=True) if len(distinct) > 1]
    if not varying or any(len(distinct) > 2 for distinct in values):
        return False
    patterns = 2 ** len(varying)
    if not patterns <= data.rows < _STRIDE * patterns:
        return False
    return bool(len(np.unique(np.stack(varying, axis=1), axis=0)) == patterns)
