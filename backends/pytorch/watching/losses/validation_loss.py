"""The mean loss of a validation pass, without synchronizing with the device while it runs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ValidationLoss"]

_MOST_PENDING = 256
"""Losses that are kept one by one before they are added up."""


class ValidationLoss:
    """Running mean of losses, weighted by the rows of their batches.

    Args:
        weighted: False if each loss is a sum over its batch: all batches then count the same.
    """

    def __init__(self, weighted: bool = True) -> None:
        self._weighted = weighted
        self._total: Tensor | None = None
        self._rows = 0
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []
        self._complete = False

    @property
    def open(self) -> bool:
        """Whether there are losses of an evaluation that may still go on."""
        return bool(self) and not self._complete

    def __bool__(self) -> bool:
        return bool(self._losses) or self._total is not None

    def add(self, loss: Tensor, rows: int) -> None:
        """Add the loss of a batch; a loss that is not a scalar counts by its mean."""
        if self._complete:
            self.clear()
        self._losses.append(loss.detach() if not loss.ndim else loss.detach().mean())
        self._sizes.append(max(rows, 1) if self._weighted else 1)
        if len(self._losses) >= _MOST_PENDING:
            self._accumulate()

    def drop_last(self, count: int) -> None:
        """Drop the last batches, as far as they have not been added up."""
        remaining = max(0, len(self._losses) - count)
        del self._losses[remaining:], self._sizes[remaining:]

    def complete(self) -> None:
        """The evaluation has ended: the next loss belongs to another one, which replaces it."""
        self._complete = True

    def clear(self) -> None:
        """Drop all losses."""
        self._complete = False
        self._total, self._rows, self._losses, self._sizes = None, 0, [], []

    def _accumulate(self) -> None:
        losses = torch.stack([loss.float() for loss in self._losses])
        total = torch.dot(losses, torch.tensor(self._sizes, dtype=losses.dtype).to(losses.device))
        self._total = total if self._total is None else self._total + total
        self._rows += sum(self._sizes)
        self._losses, self._sizes = [], []

    def take(self) -> float:
        """Return the mean and reset; NaN if there were no losses. Synchronizes with the device."""
        if self._losses:
            self._accumulate()
        mean = float("nan") if self._total is None else float(self._total) / self._rows
        self.clear()
        return mean
