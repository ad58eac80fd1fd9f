"""The first rows of a loader or stream, within limits of time and memory."""

from __future__ import annotations

from autotrainer.adapter.trainer import Trainer
from autotrainer.records.data import ArrayData, Data, arrays_of

__all__ = ["first_rows", "row_limit"]

_ROWS, _BYTES = 5000, 1 << 27
"""Maximum rows of a loader or stream that are read, and bytes of their inputs: about a second, unless rows are read
from a disk."""


def first_rows(trainer: Trainer, data: Data) -> ArrayData | None:
    """Return all rows of arrays, and as many rows of a loader or stream as may be read.

    Args:
        trainer: Reads them.
        data: The data.

    Returns:
        The rows; None if there are none, or they can't be read as arrays: see `Trainer.sample`.
    """
    if isinstance(data, ArrayData):
        return data
    limit = row_limit(trainer, data)
    return trainer.sample(data, limit) if limit else None


def row_limit(trainer: Trainer, data: Data, rows: int = _ROWS) -> int:
    """Return how many rows of a loader or stream may be read; for their size, the first batch is.

    Args:
        trainer: Reads it.
        data: The data.
        rows: Maximum number, >= 1; less if their inputs have more than 128 MiB.

    Returns:
        At least 1; 0 if there are no rows, or they can't be read as arrays.
    """
    one = trainer.sample(data, 1)
    if one is None or not one.rows:
        return 0
    size = sum(array.nbytes for array in arrays_of(one.inputs)) / one.rows
    return max(1, min(rows, int(_BYTES / max(size, 1.0))))
