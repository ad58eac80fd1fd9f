"""The weights of the best epoch so far, kept on the host."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

__all__ = ["BestWeights"]


class BestWeights:
    """Keeps the weights of the lowest validation loss on the host; does nothing without a patience.

    Args:
        patience: Epochs to wait for a lower one, or None.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._waited = 0
        self._loss = math.inf
        self._weights: dict[str, Any] | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the patience is at its end."""
        return self._patience is not None and self._waited >= self._patience

    def take(self, model: nn.Module, loss: float) -> None:
        """Take in the model at the end of an epoch."""
        if self._patience is None:
            return
        if loss < self._loss:
            self._loss, self._waited = loss, 0
            state = model.state_dict()
            self._weights = {k: v.to("cpu", copy=True) if isinstance(v, Tensor) else v for k, v in state.items()}
        else:
            self._waited += 1

    def restore(self, model: nn.Module) -> None:
        """Give the best weights to the model."""
        if self._weights is not None:
            model.load_state_dict(self._weights)
