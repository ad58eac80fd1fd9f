"""Sums over entries of parameters, and entries of gradients, that add up over parameters, optimizers and processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.ranks.shards import Shards, is_copied, is_summand, local_part
from autotrainer.backends.pytorch.statistics.host_transfer import Results
from autotrainer.backends.pytorch.statistics.stats import sampled_entries
from autotrainer.records.signals import LAYER_COLUMNS, PARTS, Floats

__all__ = ["RowSums", "Summands"]

_MOST, _MOST_OF_ONE = 65536, 4096
"""Entries in all, and of one parameter, that are added up: all of those of most vectors."""

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


class Summands:
    """Entries of the gradients of parameters that are whole in each process, where these are sums over processes.

    In tensor parallelism, these are the scales and biases of normalizations: vectors. Their norms can't be added up.

    Args:
        rows: Parameters with their rows of the layer table.
        shards: How they are spread over processes.
    """

    def __init__(self, rows: Mapping[nn.Parameter, int], shards: Shards) -> None:
        copied = [(p, row) for p, row in rows.items() if is_copied(p) and p.requires_grad]
        most = min(_MOST_OF_ONE, _MOST // max(1, len(copied)))
        self._shards = shards
        self._slots: dict[nn.Parameter, tuple[int, slice]] = {}
        self.size = 0
        """Number of entries."""
        for parameter, row in copied:
            stride = -(-parameter.numel() // most) if most else 0
            count = -(-parameter.numel() // stride) if stride else 0
            self._slots[parameter] = row, slice(self.size, self.size + count)
            self.size += count
        self.clear()

    def clear(self) -> None:
        """Drop the entries of the previous step."""
        self._entries: dict[nn.Parameter, Tensor] = {}
        self.values: Floats = np.zeros(self.size)

    def read(self, optimizer: Optimizer) -> None:
        """Copy entries of the gradients that an optimizer is about to use."""
        owned = parameter_ids(optimizer) if self._slots else ()
        for parameter, (_, slot) in self._slots.items():
            gradient = parameter.grad if id(parameter) in owned else None
            count = slot.stop - slot.start
            if gradient is not None and is_summand(gradient) and count:
                entries = sampled_entries([local_part(gradient)], [count])[0]
                if entries.numel() == count:
                    self._entries[parameter] = entries

    def results(self, peers: int | None) -> list[Results]:
        """Return the entries, which become ``values`` such that those of ``peers`` processes add up to the whole."""
        if peers is None:
            self._entries = {}
            return []
        return [
            Results("gradients", [entries], partial(self._write, parameter, peers))
            for parameter, entries in self._entries.items()
        ]

    def _write(self, parameter: nn.Parameter, peers: int, entries: Floats) -> None:
        if parameter.grad is not None:
            self.values[self._slots[parameter][1]] = entries * self._shards.summand_factor(parameter, peers)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters whose gradients in this step are such sums."""
        return tuple(self._entries)

    def add_to(self, sums: RowSums, parameters: Sequence[nn.Parameter], values: Floats) -> None:
        """Add what follows from the sums of the entries over processes.

        Args:
            sums: Sums over the other parameters; changed.
            parameters: What `parameters` was in that step.
            values: Shape (`size`,): the sums of the entries.
        """
        for parameter in parameters:
            row, slot = self._slots[parameter]
            entries = values[slot]
            size, share = float(parameter.numel()), parameter.numel() / len(entries)
            rows, ones = np.array([row]), np.ones(1)
            norm = np.sqrt([np.square(entries).sum() * share])
            for group in ("gradient", "matrix_gradient")[: 1 + (parameter.ndim > 1)]:
                sums.add(group, rows, norm, np.array([size]), ones)
            sums.add_nonzero(rows, np.array([np.count_nonzero(entries) * share]), ones)
