"""The tables of a history: rows by step or by epoch, bounded however long the run."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.schema import PackedArray, RecordError, pack, unpack
from autotrainer.records.signals import Floats

__all__ = ["EpochTable", "Table", "TableState"]

_EPOCHS = 1024
"""Epochs of which each has a row; of more, 512 to 1024 do."""
_STORED_EPOCHS = 4096
"""Most rows of a stored table of epochs: earlier versions kept so many."""


@dataclass(frozen=True, slots=True)
class TableState:
    """A stored table: what its `to_dict` returns, rebuilt."""

    keys: PackedArray
    rows: PackedArray


class Table:
    """Rows in arrival order; when full, half of the older half is dropped, so that the rest is spread over its steps.

    The newer half stays complete, so that windows of recent rows contain every sample.
    """

    def __init__(self, width: tuple[int, ...], capacity: int) -> None:
        self._keys: NDArray[np.int64] = np.zeros((capacity, 2), np.int64)
        self._rows: Floats = np.empty((capacity, *width))  # takes memory only as rows are added
        self._count = 0

    def add(self, key: tuple[int, int], row: Floats) -> bool:
        """Add a row, and return whether it is there for more than the next one to replace it: always, here."""
        if self._count == len(self._rows):
            half = self._count // 2
            older = self._keys[:half, 0]
            even = np.unique(np.searchsorted(older, np.linspace(older[0], older[-1], half // 2)))
            keep = np.concatenate([even, np.arange(half, self._count)])
            self._keys[: len(keep)], self._rows[: len(keep)] = self._keys[keep], self._rows[keep]
            self._count = len(keep)
        self._keys[self._count], self._rows[self._count] = key, row
        self._count += 1
        return True

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Return a copy that holds some of the rows only."""
        part = copy(self)
        part._keys, part._rows = np.zeros_like(self._keys), np.empty_like(self._rows)
        part._count = int(mask.sum())
        part._keys[: part._count], part._rows[: part._count] = self.keys[mask], self.rows[mask]
        return part

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values for JSON; see `fill`."""
        return {"keys": pack(self.keys), "rows": pack(self.rows)}

    def fill(self, state: TableState, columns: tuple[Sequence[str], Sequence[str]] = ((), ())) -> Self:
        """Take the rows of a table that is as large at most; ``columns`` are the names of its columns and of these."""
        count, (names, present) = state.keys.shape[0] if state.keys.shape else -1, columns
        if not 0 <= count <= len(self._rows):
            raise RecordError(f"at most {len(self._rows)} rows expected, not {count}")
        width = (*self._rows.shape[1:-1], len(names)) if present else self._rows.shape[1:]
        self._keys[:count] = unpack(state.keys, np.int64, (count, 2))
        rows = unpack(state.rows, np.float64, (count, *width))
        if tuple(names) == tuple(present):
            self._rows[:count] = rows
        else:  # of another version
            self._rows[:count] = np.nan
            for column, name in enumerate(present):
                if name in names:
                    self._rows[:count, ..., column] = rows[..., list(names).index(name)]
        self._count = count
        return self

    @property
    def keys(self) -> NDArray[np.int64]:
        """Step or epoch of each row and a second number, shape (rows, 2)."""
        return self._keys[: self._count]

    @property
    def rows(self) -> Floats:
        """The rows, shape (rows, ...)."""
        return self._rows[: self._count]

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return self._keys.nbytes + self._rows.nbytes


class EpochTable(Table):
    """A value of epochs, evenly spread over the run: of each epoch at first, then of epochs that are some epochs apart.

    The latest epoch always has a row, which is temporary if it comes too early: the next epoch replaces it. Temporary
    rows have no influence on which others are kept, so that a log need not hold them.
    """

    def __init__(self) -> None:
        super().__init__((), _EPOCHS + 1)
        self._gap, self._temporary = 1, 0  # least distance of epochs, and number of temporary rows

    @property
    def next_kept(self) -> int:
        """The next epoch whose row is kept."""
        kept = self._count - self._temporary
        return int(self._keys[kept - 1, 0]) + self._gap if kept else 0

    def drop_temporary(self) -> None:
        """Drop the row of the latest epoch if it is temporary."""
        self._count, self._temporary = self._count - self._temporary, 0

    def add(self, key: tuple[int, int], row: Floats) -> bool:
        """Add the value of an epoch, and return whether it is kept when the next epoch has ended."""
        self.drop_temporary()
        kept = key[0] >= self.next_kept
        super().add(key, row)
        self._temporary = int(not kept)
        if kept and self._count == len(self._rows):
            self._thin()
        return kept

    def _thin(self) -> None:
        """Double the distance until half of the rows are left; the latest, if it is dropped, becomes temporary."""
        epochs, latest = self.keys[:, 0].tolist(), self._count - 1
        nearest = int(np.diff(epochs).min())
        rows = list(range(self._count))
        while len(rows) > 1 + _EPOCHS // 2:
            self._gap = 2 * max(self._gap, nearest)
            rows = [0]
            for row, epoch in enumerate(epochs):
                if epoch >= epochs[rows[-1]] + self._gap:
                    rows.append(row)
        self._temporary = int(rows[-1] != latest)
        rows += [latest] * self._temporary
        self._keys[: len(rows)], self._rows[: len(rows)] = self._keys[rows], self._rows[rows]
        self._count = len(rows)

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """Return a copy that holds some of the epochs only."""
        part = super().where(mask)
        part._temporary = int(self._temporary and mask[-1])
        return part

    def fill(self, state: TableState, columns: tuple[Sequence[str], Sequence[str]] = ((), ())) -> Self:
        """Take the rows of a stored table; of many, not all are kept."""
        stored = Table((), _STORED_EPOCHS).fill(state)
        for (epoch, step), value in zip(stored.keys.tolist(), stored.rows, strict=True):
            self.add((epoch, step), value)
        return self
