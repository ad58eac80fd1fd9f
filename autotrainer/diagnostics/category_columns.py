"""Columns of a table that number categories: simple models take them as such, and as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.data import ArrayData, arrays_of

__all__ = ["category_columns", "with_categories"]

_FEWEST, _MOST = 3, 100
"""Fewest and most categories: two are a number, too."""
_ROWS = 5
"""Fewest rows of a category, on average."""
_COLUMNS, _WIDTH = 8, 64
"""Most such columns, and most columns of a table that may have them: more are counts, or pixels."""


def category_columns(data: ArrayData) -> dict[int, NDArray[np.float64]]:
    """Return the columns of whole numbers that may be categories, and these numbers; nothing if there are many."""
    arrays = list(arrays_of(data.inputs))
    if len(arrays) != 1 or arrays[0].ndim != 2 or arrays[0].dtype.kind not in "iuf" or arrays[0].shape[1] > _WIDTH:
        return {}
    found = {}
    for column, values in enumerate(arrays[0].T):
        levels = np.unique(values)
        whole = bool(np.isfinite(levels).all() and (levels == np.round(levels)).all())
        if whole and _FEWEST <= len(levels) <= min(_MOST, len(values) // _ROWS):
            found[column] = levels.astype(np.float64)
    return found if len(found) <= _COLUMNS else {}


def with_categories(data: ArrayData, columns: dict[int, NDArray[np.float64]]) -> ArrayData:
    """Return data whose inputs also have an indicator of each category."""
    table = next(iter(arrays_of(data.inputs)))
    indicators = [table[:, [column]] == levels for column, levels in columns.items()]
    return ArrayData(np.concatenate([table, *indicators], axis=1).astype(np.float64), data.targets, data.weights)
