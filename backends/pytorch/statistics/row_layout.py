"""Whether a layer that takes time first gets the rows of the batch there, or a mixture of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RowLayout"]

_LAYERS = (nn.RNNBase, nn.MultiheadAttention)

_SAME = 1e-3
"""Difference of sums, relative to the largest of them, up to which they are equal: rounding in single precision."""


class RowLayout:
    """Compares the input of recurrent layers and of attention with that of the model, in each forward pass.

    Attributes:
        facts: ``mixed_rows`` and ``mixed_rows_layer``, once rows are out of place.
    """

    def __init__(self) -> None:
        self.facts: dict[str, float] = {}
        self._inputs: Tensor | None = None
        self._as_time: tuple[int, Tensor] | None = None

    def begin(self, inputs: Tensor | None) -> None:
        """Begin a forward pass of the model with these inputs, of which the first axis is that of the rows."""
        self._inputs, self._as_time = inputs if inputs is not None and inputs.ndim else None, None

    def see(self, row: int, module: nn.Module, given: object) -> None:
        """Take the input of a layer of a row of the layer table."""
        if self.facts or self._inputs is None or not isinstance(module, _LAYERS) or module.batch_first:
            return
        if not isinstance(given, Tensor) or given.ndim != 3 or given.shape[1] < 2:
            return
        time, rows, _ = given.shape
        if time == len(self._inputs) != rows:
            self._as_time = self._as_time or (row, given)
        elif rows == len(self._inputs) and given.numel() == self._inputs.numel() and _mixed(self._inputs, given):
            self.facts = {"mixed_rows": 2.0, "mixed_rows_layer": float(row)}

    def end(self, outputs: Tensor | None) -> None:
        """End the pass: the first axis is one of rows if there is one prediction for each of them."""
        if self._as_time is not None and outputs is not None and 0 < outputs.ndim < 3:
            row, given = self._as_time
            if len(outputs) == len(given) and outputs.shape[-1] != given.shape[1]:
                self.facts = {"mixed_rows": 1.0, "mixed_rows_layer": float(row)}
        self._inputs = self._as_time = None


def _mixed(inputs: Tensor, given: Tensor) -> bool:
    """Return whether values, (time, rows, features), are those of the inputs, (rows, …), but in other rows."""
    sums = inputs.detach().flatten(1).double().sum(1)
    others = given.detach().double().sum((0, 2))
    size = torch.maximum(sums.abs().max(), others.abs().max())
    same_values = (sums.sum() - others.sum()).abs() <= _SAME * size
    same_squares = torch.isclose(inputs.detach().double().norm(), given.detach().double().norm(), rtol=1e-4)
    apart = (sums - others).abs().max() > 10 * _SAME * size
    return bool(same_values & same_squares & apart)
