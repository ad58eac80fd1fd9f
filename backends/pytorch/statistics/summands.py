"""Gradients that are sums over processes, which each process has a summand of: entries of them are added up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.ranks.shards import Shards, is_copied, is_summand, local_part
from autotrainer.backends.pytorch.statistics.host_transfer import Results
from autotrainer.backends.pytorch.statistics.row_sums import RowSums
from autotrainer.backends.pytorch.statistics.stats import sampled_entries
from autotrainer.records.signals import Floats

__all__ = ["Summands"]

_MOST, _MOST_OF_ONE = 65536, 4096
"""Entries in all, and of one parameter, that are added up: all of those of most vectors."""


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
