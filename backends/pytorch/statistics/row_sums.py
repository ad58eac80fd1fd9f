"""Sums over the entries of each layer's parameters: they add up over parameters, optimizers and processes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.signals import LAYER_COLUMNS, PARTS, Floats

__all__ = ["RowSums"]

_GROUPS = ("weight", "matrix", "bias", "before", "gradient", "matrix_gradient", "moment")
_PARTS = tuple(f"{part}_{what}" for what in ("rms", "grad_rms") for part in PARTS)
_INDEX = {name: 2 * i for i, name in enumerate((*_GROUPS, *_PARTS))}
"""Each group has two columns: a sum of squares, and the number of entries."""
_CHANGE = 2 * len(_INDEX)
_NONZERO = _CHANGE + 1

_NORMS = (("weight", "weight_norm"), ("gradient", "grad_norm"))
_MEANS = (
    ("matrix", "weight_rms"),
    ("bias", "bias_rms"),
    ("matrix_gradient", "weight_grad_rms"),
    ("moment", "second_moment_ratio"),
    *((part, part) for part in _PARTS),
)


class RowSums:
    """Sums of squares and numbers of entries of a step, by row of the layer table.

    Args:
        rows: Number of rows.

    Attributes:
        values: Shape (rows, columns): they may be replaced by their sum over all processes.
    """

    def __init__(self, rows: int) -> None:
        self.values: Floats = np.zeros((rows, _NONZERO + 1))

    def add(self, group: str, rows: NDArray[np.int64], norms: Floats, entries: Floats, factors: Floats) -> None:
        """Add norms of tensors.

        Args:
            group: What they are norms of.
            rows: Shape (tensors,): their rows.
            norms: Shape (tensors,): L2 norms; what is not finite makes the sum infinite.
            entries: Shape (tensors,): their numbers of entries.
            factors: Shape (tensors,): what both are multiplied by.
        """
        self._add(_INDEX[group], rows, _squares(norms) * factors)
        self._add(_INDEX[group] + 1, rows, entries * factors)

    def add_change(self, rows: NDArray[np.int64], norms: Floats, factors: Floats) -> None:
        """Add norms of the changes of what ``before`` holds."""
        self._add(_CHANGE, rows, _squares(norms) * factors)

    def add_nonzero(self, rows: NDArray[np.int64], counts: Floats, factors: Floats) -> None:
        """Add numbers of entries of gradients that are not zero."""
        self._add(_NONZERO, rows, counts * factors)

    def norms(self, group: str) -> Floats:
        """Return the norm of each row; NaN where there are no entries."""
        squares, entries = self.values[:, _INDEX[group]], self.values[:, _INDEX[group] + 1]
        return np.where(entries > 0, np.sqrt(squares), np.nan)

    def write(self, table: Floats) -> None:
        """Write what follows from the sums into the layer table, where there are entries.

        Args:
            table: Shape (rows, layer columns); changed.
        """
        with np.errstate(all="ignore"):
            for group, column in _NORMS:
                self._set(table, column, self.norms(group))
            for group, column in _MEANS:
                self._set(table, column, self.norms(group) / np.sqrt(self.values[:, _INDEX[group] + 1]))
            before, change = self.norms("before"), np.sqrt(self.values[:, _CHANGE])
            self._set(
                table, "update_ratio", np.where(np.isinf(change), np.inf, change / np.where(before > 0, before, np.nan))
            )
            entries = self.values[:, _INDEX["gradient"] + 1]
            share = 1 - self.values[:, _NONZERO] / np.where(entries > 0, entries, np.nan)
            self._set(table, "grad_zero_fraction", np.where(np.abs(share) < 1e-12, 0.0, share))

    def _add(self, column: int, rows: NDArray[np.int64], values: Floats) -> None:
        self.values[:, column] += np.bincount(rows, values, len(self.values))

    @staticmethod
    def _set(table: Floats, name: str, values: Floats) -> None:
        known = ~np.isnan(values)
        table[known, LAYER_COLUMNS.index(name)] = values[known]


def _squares(norms: Floats) -> Floats:
    return np.where(np.isfinite(norms), norms, np.inf) ** 2
