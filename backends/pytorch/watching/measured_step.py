"""What a process has measured of a sampled step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autotrainer.backends.pytorch.statistics.layer_table import MeasuredTable
from autotrainer.backends.pytorch.statistics.row_sums import RowSums, Summands
from autotrainer.records.signals import Floats, Observation

__all__ = ["MeasuredStep"]


class MeasuredStep:
    """The measurements of a step by this process, which those of other processes may complete.

    Args:
        observation: The observation, without the layer table.
        table: The layer table.
        summands: Gradients that are sums over processes.
    """

    def __init__(self, observation: Observation, table: MeasuredTable, summands: Summands) -> None:
        self.observation, self._table, self._summands = observation, table, summands
        self._parameters, self._entries = summands.parameters, summands.values

    @property
    def sums(self) -> RowSums:
        """Sums over the parameters, by row of the layer table, as far as this process has them."""
        return self._table.sums

    @property
    def weights(self) -> Floats:
        """Norms of the weights that this process holds, by row of the layer table; NaN where there are none."""
        return self.sums.norms("weight")

    @property
    def gradients(self) -> Floats:
        """Norms of the gradients that this process holds, by row of the layer table; NaN where there are none."""
        return self.sums.norms("gradient")

    @property
    def activations(self) -> Floats:
        """The layer table, as far as activations are concerned; its rows are in no particular order."""
        return self._table.table

    @property
    def parts(self) -> Floats:
        """What is added up over processes that hold parts of the model: a vector of constant length."""
        return np.concatenate([self.sums.values.ravel(), self._entries])

    def add_up(self, parts: Floats | None) -> None:
        """Take the sum of `parts` over all processes for this process' own; None: it is not known."""
        sums = self.sums
        if parts is None:
            sums.values[:] = 0.0
            return
        sums.values = parts[: sums.values.size].reshape(sums.values.shape)
        self._summands.add_to(sums, self._parameters, parts[sums.values.size :])

    def complete(self) -> Observation:
        """Return the observation, with the layer table."""
        return replace(self.observation, layers=self._table.complete())
