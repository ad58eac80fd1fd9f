"""The mean loss of a validation pass, without waiting for the device while it runs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ValidationPass"]

_KEPT = 256


class ValidationPass:
    """Running mean of losses, weighted by the rows of their batches.

    Args:
        weighted: False where a loss is a sum over its batch: all batches then count the same.
    """

    def __init__(self, weighted: bool = True) -> None:
        self._weighted = weighted
        self._total: Tensor | None = None
        self._rows = 0
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._losses) or self._total is not None

    def add(self, loss: Tensor, rows: int) -> None:
        """Take in the loss of a batch; a loss that is no scalar counts by its mean."""
        self._losses.append(loss.detach() if not loss.ndim else loss.detach().mean())
        self._sizes.append(max(rows, 1) if self._weighted else 1)
        if len(self._losses) >= _KEPT:
            self._fold()

    def drop_last(self, count: int) -> None:
        """Forget the last batches, as far as they are still known apart."""
        kept = max(0, len(self._losses) - count)
        del self._losses[kept:], self._sizes[kept:]

    def clear(self) -> None:
        """Forget all."""
        self._total, self._rows, self._losses, self._sizes = None, 0, [], []

    def _fold(self) -> None:
        losses = torch.stack([loss.float() for loss in self._losses])
        total = torch.dot(losses, torch.tensor(self._sizes, dtype=losses.dtype).to(losses.device))
        self._total = total if self._total is None else self._total + total
        self._rows += sum(self._sizes)
        self._losses, self._sizes = [], []

    def take(self) -> float:
        """Return the mean and start anew; NaN where there was nothing. This waits for the device."""
        if self._losses:
            self._fold()
        mean = float("nan") if self._total is None else float(self._total) / self._rows
        self.clear()
        return mean
