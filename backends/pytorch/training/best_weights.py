"""The weights of the best epoch so far, kept on the host."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
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
            self._weights = _weights_of(model)
        else:
            self._waited += 1

    def restore(self, model: nn.Module) -> None:
        """Give the best weights to the model."""
        if self._weights is not None:
            model.load_state_dict(self._weights)

    @contextmanager
    def restored(self, model: nn.Module) -> Iterator[None]:
        """Give the best weights to the model for a while."""
        present = None if self._weights is None else _weights_of(model)
        self.restore(model)
        yield
        if present is not None:
            model.load_state_dict(present)


def _weights_of(model: nn.Module) -> dict[str, Any]:
    return {k: v.to("cpu", copy=True) if isinstance(v, Tensor) else v for k, v in model.state_dict().items()}
