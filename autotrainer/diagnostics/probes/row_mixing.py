"""Probe: does another row of the batch change the output of this row?"""

from __future__ import annotations

import numpy as np

from autotrainer.diagnostics.probes.calls import (
    Calls,
    Fields,
    NotComparableError,
    UnknownLayoutError,
    row_wise,
    take_rows,
)
from autotrainer.records.signals import Floats

__all__ = ["probe_row_mixing"]


def probe_row_mixing(calls: Calls, fields: Fields) -> dict[str, float]:
    """Replace the first row of a batch by another one, and compare the outputs of all other rows.

    A softmax, a mean or a reshape over the batch axis mixes rows. So does batch normalization that uses the statistics
    of the batch in evaluation mode: the probe is repeated without it, to tell the two apart. Another order of the rows
    tells a batch that is taken for a set (attention, a mean or a softmax over its rows, which may be meant) from axes
    that are exchanged. A model whose outputs are compared with each other, of shape (rows, rows), is left out: there
    the rows belong together. So do those that an input relates to each other: an adjacency matrix, a list of edges.

    Args:
        calls: Calls the model.
        fields: At least three rows.

    Returns:
        ``row_effect``, ``row_noise`` and, if there is an effect, ``row_effect_without_norm`` and ``row_order_effect``:
        see `FACTS`; nothing if outputs have no axis of rows.

    Raises:
        UnknownLayoutError: If the first axis of the inputs may be that of time.
    """
    arrays = row_wise(fields)
    rows = len(next(iter(arrays.values())))
    source = _different_row(fields)
    if rows < 3 or source is None:
        return {}
    order = np.r_[source, 1:rows]
    effect = _effect(calls, fields, take_rows(fields, order))
    if effect is None:
        return {}
    row_effect, noise = effect
    if noise >= 1:  # the outputs do not depend on the inputs at all, as a weight is still zero
        with calls.model.perturbed() as moved:
            effect = _effect(calls, fields, take_rows(fields, order)) if moved else effect
        row_effect, noise = effect or (row_effect, noise)
    if row_effect > noise and not calls.model.rows_first:
        raise UnknownLayoutError
    facts = {"row_effect": row_effect, "row_noise": noise}
    if row_effect > noise:
        if _relates_rows(calls.model.fields) or _compares_rows(calls, fields, rows):
            return {}
        with calls.model.without_normalization():
            without = _effect(calls, fields, take_rows(fields, order))
            ordered = _order_effect(calls, fields)
        facts["row_effect_without_norm"] = 0.0 if without is None or without[0] <= without[1] else without[0]
        if ordered is not None:
            facts["row_order_effect"] = ordered if ordered > noise else 0.0
    return facts


def _order_effect(calls: Calls, fields: Fields) -> float | None:
    """Return the change of the outputs of rows in reverse order, ÷ the differences of outputs between rows."""
    rows = len(next(iter(row_wise(fields).values())))
    before, after = calls(fields), calls(take_rows(fields, np.arange(rows)[::-1]))
    axis = _row_axis(before, rows)
    if axis is None or before.shape != after.shape:
        return None
    first, second = np.moveaxis(before, axis, 0), np.moveaxis(after, axis, 0)[::-1]
    unit = float(np.abs(first - first.mean(axis=0)).max())
    change = float(np.abs(second - first).max())
    return change / unit if unit > calls.rounding(before) and change > calls.rounding(before) else 0.0


def _effect(calls: Calls, fields: Fields, changed: Fields) -> tuple[float, float] | None:
    """Return the change of the other rows and its rounding error, each ÷ the change of the first row."""
    rows = len(next(iter(row_wise(fields).values())))
    before, after = calls(fields), calls(changed)
    axis = _row_axis(before, rows)
    if axis is None or before.shape != after.shape:
        return None
    change = np.moveaxis(np.abs(after - before), axis, 0)
    own, others = float(change[0].max()), float(change[1:].max())
    rounding = calls.rounding(before)
    unit = max(own, rounding) or 1.0
    return others / unit, min(1.0, rounding / unit) if own > rounding else 1.0


def _row_axis(output: Floats, rows: int) -> int | None:
    if len(output) == rows:
        return 0
    return 1 if output.ndim > 2 and output.shape[1] == rows else None


def _different_row(fields: Fields) -> int | None:
    """Return the index of a row that differs from the first one; None if all are the same."""
    arrays = row_wise(fields).values()
    rows = len(next(iter(arrays)))
    differing = (row for row in range(1, rows) if any((array[row] != array[0]).any() for array in arrays))
    return next(differing, None)


def _relates_rows(fields: Fields) -> bool:
    """Return whether an input relates rows to each other: an adjacency matrix, or pairs of their indices."""
    arrays = row_wise(fields)
    rows = len(next(iter(arrays.values())))
    if any(array.shape == (rows, rows) for array in arrays.values()) and len(arrays) > 1:
        return True
    others = (array for name, array in fields.items() if name not in arrays)
    return any(
        array.ndim == 2 and array.dtype.kind in "iu" and 2 in array.shape and array.min() >= 0 and array.max() < rows
        for array in others
        if array.size
    )


def _compares_rows(calls: Calls, fields: Fields, rows: int) -> bool:
    """Return whether the output has one column for each row."""
    if calls(fields).shape != (rows, rows):
        return False
    try:
        fewer = calls(take_rows(fields, np.arange(rows - 1)))
    except NotComparableError:
        return False
    return fewer.shape == (rows - 1, rows - 1)
