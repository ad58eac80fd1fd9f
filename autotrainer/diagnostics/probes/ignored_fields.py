"""Probe: is there an input that no output depends on?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import TARGET_NAMES, ProbedModel
from autotrainer.diagnostics.probes.calls import Calls, Fields, largest_change, replaced, row_wise, take_rows

__all__ = ["probe_ignored_fields", "testable_fields"]

_COLUMNS = 64
"""Maximum number of columns that are tested."""
_ROWS = 4
"""Rows of each test of a column."""


def testable_fields(model: ProbedModel) -> tuple[str, ...]:
    """Return the names of fields that a change can be tested of: those that differ between rows, and are no targets."""

    def is_targets(name: str, array: NDArray[Any]) -> bool:
        return name in TARGET_NAMES or (model.targets is not None and np.array_equal(array, model.targets))

    return tuple(
        name
        for name, array in row_wise(model.fields).items()
        if not is_targets(name, array) and array.dtype.kind in "fiub" and (array != array[:1]).any()
    )


def probe_ignored_fields(calls: Calls, fields: Fields) -> dict[str, float]:
    """Give each input field, and each column of a table, the values of other rows, and see whether any output changes.

    What changes nothing is no input of the model: it is not passed on, cut off by a slice, or multiplied by zero. Only
    exact equality counts, with the weights as they are and moved, since weights may start at zero. A column is also
    moved by the largest value of all columns, as one of tiny scale disappears in rounding. If all of them change
    nothing, the cause is elsewhere, and nothing is reported.

    Args:
        calls: Calls the model.
        fields: At least two rows.

    Returns:
        ``input_fields``, ``ignored_fields``, ``ignored_field`` for several fields; ``input_columns`` and so on for a
        single table: see `FACTS`.
    """
    names = testable_fields(calls.model)
    if len(names) > 1:
        return _test_fields(calls, fields, names)
    if len(names) == 1 and fields[names[0]].ndim == 2 and fields[names[0]].dtype.kind == "f" and not calls.model.embeds:
        return _test_columns(calls, fields, names[0])
    return {}


def _test_fields(calls: Calls, fields: Fields, names: tuple[str, ...]) -> dict[str, float]:
    def ignored(tested: tuple[str, ...]) -> list[str]:
        before = calls(fields)
        return [n for n in tested if not largest_change(before, calls(replaced(fields, n, _rolled(fields[n]))))]

    unused = ignored(names)
    if unused:
        with calls.model.perturbed() as moved:
            unused = ignored(tuple(unused)) if moved else []
    if len(unused) == len(names):
        return {}
    facts = {"input_fields": float(len(names)), "ignored_fields": float(len(unused))}
    if unused:
        facts["ignored_field"] = float(names.index(unused[0]))
    return facts


def _test_columns(calls: Calls, fields: Fields, name: str) -> dict[str, float]:
    table = fields[name]
    varying = np.flatnonzero((table != table[:1]).any(axis=0))
    columns = varying[:: max(1, -(-len(varying) // _COLUMNS))]
    if len(columns) < 2:
        return {}
    fields = take_rows(fields, np.arange(min(_ROWS, len(table))))
    table = fields[name]

    def ignored(tested: NDArray[np.int64], moved: NDArray[Any]) -> NDArray[np.int64]:
        """Return the columns whose values can be replaced by those of ``moved``; all of them in one call."""
        rows = len(table)
        before = calls(fields)
        if len(before) != rows:
            return tested[:0]
        repeated = np.tile(table, (len(tested), 1)).reshape(len(tested), rows, -1)
        repeated[np.arange(len(tested)), :, tested] = moved[:, tested].T
        batch = take_rows(fields, np.tile(np.arange(rows), len(tested)))
        after = calls(replaced(batch, name, repeated.reshape(len(tested) * rows, -1)))
        base = calls(batch)  # in a batch of the same size, so that rounding is the same
        same = (after == base).reshape(len(tested), -1).all(axis=1)
        unchanged: NDArray[np.int64] = tested[same]
        return unchanged

    step = np.abs(table).max() or 1.0
    unused = columns
    for moved in (_rolled(table), table + step):
        unused = ignored(unused, moved) if len(unused) else unused
    if len(unused):
        with calls.model.perturbed() as is_moved:
            unused = ignored(unused, table + step) if is_moved else unused[:0]
    if len(unused) == len(columns):
        return {}
    facts = {"input_columns": float(len(columns)), "ignored_columns": float(len(unused))}
    if len(unused):
        facts["ignored_column"] = float(unused[0])
    return facts


def _rolled(array: NDArray[Any]) -> NDArray[Any]:
    """Return the values of the next row that differs from the first one, for each row; the last row gets the first."""
    shift = next((row for row in range(1, len(array)) if (array[row] != array[0]).any()), 0)
    return np.roll(array, -shift, axis=0)
