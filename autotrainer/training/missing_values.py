"""Numbers that stand for missing values in a column of a table, such as -999: found by their distance from the others.

A number is taken for such a code if it is the smallest or the largest of its column, occurs in several rows exactly,
and lies far outside the other values. So heavy tails, whose extremes do not repeat, zeros beside counts, and readings
at the end of a sensor's range, which lie beside others, are none. A zero far from all other values, such as years, is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.data import ArrayData, arrays_of
from autotrainer.records.signals import Floats

__all__ = ["MissingCode", "missing_code_facts", "missing_codes"]

_ROWS, _VALUES = 20_000, 4_000_000
"""Maximum rows, and values, that are looked through, evenly spaced."""
_MIN_ROWS, _MIN_SHARE = 5, 0.002
"""Fewest rows, and smallest share of the rows, with the code: a single outlier is none."""
_OTHERS, _DISTINCT = 50, 10
"""Fewest rows with other values, and fewest distinct ones among these: few levels are categories."""
_MOST = 3
"""Maximum codes of a column."""
_APART, _FAR = 1.0, 10.0
"""Distance from the nearest other value ÷ the range of all others: for numbers that are usual as codes, and for any."""
_NEGATIVE_APART = 1.0
"""The same distance ÷ the standard deviation of the others, for a negative code where all others are positive."""
_MOST_OTHERS = 0.7
"""Share of the rows with other values from which such a near code may stand for missing ones, rather than be a value of
its own."""
_TYPE_LIMITS = (2.0**15, 2.0**15 - 1, 2.0**16 - 1, 2.0**31, 2.0**31 - 1, 2.0**32 - 1, 2.0**63)


@dataclass(frozen=True, slots=True)
class MissingCode:
    """A number that stands for missing values.

    Attributes:
        column: Its column.
        value: The number.
        share: Share of the rows that hold it.
        low: Smallest of the other values.
        high: Largest of them.
    """

    column: int
    value: float
    share: float
    low: float
    high: float


def missing_codes(table: NDArray[Any]) -> list[MissingCode]:
    """Return the numbers that stand for missing values, column by column.

    Args:
        table: Numbers, shape (rows, columns); values that are not finite are left out.
    """
    table = table[:: max(1, -(-len(table) // _ROWS), -(-table.size // _VALUES))]
    if len(table) < _OTHERS + _MIN_ROWS:
        return []
    least = max(_MIN_ROWS, round(_MIN_SHARE * len(table)))
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(table)
        ends = np.where(finite, table, np.inf).min(axis=0), np.where(finite, table, -np.inf).max(axis=0)
        repeated = np.stack([(table == end).sum(axis=0) for end in ends]) >= least
        repeated &= np.isfinite(ends)  # not so in a column without any finite value
    found: list[MissingCode] = []
    for column in np.flatnonzero(repeated.any(axis=0)):
        values = np.asarray(table[:, column], np.float64)
        values = values[np.isfinite(values)]
        codes: list[tuple[float, float]] = []
        while len(codes) < _MOST and (code := _code(values, least)) is not None:
            codes.append((code, float((values == code).sum()) / len(table)))
            values = values[values != code]
        low, high = float(values.min()), float(values.max())
        found += [MissingCode(int(column), code, share, low, high) for code, share in codes]
    return found


def _code(values: Floats, least: int) -> float | None:
    """Return the smallest or the largest value if it stands for missing ones; None if neither does."""
    for code in (float(values.min()), float(values.max())) if len(values) else ():
        others = values[values != code]
        if len(values) - len(others) < least or len(others) < _OTHERS or len(np.unique(others[:1000])) < _DISTINCT:
            continue
        gap = float(np.abs(others - code).min())
        extent = float(np.ptp(others))
        lone = code < 0 <= float(others.min()) and _is_usual(code) and gap >= _NEGATIVE_APART * float(others.std())
        lone = lone and len(others) > _MOST_OTHERS * len(values)
        if lone or gap >= (_APART if _is_usual(code) else _FAR) * extent:
            return code
    return None


def _is_usual(code: float) -> bool:
    """Return whether a number is usual as a code: -1, only nines, a limit of a type, or too large to be measured."""
    size = abs(code)
    nines = size == np.round(size) and size < 1e15 and set(f"{size:.0f}") == {"9"}
    decimal = size >= 1e3 and np.isclose(np.log10(size), np.round(np.log10(size)), rtol=0, atol=1e-6)
    return bool(code == -1 or nines or decimal or size in _TYPE_LIMITS or size >= 1e15)


def missing_code_facts(data: ArrayData) -> dict[str, float]:
    """Return facts of `FACTS` about the code that stands for most of the missing values; nothing without one."""
    arrays = list(arrays_of(data.inputs))
    if len(arrays) != 1 or arrays[0].ndim != 2 or arrays[0].dtype.kind != "f":
        return {}
    codes = missing_codes(arrays[0])
    if not codes:
        return {}
    most = max(codes, key=lambda code: code.share)
    return {
        "missing_code": most.value,
        "missing_code_column": float(most.column),
        "missing_code_share": most.share,
        "missing_code_low": most.low,
        "missing_code_high": most.high,
        "missing_code_columns": float(len({code.column for code in codes})),
    }
