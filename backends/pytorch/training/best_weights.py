"""The weights of the best epoch so far, in host memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["BestWeights"]


class BestWeights:
    """Keeps the weights of the lowest validation loss in host memory; does nothing without a patience.

    Args:
        patience: Epochs to wait for a lower loss, or None.
    """

    def __init__(self, patience: int | None) -> None:
        self._patience = patience
        self._waited = 0
        self._loss = math.inf
        self._weights: dict[str, Any] | None = None

    @property
    def exhausted(self) -> bool:
        """Whether the patience is exhausted."""
        return self._patience is not None and self._waited >= self._patience

    def update(self, model: nn.Module, loss: float) -> None:
        """Keep the weights at the end of an epoch if its loss is the lowest."""
        if self._patience is None:
            return
        if loss < self._loss:
            self._loss, self._waited = loss, 0
            self._weights = _weights_of(model)
        else:
            self._waited += 1

    def restore(self, model: nn.Module) -> None:
        """Load the best weights into the model."""
        if self._weights is not None:
            model.load_state_dict(self._weights)

    @contextmanager
    def restored(self, model: nn.Module) -> Iterator[None]:
        """Load the best weights into the model, and restore the current ones at the end."""
        current = None if self._weights is None else _weights_of(model)
        self.restore(model)
        yield
        if current is not None:
            model.load_state_dict(current)


def _weights_of(model: nn.Module) -> dict[str, Any]:
    return {k: v.to("cpu", copy=True) if isinstance(v, Tensor) else v for k, v in model.state_dict().items()}
