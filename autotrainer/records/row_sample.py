"""A random sample of the distinct rows that a training was measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.records.data import ArrayData

__all__ = ["RowSample"]

_MAX_ROWS, _MAX_BYTES = 750, 4_000_000
_MIN_ROWS = 20
"""Rows that must fit into the memory; with fewer, nothing can be learned from them."""

_Hashes = NDArray[np.uint64]


class RowSample:
    """Keeps the distinct rows whose inputs have the smallest hashes: a uniform sample, in random order.

    It depends neither on the order of the rows nor on how often they recur, and needs no random numbers (bottom-k
    sketch: Cohen and Kaplan, Summarizing Data Using Bottom-k Sketches, PODC 2007). At most 750 rows and 4 MB.
    """

    def __init__(self) -> None:
        self._inputs: NDArray[Any] | None = None
        self._targets: NDArray[Any] = np.zeros(0)
        self._hashes: _Hashes = np.zeros(0, np.uint64)
        self._weights: _Hashes = np.zeros(0, np.uint64)
        self._capacity = 0

    @property
    def rows(self) -> ArrayData | None:
        """The sampled rows, in random order; None if there are none."""
        return None if self._inputs is None or not self._capacity else ArrayData(self._inputs, self._targets)

    def add(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Add rows of a batch; a batch of another form than the first one is ignored.

        Args:
            inputs: Shape (rows, ...).
            targets: Shape (rows, ...).
        """
        inputs, targets = np.ascontiguousarray(inputs), np.asarray(targets)
        if len(inputs) != len(targets) or not inputs.size or not targets.size or inputs.dtype.kind not in "biuf":
            return
        if self._inputs is None:
            self._begin(inputs, targets)
        assert self._inputs is not None
        same = all(
            new.shape[1:] == kept.shape[1:] and new.dtype == kept.dtype
            for new, kept in ((inputs, self._inputs), (targets, self._targets))
        )
        if not self._capacity or not same:
            return
        hashes = self._hash(inputs)
        if len(self._hashes) == self._capacity:
            smaller = hashes < self._hashes[-1]
            inputs, targets, hashes = inputs[smaller], targets[smaller], hashes[smaller]
        if not len(hashes):
            return
        joined, first = np.unique(np.concatenate([self._hashes, hashes]), return_index=True)
        kept = first[: self._capacity]
        self._hashes = joined[: self._capacity]
        self._inputs = np.concatenate([self._inputs, inputs])[kept]
        self._targets = np.concatenate([self._targets, targets])[kept]

    def _begin(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        capacity = min(_MAX_ROWS, _MAX_BYTES // (inputs[0].nbytes + targets[0].nbytes))
        self._capacity = capacity if capacity >= _MIN_ROWS else 0
        self._inputs, self._targets = inputs[:0].copy(), targets[:0].copy()
        words = -(-inputs[0].nbytes // 8)
        self._weights = np.random.default_rng(0).integers(0, 1 << 63, words, np.uint64) * np.uint64(2) + np.uint64(1)

    def _hash(self, inputs: NDArray[Any]) -> _Hashes:
        """Return a hash of each row: a sum of its words with random odd weights, mixed (Steele et al., OOPSLA 2014)."""
        content = inputs.reshape(len(inputs), -1).view(np.uint8)
        words = np.zeros((len(inputs), 8 * len(self._weights)), np.uint8)
        words[:, : content.shape[1]] = content
        mixed: _Hashes = (words.view(np.uint64) * self._weights).sum(axis=1, dtype=np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return mixed ^ (mixed >> np.uint64(31))
